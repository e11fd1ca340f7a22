//! Every answer, in every coding, cut at every byte: one reading; and short of its end never more than that.

use std::io::Write;

use super::bodies::all;
use super::recorded::{full, recorded};
use super::*;

/// What codes a body.
type Coder = fn(&[u8]) -> Vec<u8>;

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    encoder.write_all(body).unwrap();
    encoder.into_inner()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)
}

/// gzip in two members.
fn members(body: &[u8]) -> Vec<u8> {
    let (one, two) = body.split_at(body.len() / 2);
    [gzip(one), gzip(two)].concat()
}

/// Each coding, and the header that names it.
const CODINGS: [(&str, &str, Coder); 7] = [
    ("identity", "", <[u8]>::to_vec),
    ("gzip", "gzip", gzip),
    ("gzip in members", "gzip", members),
    ("zlib", "deflate", zlib),
    ("raw deflate", "deflate", deflate),
    ("brotli", "br", brotli),
    ("zstd", "zstd", zstd),
];

/// Reads `body` in two pieces.
fn in_two(api: Api, coding: Option<&str>, body: &[u8], cut: usize) -> Meter {
    let mut meter = Meter::new(api, None, coding);
    meter.feed(&body[..cut]);
    meter.feed(&body[cut..]);
    meter
}

#[test]
fn a_cut_at_any_byte_and_any_coding_give_the_same_reading() {
    for (name, api, body) in all() {
        let whole = parse(api, &body);
        assert!(whole.terminal && !whole.broken && whole.tokens.is_some(), "{name}: {whole:?}");
        for (coding, header, coder) in CODINGS {
            let coded = coder(&body);
            for cut in 0..=coded.len() {
                // The header is there, or it is missing.
                let said = (cut % 2 == 0).then_some(header);
                let mut meter = in_two(api, said, &coded, cut);
                assert!(meter.terminal(), "{name}, {coding}, {said:?}, cut at {cut}: final with the last byte");
                meter.finish();
                assert_eq!(meter.reading(), whole, "{name}, {coding}, {said:?}, cut at {cut}");
            }
        }
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same_reading() {
    for (name, api, body) in all() {
        let whole = parse(api, &body);
        for (coding, header, coder) in CODINGS {
            for said in [None, Some(header)] {
                let mut meter = Meter::new(api, None, said);
                coder(&body).iter().for_each(|byte| meter.feed(&[*byte]));
                meter.finish();
                assert_eq!(meter.reading(), whole, "{name}, {coding}, {said:?}");
            }
        }
    }
}

#[test]
fn an_answer_cut_short_at_any_byte_never_counts_more_than_the_whole_and_never_less_than_one_cut_before() {
    for (name, api, body) in all() {
        let whole = counted(&parse(api, &body));
        for (coding, header, coder) in CODINGS {
            let (coded, mut last) = (coder(&body), 0);
            for cut in 0..=coded.len() {
                let mut meter = Meter::new(api, None, Some(header));
                meter.feed(&coded[..cut]);
                meter.finish();
                let reading = meter.reading();
                assert!(!reading.broken, "{name}, {coding}, cut at {cut}: a short stream is not a broken one");
                let now = counted(&reading);
                assert!(last <= now && now <= whole, "{name}, {coding}, {cut}: {last} then {now}, {whole} in all");
                last = now;
            }
            assert_eq!(last, whole, "{name}, {coding}");
        }
    }
}

/// What of an answer counts, as far as it was read.
fn counted(reading: &Reading) -> u64 {
    let t = reading.tokens.unwrap_or_default();
    t.input + t.cache_read + t.cache_write + t.cache_write_long + t.output.max(reading.streamed)
}

/// Where a body of `length` is cut: everywhere in the long check, at some 200 places else, its first and last bytes among them.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let step = if full() { 1 } else { length / 200 + 1 };
    let ends = (0..=length.min(16)).chain(length.saturating_sub(16)..=length);
    let mut cuts: Vec<usize> = (0..=length).step_by(step).chain(ends).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.into_iter()
}

/// Runs `check` on each recorded answer in each coding, on as many threads as there are codings.
fn each_recorded(test: &str, check: impl Fn(&str, Api, &[u8], &(&str, &str, Coder)) + Sync) {
    let answers = recorded(test);
    std::thread::scope(|scope| {
        for coding in &CODINGS {
            let (answers, check) = (&answers, &check);
            scope.spawn(move || answers.iter().for_each(|(name, api, body, _)| check(name, *api, body, coding)));
        }
    });
}

#[test]
fn a_recorded_answer_is_read_the_same_in_every_coding_and_wherever_it_is_cut() {
    let test = "a_recorded_answer_is_read_the_same_in_every_coding_and_wherever_it_is_cut";
    each_recorded(test, |name, api, body, (coding, header, coder)| {
        let (whole, coded) = (parse(api, body), coder(body));
        for (at, cut) in cuts(coded.len()).enumerate() {
            // The header is there, or it is missing.
            let said = (at % 2 == 0).then_some(*header);
            let mut meter = in_two(api, said, &coded, cut);
            meter.finish();
            assert_eq!(meter.reading(), whole, "{name}, {coding}, {said:?}, cut at {cut}");
        }
        let mut meter = Meter::new(api, None, Some(header));
        coded.iter().for_each(|byte| meter.feed(std::slice::from_ref(byte)));
        meter.finish();
        assert_eq!(meter.reading(), whole, "{name}, {coding}, byte by byte");
    });
}

#[test]
fn a_recorded_answer_that_comes_short_never_counts_more_than_the_whole() {
    each_recorded("a_recorded_answer_that_comes_short_never_counts_more_than_the_whole", |name, api, body, one| {
        let (coding, header, coder) = one;
        let (whole, coded, mut last) = (counted(&parse(api, body)), coder(body), 0);
        for cut in cuts(coded.len()) {
            let mut meter = Meter::new(api, None, Some(header));
            meter.feed(&coded[..cut]);
            meter.finish();
            let now = counted(&meter.reading());
            assert!(last <= now && now <= whole, "{name}, {coding}, {cut}: {last} then {now}, {whole} in all");
            last = now;
        }
        assert_eq!(last, whole, "{name}, {coding}");
    });
}

#[test]
fn what_swells_beyond_all_answers_is_not_followed() {
    // 64 MiB of comments in one piece.
    let mut line = vec![b'x'; 1 << 20];
    (line[0], line[(1 << 20) - 1]) = (b':', b'\n');
    let bomb = line.repeat(64);
    for (coding, header, coder) in CODINGS.into_iter().filter(|(name, ..)| !matches!(*name, "identity" | "zstd")) {
        let coded = coder(&bomb);
        assert!(coded.len() < 1 << 20, "{coding}");
        let mut meter = Meter::new(Api::Anthropic, None, Some(header));
        meter.feed(&coded);
        let reading = meter.reading();
        assert!(reading.broken && reading.tokens.is_none(), "{coding}");
    }
}

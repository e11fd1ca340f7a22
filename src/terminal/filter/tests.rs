//! What passes the filter and what does not.

use proptest::prelude::*;

use super::*;

fn run(chunks: &[&[u8]]) -> (String, Vec<Question>) {
    let mut filter = Filter::default();
    let (mut passed, mut asked) = (Vec::new(), Vec::new());
    for chunk in chunks {
        for piece in filter.feed(chunk) {
            match piece {
                Piece::Pass(bytes) => passed.extend(bytes),
                Piece::Ask(question) => asked.push(question),
            }
        }
    }
    (String::from_utf8(passed).unwrap(), asked)
}

#[test]
fn what_a_program_draws_with_passes_as_it_came() {
    for text in [
        "plain\r\n\ttext \u{7}\u{8} grün € 🦀",
        "\x1b[2J\x1b[H\x1b[1;31mred\x1b[0m\x1b[38;2;1;2;3m\x1b[4:3m\x1b[10;20H\x1b[K\x1b[3;20r\x1b[5S\x1b[2T",
        "\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1000;1006h\x1b[?1004h\x1b[?2026h\x1b[?2026l",
        "\x1b7\x1b8\x1b(0lqk\x1b(B\x1bM\x1b=\x1b>\x1b[4h\x1b[4l\x1b[!p\x1b[2 q",
        "\x1b[>1u\x1b[=5;1u\x1b[<u\x1b[>4;2m",
        "\x1b]8;id=1;https://example.org/\x1b\\link\x1b]8;;\x1b\\",
        "\x1b]9;4;1;50\x1b\\",
    ] {
        assert_eq!(run(&[text.as_bytes()]), (text.to_owned(), vec![]), "{text:?}");
    }
}

#[test]
fn what_acts_on_the_person_or_their_machine_is_taken_out() {
    for text in [
        "\x1b]52;c;aGVsbG8=\x07",
        "\x1b]52;c;?\x1b\\",
        "\x1b]1337;File=name=eA==;inline=0:AAAA\x07",
        "\x1b]777;notify;a;b\x07",
        "\x1b]9;look here\x07",
        "\x1b]7;file:///etc\x07",
        "\x1b]4;1;rgb:ff/00/00\x07",
        "\x1b]11;#000000\x07",
        "\x1b_Gf=24,t=f;L2V0Yy9wYXNzd2Q=\x1b\\",
        "\x1b^pm\x1b\\",
        "\x1bXsos\x1b\\",
        "\x1bP1$r0m\x1b\\",
        "\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\\x1b\\",
        "\x1b[5i\x1b[4i",
        "\x1b[8;10;10t\x1b[21t\x1b[14t\x1b[3;0;0t",
        "\x1b[1;2;3;4;5;6*y\x1b[0x\x1b[2$w\x1b['|",
        "\x1b[2h\x1b[?2l\x1b[?3h\x1b[?1001h\x1b[?2048h",
        "\x1b[1;2;3;4;5T",
        "\x1b%@\x1b%G",
        "\x05\0\x7f",
        "\u{9b}\u{9d}\u{90}",
        "\x1b[?u\x1b[?4m\x1b[=c",
    ] {
        let (passed, asked) = run(&[text.as_bytes()]);
        assert_eq!(passed, "", "{text:?}");
        assert!(asked.is_empty(), "{text:?} asks {asked:?}");
        let (passed, _) = run(&[b"before", text.as_bytes(), b"after"]);
        assert!(passed.starts_with("before") && passed.ends_with("after"), "{text:?} became {passed:?}");
    }
    assert_eq!(run(&[b"\x9b5i\x90\xff"]).0, "\u{fffd}5i\u{fffd}\u{fffd}");
    assert_eq!(run(&[b"\x1b]8;;file:///x\x07y"]).0, "\x1b]8;;\x1b\\y");
    assert_eq!(run(&[b"\x1b[?1049;3;25h"]).0, "\x1b[?1049;25h");
}

#[test]
fn questions_are_reported_and_never_reach_the_terminal() {
    use Question::*;
    for (text, want) in [
        ("\x1b[c", Attributes),
        ("\x1bZ", Attributes),
        ("\x1b[>0c", Version),
        ("\x1b[>0q", Name),
        ("\x1b[5n", Status),
        ("\x1b[6n", Cursor(false)),
        ("\x1b[?6n", Cursor(true)),
        ("\x1b[18t", Size),
        ("\x1b[?2026$p", Mode(2026, true)),
        ("\x1b[4$p", Mode(4, false)),
        ("\x1b]11;?\x1b\\", Colour(11)),
        ("\x1b]10;?\x07", Colour(10)),
        ("\x1bP$qm\x1b\\", Setting),
        ("\x1bP+q544e\x1b\\", Capability),
    ] {
        assert_eq!(run(&[text.as_bytes()]), (String::new(), vec![want]), "{text:?}");
    }
    assert_eq!(run(&[b"\x1b]10;?;?\x07"]).1, [Colour(10), Colour(11)]);
}

#[test]
fn a_title_is_short_plain_and_given_back() {
    let (passed, _) = run(&[b"\x1b]0;agent: \xe2\x80\xaework\x07\x1b]2;", &[b'x'; 500], b"\x07"]);
    assert!(passed.starts_with("\x1b[22;0t\x1b]0;agent: work\x1b\\\x1b]2;xxx"), "{passed:?}");
    assert_eq!(passed.matches('x').count(), LONGEST_TITLE);
    assert_eq!(passed.matches("22;0t").count(), 1);
}

#[test]
fn what_is_held_is_bounded() {
    let mut filter = Filter::default();
    filter.feed(b"\x1b]0;");
    for _ in 0..100 {
        filter.feed(&[b'x'; 10_000]);
    }
    assert!(filter.held.len() <= LONGEST_STRING);
    assert!(filter.feed(b"\x07").is_empty(), "too long to pass");
    filter.feed(b"\x1b[");
    filter.feed(&[b'1'; 10_000]);
    assert!(filter.held.len() <= LONGEST_SEQUENCE);
    assert!(filter.feed(b"m").is_empty());
    assert_eq!(filter.feed(b"ok"), [Piece::Pass(b"ok".to_vec())]);
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_comes_out(
        bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(b'P'), Just(b';'),
            Just(b'?'), Just(7u8), Just(b'\\'), Just(b'5'), Just(b'2'), any::<u8>()], 0..64),
        at in 0usize..64,
    ) {
        let at = at.min(bytes.len());
        prop_assert_eq!(run(&[&bytes]), run(&[&bytes[..at], &bytes[at..]]));
    }

    #[test]
    fn nothing_but_known_sequences_and_whole_characters_comes_out(
        bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(b'5'), Just(b'2'),
            Just(b';'), any::<u8>()], 0..64),
    ) {
        let (passed, _) = run(&[&bytes]);
        prop_assert!(!passed.contains("\x1b]52") && !passed.contains("\x1b_") && !passed.contains("\x1bP"));
        let upper = passed.chars().any(|c| ('\u{7f}'..='\u{9f}').contains(&c) || c == '\u{5}');
        prop_assert!(!upper);
        // What has passed passes again as it is.
        let title = passed.contains("\x1b]");
        prop_assert!(title || run(&[passed.as_bytes()]).0 == passed);
    }
}

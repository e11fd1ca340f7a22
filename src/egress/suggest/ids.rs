//! Which parts of a path look like an id or a secret: they would be others the next time, and should not stand in a file. Pure.
//!
//! A guess, made on the safe side: a word that is taken for an id makes an entry wider, which its comment says; it never makes one
//! that was not asked for.

/// What stands in place of one in a text for people.
const PLACE: &str = "<id>";

/// How well-known tokens begin (GitHub, GitLab, model APIs, Stripe, Slack, npm, PyPI, Hugging Face, cloud keys, JSON web tokens).
const TOKENS: [&str; 37] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "glptt-",
    "sk-",
    "sk_",
    "pk_",
    "rk_",
    "whsec_",
    "xoxa-",
    "xoxb-",
    "xoxe-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "npm_",
    "pypi-",
    "hf_",
    "dop_v1_",
    "shpat_",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "SG.",
    "eyJ",
    "tfp_",
    "lin_api_",
    "figd_",
    "dckr_pat_",
    "ATATT",
];
/// Shortest rest of a token.
const REST: usize = 8;

/// Gets what stands before the first segment that looks like one.
pub(super) fn before_the_first(path: &str) -> Option<&str> {
    let mut at = 0;
    for (segment, is_id) in segments(path) {
        if is_id {
            return path.get(..at);
        }
        at += 1 + segment.len();
    }
    None
}

/// Gets the path as an expression that has any segment in place of each.
pub(super) fn form(path: &str) -> String {
    let part = |(segment, is_id): (&str, bool)| {
        if is_id { "/[^/]+".to_owned() } else { format!("/{}", regex::escape(segment)) }
    };
    segments(path).map(part).collect()
}

/// Gets the path as people may read it.
pub(super) fn without(path: &str) -> String {
    let (path, rest) = path.split_once('/').map_or((path, None), |(before, rest)| (before, Some(rest)));
    let Some(rest) = rest else { return path.to_owned() };
    let whole = format!("/{rest}");
    let shown = segments(&whole).map(|(segment, is_id)| format!("/{}", if is_id { PLACE } else { segment }));
    format!("{path}{}", shown.collect::<String>())
}

/// Gets the segments of a path that begins with a slash, and of each whether it looks like one.
fn segments(path: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut hook = false;
    path.split('/').skip(1).map(move |segment| {
        // The address of a hook is its secret, also where it is short.
        let secret = hook && (segment.len() >= 16 || segment.bytes().any(|b| b.is_ascii_digit()));
        hook |= ["hook", "hooks", "webhook", "webhooks"].iter().any(|word| segment.eq_ignore_ascii_case(word));
        (segment, secret || is_id(segment))
    })
}

fn is_id(segment: &str) -> bool {
    let token = TOKENS.iter().any(|start| segment.strip_prefix(start).is_some_and(|rest| rest.len() >= REST));
    let hexadecimal = segment.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    token
        || (segment.len() >= 5 && digits == segment.len())
        || (segment.len() >= 12 && hexadecimal && digits > 0)
        || segment.split(|c: char| !c.is_ascii_alphanumeric()).any(looks_random)
        // Base64 of its alphabet for addresses has marks anywhere.
        || (segment.len() >= 20 && is_base64(segment) && looks_random(&segment.replace(['-', '_', '='], "")))
}

/// Tells whether a segment has the alphabet of base64 for addresses, and is not words with such marks between them.
fn is_base64(segment: &str) -> bool {
    let of_words = segment.split(['-', '_']).all(|word| {
        word.bytes().all(|b| b.is_ascii_lowercase()) || word.bytes().all(|b| b.is_ascii_digit()) && word.len() <= 4
    });
    !of_words && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b))
}

/// Tells whether letters and digits without a mark between them are no word, name or version.
fn looks_random(run: &str) -> bool {
    let count = |what: fn(&u8) -> bool| run.bytes().filter(what).count();
    let (digits, upper, lower) =
        (count(u8::is_ascii_digit), count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    let letters = upper + lower;
    // From a small letter to a large one, and between letters and digits: names have few.
    let turns = run.as_bytes().windows(2).filter(|pair| {
        let (one, other) = (pair[0], pair[1]);
        one.is_ascii_lowercase() && other.is_ascii_uppercase() || one.is_ascii_digit() != other.is_ascii_digit()
    });
    let turns = turns.count();
    let mixed = upper > 0 && lower > 0;
    (run.len() >= 20 && digits >= 3 && letters >= 3 && (mixed || digits >= 6) && 6 * turns >= run.len())
        || (run.len() >= 12 && mixed && digits > 0 && 3 * turns >= run.len())
        || (run.len() >= 9 && lower == 0 && upper > 0 && digits >= 2)
        || (run.len() >= 12 && lower > 0 && digits >= 3 && 3 * turns >= run.len())
        || (run.len() >= 16 && mixed && 4 * turns >= run.len())
        || (run.len() >= 20 && mixed && digits > 0 && 5 * turns >= run.len())
        || (run.len() >= 16 && digits == 0 && unspeakable(run) >= 6)
}

/// Gets the longest row of consonants.
fn unspeakable(run: &str) -> usize {
    run.split(|c: char| "aeiouyAEIOUY".contains(c)).map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_secrets_are_seen_and_words_are_not() {
        for id in [
            "12345",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "deadbeef0123",
            "ghp_AbCd0123456789EfGhIjKlMnOpQr",
            "glpat-abcdefghijkl",
            "sk-ant-api03-x",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "bot123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
            "T01ABCDEF",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "x7f3k9a2m4q8",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "qzxkvbnmwrtplkjhgfds",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "serde_json",
            "1.0.140",
            "v1beta",
            "models-of-the-house",
            "introduction-to-rust-2021",
            "README.md",
            "app.git",
            "git-upload-pack",
            "IntroductionToRust2021",
            "ThisIsMyLongCamelCaseName",
            "crate-1234",
            "x86_64-unknown-linux-gnu",
            "2024-10",
            "packages",
            "internationalization",
            "node-v22.11.0-linux-x64.tar.xz",
            "claude-sonnet-4-5-20250929",
            "@types",
            "",
        ] {
            assert!(!is_id(word), "{word}");
        }
    }

    #[test]
    fn the_address_of_a_hook_is_a_secret() {
        assert_eq!(without("/api/webhooks/77/abcdefghijklmnop"), "/api/webhooks/<id>/<id>");
        assert_eq!(without("/services/T01ABCDEF/B01ABCDEF/abCD"), "/services/<id>/<id>/abCD");
        assert_eq!(before_the_first("/api/hooks/x1/y"), Some("/api/hooks"));
        assert_eq!((without("/hooks/deploy"), without("")), ("/hooks/deploy".to_owned(), String::new()));
        assert_eq!(without("/12345"), "/<id>");
        assert_eq!(form("/12345/a+b"), r"/[^/]+/a\+b");
    }
}

//! The one form in which paths are compared, and in which they are sent on: the path that was checked is the path that the
//! server sees. Pure.

use std::borrow::Cow;

use super::super::deny::{Denial, Deny};

/// Gets the normal form of a path: coded unreserved characters decoded, other codes upper case (RFC 3986, 6.2.2).
/// What servers read in different ways is refused: coded slashes, backslashes and NULs, dot segments, empty segments.
pub fn normal_path(raw: &str) -> Result<Cow<'_, str>, Deny> {
    let refuse = |what: &str| {
        Deny::new(Denial::Path, format!("bb: the path has {what} in it, which servers read in different ways."))
            .step("send the path in its plain form")
    };
    if !raw.starts_with('/') {
        return Err(refuse("no leading slash"));
    }
    let path = if raw.contains('%') { Cow::Owned(decode_unreserved(raw).map_err(refuse)?) } else { Cow::Borrowed(raw) };
    if path.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
        return Err(refuse("a backslash or control character"));
    }
    let segments = path.get(1..).unwrap_or("");
    let last = segments.split('/').count() - 1;
    for (i, segment) in segments.split('/').enumerate() {
        // `;` begins parameters that some servers drop before they look at dots.
        match segment.split(';').next().unwrap_or(segment) {
            "." | ".." => return Err(refuse("a dot segment")),
            "" if i < last => return Err(refuse("an empty segment")),
            _ if hides_dots(segment) => return Err(refuse("a dot segment, coded more than once,")),
            _ => {}
        }
    }
    Ok(path)
}

/// How often a segment may be coded.
const ROUNDS: usize = 8;

/// Tells whether a segment has dot segments in it for a server that decodes more than once, or before it looks for parameters.
fn hides_dots(segment: &str) -> bool {
    if !segment.contains('%') {
        return false;
    }
    let mut text = segment.as_bytes().to_vec();
    let mut whole = false;
    // Bounded: a long `%252525...` would take a round for each of its codes.
    for _ in 0..ROUNDS {
        let decoded = decode_once(&text);
        whole = decoded.len() == text.len();
        if whole {
            break;
        }
        text = decoded;
    }
    // What no server of sense is sent is not looked at for long.
    !whole || text.split(|b| matches!(b, b'/' | b'\\' | b';')).any(|part| part == b"." || part == b"..")
}

fn decode_once(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        // `from_str_radix` takes a sign, which is no digit.
        let code = code.filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn decode_unreserved(raw: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = code.and_then(|c| u8::from_str_radix(c, 16).ok()) else {
            return Err("a percent sign without a code");
        };
        match byte {
            b'/' | b'\\' => return Err("a coded slash"),
            0..=0x1f | 0x7f => return Err("a coded control character"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Gets a path without the parameters of its segments (`;...`), which some servers drop before they look at it.
pub fn without_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let plain = path.split('/').map(|segment| segment.split(';').next().unwrap_or(segment));
    Cow::Owned(plain.collect::<Vec<_>>().join("/"))
}

/// Tells whether `path` is `prefix` or lies below it; `/v1` is not a prefix of `/v10`.
pub fn below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_coded_again_and_again_is_refused_before_it_costs_anything() {
        // To its end this would take thirty thousand rounds.
        assert!(normal_path(&format!("/%{}61", "25".repeat(30_000))).is_err());
        assert!(normal_path(&format!("/%{}61", "25".repeat(3))).is_ok(), "a few times may be meant");
    }

    #[test]
    fn one_path_has_one_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%61/%7e", "/a/~"),
            ("/%c3%a4", "/%C3%A4"),
            // Double coding stays what it is: one decoding of a code is not a slash.
            ("/%252F", "/%252F"),
            ("/100%25/%25%25/v1.%252e2", "/100%25/%25%25/v1.%252e2"),
            ("/a;b=1/c", "/a;b=1/c"),
        ] {
            assert_eq!(normal_path(raw).as_deref(), Ok(normal), "{raw}");
            assert_eq!(normal_path(normal).as_deref(), Ok(normal), "the form is its own form");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_has_none() {
        for raw in [
            "",
            "*",
            "a",
            "/..",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..;x/b",
            "/a/..%3Bx/b",
            "/a/%252e%252e/b",
            "/a/.%25252E/b",
            "/a/%252e%252e%252fb",
            "/a/x%255C..",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "//a",
            "/a//b",
            "/a%00",
            "/a%0ab",
            "/a\tb",
            "/%",
            "/%4",
            "/%zz",
        ] {
            assert_eq!(normal_path(raw).unwrap_err().kind, Denial::Path, "{raw:?}");
        }
    }

    #[test]
    fn parameters_can_be_left_out() {
        assert_eq!(without_parameters("/a;x=1/b;y"), "/a/b");
        assert_eq!(without_parameters("/a/b"), "/a/b");
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        assert!(below("/v1", "/v1") && below("/v1/x", "/v1") && below("/v1/x", "/v1/") && below("/x", "/"));
        assert!(!below("/v10", "/v1") && !below("/v1", "/v1/"));
    }
}

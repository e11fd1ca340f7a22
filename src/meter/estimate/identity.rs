//! What makes a piece of a body what it is: all of it, but for what has it cached, which comes and goes. Pure.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::OnceLock;

use memchr::memchr;

/// Longest mark. Unit: bytes.
const LONGEST: usize = 96;
/// Words of marks (Anthropic's `cache_control`).
const WORDS: [&[u8]; 5] = [b"type", b"ephemeral", b"ttl", b"5m", b"1h"];

/// Begins a hash. Its key is this process's own: whoever writes a body must not know what would be taken for the same.
pub(super) fn hasher() -> DefaultHasher {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new).build_hasher()
}

/// A piece while it is looked at.
pub(super) struct Identity(DefaultHasher);

impl Identity {
    /// A piece under `key` of the request, which may be `wrapped` in another object.
    pub(super) fn of(key: &[u8], wrapped: bool) -> Identity {
        let mut identity = Identity(hasher());
        identity.says(b'k', key);
        identity.0.write_u8(u8::from(wrapped));
        identity
    }

    /// A bracket.
    pub(super) fn bracket(&mut self, byte: u8) {
        self.0.write_u8(byte);
    }

    /// A key, a text or another value, by its letter.
    pub(super) fn says(&mut self, letter: u8, bytes: &[u8]) {
        self.0.write_u8(letter);
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }

    /// What a message says, where that is a text and no list: the same as a list of that text, as which it is written where it is to be cached.
    pub(super) fn says_alone(&mut self, text: &[u8]) {
        self.bracket(b'[');
        self.bracket(b'{');
        self.says(b'k', b"type");
        self.says(b't', b"text");
        self.says(b'k', b"text");
        self.says(b't', text);
        self.bracket(b'}');
        self.bracket(b']');
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Gets where the value ends that says that what is before it is to be cached: it begins behind `at`, the end of its key. `None` where it is
/// anything else.
pub(super) fn mark_end(json: &[u8], at: usize) -> Option<usize> {
    let rest = json.get(at..json.len().min(at + LONGEST))?;
    let end = memchr(b'}', rest)? + 1;
    let mark = rest[..end].strip_prefix(b"\"")?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let inside = mark.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b':' | b',');
    inside.split(is_space).all(|word| word.is_empty() || WORDS.contains(&word)).then_some(at + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_nothing_else() {
        let end = |text: &str| mark_end(text.as_bytes(), 0);
        for mark in [r#"":{"type":"ephemeral"},"x":{}"#, r#"" : { "type": "ephemeral", "ttl": "1h" } "#] {
            assert_eq!(end(mark), mark.find('}').map(|last| last + 1));
        }
        for other in [
            r#"":{"type":"hidden"}"#,
            r#"":{"type":{"ttl":"5m"}}"#,
            r#"":["type"]"#,
            r#"":"type"}"#,
            "",
            r#"":{"type":"eph"#,
        ] {
            assert_eq!(end(other), None, "{other}");
        }
    }
}

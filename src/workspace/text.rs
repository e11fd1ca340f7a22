//! A file's change as text: a unified diff, and how many lines it adds and removes.
//!
//! Both sides are untrusted and may be made to be slow: size and time are bounded. Must not write anywhere.

use std::time::Duration;

use similar::{ChangeTag, TextDiff};

/// Largest side that is taken for text, bytes.
pub const MOST: u64 = 1 << 20;

/// Longest that one comparison may look for the shortest answer; then it takes what it has.
const PATIENCE: Duration = Duration::from_millis(300);

/// A change as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Lines that are new.
    pub added: u32,
    /// Lines that are gone.
    pub removed: u32,
    /// The unified diff.
    pub diff: String,
}

/// Compares two sides; `None` where one of them is no text. A side that is not there is empty.
pub fn compare(path: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Option<Text> {
    let side = |bytes: Option<&[u8]>| -> Option<String> {
        let bytes = bytes.unwrap_or_default();
        if bytes.len() as u64 > MOST || bytes.contains(&0) {
            return None;
        }
        String::from_utf8(bytes.to_vec()).ok()
    };
    let (old_text, new_text) = (side(old)?, side(new)?);
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&old_text, &new_text);
    let count = |tag| u32::try_from(diff.iter_all_changes().filter(|c| c.tag() == tag).count()).unwrap_or(u32::MAX);
    let name = |there: bool, side: &str| if there { format!("{side}/{path}") } else { "/dev/null".to_owned() };
    let text =
        diff.unified_diff().context_radius(3).header(&name(old.is_some(), "a"), &name(new.is_some(), "b")).to_string();
    Some(Text { added: count(ChangeTag::Insert), removed: count(ChangeTag::Delete), diff: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_git_would_write_it() {
        let text = compare("x", Some(b"a\nb\nc\n"), Some(b"a\nB\nc\n")).unwrap();
        assert_eq!((text.added, text.removed), (1, 1));
        assert_eq!(text.diff, "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
        let new = compare("x", None, Some(b"n\n")).unwrap();
        assert!(new.diff.starts_with("--- /dev/null\n+++ b/x\n"), "{}", new.diff);
        assert_eq!(compare("x", None, Some(b"\0")), None);
        assert_eq!(compare("x", Some(b"\xff"), Some(b"")), None);
    }

    #[test]
    fn sides_that_are_made_to_be_slow_are_given_up_in_time() {
        let side = |step: usize| -> Vec<u8> {
            (0..60_000usize).flat_map(|i| format!("{}\n", i * step % 7919).into_bytes()).collect()
        };
        let began = std::time::Instant::now();
        assert!(compare("x", Some(&side(3)), Some(&side(5))).is_some());
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

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
    // By newlines alone: a CR is a character of its line, for whoever shows it to escape.
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) =
        (old_text.split_inclusive('\n').collect(), new_text.split_inclusive('\n').collect());
    let diff = TextDiff::configure().timeout(PATIENCE).diff_slices(&old_lines, &new_lines);
    let count = |tag| u32::try_from(diff.iter_all_changes().filter(|c| c.tag() == tag).count()).unwrap_or(u32::MAX);
    let name = |there: bool, side: &str| if there { format!("{side}/{path}") } else { "/dev/null".to_owned() };
    let mut text = format!("--- {}\n+++ {}\n", name(old.is_some(), "a"), name(new.is_some(), "b"));
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        text.push_str(&format!("{}\n", hunk.header()));
        for change in hunk.iter_changes() {
            text.push_str(&format!("{}{}", change.tag(), change.value()));
            if !change.value().ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
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
        let end = compare("x", Some(b"a"), Some(b"b")).unwrap().diff;
        assert!(
            end.ends_with("@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"),
            "{end}"
        );
        assert_eq!(compare("x", None, Some(b"\0")), None);
        assert_eq!(compare("x", Some(b"\xff"), Some(b"")), None);
    }

    #[test]
    fn a_carriage_return_is_a_character_of_its_line_and_ends_none() {
        let text = compare("x", Some(b"a\nb\n"), Some(b"a\rz\nb\n")).unwrap();
        assert_eq!((text.added, text.removed), (1, 1));
        assert!(text.diff.ends_with("\n-a\n+a\rz\n b\n"), "{:?}", text.diff);
        // At the end of a file, too: what follows would stand in the same line.
        let text = compare("x", Some(b"a\r"), Some(b"b\r")).unwrap();
        assert_eq!(text.diff.lines().filter(|line| line.starts_with('+')).count(), 2, "{:?}", text.diff);
        assert_eq!(compare("x", Some(b"a\r\n"), Some(b"a\n")).map(|t| (t.added, t.removed)), Some((1, 1)));
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

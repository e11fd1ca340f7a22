//! `bb diff`: what an agent has changed in a workspace that is a layer or a copy.

use crate::api::{Change, Diff, DiffQuery, FileKind, What};
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;
use crate::printable::printable;

use super::out;

/// Show what an agent has changed in its workspace (workspace modes `overlay` and `copy`), while it runs and after its end.
///
/// With --json one change a line (docs/controller-api.md, `Change`).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Only these paths of the workspace, and what lies below them
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,
    /// Only name what has changed, with lines added and removed
    #[arg(long)]
    pub stat: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let everywhere = args.paths.is_empty();
    let diff = client.diff(&args.bottle.slug, &DiffQuery { paths: args.paths, text: true }).await?;
    if args.json {
        for change in &diff.changes {
            let mut change = change.clone();
            change.diff = change.diff.filter(|_| !args.stat);
            out::json(&change)?;
        }
    } else if diff.changes.is_empty() {
        out::note(if everywhere { "nothing has changed" } else { "nothing has changed there" });
    } else {
        out::print(shown(&diff, args.stat, out::colour()).trim_end())?;
    }
    if diff.truncated {
        out::note("there is more than is shown; name paths to see the rest");
    }
    Ok(0)
}

/// Writes changes for a terminal. An agent chose every name and line of them.
pub(super) fn shown(diff: &Diff, stat: bool, colour: bool) -> String {
    let mut text = String::new();
    for change in &diff.changes {
        text.push_str(&line(change));
        text.push('\n');
    }
    if !stat {
        for change in &diff.changes {
            let Some(unified) = &change.diff else { continue };
            text.push('\n');
            // By newlines alone: a CR is shown, also at the end of a line.
            for line in unified.split_terminator('\n') {
                text.push_str(&coloured(&printable(line, false), colour));
                text.push('\n');
            }
        }
    }
    text
}

fn coloured(line: &str, colour: bool) -> String {
    let code = match line.as_bytes().first() {
        _ if !colour => None,
        Some(b'+') => Some("32"),
        Some(b'-') => Some("31"),
        Some(b'@') => Some("36"),
        _ => None,
    };
    code.map_or_else(|| line.to_owned(), |code| format!("\x1b[{code}m{line}\x1b[0m"))
}

/// Writes one change in a line.
fn line(change: &Change) -> String {
    let one_line = |text: &str| printable(&text.replace(['\n', '\t'], "?"), false);
    let mark = match change.what {
        What::Added => 'A',
        What::Changed => 'M',
        What::Mode => 'p',
        What::Deleted => 'D',
    };
    let slash = if change.kind == FileKind::Directory { "/" } else { "" };
    let mut line = format!("{mark} {}{slash}", one_line(&change.path));
    if let Some(target) = &change.target {
        line.push_str(&format!(" -> {}", one_line(target)));
    }
    let mut notes = Vec::new();
    if let (Some(added), Some(removed)) = (change.added_lines, change.removed_lines) {
        notes.push(format!("+{added} -{removed}"));
    } else if change.kind == FileKind::File && change.what != What::Deleted && change.what != What::Mode {
        notes.extend(change.size.map(|size| format!("{} bytes", out::grouped(size))));
    }
    if let (Some(old), Some(new)) = (change.old_mode, change.mode)
        && old != new
    {
        notes.push(format!("mode {old:o} to {new:o}"));
    }
    notes.extend(change.refused.as_ref().map(|why| format!("refused: {}", one_line(why))));
    notes.extend(change.conflict.as_ref().map(|why| format!("conflict: {}", one_line(why))));
    if !notes.is_empty() {
        line.push_str(&format!("  ({})", notes.join("; ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkspaceMode;

    fn change(path: &str) -> Change {
        Change {
            path: path.into(),
            what: What::Changed,
            kind: FileKind::File,
            old_mode: Some(0o644),
            mode: Some(0o644),
            size: Some(5),
            target: None,
            added_lines: Some(1),
            removed_lines: Some(1),
            diff: Some("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+\x1b]52;c;ZXZpbA==\x07\n".into()),
            refused: None,
            conflict: None,
            fingerprint: String::new(),
        }
    }

    #[test]
    fn nothing_that_an_agent_wrote_reaches_a_terminal_as_it_is() {
        let mut named = change("a\nM innocent\x1b[2J");
        named.refused = Some("links are not brought over".into());
        let diff = Diff {
            slug: "s".into(),
            workspace: "/w".into(),
            mode: WorkspaceMode::Overlay,
            changes: vec![change("x"), named],
            truncated: false,
        };
        let text = shown(&diff, false, false);
        assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text:?}");
        assert!(text.starts_with("M x  (+1 -1)\nM a?M innocent"), "{text}");
        assert!(!shown(&diff, true, false).contains("@@"));
        assert!(shown(&diff, false, true).contains("\x1b[31m-a\x1b[0m"));
        let mut ends = change("x");
        ends.diff = Some("@@ -1,2 +1,2 @@\n-a\n-b\n+a\r\n+b\rc\n".into());
        let text = shown(&Diff { changes: vec![ends], ..diff }, false, false);
        assert!(text.ends_with("\n-a\n-b\n+a\\x0d\n+b\\x0dc\n"), "{text:?}");
    }
}

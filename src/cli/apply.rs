//! `bb apply`: brings what an agent has changed over into the workspace, after showing it.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use crate::api::{Apply, Diff, DiffQuery, FileKind, Outcome, Wanted, What};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::printable::printable;

use super::{diff, out};

/// Most changes in one call.
const MOST_AT_ONCE: usize = 10_000;

/// Bring what an agent has changed over into the workspace (workspace modes `overlay` and `copy`): shows it, then asks.
///
/// Never brought over: links, special files, setuid bits, and what tools of the host would execute (git's configuration and
/// hooks, repositories of the agent's own, .envrc, .vscode and the like). A file that the host has changed as well is a
/// conflict and stays as it is. Without a terminal it needs --yes. Ends with 1 where something was left out.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Only these paths of the workspace, and what lies below them
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Write what became of each change as NDJSON on stdout
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
    let query = DiffQuery { paths: args.paths, text: !args.yes };
    let mut diff = client.diff(&args.bottle.slug, &query).await?;
    if diff.truncated {
        return Err(Error::new(Kind::Usage, "there are more changes than can be shown at once")
            .at(diff.slug)
            .hint("name some of the paths"));
    }
    named(&mut diff, &query)?;
    if diff.changes.is_empty() {
        out::note("nothing has changed");
        return Ok(0);
    }
    if !args.yes {
        out::print(diff::shown(&diff, false, out::colour()).trim_end())?;
        let able = diff.changes.iter().filter(|c| c.refused.is_none() && c.conflict.is_none()).count();
        let question = format!("apply {able} of {} changes to {}", diff.changes.len(), diff.workspace);
        if !agreed(&question, "bb apply")? {
            return Ok(1);
        }
    }
    let changes: Vec<_> =
        diff.changes.into_iter().map(|c| Wanted { path: c.path, fingerprint: c.fingerprint }).collect();
    let mut done = Vec::new();
    // A body has a bound.
    for some in changes.chunks(MOST_AT_ONCE) {
        let apply = Apply { id: uuid::Uuid::now_v7().to_string(), changes: some.to_vec() };
        done.extend(client.apply(&diff.slug, &apply).await?.done);
    }
    let mut whole = true;
    for done in &done {
        whole &= done.outcome == Outcome::Applied;
        if args.json {
            out::json(done)?;
            continue;
        }
        let path = done.path.replace(['\n', '\t'], "?");
        let why = done.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        out::print(&printable(&format!("{}  {path}{why}", done.outcome.as_str()), false))?;
    }
    Ok(u8::from(!whole))
}

/// Leaves the changes that were named: those at the paths and below them, and the directories made on the way there.
///
/// # Errors
/// `usage` where a path names no change.
fn named(diff: &mut Diff, query: &DiffQuery) -> Result<()> {
    let wanted = query.below(Path::new(&diff.workspace));
    if wanted.is_empty() {
        return Ok(());
    }
    for path in &wanted {
        let is_above = |above: &str| path.starts_with(above);
        if diff.changes.iter().any(|change| Path::new(&change.path).starts_with(path)) {
            continue;
        }
        // What takes the place of a directory, or is nothing any more, goes whole.
        let whole = diff.changes.iter().find(|c| is_above(&c.path) && c.what != What::Mode && c.what != What::Added);
        return Err(match whole {
            Some(whole) => Error::new(Kind::Usage, format!("what was there goes with `{}`", whole.path))
                .at(path.display().to_string())
                .hint(format!("name `{}` to apply that change whole", whole.path)),
            None => Error::new(Kind::Usage, "the agent has changed nothing there")
                .at(path.display().to_string())
                .hint(format!("`bb diff --stat {}` lists what it has changed", diff.slug)),
        });
    }
    diff.changes.retain(|change| {
        let at = Path::new(&change.path);
        let is_way = change.kind == FileKind::Directory && matches!(change.what, What::Added | What::Changed);
        wanted.iter().any(|path| at.starts_with(path) || is_way && path.starts_with(at))
    });
    Ok(())
}

/// Asks somebody at a terminal; only a word for yes is one.
///
/// # Errors
/// `approval` where nobody is there.
pub(super) fn agreed(question: &str, command: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(Kind::Approval, format!("nobody is there to be asked: {question}?"))
            .hint(format!("look at what it would do, then add --yes to `{command}`")));
    }
    eprint!("{} [y/N] ", printable(&format!("{question}?"), false));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|e| Error::internal(format!("the answer cannot be read: {e}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

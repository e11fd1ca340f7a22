//! `bb prune`: removes everything that is left of bottles which do not run.

use crate::api::Prune;
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;

use super::apply::agreed;
use super::out;

/// Remove everything that is left of bottles which do not run: kept changes, output, whatever a crash has left.
///
/// Lists it and asks. Without a terminal it needs --yes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let prune = |dry_run| Prune { id: uuid::Uuid::now_v7().to_string(), dry_run };
    let left = client.prune(&prune(true)).await?;
    if left.is_empty() {
        out::note("nothing is left of bottles that do not run");
        return Ok(0);
    }
    if !args.yes {
        for leftover in &left {
            let what = match leftover.kind.as_str() {
                "kept" => "its session, or changes of its agent that nobody applied, and output",
                "state" => "output",
                other => other,
            };
            out::note(&format!("{}  {what}", leftover.name));
        }
        if !agreed("remove all of this", "bb prune")? {
            return Ok(1);
        }
    }
    for leftover in client.prune(&prune(false)).await? {
        out::print(&crate::printable::printable(&format!("{}  removed", leftover.name), false))?;
    }
    Ok(0)
}

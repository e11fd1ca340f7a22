//! `bb resume`: takes up a bottle whose session is kept. Reads the arguments and runs the flow `resume.lua`: the home's own,
//! else the one that `bb start` runs.

use std::path::PathBuf;

use serde_json::json;

use crate::error::Result;
use crate::home::Home;

use super::flow::{self, Manner};
use super::out;

/// Take up a bottle again that was frozen, or that failed.
///
/// The agent goes on with its own session, in the workspace as it was. What it may do is read anew from today's manifests,
/// and what is different is said. A bottle that was started headless is told --prompt, or to go on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Show what would hold and what is different, and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nothing
    #[arg(long)]
    pub headless: bool,
    /// The next task, word for word
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// The next task from a file; - is standard input
    #[arg(long, value_name = "PATH", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Tokens that the bottle may spend from now on: 200k, claude=200k,codex=1M, or unlimited; else what it has spent counts on
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Vec<String>,
    /// Kill it after this long (90s, 30m, 1h30m); exit code 124
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Lift the cut that `bb cut` or a recipe made
    #[arg(long)]
    pub uncut: bool,
    /// Against stand-ins of the model APIs: no key, no network, no cost
    #[arg(long)]
    pub rehearse: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    resume(args).unwrap_or_else(|error| out::fail(&error))
}

fn resume(args: Args) -> Result<u8> {
    flow::check_timeout(args.timeout.as_deref())?;
    let home = Home::from_env()?;
    let budget = flow::budget(&home, &args.budget)?;
    let given = json!({
        "resume": args.bottle.slug,
        "prompt": flow::prompt(args.prompt.as_deref(), args.prompt_file.as_deref())?,
        "budget": budget,
        "timeout": args.timeout,
        "uncut": args.uncut,
        "headless": args.headless,
        "dry_run": flow::dry_run(args.dry_run),
        "json": args.json,
        "redirected": flow::redirected(args.json),
        "colors": [],
    });
    flow::play(home, "resume.lua", given, Manner { rehearse: args.rehearse, json: args.json })
}

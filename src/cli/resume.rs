//! `bb resume`: takes up a bottle whose session is kept. Reads the arguments and runs the flow `resume.lua`: the home's own,
//! else the one that `bb start` runs.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::json;

use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::launch::limits_of_flags;
use crate::lua::Settings;
use crate::lua::log::Output;
use crate::lua::values::parse_duration;

use super::start::{amounts, flow, prompt, variable};
use super::{out, run::drive};

/// Take up a bottle again that was frozen, or that failed.
///
/// The agent goes on with its own session, in the workspace as it was. What it may do is read anew from today's manifests,
/// and what is different is said. A bottle that was started headless is told --prompt, or to go on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slug, or a unique beginning of one
    #[arg(value_name = "SLUG", add = super::completions::slugs())]
    pub slug: String,
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

/// Checks that there is something to take up.
fn kept(slug: &str) -> Result<()> {
    let home = Home::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("no runtime: {e}")))?;
    let asked = runtime.block_on(async { Client::connect_or_start(&home).await?.session(slug).await });
    runtime.shutdown_background();
    asked.map(|_| ())
}

fn resume(args: Args) -> Result<u8> {
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let dry_run = args.dry_run || variable("BOT_BOTTLE_DRY_RUN").is_some_and(|v| v == "1");
    if !args.headless && !dry_run && !terminal {
        kept(&args.slug)?;
        return Err(Error::new(Kind::Usage, "nobody is at a terminal to be asked")
            .hint(format!("write bb resume {} --headless, or run it at a terminal", args.slug)));
    }
    if let Some(timeout) = &args.timeout {
        parse_duration(timeout).map_err(|e| e.at("--timeout"))?;
    }
    let home = Home::from_env()?;
    let budget = limits_of_flags(&args.budget, &crate::provider::names(&home))?;
    let given = json!({
        "resume": args.slug,
        "prompt": prompt(args.prompt.as_deref(), args.prompt_file.as_deref())?,
        "budget": (!budget.is_empty()).then(|| amounts(&budget)),
        "timeout": args.timeout,
        "uncut": args.uncut,
        "headless": args.headless,
        "dry_run": dry_run,
        "colors": [],
    });
    let recipe = flow(&home, "resume.lua")?;
    let out = Output::of_process(args.json, false);
    let settings =
        Settings { home, args: Vec::new(), given: Some(given), rehearse: args.rehearse, timeout: None, out, terminal };
    drive(recipe, settings)
}

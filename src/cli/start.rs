//! `bb start`: launches an agent by its manifest. Reads the arguments and runs the flow `start.lua`, the shipped one or
//! the home's own. What has to be given is the flow's to say: one with defaults of its own needs less.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bottle::backend::Choice;
use crate::error::Result;
use crate::home::Home;
use crate::launch::COLORS;

use super::flow::{self, Manner};
use super::out;

/// Start an agent by its manifest (docs/start.md).
///
/// At a terminal it asks which agent, which bottles, a name and a colour, shows what would hold, and starts after a yes:
/// then this terminal is the agent's, until it ends or ctrl-p ctrl-q leaves it running. With --headless nothing is asked:
/// the agent works on --prompt, and its output and its end are this command's.
///
/// With --json one object a line: {"v": 1, "type": "run.start" | "log" | "output" | "run.result", ...} and the events of
/// docs/controller-api.md.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's name
    #[arg(add = super::completions::agents())]
    pub agent: Option<String>,
    /// Ask what a start asks, show what would hold, and start nothing. BOT_BOTTLE_DRY_RUN=1 does the same
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nothing: needs an agent and a prompt
    #[arg(long)]
    pub headless: bool,
    /// A bottle manifest, in place of the agent's own; given several times they are merged in this order
    #[arg(long = "bottle", value_name = "NAME", add = super::completions::bottles())]
    pub bottles: Vec<String>,
    /// The bottle's name; the agent's when absent
    #[arg(long)]
    pub label: Option<String>,
    /// One of the sixteen ANSI colours, for lists
    #[arg(long, add = super::completions::words(&COLORS))]
    pub color: Option<String>,
    /// The task, word for word
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// The task from a file; - is standard input
    #[arg(long, value_name = "PATH", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Tokens that the bottle may spend: 200k, claude=200k,codex=1M, or unlimited
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Vec<String>,
    /// Kill it after this long (90s, 30m, 1h30m); exit code 124
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Work on a copy of this directory
    #[arg(long)]
    pub cwd: bool,
    /// What makes the sandbox: linux, docker. BOT_BOTTLE_BACKEND does the same, and this wins
    #[arg(long, value_name = "NAME", add = super::completions::words(&Choice::NAMES))]
    pub backend: Option<String>,
    /// Against stand-ins of the model APIs: no key, no network, no cost
    #[arg(long)]
    pub rehearse: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    pub json: bool,
    /// More arguments for the agent's CLI, after --
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    start(args).unwrap_or_else(|error| out::fail(&error))
}

fn start(args: Args) -> Result<u8> {
    flow::check_timeout(args.timeout.as_deref())?;
    let home = Home::from_env()?;
    let given = Given {
        prompt: flow::prompt(args.prompt.as_deref(), args.prompt_file.as_deref())?,
        dry_run: flow::dry_run(args.dry_run),
        budget: flow::budget(&home, &args.budget)?,
        backend: args.backend.clone().or_else(|| flow::variable("BOT_BOTTLE_BACKEND")),
    };
    flow::play(home, "start.lua", given.table(&args), Manner { rehearse: args.rehearse, json: args.json })
}

/// What was given beside the plain arguments.
struct Given {
    prompt: Option<String>,
    dry_run: bool,
    budget: Option<Value>,
    backend: Option<String>,
}

impl Given {
    /// Makes the `bb.args` of the flow.
    fn table(self, args: &Args) -> Value {
        json!({
            "agent": args.agent,
            "bottles": args.bottles,
            "label": args.label,
            "color": args.color,
            "colors": COLORS,
            "prompt": self.prompt,
            "args": args.args,
            "budget": self.budget,
            "timeout": args.timeout,
            "backend": self.backend,
            "copy": args.cwd,
            "headless": args.headless,
            "dry_run": self.dry_run,
            "json": args.json,
            "redirected": flow::redirected(args.json),
        })
    }
}

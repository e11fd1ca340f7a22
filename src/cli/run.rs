//! `bb run`: runs a recipe.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::lua::errors::{Report, Sources};
use crate::lua::grants::{Grant, parse_list};
use crate::lua::log::Output;
use crate::lua::recipe::Reason;
use crate::lua::values::parse_duration;
use crate::lua::{self, Recipe, Settings, Stop};
use crate::printable::printable;

/// Runs a recipe.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe's file
    pub recipe: PathBuf,
    /// Run against stand-ins of the model APIs: no key, no network, no cost
    #[arg(long)]
    pub rehearse: bool,
    /// What the recipe may do, as its header names it; `all` = everything it names. BB_GRANT does the same
    #[arg(long, value_name = "LIST")]
    pub grant: Vec<String>,
    /// Stop the recipe after this long (90s, 30m, 1h30m) with exit code 124
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Write NDJSON on stdout: events, output, the result
    #[arg(long)]
    pub json: bool,
    /// No colours, also on a terminal
    #[arg(long)]
    pub no_color: bool,
    /// Arguments for the recipe (bb.args), after --
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    let out = Output::of_process(args.json, args.no_color);
    let colour = out.colour_err;
    match start(args, out) {
        Ok(code) => code,
        Err(error) => {
            let code = error.kind.exit_code();
            eprint!("{}", Report::from(error).render(&Sources::new(), colour));
            code
        }
    }
}

fn start(args: Args, out: Output) -> Result<u8> {
    let timeout = args.timeout.as_deref().map(parse_duration).transpose()?;
    let recipe = Recipe::read(&args.recipe)?;
    let home = Home::from_env()?;
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let given = granted(&args.grant, recipe.needs())?;
    recipe.allow(&home, &given, terminal.then_some(&ask as &dyn Fn(&str) -> bool))?;

    drive(recipe, Settings { home, args: args.args, given: None, rehearse: args.rehearse, timeout, out, terminal })
}

/// Runs a recipe to its end; Ctrl-C stops it.
///
/// # Errors
/// `internal` where there is no runtime.
pub fn drive(recipe: Recipe, settings: Settings) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("no runtime: {e}")))?;
    let code = runtime.block_on(async {
        let stop = Arc::new(Stop::default());
        tokio::spawn(listen(stop.clone()));
        lua::run(recipe, settings, stop).await
    });
    runtime.shutdown_background();
    Ok(code)
}

/// Gets what was granted on the command line and in the environment.
fn granted(flags: &[String], needs: &[Grant]) -> Result<Vec<Grant>> {
    let environment = std::env::var("BB_GRANT").ok();
    let mut given = Vec::new();
    for list in flags.iter().map(String::as_str).chain(environment.as_deref()) {
        if list.trim() == "all" {
            given.extend_from_slice(needs);
        } else {
            given.extend(parse_list(list).map_err(|e| e.at("--grant or BB_GRANT"))?);
        }
    }
    Ok(given)
}

/// Asks at the terminal; anything but yes is no.
fn ask(question: &str) -> bool {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{} It is remembered for this very text. [y/N] ", printable(question, false))
        .and_then(|()| err.flush());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Stops the recipe on Ctrl-C or a request to terminate; the second one does not wait for its bottles, which then end
/// with the lease.
async fn listen(stop: Arc<Stop>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be caught");
        return;
    };
    let mut times = 0;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        times += 1;
        if times > 1 {
            std::process::exit(130);
        }
        stop.stop(Reason::Interrupted);
    }
}

//! `bb completions`: how a shell learns to complete commands, options, and the names of bottles and manifests.
//!
//! What the script prints asks `bb` itself at each Tab, so that it never goes out of date. Looks at files and at a
//! controller that runs; starts nothing, and says nothing where something is wrong.

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::api::Bottle;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;

use super::out;

/// Print the completions of a shell.
///
/// bash: source <(bb completions bash); zsh: the same; fish: bb completions fish | source
#[derive(Debug, clap::Args)]
pub struct Args {
    /// bash, zsh or fish
    pub shell: String,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> u8 {
    print(&args.shell).map_or_else(|error| out::fail(&error), |()| 0)
}

fn print(shell: &str) -> Result<()> {
    let shells = clap_complete::env::Shells::builtins();
    let known = ["bash", "zsh", "fish"];
    let completer = shells.completer(shell).filter(|_| known.contains(&shell)).ok_or_else(|| {
        Error::new(Kind::Usage, format!("no completions for the shell `{shell}`")).hint("known are: bash, zsh, fish")
    })?;
    let mut script = Vec::new();
    completer
        .write_registration("COMPLETE", "bb", "bb", "bb", &mut script)
        .map_err(|e| Error::internal(format!("the completions cannot be written: {e}")))?;
    out::print(String::from_utf8_lossy(&script).trim_end())
}

/// Completes where the shell asks, and then ends the process.
pub fn complete(command: impl Fn() -> clap::Command) {
    clap_complete::CompleteEnv::with_factory(command).complete();
}

/// Completes slugs.
pub fn slugs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| fitting(typed, known_slugs().into_iter()))
}

/// Completes slugs of bottles of which something is kept.
pub fn kept() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| fitting(typed, slugs_of(|bottle| bottle.kept).into_iter()))
}

/// Completes the slug of a place in a bottle, `SLUG:PATH`; paths of the host are the shell's own.
pub fn places() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| {
        fitting(typed, known_slugs().into_iter().map(|slug| format!("{slug}:")))
    })
}

/// Completes one of a few words.
pub fn words(words: &'static [&'static str]) -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| fitting(typed, words.iter().map(ToString::to_string)))
}

fn known_slugs() -> Vec<String> {
    slugs_of(|_| true)
}

/// Gets the bottles that a controller knows and, where none runs, those of which something is kept.
fn slugs_of(wanted: impl Fn(&Bottle) -> bool) -> Vec<String> {
    let Ok(home) = Home::from_env() else { return Vec::new() };
    let all = async {
        let client = Client::connect(&home).await.ok()??;
        client.bottles(true).await.ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bottles = runtime.ok().and_then(|runtime| runtime.block_on(all));
    match bottles {
        Some(bottles) => bottles.into_iter().filter(wanted).map(|bottle| bottle.slug).collect(),
        None => {
            let states = std::fs::read_dir(home.root.join("state")).into_iter().flatten().flatten();
            states.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        }
    }
}

/// Completes names of agents.
pub fn agents() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| {
        let shelf = super::manifest::shelf().ok();
        fitting(typed, shelf.iter().flat_map(|shelf| shelf.agents().into_keys()).map(|name| name.to_string()))
    })
}

/// Completes names of bottle manifests.
pub fn bottles() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| {
        let shelf = super::manifest::shelf().ok();
        fitting(typed, shelf.iter().flat_map(|shelf| shelf.bottles().into_keys()).map(|name| name.to_string()))
    })
}

/// Completes names of providers that have a Dockerfile.
pub fn dockerfiles() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| {
        let home = Home::from_env().ok();
        fitting(typed, home.iter().flat_map(crate::image::names))
    })
}

/// Completes names of images that bb has made.
pub fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &std::ffi::OsStr| {
        let engine = super::image::engine().ok();
        let images = engine.and_then(|engine| engine.images(crate::image::LABEL).ok()).unwrap_or_default();
        fitting(typed, images.into_iter().flat_map(|image| image.names))
    })
}

fn fitting(typed: &std::ffi::OsStr, names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let mut names: Vec<String> = names.filter(|name| name.starts_with(&*typed)).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

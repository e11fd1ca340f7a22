//! `bb image`: the images that bb makes for backend `docker`: built ahead, listed, removed. Arguments and printing; what an
//! image is made of is decided in [`crate::image`].

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::bottle::docker::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::image::host::{Host, check_network};
use crate::image::{self, Desk, LABEL, Need, Options, Stop, Wanted};
use crate::lua::log::Output;
use crate::lua::progress::Progress;

use super::out::{self, Table};

/// The images that bb makes for backend `docker` (docs/backends.md).
///
/// The engine is that of DOCKER_HOST, else the first that answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(BuildArgs),
    Ls(LsArgs),
    Rm(RmArgs),
}

/// Build the image of a provider, or of a Dockerfile, where the engine has none of this content; print its name.
///
/// A launch does the same when it needs the image. With --json one object a line on stdout, {"v": 1, "type": "image", "image",
/// "state": "building" | "built" | "there", "step"?, "steps"?, "text"?}.
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// The provider whose Dockerfile is taken: $BB_HOME/images/NAME.Dockerfile, else the shipped one
    #[arg(value_name = "PROVIDER", required_unless_present = "dockerfile", add = super::completions::dockerfiles())]
    provider: Option<String>,
    /// A Dockerfile in place of the provider's; its directory is what it may copy
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    dockerfile: Option<PathBuf>,
    /// A build argument, NAME=VALUE; NAME alone takes the environment's. No secret: it is in the image's history
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
    /// Build it also where it is there, and use nothing of an earlier build
    #[arg(long)]
    no_cache: bool,
    /// The network of its steps: none or host; the engine's own when absent. BB_BUILD_NETWORK does the same
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

/// List the images that bb has made.
///
/// With --json one object a line: {"v": 1, "type": "image", "image", "provider", "size", "created"}.
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

/// Remove images that bb has made; others are refused.
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Their names, as bb image ls lists them
    #[arg(required = true, value_name = "NAME", add = super::completions::images())]
    names: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    match args.command {
        Command::Build(args) => out::block_on(build(args)),
        Command::Ls(args) => ls(&args).unwrap_or_else(|error| out::fail(&error)),
        Command::Rm(args) => rm(&args),
    }
}

/// Gets the engine that images are made by.
///
/// # Errors
/// `backend_unavailable` where none answers.
pub fn engine() -> Result<Engine> {
    Engine::find(std::env::var("DOCKER_HOST").ok().as_deref())
}

/// Finds what is to be built.
fn wanted(args: &BuildArgs) -> Result<Wanted> {
    let home = Home::from_env()?;
    let build_args =
        image::args::said(&args.build_args, &|name| std::env::var(name).ok()).map_err(|e| e.at("--build-arg"))?;
    let Some(path) = &args.dockerfile else {
        let recipe = image::of_named_provider(args.provider.as_deref().unwrap_or_default(), &home)?;
        return Wanted::Made(recipe).with_args(build_args);
    };
    let provider = args.provider.as_deref().unwrap_or("command");
    crate::name::Name::parse(provider).map_err(|e| Error::new(Kind::Usage, e.to_string()).hint(crate::name::HINT))?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
    let user_home = std::env::var_os("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let desk = Desk { home: &home, user_home: user_home.as_deref(), workspace: None };
    Wanted::Made(image::of_file(provider, &path, &desk)?).with_args(build_args)
}

async fn build(args: BuildArgs) -> Result<u8> {
    let wanted = wanted(&args)?;
    let mut host = Host::of_process()?;
    if let Some(network) = args.network.clone() {
        check_network(&network).map_err(|e| e.at("--network"))?;
        host.network = Some(network);
    }
    let name = wanted.name().to_owned();
    let stop = Stop::default();
    let (ended, json, no_cache) = (stop.clone(), args.json, args.no_cache);
    let mut work = tokio::task::spawn_blocking(move || -> Result<bool> {
        let engine = engine()?;
        if !no_cache && image::need(&engine, &wanted)? == Need::Nothing {
            return Ok(false);
        }
        let mut progress = Progress::new(Output::of_process(json, false), wanted.name(), Need::Build);
        let options = Options { no_cache, host };
        image::make(&engine, &wanted, options, &ended, &mut |event| progress.event(&event))?;
        progress.done();
        Ok(true)
    });
    let on = |kind| signal(kind).map_err(|e| Error::internal(format!("signals cannot be caught: {e}")));
    let (mut interrupts, mut terms) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let done = tokio::select! {
        done = &mut work => done,
        _ = interrupts.recv() => { stop.stop(); work.await }
        _ = terms.recv() => { stop.stop(); work.await }
    };
    let built = done.map_err(|e| Error::internal(format!("the build's thread failed: {e}")))??;
    match (built, args.json) {
        (true, true) => {}
        (false, true) => out::json(&json!({"v": 1, "type": "image", "image": name, "state": "there"}))?,
        (built, false) => {
            if !built {
                out::note("it is there already; --no-cache builds it anew");
            }
            out::print(&name)?;
        }
    }
    Ok(0)
}

fn ls(args: &LsArgs) -> Result<u8> {
    let mut images = engine()?.images(LABEL)?;
    images.sort_by(|a, b| a.names.cmp(&b.names));
    let mut table = Table::new(&["NAME", "PROVIDER", ">SIZE", "CREATED"]);
    for image in images {
        // What is of no name is left of a build that was done anew: prune it with the engine's own command.
        for name in &image.names {
            let provider = image.labels.get(LABEL).cloned().unwrap_or_default();
            if args.json {
                out::json(&json!({"v": 1, "type": "image", "image": name, "provider": provider, "size": image.size,
                    "created": image.created}))?;
                continue;
            }
            let created = Timestamp::from_second(image.created).unwrap_or_default().to_zoned(TimeZone::system());
            let created = created.strftime("%Y-%m-%d %H:%M").to_string();
            table.row(vec![name.clone(), provider, format!("{:.1} MB", image.size as f64 / 1e6), created]);
        }
    }
    if !args.json {
        out::print(table.render(out::colour()).trim_end())?;
    }
    Ok(0)
}

fn rm(args: &RmArgs) -> u8 {
    let mut code = 0;
    for name in &args.names {
        if let Err(error) = remove(name) {
            code = out::fail(&error);
        }
    }
    code
}

fn remove(name: &str) -> Result<()> {
    let engine = engine()?;
    let place = format!("unix://{}", engine.socket().display());
    let known = engine.images(LABEL)?;
    if !known.iter().any(|image| image.names.iter().any(|known| known == name)) {
        let names: Vec<&str> = known.iter().flat_map(|image| &image.names).map(String::as_str).collect();
        let hint = match crate::error::nearest(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "bb image ls lists those that there are".to_owned(),
        };
        return Err(Error::new(Kind::Usage, format!("bb has made no image `{name}`")).at(place).hint(hint));
    }
    engine.remove_image(name)?;
    out::print(&format!("{}  removed", crate::printable::printable(name, false)))
}

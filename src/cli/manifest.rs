//! `bb manifest`: are the files sound, and what do they come to? Reads files; starts nothing.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::launch::{unknown_in_agent, unknown_in_bottle, unknown_in_settings, unknown_names};
use crate::manifest::{Effective, Found, Origin, Shelf, effective, rows};
use crate::name::{HINT, Name};
use crate::settings::Settings;
use crate::yaml::read::joined;

use super::out::{self, Table};

/// Check manifests, and see what they come to.
///
/// Bottles are read from $BB_HOME/bottles, agents from $BB_HOME/agents and from .bot-bottle/agents of the repository that you
/// are in. What they may say: docs/manifests.md.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(CheckArgs),
    Show(ShowArgs),
}

/// List every fault of one manifest, or of all and of settings.yml; exit code 0 or 2.
///
/// A fault is a line `FILE:LINE: MESSAGE (HINT)`. With --json one object a line, {"v": 1, "type": "fault", "kind", "message",
/// "place"?, "hint"?} or {"v": 1, "type": "warning", "message"}, and at the end {"v": 1, "type": "result", "ok", "files", "faults"}.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// A file in a directory `bottles` or `agents`, or the home's settings.yml; all of them when absent
    file: Option<PathBuf>,
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

/// Show which files an agent is made of, or with --effective what they come to.
///
/// With --json one object a line: {"v": 1, "type": "file", "kind": "agent"|"bottle", "name", "origin", "path"}, and with
/// --effective {"v": 1, "type": "value", "key", "value", "from"}.
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The agent
    #[arg(add = super::completions::agents())]
    agent: String,
    /// Bottles in merge order, in place of the agent's own
    #[arg(long = "bottle", value_name = "NAME", add = super::completions::bottles())]
    bottles: Vec<String>,
    /// Every value that holds, with the file and line that it came from
    #[arg(long)]
    effective: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    let done = match args.command {
        Command::Check(args) => check(&args),
        Command::Show(args) => show(&args),
    };
    done.unwrap_or_else(|error| out::fail(&error))
}

/// Opens the shelf of whoever runs this.
///
/// # Errors
/// `usage` where there is no home, or no working directory.
pub fn shelf() -> Result<Shelf> {
    let home = Home::from_env()?;
    let user_home = user_home();
    let cwd = std::env::current_dir().map_err(|e| {
        Error::new(Kind::Usage, format!("the working directory cannot be used: {e}"))
            .hint("cd to a directory that exists")
    })?;
    Ok(Shelf::open(&home, user_home.as_deref(), &cwd))
}

fn check(args: &CheckArgs) -> Result<u8> {
    let shelf = shelf()?;
    let (files, faults) = match &args.file {
        Some(path) if is_settings(path)? => (1, faults_of_settings()?),
        Some(path) => (1, faults_of(&shelf, path)?),
        None => {
            let (files, mut faults) = all_faults(&shelf);
            faults.extend(faults_of_settings()?);
            (files, faults)
        }
    };
    let warnings = if args.file.is_some() { Vec::new() } else { shelf.warnings() };
    for warning in &warnings {
        if args.json {
            out::json(&json!({"v": 1, "type": "warning", "message": warning}))?;
        } else {
            out::note(&format!("warning: {warning}"));
        }
    }
    for fault in &faults {
        if args.json {
            out::json(&fault_line(fault)?)?;
        } else {
            let place = fault.place.as_deref().map(|place| format!("{place}: ")).unwrap_or_default();
            let hint = fault.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            out::print(&crate::printable::printable(&format!("{place}{}{hint}", fault.message), false))?;
        }
    }
    let ok = faults.is_empty();
    if args.json {
        out::json(&json!({"v": 1, "type": "result", "ok": ok, "files": files, "faults": faults.len()}))?;
    } else {
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let found = if ok { "no fault".to_owned() } else { plural(faults.len(), "fault") };
        out::note(&format!("{}, {found}", plural(files, "manifest")));
    }
    Ok(if ok { 0 } else { Kind::Usage.exit_code() })
}

fn fault_line(fault: &Error) -> Result<serde_json::Value> {
    let mut line = serde_json::to_value(fault).map_err(|e| Error::internal(e.to_string()))?;
    line["v"] = 1.into();
    line["type"] = "fault".into();
    Ok(line)
}

/// Reads one file, which is a bottle's or an agent's by the directory that it is in.
fn faults_of(shelf: &Shelf, path: &Path) -> Result<Vec<Error>> {
    let path = std::path::absolute(path).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    let within = |name: &str| path.parent().and_then(Path::file_name).is_some_and(|dir| dir == name);
    let name = Name::of_file(&path).map_err(|e| {
        Error::new(Kind::Usage, e.to_string()).at(shelf.shown(&path)).hint(format!("rename the file: {HINT}"))
    });
    let mut faults = Faults(Vec::new());
    faults.add(name.as_ref().err().cloned());
    let found = Found { origin: shelf.origin(&path), path: path.clone() };
    // One that is taken from elsewhere by its name, or from nowhere, is looked at by itself.
    let same =
        |taken: &Found| taken.path.canonicalize().ok().is_some_and(|p| path.canonicalize().is_ok_and(|q| p == q));
    if within("bottles") {
        faults.add(faults_in_bottle(shelf, &path));
        if let Ok(name) = name.as_ref()
            && shelf.bottles().get(name).is_some_and(same)
        {
            faults.add(faults_together(shelf, None, std::slice::from_ref(name)));
        }
    } else if within("agents") {
        faults.add(faults_in_agent(shelf, &found));
        if let Ok(name) = name.as_ref()
            && shelf.agents().get(name).is_some_and(same)
        {
            faults.add(faults_of_agent(shelf, name));
        }
    } else {
        return Err(Error::new(Kind::Usage, "it is in no directory `bottles` or `agents`, which says what a file is")
            .at(path.display().to_string())
            .hint("name a file in $BB_HOME/bottles, $BB_HOME/agents or .bot-bottle/agents"));
    }
    Ok(faults.sorted())
}

/// Faults, each once.
struct Faults(Vec<Error>);

impl Faults {
    fn add(&mut self, list: impl IntoIterator<Item = Error>) {
        for fault in list {
            // What is seen of a file by itself and of what it comes to may differ in what they propose.
            if !self.0.iter().any(|have| (&have.message, &have.place) == (&fault.message, &fault.place)) {
                self.0.push(fault);
            }
        }
    }

    /// Gets those of one file together, by line; files in the order of their first fault.
    fn sorted(mut self) -> Vec<Error> {
        let parts = |fault: &Error| {
            let place = fault.place.clone().unwrap_or_default();
            let parts = place.rsplit_once(':').map(|(file, line)| (file.to_owned(), line.parse::<usize>()));
            if let Some((file, Ok(line))) = parts { (file, line) } else { (place, 0) }
        };
        let mut files: Vec<String> = Vec::new();
        for (file, _) in self.0.iter().map(parts) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        self.0.sort_by_key(|fault| {
            let (file, line) = parts(fault);
            (files.iter().position(|have| *have == file), line)
        });
        self.0
    }
}

pub(super) fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Lists what is wrong with a bottle's file by itself, and what it names and nothing has.
fn faults_in_bottle(shelf: &Shelf, path: &Path) -> Vec<Error> {
    let (bottle, mut faults) = shelf.parse_bottle(path);
    match (bottle, Home::from_env()) {
        (Some(bottle), Ok(home)) => faults.extend(unknown_in_bottle(&bottle, shelf, &home)),
        (_, Err(error)) => faults.push(error),
        _ => {}
    }
    faults
}

/// As [`faults_in_bottle`], of an agent's.
fn faults_in_agent(shelf: &Shelf, found: &Found) -> Vec<Error> {
    let (agent, mut faults) = shelf.parse_agent(found);
    match (agent, Home::from_env()) {
        (Some(agent), Ok(home)) => faults.extend(unknown_in_agent(&agent, shelf, &home, user_home().as_deref())),
        (_, Err(error)) => faults.push(error),
        _ => {}
    }
    faults
}

fn is_settings(path: &Path) -> Result<bool> {
    let path = std::path::absolute(path).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    Ok(path == Home::from_env()?.settings())
}

/// Reads what a launch takes of the host's settings, and the files in which they say that credentials lie.
fn faults_of_settings() -> Result<Vec<Error>> {
    let home = Home::from_env()?;
    Ok(match Settings::load(&home) {
        Err(faults) => faults,
        Ok(settings) => {
            let mut faults = unknown_in_settings(&settings, &home);
            faults.extend(settings.credentials.for_user(user_home().as_deref()).faults());
            faults
        }
    })
}

/// Puts an agent and bottles together and lists what is wrong with them, and what they name and nothing has.
fn faults_together(shelf: &Shelf, agent: Option<&str>, bottles: &[Name]) -> Vec<Error> {
    match (effective(shelf, agent, bottles), Home::from_env()) {
        (Ok(merged), Ok(home)) => unknown_names(&merged, &home, user_home().as_deref()),
        (Ok(_), Err(error)) => vec![error],
        (Err(faults), _) => faults,
    }
}

/// Puts an agent and its bottle together.
fn faults_of_agent(shelf: &Shelf, name: &Name) -> Vec<Error> {
    match shelf.agent(name.as_str()) {
        // Its bottle may be chosen when it is started.
        Ok(agent) if agent.bottle.is_none() => Vec::new(),
        Ok(_) => faults_together(shelf, Some(name.as_str()), &[]),
        Err(list) => list,
    }
}

/// Reads every file, and puts every agent and bottle together.
fn all_faults(shelf: &Shelf) -> (usize, Vec<Error>) {
    let (agents, bottles) = (shelf.agents(), shelf.bottles());
    let mut faults = Faults(Vec::new());
    for (name, found) in &bottles {
        faults.add(faults_in_bottle(shelf, &found.path));
        faults.add(faults_together(shelf, None, std::slice::from_ref(name)));
    }
    for (name, found) in &agents {
        faults.add(faults_in_agent(shelf, found));
        faults.add(faults_of_agent(shelf, name));
    }
    (agents.len() + bottles.len(), faults.sorted())
}

fn show(args: &ShowArgs) -> Result<u8> {
    let shelf = shelf()?;
    let parse = |name: &String| Name::parse(name).map_err(|e| Error::new(Kind::Usage, e.to_string()).hint(HINT));
    let bottles: Vec<Name> = args.bottles.iter().map(parse).collect::<Result<_>>()?;
    for warning in shelf.warnings() {
        out::note(&format!("warning: {warning}"));
    }
    let merged = effective(&shelf, Some(&args.agent), &bottles).map_err(joined)?;
    if !args.effective {
        return files(&shelf, &merged, args.json);
    }
    let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
    for row in rows(&merged) {
        if args.json {
            out::json(&json!({"v": 1, "type": "value", "key": row.key, "value": row.value, "from": row.from}))?;
        } else {
            table.row(vec![row.key, row.value, row.from]);
        }
    }
    if !args.json {
        out::print(table.render(out::colour()).trim_end())?;
    }
    Ok(0)
}

/// Lists the files that an agent is made of, in the order in which they are folded, the agent last.
fn files(shelf: &Shelf, merged: &Effective, as_json: bool) -> Result<u8> {
    let (agents, bottles) = (shelf.agents(), shelf.bottles());
    let bottles = merged.folded.iter().filter_map(|name| Some(("bottle", name, bottles.get(name)?)));
    let agent = merged.agent.iter().filter_map(|(name, _)| Some(("agent", name, agents.get(name)?)));
    let mut table = Table::new(&["KIND", "NAME", "OF", "FILE"]);
    for (kind, name, found) in bottles.chain(agent) {
        let (origin, path) = (found.origin.as_str(), shelf.shown(&found.path));
        if as_json {
            let name = name.as_str();
            out::json(&json!({"v": 1, "type": "file", "kind": kind, "name": name, "origin": origin, "path": path}))?;
        } else {
            table.row(vec![kind.to_owned(), name.to_string(), origin.to_owned(), path]);
        }
    }
    if !as_json {
        out::print(table.render(out::colour()).trim_end())?;
    }
    Ok(0)
}

impl Origin {
    /// Says whose a file is.
    fn as_str(self) -> &'static str {
        match self {
            Origin::Home => "host",
            Origin::Repository => "repository",
        }
    }
}

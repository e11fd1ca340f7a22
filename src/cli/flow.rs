//! What the commands that run a flow have in common (`bb start`, `bb resume`): reading what was given, and running it. Arguments
//! only: what happens is the flow's.

use std::io::{IsTerminal, Read};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::run::drive;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::launch::limits_of_flags;
use crate::lua::log::Output;
use crate::lua::values::parse_duration;
use crate::lua::{Recipe, Settings};

/// The flow that ships in the binary.
const SHIPPED: &str = include_str!("../../lua/flows/start.lua");

/// Longest flow of a home, and longest prompt in a file.
const LONGEST: u64 = 4 << 20;

/// How a flow runs.
pub struct Manner {
    /// Against stand-ins of the model APIs.
    pub rehearse: bool,
    /// It writes NDJSON on stdout.
    pub json: bool,
}

/// Tells whether somebody is there to be asked.
fn at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Tells whether what is written to standard output is not for a person's eyes: no agent's interface belongs there.
pub fn redirected(json: bool) -> bool {
    json || !std::io::stdout().is_terminal()
}

/// Tells whether nothing is to be started: by the flag, or by the environment.
pub fn dry_run(flag: bool) -> bool {
    flag || variable("BOT_BOTTLE_DRY_RUN").is_some_and(|v| v == "1")
}

/// Checks `--timeout` before anything has an effect.
///
/// # Errors
/// `usage` where it is no time.
pub fn check_timeout(timeout: Option<&str>) -> Result<()> {
    timeout.map_or(Ok(()), |timeout| parse_duration(timeout).map(drop).map_err(|e| e.at("--timeout")))
}

/// Reads `--budget` into what a flow gets, if it was given.
///
/// # Errors
/// `usage` where it is no amount.
pub fn budget(home: &Home, flags: &[String]) -> Result<Option<Value>> {
    let limits = limits_of_flags(flags, &crate::provider::names(home))?;
    Ok((!limits.is_empty()).then(|| amounts(&limits)))
}

/// Runs the flow `name`, whose `bb.args` are `given`; gets its exit code.
///
/// # Errors
/// What keeps it from being run.
pub fn play(home: Home, name: &str, given: Value, manner: Manner) -> Result<u8> {
    let recipe = flow(&home, name)?;
    let out = Output::of_process(manner.json, false);
    let (rehearse, terminal) = (manner.rehearse, at_terminal());
    drive(recipe, Settings { home, args: Vec::new(), given: Some(given), rehearse, timeout: None, out, terminal })
}

/// Gets a variable of the environment that is not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Gets a flow: the home's own, else the shipped one. It runs as declared: what lies in the home may allow.
///
/// # Errors
/// `usage` where the home's own cannot be read.
fn flow(home: &Home, name: &str) -> Result<Recipe> {
    let own = home.root.join("flows").join(name);
    let place = own.display().to_string();
    // Of a link itself: one that leads nowhere is something, too.
    match std::fs::symlink_metadata(&own) {
        Ok(_) => Recipe::read(&own),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Recipe::shipped_flow(name, home.root.join("flows"), SHIPPED.to_owned())
        }
        // Not the shipped one: what the user's own file says is unknown then, and it may ask for more.
        Err(e) => Err(Error::new(Kind::Usage, format!("the flow cannot be read: {e}")).at(place)),
    }
}

/// Gets the task, word for word.
///
/// # Errors
/// `usage` where the file cannot be read, or is no text.
pub fn prompt(text: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else { return Ok(text.map(str::to_owned)) };
    let place = path.display().to_string();
    let wrong = |what: String| {
        Error::new(Kind::Usage, format!("the prompt {what}"))
            .at(place.clone())
            .hint("name a text file, or - for standard input")
    };
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong("is longer than 4 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text".to_owned()))?;
    // The newline at the end of a file is the file's.
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    if text.trim().is_empty() {
        return Err(wrong("is empty".to_owned()));
    }
    Ok(Some(text))
}

/// Writes limits as Lua reads them.
fn amounts(limits: &[crate::api::Limit]) -> Value {
    let amount = |tokens: Option<u64>| tokens.map_or_else(|| json!("unlimited"), |tokens| json!(tokens.to_string()));
    match limits {
        [one] if one.provider == "*" => json!({"tokens": amount(one.tokens)}),
        _ => limits
            .iter()
            .map(|limit| {
                let name = if limit.provider == "*" { "tokens" } else { &limit.provider };
                (name.to_owned(), amount(limit.tokens))
            })
            .collect::<Map<_, _>>()
            .into(),
    }
}

//! `bb setup`: the first settings, bottles and agents, for the agent CLIs that are on this machine. Writes files that are
//! not there yet, and nothing else.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::provider;
use crate::settings::login;
use crate::yaml::read::joined;

use super::out;

/// What the host may spend on each provider until somebody says otherwise.
const TOKENS: &str = "5M";

/// The providers that setup writes a bottle for, with what people call their CLIs.
const KNOWN: [(&str, &str); 4] =
    [("claude", "Claude Code"), ("codex", "Codex"), ("gemini", "Gemini CLI"), ("pi", "Pi")];

/// Write the first settings.yml, bottles and agents.
///
/// For each agent CLI on PATH a bottle that lets it reach its model API and nothing else, and an agent; and a hard budget
/// for the whole host. Files that are there already stay as they are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> u8 {
    setup(args).unwrap_or_else(|error| out::fail(&error))
}

fn setup(args: &Args) -> Result<u8> {
    let home = Home::from_env()?;
    let mut found = Vec::new();
    for (name, title) in KNOWN {
        let Ok(provider) = provider::load(name, &home) else { continue };
        match provider.found() {
            Some(path) => {
                out::note(&format!("found {title}: {}", path.display()));
                let mut ways: Vec<String> = provider.credential_variables().iter().map(|v| (*v).to_owned()).collect();
                ways.extend(provider.logins().iter().map(|form| login::title(*form).to_owned()));
                found.push((name, title, ways.join(" or ")));
            }
            None => tracing::debug!(name, "not on PATH"),
        }
    }
    if found.is_empty() {
        let names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
        return Err(Error::new(Kind::AgentMissing, format!("none of {} is in PATH", names.join(", ")))
            .hint("npm install -g @anthropic-ai/claude-code, or try bb run quickstart, which needs none"));
    }
    let mut written = 0;
    let mut put = |path: &Path, text: String| -> Result<()> {
        let shown = path.display().to_string();
        if path.symlink_metadata().is_ok() {
            out::note(&format!("kept  {shown}"));
            return Ok(());
        }
        if !args.dry_run {
            write(path, &text).map_err(|e| {
                Error::new(Kind::Usage, format!("it cannot be written: {e}"))
                    .at(shown.clone())
                    .hint("set BB_HOME to a directory of your own")
            })?;
        }
        written += 1;
        out::print(&format!("{} {shown}", if args.dry_run { "would write" } else { "wrote" }))
    };
    put(&home.settings(), settings(&found))?;
    for (name, title, variable) in &found {
        put(&home.root.join("bottles").join(format!("{name}.md")), bottle(name, title, variable))?;
        put(&home.root.join("agents").join(format!("{name}.md")), agent(name, title))?;
    }
    // One that is wrong launches nothing, and stays as it is.
    if let Err(faults) = super::faults::settings(&home) {
        let hint = format!("edit {}, or move it away and run bb setup again", home.settings().display());
        return Err(match joined(faults) {
            fault if fault.hint.is_some() => {
                let own = fault.hint.clone().unwrap_or_default();
                fault.hint(format!("{own}; {hint}"))
            }
            fault => fault.hint(hint),
        });
    }
    let first = found.first().map_or("claude", |(name, ..)| name);
    if written == 0 {
        out::note("everything is there already");
    }
    out::note(&format!("next: bb start {first}, or bb start {first} --dry-run to see what would hold"));
    Ok(0)
}

/// Makes a file that was not there, and its directory.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn settings(found: &[(&str, &str, String)]) -> String {
    let mut text = String::from(
        "# What holds for every bottle of this host (docs/settings.md).\n\
         #\n\
         # Tokens that each provider may use, all bottles and all days together. A hard limit binds whatever a bottle, an\n\
         # agent or a recipe allows itself. It is never reset: raise the number to go on, or write `per: day` (week, month)\n\
         # beside it, and it begins anew by itself (docs/budgets.md).\n\
         budget:\n",
    );
    for (name, ..) in found {
        text.push_str(&format!("  {name}: {{tokens: {TOKENS}, hard: true}}\n"));
    }
    text.push_str(
        "\n# What happens to a bottle whose budget is spent: cutoff (its routes are dropped, the agent goes on and can say so),\n\
         # pause, freeze (bb resume takes it up again) or kill.\n\
         shutdown: cutoff\n",
    );
    text
}

fn bottle(name: &str, title: &str, variable: &str) -> String {
    format!(
        "---\n\
         # What an agent in this bottle may do (docs/manifests.md).\n\
         #\n\
         # The provider brings the one route to its model API, with its credential:\n\
         # {variable},\n\
         # which never enters the bottle.\n\
         agent_provider: {{template: {name}}}\n\
         \n\
         # Hosts that it may reach beside that, each by its exact name:\n\
         # egress:\n\
         #   routes:\n\
         #     - docs.rs\n\
         #     - {{host: api.github.com, auth: {{scheme: Bearer, token_ref: GITHUB_TOKEN}}, matches: [{{methods: [GET]}}]}}\n\
         \n\
         # Tokens for one launch; {{tokens: 500k, per: day}} would be for all launches of a day. The host's own limit in\n\
         # settings.yml binds as well.\n\
         budget: 500k\n\
         ---\n\
         {title} with its model API and nothing else.\n"
    )
}

fn agent(name: &str, title: &str) -> String {
    format!(
        "---\n\
         # An agent: the bottle it works in, and what it is told before its task.\n\
         bottle: {name}\n\
         # skills: [house-style]\n\
         ---\n\
         You work in a sandbox ({title} in a bottle). When a request is refused, do not try other ways: say what you need.\n"
    )
}

//! The command line: one file per command, arguments and printing only.
//!
//! Results go to standard output, everything for people to standard error. Exit codes are those of [`crate::error::Kind`].

use clap::{Parser, Subcommand};

pub mod act;
pub mod controller;
pub mod cut;
pub mod doctor;
pub mod exec;
pub mod kill;
pub mod logs;
pub mod manifest;
pub mod out;
pub mod ps;
pub mod run;
pub mod usage;

#[cfg(test)]
mod docs;

/// Shown below the help of `bb`.
const EXIT_CODES: &str = "\
Exit codes:
    0  ok
    1  the recipe or bb itself failed
    2  wrong usage or syntax, no such bottle
    3  a budget is spent, or a policy said no
    4  an approval or a grant is missing
    5  this machine or home lacks something (`bb doctor`)
  124  a deadline passed
  130  Ctrl-C
`bb exec` ends with the code of its command. More: docs/exit-codes.md, docs/errors.md.";

/// Run coding agents in bottles: sandboxed, metered, and cut off when their budget is spent.
#[derive(Debug, Parser)]
#[command(name = "bb", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Ps(ps::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Cut(cut::Args),
    Kill(kill::Args),
    Usage(usage::Args),
    Manifest(manifest::Args),
    Controller(controller::Args),
    Doctor(doctor::Args),
}

/// Runs the command that the arguments name and gives the exit code.
pub fn main() -> u8 {
    // Processes that bb starts itself come first: they must neither parse nor print.
    match std::env::args_os().nth(1).as_deref().and_then(|a| a.to_str()) {
        Some("__keeper") => return crate::bottle::keeper::main(),
        Some("__controller") => return crate::controller::daemon::main(),
        Some("__inside") => return crate::bottle::docker::inside::main(),
        Some("__helper") => return crate::bottle::docker::helper::main(),
        Some("__demo-agent") => {
            let args = std::env::args().skip(2).collect();
            return u8::try_from(crate::provider::demo_agent::main(args)).unwrap_or(1);
        }
        _ => {}
    }
    match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => run::run(args),
            Command::Ps(args) => ps::run(args),
            Command::Logs(args) => logs::run(args),
            Command::Exec(args) => exec::run(args),
            Command::Cut(args) => cut::run(args),
            Command::Kill(args) => kill::run(args),
            Command::Usage(args) => usage::run(args),
            Command::Manifest(args) => manifest::run(args),
            Command::Controller(args) => controller::run(args),
            Command::Doctor(args) => doctor::run(args),
        },
        Err(e) => {
            let _ = e.print();
            if e.use_stderr() { 2 } else { 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        for code in crate::cli::docs::codes() {
            assert!(help.contains(&format!("\n{code:>5}  ")), "{code} is not in the help:\n{help}");
        }
    }
}

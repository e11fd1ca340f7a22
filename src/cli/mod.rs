//! The command line: one file per command, arguments and printing only.
//!
//! Results go to standard output, everything for people to standard error. Exit codes are those of [`crate::error::Kind`].

use clap::{Parser, Subcommand};

pub mod act;
pub mod apply;
pub mod attach;
mod budget;
pub mod commit;
pub mod completions;
pub mod controller;
pub mod cp;
pub mod cut;
pub mod diff;
pub mod doctor;
mod egress;
pub mod exec;
pub mod faults;
pub mod flow;
pub mod freeze;
pub mod image;
pub mod inspect;
pub mod kill;
pub mod ledger;
pub mod logs;
pub mod manifest;
pub mod out;
pub mod pause;
pub mod prune;
pub mod ps;
pub mod resume;
pub mod rm;
mod routes;
pub mod run;
pub mod setup;
pub mod slugs;
pub mod start;
pub mod statusline;
pub mod stop;
mod uncut;
pub mod usage;
mod why;

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
`bb exec` ends with the code of its command, `bb attach` with that of the agent. More: docs/exit-codes.md, docs/errors.md.";

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
    Start(Box<start::Args>),
    Setup(setup::Args),
    Ps(ps::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Cut(cut::Args),
    Uncut(uncut::Args),
    Budget(budget::Args),
    Routes(routes::Args),
    Why(why::Args),
    Egress(egress::Args),
    Freeze(freeze::Args),
    Commit(commit::Args),
    Resume(Box<resume::Args>),
    Pause(pause::Args),
    Thaw(pause::ThawArgs),
    Stop(stop::Args),
    Kill(kill::Args),
    Diff(diff::Args),
    Apply(apply::Args),
    Cp(cp::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Inspect(inspect::Args),
    Image(image::Args),
    Usage(usage::Args),
    Statusline(statusline::Args),
    Ledger(ledger::Args),
    Manifest(manifest::Args),
    Controller(controller::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// Runs the command that the arguments name and gives the exit code.
pub fn main() -> u8 {
    // Processes that bb starts itself come first: they must neither parse nor print.
    match std::env::args_os().nth(1).as_deref().and_then(|a| a.to_str()) {
        Some(crate::bottle::fork_server::ARGUMENT) => return crate::bottle::fork_server::main(),
        Some("__controller") => return crate::controller::daemon::main(),
        Some("__inside") => return crate::bottle::docker::inside::main(),
        Some("__helper") => return crate::bottle::docker::helper::main(),
        Some("__demo-agent") => {
            let args = std::env::args().skip(2).collect();
            return u8::try_from(crate::provider::demo_agent::main(args)).unwrap_or(1);
        }
        _ => {}
    }
    completions::complete(<Cli as clap::CommandFactory>::command);
    match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => run::run(args),
            Command::Start(args) => start::run(*args),
            Command::Setup(args) => setup::run(&args),
            Command::Ps(args) => ps::run(args),
            Command::Logs(args) => logs::run(args),
            Command::Exec(args) => exec::run(args),
            Command::Attach(args) => attach::run(args),
            Command::Cut(args) => cut::run(args),
            Command::Uncut(args) => uncut::run(args),
            Command::Budget(args) => budget::run(args),
            Command::Routes(args) => routes::run(args),
            Command::Why(args) => why::run(args),
            Command::Egress(args) => egress::run(args),
            Command::Freeze(args) => freeze::run(args),
            Command::Commit(args) => commit::run(args),
            Command::Resume(args) => resume::run(*args),
            Command::Pause(args) => pause::run(args),
            Command::Thaw(args) => pause::thaw(args),
            Command::Stop(args) => stop::run(args),
            Command::Kill(args) => kill::run(args),
            Command::Diff(args) => diff::run(args),
            Command::Apply(args) => apply::run(args),
            Command::Cp(args) => cp::run(args),
            Command::Rm(args) => rm::run(args),
            Command::Prune(args) => prune::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Image(args) => image::run(args),
            Command::Usage(args) => usage::run(args),
            Command::Statusline(args) => statusline::run(&args),
            Command::Ledger(args) => ledger::run(args),
            Command::Manifest(args) => manifest::run(args),
            Command::Completions(args) => completions::run(&args),
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
    fn start_takes_what_bot_bottles_takes() {
        let read = |words: &str| match Cli::try_parse_from(words.split(' ')).map(|cli| cli.command) {
            Ok(Command::Start(args)) => *args,
            other => panic!("{words}: {other:?}"),
        };
        let all = read(
            "bb start tester --dry-run --cwd --backend docker --headless --bottle dev --bottle more --label L \
             --color red --prompt -x",
        );
        assert_eq!((all.agent.as_deref(), all.prompt.as_deref()), (Some("tester"), Some("-x")));
        assert!(all.dry_run && all.cwd && all.headless);
        assert_eq!((all.backend.as_deref(), all.label.as_deref()), (Some("docker"), Some("L")));
        assert_eq!((all.bottles, all.color.as_deref()), (vec!["dev".to_owned(), "more".to_owned()], Some("red")));
        // All of it may be left out; a prompt may look like an option, and the name may come last.
        let none = read("bb start");
        assert!(none.agent.is_none() && none.bottles.is_empty() && none.prompt.is_none() && none.color.is_none());
        assert!(!none.headless && !none.dry_run && !none.cwd && none.backend.is_none() && none.label.is_none());
        for prompt in ["-", "--help", "--headless", "@notes.md"] {
            let args = read(&format!("bb start --prompt {prompt} tester"));
            assert_eq!(
                (args.prompt.as_deref(), args.headless, args.agent.as_deref()),
                (Some(prompt), false, Some("tester"))
            );
        }
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        for code in crate::cli::docs::codes() {
            assert!(help.contains(&format!("\n{code:>5}  ")), "{code} is not in the help:\n{help}");
        }
    }
}

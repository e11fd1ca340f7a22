//! The real CLIs at a terminal, and their sessions: left in the midst, frozen, and continued by the CLI itself.

use serde_json::json;

use super::{CLAUDE, CODEX, Cli, GEMINI, PI};
use crate::support::person::{person_in, written};
use crate::support::rehearsed::{is_in_one_file, silence};
use crate::support::tmux::Tmux;
use crate::support::{World, have_tools};

/// A bottle and an agent for a CLI.
fn set_up(world: &World, cli: &Cli) {
    let home = world.bb_home();
    let front = format!("agent_provider: {{template: {}}}\nbudget: unlimited\n", cli.name);
    world.write(home.join("bottles/dev.md"), format!("---\n{front}---\n"));
    world.write(home.join("agents/worker.md"), "---\nbottle: dev\n---\nYou are careful.\n");
    world.make_dir("project");
}

/// Has a person start a CLI, wait until it shows `ready`, say something, see the answer, and leave.
fn talks(cli: &Cli, ready: &str) {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in cli.worlds() {
        set_up(&world, cli);
        let args = ["start", "worker", "--bottle", "dev", "--label", "talk", "--color", "green", "--rehearse"];
        let steps = [
            json!(["expect", "[1] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["type", "y\r"]),
            json!(["expect", "bottle talk"]),
            json!(["expect", ready]),
            json!(["quiet"]),
            // No login, no trust, no update is asked about: what is typed is the first message.
            json!(["type", "zebra"]),
            json!(["expect", "zebra"]),
            json!(["quiet"]),
            json!(["insist", "\r", "Done."]),
            json!(["resize", 30, 100]),
            json!(["quiet"]),
            json!(["run", format!("{} kill talk", world.exe().display()), 0]),
            json!(["expect", "session ended"]),
            json!(["end", 1]),
        ];
        let person = person_in(&world, "talks", "24x80", "project", &args, &steps);
        written(&person.wait().expect(0));
    }
}

#[test]
fn claude_has_its_own_interface_at_a_terminal() {
    talks(&CLAUDE, "bypass permissions on");
}

#[test]
fn codex_has_its_own_interface_at_a_terminal() {
    talks(&CODEX, "Ask Codex to do anything");
}

#[test]
fn gemini_has_its_own_interface_at_a_terminal() {
    if !have_tools(&["tmux"]) {
        return;
    }
    for world in GEMINI.worlds() {
        set_up(&world, &GEMINI);
        // It draws what is typed in pieces, so its screen is looked at.
        let tmux = Tmux::start(&world, 100, 40);
        let exe = world.exe().display().to_string();
        tmux.runs(&format!("{exe} start worker --bottle dev --label talk --color green --rehearse"));
        tmux.shows("[1] dev");
        tmux.presses(&["Enter"]);
        tmux.shows("Start it? [y/N]");
        tmux.runs("y");
        tmux.shows_and_keeps("gemini-1-interface", "Type your message");
        // No login, no trust, no update is asked about: what is typed is the first message.
        tmux.types("zebra");
        tmux.shows("zebra");
        // Enter right behind other keys is a new line to it.
        tmux.insists(&["Enter"], "Done.");
        tmux.resize(80, 24);
        // An Enter too many has it answer again, and what was typed may be above what 24 rows show.
        tmux.shows_and_keeps("gemini-2-answer", "Done.");
        world.bb(&["kill", "talk"]).expect(0);
        tmux.shows("session ended");
    }
}

#[test]
fn pi_has_its_own_interface_at_a_terminal() {
    talks(&PI, "(auto)");
}

/// Freezes a CLI in the midst of its first turn, resumes it with another task, and finds both in one session of its own.
fn goes_on(cli: &Cli) {
    for world in cli.worlds() {
        set_up(&world, cli);
        silence(&world);
        let project = world.home().join("project");
        let kept = world.bb_home().join("state/worker/keep");
        let begins = |args: &[&str], texts: &[&str]| {
            let running = world.command(args).cwd(&project).patience(super::PATIENCE).spawn();
            running.says("bottle worker");
            let begun = world.until(super::PATIENCE, || is_in_one_file(&kept, texts));
            assert!(begun, "{}: {texts:?} in no session\n{}\n{}", cli.name, running.stdout(), running.stderr());
            world.bb(&["freeze", "worker"]).expect(0);
            running.signal(nix::sys::signal::SIGINT);
            running.wait();
        };
        let start = ["start", "worker", "--headless", "--prompt", "the first word is plum", "--budget", "unlimited"];
        begins(&start, &["the first word is plum"]);
        let resume = ["resume", "worker", "--headless", "--prompt", "and the second is pear"];
        begins(&resume, &["the first word is plum", "and the second is pear"]);
        world.bb(&["rm", "worker"]).expect(0);
        assert!(!kept.exists());
    }
}

#[test]
fn claude_continues_its_own_session_after_a_freeze() {
    goes_on(&CLAUDE);
}

#[test]
fn codex_continues_its_own_session_after_a_freeze() {
    goes_on(&CODEX);
}

//! `bb start` in tmux, as a person would: pick, look, say yes, work in the agent's own interface, resize, leave it, come back, end. What
//! is on the screen is asked of tmux, which draws it as a terminal does. With `BB_TEST_SCREENS=DIRECTORY` each step's is kept there.

use crate::agents::{CLAUDE, Cli};
use crate::support::tmux::Tmux;
use crate::support::{World, have_tools};

fn set_up(world: &World, cli: &Cli) {
    let home = world.bb_home();
    let front = format!("agent_provider: {{template: {}}}\nbudget: 2M\n", cli.name);
    world.write(home.join("bottles/dev.md"), format!("---\n{front}---\nWhat everyday work needs.\n"));
    world.write(
        home.join("bottles/docs.md"),
        "---\negress: {routes: [docs.example]}\n---\nThe documentation as well.\n",
    );
    world.write(home.join("agents/worker.md"), "---\nbottle: dev\n---\nYou work carefully and in small steps.\n");
    world.write(home.join("agents/reviewer.md"), "---\nbottle: dev\n---\nYou review what others wrote.\n");
    world.settings("budget: {claude: {tokens: 5M, hard: true}}\n");
    world.make_dir("project");
}

fn worlds() -> impl Iterator<Item = World> {
    have_tools(&["tmux"]).then(|| CLAUDE.worlds()).into_iter().flatten()
}

/// Goes from the shell to the preflight, in steps that are named after `name`.
fn looks(tmux: &Tmux<'_>, name: &str) {
    tmux.runs(&format!("clear; {} start --rehearse", tmux.world.exe().display()));
    tmux.shows_and_keeps(&format!("{name}-1-agent"), "reviewer");
    tmux.types("wor");
    tmux.shows("wor\n");
    tmux.presses(&["Enter"]);
    tmux.shows_and_keeps(&format!("{name}-2-bottles"), "[1] dev");
    tmux.types("docs ");
    tmux.shows("[2] docs");
    tmux.presses(&["Enter"]);
    tmux.shows("Name [worker]:");
    tmux.types("talk");
    tmux.presses(&["Enter"]);
    tmux.shows_and_keeps(&format!("{name}-3-colour"), "bright");
    tmux.types("green");
    tmux.presses(&["Enter"]);
    tmux.shows_and_keeps(&format!("{name}-4-preflight"), "Start it? [y/N]");
}

#[test]
fn in_tmux_an_agent_is_picked_started_resized_left_joined_and_ended_and_the_terminal_is_clean() {
    for world in worlds() {
        set_up(&world, &CLAUDE);
        let tmux = Tmux::start(&world, 100, 40);
        let (before, modes) = (tmux.discipline("before"), tmux.modes());
        looks(&tmux, "100");
        tmux.runs("y");
        tmux.shows_and_keeps("100-5-interface", "bypass permissions on");
        tmux.types("zebra");
        tmux.shows("zebra");
        tmux.presses(&["Enter"]);
        tmux.shows_and_keeps("100-6-answer", "Done.");
        for (columns, rows) in [(80, 24), (20, 12), (100, 40)] {
            tmux.resize(columns, rows);
            // Its own line of what it may do is drawn anew at every size.
            tmux.shows("bypass");
            tmux.keep(&format!("{columns}-7-resized"));
        }
        tmux.presses(&["C-p", "C-q"]);
        tmux.shows_and_keeps("100-8-detached", "detached; bb attach talk");
        assert_eq!(tmux.discipline("left"), before);
        assert_eq!(tmux.modes(), modes);
        tmux.runs(&format!("clear; {} ps", world.exe().display()));
        tmux.shows_and_keeps("100-9-ps", "running");
        tmux.runs(&format!("clear; {} attach talk", world.exe().display()));
        tmux.shows_and_keeps("100-10-attached", "bypass permissions on");
        tmux.types("/exit");
        tmux.shows("/exit");
        tmux.presses(&["Enter"]);
        tmux.shows_and_keeps("100-11-ended", "session ended");
        assert_eq!(tmux.discipline("after"), before);
        assert_eq!(tmux.modes(), modes);
    }
}

#[test]
fn in_a_narrow_tmux_everything_that_is_asked_can_be_read_and_a_no_leaves_it_clean() {
    for world in worlds() {
        set_up(&world, &CLAUDE);
        let tmux = Tmux::start(&world, 80, 24);
        let (before, modes) = (tmux.discipline("before"), tmux.modes());
        for (columns, rows) in [(80, 24), (20, 24)] {
            tmux.resize(columns, rows);
            looks(&tmux, &columns.to_string());
            tmux.runs("n");
            tmux.shows_and_keeps(&format!("{columns}-5-no"), "nothing was started");
        }
        assert!(world.controller_pid().is_none(), "nothing was started");
        tmux.runs(&format!("clear; {} attach nobody", world.exe().display()));
        tmux.shows("there is no bottle `nobody`");
        assert_eq!(tmux.discipline("after"), before);
        assert_eq!(tmux.modes(), modes);
    }
}

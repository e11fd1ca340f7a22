//! `bb start` in tmux, as a person would: pick, look, say yes, work in the agent's own interface, resize, leave it, come back, end. What
//! is on the screen is asked of tmux, which draws it as a terminal does. With `BB_TEST_SCREENS=DIRECTORY` each step's is kept there.

use std::path::PathBuf;
use std::time::Duration;

use crate::agents::{CLAUDE, Cli};
use crate::support::{Output, World, have_tools};

/// How long something may take to be on the screen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tmux server with one window, in which a shell runs.
struct Tmux<'w> {
    world: &'w World,
    socket: String,
}

impl<'w> Tmux<'w> {
    /// Starts one with a window of this size.
    fn start(world: &'w World, columns: u16, rows: u16) -> Tmux<'w> {
        let tmux = Tmux { world, socket: world.home().join("tmux.sock").display().to_string() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = "exec env PS1='shell> ' bash --norc --noprofile -i";
        let args = ["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, shell];
        tmux.does(&args).expect(0);
        tmux.shows("shell> ");
        tmux
    }

    fn does(&self, args: &[&str]) -> Output {
        let args = [&["-S", &self.socket], args].concat();
        let command = self.world.program("/usr/bin/tmux", &args).env("TERM", "xterm-256color");
        command.cwd(self.world.home().join("project")).run()
    }

    fn types(&self, text: &str) {
        self.does(&["send-keys", "-l", "--", text]).expect(0);
    }

    fn presses(&self, keys: &[&str]) {
        self.does(&[&["send-keys"], keys].concat()).expect(0);
    }

    /// Types a command line into the shell.
    fn runs(&self, line: &str) {
        self.types(line);
        self.presses(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.does(&["capture-pane", "-p"]).expect(0).stdout
    }

    /// Waits until the screen has `text` on it, however it is wrapped.
    #[track_caller]
    fn shows(&self, text: &str) {
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        let mut screen = String::new();
        let shown = self.world.until(PATIENCE, || {
            screen = self.screen();
            squeezed(&screen).contains(&squeezed(text))
        });
        assert!(shown, "never on the screen: {text:?}\n{screen}");
    }

    /// Keeps what is on the screen for whoever looks at it.
    fn keep(&self, step: &str) {
        let Some(directory) = std::env::var_os("BB_TEST_SCREENS").map(PathBuf::from) else { return };
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("start-{step}.txt")), self.screen()).unwrap();
        let drawn = self.does(&["capture-pane", "-e", "-p"]).expect(0).stdout;
        std::fs::write(directory.join(format!("start-{step}.ansi")), drawn).unwrap();
    }

    #[track_caller]
    fn shows_and_keeps(&self, step: &str, text: &str) {
        self.shows(text);
        self.keep(step);
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.does(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).expect(0);
    }

    /// What a program may leave switched on.
    fn modes(&self) -> String {
        let asked =
            "#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{keypad_cursor_flag} #{keypad_flag} #{wrap_flag}";
        self.does(&["display-message", "-p", asked]).expect(0).stdout
    }

    /// Has the shell write the line discipline into a file, and reads it.
    fn discipline(&self, name: &str) -> String {
        self.runs(&format!("clear; stty -a | sed 's/rows.*columns [0-9]*;//' > ../{name}; echo writ''ten"));
        self.shows("\nwritten");
        std::fs::read_to_string(self.world.home().join(name)).unwrap()
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let tmux = self.world.program("/usr/bin/tmux", &["-S", &self.socket, "kill-server"]);
        tmux.spawn().ends_within(Duration::from_secs(5));
    }
}

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

//! A person at a terminal that draws: a tmux server with one window in a world, whose screen can be asked for. What is drawn in pieces
//! is seen as a person sees it. With `BB_TEST_SCREENS=DIRECTORY` screens are kept there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Output, World};

/// How long something may take to be on the screen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tmux server with one window, in which a shell runs.
pub struct Tmux<'w> {
    pub world: &'w World,
    socket: String,
}

impl<'w> Tmux<'w> {
    /// Starts one with a window of this size.
    pub fn start(world: &'w World, columns: u16, rows: u16) -> Tmux<'w> {
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

    /// Types a text.
    pub fn types(&self, text: &str) {
        self.does(&["send-keys", "-l", "--", text]).expect(0);
    }

    /// Presses keys, as tmux calls them.
    pub fn presses(&self, keys: &[&str]) {
        self.does(&[&["send-keys"], keys].concat()).expect(0);
    }

    /// Types a command line into the shell.
    pub fn runs(&self, line: &str) {
        self.types(line);
        self.presses(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.does(&["capture-pane", "-p"]).expect(0).stdout
    }

    /// Waits until the screen has `text` on it, however it is wrapped.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let mut screen = String::new();
        let shown = self.world.until(PATIENCE, || {
            screen = self.screen();
            squeezed(&screen).contains(&squeezed(text))
        });
        assert!(shown, "never on the screen: {text:?}\n{screen}");
    }

    /// Presses keys again and again, until the screen has `text` on it.
    #[track_caller]
    pub fn insists(&self, keys: &[&str], text: &str) {
        let shown = self.world.until(PATIENCE, || {
            self.presses(keys);
            let next = Instant::now() + Duration::from_secs(1);
            while Instant::now() < next && !squeezed(&self.screen()).contains(&squeezed(text)) {
                // A screen tells nobody that it changes.
                std::thread::sleep(Duration::from_millis(50));
            }
            squeezed(&self.screen()).contains(&squeezed(text))
        });
        assert!(shown, "never on the screen: {text:?}\n{}", self.screen());
    }

    /// Keeps what is on the screen for whoever looks at it.
    pub fn keep(&self, step: &str) {
        let Some(directory) = std::env::var_os("BB_TEST_SCREENS").map(PathBuf::from) else { return };
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("start-{step}.txt")), self.screen()).unwrap();
        let drawn = self.does(&["capture-pane", "-e", "-p"]).expect(0).stdout;
        std::fs::write(directory.join(format!("start-{step}.ansi")), drawn).unwrap();
    }

    /// Waits until the screen has `text` on it, and keeps it.
    #[track_caller]
    pub fn shows_and_keeps(&self, step: &str, text: &str) {
        self.shows(text);
        self.keep(step);
    }

    /// Gives the window another size, and waits until its terminal has it: tmux forgets one that comes soon after another.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.does(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).expect(0);
        let tty = self.does(&["display-message", "-p", "#{pane_tty}"]).expect(0).stdout;
        let size = || self.world.program("/usr/bin/stty", &["-F", tty.trim(), "size"]).run().stdout;
        assert!(self.world.until(PATIENCE, || size().trim() == format!("{rows} {columns}")), "{tty}: {}", size());
    }

    /// What a program may leave switched on.
    pub fn modes(&self) -> String {
        let asked =
            "#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{keypad_cursor_flag} #{keypad_flag} #{wrap_flag}";
        self.does(&["display-message", "-p", asked]).expect(0).stdout
    }

    /// Has the shell write the line discipline into a file, and reads it.
    pub fn discipline(&self, name: &str) -> String {
        self.runs(&format!("clear; stty -a | sed 's/rows.*columns [0-9]*;//' > ../{name}; echo writ''ten"));
        self.shows("\nwritten");
        std::fs::read_to_string(self.world.home().join(name)).unwrap()
    }
}

/// Gets a text without its blanks and line ends: where a window wraps it, it is the same.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let tmux = self.world.program("/usr/bin/tmux", &["-S", &self.socket, "kill-server"]);
        tmux.spawn().ends_within(Duration::from_secs(5));
    }
}

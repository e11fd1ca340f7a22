//! What the hostile tests are played on: a hostile bottle and an innocent one of one controller, the same hostile bottle of
//! another controller, and what is measured of them. It bounds what any strain may cost; which ones there are is the tests' own.
//!
//! **How long others take.** While a strain goes on, the innocent bottle's requests are timed. Their p99 may be 1.5 times what
//! it is in peace. But the strain's own client and server work on the same machine, and on two processors some of them leave
//! nothing for anybody, with or without bb. What the plane costs is told apart from that by a control: the same strain once
//! more, by a bottle of *another* controller on the same machine. All works as hard then, only not in the process that serves the
//! innocent bottle; what is slower than 1.5 times that waits for its neighbour inside the plane.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Command, Output, Running, World, full, reduced, status};

/// What the controller may grow by, whatever a bottle does. Unit: KiB.
const MOST: u64 = 64 << 10;
pub const LONG: Duration = Duration::from_secs(300);
/// Requests that are timed at once.
pub const PULSES: (usize, usize) = (1000, 200);
/// How often a strain is looked at before it counts as one: a single look of a second or two has its luck.
const LOOKS: usize = 3;

/// A bottle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Strains the plane.
    Evil,
    /// Is served by the same controller.
    Good,
    /// Strains that of another controller.
    Apart,
}

const EVIL: &str = "'sink.example', { host = 'api.anthropic.com', api = 'anthropic',\n\
    auth = { scheme = 'header', header = 'x-api-key', credential = 'REAL_KEY' } }";
const GOOD: &str = "'good.example'";

/// What makes its bottles, and what bb has to know of that.
#[derive(Clone, Copy, Default)]
pub struct On<'w> {
    /// Options of a launch, as Lua.
    pub options: &'w str,
    pub env: &'w [(&'w str, &'w str)],
}

/// See the module.
pub struct Scene<'w> {
    world: &'w World,
    on: On<'w>,
    /// Whether times are asserted.
    times: bool,
    /// Where the other controller has what it keeps.
    apart: PathBuf,
    /// The p99 in peace. Unit: microseconds.
    quiet: u64,
    /// What the controller had before. Unit: KiB.
    began: u64,
}

impl<'w> Scene<'w> {
    /// Launches the bottles, and measures them in peace. A machine that measures has nothing else to do; on any other the times
    /// would be of what else it does, and are only shown.
    pub fn set(world: &'w World) -> Scene<'w> {
        Scene::on(world, On::default(), full())
    }

    /// As [`Scene::set`], on what is said, and with no time asserted: the plane is the same.
    pub fn for_its_memory(world: &'w World, on: On<'w>) -> Scene<'w> {
        Scene::on(world, on, false)
    }

    fn on(world: &'w World, on: On<'w>, times: bool) -> Scene<'w> {
        let mut scene = Scene { world, on, times, apart: world.home().join("apart"), quiet: 0, began: 0 };
        scene.launch(Part::Evil, "evil", EVIL);
        scene.launch(Part::Good, "good", GOOD);
        let mut strained = vec![Part::Evil];
        if times {
            scene.launch(Part::Apart, "evil", EVIL);
            strained.push(Part::Apart);
        }
        // Each kind of request once, so that what is loaded and allocated once is there.
        for part in strained {
            scene.client(part, &["upload", "1000"]).wait().expect(0);
            scene.client(part, &["model", "hello"]).wait().expect(0);
        }
        let mut peace: Vec<u64> = (0..if times { LOOKS } else { 1 }).map(|_| scene.pulse()).collect();
        peace.sort_unstable();
        scene.quiet = peace[peace.len() / 2];
        scene.began = scene.resident("VmRSS");
        scene
    }

    fn bb(&self, part: Part, args: &[&str]) -> Command<'_> {
        let home = if part == Part::Apart { self.apart.clone() } else { self.world.bb_home() };
        let command = self.world.command(args).env("BB_HOME", home.display().to_string());
        self.on.env.iter().fold(command, |command, (name, value)| command.env(name, *value))
    }

    fn launch(&self, part: Part, label: &str, routes: &str) {
        let script: String = include_str!("../hostile.py").bytes().map(|b| format!("\\{b:03}")).collect();
        let recipe = format!(
            "--- @bb needs launch, egress:*, credential:REAL_KEY\n\
             bb.launch {{ command = {{ 'sleep', '3600' }}, label = '{label}', budget = 'unlimited', detach = true,\n\
               files = {{ {{ path = '~/hostile.py', text = \"{script}\" }} }}, routes = {{ {routes} }}, {} }}\n",
            self.on.options
        );
        let recipe = self.world.recipe(&format!("{label}.lua"), &recipe);
        self.bb(part, &["run", "--grant", "all", &recipe]).env("REAL_KEY", "sk-real-key").run().expect(0);
    }

    fn client(&self, part: Part, args: &[&str]) -> Running<'_> {
        let bottle = if part == Part::Good { "good" } else { "evil" };
        let args: Vec<_> =
            ["exec", bottle, "--", "python3", "/home/agent/hostile.py"].iter().chain(args).copied().collect();
        self.bb(part, &args).patience(LONG).spawn()
    }

    /// Starts a client of the hostile bottle.
    pub fn evil(&self, args: &[&str]) -> Running<'_> {
        self.client(Part::Evil, args)
    }

    /// Gets the innocent bottle's p99; panics where one of its requests failed.
    fn pulse(&self) -> u64 {
        let count = reduced(PULSES.0, PULSES.1).to_string();
        let output = self.client(Part::Good, &["pulse", &count]).wait().expect(0);
        assert!(output.stdout.contains("failed 0"), "another bottle's requests fail: {output}");
        let word = output.stdout.split_whitespace().skip_while(|word| *word != "p99").nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{output}"))
    }

    fn resident(&self, what: &str) -> u64 {
        let pid = self.world.controller_pid().expect("the controller lives");
        status(pid, what).and_then(|words| words.first()?.parse().ok()).unwrap()
    }

    /// Asserts that the controller has not grown by more than it may, up to now.
    fn has_not_grown(&self, what: &str, p99: u64) {
        let grown = self.resident("VmHWM").saturating_sub(self.began);
        eprintln!("hostile: {what}: +{grown} KiB at most, another bottle's p99 {p99} us (in peace {})", self.quiet);
        assert!(grown <= MOST, "{what}: the controller has grown by {grown} KiB, from {}", self.began);
    }

    /// Has a bottle strain its plane for as long as the innocent one's requests are timed; gets their p99, and what its client said.
    fn during(&self, part: Part, args: &[&str]) -> (u64, Output) {
        let args: Vec<_> = ["lasting"].iter().chain(args).copied().collect();
        let client = self.client(part, &args);
        client.says("begun");
        let p99 = self.pulse();
        assert!(!client.has_ended(), "it ended too early: {}{}", client.stdout(), client.stderr());
        self.bb(part, &["exec", "evil", "--", "touch", "/home/agent/over"]).run().expect(0);
        (p99, client.wait().expect(0))
    }

    /// Has the hostile bottle strain the plane, and asserts what has to hold meanwhile. Gets what its client said in the end.
    pub fn strain(&self, what: &str, args: &[&str]) -> Output {
        self.strain_and_again(what, args, args)
    }

    /// As [`Scene::strain`], with another way to do the same where it has to be done again.
    pub fn strain_and_again(&self, what: &str, args: &[&str], again: &[&str]) -> Output {
        let (mut p99, output) = self.during(Part::Evil, args);
        self.has_not_grown(what, p99);
        let mut looks = Vec::new();
        while self.times && !holds(p99, self.quiet) {
            let apart = self.during(Part::Apart, again).0;
            eprintln!("hostile: {what}: p99 {p99} us, and {apart} where another controller is strained");
            looks.push((p99, apart));
            if holds(p99, apart) {
                break;
            }
            assert!(
                looks.len() < LOOKS,
                "{what}: p99 with it and with it elsewhere, {looks:?}, in peace {}",
                self.quiet
            );
            p99 = self.during(Part::Evil, again).0;
            self.has_not_grown(what, p99);
        }
        output
    }

    /// Asserts the same of what goes on by itself, and keeps no processor busy.
    pub fn goes_on(&self, what: &str) {
        let mut p99 = self.pulse();
        self.has_not_grown(what, p99);
        for _ in 1..LOOKS {
            if self.times && !holds(p99, self.quiet) {
                p99 = self.pulse();
                self.has_not_grown(what, p99);
            }
        }
        assert!(!self.times || holds(p99, self.quiet), "{what}: p99 {p99} us, in peace {}", self.quiet);
    }

    fn denials(&self) -> Vec<Value> {
        let socket = self.world.bb_home().join("run/controller.sock").display().to_string();
        let address = "http://bb/v1/events?since=0&bottle=evil";
        let output = self.world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, address]).run().expect(0);
        output.json().into_iter().filter(|event| event["type"] == "denied").collect()
    }

    /// Waits until the bottle was refused by a word, in a reason with `text` in it.
    pub fn told(&self, kind: &str, text: &str) {
        let is_so = self.world.until(LONG, || {
            let mut all = self.denials().into_iter().map(|event| event["data"].clone());
            all.any(|d| d["kind"] == kind && d["reason"].as_str().is_some_and(|reason| reason.contains(text)))
        });
        assert!(is_so, "no {kind} with {text:?}: {:?}", self.denials());
    }

    /// Ends it. No canary saw anything.
    pub fn over(self) {
        for bottle in ["evil", "good"] {
            self.bb(Part::Evil, &["kill", bottle]).run().expect(0);
        }
        if self.times {
            self.bb(Part::Apart, &["kill", "evil"]).run().expect(0);
            self.bb(Part::Apart, &["controller", "stop"]).run().expect(0);
        }
        self.world.assert_silent(&["sink.example", "api.anthropic.com", "good.example"]);
    }
}

/// Tells whether a p99 is one that there may be beside another.
fn holds(p99: u64, than: u64) -> bool {
    p99 * 2 <= than * 3
}

//! Whoever runs bottles, and on what: the same commands for the embedded backend, for an engine of root's, and for the ordinary
//! user's own Podman, which has a home and directories of its own.
//!
//! So one test runs on each backend by the same code. It says who does what where, and nothing of what is to come of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::engine::{Engine, IMAGE, Which, helper};
use super::person::{script_of, written};
use super::{Command, Output, Who, World, tool};

/// How long something may take that an engine does in a second or two.
pub const LONG: Duration = Duration::from_secs(120);

/// A user of root's own would be refused as the owner of a workspace in a container.
const OWNER: u32 = 4711;

/// See the module.
pub struct Desk<'w> {
    pub world: &'w World,
    /// The engine that makes the bottles; the embedded backend without one.
    pub engine: Option<&'w Engine<'w>>,
    /// What runs bb, with all that it has to know.
    words: Vec<String>,
    /// Where they stand.
    pub dir: PathBuf,
    pub bb_home: PathBuf,
    pub uid: u32,
}

/// Runs a test on an engine, where this machine has it. What it has made is gone at the end.
pub fn on(which: Which, test: impl Fn(&Desk<'_>)) {
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, which) else { return };
    let desk = Desk::at(&world, &engine);
    test(&desk);
    desk.bb(&["controller", "stop"]).expect(0);
    engine.assert_empty();
}

impl<'w> Desk<'w> {
    /// Bottles of the embedded backend.
    pub fn embedded(world: &'w World) -> Desk<'w> {
        let words = vec![world.exe().display().to_string()];
        Desk { world, engine: None, words, dir: world.make_dir("desk"), bb_home: world.bb_home(), uid: world.uid() }
    }

    /// Bottles of an engine.
    pub fn at(world: &'w World, engine: &'w Engine<'w>) -> Desk<'w> {
        let env = tool("env").unwrap().display().to_string();
        let own = [format!("DOCKER_HOST={}", engine.address()), "BOT_BOTTLE_BACKEND=docker".to_owned()];
        let exe = world.exe().display().to_string();
        if !engine.which.is_rootless() {
            let helper = format!("BB_HELPER={}", helper().unwrap().display());
            let words = [vec![env], own.into(), vec![helper, exe]].concat();
            let dir = world.make_dir("desk");
            chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
            return Desk { world, engine: Some(engine), words, dir, bb_home: world.bb_home(), uid: 0 };
        }
        let (dir, uid) = (engine.dir(), fs::metadata(engine.dir().join("home")).unwrap().uid());
        for sub in ["bb", "desk"] {
            fs::create_dir(dir.join(sub)).unwrap();
            chown(dir.join(sub), Some(uid), Some(uid)).unwrap();
        }
        fs::copy(helper().unwrap(), dir.join("bb-helper")).unwrap();
        let set = |name: &str, sub: &str| format!("{name}={}", dir.join(sub).display());
        // Not by a program that stays in between: what is signalled is bb itself.
        let become_user = ["--reuid", "bbtest", "--regid", "bbtest", "--init-groups", "--"].map(str::to_owned);
        let mut words = vec![tool("setpriv").unwrap().display().to_string()];
        words.extend(become_user.into_iter().chain([env]).chain(own));
        words.extend([set("HOME", "home"), set("BB_HOME", "bb"), set("BB_HELPER", "bb-helper"), exe]);
        Desk { world, engine: Some(engine), words, bb_home: dir.join("bb"), dir: dir.join("desk"), uid }
    }

    /// Gets which engine it is, if it is one.
    pub fn which(&self) -> Option<Which> {
        self.engine.map(|engine| engine.which)
    }

    /// Gets the backend's name.
    pub fn backend(&self) -> &'static str {
        if self.engine.is_some() { "docker" } else { "linux" }
    }

    /// Prepares bb with these arguments.
    pub fn command(&self, args: &[&str]) -> Command<'w> {
        self.as_them(&[], args)
    }

    /// Prepares another program as who bb is run by.
    pub fn program(&self, args: &[&str]) -> Command<'w> {
        let words = &self.words[..self.words.len() - 1];
        let words: Vec<&str> = words.iter().map(String::as_str).chain(args.iter().copied()).collect();
        self.world.program(words[0], &words[1..]).cwd(&self.dir).patience(LONG)
    }

    fn as_them(&self, before: &[&str], args: &[&str]) -> Command<'w> {
        let bb = self.words.iter().map(String::as_str);
        let words: Vec<&str> = before.iter().copied().chain(bb).chain(args.iter().copied()).collect();
        self.world.program(words[0], &words[1..]).cwd(&self.dir).patience(LONG)
    }

    /// Runs bb with these arguments.
    #[track_caller]
    pub fn bb(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// Runs a script of bash, in which BB is bb.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        let script = script.replace("BB ", &format!("{} ", self.words.join(" ")));
        self.world.program("/bin/bash", &["-c", &script]).cwd(&self.dir).patience(LONG).run()
    }

    /// Has a person at a terminal do these steps with bb; gets what was written there.
    #[track_caller]
    pub fn does(&self, args: &[&str], steps: &[Value]) -> String {
        let (script, steps) = script_of(self.world, "steps", steps);
        let person = self.as_them(&["/usr/bin/python3", &script, &steps], args);
        written(&person.env("TERM", "xterm-256color").run().expect(0))
    }

    /// A file or a directory that is whose the desk is.
    pub fn own(&self, name: &str, text: Option<&str>) -> PathBuf {
        let path = self.dir.join(name);
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::create_dir(&path).unwrap(),
        }
        chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }

    /// A directory that may be a bottle's workspace here.
    pub fn workspace(&self, name: &str) -> PathBuf {
        let path = self.own(name, None);
        let owner = if self.uid == 0 { OWNER } else { self.uid };
        chown(&path, Some(owner), Some(owner)).unwrap();
        path
    }

    /// Writes an agent `worker` that is a shell, and its bottle `box`.
    pub fn shelf(&self) {
        let provider = "return { name = 'shell', argv = function() return { 'env', 'PS1=ready> ', 'sh', '-i' } end }";
        let image = self.engine.map(|_| format!("image: {IMAGE}\n")).unwrap_or_default();
        let bottle = format!("---\nagent_provider: {{template: shell}}\n{image}budget: unlimited\n---\n");
        for (path, text) in [
            ("providers/shell.lua", provider),
            ("bottles/box.md", &bottle),
            ("agents/worker.md", "---\nbottle: box\n---\nYou are careful.\n"),
        ] {
            let path = self.bb_home.join(path);
            let dir = path.parent().unwrap();
            fs::create_dir_all(dir).unwrap();
            fs::write(&path, text).unwrap();
            for path in [dir, &path] {
                chown(path, Some(self.uid), Some(self.uid)).unwrap();
            }
        }
    }

    /// Launches an agent that is left to itself: `command` and `options` as Lua. Gets what came of it.
    pub fn try_launch(&self, label: &str, command: &str, options: &str) -> Output {
        let recipe = format!(
            "--- @bb needs launch, write:{}\nlocal b = bb.launch{{command = {command}, label = '{label}', \
             image = '{IMAGE}', detach = true, {options}}}\nprint(b.slug)\n",
            self.dir.display()
        );
        let recipe = self.own(&format!("{label}.lua"), Some(&recipe)).display().to_string();
        self.bb(&["run", "--grant", "all", &recipe])
    }

    /// As [`Desk::try_launch`], and it has to come up.
    #[track_caller]
    pub fn launch(&self, label: &str, command: &str, options: &str) {
        self.try_launch(label, command, options).expect(0);
    }

    /// Gets what `bb ps` says of a bottle.
    pub fn row(&self, slug: &str) -> Value {
        let all = self.bb(&["ps", "--all", "--json"]).expect(0).json();
        all.into_iter().rev().find(|bottle| bottle["slug"] == slug).unwrap_or_default()
    }

    /// Waits until a bottle is in a state, and gets it.
    #[track_caller]
    pub fn becomes(&self, slug: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let is_so = self.world.until(LONG, || {
            last = self.row(slug);
            last["state"] == state
        });
        assert!(is_so, "{slug} never was {state}: {last}");
        last
    }

    /// Waits until nothing of any bottle is left: no container or process, no socket, no word of where something is.
    #[track_caller]
    pub fn assert_empty(&self) {
        let Some(engine) = self.engine else {
            let gone = self.world.until(LONG, || self.world.leftovers().is_empty());
            assert!(gone, "{:?}", self.world.leftovers());
            return;
        };
        engine.assert_empty();
        let gone = self.world.until(LONG, || self.world.keepers().is_empty());
        assert!(gone, "{:?}", self.world.processes());
        let names = |dir: &str, end: &str| -> Vec<PathBuf> {
            let all = fs::read_dir(self.bb_home.join(dir)).into_iter().flatten().flatten();
            let all = all.flat_map(|entry| match entry.path() {
                path if path.is_dir() => fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect(),
                path => vec![path],
            });
            all.filter(|path| path.to_string_lossy().ends_with(end)).collect()
        };
        let left = || [names("run/k", ".sock"), names("state", "engine.json")].concat();
        assert!(self.world.until(LONG, || left().is_empty()), "{:?}", left());
    }
}

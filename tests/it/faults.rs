//! Faults of the ledger while bottles run: what is metered closes with a reason that the operator and the agent can read, all
//! else goes on, nothing that was acknowledged is lost, and it heals when the cause is gone. (A full disk: module `bad_input`.)

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bb::rehearse::{Rehearsal, Scenario};
use rusqlite::Connection;

use crate::support::{Output, Reply, Site, Who, World, have_tools, need, need_root, within};

const LONG: Duration = Duration::from_secs(60);

/// A bottle named `asks` with a metered route and a plain one.
const RECIPE: &str = "--- @bb needs launch, egress:*, credential:KEY\n\
    local b = bb.launch { command = { 'sleep', '600' }, label = 'asks', detach = true, budget = 'unlimited',\n\
      routes = { { host = 'docs.example' }, { host = 'api.anthropic.com', api = 'anthropic',\n\
        auth = { scheme = 'header', header = 'x-api-key', credential = 'KEY' } } } }\n";

/// A world with that bottle, in which it has been served once.
struct Faulty {
    world: World,
    rehearsal: Rehearsal,
    _docs: Site,
}

impl Faulty {
    fn each() -> impl Iterator<Item = Faulty> {
        have_tools(&["curl"]).then(World::each).into_iter().flatten().map(|world| {
            let settings = world.bb_home().join("settings.yml");
            Faulty::of(world, &settings)
        })
    }

    fn of(world: World, settings: &Path) -> Faulty {
        let rehearsal = world.rehearsal(Scenario::default());
        let docs = world.site("docs.example", |_| Reply::text("docs"));
        let ca = world.write("upstream.pem", rehearsal.ca_pem()).display().to_string();
        let address = rehearsal.address();
        let text = format!("upstreams: {{api.anthropic.com: {{address: \"{address}\", ca: {ca}}}}}\n");
        world.write(settings, text);
        let recipe = world.recipe("asks.lua", RECIPE);
        world.command(&["run", "--grant", "all", &recipe]).env("KEY", "sk-x").run().expect(0);
        let faulty = Faulty { world, rehearsal, _docs: docs };
        assert!(faulty.passes(), "the allowed twin: {}", faulty.ask());
        faulty
    }

    fn ledger(&self) -> PathBuf {
        self.world.bb_home().join("bot-bottle.db")
    }

    fn curl(&self, args: &[&str]) -> Output {
        let curl = ["exec", "asks", "--", "curl", "-sS", "-m", "30", "-i"];
        self.world.bb(&[&curl[..], args].concat())
    }

    /// Asks the model.
    fn ask(&self) -> Output {
        let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
        self.curl(&["https://api.anthropic.com/v1/messages", "-H", "content-type: application/json", "-d", body])
    }

    fn passes(&self) -> bool {
        self.ask().stdout.contains("HTTP/2 200")
    }

    /// Asserts that what is metered is refused, soon, with a reason, and what is not passes.
    #[track_caller]
    fn is_closed(&self, told: &str, why: &str) {
        let served = self.rehearsal.stats().total;
        let refused = self.ask();
        assert!(refused.stdout.contains("x-bb-deny: ledger_unavailable"), "{refused}\n{}", self.world.controller_log());
        assert!(refused.stdout.contains(told), "the agent reads why ({told}): {refused}");
        assert!(refused.elapsed < within(Duration::from_secs(8)), "{refused}");
        assert_eq!(self.rehearsal.stats().total, served, "nothing was sent");
        let docs = self.curl(&["https://docs.example/"]);
        assert!(docs.stdout.contains("HTTP/2 200"), "{docs}");
        // The operator reads it where he looks, and in the log.
        let ps = self.world.bb(&["ps"]);
        let said =
            ps.stderr.lines().find(|line| line.contains("warning") && line.contains("metered requests are refused"));
        assert!(said.is_some_and(|said| said.contains(why)) && ps.stdout.contains("asks"), "{ps}");
        let log = self.world.bb(&["controller", "logs"]).expect(0);
        assert!(log.stdout.contains(why), "{log}");
    }

    /// Asserts that it heals, and that all that was served stands in the books.
    #[track_caller]
    fn heals(&self) {
        assert!(self.world.until(LONG, || self.passes()), "{}\n{}", self.ask(), self.world.controller_log());
        let ps = self.world.bb(&["ps"]).expect(0);
        assert!(!ps.stderr.contains("warning"), "{ps}");
        let served = self.rehearsal.stats().total;
        let counted = || self.world.bb(&["usage", "--json"]).expect(0).json()[0]["total"]["requests"].as_u64().unwrap();
        assert!(self.world.until(LONG, || counted() == served), "{} of {served}", counted());
        self.world.bb(&["kill", "asks"]).expect(0);
        self.world.assert_silent(&["docs.example"]);
    }
}

#[test]
fn a_lock_that_another_process_holds_closes_what_is_metered_until_it_is_gone() {
    for faulty in Faulty::each() {
        let other = Connection::open(faulty.ledger()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        faulty.is_closed("the ledger does not answer", "database is locked");
        other.execute_batch("ROLLBACK").unwrap();
        drop(other);
        faulty.heals();
    }
}

#[test]
fn a_schema_from_the_future_closes_what_is_metered_until_it_is_taken_back() {
    for faulty in Faulty::each() {
        let other = Connection::open(faulty.ledger()).unwrap();
        let version = |version: u32| {
            other.execute("UPDATE schema_version SET version = ?1 WHERE component = 'ledger'", [version]).unwrap();
        };
        let now: u32 =
            other.query_row("SELECT version FROM schema_version WHERE component = 'ledger'", [], |r| r.get(0)).unwrap();
        version(9999);
        faulty.is_closed("changed by a newer bb", "schema 9999");
        // Nor does the next controller open it: its bottles wait, and are not called lost.
        faulty.world.kill_controller();
        faulty.world.bb(&["ps"]).fails(5, "ledger_newer", "bot-bottle.db", "the bb that wrote it, or a newer one");
        version(now);
        faulty.heals();
    }
}

#[test]
fn a_ledger_that_is_overwritten_while_it_is_used_closes_what_is_metered_until_it_is_restored() {
    for faulty in Faulty::each() {
        faulty.world.bb(&["controller", "restart"]).expect(0);
        let is_taken_up = || faulty.world.bb(&["ps", "--json"]).expect(0).json()[0]["egress"] == "open";
        assert!(faulty.world.until(LONG, is_taken_up));
        let files = ["", "-wal"].map(|suffix| faulty.world.bb_home().join(format!("bot-bottle.db{suffix}")));
        let good = files.clone().map(|file| fs::read(file).unwrap_or_default());
        // All but the heads, which say what the files are.
        for (file, bytes) in files.iter().zip(&good) {
            let head = 4096.min(bytes.len());
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.write_all_at(&vec![0x5a; bytes.len() - head], head as u64).unwrap();
        }
        faulty.is_closed("the ledger is damaged", "malformed");
        for (file, bytes) in files.iter().zip(&good) {
            fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, 0).unwrap();
        }
        faulty.heals();
    }
}

#[test]
fn a_second_controller_does_not_touch_the_ledger_of_the_first() {
    for faulty in Faulty::each() {
        let first = faulty.world.controller_pid().unwrap();
        // It finds that somebody serves already, and ends before it opens anything.
        let second = faulty.world.command(&["__controller"]).run().expect(0);
        assert!(second.elapsed < within(Duration::from_secs(2)), "{second}");
        assert_eq!(faulty.world.controller_pid(), Some(first));
        assert!(faulty.passes());
        // Nor does one whose sockets would be elsewhere, as a timer's or a login's may be: whoever asks finds the first.
        let elsewhere = faulty.world.make_dir("elsewhere").display().to_string();
        let second = faulty.world.command(&["__controller"]).env("XDG_RUNTIME_DIR", &elsewhere).run().expect(0);
        assert!(second.stderr.contains(&format!("up already (pid {first})")), "{second}");
        let seen = faulty.world.command(&["ps", "--json"]).env("XDG_RUNTIME_DIR", &elsewhere).run().expect(0).json();
        assert_eq!(seen.iter().filter(|bottle| bottle["state"] == "running").count(), 1, "{seen:?}");
        assert_eq!(faulty.world.controller_pid(), Some(first));
        assert!(faulty.passes());
        faulty.heals();
    }
}

#[test]
fn a_home_whose_controller_cannot_be_found_is_not_taken() {
    for world in World::each() {
        world.bb(&["ps"]).expect(0);
        world.bb(&["controller", "stop"]).expect(0);
        let path = world.bb_home().join("run/controller.home");
        let lock = fs::OpenOptions::new().write(true).open(&path).unwrap();
        lock.lock().unwrap();
        fs::write(&path, "4242\n/nowhere").unwrap();
        world.bb(&["ps"]).fails(5, "controller_silent", "pid 4242", "XDG_RUNTIME_DIR");
        drop(lock);
        world.bb(&["ps"]).expect(0);
    }
}

/// A disk of a file, in a world: its file system turns read-only by itself when it finds a fault, as a broken disk's does.
struct Disk {
    device: String,
    /// The world's mounts, as a program enters them.
    mounts: String,
}

impl Disk {
    /// Puts `$BB_HOME` on one, but for what is no ledger's; `None` where this machine cannot.
    fn below(world: &World) -> Option<Disk> {
        let image = world.dir().join("disk.img");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let image = image.display().to_string();
        let output = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output().ok().filter(|done| done.status.success())?;
            Some(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        };
        output("mkfs.ext4", &["-q", "-E", "nodiscard", &image])?;
        let device = output("losetup", &["--find", "--show", &image])?;
        let root = world.inside(Path::new("/"));
        let mounts = format!("--mount={}", root.parent().unwrap().join("ns/mnt").display());
        let disk = Disk { device, mounts };
        let home = world.bb_home().display().to_string();
        let mounted = disk.does(&format!("mount -o errors=remount-ro {} {home} && chmod 700 {home}", disk.device));
        (mounted && disk.trigger().exists()).then_some(())?;
        for other in ["state", "run"] {
            disk.does(&format!("mkdir -m 700 {home}/{other}")).then_some(())?;
            world.small(&world.bb_home().join(other), 8192);
        }
        Some(disk)
    }

    /// Runs a line of shell among the world's mounts.
    fn does(&self, line: &str) -> bool {
        Command::new("nsenter").args([&self.mounts, "--", "sh", "-c", line]).status().is_ok_and(|done| done.success())
    }

    fn trigger(&self) -> PathBuf {
        Path::new("/sys/fs/ext4").join(self.device.trim_start_matches("/dev/")).join("trigger_fs_error")
    }

    /// Takes it out, looks it over and puts it in again. What lies on it and is no ledger's stays as it is.
    fn put_right(&self, home: &Path) -> bool {
        let (home, device) = (home.display(), &self.device);
        self.does(&format!(
            "set -e; mkdir -p {home}.state {home}.run; mount --move {home}/state {home}.state; \
             mount --move {home}/run {home}.run; umount {home}; fsck.ext4 -fy {device} >/dev/null || [ $? -lt 4 ]; \
             mount {device} {home}; mount --move {home}.state {home}/state; mount --move {home}.run {home}/run"
        ))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It goes with its last mount, which goes with the world.
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[test]
fn a_file_system_that_turns_read_only_closes_what_is_metered_until_it_is_put_right() {
    if !have_tools(&["curl", "mkfs.ext4", "fsck.ext4", "losetup", "nsenter"]) {
        return;
    }
    let Some(world) = World::new() else { return };
    if world.who != Who::Root {
        return need_root();
    }
    let Some(disk) = Disk::below(&world) else { return need("a loop device with ext4") };
    let faulty = {
        let settings = world.inside(&world.bb_home().join("settings.yml"));
        Faulty::of(world, &settings)
    };
    // What was acknowledged as audited is on the disk, and all before it.
    faulty.world.bb(&["pause", "asks"]).expect(0);
    faulty.world.bb(&["thaw", "asks"]).expect(0);
    fs::write(disk.trigger(), "a fault").unwrap();
    faulty.is_closed("the ledger does not answer", "the disk refused an fsync; restart the controller");
    // A cut takes effect all the same, and says that it is not written.
    let cut = faulty.world.bb(&["cut", "asks", "--metered"]);
    assert!(cut.code != 0 && cut.stderr.contains("it is cut"), "{cut}");
    assert!(faulty.ask().stdout.contains("x-bb-deny: cut"), "{}", faulty.ask());
    // No controller comes up on it, and its bottle waits.
    faulty.world.bb(&["controller", "stop", "--force"]).expect(0);
    assert_eq!(faulty.world.bb(&["ps"]).code, 5);
    assert!(disk.put_right(&faulty.world.bb_home()), "the disk is still in use");
    let ps = faulty.world.bb(&["ps", "--json"]).expect(0).json();
    assert_eq!(
        (&ps[0]["slug"], &ps[0]["egress"]),
        (&"asks".into(), &"cut".into()),
        "the cut outlived all that: {ps:?}"
    );
    let served = faulty.rehearsal.stats().total;
    let total = faulty.world.bb(&["usage", "--json"]).expect(0).json()[0]["total"]["requests"].as_u64();
    assert_eq!(total, Some(served), "nothing that was acknowledged is lost");
    faulty.world.bb(&["kill", "asks"]).expect(0);
}

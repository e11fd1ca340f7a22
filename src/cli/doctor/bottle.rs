//! The doctor's trial: builds real bottles through real keepers, in a home of its own that is thrown away.
//!
//! No controller takes part, so what is seen is the machine's doing. Nothing here knows why a step may fail: the backend
//! says so ([`crate::bottle::forbidden`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::api::{Launch, Limits, WorkspaceMode};
use crate::bottle::wire::{self, Command, Listener, Reply, Request};
use crate::bottle::{RESERVED_ID, cgroup, forbidden};
use crate::bottle::{output, toolchain};
use crate::controller::compose::{Composed, Host, compose};
use crate::controller::keepers::Keepers;
use crate::controller::link::{Held, Link, Said};
use crate::error::{Error, Kind, Result};
use crate::home::Home;

use super::{Check, Level};

/// Longest that a command in a trial bottle may run; an agent's `--version` takes a second or two.
const COMMAND_WITHIN: Duration = Duration::from_secs(20);

/// Longest that a bottle may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Agent CLIs that the shipped providers run, and how they are installed.
const AGENTS: [(&str, &str); 4] = [
    ("claude", "npm install -g @anthropic-ai/claude-code"),
    ("codex", "npm install -g @openai/codex"),
    ("gemini", "npm install -g @google/gemini-cli"),
    ("pi", "npm install -g @mariozechner/pi-coding-agent"),
];

/// What the set-up of a bottle does, in its order, and the words with which its errors begin.
const STEPS: [(&str, &[&str]); 4] = [
    (
        "user namespaces",
        &["giving up root", "dumpable", "unshare", "setgroups", "uid_map", "gid_map", "new namespaces"],
    ),
    ("network", &["loopback", "listeners", "gate", "veth", "packet socket", "network"]),
    ("file system", &["mount", "root file system"]),
    ("seccomp", &["seccomp", "confinement"]),
];

/// Shell built-ins only: it must run whatever else is missing on the machine.
const PROBE: &str = r#"
while read -r key value; do
  case $key in Uid:|CapEff:|NoNewPrivs:|Seccomp:) echo "$key $value";; esac
done < /proc/self/status
while read -r key _; do
  case $key in *:) echo "link $key";; esac
done < /proc/net/dev
set -- /proc/[0-9]*
echo "processes $#"
: > probe && echo "writable"
"#;

/// Makes every check of the backend and hands them on as they come.
///
/// # Errors
/// Those of `tell` only: what fails in a trial is a check.
pub(super) async fn checks(mut tell: impl AsyncFnMut(Check) -> Result<()>) -> Result<bool> {
    if nix::unistd::geteuid().is_root()
        && let Err(error) = forbidden::check_mapped(RESERVED_ID)
    {
        tell(Check::failed("user namespaces", &error)).await?;
        return Ok(false);
    }
    let trial = match Trial::new() {
        Ok(trial) => trial,
        Err(error) => {
            tell(Check::failed("bottle", &error)).await?;
            return Ok(false);
        }
    };
    let built = trial.probe().await;
    let built_one = built.is_ok();
    let mut works = true;
    for check in judged(built) {
        works &= check.level != Level::Error;
        tell(check).await?;
    }
    if !built_one {
        // Whatever else were tried would fail in the same way.
        return Ok(false);
    }
    tell(trial.layer().await).await?;
    tell(groups()).await?;
    if nix::unistd::geteuid().is_root() {
        tell(trial.root_workspace().await).await?;
    }
    for (name, install) in AGENTS {
        tell(trial.agent(name, install).await).await?;
    }
    Ok(works)
}

/// Makes the control groups of a bottle with every limit, and removes them.
fn groups() -> Check {
    let name = "limits";
    let hint = "manifests with `limits` need them, or say `best_effort: true` there";
    let limits =
        Limits { memory: Some(64 << 20), cpus: Some(1000), pids: Some(64), best_effort: true, ..Limits::default() };
    match cgroup::make(&format!("bb-doctor-{}", std::process::id()), &limits, |_| Ok(())) {
        Ok(groups) => {
            cgroup::remove(&groups.dirs);
            match groups.lacking.as_slice() {
                [] => Check::ok(name, "memory, cpus and pids can be bounded by control groups"),
                lacking => Check::warn(name, lacking.join("; "), hint),
            }
        }
        Err(error) => Check::warn(name, error.message, error.hint.unwrap_or_else(|| hint.to_owned())),
    }
}

/// A home of its own, removed at the end.
pub(super) struct Trial {
    dir: PathBuf,
    host: Host,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // A layer leaves a directory that nobody may enter.
        let _ = crate::os::beneath::remove_all(&self.dir);
    }
}

/// What was seen in a bottle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// What the probe printed.
    pub text: String,
    /// Sockets in the gate.
    listeners: usize,
    /// Whether TLS, DNS and refused ports are listened for.
    pub complete: bool,
    /// How long it took until the bottle was up.
    pub built: Duration,
}

impl Trial {
    /// Makes its home.
    ///
    /// # Errors
    /// `fs_unsupported` or `internal` where there is no place for it.
    pub fn new() -> Result<Trial> {
        let name = format!("bb-doctor-{}", std::process::id());
        let mut last = Error::internal("no directory for the trial");
        // The sockets' paths are bounded, and a TMPDIR may be too deep for them.
        for parent in [std::env::temp_dir(), PathBuf::from("/tmp")] {
            let dir = parent.join(&name);
            match Home::open(&dir.join("home"), None) {
                Ok(home) => {
                    let internal = |e: std::io::Error| Error::internal(e.to_string()).at(dir.display().to_string());
                    // Keepers must not start controllers for this home.
                    std::fs::write(home.stopped(), "").map_err(internal)?;
                    let host = Host {
                        home,
                        user_home: std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from),
                        exe: std::env::current_exe().map_err(internal)?,
                        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
                        controller_env: vec![],
                    };
                    return Ok(Trial { dir, host });
                }
                Err(error) => {
                    let _ = std::fs::remove_dir_all(&dir);
                    last = error
                        .at(dir.display().to_string())
                        .hint("set TMPDIR to a directory of your own with a short path");
                }
            }
        }
        Err(last)
    }

    /// Builds a bottle for `launch`, runs `argv` in it, takes it down. Returns what was seen and the exit code.
    ///
    /// # Errors
    /// The backend's, and `timeout`.
    pub async fn run(&self, slug: &str, launch: &Launch, argv: &[&str]) -> Result<(Seen, i32)> {
        let started = Instant::now();
        let composed = compose(&self.host, launch, slug, "")?;
        let sealed = wire::sealed("bb-doctor", b"").map_err(|e| Error::internal(e.to_string()))?;
        let mut held = Link::launch(&Keepers::new(self.host.exe.clone()), &composed.plan, &sealed).await?;
        let has = |wanted: fn(&Listener) -> bool| held.listeners.iter().any(|(l, _)| wanted(l));
        let mut seen = Seen {
            built: started.elapsed(),
            listeners: held.listeners.len(),
            complete: has(|l| matches!(l, Listener::Tcp { port: 443 }))
                && has(|l| matches!(l, Listener::DnsUdp))
                && has(|l| matches!(l, Listener::DnsTcp))
                && has(|l| matches!(l, Listener::Sentinel)),
            text: String::new(),
        };
        let code = tokio::time::timeout(COMMAND_WITHIN, command(&mut held, &composed, argv)).await;
        held.link.exit().await;
        let gone = async { while held.said.recv().await.is_some_and(|said| said != Said::Gone) {} };
        let gone = tokio::time::timeout(GONE_WITHIN, gone).await;
        let frames = output::read(&composed.plan.log, 0, 64 * 1024).unwrap_or_default();
        seen.text = frames.iter().map(|f| String::from_utf8_lossy(&f.bytes).into_owned()).collect();
        crate::bottle::guard::remove_placeholders(&composed.placeholders);
        let code = code.map_err(|_| {
            Error::new(Kind::Timeout, format!("`{}` did not end within {} s", argv.join(" "), COMMAND_WITHIN.as_secs()))
        })??;
        gone.map_err(|_| Error::new(Kind::BackendUnavailable, "the trial bottle could not be taken down"))?;
        Ok((seen, code))
    }

    async fn probe(&self) -> Result<Seen> {
        let launch = Launch { argv: vec!["sh".to_owned()], ..Launch::default() };
        let (seen, code) = self.run("doctor", &launch, &["sh", "-c", PROBE]).await?;
        if code != 0 {
            return Err(Error::new(
                Kind::BackendUnavailable,
                format!("a shell in the bottle ended with {code}: {}", seen.text.trim()),
            ));
        }
        Ok(seen)
    }

    /// Shows a workspace of root's as the agent's own.
    async fn root_workspace(&self) -> Check {
        let name = "workspace of root";
        let work = self.dir.join("work");
        if let Err(e) = std::fs::create_dir_all(&work) {
            return Check::failed(name, &Error::internal(e.to_string()).at(work.display().to_string())).into_warning();
        }
        let launch =
            Launch { argv: vec!["sh".to_owned()], workspace: Some(work.display().to_string()), ..Launch::default() };
        match self.run("doctor-root", &launch, &["sh", "-c", "echo hi > probe"]).await {
            Ok((_, 0)) if owner(&work.join("probe")) == Some(0) => {
                Check::ok(name, format!("works by idmapped mount below {}", self.parent().display()))
            }
            Ok((seen, code)) => Check::warn(
                name,
                format!("cannot be written (exit {code}): {}", seen.text.trim()),
                "give workspaces to an ordinary user (chown)",
            ),
            Err(error) => Check::failed(name, &error).into_warning(),
        }
    }

    /// Works on a layer over a directory: headless starts do.
    async fn layer(&self) -> Check {
        let name = "overlay";
        let work = self.dir.join("below");
        let made = std::fs::create_dir_all(&work).and_then(|()| std::fs::write(work.join("f"), "host\n"));
        if let Err(e) = made {
            return Check::failed(name, &Error::internal(e.to_string()).at(work.display().to_string())).into_warning();
        }
        // As root, bottles belong to the owner of their workspace, which root's own cannot.
        if nix::unistd::geteuid().is_root() {
            let owner = Some(RESERVED_ID);
            if let Err(e) = std::os::unix::fs::chown(&work, owner, owner) {
                return Check::failed(name, &Error::internal(e.to_string())).into_warning();
            }
        }
        let launch = Launch {
            argv: vec!["sh".to_owned()],
            workspace: Some(work.display().to_string()),
            workspace_mode: Some(WorkspaceMode::Overlay),
            ..Launch::default()
        };
        match self.run("doctor-layer", &launch, &["sh", "-c", "cat f && echo agent > g && mkdir d"]).await {
            Ok((_, 0)) if !work.join("g").exists() => Check::ok(name, "a layer over a workspace takes what is written"),
            Ok((seen, code)) => {
                let message = format!("a layer does not work (exit {code}): {}", seen.text.trim());
                Check::warn(name, message, "write `workspace: copy` or `mount` in manifests")
            }
            Err(error) => Check::failed(name, &error).into_warning(),
        }
    }

    fn parent(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Runs an agent's CLI in a bottle, if it is on this machine.
    async fn agent(&self, name: &'static str, install: &str) -> Check {
        let Some(path) = toolchain::find(name, &self.host.path) else {
            return Check::warn(name, "not on PATH", format!("only if you want this agent: {install}"));
        };
        let launch = Launch { argv: vec![name.to_owned()], ..Launch::default() };
        let place = path.display();
        match self.run(&format!("doctor-{name}"), &launch, &[name, "--version"]).await {
            Ok((seen, 0)) => {
                let version: String = seen.text.lines().next().unwrap_or_default().chars().take(80).collect();
                Check::ok(name, format!("{version}, {place}; runs in a bottle"))
            }
            Ok((seen, code)) => {
                let said: String = seen.text.trim().chars().take(300).collect();
                let message = format!("{place} does not run in a bottle (exit {code}): {said}");
                Check::warn(name, message, format!("install it anew: {install}"))
            }
            Err(error) => {
                let message = format!("{place} does not run in a bottle: {}", error.message);
                Check::warn(name, message, error.hint.unwrap_or_else(|| format!("install it anew: {install}")))
            }
        }
    }
}

/// Runs a command and waits for its end. Its output is in the bottle's log.
async fn command(held: &mut Held, composed: &Composed, argv: &[&str]) -> Result<i32> {
    let command = Command {
        id: "probe".to_owned(),
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: composed.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: composed.workspace.display().to_string(),
        ..Command::default()
    };
    let number = match held.link.ask(Request::Exec(command)).await? {
        (Reply::Started { exec, .. }, _) => exec,
        (Reply::Failed { error }, _) => return Err(error),
        (other, _) => return Err(Error::internal(format!("unexpected answer {other:?}"))),
    };
    while let Some(said) = held.said.recv().await {
        match said {
            Said::Exited { exec, code } if exec == number => return Ok(code),
            Said::Gone => break,
            _ => {}
        }
    }
    Err(Error::new(Kind::BackendUnavailable, "the trial bottle's keeper died"))
}

fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| m.uid())
}

/// Turns the outcome of the trial into one check for each thing that a bottle needs.
fn judged(built: Result<Seen>) -> Vec<Check> {
    let seen = match built {
        Ok(seen) => seen,
        Err(error) => return failed_at(&error),
    };
    let value = |key: &str| {
        let line = seen.text.lines().find_map(|l| l.strip_prefix(key).and_then(|rest| rest.strip_prefix([':', ' '])));
        line.map(|v| v.split_whitespace().next().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let links: Vec<&str> = seen.text.lines().filter_map(|l| l.strip_prefix("link ")).collect();
    let processes = value("processes").parse::<u32>().unwrap_or(u32::MAX);
    let wrong = |name, what: String| {
        let hint = "please report this with the output of `bb doctor --json`: it is a fault of bb";
        Check::failed(name, &Error::new(Kind::BackendUnavailable, what).hint(hint))
    };
    let (uid, caps) = (value("Uid"), value("CapEff"));
    vec![
        if uid == "1000" && !caps.is_empty() && caps.bytes().all(|b| b == b'0') {
            Check::ok("user namespaces", "the agent is uid 1000 and has no capabilities")
        } else {
            wrong("user namespaces", format!("in the bottle the uid is {uid} and the capabilities are {caps}"))
        },
        if links == ["lo:", "eth0:"] || links == ["eth0:", "lo:"] {
            let message = format!("a network of its own; {} sockets listen in the gate", seen.listeners);
            if seen.complete {
                Check::ok("network", message)
            } else {
                wrong("network", "the gate lacks listeners".to_owned())
            }
        } else {
            wrong("network", format!("the bottle has the links {}", links.join(" ")))
        },
        // Its own: pid 1, the shell, perhaps one more. The host has dozens.
        if processes <= 4 {
            Check::ok("fresh /proc", "shows the bottle's own processes only")
        } else {
            wrong("fresh /proc", format!("shows {processes} processes"))
        },
        if (value("Seccomp").as_str(), value("NoNewPrivs").as_str()) == ("2", "1") {
            Check::ok("seccomp", "the filter is in force, and no_new_privs")
        } else {
            wrong("seccomp", format!("mode {}, no_new_privs {}", value("Seccomp"), value("NoNewPrivs")))
        },
        if seen.text.lines().any(|l| l == "writable") {
            Check::ok("bottle", format!("up in {:.1} ms, ran a command, is gone", seen.built.as_secs_f64() * 1000.0))
        } else {
            wrong("bottle", "the scratch workspace cannot be written".to_owned())
        },
    ]
}

/// Finds the step that failed; the ones before it have worked.
fn failed_at(error: &Error) -> Vec<Check> {
    let at = if error.kind == Kind::UsernsForbidden {
        // Some systems give a user namespace without any rights in it; it shows in a later step.
        Some(0)
    } else {
        STEPS.iter().position(|(_, words)| words.iter().any(|w| error.message.starts_with(w)))
    };
    let Some(at) = at else { return vec![Check::failed("bottle", error)] };
    let mut checks: Vec<Check> = STEPS[..at].iter().map(|(name, _)| Check::ok(name, "works")).collect();
    checks.push(Check::failed(STEPS[at].0, error));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Uid: 1000\t1000\t1000\t1000\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n\
                        link lo:\nlink eth0:\nprocesses 2\nwritable\n";

    fn levels(text: &str, complete: bool) -> Vec<(&'static str, Level)> {
        let seen = Seen { text: text.into(), listeners: 5, complete, built: Duration::from_millis(7) };
        judged(Ok(seen)).into_iter().map(|c| (c.name, c.level)).collect()
    }

    #[test]
    fn a_good_bottle_passes_and_each_missing_wall_is_seen() {
        assert!(levels(GOOD, true).iter().all(|(_, level)| *level == Level::Ok), "{:?}", levels(GOOD, true));
        for (from, to, name) in [
            ("Uid: 1000", "Uid: 0", "user namespaces"),
            ("CapEff: 0000000000000000", "CapEff: 00000000a80425fb", "user namespaces"),
            ("CapEff: 0000000000000000\n", "", "user namespaces"),
            ("link eth0:\n", "", "network"),
            ("link eth0:", "link eth0:\nlink docker0:", "network"),
            ("processes 2", "processes 120", "fresh /proc"),
            ("processes 2\n", "", "fresh /proc"),
            ("Seccomp: 2", "Seccomp: 0", "seccomp"),
            ("NoNewPrivs: 1", "NoNewPrivs: 0", "seccomp"),
            ("writable\n", "", "bottle"),
        ] {
            let bad: Vec<_> =
                levels(&GOOD.replace(from, to), true).into_iter().filter(|(_, l)| *l != Level::Ok).collect();
            assert_eq!(bad, [(name, Level::Error)], "{to}");
        }
        assert!(levels(GOOD, false).contains(&("network", Level::Error)));
    }

    #[test]
    fn a_failure_is_shown_at_its_step_with_the_ones_before_it() {
        let at = |kind, message: &str| {
            let checks = failed_at(&Error::new(kind, message).hint("do this"));
            checks.into_iter().map(|c| (c.name, c.level, c.hint.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(at(Kind::UsernsForbidden, "veth: EPERM"), [("user namespaces", Level::Error, true)]);
        assert_eq!(
            at(Kind::BackendUnavailable, "root file system: EINVAL"),
            [("user namespaces", Level::Ok, false), ("network", Level::Ok, false), ("file system", Level::Error, true)]
        );
        assert_eq!(at(Kind::AgentMissing, "`sh` is not on this machine"), [("bottle", Level::Error, true)]);
    }
}

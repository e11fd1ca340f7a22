//! The keeper holds a bottle, whatever happens to the controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bb::api::Launch;
use bb::bottle::output;
use bb::bottle::wire::{self, Command, Listener, Reply, Request};
use bb::controller::compose::{Host, compose};
use bb::controller::keepers::Keepers;
use bb::controller::link::{Held, Link, Said};
use bb::home::Home;

fn host(dir: &Path) -> Host {
    Host {
        home: Home::open(&dir.join("home"), None).unwrap(),
        user_home: None,
        exe: PathBuf::from(env!("CARGO_BIN_EXE_bb")),
        path: "/usr/bin:/bin".into(),
        controller_env: vec![],
    }
}

fn command(id: &str, env: &BTreeMap<String, String>, argv: &[&str]) -> Command {
    Command {
        id: id.into(),
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: "/home/agent/work".into(),
        ..Command::default()
    }
}

async fn run(held: &mut Held, command: Command) -> (u32, i32) {
    match held.link.ask(Request::Exec(command)).await.unwrap().0 {
        Reply::Started { exec: n, .. } => loop {
            match held.said.recv().await.unwrap() {
                Said::Exited { exec, code } if exec == n => return (n, code),
                Said::Gone => panic!("keeper gone"),
                _ => {}
            }
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_bottle_runs_commands_and_survives_its_controller() {
    let dir = std::env::temp_dir().join(format!("bb-keeper-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let host = host(&dir);
    let launch = Launch { argv: vec!["sleep".into(), "600".into()], ..Launch::default() };
    let composed = compose(&host, &launch, "test", "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(host.home.stopped(), "").unwrap();
    let sealed = wire::sealed("sealed", b"secret").unwrap();
    let mut held = Link::launch(&Keepers::new(host.exe.clone()), &composed.plan, &sealed).await.unwrap();
    let ports: Vec<_> = held.listeners.iter().map(|(l, _)| *l).collect();
    assert!(ports.contains(&Listener::Tcp { port: 443 }) && ports.contains(&Listener::Sentinel), "{ports:?}");
    let agent = held.link.ask(Request::Exec(command("agent", &composed.env, &["sleep", "600"]))).await.unwrap().0;
    assert!(matches!(agent, Reply::Started { exec: 0, .. }), "{agent:?}");
    let t = std::time::Instant::now();
    let script = "id -u; id -un; cat /proc/self/status | grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:'; ls -la / /home /dev /etc; mount; ip addr; cat /proc/1/environ; ls /root; touch /x; echo hi > f && cat f; ps aux; exit 7";
    let (n, code) = run(&mut held, command("one", &composed.env, &["bash", "-c", script])).await;
    eprintln!("{:?}", t.elapsed());
    let log = output::read(&composed.plan.log, 0, 1 << 20).unwrap();
    let text: String =
        log.iter().filter(|f| f.exec == n).map(|f| String::from_utf8_lossy(&f.bytes).into_owned()).collect();
    if std::env::var_os("BB_SHOW").is_some() {
        eprintln!("{text}");
    }
    assert_eq!(code, 7, "{text}");
    assert!(text.contains("1000\nagent\n"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");

    // The controller goes away without a word; another comes.
    drop(held);
    let (slug, mut held) = Link::adopt(&composed.plan.socket).await.unwrap();
    assert_eq!(slug, "test");
    assert_eq!(wire::read_sealed(held.sealed.as_ref().unwrap()).unwrap(), b"secret");
    assert_eq!(held.listeners.len(), ports.len());
    assert_eq!(held.execs[1].code, Some(7), "the exit code is not lost");
    let (_, code) = run(&mut held, command("two", &composed.env, &["true"])).await;
    assert_eq!(code, 0);
    held.link.exit().await;
    while held.said.recv().await.unwrap() != Said::Gone {}
    assert!(!composed.plan.socket.exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_bottle_that_stops_every_new_process_can_still_be_killed() {
    let dir = std::env::temp_dir().join(format!("bb-keeper-stop-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let host = host(&dir);
    let launch = Launch { argv: vec!["sleep".into(), "600".into()], ..Launch::default() };
    let composed = compose(&host, &launch, "stop", "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(host.home.stopped(), "").unwrap();
    let sealed = wire::sealed("sealed", b"secret").unwrap();
    let mut held = Link::launch(&Keepers::new(host.exe.clone()), &composed.plan, &sealed).await.unwrap();
    // Stops every process but itself, and so most of those that are about to become a command.
    let stopper = ["bash", "-c", "while :; do kill -STOP -1; done"];
    held.link.ask(Request::Exec(command("agent", &composed.env, &stopper))).await.unwrap();
    for id in ["one", "two", "three"] {
        let asked = held.link.ask(Request::Exec(command(id, &composed.env, &["true"])));
        let answer = tokio::time::timeout(std::time::Duration::from_secs(15), asked).await.expect("the keeper hangs");
        assert!(matches!(answer.unwrap().0, Reply::Started { .. } | Reply::Failed { .. }));
    }
    held.link.exit().await;
    let gone = async { while held.said.recv().await.unwrap() != Said::Gone {} };
    tokio::time::timeout(std::time::Duration::from_secs(15), gone).await.expect("the bottle survives its kill");
    std::fs::remove_dir_all(dir).unwrap();
}

/// Gets the process ids of this process's own fork servers.
fn fork_servers() -> Vec<i32> {
    let ours = std::process::id().to_string();
    let numbers = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.split_once("(bb-keepers) ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(ours.as_str()))
    };
    numbers.filter(is_one).collect()
}

#[tokio::test]
async fn what_keepers_are_forked_from_may_be_killed() {
    let dir = std::env::temp_dir().join(format!("bb-keepers-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let host = host(&dir);
    std::fs::write(host.home.stopped(), "").unwrap();
    let keepers = Keepers::new(host.exe.clone());
    let launch = Launch { argv: vec!["true".into()], ..Launch::default() };
    let sealed = wire::sealed("sealed", b"secret").unwrap();
    let mut held = Vec::new();
    for slug in ["first", "second", "third"] {
        let before = fork_servers();
        let composed = compose(&host, &launch, slug, "").unwrap();
        let bottle = Link::launch(&keepers, &composed.plan, &sealed).await.unwrap();
        let agent = bottle.link.ask(Request::Exec(command("agent", &composed.env, &["sleep", "600"]))).await.unwrap().0;
        assert!(matches!(agent, Reply::Started { exec: 0, .. }), "{agent:?}");
        held.push((bottle, composed.env));
        // The second is of the server of the first; before the third that is killed.
        if slug == "second" {
            let server = bb::os::process::Process::open(before[0]).unwrap();
            server.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
            assert!(server.ends_within(60_000).unwrap());
        }
    }
    // All of them live, whichever server they are of.
    for (bottle, env) in &mut held {
        assert_eq!(run(bottle, command("again", env, &["true"])).await, (1, 0));
        bottle.link.exit().await;
        bottle.link.gone().await;
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

//! The tests' own ground: a world is closed, its canaries sing, and it goes away whole.

use std::time::Duration;

use crate::support::{Reply, World};

#[test]
fn a_world_is_closed_and_its_canaries_see_what_arrives() {
    for world in World::each() {
        let site = world.site("good.example", |seen| Reply::text(format!("you asked for {}", seen.path)));
        let script = r#"
            id -u
            curl -sS --cacert "$SSL_CERT_FILE" https://good.example/page && echo
            curl -sS http://good.example/plain && echo
            getent hosts nowhere.example || echo no such name
            for a in 8.8.8.8 169.254.169.254 10.0.0.1 192.0.2.10 '[2001:db8::1]'; do
                curl -sS -m 0.3 "http://$a/secret" -o /dev/null
            done
            curl -sS -m 1 http://9.9.9.9:4444/ || echo "curl $?"
            sleep 1000 </dev/null >/dev/null 2>&1 &
        "#;
        let output = world.program("/bin/bash", &["-c", script]).run();
        assert!(output.stdout.contains(&format!("{}\n", world.uid())), "{output}");
        assert!(output.stdout.contains("you asked for /page") && output.stdout.contains("/plain"), "{output}");
        assert!(output.stdout.contains("no such name") && output.stdout.contains("curl 7"), "{output}");
        assert_eq!(site.seen().len(), 2);
        assert_eq!(world.asked(), ["good.example", "nowhere.example"]);
        let hits = world.hits();
        assert_eq!(hits.len(), 5, "{hits:?}");
        assert!(hits.iter().all(|h| String::from_utf8_lossy(&h.bytes).contains("GET /secret")), "{hits:?}");
        // What was left behind is known, and goes with the world.
        let left = world.leftovers();
        assert!(left.len() == 1 && left[0].contains("sleep 1000"), "{left:?}");
        let (pid, dir) = (world.processes()[0].pid, world.dir().to_owned());
        drop(world);
        assert!(!dir.exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn a_command_that_leaves_its_output_open_is_told_from_one_that_ends() {
    let Some(world) = World::new() else { return };
    let running = world.program("/bin/sh", &["-c", "echo begun; sleep 1000 & exit 3"]).patience(Duration::from_secs(2));
    let running = running.spawn();
    running.says("begun");
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.wait()));
    let message = *waited.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("keeps its output open") && message.contains("exit 3"), "{message}");
}

/// A process that passes for the world's controller and does what its argument says; prints `up` then.
const HOLDER: &str = r#"
import fcntl, os, signal, socket, subprocess, sys
home = os.environ["BB_HOME"]; os.makedirs(home + "/run/k", exist_ok=True)
lock = open(home + "/run/controller.lock", "w+"); fcntl.flock(lock, fcntl.LOCK_EX); lock.write(str(os.getpid())); lock.flush()
ours, its = socket.socketpair()
if sys.argv[1] != "nothing":
    # The socket comes from a process that has made a network namespace and ends.
    make = "import array, socket, sys; s = socket.socket(fileno=%d); inside = socket.socket(); " % its.fileno()
    make += "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [inside.fileno()]))]); sys.stdin.read()"
    child = subprocess.Popen(["unshare", "--user", "--map-current-user", "--net", "python3", "-c", make],
        stdin=subprocess.PIPE, pass_fds=[its.fileno()])
    ours.recv(1, socket.MSG_PEEK)
    if sys.argv[1] in ("user", "net"):
        kept = open("/proc/%d/ns/%s" % (child.pid, sys.argv[1]))
    if sys.argv[1] == "socket":
        kept = ours.recvmsg(1, 64)[1]
    elif sys.argv[1] != "flight":
        ours.close(); its.close()
    child.stdin.close(); child.wait()
print("up", flush=True)
signal.pause()
"#;

#[test]
fn what_is_left_behind_is_named_however_it_is_kept() {
    for world in World::each() {
        let clean = || world.until(Duration::from_secs(5), || world.leftovers().is_empty());
        world.write("__controller", HOLDER);
        let kept = |what: &str| {
            let holder = world.program("/usr/bin/python3", &["__controller", what]).spawn();
            holder.says("up");
            // What is in flight goes only with the holder: to wait for that would be in vain. All was quiet before.
            let patience = if what == "flight" { Duration::from_millis(200) } else { Duration::from_secs(15) };
            let left = world.leftovers_within(patience);
            assert!(!holder.has_ended());
            holder.signal(nix::sys::signal::SIGKILL);
            assert!(holder.ends_within(Duration::from_secs(5)));
            left
        };
        // A controller alone is nothing; the same one that keeps a namespace by a descriptor or a socket is told on.
        assert_eq!(kept("nothing"), [""; 0]);
        for (kind, what, how) in
            [("user", "user", "descriptor"), ("net", "net", "descriptor"), ("net", "socket", "socket")]
        {
            let left = kept(what);
            let start = format!("namespace {kind}:[");
            let named = |l: &String| l.starts_with(&start) && l.contains(&format!("kept by {how}"));
            assert!(left.len() == 1 && left.iter().all(named), "{what}: {left:?}");
            assert!(clean(), "{:?}", world.leftovers());
        }
        // In flight from one process to another it is nowhere to be seen, but counted where the world can count.
        let left = kept("flight");
        let counted =
            ["net", "user"].map(|kind| left.iter().any(|l| l.contains(&format!("of kind {kind} that nobody shows"))));
        assert_eq!(counted, [world.uid() != 0; 2], "{left:?}");
        assert!(clean(), "{:?}", world.leftovers());

        // By a mount: no process, no descriptor.
        let at = world.write("kept", "").display().to_string();
        if world.uid() == 0 {
            world.program("/usr/bin/unshare", &[&format!("--net={at}"), "true"]).run().expect(0);
            let left = world.leftovers();
            assert!(left.len() == 1 && left[0].starts_with("mounts ") && left[0].contains(&at), "{left:?}");
            world.program("/bin/umount", &[&at]).run().expect(0);
            assert!(clean(), "{:?}", world.leftovers());
        }

        // By a process that lives.
        let script = "unshare --user --map-current-user --net --mount sleep 1000 </dev/null >/dev/null 2>&1 & echo $!";
        let pid = world.program("/bin/sh", &["-c", script]).run().expect(0).stdout.trim().to_owned();
        let named = |kind: &str| {
            let end = format!("] of process {pid}");
            world.leftovers().iter().any(|l| l.starts_with(&format!("namespace {kind}:[")) && l.ends_with(&end))
        };
        let all = || ["user", "net", "mnt"].into_iter().all(named);
        assert!(world.until(Duration::from_secs(5), all), "{:?}", world.leftovers());
        world.program("/bin/kill", &["-9", &pid]).run().expect(0);
        assert!(clean(), "{:?}", world.leftovers());

        // A file that its maker forgot, a cgroup.
        let dead = world.program("/bin/sh", &["-c", "f=/tmp/bb-left-$$; echo > $f; echo $f"]).run().expect(0);
        let file = dead.stdout.trim();
        assert_eq!(world.leftovers(), [format!("file {file}")]);
        std::fs::remove_file(file).unwrap();
        let groups = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"];
        let name = bb::bottle::cgroup::name(&world.bb_home(), "left");
        let dirs = groups.map(|g| std::path::Path::new(g).join(&name));
        let dir = if world.uid() == 0 { dirs.iter().find(|d| std::fs::create_dir(d).is_ok()) } else { None };
        if let Some(dir) = dir {
            assert_eq!(world.leftovers(), [format!("cgroup {}", dir.display())]);
            std::fs::remove_dir(dir).unwrap();
        }
        assert!(clean(), "{:?}", world.leftovers());
    }
}

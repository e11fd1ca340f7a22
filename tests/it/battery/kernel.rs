//! Ways out of a bottle by the kernel: privileges, namespaces, other processes, devices, files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use std::time::Duration;

use super::{Bottle, Row, play, processes};
use crate::support::{Process, World, have_tools, status, tool};

const LONG: Duration = Duration::from_secs(60);

pub const ROWS: &[Row] = &[
    Row::new("who one is", "id -u; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", &[
        "1000",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ])
    .comes("uid 1000, no capability, `no_new_privs`, a seccomp filter")
    .covers(&[52]),
    Row::new("what one inherits", "grep ^SigBlk /proc/self/status; i=$(grep ^SigIgn /proc/self/status | cut -f2); echo ignored $((0x$i & 0x7fffffff)); ls /proc/self/fd; ulimit -c", &[
        "SigBlk:\t0000000000000000",
        "ignored 0",
        "0\n1\n2\n3\n0",
    ])
    .twin("yes | head -1 | fine y")
    .comes("no blocked or ignored signal, no descriptor beside the three, no core")
    .covers(&[54]),
    Row::new("writing the host's core_pattern", "echo '|/tmp/x' > /proc/sys/kernel/core_pattern; echo code $?", &["code 1"])
        .twin("cat /proc/sys/kernel/ostype | fine Linux")
    .comes("it cannot be written")
    .covers(&[54]),
    Row::new("writing the host's path of modprobe", "echo /tmp/x > /proc/sys/kernel/modprobe; echo code $?", &["code 1"])
        .twin("cat /proc/sys/kernel/pid_max | fine [0-9]")
    .comes("it cannot be written"),
    Row::new("writing sysrq-trigger", "echo c > /proc/sysrq-trigger; echo code $?", &["code 1"]).twin("cat /proc/uptime | fine [0-9]")
    .comes("it cannot be written"),
    Row::new("looking into sysfs, and writing to it", "ls /sys/kernel /sys/class/net /sys/fs/cgroup; echo > /sys/kernel/uevent_helper", &[])
        .each(&[("No such file", 4)])
        .twin("nproc | fine [1-9]; python3 -c 'import os; print(os.cpu_count())' | fine [1-9]"),
    Row::new("the machine's memory", "head -c 1 /dev/mem; head -c 1 /proc/kcore; head -c 1 /dev/kmsg; ls /dev/kvm /dev/sda /dev/vda", &[])
        .each(&[("cannot ", 6)])
        .twin("grep MemTotal: /proc/meminfo | fine kB; head -c 4 /dev/urandom | wc -c | fine 4; head -c 1 /dev/zero; echo > /dev/null")
    .comes("none of them can be opened")
    .covers(&[43]),
    Row::new("setuid bit by chmod", "cp /bin/true s1; chmod 4755 s1", &["Operation not permitted"])
        .twin("cp /bin/true t1 && chmod 755 t1 && ./t1")
    .covers(&[52]),
    Row::new("setgid bit by chmod", "cp /bin/true s2; chmod 2755 s2; chmod g+s .", &[])
        .each(&[("Operation not permitted", 2)])
        .twin("cp /bin/true t2 && chmod 750 t2 && chmod g-w . && chmod +t .")
    .covers(&[52]),
    Row::new("setuid bit at creation", "try call open s3 0o101 0o4755; try call mkdir s4 0o2755; install -m 4755 /bin/true s5", &[])
        .each(&[("EPERM", 2), ("Operation not permitted", 1)])
        .twin("try call open t3 0o101 0o755 | fine done; try call mkdir t4 0o755 | fine done; install -m 755 /bin/true t5; ./t5")
    .covers(&[52]),
    Row::new(
        "setuid bit by every call there is",
        "cp /bin/true s6; chmod 755 s6; try call chmod s6 0o4755; try syscall 90 s6 0o4755; try syscall 268 -100 s6 0o4755; try syscall 452 -100 s6 0o4755 0; try syscall 85 s7 0o4755; try syscall 437 -100 s8 0 24",
        &["EPERM\nEPERM\nEPERM\nENOSYS\nEPERM\nENOSYS"],
    )
    .twin("cp /bin/true t6; try call chmod t6 0o755 | fine done; try syscall 90 t6 0o700 | fine done; try syscall 268 -100 t6 0o755 | fine done; try syscall 85 t7 0o600 | fine done")
    .covers(&[52]),
    Row::new("a device node", "mknod dev c 1 3; mknod blk b 8 0", &[])
        .each(&[("Operation not permitted", 2)])
        .twin("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"t8\")'; test -S t8; ln -s t8 t9; mkfifo t10; test -p t10")
    .covers(&[59]),
    Row::new("more than there is room for", "fallocate -l 1T ~/big; fallocate -l 1T /tmp/big; fallocate -l 1T /run/big", &[])
        .each(&[("No space left", 3)])
        .twin("fallocate -l 1M ~/small; fallocate -l 1M /tmp/small"),
    Row::new(
        "writing past the mounts' own read-only flags",
        // The kernel stacks sixteen layers; where one is bb's, fifteen are left.
        "python3 -c 'import ctypes as c\nk = c.CDLL(None).syscall\nn = 0\nwrites = c.c_uint64(2)\nwhile n < 20 and k(446, k(444, c.byref(writes), 8, 0), 0) == 0: n += 1\nprint(\"layers left\", n if k(444, 0, 0, 1) > 1 else 15)'",
        &["layers left 15"],
    )
    .twin("echo x > ~/w && echo x > /tmp/w && echo x > /run/w && echo x > w && mv w v && echo x > /dev/shm/w && echo x > /dev/null && ln v u")
    .comes("the bottle's Landlock rules hold already (where the kernel has Landlock)"),
    Row::new(
        "the key of its authority",
        // What is shown of the agents' own packages speaks of such keys as well, and lies below the world's /tmp.
        "grep -rlaE --exclude-dir=node_modules 'BEGIN [A-Z ]*PRIVATE KEY' /etc/bb /run /tmp ~ /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; echo searched",
        &["searched"],
    )
    .each(&[("/", 0)])
    .twin("grep -rlaF 'BEGIN CERTIFICATE' /etc/bb | fine ca.pem")
    .comes("it is nowhere; the certificate is there")
    .covers(&[66]),
    Row::new("becoming root", "try call setuid 0; try call setresuid 0 0 0; try call setgid 0", &["EINVAL\nEINVAL\nEINVAL"])
        .twin("try call setuid 1000 | fine done; try call setresuid 1000 1000 1000 | fine done; try call setgid 1000 | fine done")
    .covers(&[52]),
    Row::new("a setuid program", "p=$(command -v mount); [ -u $p ] && echo it is; mount --bind /tmp /mnt", &["it is", "must be superuser"])
        .twin("mount | fine ' on / '")
    .covers(&[52]),
    Row::new("the system's files", "touch /usr/bin/x /etc/x /bin/x; rm -f /usr/bin/env; echo x >> /etc/hosts; echo 'nameserver 1.1.1.1' > /etc/resolv.conf; true", &[
        "/usr/bin/x': Read-only file system",
        "/etc/x': ",
        "/usr/bin/env': Read-only file system",
    ])
    .each(&[("Read-only file system", 6)])
    .twin("echo x > ~/x && echo x > /tmp/x && echo x > x"),
    Row::new("a core file", "ulimit -c; ulimit -c unlimited; ulimit -c", &["0\n0\n", "cannot modify limit"])
        .twin("ulimit -n 64; ulimit -n | fine 64")
    .comes("the bound of core files, 0, cannot be raised")
    .covers(&[54]),
];

fn rows() -> Vec<Row> {
    [ROWS, processes::ROWS].concat()
}

/// Waits until nothing is left of what has left its session in a bottle that was killed.
#[track_caller]
fn the_daemon_is_gone(world: &World) {
    // As a word: the ids of containers have every number in them.
    let runs = || world.processes().iter().any(|p| p.command.split_whitespace().any(|word| word == "7301"));
    assert!(world.until(LONG, || !runs()), "{:?}: {:?}", world.who, world.processes());
}

#[test]
fn nobody_gets_more_than_they_have() {
    if !have_tools(&["python3", "ps", "unshare", "nsenter", "ip"]) {
        return;
    }
    let core_pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for world in World::each() {
        let workspace = world.make_dir("project");
        let options = format!("workspace = {:?}", workspace.display().to_string());
        let needs = format!(", write:{}", workspace.display());
        let bottle = Bottle { options: &options, needs: &needs, ..Bottle::default() };
        nobody_is_root_on_the_host(&world, &bottle);
        let played = play(&world, &bottle, &rows());
        the_daemon_is_gone(&world);
        // On the host: no bit, no device, and nothing that belongs to root.
        for entry in std::fs::read_dir(&workspace).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o6000, 0, "{:?}", entry.path());
            assert!(!std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type()), "{:?}", entry.path());
        }
        // Nothing of bb's own is to be seen from inside; the rows' processes and their arguments were.
        assert!(world.bb_home().join("run/controller.sock").exists());
        for word in ["controller.sock", "__controller", &world.bb_home().display().to_string()] {
            played.never_said(word);
        }
        assert!(played.texts.iter().any(|t| t.contains("sleep 600")), "{:?}", played.texts);
        assert_eq!(std::fs::metadata(workspace.join("t1")).unwrap().uid(), world.uid(), "the owner's own files");
        world.assert_silent(&[]);
    }
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
    assert!(tool("env").is_some(), "the host's programs are still there");
}

/// Asserts that nothing of a bottle is run by root of the host: its first process, its agent with a child, and a command in it.
#[track_caller]
fn nobody_is_root_on_the_host(world: &World, bottle: &Bottle<'_>) {
    let Bottle { needs, options, .. } = bottle;
    let recipe = world.recipe(
        "whose.lua",
        &format!(
            "--- @bb needs launch{needs}\nbb.launch{{command = {{'sh', '-c', 'sleep 601 & sleep 602'}}, label = 'whose', \
             budget = 'unlimited', detach = true, {options}}}\n"
        ),
    );
    let bb = |args: &[&str]| bottle.env.iter().fold(world.command(args), |c, (name, value)| c.env(name, *value));
    bb(&["run", "--grant", "all", &recipe]).patience(LONG).run().expect(0);
    let command = bb(&["exec", "whose", "--", "sleep", "603"]).spawn();
    // Who is in a process namespace below the controller's is of the bottle.
    let deep = |pid: i32| status(pid, "NSpid").map_or(0, |ids| ids.len());
    let own = deep(world.controller_pid().unwrap());
    let inside = || -> Vec<_> { world.processes().into_iter().filter(|p| deep(p.pid) > own).collect() };
    let mut seen = Vec::new();
    let is_so = world.until(LONG, || {
        seen = inside();
        let runs = |what: &str| seen.iter().any(|p| p.command.ends_with(what));
        let whose = |p: &Process| ["Uid", "Gid"].map(|key| status(p.pid, key).unwrap_or_else(|| vec!["gone".into()]));
        ["sleep 601", "sleep 602", "sleep 603"].into_iter().all(runs)
            // (An engine's own way in is root's for a moment. What stays so is found.)
            && seen.iter().all(|p| whose(p).iter().flatten().all(|id| id != "0"))
            && inside().len() == seen.len()
    });
    let ids: Vec<_> = seen.iter().map(|p| (&p.command, status(p.pid, "Uid"), status(p.pid, "Gid"))).collect();
    assert!(is_so && seen.len() > 4, "{:?}: {ids:?}", world.who);
    bb(&["kill", "whose"]).run().expect(0);
    command.wait();
}

/// Rows about what a container has otherwise, each in place of one of the same name: no user namespace of its own, a `/sys` of the engine's, a `/run` that is not
/// the agent's.
pub const OTHERWISE: &[Row] = &[
    // Containers have the engine's root, which is read-only, and no second layer of bb's yet.
    Row::new("writing past the mounts' own read-only flags", "touch /usr/x /etc/x /x", &[]).each(&[("Read-only", 3)])
        .comes("the root is read-only"),
    Row::new("looking into sysfs, and writing to it", "echo > /sys/kernel/uevent_helper || echo refused; mkdir /sys/fs/cgroup/x || echo refused; ls /sys/class/net", &["lo"])
    .each(&[("refused", 2), ("eth", 0)])
        .comes("it cannot be written; no link but loopback is shown")
        .twin("nproc | fine [1-9]; python3 -c 'import os; print(os.cpu_count())' | fine [1-9]"),
    Row::new("more than there is room for", "fallocate -l 1T ~/big; fallocate -l 1T /tmp/big; touch /run/big", &[
        "Permission denied",
    ])
    .each(&[("No space left", 2)])
    .twin("fallocate -l 1M ~/small; fallocate -l 1M /tmp/small"),
    Row::new("becoming root", "try call setuid 0; try call setresuid 0 0 0; try call setgid 0", &["EPERM\nEPERM\nEPERM"])
        .twin("try call setuid 1000 | fine done; try call setresuid 1000 1000 1000 | fine done; try call setgid 1000 | fine done"),
];

/// Plays the rows in a container.
#[track_caller]
pub fn nobody_gets_more_than_they_have_in_a_container(world: &World, bottle: &Bottle<'_>) {
    let workspace = world.make_dir("project");
    bottle.give(&workspace);
    let options = bottle.with(&format!("workspace = {:?}", workspace.display().to_string()));
    let needs = format!(", write:{}", workspace.display());
    let same = rows().into_iter().filter(|row| OTHERWISE.iter().all(|other| other.name != row.name));
    let rows: Vec<Row> = same.chain(OTHERWISE.iter().cloned()).collect();
    let bottle = Bottle { options: &options, needs: &needs, ..*bottle };
    nobody_is_root_on_the_host(world, &bottle);
    let played = play(world, &bottle, &rows);
    the_daemon_is_gone(world);
    for entry in std::fs::read_dir(&workspace).unwrap().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        assert_eq!((meta.permissions().mode() & 0o6000, meta.uid()), (0, 1000), "{:?}", entry.path());
        assert!(!std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type()), "{:?}", entry.path());
    }
    for word in ["controller.sock", "__controller", &world.bb_home().display().to_string()] {
        played.never_said(word);
    }
}

/// Where tools keep credentials in a home.
const CREDENTIALS: [&str; 16] = [
    ".ssh/id_ed25519",
    ".aws/credentials",
    ".npmrc",
    ".netrc",
    ".pypirc",
    ".git-credentials",
    ".docker/config.json",
    ".kube/config",
    ".gnupg/secring.gpg",
    ".cargo/credentials.toml",
    ".config/gh/hosts.yml",
    ".config/gcloud/application_default_credentials.json",
    ".azure/msal_token_cache.json",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
];

/// Played with `<<PATHS>>` that must not be there, `<<HOME>>`, and `<<HEAD>>` and `<<TAIL>>` of a word that must not be found.
pub const HIDDEN: &[Row] = &[
    Row::new("the host's files and credentials, of which one knows the path", "for p in <<PATHS>> /etc/shadow /etc/gshadow /root/.bashrc; do cat $p; cat /proc/self/root$p; done", &[])
        .each(&[("No such file or directory", 46)])
        .twin("cat found.txt | fine canary; cat /etc/passwd | fine 1000")
        .covers(&[43, 47]),
    // The word comes in pieces, so that the search does not find its own command line.
    Row::new("the host's files, by searching", "grep -rlaF \"$(printf %s%s <<HEAD>> <<TAIL>>)\" /home /root /var /tmp /run /mnt /srv /etc /boot /media 2>/dev/null; \
             ls -a <<HOME>> /home /root /var /run /boot; find / \\( -path /usr -o -path /proc -o -path /opt \\) -prune -o \\( -name 'bot-bottle*' -o -name '*.sock' \\) -print 2>/dev/null; true", &[
        "/project/found.txt",
        "project",
    ])
    .comes("the workspace, and nothing else")
    .covers(&[43]),
];

#[test]
fn the_hosts_files_are_not_there() {
    for world in World::each() {
        the_hosts_files_are_not_there_in(&world, &Bottle::default());
    }
}

#[track_caller]
pub fn the_hosts_files_are_not_there_in(world: &World, bottle: &Bottle<'_>) {
    // In each place where somebody might look for it a file that must not be found; in the workspace one that must.
    let canary = format!("canary-{}", world.dir().file_name().unwrap().to_string_lossy());
    let (home, mut hidden) = (world.home(), Vec::new());
    for place in CREDENTIALS.iter().chain(&["Documents/notes.txt", "project-of-somebody-else/x"]) {
        hidden.push(world.write(home.join(place), format!("{canary}\n")));
    }
    hidden.push(world.write(world.bb_home().join("recipes/own.lua"), format!("-- {canary}\n")));
    let elsewhere = std::path::Path::new("/var/tmp").join(&canary);
    std::fs::write(&elsewhere, &canary).unwrap();
    hidden.push(elsewhere.clone());
    let workspace = world.make_dir("project");
    world.write("project/found.txt", format!("{canary} in the workspace\n"));
    bottle.give(&workspace);
    let paths = hidden.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    let (head, tail) = canary.split_at(4);
    let words = [
        ("PATHS", paths.join(" ")),
        ("HOME", home.display().to_string()),
        ("HEAD", head.to_owned()),
        ("TAIL", tail.to_owned()),
    ];
    let options = bottle.with(&format!("workspace = {:?}", workspace.display().to_string()));
    let needs = format!(", write:{}", workspace.display());
    let played = play(world, &Bottle { options: &options, needs: &needs, words: &words, ..*bottle }, HIDDEN);
    let found = &played.texts[2];
    assert_eq!(found.matches("found.txt").count(), 1, "{found}");
    for word in ["bot-bottle", ".sock", ".ssh", ".aws", "Documents", "somebody-else"] {
        assert!(!found.contains(word), "{word}: {found}");
    }
    std::fs::remove_file(elsewhere).unwrap();
}

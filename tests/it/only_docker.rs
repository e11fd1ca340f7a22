//! A machine on which an engine is all that can make bottles. Called by a test that has one up (module `docker`).

use std::fs;
use std::time::Duration;

use crate::support::engine::{Engine, IMAGE, helper};
use crate::support::{World, have_tools};

/// How long something may take that an engine does in a second or two.
const LONG: Duration = Duration::from_secs(120);

/// Runs a script in a user namespace with all of this one's users, and mounts of its own, in which no further one can be made. A controller that is
/// started there goes with it.
const FORBIDDING: &str = r#"
set -e
mkfifo "$0/go"
unshare --user --mount sh -c 'read -r _ <"$0/go"; exec sh -c "$1" "$0" "$2" "$3"' "$0" '
  echo 0 >/proc/sys/user/max_user_namespaces || exit 77
  code=0; sh -c "$1" || code=$?; "$2" controller stop 2>/dev/null; exit $code' "$1" "$2" &
until [ "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
for map in uid_map gid_map; do awk '{ print $1, $1, $3 }' "/proc/self/$map" >"/proc/$!/$map"; done
echo >"$0/go"
wait $!
"#;

/// A machine that forbids user namespaces, and has an engine: that is enough, it is remembered, and it is what bottles get.
pub fn bottles_need_the_engine(world: &World, engine: &Engine<'_>) {
    if !have_tools(&["unshare", "awk"]) {
        return;
    }
    world.bb(&["controller", "stop"]).expect(0);
    let best = world.bb_home().join("run/backend");
    assert_eq!(fs::read_to_string(&best).unwrap(), "linux\n", "both work: the embedded one");
    let exe = world.exe().display().to_string();
    let recipe = world.recipe(
        "found.lua",
        &format!(
            "--- @bb needs launch\nlocal o = bb.launch{{command = {{'true'}}, image = '{IMAGE}'}}:wait()\n\
             print(o.ended, o.exit_code)\n"
        ),
    );
    let dir = world.make_dir("forbidding");
    let there = |number: u32, host: &str, script: &str| {
        let dir = world.make_dir(dir.join(number.to_string())).display().to_string();
        let helper = helper().unwrap().display().to_string();
        let command = world.program("/bin/sh", &["-c", FORBIDDING, &dir, script, &exe]);
        command.env("DOCKER_HOST", host).env("BB_HELPER", helper).patience(LONG).run()
    };
    let doctor = format!("{exe} doctor --json");
    let output = there(1, &engine.address(), &doctor).expect(0);
    let checks = output.json();
    let of =
        |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {output}"));
    let forbidden = of("user namespaces");
    assert_eq!(forbidden["level"], "warn", "{forbidden}");
    assert!(forbidden["message"].as_str().unwrap().contains("user.max_user_namespaces = 0"), "{forbidden}");
    assert!(forbidden["hint"].as_str().unwrap().starts_with("run: sudo sysctl"), "{forbidden}");
    assert_eq!(of("engine")["level"], "ok", "{output}");
    assert!(of("backend")["message"].as_str().unwrap().starts_with("docker: "), "{output}");
    let result = checks.last().unwrap();
    assert_eq!((&result["ok"], &result["errors"]), (&true.into(), &0.into()), "{output}");
    assert_eq!(fs::read_to_string(&best).unwrap(), "docker\n");
    // Nothing else says a backend: it is the one that was found, and no other could make this bottle.
    let output = there(2, &engine.address(), &format!("{exe} run --grant all {recipe}")).expect(0);
    assert_eq!(output.stdout, "exited\t0\n", "{output}");
    // Without either none is left, and what was remembered is forgotten.
    let output = there(3, "unix:///none.sock", &doctor).expect(5);
    let checks = output.json();
    assert!(checks.iter().any(|check| check["name"] == "user namespaces" && check["level"] == "error"), "{output}");
    assert_eq!(checks.last().unwrap()["ok"], false, "{output}");
    assert!(!best.exists(), "{output}");
}

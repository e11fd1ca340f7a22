//! Commands that are fed: byte for byte, for as long as they read, once.

use std::time::Duration;

use crate::support::World;
use crate::support::person::{SHELL, ends, launch};

/// How long something may take that takes seconds on an idle machine.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_command_is_fed_byte_for_byte_for_as_long_as_it_reads() {
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let bb = world.exe().display().to_string();
        let sh = |script: &str| {
            let script = script.replace("BB", &bb);
            world.program("/bin/bash", &["-c", &script]).patience(LONG).run()
        };
        sh("head -c 5000000 /dev/urandom > data").expect(0);
        sh("set -o pipefail; BB exec -i shell -- cat < data | cmp - data").expect(0);
        let sum = sh("BB exec -i shell -- sha256sum < data; sha256sum < data").expect(0);
        let lines: Vec<_> = sum.stdout.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, lines[1]), "{sum}");
        // It comes as it is written, and not only at the end of it all.
        let script = "mkfifo talk; exec 3<>talk; BB exec -i shell -- sh -c 'read a; echo got $a; read b; echo and $b' <talk >said & \
                      until [ -e said ]; do sleep 0.02; done; echo one >&3; until grep -q 'got one' said; do sleep 0.02; done; \
                      echo two >&3; wait $!; cat said";
        assert_eq!(sh(script).expect(0).stdout, "got one\nand two\n");
        // One that does not read to the end, none at all, and one that is closed at once.
        assert_eq!(sh("yes | BB exec -i shell -- head -n 1").expect(0).stdout, "y\n");
        sh("BB exec -i shell -- sh -c 'exit 4' < data").expect(4);
        assert_eq!(sh("BB exec -i shell -- wc -c < /dev/null").expect(0).stdout, "0\n");
        assert_eq!(sh("echo x | BB exec shell -- cat").expect(0).stdout, "", "without -i nothing is read");
        ends(&world, &["shell"]);
    }
}

#[test]
fn what_is_fed_arrives_once_and_whole_however_often_the_controller_is_killed() {
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let script = "head -c 3000000 /dev/urandom > data; echo ready; \
                      BB exec -i shell -- sh -c 'for i in 1 2 3 4 5 6; do head -c 500000; sleep 0.2; done; cat; exit 5' < data > got; \
                      code=$?; cmp data got && exit $code";
        let script = script.replace("BB", &world.exe().display().to_string());
        let feeding = world.program("/bin/bash", &["-c", &script]).patience(LONG).spawn();
        feeding.says("ready");
        for _ in 0..4 {
            // Some of it passes under each controller: the moment is what is being tried.
            std::thread::sleep(Duration::from_millis(300));
            world.kill_controller();
        }
        feeding.wait().expect(5);
        ends(&world, &["shell"]);
    }
}

//! Commands that show what they would do and ask: a person at a terminal says no, and nothing happens; then yes.

use std::fs;

use serde_json::json;

use crate::support::have_tools;
use crate::support::person::does;
use crate::workspace::{done, read, work, worlds};

#[test]
fn apply_and_prune_show_what_they_would_do_heed_a_no_and_do_it_after_a_yes() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in worlds() {
        let dir = work(&world, &[("edit.txt", "one\n"), ("gone.txt", "x\n")]);
        let slug = done(&world, "asks", "overlay", "echo two > edit.txt; rm gone.txt; echo new > new.txt");
        let apply = ["apply", &slug];
        let question = "apply 3 of 3 changes to";
        for no in ["n\r", "\r", "yesterday\r"] {
            let steps = [
                json!(["expect", "M edit.txt"]),
                json!(["expect", "D gone.txt"]),
                json!(["expect", "-one"]),
                json!(["expect", "+two"]),
                json!(["expect", question]),
                json!(["expect", "[y/N]"]),
                json!(["type", no]),
                json!(["end", 1]),
                json!(["never", "applied"]),
            ];
            does(&world, &apply, &steps);
            assert_eq!(read(dir.join("edit.txt")), "one\n");
            assert!(dir.join("gone.txt").exists() && !dir.join("new.txt").exists());
        }
        let yes = |question: &str, after: &str| {
            [
                json!(["expect", question]),
                json!(["expect", "[y/N]"]),
                json!(["type", "y\r"]),
                json!(["expect", after]),
                json!(["end", 0]),
            ]
        };
        does(&world, &apply, &yes(question, "applied  new.txt"));
        assert_eq!((read(dir.join("edit.txt")), read(dir.join("new.txt"))), ("two\n".into(), "new\n".into()));
        assert!(!dir.join("gone.txt").exists());

        let slug = done(&world, "left", "overlay", "echo three > edit.txt");
        let state = world.bb_home().join("state").join(&slug);
        let steps = [
            json!(["expect", "left  its session, or changes of its agent that nobody applied"]),
            json!(["expect", "remove all of this? [y/N]"]),
            json!(["type", "n\r"]),
            json!(["end", 1]),
            json!(["never", "removed"]),
        ];
        does(&world, &["prune"], &steps);
        assert!(state.exists() && world.bb(&["diff", &slug, "--stat"]).expect(0).stdout.contains("edit.txt"));
        does(&world, &["prune"], &yes("remove all of this?", "left  removed"));
        assert!(!state.exists());
        assert_eq!(read(dir.join("edit.txt")), "two\n", "nothing of it was applied");
        fs::remove_dir_all(&dir).unwrap();
    }
}

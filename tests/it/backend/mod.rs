//! The contract between a keeper and what makes its bottle (`trait Backend` in src/bottle/backend.rs), by the same code on each
//! backend: the embedded one, as root and as an ordinary user, Docker, Podman, and the ordinary user's own Podman.
//!
//! What a backend cannot have is named where it is left out. That nothing gets out is the battery's.

mod commands;
mod files;
mod life;
mod terminals;

use std::fs;

use crate::support::desk::{Desk, on};
use crate::support::engine::Which;
use crate::support::{World, have_tools};

/// Everything, with as few bottles as it takes.
fn keeps_its_contract(desk: &Desk<'_>) {
    desk.launch("box", "{'sleep', '600'}", "");
    commands::have_streams_and_codes(desk);
    commands::say_everything_before_their_end(desk);
    commands::are_fed(desk);
    commands::are_signalled_with_their_children(desk);
    files::are_copied_and_links_lead_nowhere(desk);
    if let Some(engine) = desk.engine {
        commands::are_held_apart(desk, engine.which);
    }
    life::listeners_are_made_while_it_runs(desk, "box");
    life::ports_of_routes_come_and_go(desk, "box");
    desk.bb(&["kill", "box"]).expect(0);
    assert_eq!(desk.becomes("box", "ended")["ended"], "killed");
    desk.assert_empty();
    life::ends_are_told(desk);
    life::memory_is_bound_or_refused(desk);
    life::pauses(desk);
    life::nothing_outlives_its_keeper(desk);
    if let Some(engine) = desk.engine {
        // The embedded one has its gate in the keeper's own tree: there is no helper that could end.
        life::without_its_way_out_it_is_no_more(desk, engine);
    }
    desk.world.assert_silent(&[]);
}

fn keeps_it_on(which: Which) {
    if have_tools(&["python3", "setpriv"]) {
        on(which, keeps_its_contract);
    }
}

#[test]
fn the_embedded_one_keeps_its_contract() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        keeps_its_contract(&Desk::embedded(&world));
    }
}

#[test]
fn docker_keeps_its_contract() {
    keeps_it_on(Which::Docker);
}

#[test]
fn podman_keeps_its_contract() {
    keeps_it_on(Which::Podman);
}

#[test]
fn an_ordinary_users_own_podman_keeps_its_contract() {
    keeps_it_on(Which::Rootless);
}

#[test]
fn an_agent_and_commands_have_terminals_on_the_embedded_one() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        let desk = Desk::embedded(&world);
        terminals::are_the_bottles_own(&desk);
        terminals::act_on_nobody(&desk);
    }
}

#[test]
fn an_agent_and_commands_have_terminals_of_the_containers_own() {
    if !have_tools(&["python3", "setpriv"]) {
        return;
    }
    for which in [Which::Docker, Which::Podman, Which::Rootless] {
        on(which, |desk| {
            terminals::are_the_bottles_own(desk);
            terminals::act_on_nobody(desk);
        });
    }
}

#[test]
fn where_nobody_outside_may_look_into_a_container_copies_are_refused_and_tar_does_what_the_hint_says() {
    on(Which::Fuse, |desk| {
        desk.launch("box", "{'sleep', '600'}", "");
        let kind = desk.bb(&["exec", "box", "--", "grep", "-c", " / .*fuse", "/proc/mounts"]);
        assert_eq!(kind.expect(0).stdout, "1\n", "the images are served by fuse-overlayfs");
        desk.bb(&["exec", "box", "--", "sh", "-c", "mkdir d; echo one > d/a"]).expect(0);
        let host = desk.own("host", None).display().to_string();
        let file = desk.own("file", Some("two\n")).display().to_string();
        let refused =
            |args: &[&str]| desk.bb(args).fails(5, "backend_unavailable", "file system of the container", "bb exec -i");
        refused(&["cp", "box:d/a", &format!("{host}/a")]);
        refused(&["cp", &file, "box:d/b"]);
        assert!(fs::read_dir(&host).unwrap().next().is_none(), "nothing came");
        desk.sh(
            "set -o pipefail; tar c file | BB exec -i box -- tar x -C d && BB exec box -- tar c -C d . | tar x -C host",
        )
        .expect(0);
        for (name, text) in [("a", "one\n"), ("file", "two\n")] {
            assert_eq!(fs::read_to_string(desk.dir.join("host").join(name)).unwrap(), text);
        }
        desk.bb(&["kill", "box"]).expect(0);
    });
}

//! The battery in containers: every row that can hold there, with its twin and its canaries, on Docker and on Podman.
//!
//! What is otherwise in a container is said beside the rows ([`super::kernel`]); two things cannot be played: a link of its own
//! that could be changed ([`super::network`], the last row), and a peer in namespaces that the test makes by hand
//! ([`super::host`]), which is the same whatever makes bottles. The ordinary user's own Podman has the contract's tests
//! (module `backend`): its user's number is what some rows name.

use super::{Bottle, host, kernel, model, network, withdrawn};
use crate::loosening::manifests;
use crate::support::engine::{Engine, Which, helper};
use crate::support::{Who, World, have_tools};

/// Everything, in one world with one image.
fn all_of_it(which: Which) {
    if !have_tools(&["curl", "python3", "ps", "unshare", "nsenter", "ip", "ldd", "find"]) {
        return;
    }
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, which) else { return };
    let image = engine.image_with_tools(&[]);
    let options = format!("image = '{image}'");
    let (address, helper) = (engine.address(), helper().unwrap().display().to_string());
    let env = [("BOT_BOTTLE_BACKEND", "docker"), ("DOCKER_HOST", &address), ("BB_HELPER", &helper)];
    let bottle = Bottle { options: &options, env: &env, owner: Some(1000), ..Bottle::default() };
    kernel::nobody_gets_more_than_they_have_in_a_container(&world, &bottle);
    kernel::the_hosts_files_are_not_there_in(&world, &bottle);
    host::the_controller_cannot_be_spoken_to_from(&world, &bottle, address.trim_start_matches("unix://"));
    host::a_workspace_that_would_give_the_host_away_is_refused(&world, &bottle);
    host::what_the_hosts_own_tools_would_run_stays(&world, &bottle);
    model::reaches_out_for_nobody(&world, &bottle);
    world.assert_silent(&[]);
    network::no_way_out_of_a_container(&world, &bottle);
    withdrawn::is_of_no_more_use(&world, &bottle);
    let front = format!("backend: docker\nimage: {image}\n");
    withdrawn::is_not_kept_with_a_session(&world, &bottle, &front);
    manifests::nothing_of_it_counts(&world, &front, &env, |project| bottle.give(project));
    engine.assert_empty();
}

#[test]
fn there_is_no_way_out_of_a_container_of_docker() {
    all_of_it(Which::Docker);
}

#[test]
fn there_is_no_way_out_of_a_container_of_podman() {
    all_of_it(Which::Podman);
}

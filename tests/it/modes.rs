//! Who may look into a home: its owner alone, also where it was made by somebody who let others in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::World;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn a_home_and_what_lies_in_it_is_its_owners_alone_also_one_that_was_open_to_others() {
    for world in World::each() {
        let home = world.bb_home();
        let recipe = world.recipe(
            "here.lua",
            "--- @bb needs launch\nbb.launch{command = {'sleep', '600'}, label = 'here', detach = true}\n",
        );
        for open in [false, true] {
            fs::remove_dir_all(&home).unwrap();
            if open {
                for dir in ["", "run", "state", "recipes", "providers"] {
                    world.make_dir(home.join(dir));
                    fs::set_permissions(home.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
            world.bb(&["run", "--grant", "all", &recipe]).expect(0);
            for dir in ["", "run", "run/k", "state", "state/here", "recipes", "providers"] {
                assert_eq!(mode(&home.join(dir)), 0o700, "{dir:?}, was open: {open}");
            }
            for file in ["bot-bottle.db", "run/controller.log", "state/here/output.log"] {
                assert_eq!(mode(&home.join(file)) & 0o077, 0, "{file}, was open: {open}");
            }
            world.bb(&["kill", "here"]).expect(0);
            world.bb(&["controller", "stop"]).expect(0);
            let gone = world.until(std::time::Duration::from_secs(20), || world.controller_pid().is_none());
            assert!(gone && world.keepers().is_empty());
        }
    }
}

//! `bb run recipes/quickstart.lua`: the first thing that anybody sees.

use std::time::Duration;

use crate::support::{World, within};

const RECIPE: &str = include_str!("../../recipes/quickstart.lua");

#[test]
fn it_shows_the_whole_line_within_seconds() {
    for world in World::each() {
        // By its name, wherever one stands; its file, which a clone has, is the same.
        world.bb(&["run", "recipes/quickstart.lua"]).fails(2, "usage", "recipes/quickstart.lua", "bb run quickstart");
        let (path, name) = (world.recipe("quickstart.lua", RECIPE), "quickstart".to_owned());
        let output = world.bb(&["run", if world.uid() == 0 { &path } else { &name }]).expect(0);
        eprintln!("{output}");
        assert!(output.elapsed < within(Duration::from_secs(5)), "{output}");
        let said = |what: &str| assert!(output.stdout.contains(what), "{what:?}: {output}");
        said("its last words:");
        said("bb: this bottle's budget is too small");
        said("What to try next");
        said("-- --agent claude");
        // The table is the ledger's.
        let usage = world.bb(&["usage", "--json", "--rehearsal"]).expect(0).json().remove(0);
        let row = output.stdout.lines().find(|l| l.starts_with("quickstart ")).unwrap().replace(',', "");
        let figures: Vec<_> = row.split_whitespace().skip(2).map(str::to_owned).collect();
        let books = ["requests", "input", "cache_read", "cache_write", "output", "counted"];
        assert_eq!(figures, books.map(|class| usage["total"][class].to_string()), "{usage}\n{output}");
        world.assert_silent(&[]);
        drop(world);
    }
}

/// README's own first recipe, with the agent that needs no key.
#[test]
fn the_first_recipe_of_the_readme_runs_as_it_is_shown() {
    let readme = include_str!("../../README.md");
    let block = readme.split("```lua\n").nth(1).unwrap().split("```").next().unwrap();
    let grant = readme.split("bb run fix.lua --grant ").nth(1).unwrap().split_whitespace().next().unwrap();
    for world in World::each() {
        let recipe = world.write("project/fix.lua", block.replacen("\"claude\"", "\"demo\"", 1));
        let place = recipe.parent().unwrap().to_owned();
        let run = world.command(&["run", "fix.lua", "--rehearse", "--grant", grant]).cwd(place).run().expect(0);
        assert!(run.stdout.starts_with("0\t"), "exit code and tokens: {run}");
    }
}

//! The prompt reaches the real CLIs' models word for word, whatever it begins with, and so do standing instructions; and what
//! an agent has been taught is found by its CLI.

use serde_json::json;

use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI};
use crate::support::World;

/// What a CLI could take for an option, a file, a command of its own, or something to be unquoted.
const PROMPTS: [&str; 3] =
    ["-x is what I want, not --help", "@nobody said: \"do it\"\n  -- $HOME 'now' \\", "\"Do\nit\""];

/// (Gemini CLI takes `@name` in them for a file.)
const INSTRUCTIONS: &str = "-- Be brief,\n\"kind\" and $HOME-grown.";

/// A word that only the description of a skill has.
const TAUGHT: &str = "quokka-spelling";

/// Writes an agent that has a skill, in the form that each of the CLIs reads (agentskills.io).
fn teach(world: &World, cli: &Cli) {
    let home = world.bb_home();
    let skill =
        format!("---\nname: house-style\ndescription: Rules of {TAUGHT}. Use it for all texts.\n---\nTwo spaces.\n");
    world.write(home.join("skills/house-style/SKILL.md"), skill);
    world.write(home.join("bottles/dev.md"), format!("---\nagent_provider: {{template: {}}}\n---\n", cli.name));
    world.write(home.join("agents/taught.md"), "---\nbottle: dev\nskills: [house-style]\n---\nYou are careful.\n");
}

fn word_for_word(cli: &Cli) {
    for world in cli.worlds() {
        teach(&world, cli);
        let case = |(at, prompt): (usize, &&str)| json!({"contains": prompt, "told": INSTRUCTIONS, "turns": [{"text": format!("HEARD-{at}")}]});
        // The first that fits is played: where no skill is, nobody hears of one.
        let taught = json!({"told": TAUGHT, "turns": [{"text": "HEARD-OF-THE-SKILL"}]});
        let cases: Vec<_> = std::iter::once(taught).chain(PROMPTS.iter().enumerate().map(case)).collect();
        let scenario = json!({"turns": [{"text": "NOT-HEARD"}], "cases": cases});
        let text = format!(
            "--- @bb needs launch, start\nbb.rehearse({})\n\
             local function says(bottle)\n  \
               bottle:wait()\n  \
               for frame in bottle:logs() do print(frame.text) end\n\
             end\n\
             for _, prompt in ipairs({}) do\n  \
               says(bb.launch({{ provider = bb.args.agent, prompt = prompt, instructions = {}, budget = 'unlimited', timeout = '100s' }}))\n\
             end\n\
             says(bb.plan({{ agent = 'taught', prompt = 'Say it.', budget = 'unlimited', timeout = '100s' }}):launch())\n",
            super::lua(&scenario),
            super::lua(&json!(PROMPTS)),
            super::lua(&json!(INSTRUCTIONS)),
        );
        let path = world.recipe("prompts.lua", &text);
        let args = ["run", &path, "--grant", "all", "--", "--agent", cli.name];
        let output = world.command(&args).cwd(world.make_dir("project")).patience(PATIENCE).run().expect(0);
        for (at, prompt) in PROMPTS.iter().enumerate() {
            assert!(output.stdout.contains(&format!("HEARD-{at}")), "{prompt:?}: {output}");
        }
        assert!(output.stdout.contains("HEARD-OF-THE-SKILL"), "{output}");
        assert!(!output.stdout.contains("NOT-HEARD"), "{output}");
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_hears_its_prompt_word_for_word() {
    word_for_word(&CLAUDE);
}

#[test]
fn codex_hears_its_prompt_word_for_word() {
    word_for_word(&CODEX);
}

#[test]
fn gemini_hears_its_prompt_word_for_word() {
    word_for_word(&GEMINI);
}

#[test]
fn pi_hears_its_prompt_word_for_word() {
    word_for_word(&PI);
}

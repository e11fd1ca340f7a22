//! The prompt reaches the real CLIs' models word for word, whatever it begins with, and so do standing instructions.

use serde_json::json;

use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI};

/// What a CLI could take for an option, a file, a command of its own, or something to be unquoted.
const PROMPTS: [&str; 3] =
    ["-x is what I want, not --help", "@nobody said: \"do it\"\n  -- $HOME 'now' \\", "\"Do\nit\""];

/// (Gemini CLI takes `@name` in them for a file.)
const INSTRUCTIONS: &str = "-- Be brief,\n\"kind\" and $HOME-grown.";

fn word_for_word(cli: &Cli) {
    for world in cli.worlds() {
        let case = |(at, prompt): (usize, &&str)| json!({"contains": prompt, "told": INSTRUCTIONS, "turns": [{"text": format!("HEARD-{at}")}]});
        let cases: Vec<_> = PROMPTS.iter().enumerate().map(case).collect();
        let scenario = json!({"turns": [{"text": "NOT-HEARD"}], "cases": cases});
        let text = format!(
            "--- @bb needs launch\nbb.rehearse({})\n\
             for _, prompt in ipairs({}) do\n  \
               local bottle = bb.launch({{ provider = bb.args.agent, prompt = prompt, instructions = {}, budget = 'unlimited', timeout = '100s' }})\n  \
               bottle:wait()\n  \
               for frame in bottle:logs() do print(frame.text) end\n\
             end\n",
            super::lua(&scenario),
            super::lua(&json!(PROMPTS)),
            super::lua(&json!(INSTRUCTIONS)),
        );
        let path = world.recipe("prompts.lua", &text);
        let args = ["run", &path, "--grant", "all", "--", "--agent", cli.name];
        let output = world.command(&args).patience(PATIENCE).run().expect(0);
        for (at, prompt) in PROMPTS.iter().enumerate() {
            assert!(output.stdout.contains(&format!("HEARD-{at}")), "{prompt:?}: {output}");
        }
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

//! Completions: what a shell is offered when somebody presses Tab, asked as each shell asks, and of bash by its own function.

use std::os::unix::fs::symlink;

use crate::start::set_up;
use crate::support::{World, have_tools, tool};

/// What bash does with a line: sources the script, calls the function that it registers, and looks at COMPREPLY.
const BASH: &str = r#"
source <(bb completions bash) || exit 1
spec=$(complete -p bb) || exit 1
[[ $spec =~ -F\ ([^ ]+) ]] || exit 1
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_KEY=9
"${BASH_REMATCH[1]}" bb "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The same of zsh, whose lists are printed where they would be shown.
const ZSH: &str = r#"
compdef() { completer=$1 }
_describe() { shift $(($# - 1)); print -rl -- "${(@P)1}" }
source <(bb completions zsh) || exit 1
words=("$@") CURRENT=$#
$completer
"#;

/// Gets what is offered for the last of `words`: by the shell's own function where it is there, else as it asks bb.
fn offered(world: &World, shell: &str, words: &[&str]) -> Vec<String> {
    let bin = world.make_dir("bin");
    if !bin.join("bb").exists() {
        symlink(world.exe(), bin.join("bb")).unwrap();
    }
    let words = [&["bb"], words].concat();
    let output = match (shell, tool(shell)) {
        ("bash" | "zsh", Some(program)) => {
            let (script, options): (_, &[&str]) = match shell {
                "bash" => (BASH, &["--norc", "--noprofile"]),
                _ => (ZSH, &["-f"]),
            };
            let args = [options, &["-c", script, shell], &words].concat();
            world.program(&program.display().to_string(), &args)
        }
        _ => {
            let args = [&["--"][..], &words].concat();
            let index = (words.len() - 1).to_string();
            let asked = world.program(&world.exe().display().to_string(), &args).env("COMPLETE", shell);
            asked.env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n")
        }
    };
    let output = output.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).cwd(world.home()).run().expect(0);
    // With fish and zsh a candidate may be followed by what it is; a colon that belongs to it is marked then.
    let word = |line: &str| line.split('\t').next().unwrap_or_default().replace("\\:", ":");
    let lines = output.stdout.lines().filter(|line| !line.is_empty()).map(word);
    lines.filter(|word| !word.starts_with('-')).collect()
}

#[test]
fn each_shell_is_offered_slugs_agents_and_bottles_where_they_belong() {
    if !have_tools(&["bash"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "");
        for shell in ["bash", "zsh", "fish"] {
            assert!(world.bb(&["completions", shell]).expect(0).stdout.contains("COMPLETE"), "{shell}");
        }
        world.bb(&["completions", "tcsh"]).fails(2, "usage", "tcsh", "bash, zsh, fish");
        let project = world.home().join("project");
        let start = |label: &str, prompt: &str| {
            world.command(&["start", "tester", "--headless", "--label", label, "--prompt", prompt]).cwd(&project)
        };
        // Of what failed something is kept; of what runs nothing is that could be removed.
        start("kept-one", "echo its >notes; exit 7").run().expect(1);
        let running = start("live-one", "echo up; sleep 600").spawn();
        running.says("up");
        let nothing: &[&str] = &[];
        for shell in ["bash", "zsh", "fish"] {
            let offers = |words: &[&str], expected: &[&str]| {
                assert_eq!(offered(&world, shell, words), expected, "{shell}: {words:?}");
            };
            offers(&["start", "te"], &["tester"]);
            offers(&["start", "--bottle", "d"], &["dev"]);
            offers(&["manifest", "show", "te"], &["tester"]);
            for verb in ["kill", "stop", "attach", "freeze", "inspect", "logs", "exec", "commit", "pause"] {
                offers(&[verb, "li"], &["live-one"]);
            }
            offers(&["egress", "log", "ke"], &["kept-one"]);
            offers(&["egress", "suggest", "li"], &["live-one"]);
            offers(&["resume", "ke"], &["kept-one"]);
            offers(&["diff", "ke"], &["kept-one"]);
            offers(&["usage", "--bottle", "ke"], &["kept-one"]);
            offers(&["rm", "ke"], &["kept-one"]);
            offers(&["rm", "li"], nothing);
            offers(&["cp", "li"], &["live-one:"]);
            offers(&["cp", "here", "li"], &["live-one:"]);
            offers(&["kill", "nobody"], nothing);
        }
        world.bb(&["kill", "live-one"]).expect(0);
        running.wait();
        // Where no controller runs, what is kept is known by its files; none is started for it.
        world.bb(&["controller", "stop"]).expect(0);
        assert_eq!(offered(&world, "bash", &["rm", "ke"]), ["kept-one"]);
        assert_eq!(offered(&world, "bash", &["resume", ""]).iter().filter(|word| *word == "kept-one").count(), 1);
        assert!(world.controller_pid().is_none(), "nothing was started");
    }
}

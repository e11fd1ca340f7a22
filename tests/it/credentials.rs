//! Credentials that lie where `credentials` of settings.yml says, in a file or in what a command prints: requests have them; the
//! bottle, what is shown and what is written have not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::start::{set_up, start};
use crate::support::{Reply, Site, World, have_tools};

/// Two routes with a credential each.
const ROUTES: &str = "egress: {routes: [\
    {host: file.example, auth: {scheme: Bearer, token_ref: FILED}}, \
    {host: command.example, auth: {scheme: token, token_ref: PRINTED}}]}\n";

/// Leaves a line that it was run, and says its value to people as well.
const PRINTS: &str = "#!/bin/sh\npwd >> \"$HOME/ran\"\necho printed-s3cret >&2\necho printed-s3cret\n";

fn write(world: &World, path: &str, text: &str, mode: u32) -> String {
    let path = world.write(path, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// A world with an agent that has both routes, a file and a command.
fn prepare(world: &World) {
    set_up(world, ROUTES);
    write(world, "tokens/filed", "filed-s3cret\n", 0o600);
    let command = write(world, "tools/prints", PRINTS, 0o600);
    world.settings(&format!(
        "credentials:\n  FILED: {{file: ~/tokens/filed}}\n  PRINTED: {{command: [/bin/sh, {command}]}}\n"
    ));
}

fn sent(site: &Site) -> Vec<String> {
    site.seen().iter().map(|seen| seen.header("authorization").unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_file_and_a_command_give_what_requests_have_and_nothing_else_shows_it() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        prepare(&world);
        let (filed, printed) =
            (world.site("file.example", |_| Reply::text("a\n")), world.site("command.example", |_| Reply::text("b\n")));
        let ran = || fs::read_to_string(world.home().join("ran")).unwrap_or_default();
        // Who only looks runs nothing, and is told where they lie.
        let dry = start(&world, &["tester", "--dry-run"]).expect(0);
        assert!(
            dry.stderr.contains("FILED from the file ") && dry.stderr.contains("PRINTED from the command "),
            "{dry}"
        );
        assert!(!dry.stderr.contains("s3cret") && ran().is_empty(), "{dry}");
        assert!(world.controller_pid().is_none(), "nothing was started");

        let prompt = "curl -sS -m 60 https://file.example/ https://command.example/; env; cat /proc/1/environ";
        let output = start(&world, &["tester", "--headless", "--prompt", prompt]);
        assert!(output.stdout.starts_with("a\nb\n"), "{output}");
        assert_eq!(
            (sent(&filed), sent(&printed)),
            (vec!["Bearer filed-s3cret".into()], vec!["token printed-s3cret".into()])
        );
        let at = world.bb_home().canonicalize().unwrap();
        assert_eq!(ran(), format!("{}\n", at.display()), "once, and not where the agent works");
        // The environment wins, and the file is not asked.
        write(&world, "tokens/filed", "", 0o600);
        let args = ["start", "tester", "--headless", "--prompt", "curl -sS -m 60 https://file.example/"];
        let command = world.command(&args).env("FILED", "its-own").cwd(world.home().join("project"));
        assert_eq!(command.run().expect(0).stdout, "a\n");
        assert_eq!(sent(&filed)[1], "Bearer its-own");
        // A recipe's launch has them too.
        let recipe = "--- @bb needs launch, egress:command.example, credential:PRINTED\n\
            local auth = { scheme = \"token\", credential = \"PRINTED\" }\n\
            local command = { \"curl\", \"-sS\", \"-m\", \"60\", \"https://command.example/\" }\n\
            local b = bb.launch{ command = command, routes = { { host = \"command.example\", auth = auth } } }\n\
            bb.exit(b:wait().exit_code)\n";
        world.bb(&["run", "--grant", "all", &world.recipe("asks.lua", recipe)]).expect(0);
        assert_eq!(sent(&printed).last().unwrap(), "token printed-s3cret");
        for said in [&output.stdout, &output.stderr] {
            assert!(!said.contains("s3cret"), "{output}");
        }
        let home = world.bb_home().display().to_string();
        let found = world.program("/bin/grep", &["-rl", "s3cret", &home]).run();
        assert_eq!((found.code, found.stdout.as_str()), (1, ""), "nothing of it is on the disk: {found}");
        // What an agent could write is not run for the next launch.
        let writable = write(&world, "project/prints", PRINTS, 0o600);
        world.settings(&format!(
            "credentials:\n  FILED: {{file: ~/tokens/filed}}\n  PRINTED: {{command: [/bin/sh, {writable}]}}\n"
        ));
        write(&world, "tokens/filed", "filed-s3cret\n", 0o600);
        let before = ran();
        let refused = start(&world, &["tester", "--headless", "--prompt", "true"]);
        assert!(refused.code == 5 && refused.stderr.contains("workspace_unsafe"), "{refused}");
        let recipe = "--- @bb needs launch, write:args\n\
            bb.launch{ command = { \"true\" }, workspace = bb.args[1], budget = \"unlimited\" }\n";
        let recipe = world.recipe("writes.lua", recipe);
        let project = world.home().join("project").display().to_string();
        let refused = world.bb(&["run", "--grant", "all", &recipe, "--", &project]);
        assert!(refused.code == 5 && refused.stderr.contains("workspace_unsafe"), "{refused}");
        assert_eq!(ran(), before);
    }
}

#[test]
fn a_credential_that_cannot_be_had_is_said_with_its_name_and_line_and_starts_nothing() {
    for world in World::each() {
        prepare(&world);
        let launch = || start(&world, &["tester", "--headless", "--prompt", "true"]);
        write(&world, "tokens/filed", "filed-s3cret\n", 0o644);
        let open = launch();
        open.fails(5, "credential_missing", "settings.yml:2", "chmod 600");
        assert!(open.stderr.contains("the credential FILED: ") && !open.stderr.contains("s3cret"), "{open}");
        start(&world, &["tester", "--dry-run"]).fails(5, "credential_missing", "settings.yml:2", "chmod 600");
        let check = world.bb(&["manifest", "check"]).expect(2);
        assert!(check.stdout.contains("settings.yml:2: the credential FILED: ") && !check.stdout.contains("s3cret"));
        // A rehearsal needs nobody's.
        start(&world, &["tester", "--headless", "--prompt", "true", "--rehearse"]).expect(0);
        write(&world, "tokens/filed", "filed-s3cret\n", 0o600);
        world.bb(&["manifest", "check"]).expect(0);

        write(&world, "tools/prints", &format!("{PRINTS}exit 3\n"), 0o600);
        let failed = launch();
        failed.fails(5, "credential_missing", "ended with exit code 3", "by hand");
        assert!(failed.stderr.contains("settings.yml:3") && !failed.stderr.contains("s3cret"), "{failed}");
        assert!(world.bb(&["ps", "--json"]).json().is_empty());

        // No agent is shown the file.
        let project = world.home().join("project");
        let inside = write(&world, "project/token", "s3cret\n", 0o600);
        world.settings(&format!("credentials: {{FILED: {{file: {inside}}}, PRINTED: {{file: {inside}}}}}\n"));
        launch().fails(5, "workspace_unsafe", "token, which is kept from agents", "directory of its own");
        let recipe = format!(
            "--- @bb needs launch, write:{0}\nbb.launch{{ command = {{ \"true\" }}, workspace = \"{0}\" }}\n",
            project.display()
        );
        let shown = world.bb(&["run", "--grant", "all", &world.recipe("shows.lua", &recipe)]);
        shown.fails(5, "workspace_unsafe", "token, which is kept from agents", "directory of its own");

        world.settings("credentials:\n  FILED: {fiel: x}\n");
        launch().fails(2, "unknown_key", "settings.yml:2", "did you mean `file`?");
        let settings = world.bb_home().join("settings.yml").display().to_string();
        let check = world.bb(&["manifest", "check", &settings]).expect(2);
        assert!(check.stdout.contains("settings.yml:2: unknown key `fiel`"), "{check}");
    }
}

//! Which credential a launch takes, and what is said of a login of the host that cannot be worked with.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::start::{manifest, start};
use crate::support::World;

/// A provider that works with a key, else with Claude Code's login, and runs nothing but a shell.
const SUBSCRIBED: &str = r#"return {
  name = "sub",
  argv = function(ctx) return { "sh", "-c", ctx.prompt or "exec sh" } end,
  credentials = {
    api = {
      { env = "SUB_KEY", placeholder = "none", scheme = "Bearer" },
      { login = "claude", files = { { path = "~/login", text = "{access_token}" } } },
    },
  },
  routes = { { host = "api.anthropic.com", api = "anthropic", credential = "api" } },
}"#;

const GOOD: &str =
    r#"{"claudeAiOauth":{"accessToken":"sk-s3cret-access-0123456789","refreshToken":"sk-s3cret-refresh-0123456789"}}"#;
const FILE: &str = ".claude/.credentials.json";

fn prepare(world: &World, template: &str) {
    world.write(world.bb_home().join("providers/sub.lua"), SUBSCRIBED);
    let home = world.bb_home().display().to_string();
    manifest(world, &format!("{home}/bottles/dev.md"), &format!("agent_provider: {template}\n"), "");
    manifest(world, &format!("{home}/agents/tester.md"), "bottle: dev\n", "");
    world.make_dir("project");
}

fn login(world: &World, text: &str, mode: u32) {
    let path = world.write(FILE, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_launch_says_whose_credential_it_works_with_and_a_bad_login_starts_nothing() {
    for world in World::each() {
        prepare(&world, "{template: sub}");
        let look = || start(&world, &["tester", "--dry-run"]);
        look().fails(
            5,
            "credential_missing",
            "SUB_KEY is not set, and the login of Claude Code",
            "run `claude` on this host",
        );
        for (text, mode, what, hint) in [
            ("s3cret", 0o600, "cannot be understood", "run `claude` on this host"),
            ("{}", 0o600, "nobody is logged in", "run `claude` on this host"),
            (r#"{"claudeAiOauth":{"accessToken":"s3cret"}}"#, 0o600, "no refresh token", "run `claude` on this host"),
            (GOOD, 0o622, "can be written by others", "chmod 600"),
        ] {
            login(&world, text, mode);
            let refused = look();
            refused.fails(5, "credential_missing", &format!("the login of Claude Code in ~/{FILE}"), hint);
            assert!(refused.stderr.contains(what) && !refused.stderr.contains("s3cret"), "{refused}");
            assert!(refused.stderr.contains("or set SUB_KEY in this shell"), "{refused}");
        }
        // The doctor says the same, and it is no fault of the machine.
        let doctor = world.bb(&["doctor", "--json"]);
        let checks = doctor.json();
        let said = |level: &str| checks.iter().any(|line| line["name"] == "credential" && line["level"] == level);
        assert!(said("warn") && !doctor.stdout.contains("s3cret"), "{doctor}");

        login(&world, GOOD, 0o600);
        let good = look().expect(0);
        let words = format!("api of sub from the login of Claude Code in ~/{FILE}");
        assert!(good.stderr.contains(&words) && !good.stderr.contains("s3cret"), "{good}");
        assert!(world.bb(&["doctor", "--json"]).stdout.contains("the login of Claude Code in"));
        // A key comes first.
        let keyed =
            world.command(&["start", "tester", "--dry-run"]).env("SUB_KEY", "k").cwd(world.home().join("project"));
        let keyed = keyed.run().expect(0);
        assert!(keyed.stderr.contains("api of sub from ${SUB_KEY}"), "{keyed}");

        // By name, where the settings say.
        prepare(&world, "{template: sub, auth_token: WORK}");
        world.settings("credentials:\n  WORK: {login: claude, file: ~/work.json}\n");
        look().fails(5, "credential_missing", "settings.yml:2", "run `claude` on this host");
        let check = world.bb(&["manifest", "check"]).expect(2);
        assert!(check.stdout.contains("settings.yml:2: the credential WORK: "), "{check}");
        world.settings(&format!("credentials:\n  WORK: {{login: claude, file: ~/{FILE}}}\n"));
        look().expect(0);
        // No other route gets it, by a manifest or by a recipe.
        let home = world.bb_home().display().to_string();
        let front = "agent_provider: {template: sub}\negress: {routes: [{host: a.example, auth: {scheme: Bearer, token_ref: WORK}}]}\n";
        manifest(&world, &format!("{home}/bottles/dev.md"), front, "");
        look().fails(2, "usage", "which goes to the hosts of its vendor only", "a credential of its own");
        let recipe = |route: &str| {
            let text = format!(
                "--- @bb needs launch, egress:a.example, credential:WORK\nbb.launch{{ command = {{ \"true\" }}, routes = {{ {route} }}, budget = \"unlimited\" }}\n"
            );
            world.bb(&["run", "--grant", "all", &world.recipe("asks.lua", &text)])
        };
        let named = recipe("{ host = \"a.example\", auth = { scheme = \"Bearer\", credential = \"WORK\" } }");
        assert!(named.stderr.contains("the hosts of its vendor only"), "{named}");
        let endpoint = recipe("{ host = \"a.example\", oauth = \"api\" }");
        assert!(endpoint.stderr.contains("'oauth' of a route is the provider's own to say"), "{endpoint}");
        assert!(world.bb(&["ps", "--json"]).json().is_empty());
    }
}

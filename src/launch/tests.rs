//! What comes of a choice, with manifests in a home and an environment of the test's own.

use super::*;

mod budgets;

/// A home with manifests, and a repository beside it; gone with the value.
struct Place {
    home: Home,
    dir: PathBuf,
    env: BTreeMap<String, String>,
}

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().canonicalize().unwrap().join(format!("bb-draft-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("project")).unwrap();
        let home = Home::open(&dir.join("bb"), None).unwrap();
        let env = [("PATH", "/usr/bin:/bin"), ("ANTHROPIC_API_KEY", "sk-real"), ("GH", "gh-real")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Place { home, dir, env }
    }

    fn write(self, path: &str, text: &str) -> Place {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn bottle(self, name: &str, front: &str) -> Place {
        self.write(&format!("bb/bottles/{name}.md"), &format!("---\n{front}---\n"))
    }

    fn agent(self, name: &str, front: &str, body: &str) -> Place {
        self.write(&format!("bb/agents/{name}.md"), &format!("---\n{front}---\n{body}\n"))
    }

    fn draft(&self, choice: &Choice) -> Result<Draft> {
        let user_home = self.dir.join("user");
        let cwd = self.dir.join("project");
        let shelf = Shelf::open(&self.home, Some(&user_home), &cwd);
        let desk = Desk {
            home: &self.home,
            shelf: &shelf,
            user_home: Some(&user_home),
            cwd: &cwd,
            lookup: &|name| self.env.get(name).cloned(),
            stage: None,
        };
        draft(choice, &desk)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn choice(agent: &str) -> Choice {
    Choice { agent: Some(agent.into()), prompt: Some("Do it".into()), ..Choice::default() }
}

/// A provider that needs nothing on the machine.
const DEMO: &str = "agent_provider: {template: demo}\n";

#[test]
fn an_agent_and_its_bottle_become_a_launch() {
    let place = Place::new("whole")
        .bottle("base", &format!("{DEMO}env: {{TZ: UTC, A: base}}\nbudget: 500k\n"))
        .bottle(
            "dev",
            "extends: base\nenv: {A: \"${GH}\"}\nbudget: {demo: 200k}\nshutdown: kill\negress: {routes: [docs.rs]}\n",
        )
        .agent(
            "tester",
            "bottle: dev\nbudget: 100k\ngit-gate: {user: {name: Bot, email: b@x.example}}\n",
            "You write tests.",
        );
    let draft = place.draft(&choice("tester")).unwrap();
    let launch = &draft.launch;
    assert_eq!((launch.label.as_str(), launch.provider.as_str()), ("tester", "demo"));
    assert_eq!((launch.env["TZ"].as_str(), launch.env["A"].as_str()), ("UTC", "gh-real"));
    assert_eq!(launch.env["GIT_COMMITTER_EMAIL"], "b@x.example");
    let hosts: Vec<&str> = launch.routes.iter().map(|route| route.host.as_str()).collect();
    assert_eq!(hosts, ["api.anthropic.com", "docs.rs"]);
    let nodes: Vec<String> = launch.nodes.iter().map(|node| node.node("id")).collect();
    assert_eq!(nodes, ["agent:tester@id", "manifest:dev@id", "manifest:base@id"]);
    let by_name: Vec<String> = launch.nodes.iter().map(api::BudgetNode::by_name).collect();
    assert_eq!(by_name, ["agent:tester", "manifest:dev", "manifest:base"]);
    assert_eq!(launch.shutdown, Some(crate::types::CutoffPolicy::Kill));
    assert!(draft.ready(false).is_ok());
    let rows = draft.rows(Some(&[]));
    let shown: String = rows.iter().map(|row| format!("{}={}\n", row.key, row.value)).collect();
    for part in [
        "agent=tester",
        "bottles=dev (merged: base < dev)",
        "route=docs.rs",
        "budget=agent tester: 100,000 tokens, 100,000 left",
        "budget=bottle manifest dev for demo: 200,000 tokens",
        "when spent=kill",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("sk-real") && !shown.contains("gh-real"), "{shown}");
}

#[test]
fn what_cannot_be_enforced_is_refused_and_what_only_does_nothing_is_said() {
    let refused = |front: &str| {
        let place = Place::new("refused").bottle("dev", &format!("{DEMO}{front}")).agent("a", "bottle: dev\n", "");
        let error = place.draft(&choice("a")).unwrap_err();
        assert!(error.hint.is_some() && error.place.as_deref().unwrap().ends_with("dev.md:3"), "{error}");
        error.message
    };
    assert!(refused("policies: [hourly-cap]\n").contains("`policies` cannot be enforced yet"));
    assert!(refused("egress: {routes: [{host: a.example, dlp: {outbound_detectors: [entropy]}}]}\n").contains("`dlp`"));
    let place = Place::new("said").bottle("dev", &format!("{DEMO}supervise: true\n")).agent("a", "bottle: dev\n", "");
    let warnings = place.draft(&choice("a")).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("supervise")), "{warnings:?}");
}

#[test]
fn a_question_is_handed_on_and_nothing_starts_without_its_answer() {
    let place = Place::new("asked").bottle("dev", &format!("{DEMO}env: {{BRANCH: \"?Which branch\"}}\n"));
    let place = place.agent("a", "bottle: dev\nbudget: 1k\n", "");
    let draft = place.draft(&choice("a")).unwrap();
    assert_eq!((draft.questions[0].name.as_str(), draft.questions[0].text.as_str()), ("BRANCH", "Which branch"));
    assert_eq!(draft.ready(true).unwrap_err().kind, Kind::Usage);
    let answers = [("BRANCH".to_owned(), "main".to_owned())].into();
    let draft = place.draft(&Choice { answers, ..choice("a") }).unwrap();
    assert_eq!(draft.launch.env["BRANCH"], "main");
    assert!(draft.ready(false).is_ok());
}

#[test]
fn no_budget_has_to_be_said_aloud_where_nobody_is_told() {
    let place = Place::new("budget").bottle("dev", DEMO).agent("a", "bottle: dev\n", "");
    let draft = place.draft(&choice("a")).unwrap();
    assert!(draft.ready(true).is_ok());
    let error = draft.ready(false).unwrap_err();
    assert!(error.hint.unwrap().contains("--budget unlimited"));
    let unlimited = vec![Limit::of("*", None)];
    assert!(place.draft(&Choice { budget: unlimited, ..choice("a") }).unwrap().ready(false).is_ok());
    let place = place.write("bb/settings.yml", "budget: {demo: 5M}\n");
    assert!(place.draft(&choice("a")).unwrap().ready(false).is_ok());
    // What happens when it is spent is what would happen.
    let place = place.write("bb/settings.yml", "budget: {demo: 5M}\nshutdown: kill\n");
    let rows = place.draft(&choice("a")).unwrap().rows(None);
    assert!(rows.iter().any(|row| row.key == "when spent" && row.value == "kill, the host's setting"), "{rows:?}");
}

#[test]
fn a_providers_own_route_wins_and_its_credential_goes_nowhere_else() {
    let front = "egress: {routes: [{host: api.anthropic.com, auth: {scheme: Bearer, token_ref: GH}}, {host: x.example, auth: {scheme: token, token_ref: GH}}]}\n";
    let place = Place::new("routes").bottle("dev", &format!("{DEMO}{front}")).agent("a", "bottle: dev\n", "");
    let launch = place.draft(&choice("a")).unwrap().launch;
    let model = launch.routes.iter().find(|route| route.host == "api.anthropic.com").unwrap();
    assert_eq!(model.auth.as_ref().unwrap().credential, "anthropic");
    assert_eq!((launch.credentials["anthropic"].as_str(), launch.credentials["GH"].as_str()), ("sk-real", "gh-real"));
    let front = "egress: {routes: [{host: x.example, auth: {scheme: token, token_ref: anthropic}}]}\n";
    let place = Place::new("stolen").bottle("dev", &format!("{DEMO}{front}")).agent("a", "bottle: dev\n", "");
    assert!(place.draft(&choice("a")).unwrap_err().message.contains("belongs to the provider"));
    let front = "egress: {routes: [{host: x.example, auth: {scheme: token, token_ref: NOT_SET}}]}\n";
    let place = Place::new("unset").bottle("dev", &format!("{DEMO}{front}")).agent("a", "bottle: dev\n", "");
    assert_eq!(place.draft(&choice("a")).unwrap_err().kind, Kind::CredentialMissing);
}

#[test]
fn skills_are_copied_and_one_that_is_missing_or_leads_elsewhere_is_an_error() {
    let place = Place::new("skills")
        .bottle("dev", DEMO)
        .agent("a", "bottle: dev\nskills: [house-style]\n", "")
        .write("bb/skills/house-style/SKILL.md", "Two spaces.\n")
        .write("bb/skills/house-style/scripts/check.sh", "#!/bin/sh\n");
    let files = place.draft(&choice("a")).unwrap().launch.files;
    let paths: Vec<&str> =
        files.iter().map(|file| file.path.as_str()).filter(|path| path.contains("house-style")).collect();
    assert!(paths.iter().any(|path| path.ends_with("/house-style/SKILL.md")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("/house-style/scripts/check.sh")), "{paths:?}");
    std::os::unix::fs::symlink("/etc/passwd", place.dir.join("bb/skills/house-style/notes")).unwrap();
    assert!(place.draft(&choice("a")).unwrap_err().message.contains("no links"));
    let place = Place::new("noskill").bottle("dev", DEMO).agent("a", "bottle: dev\nskills: [nothing]\n", "");
    let error = place.draft(&choice("a")).unwrap_err();
    assert!(error.message.contains("there is no skill `nothing`") && error.place.unwrap().ends_with("a.md:3"));
}

#[test]
fn budgets_on_the_command_line_are_amounts_and_nothing_else() {
    let known = ["claude".to_owned(), "codex".to_owned()];
    let read = |flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        limits_of_flags(&flags, &known)
            .map(|limits| limits.into_iter().map(|l| (l.provider, l.tokens)).collect::<Vec<_>>())
            .map_err(|e| e.kind)
    };
    let pair = |name: &str, tokens| (name.to_owned(), tokens);
    assert_eq!(read(&["200k"]), Ok(vec![pair("*", Some(200_000))]));
    assert_eq!(
        read(&["claude=200k,codex=1M", "7"]),
        Ok(vec![pair("*", Some(7)), pair("claude", Some(200_000)), pair("codex", Some(1_000_000))])
    );
    for twice in [
        &["1,000"][..],
        &["1,500"],
        &["5,6"],
        &["200k,unlimited"],
        &["200k", "unlimited"],
        &["5", "5"],
        &["claude=5,claude=6"],
        &["claude=5", "codex=1", "claude=6"],
        &["claude=1,000,000"],
    ] {
        assert_eq!(read(twice), Err(Kind::Usage), "{twice:?}");
    }
    assert_eq!(read(&["unlimited"]), Ok(vec![pair("*", None)]));
    for wrong in ["0.5", "-1", "9007199254740993", "1e6", "", "claude=", "many"] {
        assert_eq!(read(&[wrong]), Err(Kind::Usage), "{wrong}");
    }
    assert_eq!(read(&["cluade=5"]), Err(Kind::UnknownKey));
}

#[test]
fn a_colour_and_a_bottle_have_names_that_are_known() {
    let place = Place::new("names").bottle("dev", DEMO).agent("a", "bottle: dev\n", "");
    let color = Choice { color: Some("gren".into()), ..choice("a") };
    assert!(place.draft(&color).unwrap_err().hint.unwrap().contains("did you mean `green`"));
    for name in ["../escape", "foo; rm -rf /", "Foo", "-leading"] {
        let chosen = Choice { bottles: vec![name.into()], ..choice("a") };
        assert_eq!(place.draft(&chosen).unwrap_err().kind, Kind::Usage, "{name}");
    }
    assert!(place.draft(&choice("b")).unwrap_err().message.contains("there is no agent `b`"));
}

/// A provider with two forms of its credential.
const TWO_FORMS: &str = r#"return {
  name = "two",
  argv = { "sh", "-c", "{prompt}" },
  credentials = { key = {
    { env = "TWO_KEY", placeholder = "key-x", scheme = "header", header = "x-api-key" },
    { env = "TWO_TOKEN", prefix = "oat-", placeholder = "oat-x", scheme = "Bearer" },
  } },
  routes = { { host = "api.two.example", credential = "key" } },
}"#;

#[test]
fn auth_token_names_the_variable_and_its_value_says_which_form_it_has() {
    let front = "agent_provider: {template: two, auth_token: MY_TOKEN}\n";
    let mut place = Place::new("token").bottle("dev", front).agent("a", "bottle: dev\n", "");
    place = place.write("bb/providers/two.lua", TWO_FORMS);
    assert_eq!(place.draft(&choice("a")).map(|_| ()).unwrap_err().kind, Kind::CredentialMissing);
    for (value, scheme) in [("oat-real", crate::api::AuthScheme::Bearer), ("other", crate::api::AuthScheme::Header)] {
        place.env.insert("MY_TOKEN".into(), value.into());
        let launch = place.draft(&choice("a")).unwrap().launch;
        assert_eq!(launch.routes[0].auth.as_ref().unwrap().scheme, scheme);
        assert_eq!(launch.credentials["key"], value);
        assert!(launch.env.values().all(|held| held != value), "{:?}", launch.env);
    }
}

#[test]
fn a_headless_agent_works_in_a_layer_on_each_backend_and_on_a_copy_where_there_can_be_none() {
    for (name, mode, said) in [("plain", WorkspaceMode::Overlay, 0), ("od,d", WorkspaceMode::Copy, 1)] {
        let place = Place::new(name).bottle("dev", &format!("{DEMO}backend: docker\nimage: x\n"));
        let place = place.agent("tester", "bottle: dev\n", "");
        let draft = place.draft(&choice("tester")).unwrap();
        assert_eq!(draft.launch.workspace_mode, Some(mode));
        assert_eq!(draft.warnings.iter().filter(|w| w.contains("a copy of the directory")).count(), said);
        // At a terminal nothing is different, and what is chosen counts.
        let there = place.draft(&Choice { interactive: true, ..choice("tester") }).unwrap();
        assert_eq!(there.launch.workspace_mode, Some(WorkspaceMode::Mount));
        let chosen = Choice { workspace_mode: Some(WorkspaceMode::Overlay), ..choice("tester") };
        assert_eq!(place.draft(&chosen).unwrap().launch.workspace_mode, Some(WorkspaceMode::Overlay));
    }
}

/// Gets the preflight as text.
fn shown(draft: &Draft) -> String {
    draft.rows(Some(&[])).iter().map(|row| format!("{}={}\n", row.key, row.value)).collect()
}

#[test]
fn limits_mounts_and_what_a_cut_takes_are_in_the_launch_as_in_the_preflight() {
    let front = "limits: {memory: 2G, cpus: 1.5, pids: 256, disk: 512M, best_effort: true}\n\
        mounts: [/usr/share, {source: ~/data, target: ~/shown, rw: true}]\nshutdown: cutoff\ncutoff_scope: metered\n";
    let place = Place::new("machine").bottle("dev", &format!("{DEMO}{front}")).agent("a", "bottle: dev\n", "");
    let place = place.write("user/data/x", "");
    let draft = place.draft(&choice("a")).unwrap();
    let launch = &draft.launch;
    let limits = api::Limits {
        memory: Some(2 << 30),
        cpus: Some(1500),
        pids: Some(256),
        disk: Some(512 << 20),
        best_effort: true,
    };
    assert_eq!(launch.limits, Some(limits));
    assert_eq!(launch.cutoff_scope, Some(CutScope::Metered));
    let data = place.dir.join("user/data").display().to_string();
    let mounts = [
        Mount { source: "/usr/share".into(), target: None, rw: false },
        Mount { source: data.clone(), target: Some("/home/agent/shown".into()), rw: true },
    ];
    assert_eq!(launch.mounts, mounts);
    let rows = shown(&draft);
    for row in [
        "limits=memory 2 GiB, 1.5 processors, 256 processes, disk 512 MiB, where they can be had\n",
        "mount=/usr/share, read-only\n",
        &format!("mount={data} at /home/agent/shown, writable\n"),
        "when spent=cutoff of the model APIs, the other routes stay\n",
    ] {
        assert!(rows.contains(row), "{row}: {rows}");
    }
    // What is not said is the host's, and where nothing is said nothing is shown.
    let place = place.bottle("dev", DEMO).write("bb/settings.yml", "cutoff_scope: metered\n");
    let draft = place.draft(&choice("a")).unwrap();
    assert_eq!((&draft.launch.limits, draft.launch.cutoff_scope, draft.launch.mounts.len()), (&None, None, 0));
    let rows = shown(&draft);
    assert!(
        rows.contains("when spent=cutoff of the model APIs, the other routes stay, the host's setting\n"),
        "{rows}"
    );
    assert!(!rows.contains("limits=") && !rows.contains("mount="), "{rows}");
    let place = place.bottle("dev", &format!("{DEMO}cutoff_scope: all\n"));
    let rows = shown(&place.draft(&choice("a")).unwrap());
    assert!(rows.contains("when spent=cutoff of all routes"), "a manifest goes before the host: {rows}");
}

#[test]
fn a_program_that_a_manifest_needs_and_the_machine_lacks_is_named_with_its_line() {
    let place = Place::new("tools").agent("a", "bottle: dev\n", "");
    let place = place.bottle("dev", &format!("{DEMO}tools: [sh, cat]\n"));
    place.draft(&choice("a")).unwrap();
    let place = place.bottle("dev", &format!("{DEMO}tools:\n  - sh\n  - bb-no-such-tool\n"));
    let error = place.draft(&choice("a")).map(|_| ()).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::AgentMissing, "`bb-no-such-tool` is not on this machine"));
    assert!(error.place.as_deref().unwrap().ends_with("bottles/dev.md:5"), "{error}");
    assert!(error.hint.unwrap().contains("take it out of `tools`"));
    // An image has its own.
    let place = place.bottle("dev", &format!("{DEMO}tools: [bb-no-such-tool]\nbackend: docker\nimage: x\n"));
    place.draft(&choice("a")).unwrap();
}

#[test]
fn what_is_still_to_be_asked_is_shown_as_such_and_is_no_difference_to_what_held() {
    let place = Place::new("open").bottle("dev", &format!("{DEMO}env: {{BRANCH: \"?Which branch\"}}\n"));
    let place = place.agent("a", "bottle: dev\n", "");
    let open = place.draft(&choice("a")).unwrap();
    assert!(shown(&open).contains("env=BRANCH, to be asked at a terminal: Which branch\n"), "{}", shown(&open));
    let answers = [("BRANCH".to_owned(), "main".to_owned())].into();
    let answered = place.draft(&Choice { answers, ..choice("a") }).unwrap();
    assert!(shown(&answered).contains("env=BRANCH, as it was answered\n"));
    assert_eq!(open.held(), answered.held());
}

/// Routes with a credential that a file has, one that a command prints, and one of the environment.
const THREE: &str = "egress: {routes: [{host: a.example, auth: {scheme: Bearer, token_ref: KEPT}}, \
    {host: b.example, auth: {scheme: token, token_ref: SAID}}, {host: c.example, auth: {scheme: token, token_ref: GH}}]}\n";

#[test]
fn a_credential_is_the_environments_else_where_the_settings_say_and_no_command_runs_for_a_look() {
    let settings = "credentials:\n  KEPT: {file: ~/kept}\n  SAID: {command: [sh, -c, \"touch ran; echo said-real\"]}\n  \
        GH: {file: /nowhere}\n  ANTHROPIC_API_KEY: {file: /nowhere}\n";
    let mut place = Place::new("sources").bottle("dev", &format!("{DEMO}{THREE}env: {{A: \"${{OTHER}}\"}}\n"));
    place.env.insert("OTHER".into(), "other-real".into());
    let place =
        place.agent("a", "bottle: dev\n", "").write("bb/settings.yml", settings).write("user/kept", "kept-real\n");
    let kept = place.dir.join("user/kept");
    std::fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let draft = place.draft(&choice("a")).unwrap();
    let credentials = &draft.launch.credentials;
    assert_eq!((credentials["KEPT"].as_str(), credentials["GH"].as_str()), ("kept-real", "gh-real"));
    assert_eq!(draft.later, [("SAID".to_owned(), "SAID".to_owned())].into());
    assert!(!credentials.contains_key("SAID") && !place.dir.join("bb/ran").exists());
    let rows = shown(&draft);
    let row = format!(
        "credentials=anthropic of demo from ${{ANTHROPIC_API_KEY}}, KEPT from the file {}, SAID from the command sh, ${{GH}} (",
        kept.display()
    );
    assert!(rows.contains(&row) && !rows.contains("-real"), "{rows}");
    // When it is launched the command is run, where bb keeps its own files.
    assert_eq!(secrecy::ExposeSecret::expose_secret(&draft.sources.value("SAID").unwrap()), "said-real");
    assert!(place.dir.join("bb/ran").exists());
    let given = |value: &str| api::Credentials::from([("SAID".to_owned(), value.to_owned())]);
    assert_eq!(draft.with(&given("said-real")).unwrap().credentials["SAID"], "said-real");
    let error = draft.with(&given("other-real")).map(|_| ()).unwrap_err();
    assert!(error.message.contains("`A` would put the credential OTHER into the bottle"), "{error}");
    // What others may read is no credential, and neither is what is not there.
    std::fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let error = place.draft(&choice("a")).map(|_| ()).unwrap_err();
    assert_eq!((error.kind, error.place.as_deref()), (Kind::CredentialMissing, Some("settings.yml:2")));
}

#[test]
fn a_file_with_a_credential_is_shown_to_no_agent_and_a_form_is_told_by_the_value() {
    let front = "agent_provider: {template: two, auth_token: MY_TOKEN}\n";
    let place = Place::new("seen").bottle("dev", front).agent("a", "bottle: dev\n", "");
    let place = place.write("bb/providers/two.lua", TWO_FORMS);
    let place = place.write("bb/settings.yml", "credentials: {MY_TOKEN: {command: [printf, oat-real]}}\n");
    let draft = place.draft(&choice("a")).unwrap();
    assert_eq!(draft.launch.routes[0].auth.as_ref().unwrap().scheme, crate::api::AuthScheme::Bearer);
    assert_eq!((draft.launch.credentials["key"].as_str(), draft.later.len()), ("oat-real", 0));
    // A form that is named needs no look at the value.
    let place = place.bottle("dev", "agent_provider: {template: two}\n");
    let place = place.write("bb/settings.yml", "credentials: {TWO_TOKEN: {command: [printf, oat-real]}}\n");
    let draft = place.draft(&choice("a")).unwrap();
    assert_eq!(draft.later, [("key".to_owned(), "TWO_TOKEN".to_owned())].into());
    assert_eq!(draft.launch.env["TWO_TOKEN"], "oat-x");
    let token = place.dir.join("project/token");
    let place = place.write("project/token", "oat-real");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let place = place.write("bb/settings.yml", &format!("credentials: {{TWO_TOKEN: {{file: {}}}}}\n", token.display()));
    let error = place.draft(&choice("a")).map(|_| ()).unwrap_err();
    assert!(
        error.kind == Kind::WorkspaceUnsafe && error.message.contains("token, which is kept from agents"),
        "{error}"
    );
}

//! What comes of a choice, with manifests in a home and an environment of the test's own.

use super::*;

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
    let unlimited = vec![Limit { provider: "*".into(), tokens: None, hard: false }];
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

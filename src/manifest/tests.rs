//! Manifests as their authors write them: whole files, faults, families, and repositories that reach for more.

mod example;

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::api::{AuthScheme, Limit, PathKind};
use crate::error::Kind;
use crate::home::Home;
use crate::name::Name;
use crate::types::{CutScope, CutoffPolicy};

/// A user's home with `$BB_HOME` in it and a repository; removed when dropped.
struct Host {
    user: PathBuf,
    home: Home,
}

impl Host {
    fn new(name: &str) -> Host {
        let user = std::env::temp_dir().join(format!("bb-manifest-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&user);
        fs::create_dir_all(user.join("project/.git")).unwrap();
        let user = user.canonicalize().unwrap();
        let home = Home::open(&user.join(".bot-bottle"), None).unwrap();
        Host { user, home }
    }

    fn shelf(&self) -> Shelf {
        Shelf::open(&self.home, Some(&self.user), &self.user.join("project"))
    }

    /// Writes `front` as the front matter of a file below the user's home.
    fn put(&self, path: &str, front: &str, body: &str) -> &Host {
        let path = self.user.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("---\n{front}---\n{body}\n")).unwrap();
        self
    }

    fn bottle(&self, name: &str, front: &str) -> &Host {
        self.put(&format!(".bot-bottle/bottles/{name}.md"), front, "")
    }

    fn agent(&self, name: &str, front: &str) -> &Host {
        self.put(&format!(".bot-bottle/agents/{name}.md"), front, "You write tests.")
    }

    fn in_repository(&self, name: &str, front: &str) -> &Host {
        self.put(&format!("project/.bot-bottle/agents/{name}.md"), front, "You come with the project.")
    }

    /// What is wrong with a bottle of this front matter: line, kind, message.
    fn wrong(&self, front: &str) -> Vec<String> {
        self.bottle("faulty", front);
        said(self.shelf().bottle("faulty").expect_err(front))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.user);
    }
}

fn said(list: Vec<crate::error::Error>) -> Vec<String> {
    assert!(list.iter().all(|e| e.hint.as_ref().is_some_and(|hint| !hint.is_empty())), "no hint: {list:?}");
    let place = |e: &crate::error::Error| e.place.clone().unwrap_or_default();
    list.iter().map(|e| format!("{} {}: {}", place(e), e.kind.as_str(), e.message)).collect()
}

fn names(list: &[Name]) -> Vec<&str> {
    list.iter().map(Name::as_str).collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

const WHOLE: &str = r#"extends: claude
env: {TZ: UTC, GH_USER: "${GH_USER}", BRANCH: "?Which branch", EMPTY: ""}
agent_provider: {template: claude, auth_token: CLAUDE_OAUTH_TOKEN}
egress:
  routes:
    - host: gitea.example.org
      auth: {scheme: token, token_ref: GITEA_TOKEN}
      matches:
        - {paths: [{type: prefix, value: /api/v1/}], methods: [GET, POST]}
      dlp: {outbound_detectors: [token_patterns, known_secrets], inbound_detectors: false, outbound_on_match: supervise}
    - docs.rs
git-gate:
  user: {name: Bot, email: bot@example.org}
  repos:
    app: {url: "ssh://git@gitea.example.org/o/app.git", identity: ~/.ssh/id_ed25519, host_key: "ssh-ed25519 AAAA"}
    lib: {url: "ssh://git@gitea.example.org/o/lib.git", key: {provider: gitea, token_ref: GITEA_TOKEN}}
supervise: true
budget: {claude: 500k, "*": {tokens: 1M, hard: true}}
shutdown: kill
cutoff_scope: metered
backend: docker
image: debian:12
workspace: mount
limits: {memory: 4G, cpus: 1.5, pids: 512, disk: 10G, best_effort: true}
mounts:
  - ~/data
  - {source: /srv/models, target: /models, rw: true}
tools: [cargo, node]
policies: [hourly-cap]
"#;

#[test]
fn a_bottle_with_every_key_is_read_whole() {
    let host = Host::new("whole");
    host.put(".bot-bottle/bottles/dev.md", WHOLE, "Documentation for people.");
    let bottle = host.shelf().bottle("dev").unwrap();
    assert_eq!(bottle.body, "Documentation for people.");
    assert_eq!(bottle.extends[0].value, name("claude"));
    assert_eq!(bottle.extends[0].place.to_string(), "~/.bot-bottle/bottles/dev.md:2");
    let env = |key: &str| bottle.env[key].value.clone();
    assert_eq!(env("TZ"), EnvValue::Literal("UTC".into()));
    assert_eq!(env("GH_USER"), EnvValue::Host("GH_USER".into()));
    assert_eq!(env("BRANCH"), EnvValue::Ask("Which branch".into()));
    assert_eq!(env("EMPTY"), EnvValue::Literal(String::new()));
    assert_eq!(bottle.template.as_ref().unwrap().value, name("claude"));
    assert_eq!(bottle.auth_token.as_ref().unwrap().value, "CLAUDE_OAUTH_TOKEN");
    let [gitea, docs] = &bottle.routes[..] else { panic!("{:?}", bottle.routes) };
    let auth = gitea.value.allow.auth.as_ref().unwrap();
    assert_eq!((auth.scheme, auth.credential.as_str()), (AuthScheme::Token, "GITEA_TOKEN"));
    let rule = &gitea.value.allow.matches[0];
    assert_eq!((rule.paths[0].kind, rule.paths[0].value.as_str()), (PathKind::Prefix, "/api/v1/"));
    assert_eq!((rule.methods.join(" "), gitea.place.line), ("GET POST".to_owned(), 7));
    let dlp = gitea.value.dlp.as_ref().unwrap();
    assert_eq!((dlp.on_match, &dlp.inbound), (OnMatch::Supervise, &Detectors::None));
    assert_eq!(docs.value.allow.host, "docs.rs");
    let app = &bottle.git_gate.repos["app"].value;
    assert_eq!(app.identity, Some(Identity::File("~/.ssh/id_ed25519".into())));
    assert!(matches!(bottle.git_gate.repos["lib"].value.identity, Some(Identity::Forge { .. })));
    assert_eq!(bottle.git_gate.user.email.as_ref().unwrap().value, "bot@example.org");
    assert!(bottle.supervise.as_ref().unwrap().value);
    let limit = |provider: &str, tokens, hard| Limit { hard, ..Limit::of(provider, Some(tokens)) };
    assert_eq!(bottle.budget.as_ref().unwrap().value, [limit("claude", 500_000, false), limit("*", 1_000_000, true)]);
    assert_eq!(bottle.shutdown.as_ref().unwrap().value, CutoffPolicy::Kill);
    assert_eq!(bottle.cutoff_scope.as_ref().unwrap().value, CutScope::Metered);
    let limits = &bottle.limits;
    assert_eq!((limits.memory.as_ref().unwrap().value, limits.cpus.as_ref().unwrap().value), (4 << 30, 1500));
    assert_eq!((limits.pids.as_ref().unwrap().value, limits.disk.as_ref().unwrap().value), (512, 10 << 30));
    assert_eq!((&bottle.mounts[0].value.source[..], bottle.mounts[0].value.rw), ("~/data", false));
    assert_eq!((bottle.mounts[1].value.target.as_deref(), bottle.mounts[1].value.rw), (Some("/models"), true));
    assert_eq!((bottle.tools[1].value.as_str(), bottle.policies[0].value.as_str()), ("node", "hourly-cap"));
}

#[test]
fn every_fault_of_a_bottle_is_listed_at_once_with_its_line() {
    let host = Host::new("faults");
    let front = "extend: claude\nextends: [Foo, ok]\nenv: {1A: x, B: \"a ${C}\"}\nagent_provider: {templat: claude}\n\
        egress:\n  routes:\n    - {host: \"https://docs.rs/\"}\n    - {hots: a.example}\n    - {host: a.example, role: admin}\n\
        supervise: yes\nbudget: 0.5\nshutdown: halt\nlimits: {memory: lots, cpus: none, pids: 1}\nmounts: [data]\n";
    let file = "~/.bot-bottle/bottles/faulty.md";
    let want = [
        "2 unknown_key: unknown key `extend`",
        "3 usage: `Foo` is not a name",
        "4 usage: `1A` cannot be the name of a variable",
        "4 usage: the value of `B` cannot be used",
        "5 unknown_key: unknown key `templat`",
        "8 usage: `https://docs.rs/` is not a host name",
        "9 unknown_key: unknown key `hots`",
        "9 usage: a route does not say `host`",
        "10 usage: `role` is reserved",
        "11 usage: `supervise` must be true or false",
        "12 usage: `0.5` is not a whole number of tokens",
        "13 usage: `halt` is not a value of `shutdown`",
        "14 usage: `memory` is not a size",
        "14 usage: `cpus` is not a number of processors",
        "14 usage: `pids` is not a number of processes",
        "15 usage: a mount's path begins neither with / nor with ~/, or has `..` in it",
    ];
    let got = host.wrong(front);
    for (got, want) in got.iter().zip(want) {
        assert!(got.starts_with(&format!("{file}:{want}")), "{got}\n  instead of {want}");
    }
    assert_eq!(got.len(), want.len(), "{got:#?}");
    let list = host.shelf().bottle("faulty").unwrap_err();
    assert!(list[0].hint.as_ref().unwrap().contains("did you mean `extends`?"), "{list:?}");
    assert!(list.iter().any(|e| e.hint.as_deref() == Some("write the host alone: \"docs.rs\"")), "{list:?}");
}

#[test]
fn values_of_the_wrong_form_are_refused_by_each_key() {
    let host = Host::new("forms");
    for front in [
        "extends: {a: b}\n",
        "env: [A]\n",
        "env: {A: {b: c}}\n",
        "env: {A: }\n",
        "agent_provider: claude\n",
        "agent_provider: {auth_token: \"sk-ant-oat01-secret\"}\n",
        "egress: []\n",
        "egress: {route: []}\n",
        "egress: {routes: docs.rs}\n",
        "egress: {routes: [{host: \"*.example\"}]}\n",
        "egress: {routes: [{host: 10.0.0.1}]}\n",
        "egress: {routes: [{host: a.b, ports: [0]}]}\n",
        "egress: {routes: [{host: a.b, matches: [{}]}]}\n",
        "egress: {routes: [{host: a.b, matches: [{methods: [get]}]}]}\n",
        "egress: {routes: [{host: a.b, matches: [{paths: [/api]}]}]}\n",
        "egress: {routes: [{host: a.b, matches: [{paths: [{type: regex, value: /(x}]}]}]}\n",
        "egress: {routes: [{host: a.b, matches: [{paths: [{type: prefix, value: /a/../b}]}]}]}\n",
        "egress: {routes: [{host: a.b, auth: {scheme: Basic, token_ref: T}}]}\n",
        "egress: {routes: [{host: a.b, auth: {scheme: Bearer}}]}\n",
        "egress: {routes: [{host: a.b, auth: {scheme: header, token_ref: T}}]}\n",
        "egress: {routes: [{host: a.b, auth: {scheme: Bearer, token_ref: \"not a name\"}}]}\n",
        "egress: {routes: [{host: a.b, api: telepathy}]}\n",
        "egress: {routes: [{host: a.b, dlp: {outbound_detectors: [magic]}}]}\n",
        "egress: {routes: [{host: a.b, dlp: {outbound_on_match: shrug}}]}\n",
        "git-gate: {user: {name: \"A <b>\"}}\n",
        "git-gate: {repos: {App: {url: \"https://h/r\"}}}\n",
        "git-gate: {repos: {app: {url: \"ext::sh -c id\"}}}\n",
        "git-gate: {repos: {app: {url: \"ssh://-oProxyCommand=id/r\"}}}\n",
        "git-gate: {repos: {app: {url: \"ssh://h/r\"}}}\n",
        "git-gate: {repos: {app: {identity: ~/.ssh/id}}}\n",
        "git-gate: {repos: {app: {url: \"ssh://h/r\", identity: ~/k, key: {provider: gitea, token_ref: T}}}}\n",
        "git-gate: {repos: {app: {url: \"ssh://h/r\", key: {provider: sourceforge, token_ref: T}}}}\n",
        "budget: {}\nbudget: 5\n",
        "budget: {Claude: 5}\n",
        "budget: {claude: 9007199254740993}\n",
        "budget: -1\n",
        "image: [a]\n",
        "dockerfile: [a]\n",
        "build_args: [A]\n",
        "build_args: {a-b: x}\n",
        "build_args: {A: [x]}\n",
        "image: debian:12\ndockerfile: images/mine.Dockerfile\n",
        "backend: virtualbox\n",
        "workspace: shared\n",
        "cutoff_scope: some\n",
        "limits: 5\n",
        "limits: {memory: 1K}\n",
        "limits: {best_effort: maybe}\n",
        "limits: {cpus: 0}\n",
        "mounts: ~/data\n",
        "mounts: [{target: /x}]\n",
        "mounts: [{source: ../up}]\n",
        "mounts: [{source: /a, target: rel}]\n",
        "tools: [\"-rf\"]\n",
        "tools: [/bin/sh]\n",
        "policies: [Bad Name]\n",
        "a: &x 1\n",
    ] {
        let wrong = host.wrong(front);
        assert!(
            !wrong.is_empty() && wrong.iter().all(|w| w.starts_with("~/.bot-bottle/bottles/faulty.md:")),
            "{wrong:?}"
        );
        assert!(
            !wrong.join("").contains("sk-ant-oat01-secret"),
            "a secret in the wrong place is not repeated: {wrong:?}"
        );
    }
}

#[test]
fn an_agent_is_a_prompt_skills_and_a_bottle_and_claude_codes_own_keys_are_ignored() {
    let host = Host::new("agent");
    let front = "name: x\ndescription: y\nmodel: opus\ncolor: red\nmemory: user\nbottle: dev\nskills: [review, tests]\n\
        git-gate: {user: {name: A}}\nbudget: {claude: 1M}\nshutdown: kill\n";
    host.agent("tester", front);
    let agent = host.shelf().agent("tester").unwrap();
    assert_eq!((agent.prompt.as_str(), agent.origin), ("You write tests.", Origin::Home));
    assert_eq!(agent.bottle.unwrap().value, name("dev"));
    assert_eq!(agent.skills.iter().map(|s| s.value.as_str()).collect::<Vec<_>>(), ["review", "tests"]);
    assert_eq!(agent.budget.unwrap().value[0].tokens, Some(1_000_000));
    assert_eq!(agent.user.name.unwrap().place.line, 9);
}

#[test]
fn who_names_what_is_not_there_is_told_what_is() {
    let host = Host::new("missing");
    host.agent("tester", "bottle: dve\n").bottle("dev", "").bottle("prod", "");
    let one = |list: Vec<crate::error::Error>| (list[0].to_string(), list.len(), list[0].kind);
    let (text, count, kind) = one(host.shelf().agent("testr").unwrap_err());
    assert_eq!((count, kind), (1, Kind::Usage));
    assert!(text.contains("there is no agent `testr`; did you mean `tester`?"), "{text}");
    let (text, ..) = one(effective(&host.shelf(), Some("tester"), &[]).unwrap_err());
    assert!(
        text.contains("there is no bottle manifest `dve` (~/.bot-bottle/agents/tester.md:2); did you mean `dev`?"),
        "{text}"
    );
    let (text, ..) = one(effective(&host.shelf(), Some("tester"), &[name("stage")]).unwrap_err());
    assert!(text.ends_with("there are: dev, prod"), "{text}");
    host.agent("homeless", "");
    let (text, ..) = one(effective(&host.shelf(), Some("homeless"), &[]).unwrap_err());
    assert!(text.contains("the agent `homeless` names no bottle") && text.contains("--bottle"), "{text}");
}

#[test]
fn parents_are_folded_left_to_right_each_once_and_the_child_wins() {
    let host = Host::new("fold");
    host.bottle("base", "env: {A: base, B: base, C: base, D: base}\nlimits: {pids: 100, memory: 1G}\ntools: [git]\n")
        .bottle("left", "extends: base\nenv: {B: left, C: left, D: left}\nlimits: {pids: 200}\ntools: [git, node]\n")
        .bottle("right", "extends: base\nenv: {C: right, D: right}\nshutdown: kill\n")
        .bottle("dev", "extends: [left, right]\nenv: {D: dev}\nbudget: 5\n")
        .bottle("more", "env: {A: more}\nshutdown: cutoff\nbudget: {claude: 7}\n")
        .agent("tester", "bottle: dev\nbudget: 3\n");
    let merged = effective(&host.shelf(), Some("tester"), &[]).unwrap();
    let env = |merged: &Effective, key: &str| match &merged.env[key].value {
        EnvValue::Literal(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let all = |merged: &Effective| ["A", "B", "C", "D"].map(|key| env(merged, key)).join(" ");
    // The base is folded once, below both: folded a second time it would win over `left`.
    assert_eq!(
        (names(&merged.folded), all(&merged)),
        (vec!["base", "left", "right", "dev"], "base left right dev".into())
    );
    assert_eq!(merged.env["B"].place.to_string(), "~/.bot-bottle/bottles/left.md:3");
    assert_eq!((merged.limits.pids.unwrap().value, merged.limits.memory.unwrap().value), (200, 1 << 30));
    assert_eq!(merged.tools.iter().map(|t| t.value.as_str()).collect::<Vec<_>>(), ["git", "node"]);
    assert_eq!(merged.prompt, "You write tests.");
    // The path is the other way round: the nearest first, each once.
    let path: Vec<_> = merged.path.iter().map(|node| format!("{}:{}", node.scope, node.name)).collect();
    assert_eq!(path, ["agent:tester", "bottle:dev", "bottle:left", "bottle:base", "bottle:right"]);
    assert_eq!(merged.path[1].budget.as_ref().unwrap().value[0].tokens, Some(5));
    // Composed: in the order given, the later one wins.
    let merged = effective(&host.shelf(), Some("tester"), &[name("dev"), name("more")]).unwrap();
    assert_eq!((env(&merged, "A"), names(&merged.bottles)), ("more".into(), vec!["dev", "more"]));
    assert_eq!(merged.shutdown.unwrap().value, CutoffPolicy::Cutoff);
    assert_eq!(merged.path.last().unwrap().name, name("more"));
    let merged = effective(&host.shelf(), Some("tester"), &[name("more"), name("dev")]).unwrap();
    assert_eq!((env(&merged, "A"), merged.shutdown.unwrap().value), ("base".into(), CutoffPolicy::Kill));
}

#[test]
fn routes_are_replaced_by_host_and_mounts_by_path() {
    let host = Host::new("routes");
    host.bottle("base", "egress: {routes: [{host: a.example}, {host: b.example}]}\nmounts: [{source: /srv/a, target: /a}]\n")
        .bottle(
            "dev",
            "extends: base\negress:\n  routes:\n    - {host: A.example, matches: [{methods: [GET]}]}\n    - {host: a.example, ports: [8443]}\n\
             mounts: [{source: /srv/b, target: /a}]\n",
        );
    let merged = effective(&host.shelf(), None, &[name("dev")]).unwrap();
    let routes: Vec<_> = merged.routes.iter().map(|r| (r.value.allow.host.as_str(), r.place.line)).collect();
    assert_eq!(routes, [("b.example", 2), ("a.example", 5), ("a.example", 6)]);
    assert_eq!(merged.mounts.iter().map(|m| m.value.source.as_str()).collect::<Vec<_>>(), ["/srv/b"]);
    let rows = rows(&merged);
    let row = |key: &str| rows.iter().find(|r| r.key == key).unwrap();
    assert_eq!(row("egress.routes.b.example").from, "~/.bot-bottle/bottles/base.md:2");
    assert_eq!(row("egress.routes.a.example").value, "GET");
}

#[test]
fn circles_and_faults_of_whole_families_are_said() {
    let host = Host::new("circle");
    host.bottle("a", "extends: b\n").bottle("b", "extends: [c]\n").bottle("c", "extends: a\n");
    let list = effective(&host.shelf(), None, &[name("a")]).unwrap_err();
    assert_eq!(
        said(list),
        ["~/.bot-bottle/bottles/c.md:2 usage: bottle manifests extend each other in a circle: a -> b -> c -> a"]
    );
    host.bottle("d", "extends: d\n");
    assert!(said(effective(&host.shelf(), None, &[name("d")]).unwrap_err())[0].contains("d -> d"));
    // All files of a family are read, so that all of their faults are said at once.
    host.bottle("p", "extends: [q, r]\nx: 1\n").bottle("q", "y: 1\n").bottle("r", "extends: none\nz: 1\n");
    host.agent("tester", "bottle: p\nw: 1\n");
    assert_eq!(
        effective(&host.shelf(), Some("tester"), &[]).unwrap_err().len(),
        1,
        "an agent with a fault names no bottle"
    );
    host.agent("tester", "bottle: p\n");
    assert_eq!(said(effective(&host.shelf(), Some("tester"), &[]).unwrap_err()).len(), 1, "p is read first");
    host.bottle("p", "extends: [q, r]\n");
    assert_eq!(said(effective(&host.shelf(), Some("tester"), &[]).unwrap_err()).len(), 2, "q and r");
}

#[test]
fn a_repository_may_ship_agents_and_nothing_that_allows() {
    let host = Host::new("repository");
    host.bottle("dev", "").in_repository("helper", "bottle: dev\n").in_repository("tester", "bottle: dev\n");
    host.agent("tester", "bottle: dev\n");
    for kept in ["bottles/dev.md", "policies/allow.lua", "providers/claude.lua", "flows/start.lua", "recipes/x.lua"] {
        host.put(&format!("project/.bot-bottle/{kept}"), "budget: unlimited\n", "");
    }
    host.put("project/.bot-bottle/settings.yml", "budget: {claude: unlimited}\n", "");
    let shelf = host.shelf();
    let agents = shelf.agents();
    assert_eq!(agents.get("helper").unwrap().origin, Origin::Repository, "the allowed twin");
    assert_eq!(shelf.agent("helper").unwrap().prompt, "You come with the project.");
    assert_eq!(shelf.agent("tester").unwrap().prompt, "You write tests.", "the host's wins");
    assert_eq!(shelf.bottle("dev").unwrap().budget, None, "the host's is read");
    let warnings = shelf.warnings().join("\n");
    for name in ["bottles", "settings.yml", "policies", "providers", "flows", "recipes", "agents/tester.md"] {
        assert!(warnings.contains(&format!("~/project/.bot-bottle/{name} counts for nothing")), "{name}: {warnings}");
    }
    assert!(!warnings.contains("helper"), "{warnings}");
}

#[test]
fn keys_that_loosen_are_faults_of_a_repositorys_agent() {
    let host = Host::new("loosen");
    for (front, want) in [
        ("budget: unlimited\n", "`budget` counts for nothing in a repository's agent"),
        ("budget: {claude: 5}\n", "`budget` counts for nothing in a repository's agent"),
        ("shutdown: cutoff\n", "`shutdown` counts for nothing in a repository's agent"),
        ("egress: {routes: [evil.example]}\n", "`egress` cannot be an agent's"),
        ("env: {A: b}\n", "`env` cannot be an agent's"),
        ("mounts: [~/.ssh]\n", "`mounts` cannot be an agent's"),
        ("agent_provider: {auth_token: GITHUB_TOKEN}\n", "`agent_provider` cannot be an agent's"),
        ("limits: {memory: 1T}\n", "`limits` cannot be an agent's"),
        ("supervise: false\n", "`supervise` cannot be an agent's"),
        (
            "git-gate: {repos: {app: {url: \"ssh://h/r\", identity: ~/.ssh/id_ed25519}}}\n",
            "the repository `app` cannot be an agent's",
        ),
    ] {
        host.in_repository("helper", &format!("bottle: dev\n{front}"));
        let list = said(host.shelf().agent("helper").unwrap_err());
        assert_eq!(list.len(), 1, "{list:?}");
        assert!(list[0].starts_with("~/project/.bot-bottle/agents/helper.md:3 usage: "), "{list:?}");
        assert!(list[0].contains(want), "{list:?}");
    }
}

#[test]
fn a_link_in_a_repository_does_not_make_a_file_of_the_host_a_prompt() {
    let host = Host::new("links");
    host.in_repository("helper", "");
    let secret = host.user.join("secret.md");
    fs::write(&secret, "---\n---\nprivate key\n").unwrap();
    let agents = host.user.join("project/.bot-bottle/agents");
    std::os::unix::fs::symlink(&secret, agents.join("thief.md")).unwrap();
    let list = host.shelf().agent("thief").unwrap_err();
    assert!(list[0].message.contains("a repository's links are not followed"), "{list:?}");
    assert!(host.shelf().agent("helper").is_ok(), "the allowed twin");
    // Nor does a link in place of a directory.
    for linked in ["project/.bot-bottle/agents", "project/.bot-bottle"] {
        let path = host.user.join(linked);
        let real = host.user.join("elsewhere");
        fs::rename(&path, &real).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        assert!(host.shelf().agents().is_empty(), "{linked}");
        fs::remove_file(&path).unwrap();
        fs::rename(&real, &path).unwrap();
    }
    assert_eq!(host.shelf().agents().len(), 2);
    // The host's own may be links: people keep their files elsewhere.
    fs::create_dir_all(host.home.root.join("agents")).unwrap();
    std::os::unix::fs::symlink(&secret, host.home.root.join("agents/mine.md")).unwrap();
    assert!(host.shelf().agent("mine").is_ok());
}

#[test]
fn bb_home_itself_is_no_repository_and_a_repository_is_seen_from_below() {
    let host = Host::new("below");
    host.agent("tester", "").in_repository("helper", "");
    let agents = |cwd: &Path| {
        let agents = Shelf::open(&host.home, Some(&host.user), cwd).agents();
        agents.into_iter().map(|(name, found)| (name.to_string(), found.origin)).collect::<Vec<_>>()
    };
    let tester = ("tester".to_owned(), Origin::Home);
    let helper = ("helper".to_owned(), Origin::Repository);
    assert_eq!(agents(&host.user), std::slice::from_ref(&tester));
    let deep = host.user.join("project/src/deep");
    fs::create_dir_all(&deep).unwrap();
    assert_eq!(agents(&deep), [helper, tester.clone()]);
    assert_eq!(agents(Path::new("/")), [tester]);
    let shelf = Shelf::open(&host.home, Some(&host.user), &host.user);
    assert!(shelf.warnings().is_empty(), "{:?}", shelf.warnings());
    host.put(".bot-bottle/agents/Bad Name.md", "", "");
    assert!(shelf.warnings()[0].contains("`Bad Name` is not a name"), "{:?}", shelf.warnings());
}

#[test]
fn the_page_about_manifests_has_every_key_and_its_example_is_one() {
    let page = include_str!("../../docs/manifests.md");
    let section = |title: &str| page.split(&format!("## {title}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let named = |text: &str| -> Vec<String> {
        let cells = text.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split(" | ").next());
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let (keys, routes) = section("Bottles").split_once("A route is").unwrap();
    assert_eq!(named(keys), bottle::KEYS);
    let mut known = egress::KEYS.map(str::to_owned).to_vec();
    known.push("role".into());
    assert_eq!(named(routes), known);
    assert_eq!(named(section("Agents")), agent::KEYS);
    for key in agent::IGNORED {
        assert!(section("Agents").contains(&format!("`{key}`")), "{key}");
    }
    let host = Host::new("page");
    host.bottle("claude", "");
    let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(host.home.root.join("bottles/dev.md"), example).unwrap();
    assert_eq!(effective(&host.shelf(), None, &[name("dev")]).unwrap().routes.len(), 2);
}

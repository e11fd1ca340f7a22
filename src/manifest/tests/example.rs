//! A manifest as bot-bottle's users have it, word for word, and what it is read as (docs/bot-bottle.md). The text is theirs: a
//! change here is a change of what they may keep.

use super::*;

/// Comments, quotes and order as they write them.
const THEIRS: &str = r#"---
extends: claude                      # a name or a list, folded left to right
env: {TZ: UTC, GH_USER: "${GH_USER}"}
agent_provider: {template: claude, auth_token: CLAUDE_OAUTH_TOKEN}   # name of a host variable
egress:
  routes:
    - host: gitea.example.org
      auth: {scheme: token, token_ref: GITEA_TOKEN}                  # Bearer | token
      matches:
        - {paths: [{type: prefix, value: /api/v1/}], methods: [GET, POST]}
      dlp: {outbound_detectors: [token_patterns, known_secrets], inbound_detectors: false, outbound_on_match: supervise}
git-gate:
  user: {name: Bot, email: bot@example.org}
  repos:
    app: {url: "ssh://git@gitea.example.org/o/app.git", identity: ~/.ssh/id_ed25519, host_key: "ssh-ed25519 AAAA..."}
supervise: true
---
Documentation for people.
"#;

/// A home with that manifest as bottle `dev`, changed by `change`.
fn with(name: &str, change: impl Fn(&str) -> String) -> Host {
    let host = Host::new(name);
    host.bottle("claude", "env: {TZ: CET, LANG: C}\n").bottle("strict", "shutdown: kill\n");
    fs::write(host.home.root.join("bottles/dev.md"), change(THEIRS)).unwrap();
    host
}

#[test]
fn a_manifest_of_bot_bottles_is_read_as_its_author_means_it() {
    let host = with("theirs", str::to_owned);
    let bottle = host.shelf().bottle("dev").unwrap();
    assert_eq!(bottle.body, "Documentation for people.");
    let merged = effective(&host.shelf(), None, &[name("dev")]).unwrap();
    assert_eq!(names(&merged.folded), ["claude", "dev"]);
    let env: Vec<_> = merged.env.iter().map(|(key, said)| (key.as_str(), said.value.clone())).collect();
    let literal = |text: &str| EnvValue::Literal(text.into());
    assert_eq!(env, [("GH_USER", EnvValue::Host("GH_USER".into())), ("LANG", literal("C")), ("TZ", literal("UTC"))]);
    assert_eq!(merged.template.as_ref().unwrap().value, name("claude"));
    assert_eq!(merged.auth_token.as_ref().unwrap().value, "CLAUDE_OAUTH_TOKEN");

    let [route] = &merged.routes[..] else { panic!("{:?}", merged.routes) };
    assert_eq!((route.place.line, route.value.allow.host.as_str()), (7, "gitea.example.org"));
    let auth = route.value.allow.auth.as_ref().unwrap();
    assert_eq!((auth.scheme, auth.credential.as_str(), &auth.header), (AuthScheme::Token, "GITEA_TOKEN", &None));
    let [rule] = &route.value.allow.matches[..] else { panic!("{route:?}") };
    let [path] = &rule.paths[..] else { panic!("{rule:?}") };
    assert_eq!((path.kind, path.value.as_str()), (PathKind::Prefix, "/api/v1/"));
    assert_eq!(rule.methods, ["GET", "POST"]);
    let dlp = Dlp {
        outbound: Detectors::Named(vec!["token_patterns".into(), "known_secrets".into()]),
        inbound: Detectors::None,
        on_match: OnMatch::Supervise,
    };
    assert_eq!(route.value.dlp, Some(dlp));
    // What they do not say of a route is left open, and of the bottle as well.
    assert!(route.value.allow.ports.is_empty() && route.value.allow.api.is_none());
    assert!(
        merged.path.iter().all(|node| node.budget.is_none()) && merged.shutdown.is_none() && merged.mounts.is_empty()
    );

    let user = &merged.git_gate.user;
    assert_eq!(user.name.as_ref().unwrap().value, "Bot");
    assert_eq!(user.email.as_ref().unwrap().value, "bot@example.org");
    let [(app, repo)] = &merged.git_gate.repos.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", merged.git_gate) };
    let expected = Repo {
        url: "ssh://git@gitea.example.org/o/app.git".into(),
        identity: Some(Identity::File("~/.ssh/id_ed25519".into())),
        host_key: Some("ssh-ed25519 AAAA...".into()),
    };
    assert_eq!((app.as_str(), &repo.value), ("app", &expected));
    assert!(merged.supervise.unwrap().value);
}

#[test]
fn what_the_comments_of_that_manifest_allow_is_read_as_well() {
    let host = with("variants", |text| text.replace("extends: claude ", "extends: [claude, strict] "));
    let merged = effective(&host.shelf(), None, &[name("dev")]).unwrap();
    assert_eq!(
        (names(&merged.folded), merged.shutdown.unwrap().value),
        (vec!["claude", "strict", "dev"], CutoffPolicy::Kill)
    );
    let host = with("bearer", |text| text.replace("scheme: token", "scheme: Bearer"));
    assert_eq!(
        host.shelf().bottle("dev").unwrap().routes[0].value.allow.auth.as_ref().unwrap().scheme,
        AuthScheme::Bearer
    );
    // In place of a key's file one that is made at the forge; and never both, nor neither.
    let forge = "key: {provider: gitea, token_ref: GITEA_TOKEN}";
    let host = with("forge", |text| text.replace("identity: ~/.ssh/id_ed25519", forge));
    let repo = host.shelf().bottle("dev").unwrap().git_gate.repos["app"].value.clone();
    assert!(matches!(repo.identity, Some(Identity::Forge { token_ref, .. }) if token_ref == "GITEA_TOKEN"));
    for (case, text) in [("both", format!("identity: ~/.ssh/id_ed25519, {forge}, ")), ("neither", String::new())] {
        let host = with(case, |theirs| theirs.replace("identity: ~/.ssh/id_ed25519, ", &text));
        let wrong = said(host.shelf().bottle("dev").unwrap_err());
        assert!(wrong.len() == 1 && wrong[0].contains("`identity`") && wrong[0].contains("`key`"), "{case}: {wrong:?}");
    }
    // `role` is reserved, whatever it says.
    for role in ["admin", "\"\"", "[a]", "{a: b}", "", "false"] {
        let host = with("role", |text| text.replace("      auth:", &format!("      role: {role}\n      auth:")));
        let wrong = said(host.shelf().bottle("dev").unwrap_err());
        assert!(wrong.len() == 1 && wrong[0].contains("dev.md:8 usage: `role` is reserved"), "{role}: {wrong:?}");
    }
}

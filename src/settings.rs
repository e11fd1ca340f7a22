//! The host's settings, `$BB_HOME/settings.yml`: global budgets, weights, cutoff, upstreams, durability, where credentials lie.
//!
//! Read once where a controller starts. A file that cannot be read whole counts for nothing but its problems: fail
//! closed. No file is the same as an empty one.

mod credentials;
pub mod login;
mod upstream_proxy;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use crate::api::{Limit, Upstream, UpstreamProxy};
use crate::budget::Weights;
use crate::error::Error;
use crate::home::Home;
pub use credentials::Sources;

use crate::types::{CutScope, CutoffPolicy, Durability};
use crate::yaml::budget::budget;
use crate::yaml::read::{bounded, host, is_image, table, text, twice, unreadable, word};
use crate::yaml::{self, Entry, Node, Problems};

/// The name of the file in messages.
const FILE: &str = "settings.yml";

/// Longest file of certificates, bytes.
const MAX_PEM: u64 = 1024 * 1024;

const KEYS: [&str; 12] = [
    "budget",
    "shutdown",
    "cutoff_scope",
    "weights",
    "upstreams",
    "upstream_proxy",
    "no_proxy",
    "durability",
    "backend",
    "image",
    "dockerfile",
    "credentials",
];
const UPSTREAM_KEYS: [&str; 2] = ["address", "ca"];

/// The host's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Limits of the global node.
    pub budget: Vec<Limit>,
    /// Where each of them stands, for messages: its line by its provider.
    pub budget_lines: BTreeMap<String, usize>,
    /// What happens to a bottle whose budget is spent, where its launch does not say.
    pub shutdown: CutoffPolicy,
    /// What a cut takes away, where the launch does not say.
    pub cutoff_scope: CutScope,
    /// How tokens are counted.
    pub weights: Weights,
    /// Names that are dialled elsewhere, with the authority's PEM already read.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The proxy that is the host's own way out.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// When a commit of the ledger counts as done.
    pub durability: Durability,
    /// What makes bottles, where the launch does not say.
    pub backend: Option<String>,
    /// The image of backend `docker`, where the launch does not say.
    pub image: Option<String>,
    /// The Dockerfile that it is made of instead.
    pub dockerfile: Option<String>,
    /// Where credentials lie that the environment has not.
    pub credentials: Sources,
}

impl Settings {
    /// Reads the settings of a home; defaults where there is no file.
    ///
    /// # Errors
    /// Everything that is wrong with the file, each with its line: kinds `usage` and `unknown_key`.
    pub fn load(home: &Home) -> Result<Settings, Vec<Error>> {
        let mut problems = Problems::new(FILE);
        let text = match bounded(&home.settings(), yaml::MAX_BYTES as u64 + 1) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Settings::default()),
            Err(e) => {
                unreadable(&mut problems, &e);
                return problems.into_result(Settings::default());
            }
        };
        Settings::parse(&text, &home.root)
    }

    /// Reads settings from a text; paths in it are relative to `root`.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(text: &str, root: &Path) -> Result<Settings, Vec<Error>> {
        let mut problems = Problems::new(FILE);
        let mut settings = Settings::default();
        if let Some(tree) = yaml::parse(text, &mut problems)
            && !tree.is_nothing()
        {
            for entry in table(&tree, "the file", &mut problems) {
                settings.read(entry, root, &mut problems);
                if settings.image.is_some() && settings.dockerfile.is_some() && is_image(entry) {
                    twice(entry, &mut problems);
                }
            }
            settings.put_beside_the_proxy(&tree, &mut problems);
        }
        problems.into_result(settings)
    }

    fn read(&mut self, entry: &Entry, root: &Path, problems: &mut Problems) {
        match entry.key.as_str() {
            "budget" => {
                self.budget = budget(&entry.value, problems);
                let lines = entry.value.entries().unwrap_or_default().iter();
                self.budget_lines = lines.map(|limit| (limit.key.clone(), limit.line)).collect();
            }
            "shutdown" => {
                self.shutdown = word(entry, &CutoffPolicy::WORDS, &[], problems).unwrap_or_default();
            }
            "cutoff_scope" => {
                let words = [("all", CutScope::All), ("metered", CutScope::Metered)];
                self.cutoff_scope = word(entry, &words, &[], problems).unwrap_or_default();
            }
            "weights" => self.weights = weights(&entry.value, problems),
            "upstream_proxy" => self.upstream_proxy = upstream_proxy::read(entry, problems),
            // Where it stands before the proxy, there is nothing yet to put it in.
            "no_proxy" => {}
            "upstreams" => self.upstreams = upstreams(&entry.value, root, problems),
            "durability" => {
                let words = [("normal", Durability::Normal), ("power", Durability::Power)];
                self.durability = word(entry, &words, &[], problems).unwrap_or_default();
            }
            "backend" => {
                let words = [("linux", "linux"), ("docker", "docker"), ("podman", "docker")];
                let later = ["smolmachines", "macos-container"];
                self.backend = word(entry, &words, &later, problems).map(str::to_owned);
            }
            "image" => self.image = text(entry, problems),
            "dockerfile" => self.dockerfile = text(entry, problems),
            "credentials" => self.credentials = Sources::read(&entry.value, root, problems),
            _ => problems.unknown_key(entry, &KEYS),
        }
    }
}

impl Settings {
    /// Reads what is reached beside the proxy.
    fn put_beside_the_proxy(&mut self, tree: &Node, problems: &mut Problems) {
        let Some(entry) = tree.entries().unwrap_or_default().iter().find(|entry| entry.key == "no_proxy") else {
            return;
        };
        let direct = upstream_proxy::direct(entry, problems);
        match &mut self.upstream_proxy {
            Some(proxy) => proxy.direct = direct,
            None if tree.entries().unwrap_or_default().iter().any(|entry| entry.key == "upstream_proxy") => {}
            None => {
                problems.add(entry.line, "`no_proxy` without `upstream_proxy` means nothing").hint =
                    Some("take it out, or say where the proxy is".to_owned());
            }
        }
    }
}

/// Reads weights: `raw`, or a table of classes.
fn weights(node: &Node, problems: &mut Problems) -> Weights {
    if node.text() == Some("raw") {
        return Weights::RAW;
    }
    let mut weights = Weights::default();
    let Some(entries) = node.entries() else {
        problems.add(node.line, "`weights` must be `raw` or a table").hint =
            Some("write `weights: raw` or `weights: {cache_read: 0.1}`".to_owned());
        return weights;
    };
    for entry in entries {
        if !Weights::CLASSES.contains(&entry.key.as_str()) {
            problems.unknown_key(entry, &Weights::CLASSES);
        } else if let Err(e) = weights.set(&entry.key, entry.value.text().unwrap_or("")) {
            problems.add(entry.value.line, e.to_string()).hint = Some("write a number such as 0.1 or 1".to_owned());
        }
    }
    weights
}

/// Reads names that are dialled elsewhere.
fn upstreams(node: &Node, root: &Path, problems: &mut Problems) -> BTreeMap<String, Upstream> {
    let mut upstreams = BTreeMap::new();
    for entry in table(node, "`upstreams`", problems) {
        host(entry, &entry.key, problems);
        let mut upstream = Upstream { address: String::new(), ca_pem: None };
        for field in table(&entry.value, "an upstream", problems) {
            match (field.key.as_str(), field.value.text()) {
                ("address", Some(text)) if text.parse::<SocketAddr>().is_ok() => text.clone_into(&mut upstream.address),
                ("address", _) => {
                    problems.add(field.value.line, "`address` must be IP:PORT").hint =
                        Some("write it in quotes, such as \"127.0.0.1:8443\"".to_owned());
                    "?".clone_into(&mut upstream.address);
                }
                ("ca", Some(text)) => upstream.ca_pem = certificates(&root.join(text), field.value.line, problems),
                ("ca", None) => {
                    problems.add(field.value.line, "`ca` must be the path of a PEM file").hint = Some(
                        "write a path such as corp-ca.pem; it counts from the directory of settings.yml".to_owned(),
                    );
                }
                _ => problems.unknown_key(field, &UPSTREAM_KEYS),
            }
        }
        if upstream.address.is_empty() && entry.value.entries().is_some() {
            problems.add(entry.line, format!("the upstream of `{}` does not say `address`", entry.key)).hint =
                Some("add it, such as `address: \"127.0.0.1:8443\"`".to_owned());
        }
        upstreams.insert(entry.key.clone(), upstream);
    }
    upstreams
}

/// Reads a file of certificates.
fn certificates(path: &Path, line: usize, problems: &mut Problems) -> Option<String> {
    match bounded(path, MAX_PEM) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => return Some(pem),
        Ok(_) => problems.add(line, format!("no certificate in {}", path.display())),
        Err(e) => problems.add(line, format!("{}: {e}", path.display())),
    }
    .hint = Some("put the authority's certificate there, in PEM form, or correct the path".to_owned());
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Period;
    use crate::error::Kind;

    fn parse(text: &str) -> Result<Settings, Vec<Error>> {
        Settings::parse(text, Path::new("/nowhere"))
    }

    /// Lines, kinds and messages of what is wrong.
    fn wrong(text: &str) -> Vec<String> {
        let list = parse(text).unwrap_err();
        list.iter().map(|e| format!("{} {}: {}", e.place.as_deref().unwrap(), e.kind.as_str(), e.message)).collect()
    }

    fn limit(provider: &str, tokens: Option<u64>, hard: bool) -> Limit {
        Limit { hard, ..Limit::of(provider, tokens) }
    }

    /// A home of its own; the directory is removed when it is dropped.
    struct TestHome(Home);

    impl TestHome {
        fn new(name: &str) -> TestHome {
            let dir = std::env::temp_dir().join(format!("bb-set-{}-{name}", std::process::id()));
            TestHome(Home::open(&dir, None).unwrap())
        }
    }

    impl Drop for TestHome {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0.root);
        }
    }

    #[test]
    fn a_whole_file_is_read() {
        let home = TestHome::new("whole");
        std::fs::write(home.0.root.join("corp.pem"), "-----BEGIN CERTIFICATE-----\nAA==\n").unwrap();
        let text = "budget:\n  claude: 5000000   # plain\n  codex: {tokens: 1.5M, hard: true}\n  pi: unlimited\n  \"*\": 10M\n\
            shutdown: kill\ncutoff_scope: metered\nweights: {cache_read: 0.25}\ndurability: power\n\
            upstreams: {api.anthropic.com: {address: \"127.0.0.1:8443\", ca: corp.pem}}\n";
        std::fs::write(home.0.settings(), text).unwrap();
        let settings = Settings::load(&home.0).unwrap();
        assert_eq!(
            settings.budget,
            [
                limit("claude", Some(5_000_000), false),
                limit("codex", Some(1_500_000), true),
                limit("pi", None, false),
                limit("*", Some(10_000_000), false),
            ]
        );
        let per = |text: &str| parse(&format!("budget: {{claude: {{tokens: 5, {text}}}}}\n")).map(|s| s.budget[0].per);
        for (text, period) in [
            ("hard: true", None),
            ("per: day", Some(Period::Day)),
            ("per: week", Some(Period::Week)),
            ("per: month", Some(Period::Month)),
            ("lifetime: true", Some(Period::Lifetime)),
            ("lifetime: false", None),
        ] {
            assert_eq!(per(text), Ok(period), "{text}");
        }
        for text in ["per: hour", "per: lifetime", "lifetime: day", "per: day, lifetime: true"] {
            assert!(per(text).is_err(), "{text}");
        }
        assert_eq!((settings.shutdown, settings.cutoff_scope), (CutoffPolicy::Kill, CutScope::Metered));
        assert_eq!((settings.weights.cache_read, settings.durability), (250, Durability::Power));
        let upstream = &settings.upstreams["api.anthropic.com"];
        assert_eq!(upstream.address, "127.0.0.1:8443");
        assert!(upstream.ca_pem.as_ref().unwrap().contains("BEGIN CERTIFICATE"));
    }

    #[test]
    fn no_file_and_an_empty_file_are_the_defaults() {
        let home = TestHome::new("none");
        assert_eq!(Settings::load(&home.0), Ok(Settings::default()));
        for text in ["", "# nothing\n", "---\n", "~\n"] {
            assert_eq!(parse(text), Ok(Settings::default()), "{text:?}");
        }
        assert_eq!(parse("weights: raw\n").unwrap().weights, Weights::RAW);
    }

    #[test]
    fn every_problem_is_listed_with_its_line_and_the_nearest_key() {
        let text = "bugdet: {claude: 5}\nshutdown: halt\nbudget:\n  claude: {tokens: 5, per: year}\n  codex: 0.5\n  Pi: 3\n\
            weights: {cache_raed: 0.1, output: 0}\ndurability: maybe\nupstreams:\n  A.example: {address: example}\n  b: {}\n";
        assert_eq!(
            wrong(text),
            [
                "settings.yml:1 unknown_key: unknown key `bugdet`",
                "settings.yml:2 usage: `halt` is not a value of `shutdown`",
                "settings.yml:4 usage: `year` is not a value of `per`",
                "settings.yml:5 usage: `0.5` is not a whole number of tokens",
                "settings.yml:6 usage: `Pi` is not a provider's name",
                "settings.yml:7 unknown_key: unknown key `cache_raed`",
                "settings.yml:7 usage: the weight of `output` cannot be 0",
                "settings.yml:8 usage: `maybe` is not a value of `durability`",
                "settings.yml:10 usage: `A.example` is not a host name",
                "settings.yml:10 usage: `address` must be IP:PORT",
                "settings.yml:11 usage: the upstream of `b` does not say `address`",
            ]
        );
        // One error of all of them says each line once, and no kind but in its own field.
        let one = crate::yaml::read::joined(parse(text).unwrap_err());
        assert_eq!((one.kind, one.place.as_deref(), one.message.lines().count()), (Kind::UnknownKey, None, 12));
        assert!(one.message.starts_with("11 faults in settings.yml:\n  settings.yml:1: unknown key `bugdet` (did you"));
        assert!(!one.message.contains("usage:") && !one.message.contains("unknown_key:"), "{one}");
        let alone = parse("shutdown: maybe\n").unwrap_err();
        assert_eq!(crate::yaml::read::joined(alone.clone()), alone[0]);
        let hint = parse(text).unwrap_err()[0].hint.clone().unwrap();
        assert!(hint.contains("did you mean `budget`?"), "{hint}");
    }

    #[test]
    fn values_of_the_wrong_form_are_refused() {
        for text in [
            "budget: 5\n",
            "budget: [claude]\n",
            "budget: {claude: }\n",
            "budget: {claude: -1}\n",
            "budget: {claude: [1]}\n",
            "budget: {claude: {hard: true}}\n",
            "budget: {claude: {tokens: 1, hard: yes}}\n",
            "budget: {claude: {tokens: 1, lifetime: 1}}\n",
            "shutdown: {a: b}\n",
            "shutdown:\n",
            "weights: light\n",
            "upstreams: {a.b: \"127.0.0.1:1\"}\n",
            "image: debian:12\ndockerfile: images/mine.Dockerfile\n",
            "upstreams: {a.b: {address: \"127.0.0.1\"}}\n",
            "upstreams: {\"a.b:443\": {address: \"127.0.0.1:1\"}}\n",
            "upstreams: {a.b: {address: \"127.0.0.1:1\", ca: missing.pem}}\n",
            "- a\n",
            "just text\n",
            "a: &x 1\n",
            "budget:\n\tclaude: 1\n",
        ] {
            let problems = parse(text).unwrap_err();
            let whole = |e: &Error| e.place.is_some() && e.hint.as_ref().is_some_and(|hint| !hint.is_empty());
            assert!(!problems.is_empty() && problems.iter().all(whole), "{text:?}: {problems:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_not_the_defaults() {
        let home = TestHome::new("bad");
        std::fs::write(home.0.settings(), [0xff, 0xfe, b'a']).unwrap();
        let problem = Settings::load(&home.0).unwrap_err().remove(0);
        assert!(problem.kind == Kind::Usage && problem.hint.is_some(), "{problem:?}");
        std::fs::write(home.0.settings(), "#".repeat(yaml::MAX_BYTES + 10)).unwrap();
        assert!(Settings::load(&home.0).unwrap_err()[0].message.contains("bytes"));
        std::fs::remove_file(home.0.settings()).unwrap();
        std::fs::create_dir(home.0.settings()).unwrap();
        assert_eq!(Settings::load(&home.0).unwrap_err()[0].place.as_deref(), Some("settings.yml"));
        std::fs::remove_dir(home.0.settings()).unwrap();
        std::os::unix::fs::symlink("/nonexistent/settings.yml", home.0.settings()).unwrap();
        assert!(Settings::load(&home.0).unwrap_err()[0].message.contains("leads nowhere"));
    }

    #[test]
    fn the_page_about_the_file_has_every_key() {
        let page = include_str!("../docs/settings.md");
        let named: Vec<_> = page.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(named, KEYS);
        let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let known = |key: &&&str| example.lines().any(|l| l.starts_with(&format!("{key}:")));
        assert_eq!(KEYS.iter().filter(known).count(), 5);
    }
}

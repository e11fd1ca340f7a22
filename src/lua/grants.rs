//! What a recipe may do: the header `--- @bb needs launch, ledger:read`, who has to agree, and the check at each call.
//!
//! Shipped recipes and those in `$BB_HOME/recipes` run as declared. Others ask once at a terminal; without one they need
//! `--grant` or `BB_GRANT`. The header is read before line 1 runs. A call that the header does not name is refused even
//! where everything was granted: the header tells the truth or the recipe stops.

use std::fmt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::egress::name::Host;
use crate::error::{Error, Kind, Result, nearest};

/// One thing that a recipe needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// `launch`: bottles of its own, and everything on their handles.
    Launch,
    /// `start`: launching what the home's manifests allow, in the directory that the user stands in.
    Start,
    /// `budget`: setting the budget of its run.
    Budget,
    /// `ledger:read`: usage of other runs.
    LedgerRead,
    /// `egress:HOST`: routes to a host that no provider file names. `*` = any.
    Egress(String),
    /// `credential:NAME`: putting that variable of the host's environment into a route.
    Credential(String),
    /// `write:PATH`: a workspace at or below that path. `args` = paths that the user wrote as arguments.
    Write(String),
    /// `read:PATH`: reading at or below that path.
    Read(String),
    /// `run:NAME`: running that program on the host.
    Run(String),
    /// `image`: pulling images, and building Dockerfiles, that the recipe itself names.
    Image,
}

/// The words, for suggestions.
const WORDS: [&str; 10] = [
    "launch",
    "start",
    "budget",
    "ledger:read",
    "egress:HOST",
    "credential:NAME",
    "write:PATH",
    "read:PATH",
    "run:NAME",
    "image",
];

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Launch => f.write_str("launch"),
            Grant::Start => f.write_str("start"),
            Grant::Budget => f.write_str("budget"),
            Grant::LedgerRead => f.write_str("ledger:read"),
            Grant::Egress(host) => write!(f, "egress:{host}"),
            Grant::Credential(name) => write!(f, "credential:{name}"),
            Grant::Write(path) => write!(f, "write:{path}"),
            Grant::Read(path) => write!(f, "read:{path}"),
            Grant::Run(name) => write!(f, "run:{name}"),
            Grant::Image => f.write_str("image"),
        }
    }
}

impl Grant {
    /// Reads one word.
    ///
    /// # Errors
    /// `usage`, with the nearest known word.
    pub fn parse(word: &str) -> Result<Grant> {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let grant = match (name, value) {
            ("launch", "") => Grant::Launch,
            ("start", "") => Grant::Start,
            ("budget", "") => Grant::Budget,
            ("image", "") => Grant::Image,
            ("ledger", "read") => Grant::LedgerRead,
            ("egress", host) if !host.is_empty() => Grant::Egress(whereto(host)?),
            ("credential", name) if !name.is_empty() => Grant::Credential(name.into()),
            ("write", path) if !path.is_empty() => Grant::Write(path.into()),
            ("read", path) if !path.is_empty() => Grant::Read(path.into()),
            ("run", name) if !name.is_empty() => Grant::Run(name.into()),
            _ => {
                let near = nearest(word, WORDS).map_or_else(
                    || format!("known are: {}", WORDS.join(", ")),
                    |near| format!("did you mean '{near}'?"),
                );
                return Err(Error::new(Kind::Usage, format!("'{word}' is nothing that a recipe can need")).hint(near));
            }
        };
        Ok(grant)
    }

    /// Tells whether this one, granted, is enough for `asked`.
    fn covers(&self, asked: &Grant) -> bool {
        match (self, asked) {
            (Grant::Egress(have), Grant::Egress(want)) => reaches(have, want),
            (Grant::Write(have), Grant::Write(want)) | (Grant::Read(have), Grant::Read(want)) => holds(have, want),
            _ => self == asked,
        }
    }
}

/// Tells whether one path, as it was written, is or holds another. `args` is a word, and what goes upwards is held by
/// nothing but itself: where it leads is not known before it is looked at.
fn holds(have: &str, want: &str) -> bool {
    use std::path::Component;
    let path = |word: &str| -> Vec<String> {
        let parts = Path::new(word).components().filter(|part| *part != Component::CurDir);
        parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
    };
    let upwards = |word: &str| Path::new(word).components().any(|part| part == Component::ParentDir);
    have == want
        || have != "args" && want != "args" && !upwards(want) && !upwards(have) && {
            // A relative one holds no absolute one, nor the other way round, wherever it begins.
            let absolute = |word: &str| Path::new(word).is_absolute();
            absolute(have) == absolute(want) && path(want).starts_with(&path(have))
        }
}

/// Reads a list: words between commas or spaces.
///
/// # Errors
/// As [`Grant::parse`].
pub fn parse_list(text: &str) -> Result<Vec<Grant>> {
    text.split([',', ' ', '\t']).filter(|w| !w.is_empty()).map(Grant::parse).collect()
}

/// Writes a list as `--grant` takes it.
pub fn list(grants: &[Grant]) -> String {
    grants.iter().map(Grant::to_string).collect::<Vec<_>>().join(",")
}

/// Reads the header of a recipe: lines `--- @bb needs ...` in the comment that it begins with.
///
/// # Errors
/// `usage` for a header that cannot be understood, with its line.
pub fn header(source: &str, name: &str) -> Result<Vec<Grant>> {
    let mut grants = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let line = line.trim();
        if number == 0 && line.starts_with("#!") || line.is_empty() {
            continue;
        }
        let Some(comment) = line.strip_prefix("--") else { break };
        let Some(directive) = comment.trim_start_matches('-').trim_start().strip_prefix("@bb") else { continue };
        let at = |e: Error| e.at(format!("{name}:{}", number + 1));
        let Some(needs) = directive.trim_start().strip_prefix("needs") else {
            let e = Error::new(Kind::Usage, format!("the header line '@bb{directive}' is not known"));
            return Err(at(e.hint("write it as --- @bb needs launch, ledger:read")));
        };
        grants.extend(parse_list(needs).map_err(at)?);
    }
    Ok(grants)
}

/// Who agreed to what a recipe declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It came with bb, or the user put it into `$BB_HOME/recipes`.
    AsDeclared,
    /// Its grants were given with `--grant` or `BB_GRANT`.
    Given(Vec<Grant>),
    /// Nobody has agreed yet.
    Nobody,
}

/// What is known about a recipe before it runs.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The name it was called by.
    pub name: &'a str,
    /// What it declares.
    pub needs: &'a [Grant],
    /// Who agreed.
    pub trust: Trust,
}

/// Decides whether a recipe may run; `ask` is the terminal, where there is one.
///
/// # Errors
/// `not_granted`, with the exact flag that would grant it.
pub fn decide(question: &Question<'_>, ask: Option<&dyn Fn(&str) -> bool>) -> Result<()> {
    let Question { name, needs, trust } = question;
    let missing: Vec<&Grant> = match trust {
        Trust::AsDeclared => return Ok(()),
        Trust::Given(given) => needs.iter().filter(|n| !given.iter().any(|g| g.covers(n))).collect(),
        Trust::Nobody => needs.iter().collect(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    let words = missing.iter().map(|g| g.to_string()).collect::<Vec<_>>().join(", ");
    if let Some(ask) = ask
        && ask(&format!("{name} needs: {words}. Allow it?"))
    {
        return Ok(());
    }
    let flag = list(needs);
    Err(Error::new(Kind::NotGranted, format!("{name} needs what nobody granted: {words}"))
        .hint(format!("run `bb run {name} --grant {flag}`, or set BB_GRANT={flag}")))
}

/// What a running recipe may do.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    granted: Vec<Grant>,
    /// Where relative paths of the header begin.
    base: PathBuf,
}

impl Grants {
    /// Makes the set that a recipe declared and was allowed; its relative paths begin at `base`.
    pub fn new(granted: Vec<Grant>, base: PathBuf) -> Grants {
        Grants { granted, base }
    }

    /// Checks that `asked` was declared; `call` is what asked.
    ///
    /// # Errors
    /// `not_granted`, with the header line to write.
    pub fn need(&self, asked: &Grant, call: &str) -> Result<()> {
        if self.granted.iter().any(|g| g.covers(asked)) {
            return Ok(());
        }
        Err(self.refusal(asked, call))
    }

    /// Checks that a workspace at `path` (absolute, links resolved) was declared. `named` tells whether the user wrote it
    /// as an argument of the recipe.
    ///
    /// # Errors
    /// `not_granted`, with the header line to write.
    pub fn need_write(&self, path: &Path, named: bool, call: &str) -> Result<()> {
        let covered = self.granted.iter().any(|grant| match grant {
            Grant::Write(word) if word == "args" => named,
            Grant::Write(allowed) => {
                self.base.join(allowed).canonicalize().is_ok_and(|allowed| path.starts_with(allowed))
            }
            _ => false,
        });
        if covered { Ok(()) } else { Err(self.refusal(&Grant::Write(path.display().to_string()), call)) }
    }

    fn refusal(&self, asked: &Grant, call: &str) -> Error {
        let mut all = self.granted.clone();
        all.push(asked.clone());
        let all = all.iter().map(Grant::to_string).collect::<Vec<_>>().join(", ");
        Error::new(Kind::NotGranted, format!("{call} needs '{asked}', which the recipe's header does not ask for"))
            .hint(format!("begin the recipe with: --- @bb needs {all}"))
    }
}

/// Gets the one form of what `egress:` names: a host, a wildcard, any host, or a private range.
fn whereto(text: &str) -> Result<String> {
    let wrong = |why: String| {
        Error::new(Kind::Usage, format!("'egress:{text}' names no host: {why}"))
            .hint("write a host's name, `*.example.com`, `*`, or a range such as 10.0.0.0/8")
    };
    if text == "*" {
        return Ok(text.to_owned());
    }
    if text.contains('/') {
        return text.parse::<IpNet>().map(|net| net.to_string()).map_err(|e| wrong(e.to_string()));
    }
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    match Host::parse(name) {
        Ok(host) if !host.is_ip() => Ok(format!("{star}{host}")),
        Ok(_) => Err(wrong("it is an address".to_owned())),
        Err(why) => Err(wrong(why.to_string())),
    }
}

/// Tells whether a grant for `have` is one for the host, the wildcard or the private range `want`. A private range has to
/// be named itself: `*` is any host, and no host's name says that it leads home.
fn reaches(have: &str, want: &str) -> bool {
    if have == want {
        return true;
    }
    if want.contains('/') {
        return false;
    }
    have == "*" || have.strip_prefix('*').is_some_and(|suffix| want.len() > suffix.len() && want.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_comment_that_a_recipe_begins_with() {
        let source = "#!/usr/bin/env -S bb run\n\n-- A recipe.\n--- @bb needs launch, ledger:read\n--- @bb needs egress:GitHub.com\nlocal x\n--- @bb needs budget\n";
        let needs = header(source, "x.lua").unwrap();
        assert_eq!(needs, [Grant::Launch, Grant::LedgerRead, Grant::Egress("github.com".into())]);
        assert_eq!(header("local x = 1", "x.lua").unwrap(), []);
    }

    #[test]
    fn a_slip_in_the_header_is_refused_with_its_line() {
        let error = header("-- x\n--- @bb needs lanch\n", "x.lua").unwrap_err();
        assert_eq!((error.kind, error.place.as_deref()), (Kind::Usage, Some("x.lua:2")));
        assert_eq!(error.hint.as_deref(), Some("did you mean 'launch'?"));
        assert!(header("--- @bb wants launch", "x.lua").is_err());
    }

    #[test]
    fn a_host_is_granted_in_its_one_form() {
        let egress = |host: &str| Grant::parse(&format!("egress:{host}"));
        for (text, one) in [
            ("A.Example.", "a.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.Example.COM", "*.example.com"),
            ("*", "*"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("FD00::/8", "fd00::/8"),
        ] {
            assert_eq!(egress(text).unwrap(), Grant::Egress(one.into()), "{text}");
        }
        for text in ["*ample.com", "a.*.com", "127.1", "10.0.0.0/33", "https://a.example/", "a.example:443", "a..b"] {
            assert_eq!(egress(text).unwrap_err().kind, Kind::Usage, "{text}");
        }
    }

    fn question<'a>(needs: &'a [Grant], trust: Trust) -> Question<'a> {
        Question { name: "x.lua", needs, trust }
    }

    #[test]
    fn a_strange_recipe_needs_a_grant_and_the_refusal_prints_the_flag() {
        let needs = [Grant::Launch, Grant::LedgerRead];
        let error = decide(&question(&needs, Trust::Nobody), None).unwrap_err();
        assert_eq!(error.kind.exit_code(), 4);
        assert!(error.hint.unwrap().contains("bb run x.lua --grant launch,ledger:read"));
        assert!(decide(&question(&needs, Trust::Given(vec![Grant::Launch])), None).is_err());
        assert!(decide(&question(&needs, Trust::Given(needs.to_vec())), None).is_ok());
        assert!(decide(&question(&needs, Trust::AsDeclared), None).is_ok());
        assert!(decide(&question(&[], Trust::Nobody), None).is_ok());
    }

    #[test]
    fn a_granted_path_covers_what_lies_below_it() {
        let covers = |have: &str, want: &str| {
            let by = |make: fn(String) -> Grant| make(have.into()).covers(&make(want.into()));
            let both = (by(Grant::Write), by(Grant::Read));
            assert_eq!(both.0, both.1);
            both.0
        };
        for (have, want) in [
            ("/", "/tmp"),
            ("/", "/"),
            ("/tmp", "/tmp/a"),
            ("/tmp/", "/tmp"),
            (".", "./src"),
            ("./src", "src/a"),
            ("args", "args"),
            ("../x", "../x"),
        ] {
            assert!(covers(have, want), "{have} {want}");
        }
        for (have, want) in [
            ("/tmp", "/"),
            ("/tmp", "/tmpx"),
            ("/", "src"),
            (".", "/src"),
            ("/tmp", "/tmp/../etc"),
            (".", "../x"),
            (".", "args"),
            ("/", "args"),
            ("args", "args/x"),
        ] {
            assert!(!covers(have, want), "{have} {want}");
        }
        assert!(!Grant::Read("/".into()).covers(&Grant::Write("/tmp".into())));
    }

    #[test]
    fn at_a_terminal_the_answer_decides() {
        let needs = [Grant::Launch];
        assert!(decide(&question(&needs, Trust::Nobody), Some(&|q| q.contains("launch"))).is_ok());
        assert!(decide(&question(&needs, Trust::Nobody), Some(&|_| false)).is_err());
    }

    #[test]
    fn a_call_beyond_the_header_is_refused() {
        let grants = Grants::new(vec![Grant::Launch, Grant::Egress("a.example".into())], "/".into());
        assert!(grants.need(&Grant::Launch, "bb.launch").is_ok());
        assert!(grants.need(&Grant::Egress("a.example".into()), "bb.launch").is_ok());
        for (have, want, enough) in [
            ("*", "b.example", true),
            ("*", "10.0.0.0/8", false),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "*.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("a.example.com", "*.example.com", false),
        ] {
            assert_eq!(reaches(have, want), enough, "{have} {want}");
        }
        let error = grants.need(&Grant::Egress("b.example".into()), "bb.launch").unwrap_err();
        assert_eq!(error.kind, Kind::NotGranted);
        assert!(error.hint.unwrap().contains("--- @bb needs launch, egress:a.example, egress:b.example"));
    }

    #[test]
    fn a_workspace_must_lie_where_the_header_says() {
        let dir = std::env::temp_dir().canonicalize().unwrap().join(format!("bb-grants-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("src/deep")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("src/link")).unwrap();
        let grants = Grants::new(vec![Grant::Write("./src".into())], dir.clone());
        assert!(grants.need_write(&dir.join("src/deep"), false, "bb.launch").is_ok());
        assert!(grants.need_write(&dir, false, "bb.launch").is_err());
        let escaped = dir.join("src/link").canonicalize().unwrap();
        assert!(grants.need_write(&escaped, false, "bb.launch").is_err());
        let by_args = Grants::new(vec![Grant::Write("args".into())], dir.clone());
        assert!(by_args.need_write(&dir, true, "bb.launch").is_ok());
        assert!(by_args.need_write(&dir, false, "bb.launch").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

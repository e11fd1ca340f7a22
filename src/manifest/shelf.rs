//! Where manifests lie: `$BB_HOME` and, for agents alone, the `.bot-bottle` of a repository.
//!
//! The host's files win over a repository's of the same name. What else a repository puts there counts for nothing, and
//! is named in a warning. Links in a repository are not followed: the body of an agent reaches the bottle, and a link
//! could make it any file of the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Agent, Bottle, Reader, front};
use crate::error::{Error, Kind, nearest};
use crate::home::Home;
use crate::name::Name;
use crate::yaml::Problems;

/// The directory in a repository.
pub const REPOSITORY: &str = ".bot-bottle";

/// What counts for nothing in a repository.
const WITHOUT_EFFECT: [&str; 6] = ["bottles", "settings.yml", "policies", "providers", "flows", "recipes"];

/// Most files of one directory that are looked at.
const MOST_FILES: usize = 4096;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The host's: it may allow.
    Home,
    /// A repository's: it may only lower.
    Repository,
}

/// The places that manifests are taken from.
#[derive(Clone, Debug)]
pub struct Shelf {
    home: PathBuf,
    user_home: Option<PathBuf>,
    repository: Option<PathBuf>,
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose it is.
    pub origin: Origin,
    /// Where it lies.
    pub path: PathBuf,
}

impl Shelf {
    /// Opens the shelf of `home` for somebody who stands in `cwd`.
    pub fn open(home: &Home, user_home: Option<&Path>, cwd: &Path) -> Shelf {
        Shelf {
            home: home.root.clone(),
            user_home: user_home.map(Path::to_owned),
            repository: repository(cwd, &home.root).map(|top| top.join(REPOSITORY)),
        }
    }

    /// Gets the agents by name; of two with the same name the host's.
    pub fn agents(&self) -> BTreeMap<Name, Found> {
        let mut found = BTreeMap::new();
        if let Some(dir) = self.repository_agents() {
            found.extend(files(&dir, Origin::Repository));
        }
        found.extend(files(&self.home.join("agents"), Origin::Home));
        found
    }

    /// Gets the bottles by name.
    pub fn bottles(&self) -> BTreeMap<Name, Found> {
        files(&self.home.join("bottles"), Origin::Home).collect()
    }

    /// Reads an agent's manifest.
    ///
    /// # Errors
    /// `usage` where there is none of that name; else everything that is wrong with the file.
    pub fn agent(&self, name: &str) -> Result<Agent, Vec<Error>> {
        let agents = self.agents();
        let Some(found) = agents.get(name) else {
            return Err(vec![missing("agent", name, agents.keys(), "bb setup writes a first one")]);
        };
        self.read_agent(found)
    }

    /// Reads a bottle's manifest.
    ///
    /// # Errors
    /// As [`Shelf::agent`].
    pub fn bottle(&self, name: &str) -> Result<Bottle, Vec<Error>> {
        let bottles = self.bottles();
        let Some(found) = bottles.get(name) else { return Err(vec![no_bottle(name, &bottles)]) };
        self.read_bottle(&found.path)
    }

    /// Checks that there is a bottle's manifest of that name, whatever is in it.
    ///
    /// # Errors
    /// `usage` where there is none.
    pub fn has_bottle(&self, name: &str) -> Result<(), Error> {
        let bottles = self.bottles();
        if bottles.contains_key(name) { Ok(()) } else { Err(no_bottle(name, &bottles)) }
    }

    /// Reads the file of an agent.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read_agent(&self, found: &Found) -> Result<Agent, Vec<Error>> {
        whole(self.parse_agent(found))
    }

    /// Reads what can be read of an agent's file, with everything that is wrong with it. Only to look for more faults.
    pub fn parse_agent(&self, found: &Found) -> (Option<Agent>, Vec<Error>) {
        let file = self.shown(&found.path);
        let mut problems = Problems::new(&file);
        let front = front::read(&found.path, found.origin == Origin::Home, &mut problems);
        let agent = front.map(|front| Agent::read(front, found.origin, Reader { file: &file }, &mut problems));
        (agent, problems.into_result(()).err().unwrap_or_default())
    }

    /// Reads the file of a bottle.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read_bottle(&self, path: &Path) -> Result<Bottle, Vec<Error>> {
        whole(self.parse_bottle(path))
    }

    /// As [`Shelf::parse_agent`], of a bottle's file.
    pub fn parse_bottle(&self, path: &Path) -> (Option<Bottle>, Vec<Error>) {
        let file = self.shown(path);
        let mut problems = Problems::new(&file);
        let front = front::read(path, true, &mut problems);
        let bottle = front.map(|front| Bottle::read(front, Reader { file: &file }, &mut problems));
        (bottle, problems.into_result(()).err().unwrap_or_default())
    }

    /// Tells whose a file is: what is not in `$BB_HOME` is a repository's.
    pub fn origin(&self, path: &Path) -> Origin {
        let inside =
            path.parent().and_then(|dir| dir.canonicalize().ok()).is_some_and(|dir| dir.starts_with(&self.home));
        if inside { Origin::Home } else { Origin::Repository }
    }

    /// Names what lies where manifests are looked for and counts for nothing, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(dir) = &self.repository {
            let there = |name: &&&str| dir.join(name).symlink_metadata().is_ok();
            for name in WITHOUT_EFFECT.iter().filter(there) {
                let path = self.shown(&dir.join(name));
                warnings
                    .push(format!("{path} counts for nothing: a repository can ship agents, and only $BB_HOME allows"));
            }
            if self.repository_agents().is_none() && dir.join("agents").symlink_metadata().is_ok() {
                let path = self.shown(&dir.join("agents"));
                warnings.push(format!("{path} counts for nothing: it is a link, or no directory"));
            }
            let ours: BTreeMap<_, _> = files(&self.home.join("agents"), Origin::Home).collect();
            for (name, found) in self.repository_agents().into_iter().flat_map(|dir| files(&dir, Origin::Repository)) {
                if ours.contains_key(&name) {
                    let path = self.shown(&found.path);
                    warnings.push(format!("{path} counts for nothing: $BB_HOME/agents has an agent of that name"));
                }
            }
        }
        for dir in ["agents", "bottles"].map(|dir| self.home.join(dir)).into_iter().chain(self.repository_agents()) {
            for path in entries(&dir).filter(|path| path.extension().is_some_and(|e| e == "md")) {
                if let Err(e) = Name::of_file(&path) {
                    warnings.push(format!("{} counts for nothing: {e}", self.shown(&path)));
                }
            }
        }
        warnings
    }

    /// Gets what a path is called in messages: `~` for the user's home.
    pub fn shown(&self, path: &Path) -> String {
        let below = self.user_home.as_deref().and_then(|home| path.strip_prefix(home).ok());
        let text = below.map_or_else(|| path.display().to_string(), |below| format!("~/{}", below.display()));
        text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] }).collect()
    }

    /// Gets the repository's agents, if neither `.bot-bottle` nor `agents` is a link.
    fn repository_agents(&self) -> Option<PathBuf> {
        let dir = self.repository.as_ref()?;
        let agents = dir.join("agents");
        let plain = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        (plain(dir) && plain(&agents)).then_some(agents)
    }
}

/// Finds the top of the repository that `cwd` is in, else `cwd` itself; only one that has a `.bot-bottle`, and never the
/// one that is `$BB_HOME`.
fn repository(cwd: &Path, home: &Path) -> Option<PathBuf> {
    let top = cwd.ancestors().find(|dir| dir.join(".git").symlink_metadata().is_ok()).unwrap_or(cwd);
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let theirs = top.join(REPOSITORY);
    (theirs.symlink_metadata().is_ok() && id(&theirs) != id(home)).then(|| top.to_owned())
}

/// Gets what a directory has, in order.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().take(MOST_FILES).map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

/// Gets the manifests of a directory.
fn files(dir: &Path, origin: Origin) -> impl Iterator<Item = (Name, Found)> + use<> {
    entries(dir)
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .filter_map(move |path| Some((Name::of_file(&path).ok()?, Found { origin, path })))
}

fn missing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a Name>, else_: &str) -> Error {
    let known: Vec<&str> = known.map(Name::as_str).collect();
    let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? there are: {}", known.join(", ")),
        None if known.is_empty() => format!("there is none yet; {else_}"),
        None => format!("there are: {}", known.join(", ")),
    };
    Error::new(Kind::Usage, format!("there is no {what} `{shown}`")).hint(hint)
}

fn no_bottle(name: &str, known: &BTreeMap<Name, Found>) -> Error {
    missing("bottle manifest", name, known.keys(), "bb setup writes a first one")
}

/// Gets what was read where nothing is wrong with it.
fn whole<T>((value, faults): (Option<T>, Vec<Error>)) -> Result<T, Vec<Error>> {
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        None if faults.is_empty() => Err(vec![Error::internal("a manifest was not read, and no reason was given")]),
        _ => Err(faults),
    }
}

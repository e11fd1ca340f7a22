//! Skills: directories of the host that are copied into the bottle, where the agent's CLI looks for them.
//!
//! Taken from `$BB_HOME/skills` and `~/.claude/skills`; never from a repository. Links are refused: a skill is handed to
//! an agent, and a link could make it any file of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::api::File;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::manifest::Said;
use crate::name::Name;

/// Most files, and most bytes, of all skills of a launch.
const MOST_FILES: usize = 512;
const MOST_BYTES: u64 = 2 << 20;

/// Deepest directory of a skill.
const DEEPEST: usize = 8;

/// Where skills lie in a bottle whose provider knows none.
const ELSEWHERE: &str = "~/skills";

/// One file of a skill.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SkillFile {
    /// Below the directory of skills: `NAME/SKILL.md`.
    path: String,
    text: String,
    executable: bool,
}

impl SkillFile {
    /// Makes it a file of a launch, below the directory that the provider's CLI reads.
    pub fn at(self, directory: Option<&str>) -> File {
        let directory = directory.unwrap_or(ELSEWHERE).trim_end_matches('/');
        let mode = if self.executable { 0o755 } else { 0o644 };
        File { path: format!("{directory}/{}", self.path), text: self.text, mode: Some(mode), fill: false }
    }
}

/// Reads the skills that are named.
///
/// # Errors
/// `usage` where one is not there, or is not what may be handed over.
pub(super) fn collect(skills: &[Said<Name>], home: &Home, user_home: Option<&Path>) -> Result<Vec<SkillFile>> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for skill in skills {
        let dir = find(skill, home, user_home)?;
        walk(&dir, skill.value.as_str(), 0, &mut files, &mut bytes).map_err(|e| match e.hint {
            None => e.hint("take it out of the skill"),
            Some(_) => e,
        })?;
    }
    Ok(files)
}

/// Finds the directory of a skill.
///
/// # Errors
/// `usage` where none is there.
pub(super) fn find(skill: &Said<Name>, home: &Home, user_home: Option<&Path>) -> Result<PathBuf> {
    let name = skill.value.as_str();
    let shelves = [Some(home.root.join("skills")), user_home.map(|home| home.join(".claude/skills"))];
    let places: Vec<PathBuf> = shelves.into_iter().flatten().map(|shelf| shelf.join(name)).collect();
    places.iter().find(|dir| dir.is_dir()).cloned().ok_or_else(|| {
        let at: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Error::new(Kind::Usage, format!("there is no skill `{name}`"))
            .at(skill.place.to_string())
            .hint(format!("make the directory {}", at.join(" or ")))
    })
}

fn walk(dir: &Path, path: &str, depth: usize, files: &mut Vec<SkillFile>, bytes: &mut u64) -> Result<()> {
    let wrong = |path: &Path, message: String| Err(Error::new(Kind::Usage, message).at(path.display().to_string()));
    if depth > DEEPEST {
        return wrong(dir, format!("a skill has at most {DEEPEST} levels of directories"));
    }
    let unreadable = |e: std::io::Error, path: &Path| {
        Error::new(Kind::Usage, format!("the skill cannot be read: {e}")).at(path.display().to_string())
    };
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(|e| unreadable(e, dir))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .map_err(|e| unreadable(e, dir))?;
    entries.sort();
    for entry in entries {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
            return wrong(&entry, "the name of a skill's file is not UTF-8".to_owned());
        };
        let inside = format!("{path}/{name}");
        let meta = fs::symlink_metadata(&entry).map_err(|e| unreadable(e, &entry))?;
        if meta.is_dir() {
            walk(&entry, &inside, depth + 1, files, bytes)?;
            continue;
        }
        if !meta.is_file() {
            return wrong(&entry, "a skill has files and directories only, no links".to_owned());
        }
        *bytes += meta.len();
        if files.len() >= MOST_FILES || *bytes > MOST_BYTES {
            return wrong(&entry, format!("the skills of a launch have at most {MOST_FILES} files and 2 MiB"));
        }
        let content = fs::read(&entry).map_err(|e| unreadable(e, &entry))?;
        let Ok(text) = String::from_utf8(content) else {
            return wrong(&entry, "a skill's file is not text".to_owned());
        };
        files.push(SkillFile { path: inside, text, executable: meta.permissions().mode() & 0o100 != 0 });
    }
    Ok(())
}

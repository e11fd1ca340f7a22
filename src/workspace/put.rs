//! What a launch puts into the kept places of a session (skills, settings of a CLI): files that an earlier launch put there, and this
//! one does not, are taken away. Touches nothing that it did not put there, and follows no link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::kept::replace;
use crate::api::{File, Session};
use crate::os::beneath::{Dir, Kind};

/// Beside the places, where no bottle sees it.
const FILE: &str = "put.json";

/// Takes away what an earlier launch put into `places` and `files` do not have any more, and remembers `files`. `places` are
/// those of [`super::session::prepare`].
///
/// # Errors
/// Those of writing; what cannot be taken away is logged.
pub fn renew(places: &[(PathBuf, PathBuf)], session: &Session, files: &[File]) -> io::Result<()> {
    let Some(beside) = places.first().and_then(|(place, _)| place.parent()) else { return Ok(()) };
    let list = beside.join(FILE);
    let now: BTreeSet<&str> =
        files.iter().map(|file| file.path.as_str()).filter(|path| within(path, &session.keep).is_some()).collect();
    let before: BTreeSet<String> =
        fs::read(&list).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    for gone in before.iter().filter(|path| !now.contains(path.as_str())) {
        let Some((number, below)) = within(gone, &session.keep) else { continue };
        if let Some((place, _)) = places.get(number)
            && let Err(e) = take_away(place, below)
        {
            tracing::warn!(place = %place.display(), path = %gone, "a file of an earlier launch stays: {e}");
        }
    }
    replace(&list, &serde_json::to_vec(&now)?)
}

/// Gets the place that a path lies in, and its way below it.
fn within<'p>(path: &'p str, keep: &[String]) -> Option<(usize, &'p Path)> {
    keep.iter().enumerate().find_map(|(number, place)| {
        let below = Path::new(path).strip_prefix(place).ok()?;
        (below.components().count() > 0).then_some((number, below))
    })
}

/// Removes a file, and the directories above it that are empty then.
fn take_away(place: &Path, below: &Path) -> io::Result<()> {
    let root = Dir::open(place)?;
    let mut path = below;
    let mut is_file = true;
    loop {
        let (parent, name): (Dir, &OsStr) = match root.parent(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        match parent.stat(name)? {
            Some(stat) if is_file && stat.kind != Kind::Directory => parent.remove(name)?,
            // Whatever it is now, it is not what was put there.
            Some(_) if is_file => return Ok(()),
            // Not empty: somebody else's.
            Some(_) if parent.remove_dir(name).is_err() => return Ok(()),
            _ => {}
        }
        is_file = false;
        path = match path.parent() {
            Some(above) if above.components().count() > 0 => above,
            _ => return Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_launch_put_there_goes_and_nothing_else() {
        let keep = std::env::temp_dir().join(format!("bb-put-{}", std::process::id()));
        let _ = fs::remove_dir_all(&keep);
        let places = [(keep.join("0"), PathBuf::from(".cli"))];
        let session = Session { keep: vec!["~/.cli".into()], ..Session::default() };
        let file = |path: &str| File { path: path.into(), text: String::new(), mode: None, fill: false };
        for path in [
            "skills/old/SKILL.md",
            "skills/old/more/x",
            "skills/own/SKILL.md",
            "settings",
            "skills/both/SKILL.md",
            "skills/both/mine",
        ] {
            fs::create_dir_all(keep.join("0").join(path).parent().unwrap()).unwrap();
            fs::write(keep.join("0").join(path), "x").unwrap();
        }
        let put = [
            "~/.cli/settings",
            "~/.cli/skills/old/SKILL.md",
            "~/.cli/skills/old/more/x",
            "~/.cli/skills/both/SKILL.md",
            "~/.else",
        ];
        renew(&places, &session, &put.map(file)).unwrap();
        assert!(keep.join("0/skills/old/SKILL.md").exists(), "it is put there now");
        // Something else may lie there meanwhile.
        let outside = keep.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("SKILL.md"), "x").unwrap();
        fs::remove_file(keep.join("0/skills/both/SKILL.md")).unwrap();
        std::os::unix::fs::symlink(outside.join("SKILL.md"), keep.join("0/skills/both/SKILL.md")).unwrap();
        renew(&places, &session, &[file("~/.cli/settings")]).unwrap();
        let there = |path: &str| keep.join("0").join(path).symlink_metadata().is_ok();
        assert!(!there("skills/old") && !there("skills/both/SKILL.md"));
        assert!(there("skills/own/SKILL.md") && there("skills/both/mine") && there("settings"));
        assert!(outside.join("SKILL.md").exists());
        // A directory that became a link leads nowhere.
        renew(&places, &session, &[file("~/.cli/skills/x/SKILL.md")]).unwrap();
        std::os::unix::fs::symlink(&outside, keep.join("0/skills/x")).unwrap();
        renew(&places, &session, &[]).unwrap();
        assert!(outside.join("SKILL.md").exists());
        fs::remove_dir_all(&keep).unwrap();
    }
}

//! The agent's own session: what of it outlives the bottle, so that the bottle can be taken up again.
//!
//! Places of the agent's home that its CLI keeps a session in are directories of the bottle's state, shown in the bottle. So
//! whatever ends the bottle, they are there. What is needed to start it again is written beside them. Nothing is looked
//! into: what an agent wrote there is read by nobody but its own CLI, in a bottle.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kept::{replace, turn};
use crate::api::{Counted, Ended, Session};
use crate::error::{Error, Kind, Result};
use crate::os::beneath;

const FILE: &str = "session.json";

/// The directory of the kept places.
const KEEP: &str = "keep";

/// What is saved of the agent's home beside them, of a container.
const HOME: &str = "home.tar";

/// Most places of one session.
const MOST: usize = 16;

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    /// Version of this form.
    v: u32,
    /// The launch that it is of.
    id: String,
    /// What the front end said.
    session: Session,
    /// The bottle has ended, and its session can be taken up.
    kept: bool,
    /// Somebody wants it kept, whatever end the bottle comes to.
    #[serde(default)]
    committed: bool,
    /// The launches that its budgets are counted from; its own where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<Counted>,
}

impl Stored {
    fn read(state: &Path) -> Option<Stored> {
        let text = fs::read(state.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok().filter(|stored: &Stored| stored.v == 1)
    }

    fn write(&self, state: &Path) -> io::Result<()> {
        replace(&state.join(FILE), &serde_json::to_vec(self)?)
    }
}

/// Makes the places of a session, or takes up those that are there; gets each with its path below the agent's home.
/// `owner` is the agent on the host, where that is somebody else than who makes them.
///
/// # Errors
/// `usage` for a place that is none, `internal` for what the system says.
pub fn prepare(
    state: &Path,
    id: &str,
    counted: &Counted,
    session: &Session,
    owner: Option<(u32, u32)>,
) -> Result<Vec<(PathBuf, PathBuf)>> {
    let fail = |e: io::Error| Error::internal(e.to_string()).at(state.display().to_string());
    if session.keep.len() > MOST {
        return Err(Error::new(Kind::Usage, format!("a session has at most {MOST} places")));
    }
    let made = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(fail(e)),
        _ => Ok(()),
    };
    made(&state.join(KEEP))?;
    let mut places = Vec::new();
    for (number, path) in session.keep.iter().enumerate() {
        let below = path.strip_prefix("~/").map(Path::new).filter(|below| {
            let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
            below.components().count() > 0 && below.components().all(plain)
        });
        let below = below.ok_or_else(|| {
            Error::new(Kind::Usage, "a place of a session lies in the agent's home")
                .at(path.clone())
                .hint("write `~/...`")
        })?;
        let place = state.join(KEEP).join(number.to_string());
        made(&place)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&place, Some(uid), Some(gid)).map_err(fail)?;
        }
        places.push((place, below.to_owned()));
    }
    let archive = home_archive(state);
    let _ = fs::remove_file(archive.with_extension("part"));
    if let (Some((uid, gid)), true) = (owner, archive.exists()) {
        std::os::unix::fs::lchown(&archive, Some(uid), Some(gid)).map_err(fail)?;
    }
    let stored = Stored {
        v: 1,
        id: id.to_owned(),
        session: session.clone(),
        kept: false,
        committed: false,
        counted: Some(counted.clone()),
    };
    stored.write(state).map_err(fail)?;
    Ok(places)
}

/// Where the agent's home is saved.
pub fn home_archive(state: &Path) -> PathBuf {
    state.join(HOME)
}

/// Remembers that the session of the launch `id` is to be kept, whatever end its bottle comes to.
///
/// # Errors
/// `internal` where that cannot be written down.
pub fn commit(state: &Path, id: &str) -> Result<()> {
    let _turn = turn();
    let fail = |e: io::Error| Error::internal(e.to_string()).at(state.display().to_string());
    let stored = Stored::read(state).filter(|stored| stored.id == id);
    let stored = stored.ok_or_else(|| fail(io::Error::other("what is remembered of the session cannot be read")))?;
    (Stored { committed: true, ..stored }).write(state).map_err(fail)
}

/// Reads the session of a bottle that can be taken up again.
pub fn of(state: &Path) -> Option<Session> {
    Stored::read(state).filter(|stored| stored.kept).map(|stored| stored.session)
}

/// Reads the launch that a kept session is of, and those that its budgets are counted from.
pub fn counted(state: &Path) -> Option<(String, Counted)> {
    let stored = Stored::read(state).filter(|stored| stored.kept)?;
    let counted = stored.counted.unwrap_or_else(|| Counted::of(&stored.id));
    Some((stored.id, counted))
}

/// Tells whether one is remembered, kept or not.
pub(super) fn is_there(state: &Path) -> bool {
    state.join(FILE).symlink_metadata().is_ok()
}

/// Tells whether one is remembered that this bb cannot read.
pub(super) fn is_unreadable(state: &Path) -> bool {
    is_there(state) && Stored::read(state).is_none()
}

/// Tells whether a session is kept.
pub fn is_kept(state: &Path) -> bool {
    Stored::read(state).is_some_and(|stored| stored.kept)
}

/// Tells whether the session that is kept is that of the launch `id`.
pub fn is_kept_of(state: &Path, id: &str) -> bool {
    Stored::read(state).is_some_and(|stored| stored.kept && stored.id == id)
}

/// Tells whether an end is one after which a session is kept: it was frozen, or it failed. A session that came to its own
/// good end is over, and one that was killed was to save nothing.
pub fn outlives(ended: Ended, code: Option<i32>) -> bool {
    match ended {
        Ended::Frozen | Ended::Timeout | Ended::Policy | Ended::Oom | Ended::Lost | Ended::HostRestart => true,
        // One that was taken up and did not start is what it was.
        Ended::LeaseLost | Ended::StartFailed => true,
        Ended::Exited => code != Some(0),
        Ended::Killed | Ended::Budget => false,
    }
}

/// Decides whether the session of a bottle that has ended is kept: with `wanted`, where it has begun. Else it is removed.
pub fn settle(state: &Path, wanted: bool, always: bool) -> bool {
    let _turn = turn();
    settle_in_turn(state, wanted, always)
}

/// [`settle`], for whoever has the turn.
pub(super) fn settle_in_turn(state: &Path, wanted: bool, always: bool) -> bool {
    let Some(stored) = Stored::read(state) else { return false };
    let begun = || {
        let places = fs::read_dir(state.join(KEEP)).into_iter().flatten().flatten();
        places
            .map(|place| place.path())
            .any(|place| fs::read_dir(place).is_ok_and(|mut inside| inside.next().is_some()))
    };
    let _ = fs::remove_file(home_archive(state).with_extension("part"));
    if stored.committed || wanted && (always || begun()) {
        if !stored.kept
            && let Err(e) = (Stored { kept: true, ..stored }).write(state)
        {
            tracing::error!(state = %state.display(), "keeping a session: {e}");
        }
        return true;
    }
    let _ = beneath::remove_all(&state.join(KEEP));
    let _ = fs::remove_file(home_archive(state));
    let _ = fs::remove_file(state.join(FILE));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(keep: &[&str]) -> Session {
        Session { keep: keep.iter().map(|path| (*path).to_owned()).collect(), ..Session::default() }
    }

    #[test]
    fn a_session_is_kept_where_it_has_begun_and_did_not_end_well() {
        let state = std::env::temp_dir().join(format!("bb-session-{}", std::process::id()));
        let _ = fs::remove_dir_all(&state);
        fs::create_dir_all(&state).unwrap();
        let places = prepare(&state, "a", &Counted::of("a"), &session(&["~/.cli/sessions"]), None).unwrap();
        assert_eq!(places[0].1, Path::new(".cli/sessions"));
        assert!(of(&state).is_none(), "it runs");
        // Nothing was written yet: only a freeze keeps it.
        assert!(settle(&state, true, true) && is_kept_of(&state, "a") && !is_kept_of(&state, "b"));
        let places = prepare(&state, "b", &Counted::of("b"), &session(&["~/.cli/sessions"]), None).unwrap();
        assert!(!is_kept(&state));
        fs::write(places[0].0.join("1.jsonl"), "{}").unwrap();
        assert!(settle(&state, true, false));
        assert!(prepare(&state, "c", &Counted::of("c"), &of(&state).unwrap(), None).is_ok());
        assert!(places[0].0.join("1.jsonl").exists(), "what was written is there again");
        assert!(!settle(&state, false, false) && !places[0].0.exists());
        for wrong in ["/etc", "~/../x", "~/", "sessions"] {
            assert_eq!(
                prepare(&state, "d", &Counted::of("d"), &session(&[wrong]), None).unwrap_err().kind,
                Kind::Usage,
                "{wrong}"
            );
        }
        fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn what_was_killed_or_ended_well_is_not_kept() {
        assert!(outlives(Ended::Frozen, None) && outlives(Ended::Exited, Some(1)) && outlives(Ended::Timeout, None));
        assert!(!outlives(Ended::Exited, Some(0)) && !outlives(Ended::Killed, None) && !outlives(Ended::Budget, None));
    }
}

//! The name of a bottle that is about to be: a slug that nobody else has, or the one that it had before.
//!
//! Whoever gets a name has claimed it. Makes the state directory and nothing in it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::PoisonError;

use crate::controller::Controller;
use crate::error::{Error, Kind, Result};

/// Longest slug; a socket's path has to hold it.
const SLUG_MAX: usize = 40;

impl Controller {
    /// Takes the name and the state of a bottle whose session is kept.
    pub(super) fn take_up(&self, name: &str) -> Result<String> {
        let slug = self.resumable(name)?;
        let mut bottles = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.host.home.state(&slug);
        let free = bottles.get(&slug).is_none_or(|live| live.has_ended());
        // It is looked at again under the claim: somebody else may have been first.
        if !free || !self.making.claim(&slug, || crate::workspace::session::is_kept(&state)) {
            return Err(Error::new(Kind::Usage, format!("`{slug}` runs")).hint(format!("`bb attach {slug}`")));
        }
        bottles.remove(&slug);
        Ok(slug)
    }

    /// Makes a slug from a label: lower-case letters, digits and dashes, unique among what runs or is kept.
    pub(super) fn choose_slug(&self, label: &str) -> Result<String> {
        let mut base = String::new();
        for c in label.chars().take(SLUG_MAX - 5) {
            match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => base.push(c),
                _ if !base.ends_with('-') && !base.is_empty() => base.push('-'),
                _ => {}
            }
        }
        let base = base.trim_end_matches('-');
        let base = match base.chars().next() {
            Some(c) if c.is_ascii_lowercase() => base.to_owned(),
            _ => format!("bottle-{base}").trim_end_matches('-').to_owned(),
        };
        let state = |slug: &str| self.host.home.state(slug);
        let make = |path: &Path, parents: bool| DirBuilder::new().mode(0o700).recursive(parents).create(path).is_ok();
        let taken = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
        (1..10_000)
            .map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") })
            // Making the directory claims the name: two launches at once cannot both have it.
            .find(|slug| {
                !taken.contains_key(slug)
                    && state(slug).parent().is_some_and(|p| p.exists() || make(p, true))
                    && self.making.claim(slug, || make(&state(slug), false))
            })
            .ok_or_else(|| Error::internal("no free name for the bottle").hint("choose another label"))
    }
}

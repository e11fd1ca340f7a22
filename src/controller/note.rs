//! What controllers want each other to know of a bottle: decisions that have taken effect and may not have been written.
//!
//! The keeper holds it and hands it over as it is. The ledger's rows say the same; a controller that dies between a
//! decision and its row, or whose disk was full, still leaves the decision behind.

use serde::{Deserialize, Serialize};

use crate::api::{Credentials, Cut, Ended, Route};
use crate::enforce::By;
use crate::ledger::{Node, Standing};
use crate::types::CutScope;

/// The note of one bottle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// It is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// It is paused for a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Its allow-list is another one than it was launched with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Rules>,
    /// It is being taken down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// The budget that a bottle is paused for, as it stood then: when it has more, the bottle goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Paused(Standing);

impl Paused {
    /// For a budget that stands so.
    pub fn by(standing: &Standing) -> Paused {
        Paused(standing.clone())
    }

    /// Tells whether this is that budget.
    pub fn is_for(&self, standing: &Standing) -> bool {
        (&self.0.node, &self.0.provider) == (&standing.node, &standing.provider)
    }

    /// Tells whether it has got more since: also where the request that waited for it has used that up by now.
    pub fn has_more(&self, now: &Standing) -> bool {
        let left = |standing: &Standing| standing.limit.saturating_sub(standing.used);
        let raised_and_used = now.limit > self.0.limit && now.used > self.0.used;
        left(now) > left(&self.0) || now.resets > self.0.resets || raised_and_used
    }
}

/// An allow-list, with what it puts in. Secret, as what the keeper has sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Every route.
    pub routes: Vec<Route>,
    /// The list that is to come and is not written yet: it has to allow as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<Route>>,
    /// Values of credentials that the launch did not have.
    #[serde(default)]
    pub credentials: Credentials,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("routes", &self.routes).finish_non_exhaustive()
    }
}

/// An end that somebody decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How it will have ended.
    pub ended: Ended,
    /// For people.
    pub reason: String,
    /// Who decided.
    pub by: String,
    /// The node whose budget is spent, where it was a budget.
    pub node: Option<Node>,
}

impl Note {
    /// Reads a note; one that cannot be read says nothing.
    pub fn read(text: Option<&str>) -> Note {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Enters a cut beside the one that stands: the wider scope holds, and the word of whoever weighs more, which is what decides
    /// how it can be lifted. Tells whether that changes anything.
    pub fn enter(&mut self, cut: &Cut) -> bool {
        let Some(stands) = &self.cut else {
            self.cut = Some(cut.clone());
            return true;
        };
        let all = stands.scope == CutScope::All || cut.scope == CutScope::All;
        let scope = if all { CutScope::All } else { CutScope::Metered };
        let (was, is) = (By::weight(&stands.by), By::weight(&cut.by));
        let says = if is > was || is == was && scope != stands.scope { cut } else { stands };
        let both = Cut { scope, ..says.clone() };
        let changes = both != *stands;
        self.cut = Some(both);
        changes
    }

    /// Writes it.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_and_none_says_nothing() {
        let cut = Cut {
            scope: CutScope::All,
            reason: "cut".into(),
            by: "operator".into(),
            node: None,
            provider: None,
            left: None,
        };
        let routes = Rules { routes: vec![Route { host: "a.example".into(), ..Route::default() }], ..Rules::default() };
        let standing =
            Standing { node: "global".into(), provider: "*".into(), used: 90, limit: 100, ..Standing::default() };
        let paused = Paused::by(&standing);
        let note = Note { cut: Some(cut), paused: Some(paused), routes: Some(routes), end: None };
        assert_eq!(Note::read(Some(&note.text())), note);
        assert_eq!(Note::read(None), Note::default());
        assert_eq!(Note::read(Some("{")), Note::default());
    }

    #[test]
    fn a_paused_bottle_goes_on_by_more_of_the_budget_that_it_is_paused_for() {
        let was = Standing {
            node: "global".into(),
            provider: "*".into(),
            used: 90,
            limit: 100,
            resets: Some(5),
            wanted: 20,
            ..Standing::default()
        };
        let paused = Paused::by(&was);
        assert!(paused.is_for(&was) && !paused.is_for(&Standing { provider: "claude".into(), ..was.clone() }));
        for (limit, used, resets, more) in [
            (100, 90, 5, false),
            (101, 90, 5, true),
            (100, 0, 5, true),
            // What another request had open is charged: that is less.
            (100, 95, 5, false),
            (100, 150, 5, false),
            // The request that waited was first.
            (130, 130, 5, true),
            (100, 120, 9, true),
        ] {
            let now = Standing { limit, used, resets: Some(resets), ..was.clone() };
            assert_eq!(paused.has_more(&now), more, "{limit} {used} {resets}");
        }
    }

    #[test]
    fn of_two_cuts_the_wider_scope_stands_and_the_word_of_whoever_weighs_more() {
        let cut = |scope, by: &str| Cut {
            scope,
            reason: format!("of {by}"),
            by: by.into(),
            node: None,
            provider: None,
            left: None,
        };
        let (all, metered) = (CutScope::All, CutScope::Metered);
        for (first, second, changes, scope, by) in [
            ((all, "budget"), (all, "operator"), true, all, "operator"),
            ((all, "operator"), (all, "budget"), false, all, "operator"),
            ((all, "budget"), (metered, "operator"), true, all, "operator"),
            ((metered, "operator"), (all, "budget"), true, all, "operator"),
            ((metered, "budget"), (all, "budget"), true, all, "budget"),
            ((all, "budget"), (metered, "budget"), false, all, "budget"),
            ((metered, "budget"), (metered, "policy"), true, metered, "policy"),
            ((metered, "operator"), (metered, "policy"), false, metered, "operator"),
            ((all, "operator"), (all, "operator"), false, all, "operator"),
        ] {
            let mut note = Note::default();
            assert!(note.enter(&cut(first.0, first.1)));
            assert_eq!(note.enter(&cut(second.0, second.1)), changes, "{first:?}, then {second:?}");
            assert_eq!(note.cut, Some(cut(scope, by)), "{first:?}, then {second:?}");
        }
    }
}

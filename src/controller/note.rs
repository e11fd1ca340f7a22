//! What controllers want each other to know of a bottle: decisions that have taken effect and may not have been written.
//!
//! The keeper holds it and hands it over as it is. The ledger's rows say the same; a controller that dies between a
//! decision and its row, or whose disk was full, still leaves the decision behind.

use serde::{Deserialize, Serialize};

use crate::api::Ended;
use crate::ledger::Node;
use crate::types::CutScope;

/// The note of one bottle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// It is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// It is being taken down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// A cut, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// What it takes away.
    pub scope: CutScope,
    /// For people.
    pub reason: String,
    /// Who cut ([`crate::enforce::By`]).
    pub by: String,
    /// The node whose budget is spent, where it was a budget.
    pub node: Option<Node>,
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
        let cut = Cut { scope: CutScope::All, reason: "cut".into(), by: "operator".into(), node: None };
        let note = Note { cut: Some(cut), end: None };
        assert_eq!(Note::read(Some(&note.text())), note);
        assert_eq!(Note::read(None), Note::default());
        assert_eq!(Note::read(Some("{")), Note::default());
    }
}

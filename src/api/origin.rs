//! Who said that an entry of the allow-list is there. For people: nothing is decided by it.

use serde::{Deserialize, Serialize};

/// Where an entry comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Who said it.
    pub from: OriginKind,
    /// Which provider, or which line of which manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Lines of manifests, or `launch`, whose refusals and bounds hold for it as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub narrowed_by: Vec<String>,
}

/// Who can say that an entry is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A bottle manifest.
    Manifest,
    /// The provider.
    Provider,
    /// The launch itself: a recipe, or a front end that does not say more.
    #[default]
    Launch,
    /// A change of the routes while the bottle ran.
    Change,
}

impl Origin {
    /// Makes one.
    pub fn new(from: OriginKind, place: Option<String>) -> Origin {
        Origin { from, place, narrowed_by: vec![] }
    }

    /// Says it in words.
    pub fn words(&self) -> String {
        let place = self.place.as_deref();
        let mut words = match self.from {
            OriginKind::Manifest => place.unwrap_or("a manifest").to_owned(),
            OriginKind::Provider => format!("provider {}", place.unwrap_or("of the launch")),
            OriginKind::Launch => "the launch".to_owned(),
            OriginKind::Change => "a change while it runs".to_owned(),
        };
        if !self.narrowed_by.is_empty() {
            words.push_str(&format!(", narrowed by {}", self.narrowed_by.join(", ")));
        }
        words
    }
}

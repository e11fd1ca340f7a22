//! Where the containers of a bottle are: what a keeper writes down before it makes any, and whoever comes after it clears away by.
//!
//! Knows labels only: it removes what has all of a bottle's, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::layer;
use crate::error::Result;

/// The file that says where the containers of a bottle are.
pub const RECORD: &str = "engine.json";

/// Where the containers of a bottle are, for whoever clears up after a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The engine's socket.
    pub engine: PathBuf,
    /// What all that is the bottle's has.
    pub labels: Vec<String>,
    /// Its layer over the workspace, where it has one.
    #[serde(default)]
    pub layer: Option<layer::Kept>,
}

impl Record {
    /// Reads one; `None` for what is none.
    pub fn read(path: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

/// Clears away what is left of a bottle that has ended, whatever was made for it, and then the word of where they were.
pub fn clear_rest(engine: &Engine, record: &Path) {
    if let Some(known) = Record::read(record)
        && remove_all(engine, &known.labels).is_ok()
        && layer::clear(engine, &known.labels, known.layer.as_ref()).is_ok()
    {
        let _ = fs::remove_file(record);
    }
}

/// Removes the containers with these labels, helpers first.
pub fn remove_all(engine: &Engine, labels: &[String]) -> Result<()> {
    let helpers = [labels, &["bb.role=helper".to_owned()]].concat();
    for labels in [&helpers[..], labels] {
        for id in engine.labelled(labels)? {
            engine.remove(&id);
        }
    }
    Ok(())
}

/// Removes the containers of a bottle whose keeper is gone, by what lies in its state directory.
pub fn sweep(state: &Path) {
    let path = state.join(RECORD);
    let Some(record) = Record::read(&path) else { return };
    let Ok(engine) = Engine::at(&record.engine) else { return };
    clear_rest(&engine, &path);
}

//! A CLI that is stopped in the midst of its turn, and what it has put down of its session by then.

use std::fs;
use std::path::Path;

use super::World;

/// A flow in whose rehearsal no answer ever comes.
const SILENT: &str = "--- @bb needs start\n\
    bb.rehearse({ turns = { { delay_ms = 600000 } }, loop = true })\n\
    local given = bb.args\n\
    local plan = bb.plan({ agent = given.agent, prompt = given.prompt, resume = given.resume, budget = given.budget })\n\
    print(\"bottle \" .. plan:launch().slug)\n\
    bb.sleep(\"10m\")\n";

/// Puts in flows for `bb start` and `bb resume` whose model never answers.
pub fn silence(world: &World) {
    for flow in ["start", "resume"] {
        world.write(world.bb_home().join(format!("flows/{flow}.lua")), SILENT);
    }
}

/// Tells whether one file below a directory has all of the texts in it.
pub fn is_in_one_file(dir: &Path, texts: &[&str]) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => is_in_one_file(&entry.path(), texts),
        Ok(kind) if kind.is_file() => {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            texts.iter().all(|wanted| text.contains(wanted))
        }
        _ => false,
    })
}

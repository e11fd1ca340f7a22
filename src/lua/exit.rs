//! `bb.exit`: ends the recipe with a code of its choice. It cannot be caught.

use std::rc::Rc;

use mlua::Lua;

use super::host::Host;
use crate::error::{Error, Kind, Result};

/// Tells whether a recipe may end with `code`: the codes of the table, and 10 to 99 for its own meanings.
fn allowed(code: u32) -> bool {
    matches!(code, 0..=5 | 10..=99 | 124 | 130)
}

pub(super) async fn exit(_: Lua, host: Rc<Host>, code: Option<u32>) -> Result<()> {
    let code = code.unwrap_or(0);
    match u8::try_from(code) {
        Ok(small) if allowed(code) => host.exit(small),
        _ => {
            return Err(Error::new(Kind::Usage, format!("bb.exit knows no code {code}"))
                .hint("0 to 5, 124 and 130 have fixed meanings; 10 to 99 are yours"));
        }
    }
    // The recipe is dropped where it stands.
    std::future::pending().await
}

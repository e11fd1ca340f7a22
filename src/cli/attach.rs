//! `bb attach`: this terminal becomes the agent's, until its end or until it is detached again.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::terminal::{self, Attached, Manner};

use super::out;

/// Take over the terminal of a bottle's agent; ctrl-p ctrl-q detaches and leaves it running.
///
/// Ends with the agent's exit code, or with 0 when it was detached. Several may be attached at once: all see the same, all may
/// type, and the size is that of the terminal which was attached or resized last.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    terminal::need_terminal(
        "`bb attach`",
        &format!("`bb logs --follow {}` shows what the agent writes", args.bottle.slug),
    )?;
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let slug = client.bottle(&args.bottle.slug).await?.slug;
    match terminal::attach(&client, &slug, Manner { detach: true, late: false }).await? {
        Attached::Detached => {
            out::note(&format!("detached; `bb attach {slug}` comes back"));
            Ok(0)
        }
        Attached::Ended(code) => {
            out::note(&format!("session ended (exit {code})"));
            Ok(u8::try_from(code).unwrap_or(1))
        }
        Attached::Lost => Err(Error::internal(format!("the keeper of `{slug}` died, and the bottle with it"))
            .hint(format!("`bb logs {slug}` shows what is left of its output"))),
    }
}

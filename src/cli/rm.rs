//! `bb rm`: removes what is left of bottles that have ended.

use crate::api::Bottle;

use super::{act, out};

/// Remove what is kept of bottles that have ended: sessions, and what agents changed and nobody applied, are lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Many,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let remove = async |client: &crate::client::Client, slug: &str| client.remove(slug, &act::act(None)).await;
        act::each(&args.bottles.slugs, remove, |bottle: &Bottle| format!("{}  removed", bottle.slug)).await
    })
}

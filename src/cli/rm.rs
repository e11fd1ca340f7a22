//! `bb rm`: removes what is left of bottles that have ended.

use crate::api::Removed;

use super::{act, out};

/// Remove what is kept of bottles that have ended: sessions, and what agents changed and nobody applied, are lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slugs, or unique beginnings of slugs
    #[arg(required = true, value_name = "SLUG", add = super::completions::kept())]
    pub slugs: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let remove = async |client: &crate::client::Client, slug: &str| client.remove(slug, &act::act(None)).await;
        act::each(&args.slugs, remove, said).await
    })
}

fn said(Removed { bottle, removed }: &Removed) -> String {
    let how = if *removed { "removed" } else { "was removed already: nothing is left of it" };
    format!("{}  {how}", bottle.slug)
}

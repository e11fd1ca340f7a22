//! `bb kill`: ends bottles with everything that runs in them.

use crate::api::{Bottle, Ended, State};

use super::{act, out};

/// Kill bottles: the way out first, then every process. Nothing is saved but their workspaces.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Which,
    /// Why: said in the audit row
    #[arg(long)]
    pub reason: Option<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let kill =
            async |client: &crate::client::Client, slug: &str| client.kill(slug, &act::act(args.reason.clone())).await;
        act::on(&args.bottles, State::LIVING, kill, said).await
    })
}

fn said(bottle: &Bottle) -> String {
    match (bottle.state, bottle.ended) {
        (State::Ended, Some(Ended::Killed)) => format!("{}  killed", bottle.slug),
        (State::Ended, _) => format!("{}  had ended already", bottle.slug),
        _ => format!("{}  is being killed", bottle.slug),
    }
}

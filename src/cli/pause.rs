//! `bb pause` and `bb thaw`: stop what runs in bottles, and let it go on.

use crate::api::{Bottle, State};

use super::{act, out};

/// Pause bottles: every process of theirs is stopped, and nothing can be started in them. Survives the controller.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Which,
    /// Why: said in the audit row
    #[arg(long)]
    pub reason: Option<String>,
}

/// Let paused bottles go on.
#[derive(Debug, clap::Args)]
pub struct ThawArgs {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Which,
    /// Why: said in the audit row
    #[arg(long)]
    pub reason: Option<String>,
}

/// Runs `bb pause`; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let pause =
            async |client: &crate::client::Client, slug: &str| client.pause(slug, &act::act(args.reason.clone())).await;
        act::on(&args.bottles, &[State::Running, State::Paused], pause, said).await
    })
}

/// Runs `bb thaw`; returns its exit code.
pub fn thaw(args: ThawArgs) -> u8 {
    out::block_on(async move {
        let thaw =
            async |client: &crate::client::Client, slug: &str| client.thaw(slug, &act::act(args.reason.clone())).await;
        act::on(&args.bottles, &[State::Paused], thaw, said).await
    })
}

fn said(bottle: &Bottle) -> String {
    let how = match bottle.state {
        State::Paused => "paused",
        State::Running => "runs",
        State::Ended => "has ended",
        _ => "is being taken down",
    };
    format!("{}  {how}", bottle.slug)
}

//! `bb freeze`: ends a bottle and keeps what it needs to be taken up again.

use crate::api::{Bottle, Ended, State};

use super::{act, out};

/// Save the state of bottles and stop them; `bb resume` takes them up again.
///
/// Its routes are cut, the agent is asked to end, and its session, its transcript and what it changed are kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Which,
    /// Why, for the audit
    #[arg(long)]
    pub reason: Option<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async {
        let freeze = async |client: &crate::client::Client, slug: &str| {
            client.freeze(slug, &act::act(args.reason.clone())).await
        };
        act::on(&args.bottles, State::LIVING, freeze, said).await
    })
}

fn said(bottle: &Bottle) -> String {
    match (bottle.state, bottle.ended) {
        (State::Ended, Some(Ended::Frozen)) => {
            let but: String = bottle.warnings.iter().map(|warning| format!("\n  but {warning}")).collect();
            format!("{0}  frozen; bb resume {0} takes it up again{but}", bottle.slug)
        }
        (State::Ended, _) => format!("{}  had ended already", bottle.slug),
        _ => format!("{}  is being frozen", bottle.slug),
    }
}

//! `bb cut`: takes the way out of bottles away.

use crate::api::{Act, Bottle, State};
use crate::types::CutScope;

use super::{act, out};

/// Cut bottles off: their routes are dropped and open requests end, the agents go on running.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Which,
    /// Why: said in the audit row and to the agent
    #[arg(long)]
    pub reason: Option<String>,
    /// Only the routes of model APIs
    #[arg(long)]
    pub metered: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    // Said aloud: an operator who cuts means everything, whatever the host's setting for budgets is.
    let scope = if args.metered { CutScope::Metered } else { CutScope::All };
    out::block_on(async move {
        let cut = async |client: &crate::client::Client, slug: &str| {
            client.cut(slug, &Act { scope: Some(scope), ..act::act(args.reason.clone()) }).await
        };
        act::on(&args.bottles, State::LIVING, cut, said).await
    })
}

fn said(bottle: &Bottle) -> String {
    match bottle.state {
        State::Ended => format!("{}  had ended already", bottle.slug),
        _ => format!("{}  cut", bottle.slug),
    }
}

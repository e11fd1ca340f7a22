//! `bb stop`: asks agents to end, and kills what does not.

use std::time::Duration;

use crate::api::{Bottle, Ended, State, Stop};
use crate::error::Kind;

use super::{act, out};

/// Stop bottles: the agent is asked to end (SIGTERM) and has some time for it; then everything is killed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Many,
    /// How long the agent has, such as 10s, 500ms or 2m
    #[arg(long, default_value = "10s", value_parser = span, value_name = "TIME")]
    pub timeout: Duration,
    /// Why: said where it had to be killed
    #[arg(long)]
    pub reason: Option<String>,
}

/// Reads a time.
fn span(text: &str) -> Result<Duration, String> {
    crate::lua::values::parse_duration(text).map_err(|_| "write a time such as 10s, 500ms or 2m".to_owned())
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let stop = async |client: &crate::client::Client, slug: &str| {
            let stop = Stop {
                id: uuid::Uuid::now_v7().to_string(),
                timeout_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
                reason: args.reason.clone(),
            };
            client.stop_bottle(slug, &stop).await.map_err(|e| match e.kind {
                Kind::Timeout => e.hint("`bb kill` does not ask the agent"),
                _ => e,
            })
        };
        act::each(&args.bottles.slugs, stop, said).await
    })
}

fn said(bottle: &Bottle) -> String {
    match (bottle.state, bottle.ended) {
        (State::Ended, Some(Ended::Killed)) => format!("{}  killed", bottle.slug),
        (State::Ended, _) => format!("{}  ended", bottle.slug),
        _ => format!("{}  is being killed", bottle.slug),
    }
}

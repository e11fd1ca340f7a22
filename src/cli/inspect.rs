//! `bb inspect`: everything that is known of a bottle, less its secrets.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::printable;

use super::out;

/// Show everything that is known of bottles: how they stand, what they were launched with, mounts, routes, limits, budgets.
/// Credentials are named and never shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Many,
    /// One object a line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut codes = Vec::new();
    for slug in &args.bottles.slugs {
        match client.inspect(slug).await {
            Ok(value) if args.json => out::json(&value)?,
            Ok(value) => {
                let text = serde_json::to_string_pretty(&value).map_err(|e| Error::internal(e.to_string()))?;
                out::print(&printable::printable(&printable::json(&text), false))?;
            }
            Err(error) => codes.push(out::fail(&error)),
        }
    }
    Ok(super::act::gravest(&codes))
}

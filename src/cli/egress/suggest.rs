//! `bb egress suggest`: the routes that would have let pass what was refused.

use serde::Serialize;

use super::{Named, events};
use crate::api::Route;
use crate::cli::out;
use crate::client::Client;
use crate::egress::suggest::{Gather, LeftOut, Suggested, Suggestion, yaml};
use crate::error::Result;
use crate::home::Home;

/// Print the smallest set of routes that would have let pass what was refused, as YAML for a manifest, and what was left out and
/// why. Changes nothing: read it, and add what the agent should have.
///
/// Addresses, private names, model APIs and credentials are never suggested. With --json NDJSON (docs/egress-log.md).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    bottles: crate::cli::slugs::Many,
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut gather = Gather::default();
    // An entry for a host that one of them has a route for is to stand beside that.
    let mut standing: Vec<Option<Vec<Route>>> = vec![];
    for name in &args.bottles.slugs {
        let named = Named::find(&client, &home, name).await?;
        let (mut any, mut routes) = (false, None);
        for book in &named.books {
            // Of several bottles that have had the name, one after the other, the last is meant.
            let mut events = events(&client, *book, Some(&named.slug), named.started, false).await?;
            while let Some(event) = events.next().await {
                let event = event?;
                any = true;
                gather.add(&event);
                if event.kind == "bottle.running" || event.kind == "routes" {
                    routes = serde_json::from_value(event.data["routes"].clone()).ok();
                }
            }
        }
        match named.unknown {
            Some(error) if !any => return Err(error),
            _ => {}
        }
        standing.push(routes);
    }
    let standing: Option<Vec<Vec<Route>>> = standing.into_iter().collect();
    let suggested = gather.suggest(standing.as_deref());
    if args.json {
        json(&suggested)?
    } else {
        out::print(&yaml(&suggested))?
    }
    Ok(0)
}

/// One line of --json.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Route {
        v: u8,
        #[serde(flatten)]
        suggestion: &'a Suggestion,
    },
    LeftOut {
        v: u8,
        #[serde(flatten)]
        left_out: &'a LeftOut,
    },
    More {
        v: u8,
        times: u64,
    },
}

fn json(suggested: &Suggested) -> Result<()> {
    for suggestion in &suggested.routes {
        out::json(&Told::Route { v: 1, suggestion })?;
    }
    for left_out in &suggested.left_out {
        out::json(&Told::LeftOut { v: 1, left_out })?;
    }
    if suggested.more > 0 {
        out::json(&Told::More { v: 1, times: suggested.more })?;
    }
    Ok(())
}

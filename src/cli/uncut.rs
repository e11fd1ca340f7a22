//! `bb uncut`: opens the way out of bottles that are cut.

use crate::api::{Bottle, BudgetPath};
use crate::client::Client;

use super::{act, out};

/// Open the way out of bottles again that were cut, whoever cut them.
///
/// Written before it has an effect. Where the budget that cut one is still spent this says so: the next request to a model API
/// cuts it again (bb budget raise, bb budget reset).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Many,
    /// Why: said in the audit row
    #[arg(long)]
    pub reason: Option<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let open = async |client: &Client, slug: &str| {
            let bottle = client.uncut(slug, &act::act(args.reason.clone())).await?;
            let path = client.budget_path(&bottle.slug).await?;
            Ok((bottle, path))
        };
        act::each(&args.bottles.slugs, open, |(bottle, path)| said(bottle, path)).await
    })
}

fn said(bottle: &Bottle, path: &BudgetPath) -> String {
    let spent = path.accounts.iter().find(|of| of.binds && of.account.limit.is_some_and(|n| of.account.used >= n));
    let but = spent.map(|of| {
        let (node, provider) = (&of.account.node, &of.account.provider);
        format!("\n  but its budget is spent, and its next request cuts it again: bb budget raise {node} AMOUNT --provider '{provider}'")
    });
    format!("{}  open{}", bottle.slug, but.unwrap_or_default())
}

//! `bb logs`: what the agent of a bottle, and every exec in it, wrote.

use crate::api::ExecFrame;
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;

use super::out::{self, AgentOutput};

/// Show what a bottle's processes wrote: stdout to stdout, stderr to stderr.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Stay until the bottle has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only what came after this position of the log (`n` of its frames)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub since: u64,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut frames = client.logs(&args.bottle.slug, args.since, args.follow).await?;
    let mut output = AgentOutput::of_process();
    while let Some(frame) = frames.next().await {
        if let ExecFrame::Output { stream, text, .. } = frame?
            && !output.write(&stream, &text)?
        {
            return Ok(0);
        }
    }
    output.finish()?;
    Ok(0)
}

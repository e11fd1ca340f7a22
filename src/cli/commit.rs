//! `bb commit`: keeps what a running bottle needs to be taken up again, whatever end it comes to.

use crate::api::{Bottle, Commit};

use super::{act, out};

/// Keep the state of running bottles, whatever end they come to; `bb resume` takes them up again.
///
/// They go on. Of a container what its agent has put into its home is saved as well, as it is now.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottles: super::slugs::Many,
    /// Of a container: make an image of that name as well, of its image and its agent's home. It is yours: bb never removes it
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async {
        let commit = async |client: &crate::client::Client, slug: &str| {
            let commit = Commit { id: uuid::Uuid::now_v7().to_string(), image: args.image.clone() };
            client.commit(slug, &commit).await
        };
        act::each(&args.bottles.slugs, commit, |bottle: &Bottle| {
            format!("{0}  is kept when it ends; bb resume {0} takes it up then", bottle.slug)
        })
        .await
    })
}

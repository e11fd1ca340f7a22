//! `bb egress`: what bottles asked for and what became of it, and which routes would have let more pass. Changes nothing.

mod lines;
mod log;
mod suggest;

use crate::client::{Client, EventFilter, Events};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::types::Book;

use super::out;

/// What bottles asked for on their way out, and what became of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Log(log::Args),
    Suggest(suggest::Args),
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async {
        match args.command {
            Command::Log(args) => log::work(args).await,
            Command::Suggest(args) => suggest::work(args).await,
        }
    })
}

/// A bottle whose events are read: one that the controller knows, or a name that only a ledger may know.
struct Named {
    slug: String,
    /// In which books to look.
    books: Vec<Book>,
    /// When it started, if it is known.
    started: Option<i64>,
    /// It has not ended.
    lives: bool,
    /// What to say if no ledger knows it either.
    unknown: Option<Error>,
}

impl Named {
    async fn find(client: &Client, home: &Home, name: &str) -> Result<Named> {
        match client.bottle(name).await {
            Ok(bottle) => Ok(Named {
                books: vec![bottle.book],
                started: Some(bottle.started),
                lives: bottle.state != crate::api::State::Ended,
                slug: bottle.slug,
                unknown: None,
            }),
            Err(error) if error.kind == Kind::NoSuchBottle => {
                let books = if home.rehearsal_ledger().exists() {
                    vec![Book::Real, Book::Rehearsal]
                } else {
                    // Asking for it would make the file.
                    vec![Book::Real]
                };
                Ok(Named { slug: name.to_owned(), books, started: None, lives: false, unknown: Some(error) })
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads events from the beginning of a book, or from a moment.
async fn events(client: &Client, book: Book, bottle: Option<&str>, after: Option<i64>, follow: bool) -> Result<Events> {
    let bottle = bottle.map(str::to_owned);
    client.events(EventFilter { book, since: Some(0), bottle, after, follow, run: None }).await
}

//! `bb ledger`: looking whether the books are whole, writing them out, copying them, removing what is old.

use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::{Backup, PruneLedger, Verified};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::types::Book;

use super::apply::agreed;
use super::out::{self, grouped};
use super::usage::moment;

/// Verify, export, back up or prune the ledger (docs/ledger.md).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Verify(VerifyArgs),
    Export(ExportArgs),
    Backup(BackupArgs),
    Prune(PruneArgs),
}

/// Check every row: the chain of the events, the usage rows that they tell of, accounts and sums.
///
/// Ends with 1 and names the first row that is wrong. The head that it shows, kept elsewhere, proves later with --expect
/// that nothing before it was changed or cut off. With --json one object: {events, chained, usage, accounts, anchor, head,
/// fault?: {table, row, what}}.
#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Write JSON on stdout
    #[arg(long)]
    json: bool,
    /// The book of rehearsals
    #[arg(long)]
    rehearsal: bool,
    /// A head that an earlier look has shown
    #[arg(long, value_name = "SEQ:HASH")]
    expect: Option<String>,
}

/// Write every row as NDJSON, on stdout or into a new file.
#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// The book of rehearsals
    #[arg(long)]
    rehearsal: bool,
    /// The file; it must not exist
    file: Option<PathBuf>,
}

/// Copy the ledger into a new file while it is in use.
#[derive(Debug, clap::Args)]
struct BackupArgs {
    /// The book of rehearsals
    #[arg(long)]
    rehearsal: bool,
    /// The file; it must not exist
    file: PathBuf,
}

/// Remove old events and usage rows. Sums, accounts and the chain's anchor stay.
///
/// The last 30 days stay whatever is asked for: ids of their responses may come again. Without a terminal it needs --yes.
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Only what is older than this date or time (2025-01-31, 2025-01-31T09:30), or so old (90d)
    #[arg(long, value_name = "WHEN")]
    before: String,
    /// The book of rehearsals
    #[arg(long)]
    rehearsal: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        match args.command {
            Command::Verify(args) => verify(args).await,
            Command::Export(args) => export(args).await,
            Command::Backup(args) => backup(args).await,
            Command::Prune(args) => prune(args).await,
        }
    })
}

/// Connects for a book.
async fn client(rehearsal: bool) -> Result<(Client, Book)> {
    let home = Home::from_env()?;
    Ok((Client::connect_or_start(&home).await?, if rehearsal { Book::Rehearsal } else { Book::Real }))
}

async fn verify(args: VerifyArgs) -> Result<u8> {
    let (client, book) = client(args.rehearsal).await?;
    let verified = client.verify_ledger(book, args.expect.as_deref()).await?;
    let code = u8::from(verified.fault.is_some());
    if args.json {
        out::json(&verified)?;
    } else {
        out::print(&crate::printable::printable(&said(&verified), true))?;
    }
    Ok(code)
}

/// What people are told of a look.
fn said(verified: &Verified) -> String {
    let Verified { events, chained, usage, accounts, anchor, head, fault } = verified;
    if let Some(fault) = fault {
        return format!("BROKEN: {} {}: {}", fault.table, fault.row, fault.what);
    }
    let (events, usage, accounts, older) = (grouped(*events), grouped(*usage), grouped(*accounts), events - chained);
    let older = match older {
        0 => String::new(),
        _ => format!(", {} older than the chain, which begins after event {anchor}", grouped(older)),
    };
    format!("whole: {events} events{older}, {usage} usage rows, {accounts} accounts\nhead {head}")
}

async fn export(args: ExportArgs) -> Result<u8> {
    use std::os::unix::fs::OpenOptionsExt;
    let (client, book) = client(args.rehearsal).await?;
    let Some(path) = args.file else {
        client.export_ledger(book, |line| out::print(&String::from_utf8_lossy(line))).await?;
        return Ok(0);
    };
    let fault = |e: std::io::Error| {
        Error::new(Kind::Usage, format!("the file cannot be written: {e}")).at(path.display().to_string())
    };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fault)?;
    let mut to = std::io::BufWriter::new(file);
    client.export_ledger(book, |line| to.write_all(line).and_then(|()| to.write_all(b"\n")).map_err(fault)).await?;
    to.flush().map_err(fault)?;
    Ok(0)
}

async fn backup(args: BackupArgs) -> Result<u8> {
    let (client, book) = client(args.rehearsal).await?;
    let path = std::path::absolute(&args.file).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    let made = client.backup_ledger(&Backup { book, path: path.display().to_string() }).await?;
    out::print(&crate::printable::printable(&format!("{}  {} bytes", made.path, grouped(made.bytes)), false))?;
    Ok(0)
}

async fn prune(args: PruneArgs) -> Result<u8> {
    let before = moment(&args.before, "--before", false, Timestamp::now(), &TimeZone::system())?;
    let (client, book) = client(args.rehearsal).await?;
    let at = |ms| Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default();
    if !args.yes && !agreed(&format!("remove events and usage rows before {}", at(before)), "bb ledger prune")? {
        return Ok(1);
    }
    let pruned = client.prune_ledger(&PruneLedger { book, before }).await?;
    out::print(&format!(
        "{} events and {} usage rows removed, before {}",
        grouped(pruned.events),
        grouped(pruned.usage),
        at(pruned.before)
    ))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Fault;

    #[test]
    fn what_is_told_of_a_look_names_the_head_or_the_fault() {
        let mut verified = Verified {
            events: 1200,
            chained: 1200,
            usage: 3,
            accounts: 2,
            anchor: 0,
            head: "1200:ab".into(),
            fault: None,
        };
        assert_eq!(said(&verified), "whole: 1,200 events, 3 usage rows, 2 accounts\nhead 1200:ab");
        verified.chained = 200;
        verified.anchor = 1000;
        assert!(
            said(&verified).contains("1,000 older than the chain, which begins after event 1000"),
            "{}",
            said(&verified)
        );
        verified.fault = Some(Fault { table: "usage".into(), row: "7".into(), what: "its event 7 is missing".into() });
        assert_eq!(said(&verified), "BROKEN: usage 7: its event 7 is missing");
    }
}

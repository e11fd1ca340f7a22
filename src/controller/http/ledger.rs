//! The care of a book: looking whether it is whole, writing it out, copying it, removing what is old.
//!
//! Which calls these are is said in [`super`]; what they do, in [`crate::ledger`].

use std::path::PathBuf;
use std::sync::Arc;

use hyper::Response;
use tokio::sync::mpsc;

use super::answer::{Body, lines};
use crate::api::{BackedUp, Backup, Headroom, PruneLedger, Pruned, Verified};
use crate::controller::{Controller, ledger_error};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Ledger, LedgerError};
use crate::types::Book;

/// Where a book lies, for messages.
fn place(controller: &Controller, book: Book) -> PathBuf {
    match book {
        Book::Real => controller.host.home.ledger(),
        Book::Rehearsal => controller.host.home.rehearsal_ledger(),
    }
}

/// `GET /v1/ledger/verify`. `expected` is `SEQ:HEX`.
pub(super) async fn verify(controller: &Controller, book: Book, expected: Option<&str>) -> Result<Verified> {
    let read = |text: &str| {
        let (seq, hash) = text.split_once(':')?;
        let hex = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some((seq.parse().ok()?, hex.then(|| hash.to_owned())?))
    };
    let wrong =
        || Error::new(Kind::Usage, "an expected head is `SEQ:HASH`").hint("write it as `bb ledger verify` shows it");
    let expected = expected.map(|text| read(text).ok_or_else(wrong)).transpose()?;
    let ledger = controller.ledger(book).await?;
    ledger.verify(expected).await.map_err(|e| ledger_error(&e, &place(controller, book)))
}

/// `GET /v1/ledger/export`: lines as they are read.
pub(super) async fn export(controller: &Arc<Controller>, book: Book) -> Result<Response<Body>> {
    let ledger = controller.ledger(book).await?;
    let (to, from) = mpsc::channel(256);
    tokio::spawn(async move {
        let last = to.clone();
        let end = match ledger.export(to).await {
            Ok(()) => serde_json::json!({ "table": "end" }),
            Err(e) => serde_json::json!({ "table": "error", "message": e.to_string() }),
        };
        let _ = last.send(format!("{end}\n")).await;
    });
    Ok(lines(from))
}

/// `POST /v1/ledger/backup`.
pub(super) async fn backup(controller: &Controller, backup: &Backup) -> Result<BackedUp> {
    let path = PathBuf::from(&backup.path);
    let wrong =
        |what: &str| Err(Error::new(Kind::Usage, what).at(backup.path.clone()).hint("name a new file, from `/` on"));
    if !path.is_absolute() {
        return wrong("a backup's path is absolute");
    }
    if path.symlink_metadata().is_ok() {
        return wrong("there is a file already; nothing was changed");
    }
    let ledger = controller.ledger(backup.book).await?;
    let bytes = ledger.backup(&path).await.map_err(|e| match e {
        LedgerError::Misuse(what) => Error::new(Kind::Usage, what)
            .at(backup.path.clone())
            .hint("name a new file in a directory that you can write"),
        LedgerError::Full(what) => Error::new(Kind::LedgerFull, what)
            .at(backup.path.clone())
            .hint("free some space there, or name another place"),
        e => ledger_error(&e, &place(controller, backup.book)),
    })?;
    Ok(BackedUp { path: backup.path.clone(), bytes })
}

/// `POST /v1/ledger/prune`.
pub(super) async fn prune(controller: &Controller, prune: &PruneLedger) -> Result<Pruned> {
    let ledger = controller.ledger(prune.book).await?;
    ledger.prune(prune.before).await.map_err(|e| ledger_error(&e, &place(controller, prune.book)))
}

/// `GET /v1/headroom`.
pub(super) async fn headroom(controller: &Controller, book: Book) -> Result<Vec<Headroom>> {
    let ledger = controller.ledger(book).await?;
    ledger.headroom().await.map_err(|e| ledger_error(&e, &place(controller, book)))
}

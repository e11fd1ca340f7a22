//! Calls about a book as a whole: its care, and what providers said of their own limits.

use super::wire::{self, Request};
use super::{Client, FILES, stream};
use crate::api;
use crate::error::Result;
use crate::types::Book;

impl Client {
    /// `GET /v1/headroom`: what providers have last said of their own limits.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn headroom(&self, book: Book) -> Result<Vec<api::Headroom>> {
        self.call_field(Request::get(format!("/v1/headroom?book={}", wire::book(book))), "headroom").await
    }

    /// `GET /v1/ledger/verify`; `expected` is an earlier head.
    ///
    /// # Errors
    /// As [`Client::version`]; `usage` for an expected head that is none.
    pub async fn verify_ledger(&self, book: Book, expected: Option<&str>) -> Result<api::Verified> {
        let mut path = format!("/v1/ledger/verify?book={}", wire::book(book));
        if let Some(expected) = expected {
            path.push_str(&format!("&expect={}", wire::encode(expected)));
        }
        self.call(Request::get(path).within(FILES)).await
    }

    /// `GET /v1/ledger/export`: hands over each line, without its end.
    ///
    /// # Errors
    /// As [`Client::version`], those of `take`, and where the lines break off.
    pub async fn export_ledger(&self, book: Book, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        stream::export(self, &Request::get(format!("/v1/ledger/export?book={}", wire::book(book))), take).await
    }

    /// `POST /v1/ledger/backup`.
    ///
    /// # Errors
    /// As [`Client::version`]; `usage` where the file cannot be made.
    pub async fn backup_ledger(&self, backup: &api::Backup) -> Result<api::BackedUp> {
        self.call(Request::post("/v1/ledger/backup", backup)?.within(FILES)).await
    }

    /// `POST /v1/ledger/prune`.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn prune_ledger(&self, prune: &api::PruneLedger) -> Result<api::Pruned> {
        self.call(Request::post("/v1/ledger/prune", prune)?.within(FILES)).await
    }
}

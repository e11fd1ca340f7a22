//! `bb.ledger`: what was used, summed by bottle, agent, provider and model, or as asked.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use mlua::{IntoLua, Lua, Value};
use serde::Deserialize;

use super::grants::Grant;
use super::host::Host;
use super::values::{Span, options};
use super::vm::{Plain, to_lua};
use crate::api::{By, Slice, UsageQuery, UsageReport};
use crate::error::{Error, Result};
use crate::types::Book;

/// The options of `bb.ledger.query`. Each narrows.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    book: Option<Book>,
    bottle: Option<String>,
    run: Option<String>,
    provider: Option<String>,
    /// Not older than this.
    last: Option<Span>,
    /// Milliseconds since the epoch.
    since: Option<i64>,
    until: Option<i64>,
    by: Option<Vec<By>>,
    period: Option<Slice>,
}

/// A report as recipes get it: a list of rows with a field `total`.
struct Rows(UsageReport);

impl IntoLua for Rows {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        let table = to_lua(lua, &self.0.rows)?;
        if let Value::Table(table) = &table {
            table.raw_set("total", Plain(self.0.total))?;
        }
        Ok(table)
    }
}

/// `bb.ledger.query{...}`. The recipe's own run needs no grant.
pub(super) async fn query(lua: Lua, host: Rc<Host>, value: Value) -> Result<impl IntoLua> {
    const CALL: &str = "bb.ledger.query";
    let options: Options = options(&lua, CALL, value)?;
    if options.run.as_deref() != Some(&host.run_id) {
        host.grants.need(&Grant::LedgerRead, CALL)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| Error::internal(e.to_string()))?;
    let last = options.last.map(|Span(span)| now.saturating_sub(span).as_millis() as i64);
    let query = UsageQuery {
        book: options.book.unwrap_or_else(|| host.book.get()),
        bottle: options.bottle,
        run: options.run,
        provider: options.provider,
        since: options.since.max(last),
        until: options.until,
        by: options.by,
        period: options.period,
        zone: None,
    };
    host.client().await?.usage(&query).await.map(Rows)
}

//! `bb.meter`: what a bottle has used and how its budget stands; and reading the usage out of any answer of a model API.

use std::rc::Rc;

use mlua::{Lua, Value};
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::values;
use super::vm::Plain;
use crate::api::{Account, UsageQuery, UsageTotal};
use crate::error::{Error, Kind, Result};
use crate::types::{Api, Tokens};

/// What a bottle has used.
#[derive(Serialize)]
pub(super) struct Standing {
    #[serde(flatten)]
    total: UsageTotal,
    /// Its own account, where it has a limit.
    budget: Option<Budget>,
}

#[derive(Serialize)]
struct Budget {
    used: u64,
    held: u64,
    limit: u64,
    left: u64,
}

/// `bb.meter.of(bottle)` and `bottle:usage()`.
pub(super) async fn of(_: Lua, host: Rc<Host>, slug: String) -> Result<Plain<Standing>> {
    let client = &host.link().await?.client;
    let book = host.book.get();
    let query =
        UsageQuery { book, bottle: Some(slug.clone()), run: Some(host.run_id.clone()), ..UsageQuery::default() };
    let total = client.usage(&query).await?.total;
    let bottle = client.bottle(&slug).await?;
    let accounts = client.budgets(book, Some(&format!("bottle:{}", bottle.account.unwrap_or(bottle.id)))).await?;
    let limited = accounts.iter().filter(|a| a.limit.is_some()).min_by_key(|a| left(a));
    let budget = limited.map(|a| Budget { used: a.used, held: a.held, limit: a.limit.unwrap_or(0), left: left(a) });
    Ok(Plain(Standing { total, budget }))
}

fn left(account: &Account) -> u64 {
    account.limit.unwrap_or(u64::MAX).saturating_sub(account.used.saturating_add(account.held))
}

/// The options of `bb.meter.parse`; `body` is taken off first, because it need not be UTF-8.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    api: Api,
}

/// What an answer says about its usage.
#[derive(Serialize)]
pub(super) struct Parsed {
    tokens: Option<Tokens>,
    model: Option<String>,
    response_id: Option<String>,
    terminal: bool,
}

/// `bb.meter.parse{api = "anthropic", body = text}`: reads a whole answer, JSON or SSE, as the plane does.
pub(super) fn parse(lua: &Lua, _: &Rc<Host>, value: Value) -> Result<Plain<Parsed>> {
    const CALL: &str = "bb.meter.parse";
    let fault = |e: mlua::Error| values::from_lua(CALL, &e);
    let Value::Table(given) = value else {
        return Err(Error::new(Kind::Usage, format!("{CALL} takes a table of options")));
    };
    let body: Option<mlua::LuaString> = given.get("body").map_err(fault)?;
    let body = body.ok_or_else(|| Error::new(Kind::Usage, format!("{CALL} needs 'body'")))?;
    let rest = lua.create_table().map_err(fault)?;
    for pair in given.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(fault)?;
        if key.as_string().is_none_or(|k| *k != "body") {
            rest.set(key, value).map_err(fault)?;
        }
    }
    let Options { api } = values::read(CALL, Value::Table(rest))?;
    let reading = crate::meter::parse(api, &body.as_bytes());
    Ok(Plain(Parsed {
        tokens: reading.tokens,
        model: reading.model,
        response_id: reading.response_id,
        terminal: reading.terminal,
    }))
}

//! `bb.budget`: the common budget of the run.

use std::rc::Rc;

use mlua::{Lua, Value};

use super::grants::Grant;
use super::host::Host;
use super::values::{self, Budget};
use super::vm::Plain;
use crate::api::Account;
use crate::error::Result;

/// `bb.budget.set`: sets the limits of the run, replacing earlier ones; usage is kept.
pub(super) async fn set(_: Lua, host: Rc<Host>, value: Value) -> Result<()> {
    const CALL: &str = "bb.budget.set";
    host.grants.need(&Grant::Budget, CALL)?;
    let budget: Budget = values::read(CALL, value)?;
    budget.check_providers(CALL, &crate::provider::names(&host.home))?;
    host.set_run_budget(budget.0).await
}

/// `bb.budget.get`: the accounts of the run.
pub(super) async fn get(_: Lua, host: Rc<Host>, (): ()) -> Result<Plain<Vec<Account>>> {
    let link = host.link().await?;
    link.client.budgets(host.book.get(), Some(&format!("run:{}", host.run_id))).await.map(Plain)
}

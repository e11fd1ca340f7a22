//! The calls on budgets: what the accounts are, and the operator's changes of one.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::json;

use super::answer::{Body, ok};
use super::question::{book, read};
use crate::api::BudgetChange;
use crate::controller::{Controller, ledger_error};
use crate::error::Result;
use crate::ledger::Ledger;

/// Answers `GET /v1/budgets`.
pub(super) async fn list(controller: &Controller, query: &HashMap<String, String>) -> Result<Response<Body>> {
    let ledger = controller.ledger(book(query)).await?;
    let accounts = ledger.accounts(query.get("node").map(String::as_str)).await;
    ok(&json!({ "accounts": accounts.map_err(|e| ledger_error(&e, &controller.host.home.ledger()))? }))
}

/// Answers `POST /v1/budgets`.
pub(super) async fn change(controller: &Arc<Controller>, request: Request<Incoming>) -> Result<Response<Body>> {
    controller.ready().await;
    let change: BudgetChange = read(request.into_body()).await?;
    ok(&controller.change_budget(change).await?)
}

//! Calls on budgets and cuts by the operator: the accounts, one of which is changed, the budgets of a bottle are shown, its way out is opened.

use super::{Client, Request, wire};
use crate::api::{self, Account, Act, Bottle};
use crate::error::Result;
use crate::types::Book;

impl Client {
    /// `GET /v1/budgets`: the accounts of one node, or of all.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn budgets(&self, book: Book, node: Option<&str>) -> Result<Vec<Account>> {
        let mut path = format!("/v1/budgets?book={}", wire::book(book));
        if let Some(node) = node {
            path.push_str("&node=");
            path.push_str(&wire::encode(node));
        }
        self.call_field(Request::get(path), "accounts").await
    }

    /// `POST /v1/budgets`: changes one account, and waits for what follows from that.
    ///
    /// # Errors
    /// As [`Client::version`]; `usage` for what cannot be meant.
    pub async fn change_budget(&self, change: &api::BudgetChange) -> Result<api::BudgetChanged> {
        self.call(Request::post("/v1/budgets", change)?).await
    }

    /// `GET /v1/bottles/S/budget`: everything that its requests are charged to.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn budget_path(&self, slug: &str) -> Result<api::BudgetPath> {
        self.call(Request::get(format!("/v1/bottles/{}/budget", wire::encode(slug)))).await
    }

    /// `POST /v1/bottles/S/open`: opens the way out of one that is cut.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where it is not cut.
    pub async fn uncut(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/open", wire::encode(slug)), act)?).await
    }
}

//! What is changed of a budget while it counts, and how the budgets of a bottle stand together.

use serde::{Deserialize, Serialize};

use super::{Account, Period};
use crate::types::Book;

/// Body of `POST /v1/budgets`: one change of one account, by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetChange {
    /// Chosen by the client: a change that is sent again is made once.
    pub id: String,
    /// The book.
    #[serde(default)]
    pub book: Book,
    /// The node ([`Account::node`]).
    pub node: String,
    /// The provider; `*` = all together.
    pub provider: String,
    /// What is changed.
    pub change: BudgetAct,
    /// Why: said in the audit row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `POST /v1/budgets`, when everything that follows from the change has taken effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetChanged {
    /// How the account stood right after the change.
    pub account: Account,
    /// What it has done to bottles that run.
    #[serde(default)]
    pub done: Vec<BudgetDone>,
}

/// What a change of an account has done to a bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetDone {
    /// Slug.
    pub bottle: String,
    /// `cutoff`, `pause`, `freeze` or `kill` where nothing is left for it, `thaw` where it goes on.
    pub action: String,
    /// Why that came to nothing, or is not done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is changed of an account. Unit: counted tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BudgetAct {
    /// Another limit; what was used counts on.
    Set {
        /// The amount; absent = `unlimited`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
        /// How long it counts; as it was where nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per: Option<Period>,
        /// Whether it is hard; as it was where nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hard: Option<bool>,
    },
    /// More on top of the limit: until it begins anew, where it does.
    Raise {
        /// How much more.
        tokens: u64,
    },
    /// It begins anew now: nothing of it is used.
    Reset,
}

impl BudgetAct {
    /// Gets the word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            BudgetAct::Set { .. } => "set",
            BudgetAct::Raise { .. } => "raise",
            BudgetAct::Reset => "reset",
        }
    }
}

/// Answer of `GET /v1/bottles/S/budget`: everything that its requests are charged to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetPath {
    /// Slug.
    pub bottle: String,
    /// The provider that is charged.
    pub provider: String,
    /// How tokens are counted, in words.
    pub weights: String,
    /// Its accounts, the nearest node first.
    pub accounts: Vec<PathAccount>,
}

/// One account on a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathAccount {
    /// How it stands.
    #[serde(flatten)]
    pub account: Account,
    /// What is neither used nor reserved; absent without a limit. Unit: counted tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// It is of the node that governs.
    pub governs: bool,
    /// Its limit holds for this bottle, because it governs or is hard.
    pub binds: bool,
}

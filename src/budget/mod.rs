//! Budgets: amounts, weights, which account decides, what a request reserves and what it is charged.
//!
//! Pure arithmetic on plain values. Nothing here reads a clock, a file or a database; the ledger asks and writes down
//! the answers. Design decisions 1, 3 and 4 and the hold machine are kept here, each in a file of its own:
//!
//! * [`amount`]: reading amounts of tokens;
//! * [`weights`]: how much a token of each class counts;
//! * [`account`]: which accounts of a path govern or bind, and whether a request fits;
//! * [`charge`]: what a hold is charged when it ends.

pub mod account;
pub mod amount;
pub mod charge;
pub mod weights;

#[cfg(test)]
mod machine;

pub use account::{Decision, Standing, binding, crossed, decide, governs};
pub use amount::{Amount, AmountError, MAX_TOKENS, check_thresholds, grouped, parse_amount};
pub use charge::{Charge, Estimate, Settlement, charge, charge_swept};
pub use weights::{Weights, WeightsError, counted};

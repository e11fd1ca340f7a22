//! Budgets: amounts, weights, which account decides, what a request reserves and what it is charged.
//!
//! Pure arithmetic on plain values. Nothing here reads a clock, a file or a database; the ledger asks and writes down
//! the answers. Design decisions 1, 3 and 4 and the hold machine are kept here, each in a file of its own:
//!
//! * [`amount`]: reading amounts of tokens;
//! * [`weights`]: how much a token of each class counts;
//! * [`account`]: which accounts of a path govern or bind, and whether a request fits;
//! * [`admit`]: what of it may refuse, and what is kept back for the end;
//! * [`window`]: from when to when a limit counts that begins anew by itself; [`threshold`]: what is told on the way to it;
//! * [`learned`]: what is estimated, by what was learned;
//! * [`crossing`]: what becomes of a hold that its stream outgrows;
//! * [`charge`]: what a hold is charged when it ends.

pub mod account;
pub mod admit;
pub mod amount;
pub mod charge;
pub mod crossing;
pub mod learned;
pub mod threshold;
pub mod weights;
pub mod window;

#[cfg(test)]
mod machine;

#[cfg(test)]
pub use account::decide;
pub use account::{Decision, Standing, binding, crossed, governs, has_name, roles, scope_of};
pub use admit::{Ask, admit};
pub use amount::{Amount, AmountError, MAX_TOKENS, check_thresholds, grouped, parse_amount};
pub use charge::{Charge, Estimate, Settlement, charge, charge_swept};
pub use crossing::{Raised, on_cross, raise};
pub use learned::Learned;
pub use threshold::{Warned, near, still_warned, warned};
pub use weights::{Weights, WeightsError, counted};
pub use window::{Window, turn, window};

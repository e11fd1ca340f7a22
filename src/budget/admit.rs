//! Whether a request that is about to leave the host fits: limits, what they keep back for the end, and what may refuse at all.
//!
//! Pure arithmetic on plain values. The accounts that decide are [`super::account`]'s business.

use super::account::{Decision, Standing, deciding};
use crate::api::{Account, Gate};

/// What a request asks for. Unit: counted tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Estimate of its input.
    pub input: u64,
    /// Estimate of its output, unclamped.
    pub output: u64,
    /// The provider was asked how many tokens its input has, whatever it said.
    pub counted: bool,
    /// How accounts stood when its agent was told to hand over what it has.
    pub told: &'a [Standing],
}

/// One account that decides.
struct Bound<'a> {
    account: &'a Account,
    standing: Standing,
    /// What may be used in the end: the limit, without what it keeps back.
    ceiling: u64,
}

impl Bound<'_> {
    fn gate(&self) -> Gate {
        self.account.terms.gate.unwrap_or_default()
    }

    /// Tells whether an estimate may refuse.
    fn estimates(&self) -> bool {
        self.gate() != Gate::Off
    }

    /// Gets what is left below the ceiling.
    fn left(&self) -> u64 {
        self.ceiling.saturating_sub(self.standing.used.saturating_add(self.standing.held))
    }
}

/// Gets what an account keeps back. Nothing, once the agent was told: until there is another limit, or less is used again.
fn kept_back(account: &Account, limit: u64, told: &[Standing]) -> u64 {
    let was_told = told.iter().any(|told| {
        told.node == account.node
            && told.provider == account.provider
            && told.limit == limit
            && told.resets == account.resets
            && account.used >= told.used
    });
    if was_told { 0 } else { account.terms.wrap_up.unwrap_or(0) }
}

/// Decides whether a request fits.
///
/// The input is never clamped; of the output as much is reserved as the tightest account has left. So requests pass side
/// by side while there is room, and one at a time near the end: whoever is clamped has taken all that was left. An account whose
/// gate is `off` refuses only when it is spent, and keeps nobody waiting.
pub fn admit(path: &[Account], ask: &Ask<'_>) -> Decision {
    // A request reserves at least one token: a run of requests estimated at nothing must not pass a full account.
    let input = ask.input.max(1);
    let all: Vec<Bound<'_>> = deciding(path)
        .filter_map(|account| {
            let standing = Standing::of(account)?;
            let ceiling = standing.limit.saturating_sub(kept_back(account, standing.limit, ask.told));
            Some(Bound { account, standing, ceiling })
        })
        .collect();
    let spent = all.iter().any(|one| one.standing.is_spent());
    if !spent && !ask.counted && all.iter().any(|one| one.gate() == Gate::Exact) {
        return Decision::Count;
    }
    let beyond = |one: &Bound<'_>, limit: u64| one.estimates() && one.standing.used.saturating_add(input) > limit;
    if let Some(one) = all.iter().find(|one| one.standing.is_spent() || beyond(one, one.standing.limit)) {
        let wanted = if one.standing.is_spent() { 0 } else { input };
        return Decision::Refused(Standing { wanted, ..one.standing.clone() });
    }
    if let Some(one) = all.iter().find(|one| one.standing.used >= one.ceiling || beyond(one, one.ceiling)) {
        return Decision::WrapUp(one.standing.clone());
    }
    if let Some(one) = all.iter().find(|one| one.estimates() && one.left() < input) {
        return Decision::Wait(one.standing.clone());
    }
    let room = all.iter().map(|one| one.left().saturating_sub(input)).min().unwrap_or(u64::MAX);
    Decision::Granted { held: input.saturating_add(ask.output.min(room)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Terms;

    fn account(used: u64, held: u64, terms: Terms) -> Account {
        Account {
            node: "n".into(),
            provider: "p".into(),
            limit: Some(1000),
            set: true,
            used,
            held,
            terms,
            ..Account::default()
        }
    }

    fn gate(gate: Gate) -> Terms {
        Terms { gate: Some(gate), ..Terms::default() }
    }

    fn asks(input: u64, output: u64) -> Ask<'static> {
        Ask { input, output, ..Ask::default() }
    }

    #[test]
    fn with_the_gate_off_only_a_limit_that_is_spent_refuses() {
        let open = |used, held| [account(used, held, gate(Gate::Off))];
        assert_eq!(admit(&open(999, 0), &asks(5000, 900)), Decision::Granted { held: 5000 }, "a hold is written");
        assert_eq!(admit(&open(100, 900), &asks(50, 900)), Decision::Granted { held: 50 }, "and nobody waits");
        assert!(matches!(admit(&open(1000, 0), &asks(1, 1)), Decision::Refused(_)));
        // Its twin.
        let shut = |used, held| [account(used, held, gate(Gate::Estimate))];
        assert!(matches!(admit(&shut(999, 0), &asks(5000, 900)), Decision::Refused(_)));
        assert!(matches!(admit(&shut(100, 900), &asks(50, 900)), Decision::Wait(_)));
        // Another account that decides as well decides for itself.
        let hard = Account { node: "global".into(), hard: true, ..account(999, 0, Terms::default()) };
        let both = [open(0, 0).into_iter().next().unwrap(), hard];
        assert!(matches!(admit(&both, &asks(5, 5)), Decision::Refused(s) if s.node == "global"));
    }

    #[test]
    fn an_exact_gate_wants_it_counted_once_and_a_spent_limit_does_not() {
        let exact = |used| [account(used, 0, gate(Gate::Exact))];
        assert_eq!(admit(&exact(0), &asks(10, 10)), Decision::Count);
        assert_eq!(admit(&exact(0), &Ask { counted: true, ..asks(10, 10) }), Decision::Granted { held: 20 });
        assert!(matches!(admit(&exact(1000), &asks(10, 10)), Decision::Refused(_)), "nobody need be asked");
        let both = [account(0, 0, gate(Gate::Off)), Account { provider: "*".into(), ..exact(0)[0].clone() }];
        assert_eq!(admit(&both, &asks(10, 10)), Decision::Count, "the strictest");
    }

    #[test]
    fn what_a_limit_keeps_back_is_opened_by_telling_of_it() {
        let keeps = |used, held| [account(used, held, Terms { wrap_up: Some(200), ..Terms::default() })];
        assert_eq!(admit(&keeps(700, 0), &asks(50, 900)), Decision::Granted { held: 100 }, "clamped before it");
        assert!(matches!(admit(&keeps(700, 60), &asks(50, 900)), Decision::Wait(_)));
        let Decision::WrapUp(told) = admit(&keeps(700, 0), &asks(150, 10)) else { panic!() };
        assert_eq!((told.used, told.limit), (700, 1000));
        let told = &[told][..];
        let then = |used, input| admit(&keeps(used, 0), &Ask { told, ..asks(input, 900) });
        assert_eq!(then(700, 150), Decision::Granted { held: 300 }, "up to the limit");
        assert_eq!(then(950, 20), Decision::Granted { held: 50 });
        assert!(matches!(then(1000, 1), Decision::Refused(_)));
        assert!(matches!(then(950, 60), Decision::Refused(_)));
        assert!(matches!(then(0, 900), Decision::WrapUp(_)), "after a reset it is kept back again");
        let raised = [Account { limit: Some(2000), ..keeps(1900, 0)[0].clone() }];
        assert!(matches!(admit(&raised, &Ask { told, ..asks(10, 10) }), Decision::WrapUp(_)), "and of another limit");
        let off = Terms { wrap_up: Some(200), ..gate(Gate::Off) };
        assert_eq!(admit(&[account(799, 0, off.clone())], &asks(500, 1)), Decision::Granted { held: 500 });
        assert!(matches!(admit(&[account(800, 0, off)], &asks(500, 1)), Decision::WrapUp(_)));
    }
}

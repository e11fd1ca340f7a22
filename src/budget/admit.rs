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
    /// The least that its input can be; what is estimated where `None`.
    pub least: Option<u64>,
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

    /// Gets the input that has to fit: a hard limit is not passed by an estimate that may be right, any other refuses nothing that
    /// may fit.
    fn needs(&self, ask: &Ask<'_>) -> u64 {
        let input = ask.input.max(1);
        ask.least.filter(|_| !self.account.hard).map_or(input, |least| least.clamp(1, input))
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
/// What an account refuses, it refuses by the estimate of the input where it is `hard`, else by the least that it can be. What is reserved is
/// the estimate, and of the output as much as the tightest account has left; where the estimate itself is more than is left, all that is left, for a request that
/// is alone there. So requests pass side by side while there is room, and one at a time near the end: whoever is clamped has taken all
/// that was left. An account whose gate is `off` refuses only when it is spent, and keeps nobody waiting.
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
    let beyond =
        |one: &Bound<'_>| one.estimates() && one.standing.used.saturating_add(one.needs(ask)) > one.standing.limit;
    if let Some(one) = all.iter().find(|one| one.standing.is_spent() || beyond(one)) {
        let wanted = if one.standing.is_spent() { 0 } else { one.needs(ask) };
        return Decision::Refused(Standing { wanted, ..one.standing.clone() });
    }
    // What is kept for the end is there when it comes: the estimate counts.
    let enters = |one: &&Bound<'_>| {
        let fits = one.standing.used.saturating_add(if one.estimates() { input } else { 1 }) <= one.ceiling;
        one.ceiling < one.standing.limit && !fits
    };
    if let Some(one) = all.iter().find(enters) {
        return Decision::WrapUp(one.standing.clone());
    }
    // Others may give back what they hold; where nobody holds anything, it is alone.
    let waits = |one: &&Bound<'_>| one.estimates() && one.left() < input && one.standing.held > 0;
    if let Some(one) = all.iter().find(waits) {
        return Decision::Wait(one.standing.clone());
    }
    let all_left = all.iter().filter(|one| one.estimates()).map(Bound::left).min().unwrap_or(u64::MAX);
    let room = all.iter().map(|one| one.left().saturating_sub(input)).min().unwrap_or(u64::MAX);
    Decision::Granted { held: input.min(all_left).saturating_add(ask.output.min(room)) }
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
    fn what_may_fit_is_not_refused_but_by_a_hard_limit() {
        let about = |used, held, input, least| {
            let ask = Ask { least: Some(least), ..asks(input, 900) };
            let plain = account(used, held, Terms::default());
            let hard = Account { hard: true, ..plain.clone() };
            (admit(&[plain], &ask), admit(&[hard], &ask))
        };
        let (plain, hard) = about(900, 0, 120, 90);
        assert_eq!(plain, Decision::Granted { held: 100 }, "all that is left");
        assert!(matches!(hard, Decision::Refused(s) if s.wanted == 120));
        let (plain, _) = about(900, 0, 120, 101);
        assert!(matches!(plain, Decision::Refused(s) if s.wanted == 101), "it cannot fit");
        // Beside others it waits, and is alone then.
        let (plain, hard) = about(800, 50, 160, 90);
        assert!(matches!((plain, hard), (Decision::Wait(_), Decision::Wait(_))));
        assert_eq!(about(800, 0, 160, 90).0, Decision::Granted { held: 200 });
        assert_eq!(about(800, 0, 100, 900).0, Decision::Granted { held: 200 }, "the least is not more than all");
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

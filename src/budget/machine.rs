//! The promise of decision 4 as a property: a model of many requests on one path, in random interleavings.
//!
//! Test only. Uses nothing but the public arithmetic of [`crate::budget`], the way a ledger does.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{Ask, Decision, Estimate, Settlement, Standing, Weights, admit, charge, charge_swept, raise, turn, window};
use crate::api::{Account, Gate, OnCross, Period, Terms};
use crate::types::Tokens;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A request asks: input and output estimate.
    Ask(u64, u64),
    /// The n-th open request's stream outgrows its hold by this much, and looks so far ahead.
    Raise(usize, u64, u64),
    /// The n-th open request ends: exact usage (input, output).
    Exact(usize, u64, u64),
    /// It is cut off.
    Partial(usize, u64),
    /// It never left.
    Release(usize),
    /// It is swept.
    Sweep(usize),
    /// So many hours go by; the limit of the host begins anew at midnight.
    Hours(u8),
    /// The operator says another limit of an account, adds to it, or has it begin anew.
    Limit(usize, u64),
    More(usize, u64),
    Reset(usize),
    /// Another gate.
    Gate(usize, Gate),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..60, 0u64..400).prop_map(|(i, o)| Step::Ask(i, o)),
        2 => (0usize..8, 1u64..300, 0u64..200).prop_map(|(n, by, ahead)| Step::Raise(n, by, ahead)),
        2 => (0usize..8, 0u64..80, 0u64..500).prop_map(|(n, i, o)| Step::Exact(n, i, o)),
        1 => (0usize..8, 0u64..300).prop_map(|(n, s)| Step::Partial(n, s)),
        1 => (0usize..8).prop_map(Step::Release),
        1 => (0usize..8).prop_map(Step::Sweep),
    ]
}

/// What happens to the limits themselves meanwhile.
fn change() -> impl Strategy<Value = Step> {
    let gate = prop::sample::select(vec![Gate::Off, Gate::Estimate, Gate::Exact]);
    prop_oneof![
        (1u8..30).prop_map(Step::Hours),
        (0usize..2, 0u64..1500).prop_map(|(at, limit)| Step::Limit(at, limit)),
        (0usize..2, 1u64..500).prop_map(|(at, more)| Step::More(at, more)),
        (0usize..2).prop_map(Step::Reset),
        (0usize..2, gate).prop_map(|(at, gate)| Step::Gate(at, gate)),
    ]
}

/// A request in flight.
#[derive(Clone)]
struct Open {
    id: usize,
    estimate: Estimate,
    /// What has streamed of it, counted, with its input.
    known: u64,
}

/// A path of two nodes with limits, the requests on it, and what the bound is made of.
struct Model {
    path: Vec<Account>,
    open: Vec<Open>,
    asked: usize,
    /// Who waits: estimates of input and output.
    waiting: Vec<(u64, u64)>,
    /// What the agent was told of.
    told: Vec<Standing>,
    /// Charges by request.
    charged: Vec<u64>,
    /// Requests open right after the last one was admitted, with what each had reserved then.
    at_last_grant: Vec<(usize, u64)>,
    /// The limits then; none where an estimate could refuse nothing.
    bounds: [Option<u64>; 2],
    /// What was charged to each account since it began anew.
    since: [u64; 2],
    /// Milliseconds since the epoch.
    now: i64,
    /// An input may be a third of its estimate.
    ranges: bool,
}

const HOUR: i64 = 3_600_000;

impl Model {
    fn new(bottle: u64, global: u64, terms: &Terms) -> Self {
        let account = |node: &str, limit, hard| Account {
            terms: terms.clone(),
            node: node.into(),
            provider: "p".into(),
            limit: Some(limit),
            set: true,
            hard,
            ..Account::default()
        };
        let path = vec![account("bottle:b", bottle, false), account("global", global, true)];
        let (open, waiting, told) = (Vec::new(), Vec::new(), Vec::new());
        let (charged, at_last_grant) = (Vec::new(), Vec::new());
        Model {
            path,
            open,
            asked: 0,
            waiting,
            told,
            charged,
            at_last_grant,
            bounds: [None; 2],
            since: [0; 2],
            now: 0,
            ranges: false,
        }
    }

    /// Has inputs be known in a range only, beside a hard limit of the host or a plain one of the bottle itself.
    fn ranging(mut self, ranges: bool, hard: bool) -> Self {
        self.ranges = ranges;
        if !hard {
            // Only what the bottle says decides beside it.
            let all =
                Account { hard: false, node: self.path[0].node.clone(), provider: "*".into(), ..self.path[1].clone() };
            self.path[1] = all;
        }
        self
    }

    /// Has the host's limit count by the day.
    fn daily(mut self) -> Self {
        let global = &mut self.path[1];
        global.per = Some(Period::Day);
        global.resets = window(self.now, &TimeZone::UTC, Period::Day).map(|window| window.end);
        self
    }

    /// Has what is over begin anew, as every transaction does first.
    fn turn(&mut self) {
        for (account, since) in self.path.iter_mut().zip(&mut self.since) {
            if turn(account, self.now, &TimeZone::UTC).is_some() {
                *since = 0;
            }
        }
    }

    /// Changes an account, and has those ask again who wait.
    fn change(&mut self, at: usize, change: impl Fn(&mut Account)) -> Result<(), TestCaseError> {
        self.turn();
        change(&mut self.path[at]);
        if self.path[at].used == 0 {
            self.since[at] = 0;
        }
        self.wake()
    }

    /// What holds whatever has happened.
    fn check(&self) -> Result<(), TestCaseError> {
        let held: u64 = self.open.iter().map(|open| open.estimate.held).sum();
        for (account, since) in self.path.iter().zip(self.since) {
            prop_assert_eq!(
                (account.held, account.used),
                (held, since),
                "{}: charged and reserved once each",
                account.node
            );
        }
        Ok(())
    }

    fn ask(&mut self, input: u64, output: u64) -> Result<(), TestCaseError> {
        self.turn();
        let least = self.ranges.then_some(input / 3);
        let asks = |counted: bool| Ask { input, least: least.filter(|_| !counted), output, counted, told: &self.told };
        let mut decision = admit(&self.path, &asks(false));
        let counted = decision == Decision::Count;
        if counted {
            let exact = self.path.iter().any(|account| account.terms.gate == Some(Gate::Exact));
            prop_assert!(exact, "nobody wants it counted");
            decision = admit(&self.path, &asks(true));
        }
        let held = match decision {
            Decision::Granted { held } => held,
            Decision::Wait(standing) => {
                prop_assert!(!self.open.is_empty(), "it waits for nobody: {standing:?}");
                self.waiting.push((input, output));
                return Ok(());
            }
            Decision::WrapUp(standing) => {
                self.told.retain(|told| !told.is_of(&standing));
                self.told.push(standing);
                // Once told, it is refused or passes.
                let least = least.filter(|_| !counted);
                let again = admit(&self.path, &Ask { input, least, output, counted, told: &self.told });
                let twice = matches!(&again, Decision::WrapUp(s) if self.told.last().is_some_and(|told| told.is_of(s)));
                prop_assert!(!twice, "it is told again and again");
                return Ok(());
            }
            Decision::Refused(standing) => {
                let is_hard = self.path.iter().any(|account| account.hard && account.terms.gate != Some(Gate::Off));
                let needs = least.filter(|_| !is_hard && !counted).unwrap_or(input).max(1);
                let fits = standing.used + needs <= standing.limit;
                prop_assert!(!fits, "refused though it fits: {standing:?}");
                return Ok(());
            }
            Decision::Count => return Err(TestCaseError::fail("it was counted")),
        };
        for (account, bound) in self.path.iter_mut().zip(&mut self.bounds) {
            let limit = account.limit.unwrap();
            prop_assert!(account.used < limit, "granted though it is spent");
            account.held += held;
            *bound = (account.terms.gate != Some(Gate::Off)).then_some(limit);
            prop_assert!(bound.is_none() || account.used + account.held <= limit, "granted beyond the limit");
        }
        let estimate = Estimate { input, output, held, seen: None };
        self.open.push(Open { id: self.asked, estimate, known: input.min(held) });
        self.asked += 1;
        self.charged.push(0);
        self.at_last_grant = self.open.iter().map(|o| (o.id, o.estimate.held)).collect();
        Ok(())
    }

    /// A stream goes on by `by` beyond its hold: it is raised, or cut. What was cut is charged by what had come.
    fn raise(&mut self, n: usize, by: u64, ahead: u64) -> Result<(), TestCaseError> {
        self.turn();
        let Some(open) = self.open.get_mut(n) else { return Ok(()) };
        let had = open.estimate.held;
        open.known = had + by;
        let raised = raise(&self.path, had, open.known, ahead, false);
        prop_assert!(raised.held >= open.known, "bytes went out that nothing is held for");
        open.estimate.held = raised.held;
        let over =
            |account: &Account| account.used + account.held - had + open.known > account.limit.unwrap_or(u64::MAX);
        let crosses = self.path.iter().any(over);
        prop_assert_eq!(!raised.crossed.is_empty(), crosses, "a limit is crossed when it is, and not before");
        for account in &mut self.path {
            account.held += raised.held - had;
            let limit = account.limit.unwrap_or(u64::MAX);
            prop_assert!(crosses || account.used + account.held <= limit, "looked ahead beyond the limit");
        }
        if raised.cuts {
            let streamed = self.open[n].known.saturating_sub(self.open[n].estimate.input);
            let how = Settlement::Partial { seen: None, streamed };
            self.settle(n, |e| charge(e, &how, &Weights::RAW).counted)?;
        }
        Ok(())
    }

    /// Those who wait ask again, in their order.
    fn wake(&mut self) -> Result<(), TestCaseError> {
        for (input, output) in std::mem::take(&mut self.waiting) {
            self.ask(input, output)?;
        }
        Ok(())
    }

    fn settle(&mut self, n: usize, cost: impl Fn(&Estimate) -> u64) -> Result<(), TestCaseError> {
        if n >= self.open.len() {
            return Ok(());
        }
        self.turn();
        let open = self.open.remove(n);
        let cost = cost(&open.estimate);
        for (account, since) in self.path.iter_mut().zip(&mut self.since) {
            let left = account.held.checked_sub(open.estimate.held);
            prop_assert!(left.is_some(), "held would fall below zero");
            account.held = left.unwrap();
            account.used += cost;
            *since += cost;
        }
        self.charged[open.id] = cost;
        self.wake()
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let w = Weights::RAW;
        let tokens = |input, output| Tokens { input, output, ..Tokens::default() };
        match *step {
            Step::Ask(input, output) => self.ask(input, output),
            Step::Raise(n, by, ahead) => self.raise(n, by, ahead),
            Step::Exact(n, i, o) => self.settle(n, |e| charge(e, &Settlement::Exact(tokens(i, o)), &w).counted),
            Step::Partial(n, streamed) => {
                self.settle(n, |e| charge(e, &Settlement::Partial { seen: None, streamed }, &w).counted)
            }
            Step::Release(n) => self.settle(n, |e| charge(e, &Settlement::Released, &w).counted),
            Step::Sweep(n) => self.settle(n, |e| charge_swept(e, &w).counted),
            Step::Hours(hours) => {
                self.now += i64::from(hours) * HOUR;
                self.turn();
                self.wake()
            }
            Step::Limit(at, limit) => self.change(at, |account| (account.limit, account.raised) = (Some(limit), 0)),
            Step::More(at, more) => self.change(at, |account| {
                account.limit = account.limit.map(|limit| limit + more);
                account.raised += more;
            }),
            Step::Reset(at) => self.change(at, |account| (account.used, account.warned) = (0, 0)),
            Step::Gate(at, gate) => self.change(at, |account| account.terms.gate = Some(gate)),
        }
    }

    /// Sums over the requests that were open at the crossing: actual - hold.
    fn over(&self) -> i128 {
        let over = |(id, held): &(usize, u64)| i128::from(self.charged[*id]) - i128::from(*held);
        self.at_last_grant.iter().map(over).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1500), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_interleaving_keeps_the_bound_and_gives_every_hold_back(
        steps in prop::collection::vec(step(), 1..120),
        bottle in 0u64..1500,
        global in 0u64..1500,
        wrap_up in prop::option::of(0u64..400),
        cuts in prop::option::of(any::<bool>()),
        (ranges, hard) in any::<(bool, bool)>(),
    ) {
        let on_cross = cuts.map(|cuts| if cuts { OnCross::Cut } else { OnCross::Finish });
        let mut model = Model::new(bottle, global, &Terms { wrap_up, on_cross, ..Terms::default() }).ranging(ranges, hard);
        for step in &steps {
            model.run(step)?;
        }
        while !model.open.is_empty() {
            model.run(&Step::Exact(0, 5, 5))?;
        }
        prop_assert!(model.waiting.is_empty(), "somebody waits for ever");
        // counted <= limit + sum over the requests open at the crossing of (actual - hold): after the last one that
        // was admitted, only those that were open then can still cost anything.
        let over = model.over();
        for account in &model.path {
            prop_assert_eq!(account.held, 0, "a hold was not given back");
            prop_assert_eq!(account.used, model.charged.iter().sum::<u64>(), "every node is charged once");
            prop_assert!(i128::from(account.used) <= i128::from(account.limit.unwrap()) + over.max(0));
        }
    }

    #[test]
    fn limits_that_begin_anew_or_change_meanwhile_keep_their_bound_and_keep_nobody_waiting(
        steps in prop::collection::vec(prop_oneof![5 => step(), 1 => change()], 1..160),
        limits in (0u64..1500, 0u64..1500),
        gate in prop::sample::select(vec![Gate::Off, Gate::Estimate, Gate::Exact]),
        wrap_up in prop::option::of(0u64..400),
        (ranges, hard) in any::<(bool, bool)>(),
    ) {
        let terms = Terms { wrap_up, gate: Some(gate), ..Terms::default() };
        let mut model = Model::new(limits.0, limits.1, &terms).daily().ranging(ranges, hard);
        for step in &steps {
            model.run(step)?;
            model.check()?;
        }
        while !model.open.is_empty() {
            model.run(&Step::Exact(0, 5, 5))?;
        }
        model.check()?;
        prop_assert!(model.waiting.is_empty(), "somebody waits for ever");
        // By the limit that held when the last one was admitted. What begins anew since then has less.
        for (account, bound) in model.path.iter().zip(model.bounds) {
            let Some(limit) = bound else { continue };
            prop_assert!(i128::from(account.used) <= i128::from(limit) + model.over().max(0), "{account:?}");
        }
    }

    #[test]
    fn near_the_end_one_request_passes_at_a_time(limit in 2u64..1000, input in 1u64..50, output in 50u64..500) {
        let mut model = Model::new(limit, limit, &Terms::default());
        let mut clamped = 0;
        for _ in 0..1000 {
            model.ask(input, output)?;
        }
        for open in &model.open {
            clamped += usize::from(open.estimate.held < input + output);
        }
        prop_assert!(clamped <= 1, "{clamped} requests share what is left");
    }
}

//! The promise of decision 4 as a property: a model of many requests on one path, in random interleavings.
//!
//! Test only. Uses nothing but the public arithmetic of [`crate::budget`], the way a ledger does.

use proptest::prelude::*;

use super::{Ask, Decision, Estimate, Settlement, Standing, Weights, admit, charge, charge_swept, raise};
use crate::api::{Account, OnCross, Terms};
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
}

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
        Model { path, open, asked: 0, waiting, told, charged: Vec::new(), at_last_grant: Vec::new() }
    }

    fn ask(&mut self, input: u64, output: u64) -> Result<(), TestCaseError> {
        let held = match admit(&self.path, &Ask { input, output, told: &self.told, ..Ask::default() }) {
            Decision::Granted { held } => held,
            Decision::Wait(standing) => {
                prop_assert!(!self.open.is_empty(), "it waits for nobody: {standing:?}");
                self.waiting.push((input, output));
                return Ok(());
            }
            Decision::WrapUp(standing) => {
                self.told.retain(|told| told.node != standing.node);
                self.told.push(standing);
                // Once told, it is refused or passes.
                let again = admit(&self.path, &Ask { input, output, told: &self.told, ..Ask::default() });
                let twice = matches!(&again, Decision::WrapUp(s) if Some(&s.node) == self.told.last().map(|t| &t.node));
                prop_assert!(!twice, "it is told again and again");
                return Ok(());
            }
            Decision::Refused(standing) => {
                let fits = standing.used + input.max(1) <= standing.limit;
                prop_assert!(!fits, "refused though it fits: {standing:?}");
                return Ok(());
            }
            Decision::Count => return Err(TestCaseError::fail("no gate is exact")),
        };
        for account in &mut self.path {
            account.held += held;
            prop_assert!(account.used + account.held <= account.limit.unwrap(), "granted beyond the limit");
        }
        let estimate = Estimate { input, output, held, seen: None };
        self.open.push(Open { id: self.asked, estimate, known: input });
        self.asked += 1;
        self.charged.push(0);
        self.at_last_grant = self.open.iter().map(|o| (o.id, o.estimate.held)).collect();
        Ok(())
    }

    /// A stream goes on by `by` beyond its hold: it is raised, or cut. What was cut is charged by what had come.
    fn raise(&mut self, n: usize, by: u64, ahead: u64) -> Result<(), TestCaseError> {
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
            let streamed = self.open[n].known - self.open[n].estimate.input;
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
        let open = self.open.remove(n);
        let cost = cost(&open.estimate);
        for account in &mut self.path {
            let left = account.held.checked_sub(open.estimate.held);
            prop_assert!(left.is_some(), "held would fall below zero");
            account.held = left.unwrap();
            account.used += cost;
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
        }
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
    ) {
        let on_cross = cuts.map(|cuts| if cuts { OnCross::Cut } else { OnCross::Finish });
        let mut model = Model::new(bottle, global, &Terms { wrap_up, on_cross, ..Terms::default() });
        for step in &steps {
            model.run(step)?;
        }
        while !model.open.is_empty() {
            model.run(&Step::Exact(0, 5, 5))?;
        }
        prop_assert!(model.waiting.is_empty(), "somebody waits for ever");
        // counted <= limit + sum over the requests open at the crossing of (actual - hold): after the last one that
        // was admitted, only those that were open then can still cost anything.
        let over: i128 = model
            .at_last_grant
            .iter()
            .map(|(id, held)| i128::from(model.charged[*id]) - i128::from(*held))
            .sum();
        for account in &model.path {
            prop_assert_eq!(account.held, 0, "a hold was not given back");
            prop_assert_eq!(account.used, model.charged.iter().sum::<u64>(), "every node is charged once");
            prop_assert!(i128::from(account.used) <= i128::from(account.limit.unwrap()) + over.max(0));
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

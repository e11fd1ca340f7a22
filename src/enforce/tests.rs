//! From a settle to the last action: on whom a crossing acts, how soon, and what is done where the ledger says nothing.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::api::{Limit, Terms};
use crate::ledger::conformance::{exact, granted, request, settle};
use crate::ledger::sqlite::{Options, SqliteLedger};
use crate::ledger::{GLOBAL, HoldRequest, Ledger};

/// What was done to a bottle, and when.
type Done = (Instant, &'static str, String);

/// A bottle that only remembers what was done to it.
struct Toy {
    id: String,
    provider: &'static str,
    path: Vec<Node>,
    policy: CutoffPolicy,
    done: Mutex<Vec<Done>>,
    recorded: AtomicUsize,
}

impl Toy {
    fn did(&self, what: &'static str, standing: &Standing) -> bool {
        let mut done = self.done.lock().unwrap();
        let is_new = !done.iter().any(|(_, before, _)| *before == what);
        done.push((Instant::now(), what, standing.node.clone()));
        is_new
    }

    fn actions(&self) -> Vec<&'static str> {
        let mut actions: Vec<_> = self.done.lock().unwrap().iter().map(|(_, what, _)| *what).collect();
        actions.dedup();
        actions
    }
}

impl Subject for Toy {
    fn id(&self) -> &str {
        &self.id
    }

    fn path(&self) -> &[Node] {
        &self.path
    }

    fn policy(&self) -> CutoffPolicy {
        self.policy
    }

    fn cut_scope(&self) -> CutScope {
        CutScope::All
    }

    fn cut(self: &Arc<Self>, scope: CutScope, standing: &Standing) -> bool {
        self.did(if scope == CutScope::All { "cut" } else { "cut metered" }, standing)
    }

    fn pause(self: &Arc<Self>, standing: &Standing) {
        self.did("pause", standing);
    }

    fn freeze(self: &Arc<Self>, standing: &Standing) -> bool {
        self.did("freeze", standing)
    }

    fn kill(self: &Arc<Self>, standing: &Standing) -> bool {
        self.did("kill", standing)
    }

    async fn crossed(self: &Arc<Self>, _: &Standing, _: bool) {
        // As long as a disk may take: nobody's action waits for it.
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.recorded.fetch_add(1, Ordering::SeqCst);
    }
}

/// The bottles of a host, on a real ledger.
struct Toys {
    all: Vec<Arc<Toy>>,
    ledger: SqliteLedger,
    silent: AtomicBool,
    readings: AtomicUsize,
    dir: PathBuf,
}

impl Drop for Toys {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bottles for Toys {
    type Bottle = Toy;

    fn running(&self) -> Vec<Arc<Toy>> {
        self.all.clone()
    }

    async fn spent(&self, bottles: &[Arc<Toy>]) -> Vec<Option<Vec<Standing>>> {
        self.readings.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            return vec![None; bottles.len()];
        }
        let paths = bottles.iter().map(|toy| (toy.path.clone(), toy.provider.to_owned())).collect();
        self.ledger.spent_on(paths).await.unwrap().into_iter().map(Some).collect()
    }
}

impl Toys {
    /// `count` bottles of each of the providers, each with its own policy in turn.
    fn new(count: usize, providers: &[&'static str]) -> Arc<Toys> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bb-enforce-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let ledger = SqliteLedger::open(&dir.join("a.db"), Options::default()).unwrap();
        let policies = [CutoffPolicy::Cutoff, CutoffPolicy::Kill, CutoffPolicy::Pause, CutoffPolicy::Freeze];
        let toy = |i: usize, provider: &&'static str| {
            let id = format!("{provider}{i}");
            let path = vec![format!("bottle:{id}"), "run:r".to_owned(), GLOBAL.to_owned()];
            let policy = policies[i % policies.len()];
            Arc::new(Toy { id, provider, path, policy, done: Mutex::default(), recorded: AtomicUsize::new(0) })
        };
        let all = providers.iter().flat_map(|provider| (0..count).map(move |i| toy(i, provider))).collect();
        let (silent, readings) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Toys { all, ledger, silent, readings, dir })
    }

    fn of(&self, id: &str) -> &Arc<Toy> {
        self.all.iter().find(|toy| toy.id == id).unwrap()
    }

    /// Has a bottle spend `tokens`, and tells enforcement what that crossed. Gets when that was settled.
    async fn spend(&self, enforcement: &Enforcement, id: &str, tokens: u64) -> Instant {
        let toy = self.of(id);
        let hold = HoldRequest {
            path: toy.path.clone(),
            provider: toy.provider.to_owned(),
            bottle: id.to_owned(),
            ..request(&uuid::Uuid::now_v7().to_string(), 1, 0)
        };
        let name = hold.id.clone();
        granted(&self.ledger, hold).await;
        let settled = self.ledger.settle(settle(&name, exact(tokens, 0))).await.unwrap();
        let at = Instant::now();
        settled.crossed.into_iter().for_each(|standing| enforcement.exhausted(id, standing));
        at
    }

    /// Waits until something was done to so many.
    async fn acted_on(&self, count: usize) {
        let acted = || self.all.iter().filter(|toy| !toy.actions().is_empty()).count();
        let all = async {
            while acted() < count {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), all).await.is_ok(), "{} of {count}", acted());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crossing_acts_on_a_hundred_bottles_at_once_and_waits_for_no_record() {
    let toys = Toys::new(100, &["claude"]);
    toys.ledger.set_limits(GLOBAL, vec![Limit::hard("claude", Some(1000))]).await.unwrap();
    let enforcement = Enforcement::start(Arc::downgrade(&toys));
    let one = Instant::now();
    toys.ledger.spent(toys.all[0].path.clone(), "claude").await.unwrap();
    let one = one.elapsed();
    let settled = toys.spend(&enforcement, "claude0", 1000).await;
    toys.acted_on(100).await;
    let last = toys.all.iter().map(|toy| toy.done.lock().unwrap()[0].0).max().unwrap() - settled;
    eprintln!(
        "from the settle to the last of 100 bottles: {last:?}, {:.1} single readings",
        last.as_secs_f64() / one.as_secs_f64()
    );
    assert!(last < Duration::from_millis(400), "{last:?}");
    assert_eq!(toys.readings.load(Ordering::SeqCst), 1, "one reading for all");
    assert!(toys.all.iter().all(|toy| toy.recorded.load(Ordering::SeqCst) == 0));
    let word = ["cut", "kill", "pause", "freeze"];
    for (i, toy) in toys.all.iter().enumerate() {
        assert_eq!(toy.actions(), [word[i % 4]], "{}: each by its own policy", toy.id);
    }
}

#[tokio::test]
async fn a_crossing_acts_on_those_whom_the_account_binds_and_on_nobody_else() {
    let toys = Toys::new(2, &["claude", "codex"]);
    toys.ledger
        .set_limits(GLOBAL, vec![Limit::of("claude", Some(1000)), Limit::of("codex", Some(1000))])
        .await
        .unwrap();
    // One has a budget of its own, which governs in place of the host's.
    toys.ledger.set_limits("bottle:claude1", vec![Limit::of("claude", Some(5000))]).await.unwrap();
    let enforcement = Enforcement::start(Arc::downgrade(&toys));
    toys.spend(&enforcement, "claude0", 1000).await;
    toys.acted_on(1).await;
    // The same node, and another account of it: that comes after the first was dealt with.
    toys.spend(&enforcement, "codex1", 1000).await;
    toys.acted_on(3).await;
    assert_eq!(toys.of("claude0").actions(), ["cut"]);
    assert!(toys.of("claude1").actions().is_empty(), "a nearer limit governs");
    assert_eq!((toys.of("codex0").actions(), toys.of("codex1").actions()), (vec!["cut"], vec!["kill"]));
}

#[tokio::test]
async fn who_waits_until_it_was_acted_on_finds_it_done() {
    let toys = Toys::new(4, &["claude"]);
    toys.ledger.set_limits(GLOBAL, vec![Limit::hard("claude", Some(1000))]).await.unwrap();
    let enforcement = Enforcement::start(Arc::downgrade(&toys));
    granted(&toys.ledger, HoldRequest { path: toys.all[0].path.clone(), ..request("h", 1, 0) }).await;
    let settled = toys.ledger.settle(settle("h", exact(1000, 0))).await.unwrap();
    enforcement.act_on(["claude1", "nobody"], &settled.crossed[0]).await;
    let done: Vec<_> = toys.all.iter().map(|toy| toy.actions()).collect();
    assert_eq!(done, [["cut"], ["kill"], ["pause"], ["freeze"]]);
    // Nobody is there any more who could act.
    drop(toys);
    enforcement.act_on(["claude1"], &settled.crossed[0]).await;
}

#[tokio::test]
async fn where_the_ledger_does_not_say_who_is_concerned_all_who_may_be_lose_what_is_metered() {
    let toys = Toys::new(4, &["claude"]);
    toys.ledger.set_limits("run:r", vec![Limit { terms: Terms::default(), ..Limit::of("*", Some(10)) }]).await.unwrap();
    toys.silent.store(true, Ordering::SeqCst);
    let enforcement = Enforcement::start(Arc::downgrade(&toys));
    toys.spend(&enforcement, "claude1", 10).await;
    toys.acted_on(4).await;
    let done: Vec<_> = toys.all.iter().map(|toy| toy.actions()).collect();
    let metered = vec!["cut metered"];
    assert_eq!(done, [metered.clone(), vec!["kill"], metered.clone(), metered], "whose request it was is known");
}

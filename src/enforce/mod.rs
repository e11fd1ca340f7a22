//! From a spent budget to an action on the host.
//!
//! The trigger lies in the egress plane (a settle that crossed, a hold that was refused), the action on bottles. No agent,
//! no proposal and no front end is in the loop, and nothing here asks for permission. What a bottle is, the controller
//! says by [`Subject`]; this file imports nothing of it, and nothing of supervision.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};

use crate::egress::Enforcer;
use crate::ledger::{Node, Standing};
use crate::types::{CutScope, CutoffPolicy};

/// Who made enforcement act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A budget.
    Budget,
    /// A person or a recipe, through the API.
    Operator,
    /// The bottle's own time-out.
    Timeout,
    /// Its front end went away.
    Lease,
    /// A guard of its workspace was lost.
    Guard,
}

impl By {
    /// Gets the word used in events and audit rows.
    pub fn as_str(self) -> &'static str {
        match self {
            By::Budget => "budget",
            By::Operator => "operator",
            By::Timeout => "timeout",
            By::Lease => "lease",
            By::Guard => "guard",
        }
    }

    /// Gets how much the word of somebody weighs where two have cut the same bottle. What nobody knows weighs like a policy's:
    /// no budget lifts it.
    pub fn weight(word: &str) -> u8 {
        match word {
            "budget" => 0,
            "operator" => 2,
            _ => 1,
        }
    }
}

/// A running bottle, as far as enforcement cares.
pub trait Subject: Send + Sync + 'static {
    /// Its launch id.
    fn id(&self) -> &str;
    /// Nodes of its budget, nearest first.
    fn path(&self) -> &[Node];
    /// What its policy says.
    fn policy(&self) -> CutoffPolicy;
    /// What a cut takes away.
    fn cut_scope(&self) -> CutScope;
    /// Cuts it because of `standing`; requests that hold tokens may finish. Takes effect before this returns. Tells whether it
    /// was not cut so before.
    fn cut(self: &Arc<Self>, scope: CutScope, standing: &Standing) -> bool;
    /// Stops its processes because of `standing`, soon.
    fn pause(self: &Arc<Self>, standing: &Standing);
    /// Saves its state and stops it because of `standing`, soon; its way out is cut before this returns. Tells whether it was
    /// not cut before.
    fn freeze(self: &Arc<Self>, standing: &Standing) -> bool;
    /// Kills it because of `standing`; its way out is gone before this returns. Tells whether it was not being killed.
    fn kill(self: &Arc<Self>, standing: &Standing) -> bool;
    /// Records that a budget of it is spent: once for each limit, and once more where enforcement has just `acted`.
    fn crossed(self: &Arc<Self>, standing: &Standing, acted: bool) -> impl Future<Output = ()> + Send;
}

/// Who knows the running bottles.
pub trait Bottles: Send + Sync + 'static {
    /// A bottle.
    type Bottle: Subject;
    /// Those that run now.
    fn running(&self) -> Vec<Arc<Self::Bottle>>;
    /// For each of `bottles` the accounts that govern or bind it and are spent, in one reading; `None` where the ledger did
    /// not say.
    fn spent(&self, bottles: &[Arc<Self::Bottle>]) -> impl Future<Output = Vec<Option<Vec<Standing>>>> + Send;
}

/// A budget that is spent, as the egress plane saw it.
#[derive(Debug)]
struct Spent {
    bottle: String,
    standing: Standing,
    /// Told when it was acted on.
    acted: Option<oneshot::Sender<()>>,
}

/// Hears of spent budgets and acts on bottles.
#[derive(Debug)]
pub struct Enforcement(mpsc::UnboundedSender<Spent>);

impl Enforcement {
    /// Starts enforcement over `bottles`, for as long as they exist.
    pub fn start<B: Bottles>(bottles: Weak<B>) -> Arc<Enforcement> {
        let (tell, mut heard) = mpsc::unbounded_channel::<Spent>();
        tokio::spawn(async move {
            while let Some(first) = heard.recv().await {
                // Many are refused for one account that is spent: what has come meanwhile is done with it.
                let mut all = vec![first];
                all.extend(std::iter::from_fn(|| heard.try_recv().ok()));
                let Some(bottles) = bottles.upgrade() else { return };
                act_on_all(&bottles, &all).await;
                all.into_iter().filter_map(|spent| spent.acted).for_each(|acted| {
                    let _ = acted.send(());
                });
            }
        });
        Arc::new(Enforcement(tell))
    }

    /// As [`Enforcer::exhausted`] of several bottles, for one who waits until they were acted on.
    pub async fn act_on(&self, bottles: impl IntoIterator<Item = &str>, standing: &Standing) {
        let told: Vec<_> = bottles
            .into_iter()
            .map(|bottle| {
                let (acted, has_acted) = oneshot::channel();
                let (bottle, standing) = (bottle.to_owned(), standing.clone());
                let _ = self.0.send(Spent { bottle, standing, acted: Some(acted) });
                has_acted
            })
            .collect();
        // Where nobody acts any more, there is no controller.
        for acted in told {
            let _ = acted.await;
        }
    }
}

impl Enforcer for Enforcement {
    fn exhausted(&self, bottle_id: &str, standing: Standing) {
        let _ = self.0.send(Spent { bottle: bottle_id.to_owned(), standing, acted: None });
    }
}

/// A crossing acts on every running bottle that the crossed account governs or binds, each by its own policy.
///
/// Acting comes before every wait but one, which is the one reading of the ledger that says who else is concerned. Where it
/// says nothing, who may be concerned is cut off from what is metered: nobody can tell that there is anything left.
async fn act_on_all<B: Bottles>(bottles: &Arc<B>, all: &[Spent]) {
    let running = bottles.running();
    let mut acted = Vec::new();
    // The bottles whose requests were refused for want of room are concerned although a few tokens may be left.
    let mut done = HashSet::new();
    for Spent { bottle, standing, .. } in all {
        let key = (bottle.as_str(), standing.node.as_str(), standing.provider.as_str());
        if done.insert(key)
            && let Some(bottle) = running.iter().find(|other| other.id() == bottle)
        {
            acted.push((Arc::clone(bottle), standing, act(bottle, standing)));
        }
    }
    let mut accounts: Vec<&Standing> = Vec::new();
    for Spent { standing, .. } in all {
        if !accounts.iter().any(|known| is_same(known, standing)) {
            accounts.push(standing);
        }
    }
    let on_path = |bottle: &&Arc<B::Bottle>| accounts.iter().any(|account| bottle.path().contains(&account.node));
    let others: Vec<Arc<B::Bottle>> = running.iter().filter(on_path).cloned().collect();
    let answers = if others.is_empty() { Vec::new() } else { bottles.spent(&others).await };
    for (bottle, spent) in others.iter().zip(answers) {
        for account in &accounts {
            let key = (bottle.id(), account.node.as_str(), account.provider.as_str());
            if !bottle.path().contains(&account.node) || done.contains(&key) {
                continue;
            }
            match &spent {
                Some(spent) if spent.iter().any(|spent| is_same(spent, account)) => {
                    acted.push((Arc::clone(bottle), account, act(bottle, account)));
                }
                Some(_) => {}
                None => {
                    bottle.cut(CutScope::Metered, account);
                }
            }
        }
    }
    let recorded = acted.into_iter().map(|(bottle, standing, acted)| {
        let standing = standing.clone();
        async move { bottle.crossed(&standing, acted).await }
    });
    // The next crossing does not wait for the disk.
    tokio::spawn(futures_util::future::join_all(recorded.collect::<Vec<_>>()));
}

/// Tells whether two standings are of one account.
fn is_same(one: &Standing, other: &Standing) -> bool {
    one.node == other.node && one.provider == other.provider
}

/// Acts on one bottle by its policy. Tells whether that changed anything at once.
fn act<S: Subject>(bottle: &Arc<S>, standing: &Standing) -> bool {
    match bottle.policy() {
        CutoffPolicy::Cutoff => bottle.cut(bottle.cut_scope(), standing),
        CutoffPolicy::Pause => {
            bottle.pause(standing);
            false
        }
        CutoffPolicy::Freeze => bottle.freeze(standing),
        CutoffPolicy::Kill => bottle.kill(standing),
    }
}

#[cfg(test)]
mod tests;

//! From a spent budget to an action on the host.
//!
//! The trigger lies in the egress plane (a settle that crossed, a hold that was refused), the action on bottles. No agent,
//! no proposal and no front end is in the loop, and nothing here asks for permission. What a bottle is, the controller
//! says by [`Subject`]; this file imports nothing of it, and nothing of supervision.

use std::future::Future;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

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
    /// The account that it would hit first, if that is spent.
    fn spent(&self) -> impl Future<Output = Option<Standing>> + Send;
    /// Cuts it because of `standing`; requests that hold tokens may finish. Takes effect before this returns.
    fn cut(self: &Arc<Self>, scope: CutScope, standing: &Standing);
    /// Stops its processes because of `standing`, soon.
    fn pause(self: &Arc<Self>, standing: &Standing);
    /// Saves its state and stops it because of `standing`, soon; its way out is cut before this returns.
    fn freeze(self: &Arc<Self>, standing: &Standing);
    /// Kills it because of `standing`; its way out is gone before this returns.
    fn kill(self: &Arc<Self>, standing: &Standing);
    /// Records that a budget of it is spent, once for each node.
    fn crossed(self: &Arc<Self>, standing: &Standing) -> impl Future<Output = ()> + Send;
}

/// Who knows the running bottles.
pub trait Bottles: Send + Sync + 'static {
    /// A bottle.
    type Bottle: Subject;
    /// Those that run now.
    fn running(&self) -> Vec<Arc<Self::Bottle>>;
}

/// A budget that is spent, as the egress plane saw it.
#[derive(Debug)]
struct Spent {
    bottle: String,
    standing: Standing,
}

/// Hears of spent budgets and acts on bottles.
#[derive(Debug)]
pub struct Enforcement(mpsc::UnboundedSender<Spent>);

impl Enforcement {
    /// Starts enforcement over `bottles`, for as long as they exist.
    pub fn start<B: Bottles>(bottles: Weak<B>) -> Arc<Enforcement> {
        let (tell, mut heard) = mpsc::unbounded_channel::<Spent>();
        tokio::spawn(async move {
            while let Some(spent) = heard.recv().await {
                let Some(bottles) = bottles.upgrade() else { return };
                act_on_all(bottles.as_ref(), &spent).await;
            }
        });
        Arc::new(Enforcement(tell))
    }
}

impl Enforcer for Enforcement {
    fn exhausted(&self, bottle_id: &str, standing: Standing) {
        let _ = self.0.send(Spent { bottle: bottle_id.to_owned(), standing });
    }
}

/// A crossing acts on every running bottle that the crossed node governs or binds, each by its own policy.
async fn act_on_all<B: Bottles>(bottles: &B, spent: &Spent) {
    for bottle in bottles.running() {
        if !bottle.path().contains(&spent.standing.node) {
            continue;
        }
        // The bottle whose request was refused for want of room is concerned although a few tokens may be left.
        let concerned =
            bottle.id() == spent.bottle || bottle.spent().await.is_some_and(|s| s.node == spent.standing.node);
        if concerned {
            act(&bottle, &spent.standing).await;
        }
    }
}

async fn act<S: Subject>(bottle: &Arc<S>, standing: &Standing) {
    match bottle.policy() {
        CutoffPolicy::Cutoff => bottle.cut(bottle.cut_scope(), standing),
        CutoffPolicy::Pause => bottle.pause(standing),
        CutoffPolicy::Freeze => bottle.freeze(standing),
        CutoffPolicy::Kill => bottle.kill(standing),
    }
    bottle.crossed(standing).await;
}

//! What the operator changes of budgets, how those of a bottle stand, and who goes on when there is more.
//!
//! A change that loosens has an effect only after its row is on the disk; one that tightens acts on every bottle that it
//! concerns, and both are done when it is answered. Must not open what is cut: only its operator does ([`Live::uncut`]), or a resume.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::live::Live;
use super::live::spent::{differs, within};
use super::{Controller, ledger_error};
use crate::api::{Account, Bottle, BudgetAct, BudgetChange, BudgetChanged, BudgetDone, BudgetPath, PathAccount};
use crate::budget::{Standing, binding, has_name, roles};
use crate::enforce::{Bottles, By};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Ledger, LedgerError};
use crate::name::Name;
use crate::types::Book;

/// How often it is looked whether a window is over that bottles are paused for. By the host's clock, which also goes on while
/// the host sleeps.
const LOOK: Duration = Duration::from_secs(1);

/// Longest reason of a change. Unit: bytes.
const MOST_REASON: usize = 4096;

impl Controller {
    /// Answers `POST /v1/budgets`.
    ///
    /// # Errors
    /// `usage` for what cannot be meant, and the ledger's kinds.
    pub async fn change_budget(self: &Arc<Self>, change: BudgetChange) -> Result<BudgetChanged> {
        if change.id.is_empty() || change.id.len() > 64 {
            return Err(Error::new(Kind::Usage, "a change needs an id of at most 64 characters"));
        }
        // It goes into the audit with everything else, or nothing does.
        if change.reason.as_ref().is_some_and(|reason| reason.len() > MOST_REASON) {
            return Err(Error::new(Kind::Usage, "the reason is too long").hint("say it in 4096 bytes"));
        }
        let node = change.node.clone();
        if let BudgetAct::Set { per: Some(per), .. } = &change.change
            && !has_name(&node)
        {
            let message = format!("a limit `{}` counts by name over launches, and {node} has no name", per.words());
            return Err(Error::new(Kind::Usage, message).hint("set it on global, agent:NAME or manifest:NAME"));
        }
        if change.provider != "*" && Name::parse(&change.provider).is_err() {
            let shown: String = change.provider.chars().take(60).collect();
            return Err(Error::new(Kind::Usage, format!("`{shown}` is not a provider's name"))
                .hint("write a name such as claude, or * for all together"));
        }
        let ledger = self.ledger(change.book).await?;
        let place = self.host.home.ledger();
        let known = ledger.accounts(Some(&node)).await.map_err(|e| ledger_error(&e, &place))?;
        if known.is_empty() && !self.has_node(&node) {
            let shown: String = node.chars().take(120).collect();
            return Err(Error::new(Kind::Usage, format!("there is no budget `{shown}`"))
                .hint("`bb budget show` lists those that count by name, `bb budget show SLUG` those of a bottle"));
        }
        let book = change.book;
        // As it is before: what follows may be done before its answer is here.
        let before: HashMap<String, Bottle> =
            self.running().iter().map(|live| (live.launch.id.clone(), live.view())).collect();
        let account = ledger.budget_change(change, By::Operator.as_str()).await.map_err(|e| match e {
            LedgerError::Misuse(text) => {
                Error::new(Kind::Usage, text).at(node.clone()).hint("`bb budget show` says how it stands")
            }
            e => ledger_error(&e, &place),
        })?;
        let now = Standing::of(&account);
        let mut done = match now.clone().filter(Standing::is_spent) {
            Some(now) => self.act_on_whom_it_governs(book, now, &before).await,
            None => Vec::new(),
        };
        done.extend(self.go_on_where_there_is_more(now.map(|now| (book, now))).await);
        Ok(BudgetChanged { account, done })
    }

    /// Acts on whomever a change leaves nothing, now and not at its next request.
    async fn act_on_whom_it_governs(
        self: &Arc<Self>,
        book: Book,
        now: Standing,
        before: &HashMap<String, Bottle>,
    ) -> Vec<BudgetDone> {
        let concerned = |live: &Arc<Live>| {
            let pays = now.provider == "*" || now.provider == live.launch.provider;
            live.launch.book == book && pays && live.path.contains(&now.node)
        };
        let lives: Vec<Arc<Live>> = self.running().into_iter().filter(concerned).collect();
        let paths = lives.iter().map(|live| (live.path.clone(), live.launch.provider.clone())).collect();
        // Where the ledger does not say whom it governs, it is taken to be all of them.
        let known = match lives.first() {
            Some(one) => one.ledger.spent_on(paths).await.ok(),
            None => return Vec::new(),
        };
        let is_it = |spent: &Standing| (&spent.node, &spent.provider) == (&now.node, &now.provider);
        let governed: Vec<Arc<Live>> = lives
            .into_iter()
            .enumerate()
            .filter(|(at, _)| {
                let spent = known.as_ref().map(|known| known.get(*at).map_or(&[][..], Vec::as_slice));
                spent.is_none_or(|spent| spent.iter().any(is_it))
            })
            .map(|(_, live)| live)
            .collect();
        self.enforcement().act_on(governed.iter().map(|live| live.launch.id.as_str()), &now).await;
        let followed = governed.into_iter().map(|live| {
            let now = now.clone();
            async move {
                let error = live.has_followed(&now).await.err().map(|error| error.to_string());
                let policy = live.binds().policy;
                let action = policy.as_str().to_owned();
                let changed = before.get(&live.launch.id).is_some_and(|before| differs(policy, before, &live.view()));
                let is_news = error.is_some() || changed;
                is_news.then(|| BudgetDone { bottle: live.slug.clone(), action, error })
            }
        });
        futures_util::future::join_all(followed).await.into_iter().flatten().collect()
    }

    /// Tells whether something is charged to a node, or could be.
    fn has_node(&self, node: &str) -> bool {
        let named = || {
            let (scope, name) = node.split_once(':')?;
            let dir = if scope == "agent" { "agents" } else { "bottles" };
            let name = Name::parse(name).ok()?;
            Some(self.host.home.root.join(dir).join(format!("{name}.md")).exists())
        };
        node == crate::ledger::GLOBAL
            || has_name(node) && named().unwrap_or(false)
            || self.running().iter().any(|live| live.path.iter().any(|of| of == node))
    }

    /// Answers `GET /v1/bottles/S/budget`.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn budget_path(&self, live: &Live) -> Result<BudgetPath> {
        let provider = live.launch.provider.clone();
        let accounts = live.ledger.path(live.path.clone(), &provider).await;
        let accounts = accounts.map_err(|e| ledger_error(&e, &self.host.home.ledger()))?;
        let roles = roles(&accounts);
        let with_role = |(account, (governs, binds)): (Account, (bool, bool))| {
            let left = account.limit.map(|limit| limit.saturating_sub(account.used.saturating_add(account.held)));
            PathAccount { left: left.filter(|_| account.set), governs, binds, account }
        };
        Ok(BudgetPath {
            bottle: live.slug.clone(),
            provider,
            weights: self.settings().unwrap_or_default().weights.describe(),
            accounts: accounts.into_iter().zip(roles).map(with_role).collect(),
        })
    }

    /// Lets bottles go on that were paused for a budget which has more now: it was raised, it began anew, or its window is over.
    /// `changed` is an account as it stood right after its change: a request that waited may have used it up since. It is a way
    /// in: settings with faults let nobody go on.
    pub(super) async fn go_on_where_there_is_more(&self, changed: Option<(Book, Standing)>) -> Vec<BudgetDone> {
        let mut going_on = Vec::new();
        for live in self.running() {
            let Some(paused) = live.paused_for() else { continue };
            let Ok(path) = live.ledger.path(live.path.clone(), &live.launch.provider).await else { continue };
            let holds = |standing: &Standing| match paused.is_for(standing) {
                true => {
                    let ours = |(book, now): &&(Book, Standing)| *book == live.launch.book && paused.is_for(now);
                    let changed = changed.as_ref().filter(ours).map(|(_, now)| now).filter(|now| !now.is_spent());
                    !paused.has_more(changed.unwrap_or(standing))
                }
                false => standing.is_spent(),
            };
            if binding(&path).iter().any(holds) {
                continue;
            }
            // Others that have room go on as well; what is told is what this change has done.
            let is_of_it = changed.as_ref().is_none_or(|(book, now)| *book == live.launch.book && paused.is_for(now));
            going_on.push(async move {
                let gone_on = within(async {
                    self.way_in(&live).await?;
                    live.thaw(Some("its budget has room again"), By::Budget).await
                });
                let gone_on = gone_on.await;
                if let Err(error) = &gone_on {
                    tracing::debug!(bottle = %live.slug, "letting it go on: {error}");
                }
                let error = gone_on.err().map(|error| error.to_string());
                is_of_it.then(|| BudgetDone { bottle: live.slug.clone(), action: "thaw".to_owned(), error })
            });
        }
        futures_util::future::join_all(going_on).await.into_iter().flatten().collect()
    }
}

/// Looks for bottles that may go on, for as long as there is a controller.
pub(super) async fn look_for_more(controller: Weak<Controller>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(controller) = controller.upgrade() else { return };
        controller.go_on_where_there_is_more(None).await;
    }
}

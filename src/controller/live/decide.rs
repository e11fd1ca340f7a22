//! What is decided about a bottle: cut or killed, by a budget, a person, its clock, its lease or a lost guard.
//!
//! Each decision takes effect first, is left with the keeper and is written then; it stands whatever dies or fills up
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Live, lock};
use crate::api::{Bottle, Cut, Egress, Ended, State};
use crate::bottle::wire::{Reply, Request};
use crate::controller::ledger_error;
use crate::controller::note::{End, Paused, Rules};
use crate::enforce::By;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Answer, EventQuery, Ledger, Node, Standing};
use crate::types::CutScope;

/// Longest that a keeper may take to take its bottle down.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an agent that is frozen has to put its session in order.
const FREEZING: Duration = Duration::from_secs(5);

impl Live {
    /// Cuts it, for a person or a recipe: every open stream of the scope is closed. The cut has taken effect when this
    /// returns, and is on the disk.
    ///
    /// # Errors
    /// The ledger's kinds, where the cut stands but could not be written yet; it is written when that can be done.
    pub async fn cut_off(self: &Arc<Self>, scope: CutScope, reason: &str, by: By) -> Result<()> {
        let cut = Cut {
            scope,
            reason: reason.to_owned(),
            by: by.as_str().to_owned(),
            node: None,
            provider: None,
            left: None,
        };
        if !self.enter_cut(&cut) {
            return Ok(());
        }
        if let Some(handle) = &*lock(&self.egress) {
            handle.cut(scope, reason, false);
        }
        // In a task of its own: a caller that goes away must not take the row with it.
        let live = Arc::clone(self);
        let recorded = tokio::spawn(async move { live.record_cut(&cut).await }).await;
        recorded.map_err(|e| Error::internal(e.to_string()))?.map_err(|e| {
            let mut error = ledger_error(&e, std::path::Path::new("the ledger"));
            error.message = format!("it is cut; that could not be written yet: {}", error.message);
            error
        })
    }

    /// Enters a cut, unless what stands is as wide and of somebody who weighs as much.
    pub(super) fn enter_cut(&self, cut: &Cut) -> bool {
        // Both under one lock: of two that cut at once, what is shown and saved is what stands.
        let mut note = lock(&self.note);
        if self.has_ended() || !note.enter(cut) {
            return false;
        }
        let stands = note.cut.clone();
        self.change(|b| {
            b.egress = Egress::Cut;
            b.reason = stands.as_ref().map(|cut| cut.reason.clone());
            b.cut = stands;
        });
        true
    }

    /// Opens the way out of one that is cut, for its operator, once that is written. Whether its budget has anything left is not
    /// asked: where it has not, its next request cuts it again.
    ///
    /// # Errors
    /// `usage` where it is not cut, and the ledger's kinds: then it stays cut.
    pub async fn uncut(self: &Arc<Self>, reason: Option<&str>) -> Result<()> {
        let stands = lock(&self.note).cut.clone();
        let Some(cut) = stands.filter(|_| !self.has_ended() && !self.is_doomed()) else {
            return Err(Error::new(Kind::Usage, format!("`{}` is not cut", self.slug)).hint("`bb ps` lists what is"));
        };
        let mut row = self.row(&opened(self.view()));
        row.cut = None;
        let data = json!({"action": "open", "scope": cut.scope, "reason": reason, "by": By::Operator.as_str()});
        let written = self.ledger.enforced(self.event("enforced", data, true), row).await;
        written.map_err(|e| ledger_error(&e, std::path::Path::new("the ledger")))?;
        {
            let egress = lock(&self.egress);
            let mut note = lock(&self.note);
            // Somebody cut it anew meanwhile: that stands.
            if note.cut.as_ref() == Some(&cut) {
                note.cut = None;
                if let Some(handle) = &*egress {
                    handle.set_cut(None);
                }
                self.change(|b| *b = opened(b.clone()));
            }
        }
        self.leave_note().await;
        self.save().await;
        Ok(())
    }

    /// Gets the budget that it is paused for, if that is why.
    pub fn paused_for(&self) -> Option<Paused> {
        if self.view().state == State::Paused { lock(&self.note).paused.clone() } else { None }
    }

    pub(super) async fn record_cut(&self, cut: &Cut) -> Answer<()> {
        self.leave_note().await;
        let data =
            json!({"action": "cutoff", "scope": cut.scope, "reason": cut.reason, "node": cut.node, "by": cut.by});
        self.enforced(data).await
    }

    async fn record_end(&self, end: &End) -> Answer<()> {
        let action = if end.ended == Ended::Frozen { "freeze" } else { "kill" };
        self.enforced(json!({"action": action, "reason": end.reason, "node": end.node, "by": end.by})).await
    }

    async fn enforced(&self, data: Value) -> Answer<()> {
        let (event, row) = (self.event("enforced", data, true), self.row(&self.view()));
        let written = self.ledger.enforced(event, row).await;
        written.map(|_| ()).inspect_err(|e| tracing::error!(bottle = %self.slug, "writing an enforcement: {e}"))
    }

    /// Leaves an allow-list that is in force with the keeper.
    pub async fn note_rules(&self, rules: Rules) {
        lock(&self.note).routes = Some(rules);
        self.leave_note().await;
    }

    /// Writes that its allow-list is another one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn record_routes(&self, data: Value) -> Answer<()> {
        self.ledger.append(self.event("routes", data, true)).await.map(|_| ())
    }

    async fn leave_note(&self) {
        let text = lock(&self.note).text();
        self.link.note(text).await;
    }

    /// Kills it: way out first, then the whole process tree, then the row. Tells whether nobody had decided its end before.
    pub fn end(self: &Arc<Self>, ended: Ended, reason: &str, by: By, node: Option<Node>) -> bool {
        let end = End { ended, reason: reason.to_owned(), by: by.as_str().to_owned(), node };
        {
            let mut note = lock(&self.note);
            // One that is being frozen may be killed all the same; it was frozen then.
            if note.end.as_ref().is_some_and(|standing| standing.ended == Ended::Frozen) && !self.has_ended() {
                let live = Arc::clone(self);
                tokio::spawn(async move { live.link.kill().await });
                return false;
            }
            if note.end.is_some() || self.has_ended() {
                return false;
            }
            note.end = Some(end.clone());
        }
        if let Some(handle) = &*lock(&self.egress) {
            handle.cut(CutScope::All, reason, false);
        }
        self.change(|b| {
            b.state = State::Stopping;
            b.reason = Some(reason.to_owned());
        });
        let live = Arc::clone(self);
        tokio::spawn(async move {
            live.leave_note().await;
            live.link.kill().await;
            let _ = live.record_end(&end).await;
            if tokio::time::timeout(PATIENCE, live.ended()).await.is_err() {
                tracing::error!(bottle = %live.slug, "its keeper does not take it down; killing the keeper");
                live.link.kill_keeper();
            }
        });
        true
    }

    /// Freezes it: its way out is cut, its agent is asked to end so that its session is whole, and what it leaves is kept.
    ///
    /// # Errors
    /// `usage` where it was launched without a session to keep.
    pub async fn freeze(self: &Arc<Self>, reason: &str, by: By, node: Option<Node>) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        self.has_session()?;
        let (live, reason) = (Arc::clone(self), reason.to_owned());
        // In a task of its own: a front end that goes away must not leave it half done.
        let done = tokio::spawn(async move { live.freeze_now(&reason, by, node).await });
        done.await.map_err(|e| Error::internal(e.to_string()))
    }

    pub(super) async fn freeze_now(self: &Arc<Self>, reason: &str, by: By, node: Option<Node>) {
        // Decided before anything ends: whatever does, it was frozen.
        let end =
            End { ended: Ended::Frozen, reason: reason.to_owned(), by: by.as_str().to_owned(), node: node.clone() };
        let mine = {
            let mut note = lock(&self.note);
            let free = note.end.is_none();
            if free {
                note.end = Some(end.clone());
            }
            free
        };
        if let Some(handle) = &*lock(&self.egress) {
            handle.cut(CutScope::All, reason, false);
        }
        self.change(|b| b.reason = Some(reason.to_owned()));
        self.leave_note().await;
        self.carry_out_freeze(self.view().state == State::Paused).await;
        if mine {
            let _ = self.record_end(&end).await;
        }
    }

    /// Goes on with the freeze that an earlier controller has decided and died over. Its way out stays closed meanwhile.
    pub fn go_on_freezing(self: &Arc<Self>, paused: bool) {
        let live = Arc::clone(self);
        tokio::spawn(async move { live.carry_out_freeze(paused).await });
    }

    /// Carries a freeze out, once however many ask for it: a second look at its home would come when its agent ends.
    async fn carry_out_freeze(self: &Arc<Self>, paused: bool) {
        let _turn = self.freezing.lock().await;
        if self.has_ended() {
            return;
        }
        if paused {
            // What is stopped hears nothing.
            let _ = self.link.ask(Request::Thaw).await;
        }
        if let Err(error) = self.save_home().await {
            tracing::warn!(bottle = %self.slug, "{error}");
            self.change(|b| b.warnings.push(error.message));
        }
        let _ = self.link.ask(Request::Signal { exec: 0, signal: libc::SIGTERM }).await;
        if tokio::time::timeout(FREEZING, self.ended()).await.is_err() {
            self.link.kill().await;
            if tokio::time::timeout(PATIENCE, self.ended()).await.is_err() {
                self.link.kill_keeper();
            }
        }
    }

    /// Stops its processes until they are let go on. It has taken effect when this returns, and is written. Of several who
    /// pause it the word of whoever weighs most stands.
    ///
    /// # Errors
    /// What the keeper answers; `usage` where it is not running.
    pub async fn pause(self: &Arc<Self>, reason: &str, by: By, budget: Option<&Standing>) -> Result<()> {
        let _turn = self.pausing.lock().await;
        match self.view().state {
            // A person may make a pause of their own of what a budget has paused: then no budget lets it go on.
            State::Paused if budget.is_some() || self.paused_for().is_none() => return Ok(()),
            State::Paused | State::Running => {}
            _ => return Err(self.does_not_run()),
        }
        self.able_keeper()?;
        if self.view().state == State::Running {
            self.answered(self.link.ask(Request::Pause).await?.0)?;
        }
        lock(&self.note).paused = budget.map(Paused::by);
        self.change(|b| {
            if matches!(b.state, State::Running | State::Paused) {
                b.state = State::Paused;
                b.reason = Some(reason.to_owned());
            }
        });
        self.leave_note().await;
        let node = budget.map(|standing| &standing.node);
        let data = json!({"action": "pause", "reason": reason, "node": node, "by": by.as_str()});
        self.enforced(data).await.map_err(|e| ledger_error(&e, std::path::Path::new("the ledger")))
    }

    /// Lets its processes go on, once that is written.
    ///
    /// # Errors
    /// As [`Live::pause`].
    pub async fn thaw(self: &Arc<Self>, reason: Option<&str>, by: By) -> Result<()> {
        let _turn = self.pausing.lock().await;
        match self.view().state {
            State::Paused => {}
            State::Running => return Ok(()),
            _ => return Err(self.does_not_run()),
        }
        let mut data = json!({"action": "thaw", "by": by.as_str()});
        if let Some(reason) = reason {
            data["reason"] = json!(reason);
        }
        self.enforced(data).await.map_err(|e| ledger_error(&e, std::path::Path::new("the ledger")))?;
        // What is crossed from now on is another matter.
        lock(&self.crossed).clear();
        self.answered(self.link.ask(Request::Thaw).await?.0)?;
        lock(&self.note).paused = None;
        self.change(|b| {
            if b.state == State::Paused {
                b.state = State::Running;
                b.reason = b.cut.as_ref().map(|cut| cut.reason.clone());
            }
        });
        self.leave_note().await;
        self.save().await;
        Ok(())
    }

    fn does_not_run(&self) -> Error {
        Error::new(Kind::Usage, format!("`{}` does not run", self.slug)).hint("`bb ps` lists what runs")
    }

    /// Refuses what a keeper of an older bb does not know: it would hang up.
    ///
    /// # Errors
    /// `backend_unavailable` for such a keeper.
    pub fn able_keeper(&self) -> Result<()> {
        if self.able {
            return Ok(());
        }
        Err(Error::new(
            Kind::BackendUnavailable,
            format!("`{}` was launched by an older bb, which cannot do this", self.slug),
        )
        .hint("let it end, and launch it again"))
    }

    fn answered(&self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Failed { error } => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks the agent to end (SIGTERM), and kills the bottle where it has not within `limit`.
    ///
    /// # Errors
    /// What the keeper answers, where it does not pass the signal on.
    pub async fn stop(self: &Arc<Self>, limit: Duration, reason: Option<&str>) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        if self.view().state == State::Paused {
            self.link.ask(Request::Thaw).await?;
        }
        // A refusal says that the agent has ended already: the bottle goes with it.
        self.link.ask(Request::Signal { exec: 0, signal: libc::SIGTERM }).await?;
        if tokio::time::timeout(limit, self.ended()).await.is_err() {
            let reason = reason.unwrap_or("stopped by the operator; its agent did not end by itself");
            self.end(Ended::Killed, reason, By::Operator, None);
            let _ = tokio::time::timeout(PATIENCE, self.ended()).await;
        }
        Ok(())
    }

    /// Records decisions of an earlier controller that has left them with the keeper and may not have written them.
    pub async fn record_inherited(&self, cut_written: bool) {
        let note = lock(&self.note).clone();
        if let Some(cut) = note.cut.filter(|_| !cut_written) {
            let _ = self.record_cut(&cut).await;
        }
        if let Some(end) = note.end {
            let query = EventQuery { bottle: Some(self.slug.clone()), ..EventQuery::default() };
            let events = self.ledger.events(query).await.unwrap_or_default();
            if !events
                .iter()
                .any(|e| e.kind == "enforced" && (e.data["action"] == "kill" || e.data["action"] == "freeze"))
            {
                let _ = self.record_end(&end).await;
            }
        }
    }

    /// The host has replaced a guarded file; the keeper has taken the bottle down already.
    pub fn lose_guard(self: &Arc<Self>, path: &str) {
        let reason = format!(
            "{path} was replaced on the host while the bottle ran, which took its guard away: the agent could have \
             written what your own tools would execute"
        );
        self.end(Ended::Policy, &reason, By::Guard, None);
    }

    /// Its front end has been away too long.
    pub fn lose_lease(self: &Arc<Self>, lease: &str) {
        self.end(Ended::LeaseLost, &format!("its front end (lease {lease}) went away"), By::Lease, None);
    }
}

/// Gets how a bottle is shown whose cut is lifted.
fn opened(mut bottle: Bottle) -> Bottle {
    (bottle.egress, bottle.cut, bottle.reason) = (Egress::Open, None, None);
    bottle
}

//! Estimates of a bottle's requests: what its conversations came to at their last turns, and what was learned of its models.
//!
//! The input is what the last turn of the conversation had, as its API said, and what the body has grown by since; where there is
//! none, the whole body by what was learned of the model. What the last turn had from a cache or wrote into one is taken to come from there
//! again, for a few minutes; all that is new is not. It is bounded, it asks nobody, and it decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::ledger::{Learned, Ledger, Lesson};
use crate::meter::estimate::{Bulk, Change, Content};
use crate::types::Tokens;

/// Conversations, and models, that are kept of one bottle.
const CONVERSATIONS: usize = 64;
const MODELS: usize = 64;
/// How much of the last turn may be gone and a request still go on from it. Unit: thousandths.
const MOST_LOST: u64 = 250;
/// By how much too large the size of media, and of text without words, can be.
const AT_LEAST: u64 = 4;
/// How long what was cached is taken to be there; the shortest lifetime is five minutes.
const CACHED: Duration = Duration::from_secs(240);
/// Lessons of a model after which they are written.
const WRITTEN: u32 = 8;

/// The last turn of a conversation.
#[derive(Clone, Debug)]
struct Turn {
    body: Content,
    said: Tokens,
    model: String,
    at: Instant,
}

#[derive(Debug, Default)]
struct Known {
    learned: Learned,
    /// Lessons since it was written; the first of all is written at once.
    fresh: u32,
}

#[derive(Debug, Default)]
struct State {
    turns: HashMap<u64, Turn>,
    models: HashMap<String, Known>,
}

/// Estimates a request that goes on from the last turn of its conversation, and the least that it can be; `None` where too little
/// is left of that.
fn going_on(body: &Content, turn: &Turn, learned: &Learned) -> Option<(Tokens, Tokens)> {
    let Change { fresh, gone, stands, lost } = body.since(&turn.body);
    if lost > MOST_LOST {
        return None;
    }
    let said = &turn.said;
    let had = said.all_input();
    // What is gone takes away what it is at least, so that more is held rather than less; and what it can be, for what is sure.
    let kept = had.saturating_sub(learned.whole_at_least(gone.text));
    let surely = had.saturating_sub(learned.whole(gone.text)).saturating_sub(gone.fixed());
    let written = said.cache_write.saturating_add(said.cache_write_long);
    let there = said.cache_read.saturating_add(written).saturating_mul(stands) / 1000;
    let cached = if turn.at.elapsed() < CACHED { there.min(kept) } else { 0 };
    let more = learned.grown(fresh.text).saturating_add(fresh.fixed());
    let least = learned.grown_at_least(fresh.text).saturating_add(fresh.fixed() / AT_LEAST);
    let input = Tokens { input: (kept - cached).saturating_add(more), cache_read: cached, ..Tokens::default() };
    // What was new then may be in the cache now.
    Some((input, Tokens { input: least, cache_read: surely - surely / 16, ..Tokens::default() }))
}

/// What is known in one bottle.
#[derive(Debug)]
pub struct Estimates {
    provider: String,
    agent: String,
    state: Mutex<State>,
    loaded: OnceCell<()>,
}

/// An estimate. Unit: tokens, not weighed.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The input, by classes: rather too high than too low.
    pub input: Tokens,
    /// The least that the input can be, by classes.
    pub least: Tokens,
    /// The output.
    pub output: u64,
    /// What can be learned of it.
    pub pupil: Pupil,
}

/// A request of which something will be learned when its usage is known.
#[derive(Clone, Debug)]
pub struct Pupil {
    estimates: Arc<Estimates>,
    model: String,
    /// Its body; `None` where that is not all that goes in.
    body: Option<Content>,
}

impl Estimate {
    /// Takes over what the provider has counted: the whole input, of which as much is cached as before.
    pub fn is_counted(&mut self, tokens: u64) {
        let cached = self.input.cache_read.min(tokens);
        self.input = Tokens { input: tokens - cached, cache_read: cached, ..Tokens::default() };
        self.least = self.input;
    }
}

impl Estimates {
    /// Knows nothing yet.
    pub fn new(provider: &str, agent: &str) -> Arc<Estimates> {
        let (provider, agent) = (provider.to_owned(), agent.to_owned());
        Arc::new(Estimates { provider, agent, state: Mutex::default(), loaded: OnceCell::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was learned earlier, once. Without it estimates are only worse.
    pub async fn load<L: Ledger>(&self, ledger: &L) {
        let load = || async {
            let lessons = ledger.lessons(&self.provider).await.map_err(drop)?;
            // What this agent has learned goes before what others have, and what is later before what is earlier.
            let (own, others): (Vec<_>, Vec<_>) = lessons.into_iter().partition(|lesson| lesson.agent == self.agent);
            let mut state = self.state();
            for Lesson { model, learned, .. } in own.into_iter().chain(others).take(MODELS) {
                state.models.entry(model).or_insert(Known { learned, fresh: 1 });
            }
            Ok::<(), ()>(())
        };
        // Where it cannot be read now, the next request tries again.
        let _ = self.loaded.get_or_try_init(load).await;
    }

    /// Estimates a request for `model`, which allows itself `most` output. `usual` is the output where neither it nor its model says
    /// how much.
    pub fn estimate(self: &Arc<Self>, body: Content, model: &str, most: Option<u64>, usual: u64) -> Estimate {
        let state = self.state();
        let none = Learned::default();
        let learned = state.models.get(model).map_or(&none, |known| &known.learned);
        let turn = state.turns.get(&body.conversation).filter(|turn| turn.model == model);
        let goes_on = turn.and_then(|turn| going_on(&body, turn, learned));
        let (input, least) = goes_on.unwrap_or_else(|| {
            let Bulk { text, .. } = body.bulk;
            // It may all be in a cache: others can have asked the same before.
            let least = learned.whole_at_least(text).saturating_add(body.bulk.fixed() / AT_LEAST);
            let input = learned.whole(text).saturating_add(body.bulk.fixed());
            (Tokens { input, ..Tokens::default() }, Tokens { cache_read: least, ..Tokens::default() })
        });
        let output = self.output(learned, most, usual);
        let pupil = Pupil { estimates: Arc::clone(self), model: model.to_owned(), body: Some(body) };
        Estimate { input, least, output, pupil }
    }

    /// Estimates a request whose input goes on from `context` tokens that its provider has.
    pub fn estimate_more(
        self: &Arc<Self>,
        body: &Content,
        context: u64,
        model: &str,
        (most, usual): (Option<u64>, u64),
    ) -> Estimate {
        let bulk = body.bulk;
        let state = self.state();
        let none = Learned::default();
        let learned = state.models.get(model).map_or(&none, |known| &known.learned);
        let own = learned.grown(bulk.text).saturating_add(bulk.fixed());
        let input = Tokens { input: own.saturating_add(context), ..Tokens::default() };
        let least = Tokens {
            input: learned.grown_at_least(bulk.text).saturating_add(bulk.fixed() / AT_LEAST),
            cache_read: context - context / 16,
            ..Tokens::default()
        };
        let output = self.output(learned, most, usual);
        let pupil = Pupil { estimates: Arc::clone(self), model: model.to_owned(), body: None };
        Estimate { input, least, output, pupil }
    }

    #[allow(clippy::unused_self, reason = "reads as what it is")]
    fn output(&self, learned: &Learned, most: Option<u64>, usual: u64) -> u64 {
        match (learned.answer(), most) {
            (Some(learned), Some(most)) => learned.min(most),
            (Some(learned), None) => learned,
            (None, most) => most.unwrap_or(usual),
        }
    }
}

impl Pupil {
    /// Learns what the request has come to. Gets what is to be kept of it, now and then.
    pub fn learn(self, said: &Tokens) -> Option<Lesson> {
        let Pupil { estimates, model, body } = self;
        let mut state = estimates.state();
        let State { turns, models } = &mut *state;
        if models.len() >= MODELS && !models.contains_key(&model) {
            return None;
        }
        let known = models.entry(model.clone()).or_default();
        known.learned.learn_answer(said.output);
        if let Some(body) = body {
            let all = said.all_input();
            let Content { bulk, conversation, .. } = body;
            known.learned.learn_whole(all.saturating_sub(bulk.fixed()), bulk.text);
            if let Some(turn) = turns.get(&conversation).filter(|turn| turn.model == model)
                && let Change { fresh, lost: 0, .. } = body.since(&turn.body)
                && let Some(grown) = all.checked_sub(turn.said.all_input())
            {
                known.learned.learn_grown(grown.saturating_sub(fresh.fixed()), fresh.text);
            }
            if turns.len() >= CONVERSATIONS
                && !turns.contains_key(&conversation)
                && let Some(oldest) = turns.iter().min_by_key(|(_, turn)| turn.at).map(|(key, _)| *key)
            {
                turns.remove(&oldest);
            }
            turns.insert(conversation, Turn { body, said: *said, model: model.clone(), at: Instant::now() });
        }
        known.fresh += 1;
        let due = known.fresh == 1 || known.fresh > WRITTEN;
        due.then(|| {
            known.fresh = 1;
            let (provider, agent) = (estimates.provider.clone(), estimates.agent.clone());
            Lesson { provider, model, agent, learned: known.learned.clone() }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(turns: usize) -> String {
        let word = "the quick brown fox jumps over the lazy dog. ";
        let messages: Vec<_> = (0..=turns).map(|n| json!({"role": "user", "content": word.repeat(50 + n)})).collect();
        json!({"model": "m", "messages": messages}).to_string()
    }

    fn said(input: u64, cache_read: u64, output: u64) -> Tokens {
        Tokens { input, cache_read, output, ..Tokens::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_estimated_by_the_last_one_and_by_what_has_come_since() {
        let estimates = Estimates::new("claude", "coder");
        let first = estimates.estimate(Content::of(body(0).as_bytes()), "m", Some(9000), 4096);
        assert_eq!((first.input.input, first.output), ((body(0).len() as u64).div_ceil(4), 9000));
        // Its provider says that it is far more than its bytes look like: tools, say.
        assert!(first.pupil.learn(&said(200, 5000, 30)).is_some(), "the first is kept at once");
        let second = estimates.estimate(Content::of(body(1).as_bytes()), "m", None, 4096);
        let more = (body(1).len() - body(0).len()) as u64;
        assert_eq!((second.input.cache_read, second.output), (5000, 4096));
        assert!((200 + more / 4..=200 + more).contains(&second.input.input), "{:?} {more}", second.input);
        // What is cached is gone after a while.
        tokio::time::advance(CACHED).await;
        let late = estimates.estimate(Content::of(body(1).as_bytes()), "m", None, 4096);
        assert_eq!((late.input.cache_read, late.input.all_input()), (0, second.input.all_input()));
        // Another model has a cache and figures of its own; a body that is shorter begins anew.
        let other = estimates.estimate(Content::of(body(1).as_bytes()), "n", None, 4096);
        assert_eq!(other.input.input, (body(1).len() as u64).div_ceil(4));
        // What was written to the cache is there at the next turn.
        second.pupil.learn(&Tokens { cache_write: 4000, cache_write_long: 1000, ..said(800, 0, 40) });
        let third = estimates.estimate(Content::of(body(1).as_bytes()), "m", None, 4096);
        assert_eq!((third.input.cache_read, third.input.input), (5000, 800));
        third.pupil.learn(&said(5800, 0, 40));
        let shorter = estimates.estimate(Content::of(body(0).as_bytes()), "m", None, 4096);
        assert!(shorter.input.cache_read == 0 && shorter.input.input > 500, "{:?}", shorter.input);
    }

    #[tokio::test]
    async fn answers_that_are_short_are_not_held_for_as_long_as_they_might_be() {
        let estimates = Estimates::new("claude", "coder");
        for n in 0..20 {
            let estimate = estimates.estimate(Content::of(body(n).as_bytes()), "m", Some(64_000), 4096);
            estimate.pupil.learn(&said(1000 + n as u64, 0, 300));
        }
        let estimate = |most| estimates.estimate(Content::of(body(3).as_bytes()), "m", most, 4096).output;
        assert_eq!((estimate(Some(64_000)), estimate(Some(100)), estimate(None)), (320, 100, 320));
    }

    #[tokio::test]
    async fn what_is_kept_of_conversations_is_bounded() {
        let estimates = Estimates::new("claude", "coder");
        for n in 0..3 * CONVERSATIONS {
            let body = json!({"messages": [{"content": format!("conversation {n}")}]}).to_string();
            estimates.estimate(Content::of(body.as_bytes()), &format!("m{n}"), None, 1).pupil.learn(&said(1, 0, 1));
        }
        let state = estimates.state();
        assert!(state.turns.len() <= CONVERSATIONS && state.models.len() <= MODELS);
    }
}

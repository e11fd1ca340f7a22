//! A subscription login of the host, as all bottles that work with it share it: its tokens are in the host's file and here, and
//! the host alone refreshes them.
//!
//! [`file`] reads and writes the file, [`refresh`] asks the real token endpoint, as often as [`pace`] allows, [`heard`] has what
//! the API says to a token, [`serve`] has requests of bottles; this decides when. A token is good until it is near its end or
//! the API has said 401 to it; where there is no other it is used while it lasts, since one bottle can have a 401 said to all.
//! One asks for another at a time, the others get what came of it; what came is
//! written back before it is used. The host's own CLI does the same with the same file, so it is looked at first, every time.
//! No bottle gets any of it: a request has the token put in on its way out.

pub mod file;
pub(super) mod heard;
mod leftover;
pub(super) mod pace;
pub(super) mod refresh;
mod serve;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::sync::watch;

use super::credential::Injection;
use super::deny::{Denial, Deny};
use super::record::Recorder;
use super::upstream::Connector;
use crate::api::{Login, LoginForm};
use file::{FileError, Stamp, Tokens, Wrote};
use heard::Heard;
use pace::{Pace, Wait};
use refresh::Refused;

/// How long before its end a token is not good any more. The host's CLIs, where they run, are earlier. Unit: seconds.
const NEAR: i64 = 120;
/// How long it takes at most until what the endpoint was asked for has come and is written.
pub const ENDING: Duration = refresh::ANSWER.saturating_add(Duration::from_secs(5));
/// A file that is being written is looked at again, so often and so soon.
const LOOKS: u32 = 4;
const SOON: Duration = Duration::from_millis(50);
/// When the host's CLI has written what it got for the refresh token that it used at the same moment.
const LATER: Duration = Duration::from_millis(500);
/// Tokens of before that are still looked for in answers.
const FORMER: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// By which way the endpoint is asked, and where it is told: those of the bottle whose request needs it.
#[derive(Clone)]
pub struct Way {
    /// Reaches it.
    pub connector: Connector,
    /// Where events go.
    pub recorder: Arc<Recorder>,
}

/// Tokens in use.
pub struct Held {
    tokens: Tokens,
    /// What the API has said to them.
    heard: Arc<Heard>,
    injection: Arc<Injection>,
}

impl Held {
    /// Gets what is put into requests.
    pub fn injection(&self) -> Arc<Injection> {
        Arc::clone(&self.injection)
    }

    /// Gets how long they last. Unit: seconds.
    pub fn left(&self) -> Option<i64> {
        self.tokens.expires.map(|expires| expires - now())
    }

    fn lasts(&self) -> bool {
        self.left().is_none_or(|left| left > 0)
    }

    fn is_near_its_end(&self) -> bool {
        self.left().is_some_and(|left| left <= NEAR)
    }

    fn is_good(&self) -> bool {
        !self.heard.is_refused() && !self.is_near_its_end()
    }

    fn has(&self, refresh: &SecretString) -> bool {
        self.tokens.refresh.as_ref().is_some_and(|own| own.expose_secret() == refresh.expose_secret())
    }

    /// Gets them while they last, though there are no better ones, else why there are none: what the API says to a token that
    /// lasts, it says itself.
    fn or(self: Arc<Self>, deny: Deny) -> Result<Arc<Held>, Deny> {
        if self.lasts() { Ok(self) } else { Err(deny) }
    }
}

#[derive(Default)]
struct State {
    /// Of the file, when it was last read.
    stamp: Option<Stamp>,
    held: Option<Arc<Held>>,
    /// The refresh token that the file still has, where what took its place could not be written.
    spent: Option<SecretString>,
    /// The refresh token that the endpoint says is good for nothing.
    gone: Option<SecretString>,
    /// Tokens of before.
    former: VecDeque<SecretString>,
    /// How often the endpoint is asked.
    pace: Pace,
}

impl State {
    /// Takes tokens into use.
    fn take(&mut self, tokens: Tokens) -> Arc<Held> {
        let access = tokens.access.expose_secret();
        let was = self.held.take().filter(|was| was.tokens.access.expose_secret() != access);
        if let Some(was) = was {
            let both = [&was.tokens.access].into_iter().chain(&was.tokens.refresh);
            both.for_each(|token| self.former.push_front(token.clone()));
            self.former.truncate(FORMER);
        }
        let heard = Arc::new(Heard::default());
        let looked_for = [&tokens.access].into_iter().chain(&tokens.refresh).chain(&tokens.id).chain(&self.former);
        let account = tokens.account.as_deref();
        let injection = Injection::of_login(&tokens.access, account, looked_for, Arc::clone(&heard));
        let held = Arc::new(Held { tokens, heard, injection: Arc::new(injection) });
        self.held = Some(Arc::clone(&held));
        held
    }

    fn is_gone(&self, refresh: &SecretString) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.expose_secret() == refresh.expose_secret())
    }
}

/// See the module.
pub struct Holder {
    form: LoginForm,
    file: PathBuf,
    state: Mutex<State>,
    /// One asks the endpoint at a time.
    turn: tokio::sync::Mutex<()>,
    /// Nobody is to ask any more.
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("form", &self.form).field("file", &self.file).finish_non_exhaustive()
    }
}

/// Checks a login's file, as it is now.
///
/// # Errors
/// What is wrong with it.
pub fn check(login: &Login) -> Result<(), FileError> {
    file::read(&login.file).and_then(|(_, text)| file::parse(login.form, &text)).map(|_| ())
}

impl Holder {
    /// Makes the holder of a login. Its file is read when it is first needed.
    pub fn new(login: &Login) -> Holder {
        let (state, turn, stop) = (Mutex::default(), tokio::sync::Mutex::default(), watch::Sender::new(false));
        Holder { form: login.form, file: login.file.clone(), state, turn, stop }
    }

    /// Gets whose login it is.
    pub fn form(&self) -> LoginForm {
        self.form
    }

    /// Gets tokens that are good now. Where they have to be asked for, that is done to its end, whether or not anybody waits: a
    /// refresh token is good for one time only.
    ///
    /// # Errors
    /// `login_expired`, or why the endpoint could not be asked.
    pub async fn current(self: &Arc<Self>, way: &Way) -> Result<Arc<Held>, Deny> {
        let held = self.look().await?;
        if held.is_good() {
            return Ok(held);
        }
        let (this, way) = (Arc::clone(self), way.clone());
        let asked = tokio::spawn(async move { this.renewed(&way).await });
        asked.await.unwrap_or_else(|_| Err(self.expired("it could not be refreshed")))
    }

    /// Has nobody ask the endpoint any more, and waits until what it was asked for has come and is written.
    pub async fn end(&self) {
        self.stop.send_replace(true);
        drop(self.turn.lock().await);
    }

    /// Gets the tokens as the file has them, or as they came since.
    async fn look(&self) -> Result<Arc<Held>, Deny> {
        let mut looked = self.look_once();
        for _ in 1..LOOKS {
            // Whoever does not put a whole file in its place shows a part of it for a moment.
            match &looked {
                Err(FileError::Form(_)) => {}
                Err(FileError::Unread(error)) if error.kind() == ErrorKind::NotFound => {}
                _ => break,
            }
            tokio::time::sleep(SOON).await;
            looked = self.look_once();
        }
        looked.map_err(|error| self.expired(&error.to_string()))
    }

    fn look_once(&self) -> Result<Arc<Held>, FileError> {
        let stamp = Stamp::of(&self.file)?;
        if let State { stamp: Some(known), held: Some(held), .. } = &*lock(&self.state)
            && *known == stamp
        {
            return Ok(Arc::clone(held));
        }
        let (stamp, text) = file::read(&self.file)?;
        let tokens = file::parse(self.form, &text)?;
        let mut state = lock(&self.state);
        state.stamp = Some(stamp);
        let refresh = tokens.refresh.as_ref().map(ExposeSecret::expose_secret);
        let unwritten = state.spent.as_ref().is_some_and(|spent| Some(spent.expose_secret()) == refresh);
        match &state.held {
            // It was touched, and still has what was used up.
            Some(held) if unwritten => Ok(Arc::clone(held)),
            Some(held) if held.tokens.access.expose_secret() == tokens.access.expose_secret() => Ok(Arc::clone(held)),
            _ => {
                state.spent = None;
                state.pace.other();
                Ok(state.take(tokens))
            }
        }
    }

    /// Sees to it that the tokens are good: asks for others, unless somebody has meanwhile.
    async fn renewed(&self, way: &Way) -> Result<Arc<Held>, Deny> {
        let _turn = self.turn.lock().await;
        let mut held = self.look().await?;
        // Where the file has another refresh token than the one that was refused, that is tried too, once.
        for _ in 0..2 {
            if held.is_good() {
                return Ok(held);
            }
            let Some(used) = held.tokens.refresh.clone() else {
                return held.or(self.expired("its token has expired, and there is no refresh token"));
            };
            let refused = !held.is_near_its_end();
            if let Some(deny) = self.not_now(&used, refused) {
                return held.or(deny);
            }
            match refresh::ask(self.form, &held.tokens, &used, &way.connector, self.stop.subscribe()).await {
                Ok(fresh) => {
                    let tokens = held.tokens.renewed(self.form, &fresh, now());
                    return self.put_back(tokens, used, refused, way).await?.or(self.ended_at_once());
                }
                Err(Refused::Failed(deny)) => {
                    tracing::warn!(file = %self.file.display(), "a login was not refreshed: {}", deny.message);
                    lock(&self.state).pace.failed(Instant::now(), deny.clone());
                    return held.or(deny);
                }
                Err(Refused::Gone) => {
                    lock(&self.state).gone = Some(used.clone());
                    held = match self.look_for_other(&used).await {
                        Ok(other) if !other.has(&used) => other,
                        same => {
                            tracing::warn!(file = %self.file.display(), "a login was not refreshed: its refresh token was refused");
                            self.tell(way, "refused", None);
                            same?
                        }
                    };
                }
            }
        }
        held.or(self.expired("it was refused"))
    }

    /// Gets why the endpoint is not asked at this moment, for others in place of tokens that have ended or else were `refused`.
    fn not_now(&self, used: &SecretString, refused: bool) -> Option<Deny> {
        let state = lock(&self.state);
        if state.is_gone(used) {
            return Some(self.expired("it was refused"));
        }
        state.pace.wait(Instant::now(), refused).map(|wait| match wait {
            Wait::Failed(deny) => deny,
            Wait::Young => self.ended_at_once(),
        })
    }

    /// Looks whether the file has other tokens than those of a refresh token that is good for nothing; twice, since whoever has
    /// used it at the same moment has to write what came of it.
    async fn look_for_other(&self, used: &SecretString) -> Result<Arc<Held>, Deny> {
        lock(&self.state).stamp = None;
        match self.look().await {
            Ok(other) if !other.has(used) => Ok(other),
            _ => {
                tokio::time::sleep(LATER).await;
                self.look().await
            }
        }
    }

    /// Writes fresh tokens into the file, then takes them into use.
    async fn put_back(&self, tokens: Tokens, used: SecretString, refused: bool, way: &Way) -> Result<Arc<Held>, Deny> {
        let spent = lock(&self.state).spent.clone();
        let (form, path) = (self.form, self.file.clone());
        let at = used.clone();
        let wrote = tokio::task::spawn_blocking(move || {
            let before: Vec<&SecretString> = std::iter::once(&at).chain(&spent).collect();
            let wrote = file::write_back(form, &path, &tokens, &before, now());
            (wrote, tokens, spent)
        });
        let (wrote, tokens, spent) = wrote.await.map_err(|_| self.expired("it could not be written"))?;
        lock(&self.state).pace.came(Instant::now(), refused);
        match wrote {
            Ok(Wrote::Theirs) => {
                lock(&self.state).stamp = None;
                self.look().await
            }
            Ok(Wrote::Written(stamp)) => {
                let held = {
                    let mut state = lock(&self.state);
                    (state.stamp, state.spent) = (Some(stamp), None);
                    state.take(tokens)
                };
                tracing::info!(file = %self.file.display(), "a login was refreshed");
                self.tell(way, "refreshed", None);
                Ok(held)
            }
            Err(error) => {
                let held = {
                    let mut state = lock(&self.state);
                    state.spent = Some(spent.unwrap_or(used));
                    state.take(tokens)
                };
                tracing::warn!(file = %self.file.display(), "a login was refreshed and could not be written back: {error}");
                self.tell(way, "unwritten", Some(&error.to_string()));
                Ok(held)
            }
        }
    }

    /// Enters what became of it as an event of the bottle that needed it.
    fn tell(&self, way: &Way, what: &str, reason: Option<&str>) {
        let mut data = json!({"form": self.form.as_str(), "file": self.file, "what": what});
        if let Some(reason) = reason {
            data["reason"] = json!(reason);
        }
        way.recorder.login(data);
    }

    fn ended_at_once(&self) -> Deny {
        self.expired("its token has ended, though it came just now; the clock of this host may be wrong")
    }

    fn expired(&self, why: &str) -> Deny {
        let (cli, again) = match self.form {
            LoginForm::Claude => ("Claude Code", "`claude`, then /login"),
            LoginForm::Codex => ("Codex", "`codex login`"),
        };
        Deny::new(
            Denial::LoginExpired,
            format!("bb: the host's login for {cli} is not good any more: {why}. Only the operator can log in again, on the host ({again})."),
        )
        .step("stop here; once the operator has logged in again, requests pass")
    }

    /// Gets the file that it is in.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

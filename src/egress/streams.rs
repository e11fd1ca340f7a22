//! The requests of one bottle that are under way, and the cut that closes them.
//!
//! A request is entered before it looks whether the bottle is cut, and a cut is set before it looks which requests are
//! under way: none can slip through between the two.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Method, Uri};
use tokio::sync::watch;

use super::deny::{Denial, Deny};
use super::link::Named;
use super::policy::Policy;
use super::route::Asked;
use super::spent;
use super::unread::{self, Unread};
use crate::api;
use crate::types::CutScope;

/// Requests under way in one bottle.
pub const AT_ONCE: usize = 256;

/// What a request was allowed as, so that it can be asked again when the allow-list changes.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub named: Arc<Named>,
    /// The port that its connection meant.
    pub port: u16,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Its method; `None` where only the connection is known (TLS that is passed through).
    pub method: Option<Method>,
    /// Its address.
    pub uri: Uri,
    /// Its headers; `None` where no route asked for any, and they are not known any more.
    pub headers: Option<HeaderMap>,
    /// Whether it has become a WebSocket.
    pub websocket: bool,
    /// The route that allowed it.
    pub route: Arc<api::Route>,
}

impl Subject {
    /// Tells whether `policy` allows it still, with the same credential or none.
    fn stands(&self, policy: &Policy) -> bool {
        let Some(method) = &self.method else {
            let now = policy.passes_through(&self.named.host, self.port);
            return now.is_some_and(|now| now.allow_private == self.route.allow_private);
        };
        if self.headers.is_none() && policy.asks_for_headers() {
            return false;
        }
        let none = HeaderMap::new();
        let asked = Asked {
            host: &self.named.host,
            port: self.port,
            tls: self.tls,
            method: method.as_str(),
            path: self.uri.path(),
            headers: self.headers.as_ref().unwrap_or(&none),
            websocket: self.websocket,
        };
        policy.check(asked).is_ok_and(|allowed| {
            let (now, then) = (&allowed.route, &self.route);
            let same = now.auth == then.auth && now.api == then.api && now.oauth == then.oauth;
            same && now.allow_private == then.allow_private
        })
    }
}

/// One request under way.
#[derive(Debug, Default)]
pub struct Stream {
    subject: OnceLock<Subject>,
    /// Its route went away on its way.
    withdrawn: AtomicBool,
    cancelled: AtomicBool,
    waker: AtomicWaker,
    metered: AtomicBool,
    holding: AtomicBool,
}

impl Stream {
    /// Says what it was allowed as.
    pub fn is_about(&self, subject: Subject) {
        // Said once: a request is allowed once.
        let _ = self.subject.set(subject);
    }

    /// Says that the request is on a model route.
    pub fn is_metered(&self) {
        self.metered.store(true, Ordering::Release);
    }

    /// Says that the request's hold was granted: it may finish when a budget ends.
    pub fn is_holding(&self) {
        self.holding.store(true, Ordering::Release);
    }

    /// Says that no hold of it stands any more: a WebSocket between two responses.
    pub fn holds_nothing(&self) {
        self.holding.store(false, Ordering::Release);
    }

    /// Tells whether the request was cancelled.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Tells whether the request was cancelled; wakes the task when it is. One task at a time.
    pub fn poll_cancelled(&self, cx: &Context<'_>) -> bool {
        if self.cancelled() {
            return true;
        }
        self.waker.register(cx.waker());
        self.cancelled()
    }

    /// Waits until the request is cancelled.
    pub async fn wait_cancelled(&self) {
        poll_fn(|cx| if self.poll_cancelled(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A cut that is in force.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What it takes away.
    pub scope: CutScope,
    /// What requests are told.
    pub deny: Deny,
}

/// All requests of a bottle that are under way.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<HashMap<u64, Arc<Stream>>>,
    /// Those whose client has gone, and of whose answers something is read on: they have no place any more.
    behind: Mutex<HashMap<u64, Arc<Stream>>>,
    next: AtomicU64,
    /// What of their answers waits to be read.
    unread: Unread,
    is_cut: AtomicBool,
    /// Told whenever some were cancelled.
    cancels: watch::Sender<()>,
    cut: RwLock<Option<Arc<Cut>>>,
}

impl Streams {
    /// Enters a request.
    pub fn enter(self: &Arc<Self>) -> Result<Entered, Deny> {
        let stream = Arc::new(Stream::default());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= AT_ONCE {
            return Err(Deny::new(Denial::LimitStreams, format!("bb: {AT_ONCE} requests are under way already."))
                .step("wait for some of them to end"));
        }
        open.insert(id, Arc::clone(&stream));
        Ok(Entered { streams: Arc::clone(self), id, stream })
    }

    /// Gets all that something is read of still.
    fn all(&self) -> Vec<Arc<Stream>> {
        // Who leaves something behind is in the second before it is out of the first.
        let of = |streams: &Mutex<HashMap<u64, Arc<Stream>>>| -> Vec<Arc<Stream>> {
            streams.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
        };
        let mut all = of(&self.open);
        all.extend(of(&self.behind));
        all
    }

    /// Gets what is told whenever requests were cancelled.
    pub fn cancels(&self) -> watch::Receiver<()> {
        self.cancels.subscribe()
    }

    /// Gets the cut that refuses a request, if one does.
    pub fn refuses(&self, metered: bool) -> Option<Arc<Cut>> {
        if !self.is_cut.load(Ordering::Acquire) {
            return None;
        }
        let cut = self.cut.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        (cut.scope == CutScope::All || metered).then_some(cut)
    }

    /// Gets what a request is told that was cancelled on its way.
    pub fn reason(&self, stream: &Stream) -> Deny {
        match self.refuses(true) {
            Some(cut) => cut.deny.clone(),
            None if stream.withdrawn.load(Ordering::Acquire) => {
                Deny::new(Denial::RouteMissing, "bb: the route of this request was taken back while it was under way.")
            }
            None => spent::cut("the bottle has ended"),
        }
    }

    /// Closes what `policy` allows no more. Called after it has taken its place: what is entered later was asked of it.
    pub fn withdraw(&self, policy: &Policy) {
        for stream in self.all() {
            if stream.subject.get().is_some_and(|subject| !subject.stands(policy)) {
                stream.withdrawn.store(true, Ordering::Release);
                stream.cancel();
            }
        }
        self.cancels.send_replace(());
    }

    /// Sets the cut in force, or lifts it; open streams stay. A narrower cut does not replace a wider one.
    pub fn set(&self, cut: Option<Cut>) {
        let mut current = self.cut.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some(new)) = (current.as_ref(), cut.as_ref())
            && now.scope == CutScope::All
            && new.scope == CutScope::Metered
        {
            return;
        }
        *current = cut.map(Arc::new);
        self.is_cut.store(current.is_some(), Ordering::Release);
    }

    /// Cuts: sets the cut and closes what it forbids. With `finish_open`, requests whose hold stands may finish.
    pub fn cut(&self, cut: Cut, finish_open: bool) {
        let scope = cut.scope;
        self.set(Some(cut));
        for stream in self.all() {
            let metered = stream.metered.load(Ordering::Acquire);
            let finishes = finish_open && metered && stream.holding.load(Ordering::Acquire);
            if (scope == CutScope::All || metered) && !finishes {
                stream.cancel();
            }
        }
        self.cancels.send_replace(());
    }

    /// Closes everything.
    pub fn cancel_all(&self) {
        for stream in self.all() {
            stream.cancel();
        }
        self.cancels.send_replace(());
    }
}

/// An entered request; dropped when it is over.
#[derive(Debug)]
pub struct Entered {
    streams: Arc<Streams>,
    id: u64,
    stream: Arc<Stream>,
}

impl Entered {
    /// Begins its answer.
    pub fn answer(&self) -> unread::Answer {
        self.streams.unread.answer()
    }

    /// Gives its place back, while something of its answer is read on: what cancels requests cancels that as well.
    pub fn leave_behind(&self) -> LeftBehind {
        let mut behind = self.streams.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.insert(self.id, Arc::clone(&self.stream));
        LeftBehind { streams: Arc::clone(&self.streams), id: self.id, stream: Arc::clone(&self.stream) }
    }

    /// Gets the request's part that others may hold.
    pub fn stream(&self) -> Arc<Stream> {
        Arc::clone(&self.stream)
    }
}

impl std::ops::Deref for Entered {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.streams.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// What of a request is read on although its client has gone; dropped when that is over.
#[derive(Debug)]
pub struct LeftBehind {
    streams: Arc<Streams>,
    id: u64,
    stream: Arc<Stream>,
}

impl LeftBehind {
    /// Waits until it is cancelled.
    pub async fn wait_cancelled(&self) {
        self.stream.wait_cancelled().await;
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.streams.behind.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(scope: CutScope) -> Cut {
        Cut { scope, deny: spent::cut("test") }
    }

    /// Enters a plain request, a metered one that waits for its hold, and one that has it.
    fn three(streams: &Arc<Streams>) -> [Entered; 3] {
        let three = [streams.enter().unwrap(), streams.enter().unwrap(), streams.enter().unwrap()];
        three[1].is_metered();
        three[2].is_metered();
        three[2].is_holding();
        three
    }

    #[test]
    fn a_cut_closes_what_its_scope_forbids() {
        for (scope, finish, closed) in [
            (CutScope::All, false, [true, true, true]),
            (CutScope::All, true, [true, true, false]),
            (CutScope::Metered, false, [false, true, true]),
            (CutScope::Metered, true, [false, true, false]),
        ] {
            let streams = Arc::new(Streams::default());
            let three = three(&streams);
            streams.cut(cut(scope), finish);
            assert_eq!(three.each_ref().map(|s| s.cancelled()), closed, "{scope:?} {finish}");
            assert!(streams.refuses(true).is_some());
            assert_eq!(streams.refuses(false).is_some(), scope == CutScope::All);
        }
    }

    #[test]
    fn a_narrower_cut_does_not_loosen_a_wider_one_and_lifting_lifts() {
        let streams = Arc::new(Streams::default());
        streams.set(Some(cut(CutScope::All)));
        streams.set(Some(cut(CutScope::Metered)));
        assert!(streams.refuses(false).is_some());
        streams.set(None);
        assert!(streams.refuses(true).is_none());
    }

    #[test]
    fn requests_at_once_are_bounded_and_give_their_place_back() {
        let streams = Arc::new(Streams::default());
        let mut all: Vec<_> = (0..AT_ONCE).map(|_| streams.enter().unwrap()).collect();
        assert_eq!(streams.enter().unwrap_err().kind, Denial::LimitStreams);
        all.pop();
        assert!(streams.enter().is_ok());
    }

    #[tokio::test]
    async fn what_is_read_on_behind_a_client_has_no_place_and_is_ended_with_the_others() {
        for (finish, ended) in [(false, true), (true, false)] {
            let streams = Arc::new(Streams::default());
            let [.., metered] = three(&streams);
            let mut all: Vec<_> = (1..AT_ONCE).map(|_| streams.enter().unwrap()).collect();
            assert!(streams.enter().is_err());
            let behind = metered.leave_behind();
            drop(metered);
            all.push(streams.enter().unwrap());
            streams.cut(cut(CutScope::Metered), finish);
            assert_eq!(behind.stream.cancelled(), ended, "a hold that stands may finish: {finish}");
            streams.cancel_all();
            tokio::time::timeout(std::time::Duration::from_secs(10), behind.wait_cancelled()).await.unwrap();
            drop(behind);
            assert!(streams.behind.lock().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_waiting_request_is_woken_by_the_cut() {
        let streams = Arc::new(Streams::default());
        let entered = streams.enter().unwrap();
        let waiting = tokio::spawn(async move { entered.wait_cancelled().await });
        tokio::task::yield_now().await;
        streams.cut(cut(CutScope::All), true);
        waiting.await.unwrap();
    }
}

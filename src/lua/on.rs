//! `bb.on`, and the one stream of the run's events behind it.
//!
//! The stream is read for every run that launches anything: it is how the host learns that a budget cut a bottle. Handlers
//! run one after the other, in order of `seq`; a wait for a bottle returns after the handlers have seen its end.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::errors::Report;
use super::host::{Host, gauge};
use super::vm::to_lua;
use crate::api::Event;
use crate::client::Events;
use crate::error::{Error, Kind, Result, nearest};

/// Every event type that a handler can ask for; docs/controller-api.md describes them.
pub const EVENTS: [&str; 15] = [
    "*",
    "bottle.running",
    "bottle.ended",
    "bottle.adopted",
    "request",
    "request.ended",
    "usage",
    "denied",
    "threshold",
    "crossed",
    "enforced",
    "budget",
    "routes",
    "login",
    "gap",
];

/// Events that wait for slow handlers; beyond it the stream itself waits, and the controller says `gap` in the end.
const WAITING: usize = 4096;

/// How long a wait stays for events that should have come.
const CATCH_UP: Duration = Duration::from_secs(3);

/// The reader of the run's events and its handlers.
pub(super) struct Pump {
    dispatch: OnceCell<(Function, Function)>,
    queue: RefCell<Option<mpsc::Sender<Event>>>,
    /// Names that have a handler.
    wanted: RefCell<Vec<String>>,
    /// Last `seq` read, and last `seq` whose handlers have run.
    read: watch::Sender<u64>,
    handled: watch::Sender<u64>,
    /// Slugs whose end was read, with its `seq`.
    ends: RefCell<std::collections::HashMap<String, u64>>,
    running: RefCell<Vec<AbortHandle>>,
}

impl Default for Pump {
    fn default() -> Self {
        Pump {
            dispatch: OnceCell::new(),
            queue: RefCell::default(),
            wanted: RefCell::default(),
            read: gauge(0),
            handled: gauge(0),
            ends: RefCell::default(),
            running: RefCell::default(),
        }
    }
}

impl Pump {
    /// Sets the prelude's `dispatch` and `protected`.
    pub fn set_dispatch(&self, dispatch: Function, protected: Function) {
        let _ = self.dispatch.set((dispatch, protected));
    }

    /// Gets the last `seq` read, 0 before the first.
    pub fn position(&self) -> u64 {
        *self.read.borrow()
    }

    /// Tells whether the recipe handles cuts: it has a handler for `crossed` or `enforced`.
    pub fn handles_cuts(&self) -> bool {
        self.wanted.borrow().iter().any(|name| name == "crossed" || name == "enforced")
    }

    /// Waits until the end of `slug` was read and, with `handlers`, its handlers have run; not for ever.
    pub async fn caught_up(&self, slug: &str, handlers: bool) {
        let waited = tokio::time::timeout(CATCH_UP, async {
            let mut read = self.read.subscribe();
            let seq = loop {
                if let Some(seq) = self.ends.borrow().get(slug) {
                    break *seq;
                }
                // Both senders live in `self`.
                let _ = read.changed().await;
            };
            if handlers && !self.wanted.borrow().is_empty() {
                let mut handled = self.handled.subscribe();
                let _ = handled.wait_for(|h| *h >= seq).await;
            }
        });
        if waited.await.is_err() {
            tracing::debug!(slug, "the end of a bottle came without its event");
        }
    }

    /// Stops reading and handling.
    pub fn stop(&self) {
        for task in self.running.borrow_mut().drain(..) {
            task.abort();
        }
    }
}

/// Starts reading the run's events.
pub(super) fn start(host: &Rc<Host>, events: Events) {
    let (queue, waiting) = mpsc::channel(WAITING);
    host.pump.queue.replace(Some(queue));
    let reading = tokio::task::spawn_local(read(host.clone(), events));
    let handling = tokio::task::spawn_local(handle(host.clone(), waiting));
    host.pump.running.borrow_mut().extend([reading.abort_handle(), handling.abort_handle()]);
}

async fn read(host: Rc<Host>, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                host.out.event(&event);
                note(&host, &event);
                let seq = event.seq;
                // Every event goes through the queue, so that `handled` never runs ahead of a handler.
                let queue = host.pump.queue.borrow().clone();
                if let Some(queue) = queue {
                    let _ = queue.send(event).await;
                }
                host.pump.read.send_if_modified(|read| {
                    let news = seq > *read;
                    *read = seq.max(*read);
                    news
                });
            }
            Err(error) => {
                host.fail(error.into());
                return;
            }
        }
    }
}

fn wanted(host: &Host, kind: &str) -> bool {
    host.pump.wanted.borrow().iter().any(|name| name == "*" || name == kind)
}

/// Enters what the host itself has to know.
fn note(host: &Host, event: &Event) {
    let Some(slug) = &event.bottle else { return };
    match event.kind.as_str() {
        "bottle.ended" => {
            host.pump.ends.borrow_mut().insert(slug.clone(), event.seq);
        }
        // It goes on: what comes of it from now on is its own.
        "enforced" if event.data["action"] == "open" => {
            host.bottles.borrow_mut().entry(slug.clone()).or_default().cut = None;
        }
        // What a budget had paused goes on: nothing of it was lost.
        "enforced" if event.data["action"] == "thaw" => {
            let mut bottles = host.bottles.borrow_mut();
            let kept = bottles.entry(slug.clone()).or_default();
            if std::mem::take(&mut kept.paused) {
                kept.cut = None;
            }
        }
        "enforced" if event.data["by"] == "budget" => {
            let reason = event.data["reason"].as_str().unwrap_or("its budget is spent");
            let mut bottles = host.bottles.borrow_mut();
            let kept = bottles.entry(slug.clone()).or_default();
            kept.paused = event.data["action"] == "pause" && kept.cut.is_none();
            kept.cut.get_or_insert_with(|| reason.to_owned());
        }
        _ => {}
    }
}

async fn handle(host: Rc<Host>, mut waiting: mpsc::Receiver<Event>) {
    while let Some(event) = waiting.recv().await {
        if wanted(&host, &event.kind)
            && let Err(report) = call(&host, &event).await
        {
            host.fail(report);
            return;
        }
        host.pump.handled.send_replace(event.seq);
    }
}

async fn call(host: &Host, event: &Event) -> std::result::Result<(), Report> {
    let Some((dispatch, protected)) = host.pump.dispatch.get() else { return Ok(()) };
    let Some(lua) = dispatch.weak_lua().try_upgrade() else { return Ok(()) };
    let failed = |e: mlua::Error| Report::from_vm(&e);
    let event = to_lua(&lua, event).map_err(failed)?;
    let args = MultiValue::from_iter([Value::Function(dispatch.clone()), event]);
    let answer = super::tasks::run(&lua, protected.clone(), args).map_err(failed)?.await.map_err(failed)?;
    let mut answer = answer.into_iter();
    match answer.next() {
        Some(Value::Boolean(false)) => Err(Report::from_value(&answer.next().unwrap_or(Value::Nil))),
        _ => Ok(()),
    }
}

/// `bb.on`: notes that there is a handler for `name`; the prelude keeps the function.
pub(super) fn on(_: &Lua, host: &Rc<Host>, name: String) -> Result<()> {
    if !EVENTS.contains(&name.as_str()) {
        let hint = match nearest(&name, EVENTS) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are: {}", EVENTS.join(", ")),
        };
        return Err(Error::new(Kind::UnknownKey, format!("there is no event '{name}'")).hint(hint));
    }
    host.pump.wanted.borrow_mut().push(name);
    Ok(())
}

//! `bb.spawn`, `bb.all`, `bb.race`, `bb.sleep`: tasks of a recipe, taking turns on its thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::errors::Report;
use super::host::{Host, gauge};
use super::values::Span;
use crate::error::{Error, Kind, Result};

/// One task.
struct Task {
    done: watch::Sender<bool>,
    /// What the prelude's `protected` answered: `true, results...` or `false, error`. `None` = cancelled.
    result: RefCell<Option<MultiValue>>,
    /// Somebody was given the result, or does not want it.
    heard: Cell<bool>,
    abort: RefCell<Option<AbortHandle>>,
}

/// The tasks of one recipe.
#[derive(Default)]
pub(super) struct Tasks {
    all: RefCell<BTreeMap<u64, Rc<Task>>>,
    next: Cell<u64>,
    settled: tokio::sync::Notify,
}

impl Tasks {
    fn get(&self, id: u64) -> Result<Rc<Task>> {
        self.all.borrow().get(&id).cloned().ok_or_else(|| Error::new(Kind::Usage, "that is no task of this recipe"))
    }

    /// Stops every task where it stands.
    pub fn abort_all(&self) {
        for task in self.all.borrow().values() {
            if let Some(abort) = task.abort.borrow().as_ref() {
                abort.abort();
            }
        }
        self.all.borrow_mut().clear();
    }

    /// Waits until no task runs any more; returns the first fault that nobody heard of.
    pub async fn finished(&self) -> Option<Report> {
        loop {
            let told = self.settled.notified();
            if self.all.borrow().values().all(|task| *task.done.borrow()) {
                break;
            }
            told.await;
        }
        let tasks = self.all.borrow();
        tasks.values().filter(|task| !task.heard.get()).find_map(|task| {
            let result = task.result.borrow();
            let mut values = result.as_ref()?.iter();
            (values.next() == Some(&Value::Boolean(false)))
                .then(|| Report::from_value(values.next().unwrap_or(&Value::Nil)))
        })
    }
}

/// Starts `protected(f, ...)` as a task; returns its number.
pub(super) fn spawn(lua: &Lua, host: &Rc<Host>, args: MultiValue) -> Result<u64> {
    let mut args = args;
    let broken = |e: mlua::Error| Error::internal(format!("a task cannot be started: {e}"));
    let Some(Value::Function(protected)) = args.pop_front() else {
        return Err(Error::internal("a task without a function"));
    };
    let future = run(lua, protected, args).map_err(broken)?;
    let tasks = &host.tasks;
    let id = tasks.next.get() + 1;
    tasks.next.set(id);
    let task = Rc::new(Task {
        done: gauge(false),
        result: RefCell::new(None),
        heard: Cell::new(false),
        abort: RefCell::new(None),
    });
    tasks.all.borrow_mut().insert(id, task.clone());
    let (mine, host) = (task.clone(), host.clone());
    let handle = tokio::task::spawn_local(async move {
        let result = future.await;
        let values = result.unwrap_or_else(|error| {
            // The prelude catches what a task raises; only the VM's own end (memory, a stop) comes out here.
            let report = Report::from_vm(&error);
            host.fail(report);
            MultiValue::new()
        });
        mine.result.replace(Some(values));
        mine.done.send_replace(true);
        host.tasks.settled.notify_waiters();
    });
    task.abort.replace(Some(handle.abort_handle()));
    Ok(id)
}

/// Makes a future of a Lua call on a thread of its own.
pub(super) fn run(
    lua: &Lua,
    function: Function,
    args: MultiValue,
) -> mlua::Result<impl Future<Output = mlua::Result<MultiValue>> + 'static> {
    let thread = lua.create_thread(function)?;
    let running = thread.clone().into_async::<MultiValue>(args)?;
    Ok(async move {
        // The thread is kept by name for as long as it runs, so that no collection takes it from under its future.
        let _kept = thread;
        running.await
    })
}

/// Waits for a task; returns what `protected` answered.
pub(super) async fn join(_: Lua, host: Rc<Host>, id: u64) -> Result<MultiValue> {
    let task = host.tasks.get(id)?;
    task.heard.set(true);
    let mut done = task.done.subscribe();
    // The sender lives in `task`, so this cannot fail.
    let _ = done.wait_for(|done| *done).await;
    let result = task.result.borrow().clone();
    result.ok_or_else(|| Error::new(Kind::Recipe, "the task was cancelled"))
}

/// Waits for the first of several tasks: with `failing` for the first that fails (nil if none does), else for the first
/// that ends. Returns its place in the list.
pub(super) async fn first(_: Lua, host: Rc<Host>, (ids, failing): (Vec<u64>, bool)) -> Result<Option<usize>> {
    let tasks = ids.iter().map(|id| host.tasks.get(*id)).collect::<Result<Vec<_>>>()?;
    let mut waiting: Vec<_> = tasks
        .iter()
        .enumerate()
        .map(|(at, task)| {
            let mut done = task.done.subscribe();
            Box::pin(async move {
                let _ = done.wait_for(|done| *done).await;
                at
            })
        })
        .collect();
    while !waiting.is_empty() {
        let (at, _, rest) = futures_util::future::select_all(waiting).await;
        waiting = rest;
        let failed = !matches!(tasks[at].result.borrow().as_ref().and_then(|r| r.front()), Some(Value::Boolean(true)));
        if failed || !failing {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Stops a task where it stands. One that has ended is left as it is.
pub(super) fn cancel(_: &Lua, host: &Rc<Host>, id: u64) -> Result<()> {
    let task = host.tasks.get(id)?;
    task.heard.set(true);
    if !*task.done.borrow() {
        if let Some(abort) = task.abort.borrow().as_ref() {
            abort.abort();
        }
        task.done.send_replace(true);
        host.tasks.settled.notify_waiters();
    }
    Ok(())
}

/// `bb.sleep("2s")`.
pub(super) async fn sleep(_: Lua, _: Rc<Host>, span: Value) -> Result<()> {
    let Span(span) = super::values::read("bb.sleep", span)?;
    tokio::time::sleep(span).await;
    Ok(())
}

//! The life of a recipe: read, allowed, run on a thread of its own, ended with everything it started, and its exit code.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mlua::{MultiValue, Value};
use serde_json::json;
use tokio::sync::Notify;

use super::args::Args;
use super::errors::{Report, Sources};
use super::grants::{self, Grants, Question, Trust};
use super::host::{Host, HostParts};
use super::log::Output;
use super::{tasks, vm};
use crate::api::UsageQuery;
use crate::error::{Error, Kind, Result};
use crate::home::Home;

/// The recipes that ship with bb. A file with one of these texts, wherever it lies, is one of them.
const SHIPPED: [(&str, &str); 2] = [
    ("quickstart", include_str!("../../recipes/quickstart.lua")),
    ("nightly", include_str!("../../recipes/nightly.lua")),
];

/// Longest recipe.
const LONGEST: u64 = 4 << 20;

/// Stack of the recipe's thread; the VM's own limits are reached long before.
const STACK: usize = 8 << 20;

/// Why a recipe has to stop before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Ctrl-C, or a request to terminate.
    Interrupted,
    /// `--timeout`.
    Timeout,
}

/// Tells a running recipe to stop, from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    reason: AtomicU8,
    told: Notify,
}

impl Stop {
    /// Asks the recipe to stop. The first reason counts, except that Ctrl-C outweighs a timeout.
    pub fn stop(&self, reason: Reason) {
        let code = match reason {
            Reason::Timeout => 1,
            Reason::Interrupted => 2,
        };
        self.reason.fetch_max(code, Ordering::SeqCst);
        self.told.notify_one();
    }

    /// Gets why it has to stop.
    pub fn reason(&self) -> Option<Reason> {
        match self.reason.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Reason::Timeout),
            _ => Some(Reason::Interrupted),
        }
    }

    async fn asked(&self) -> Reason {
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            self.told.notified().await;
        }
    }
}

/// A recipe that was read and may run.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: String,
    folder: PathBuf,
    source: String,
    needs: Vec<grants::Grant>,
    /// It is a flow that ships in the binary: its lines say nothing to whoever runs the command.
    shipped_flow: bool,
}

/// How a recipe is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose controller.
    pub home: Home,
    /// What stands after `--`.
    pub args: Vec<String>,
    /// What a flow is given in place of words: its `bb.args`.
    pub given: Option<serde_json::Value>,
    /// `--rehearse`.
    pub rehearse: bool,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// Where output goes.
    pub out: Output,
    /// Somebody sits at a terminal.
    pub terminal: bool,
}

impl Recipe {
    /// Finds a recipe: a file, else by its name one of the home's own (`recipes/NAME.lua`), else one that ships with bb.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn find(word: &Path, home: &Home) -> Result<Recipe> {
        let name = word.to_str().and_then(|name| crate::name::Name::parse(name).ok()).filter(|_| !word.is_file());
        let Some(name) = name else { return Recipe::read(word) };
        let own = home.root.join("recipes").join(format!("{name}.lua"));
        if own.symlink_metadata().is_ok() {
            return Recipe::read(&own);
        }
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name.as_str()) {
            Some((name, text)) => Recipe::from_text(name, PathBuf::from("."), (*text).to_owned()),
            None => Recipe::read(word),
        }
    }

    /// Makes the flow that ships in the binary.
    ///
    /// # Errors
    /// As [`Recipe::from_text`].
    pub fn shipped_flow(name: &str, folder: PathBuf, source: String) -> Result<Recipe> {
        Ok(Recipe { shipped_flow: true, ..Recipe::from_text(name, folder, source)? })
    }

    /// Reads a recipe and its header.
    ///
    /// # Errors
    /// `usage` where the file is missing or its header is wrong.
    pub fn read(path: &Path) -> Result<Recipe> {
        let wrong = |message: String| {
            let names = SHIPPED.map(|(name, _)| format!("bb run {name}")).join(", ");
            Error::new(Kind::Usage, message)
                .at(path.display().to_string())
                .hint(format!("name a recipe's file; those that come with bb are run by name: {names}"))
        };
        let meta = std::fs::metadata(path).map_err(|e| wrong(format!("the recipe cannot be read: {e}")))?;
        if meta.is_dir() {
            return Err(wrong("this is a directory, and a recipe is a file".into()));
        }
        if !meta.is_file() || meta.len() > LONGEST {
            return Err(wrong("a recipe is a file of at most 4 MiB".into()));
        }
        let source = std::fs::read_to_string(path).map_err(|e| wrong(format!("the recipe cannot be read: {e}")))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Recipe::from_text(&path.display().to_string(), folder, source)
    }

    /// Makes a recipe of its text.
    ///
    /// # Errors
    /// `usage` where its header is wrong.
    pub fn from_text(name: &str, folder: PathBuf, source: String) -> Result<Recipe> {
        let needs = grants::header(&source, name)?;
        Ok(Recipe { name: name.to_owned(), folder, source, needs, shipped_flow: false })
    }

    /// Gets what it declares.
    pub fn needs(&self) -> &[grants::Grant] {
        &self.needs
    }

    /// Asks for what it declares: shipped recipes and those of the home run as declared, others as `given` says, or the
    /// terminal (`ask`), which is remembered for this very text.
    ///
    /// # Errors
    /// `not_granted`.
    pub fn allow(&self, home: &Home, given: &[grants::Grant], ask: Option<&dyn Fn(&str) -> bool>) -> Result<()> {
        let own = home.root.join("recipes");
        let in_home = Path::new(&self.name).canonicalize().is_ok_and(|path| path.starts_with(&own));
        let trust = if in_home || SHIPPED.iter().any(|(_, text)| *text == self.source) || remembered(home, &self.source)
        {
            Trust::AsDeclared
        } else if given.is_empty() {
            Trust::Nobody
        } else {
            Trust::Given(given.to_vec())
        };
        let question = Question { name: &self.name, needs: &self.needs, trust };
        let asked = std::cell::Cell::new(false);
        let noted = ask.map(|ask| {
            let asked = &asked;
            move |text: &str| {
                asked.set(true);
                ask(text)
            }
        });
        grants::decide(&question, noted.as_ref().map(|f| f as &dyn Fn(&str) -> bool))?;
        if asked.get() {
            remember(home, &self.source);
        }
        Ok(())
    }
}

/// The file that holds the texts somebody at a terminal said yes to, one SHA-256 a line.
fn allowed_file(home: &Home) -> PathBuf {
    home.root.join("run").join("allowed-recipes")
}

fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn remembered(home: &Home, source: &str) -> bool {
    let digest = digest(source);
    std::fs::read_to_string(allowed_file(home)).is_ok_and(|text| text.lines().any(|line| line == digest))
}

/// Failing to remember only means to be asked again.
fn remember(home: &Home, source: &str) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(allowed_file(home));
    if let Err(error) = file.and_then(|mut f| writeln!(f, "{}", digest(source))) {
        tracing::debug!(%error, "the answer is not remembered");
    }
}

/// Runs a recipe to its end and returns the exit code. Its output and its faults have been printed by then.
pub async fn run(recipe: Recipe, settings: Settings, stop: Arc<Stop>) -> u8 {
    let outer = tokio::runtime::Handle::current();
    let (tell, told) = tokio::sync::oneshot::channel();
    let (timeout, out) = (settings.timeout, settings.out.clone());
    let mine = stop.clone();
    let thread = std::thread::Builder::new().name("recipe".into()).stack_size(STACK).spawn(move || {
        let _ = tell.send(on_its_thread(recipe, settings, mine, outer));
    });
    if let Err(error) = thread {
        out.note(
            &Report::from(Error::internal(format!("no thread for the recipe: {error}"))).render(&Sources::new(), false),
        );
        return 1;
    }
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let told = std::pin::pin!(told);
    let code = match futures_util::future::select(told, std::pin::pin!(deadline)).await {
        futures_util::future::Either::Left((code, _)) => code,
        futures_util::future::Either::Right(((), told)) => {
            stop.stop(Reason::Timeout);
            told.await
        }
    };
    // The sender is dropped unused only if the thread panicked, which has printed itself.
    code.unwrap_or(1)
}

fn on_its_thread(recipe: Recipe, settings: Settings, stop: Arc<Stop>, outer: tokio::runtime::Handle) -> u8 {
    let out = settings.out.clone();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out.note(&format!("error[internal]: no runtime for the recipe: {error}"));
            return 1;
        }
    };
    let local = tokio::task::LocalSet::new();
    let host = Host::new(HostParts {
        home: settings.home,
        recipe: recipe.name.clone(),
        folder: recipe.folder,
        grants: Grants::new(recipe.needs, std::env::current_dir().unwrap_or_default()),
        args: Args { given: settings.given, ..Args::parse(&settings.args) },
        out: settings.out,
        terminal: settings.terminal,
        shipped_flow: recipe.shipped_flow,
        rehearse: settings.rehearse,
        stop,
        outer,
    });
    host.sources.borrow_mut().insert(recipe.name.clone(), recipe.source.clone());
    out.record(json!({"v": 1, "type": "run.start", "run": host.run_id, "recipe": recipe.name}));
    let code = local.block_on(&runtime, async {
        let end = live(&host, &recipe.name, &recipe.source).await;
        host.close().await;
        finish(&host, end).await
    });
    runtime.shutdown_background();
    code
}

/// How a recipe came to its end.
enum End {
    /// It returned, and so did its tasks.
    Returned,
    /// `bb.exit`.
    Exit(u8),
    /// A fault.
    Failed(Report),
    /// It was stopped.
    Stopped(Reason),
}

/// Runs the recipe's own code and its tasks.
async fn live(host: &Rc<Host>, name: &str, source: &str) -> End {
    let vm = match vm::recipe_vm(host) {
        Ok(vm) => vm,
        // It may have been stopped before it was there.
        Err(error) => {
            let fault = || End::Failed(Error::internal(format!("the VM cannot be made: {error}")).into());
            return host.stop.reason().map_or_else(fault, End::Stopped);
        }
    };
    // A first line for the shell is no Lua; the line stays, so that numbers fit.
    let text = if source.starts_with("#!") { format!("--{source}") } else { source.to_owned() };
    let main = match vm.lua.load(text.as_str()).set_name(format!("@{name}")).into_function() {
        Ok(main) => main,
        Err(error) => return End::Failed(Report::from_vm(&error)),
    };
    let body = async {
        let args = MultiValue::from_iter([Value::Function(main)]);
        let answer = match tasks::run(&vm.lua, vm.protected.clone(), args) {
            Ok(running) => running.await,
            Err(error) => Err(error),
        };
        let mut values = match answer {
            Ok(values) => values.into_iter(),
            Err(error) => return End::Failed(Report::from_vm(&error)),
        };
        if values.next() != Some(Value::Boolean(true)) {
            return End::Failed(Report::from_value(&values.next().unwrap_or(Value::Nil)));
        }
        match host.tasks.finished().await {
            None => End::Returned,
            Some(report) => End::Failed(report),
        }
    };
    let end = tokio::select! {
        biased;
        reason = host.stop.asked() => End::Stopped(reason),
        () = host.has_ended() => match (host.exit_code(), host.failure()) {
            (Some(code), _) => End::Exit(code),
            (None, Some(report)) => End::Failed(report),
            (None, None) => End::Returned,
        },
        end = body => end,
    };
    // What a stop raised inside the recipe is the stop, not a fault of it.
    match host.stop.reason() {
        Some(reason) => End::Stopped(reason),
        None => end,
    }
}

/// Prints how it ended and decides the exit code: of several, 130 > 124 > 3 > 4 > 5 > 1; what a recipe handles, it may
/// turn into 0 by `bb.exit`.
async fn finish(host: &Rc<Host>, end: End) -> u8 {
    let cuts = host.untold_cuts();
    let mut reports = Vec::new();
    let mut code = match end {
        End::Returned => 0,
        End::Exit(code) => code,
        End::Failed(report) => {
            let code = report.error.kind.exit_code();
            reports.push(report);
            code
        }
        End::Stopped(Reason::Timeout) => {
            reports.push(Error::new(Kind::Timeout, "the recipe was stopped: its --timeout has passed").into());
            124
        }
        End::Stopped(Reason::Interrupted) => {
            let what = if host.args.given.is_some() { "stopped" } else { "the recipe was stopped" };
            reports.push(Error::new(Kind::Interrupted, what).into());
            130
        }
    };
    let handled = host.exit_code().is_some() || matches!(code, 124 | 130);
    if !handled && !cuts.is_empty() {
        for (slug, why) in cuts {
            let error =
                Error::new(Kind::Budget, format!("bottle {slug} was cut, and the recipe did not handle it: {why}"));
            reports.push(error.hint("wait for it, or handle the cut with bb.on(\"crossed\", ...)").into());
        }
        code = 3;
    }
    if !host.out.json {
        let sources = host.sources.borrow();
        for report in &reports {
            let known = host.shipped_flow && report.error.kind != Kind::Recipe;
            let shown = if known { report.without_trace() } else { report.clone() };
            host.out.note(&shown.render(&sources, host.out.colour_err));
        }
    }
    for line in host.left.take() {
        host.out.note(&line);
    }
    if host.out.json {
        let error = reports.first().map(|r| {
            let trace: Vec<_> =
                r.trace.iter().map(|f| json!({"file": f.file, "line": f.line, "name": f.name})).collect();
            json!({"error": r.error, "trace": trace})
        });
        host.out.record(json!({
            "v": 1, "type": "run.result", "run": host.run_id, "exit": code,
            "fault": error, "total": total(host).await,
        }));
    }
    code
}

/// Gets what the run used, where it launched anything.
async fn total(host: &Host) -> Option<crate::api::UsageTotal> {
    if !host.is_linked() {
        return None;
    }
    let client = crate::client::Client::connect(&host.home).await.ok()??;
    let query = UsageQuery { book: host.book.get(), run: Some(host.run_id.clone()), ..UsageQuery::default() };
    client.usage(&query).await.ok().map(|report| report.total)
}

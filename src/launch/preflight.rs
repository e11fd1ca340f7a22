//! What a preflight shows: everything that would hold, in the order in which a person would ask. Never a secret: of
//! credentials the names only.

use serde::Serialize;

use super::{Draft, Question};
use crate::api::{Account, Limit, Route, WorkspaceMode};
use crate::budget::grouped;
use crate::manifest::EnvValue;
use crate::types::{Book, CutScope, CutoffPolicy};

/// A line of the preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is about.
    pub key: &'static str,
    /// In words.
    pub value: String,
}

/// Most of a variable's value that is shown, characters.
const LONGEST_LITERAL: usize = 60;

/// How a person is told that nothing stands against something.
const NOTHING: &str = "none";

impl Draft {
    /// Gets the rows. `accounts` are those of the host, where they are known.
    pub fn rows(&self, accounts: Option<&[Account]>) -> Vec<Row> {
        self.all_rows(accounts, &self.questions)
    }

    /// Gets the rows where `open` is still to be asked.
    fn all_rows(&self, accounts: Option<&[Account]>, open: &[Question]) -> Vec<Row> {
        let launch = &self.launch;
        let mut rows = Vec::new();
        let mut row = |key: &'static str, value: String| rows.push(Row { key, value });
        row("agent", launch.agent.clone().unwrap_or_else(|| NOTHING.to_owned()));
        let bottles: Vec<&str> = self.merged.bottles.iter().map(crate::name::Name::as_str).collect();
        let folded: Vec<&str> = self.merged.folded.iter().map(crate::name::Name::as_str).collect();
        let order = if folded == bottles { String::new() } else { format!(" (merged: {})", folded.join(" < ")) };
        row("bottles", format!("{}{order}", bottles.join(" < ")));
        let exe = self.exe.as_ref().map(|exe| format!(", {}", exe.display())).unwrap_or_default();
        let book = if launch.book == Book::Rehearsal { ", in rehearsal" } else { "" };
        row("provider", format!("{}{exe}{book}", launch.provider));
        if let Some(workspace) = &launch.workspace {
            row("workspace", format!("{workspace}, {}", self.workspace_words()));
        }
        for mount in &launch.mounts {
            let at = mount.target.as_ref().map(|target| format!(" at {target}")).unwrap_or_default();
            row("mount", format!("{}{at}, {}", mount.source, if mount.rw { "writable" } else { "read-only" }));
        }
        for route in launch.routes.iter().filter(|route| !is_closed(route)) {
            row("route", words(route));
        }
        if launch.proxy {
            row("proxy", "an explicit one, for clients that insist; it allows nothing by itself".to_owned());
        }
        let credentials = if self.credentials.is_empty() { NOTHING.to_owned() } else { self.credentials.join(", ") };
        row("credentials", format!("{credentials} (put in by the host, never in the bottle)"));
        let skills: Vec<String> = self.merged.skills.iter().map(|skill| skill.value.to_string()).collect();
        if !skills.is_empty() {
            row("skills", skills.join(", "));
        }
        for budget in self.budget_rows(accounts) {
            row("budget", budget);
        }
        for (name, said) in &self.merged.env {
            let asked = open.iter().find(|question| question.name == *name);
            row("env", asked.map_or_else(|| variable(name, &said.value), unanswered));
        }
        row("when spent", self.when_spent());
        if let Some(ms) = launch.timeout_ms {
            row("timeout", format!("{} s", ms / 1000));
        }
        self.machine_rows(&mut row);
        rows
    }

    /// What held, less what only the moment says: budgets that are left. For whoever takes the bottle up again.
    pub fn held(&self) -> Vec<(String, String)> {
        // Whether it was answered already is of the moment as well.
        let rows = self.all_rows(None, &[]).into_iter().filter(|row| row.key != "agent");
        let mut held: Vec<(String, String)> = rows.map(|row| (row.key.to_owned(), row.value)).collect();
        // What is too long to be shown is held by what it comes to.
        let mut files: Vec<&crate::api::File> = self.launch.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        held.extend(files.into_iter().map(|file| ("file".to_owned(), format!("{} {}", file.path, mark(&file.text)))));
        if !self.merged.prompt.trim().is_empty() {
            held.push(("instructions".to_owned(), mark(&self.merged.prompt)));
        }
        let user = &self.merged.git_gate.user;
        for said in [&user.name, &user.email].into_iter().flatten() {
            held.push(("git user".to_owned(), said.value.clone()));
        }
        held
    }

    /// Says what happens when a budget is spent.
    fn when_spent(&self) -> String {
        let launch = &self.launch;
        let policy = launch.shutdown.unwrap_or(self.host_shutdown);
        let what = match policy {
            CutoffPolicy::Cutoff => match launch.cutoff_scope.unwrap_or(self.host_scope) {
                CutScope::All => "cutoff of all routes",
                CutScope::Metered => "cutoff of the model APIs, the other routes stay",
            },
            CutoffPolicy::Freeze if launch.session.is_none() => "freeze (it has no session to keep: it is stopped)",
            policy => policy.as_str(),
        };
        let whose = if launch.shutdown.is_some() { "" } else { ", the host's setting" };
        format!("{what}{whose}")
    }

    fn workspace_words(&self) -> &'static str {
        match self.launch.workspace_mode.unwrap_or_default() {
            WorkspaceMode::Mount => "the directory itself, writable",
            WorkspaceMode::Overlay => "a layer over it: bb diff shows what was written, bb apply brings it over",
            WorkspaceMode::Copy => "a copy of it",
        }
    }

    /// What makes the sandbox, and what it may use.
    fn machine_rows(&self, row: &mut impl FnMut(&'static str, String)) {
        row("backend", self.launch.backend.clone().unwrap_or_else(|| "linux".to_owned()));
        if let Some(image) = &self.launch.image {
            row("image", image.clone());
        }
        let Some(limits) = &self.launch.limits else { return };
        let bytes =
            |n: u64| if n.is_multiple_of(1 << 30) { format!("{} GiB", n >> 30) } else { format!("{} MiB", n >> 20) };
        let said = [
            limits.memory.map(|n| format!("memory {}", bytes(n))),
            limits.cpus.map(|n| format!("{} processors", f64::from(n) / 1000.0)),
            limits.pids.map(|n| format!("{n} processes")),
            limits.disk.map(|n| format!("disk {}", bytes(n))),
            limits.best_effort.then(|| "where they can be had".to_owned()),
        ];
        row("limits", said.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }

    /// The budget path, nearest first, with what is left where it is known.
    fn budget_rows(&self, accounts: Option<&[Account]>) -> Vec<String> {
        let mut rows = Vec::new();
        let mut add = |whose: String, limits: &[Limit], used: &dyn Fn(&Limit) -> Option<u64>| {
            let of = |limit: &&Limit| limit.provider == "*" || limit.provider == self.launch.provider;
            for limit in limits.iter().filter(of) {
                let scope = if limit.provider == "*" { String::new() } else { format!(" for {}", limit.provider) };
                let hard = if limit.hard { ", hard" } else { "" };
                let per = limit.per.map(|per| format!(" {}", per.words())).unwrap_or_default();
                let amount = match (limit.tokens, used(limit)) {
                    (None, _) => "unlimited".to_owned(),
                    (Some(tokens), Some(used)) => {
                        format!("{} tokens{per}, {} left", grouped(tokens), grouped(tokens.saturating_sub(used)))
                    }
                    (Some(tokens), None) => format!("{} tokens{per}", grouped(tokens)),
                };
                rows.push(format!("{whose}{scope}: {amount}{hard}"));
            }
        };
        let counted = self.launch.counted();
        let used = |node: &str, provider: &str| {
            let its = accounts?.iter().find(|a| a.node == node && a.provider == provider);
            Some(its.map_or(0, |account| account.used))
        };
        // One that begins anew has spent nothing, whatever the bottle spent that it takes up.
        let own = format!("bottle:{}", counted.bottle);
        add("this bottle".to_owned(), &self.launch.budget, &|limit| match self.launch.budget_anew {
            true => accounts.map(|_| 0),
            false => used(&own, &limit.provider),
        });
        for node in &self.launch.nodes {
            let scope = match node.scope {
                crate::api::BudgetScope::Agent => "agent",
                crate::api::BudgetScope::Manifest => "bottle manifest",
            };
            let (its, named) = (node.node(&counted.nodes), node.by_name());
            add(format!("{scope} {}", node.name), &node.limits, &|limit| {
                used(if limit.per.is_some() { &named } else { &its }, &limit.provider)
            });
        }
        add("global".to_owned(), &self.global, &|limit| used(crate::ledger::GLOBAL, &limit.provider));
        if rows.is_empty() {
            rows.push("none: it is metered, and nothing will cut it off".to_owned());
        }
        rows
    }
}

/// Says what a variable of a manifest comes to in the bottle; what the host has is not shown.
fn variable(name: &str, value: &EnvValue) -> String {
    match value {
        EnvValue::Literal(text) if text.chars().count() <= LONGEST_LITERAL => format!("{name}={text}"),
        EnvValue::Literal(text) => format!("{name}={}…", text.chars().take(LONGEST_LITERAL).collect::<String>()),
        EnvValue::Host(variable) => format!("{name}, the value of this host's {variable}"),
        EnvValue::Ask(_) => format!("{name}, as it was answered"),
    }
}

/// Says what a start at a terminal would ask.
fn unanswered(question: &Question) -> String {
    let text: String = question.text.chars().take(LONGEST_LITERAL).collect();
    format!("{}, to be asked at a terminal: {text}", question.name)
}

/// Gets a short mark of a text: another text has another one.
fn mark(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells whether a route lets nothing through: it only keeps the refusals of its host quiet.
fn is_closed(route: &Route) -> bool {
    !route.matches.is_empty() && route.matches.iter().all(|rule| rule.methods == ["NONE"])
}

/// Says what a route allows.
fn words(route: &Route) -> String {
    std::iter::once(route.host.clone()).chain(route.words()).collect::<Vec<_>>().join(", ")
}

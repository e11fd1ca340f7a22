//! The merged result as rows: each value with the file and line it came from. Text and JSON are made of the same rows.

use serde::Serialize;

use super::{Detectors, Effective, EnvValue, Identity, Route, Said};
use crate::api::Limit;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The key, with dots between the levels.
    pub key: String,
    /// The value, in words. Never a secret: manifests hold names of them.
    pub value: String,
    /// Where it was said.
    pub from: String,
}

/// Gets the rows of what holds.
pub fn rows(merged: &Effective) -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    let provider = &merged.template;
    rows.option("agent_provider.template", provider, ToString::to_string);
    rows.option("agent_provider.auth_token", &merged.auth_token, |name| format!("${{{name}}}"));
    for (name, value) in &merged.env {
        rows.said(&format!("env.{name}"), value, |value| match value {
            EnvValue::Literal(text) => text.clone(),
            EnvValue::Host(name) => format!("${{{name}}}"),
            EnvValue::Ask(question) => format!("?{question}"),
        });
    }
    for route in &merged.routes {
        rows.said(&format!("egress.routes.{}", route.value.allow.host), route, words);
    }
    rows.option("egress.proxy", &merged.proxy, ToString::to_string);
    rows.option("git-gate.user.name", &merged.git_gate.user.name, Clone::clone);
    rows.option("git-gate.user.email", &merged.git_gate.user.email, Clone::clone);
    for (name, repo) in &merged.git_gate.repos {
        rows.said(&format!("git-gate.repos.{name}"), repo, |repo| match &repo.identity {
            None => repo.url.clone(),
            Some(Identity::File(path)) => format!("{}, key {path}", repo.url),
            Some(Identity::Forge { token_ref, .. }) => format!("{}, a key made with ${{{token_ref}}}", repo.url),
        });
    }
    rows.option("supervise", &merged.supervise, ToString::to_string);
    for node in &merged.path {
        if let Some(budget) = &node.budget {
            rows.said(&format!("budget.{}.{}", node.scope, node.name), budget, |limits| amounts(limits));
        }
    }
    rows.option("shutdown", &merged.shutdown, |policy| policy.as_str().to_owned());
    rows.option("cutoff_scope", &merged.cutoff_scope, |scope| scope.as_str().to_owned());
    rows.option("backend", &merged.backend, |backend| backend.as_str().to_owned());
    rows.option("image", &merged.image, Clone::clone);
    rows.option("dockerfile", &merged.dockerfile, Clone::clone);
    for (name, value) in &merged.build_args {
        rows.said(&format!("build_args.{name}"), value, Clone::clone);
    }
    rows.option("workspace", &merged.workspace, |workspace| workspace.as_str().to_owned());
    rows.option("limits.memory", &merged.limits.memory, |n| bytes(*n));
    rows.option("limits.cpus", &merged.limits.cpus, |n| cpus(*n));
    rows.option("limits.pids", &merged.limits.pids, ToString::to_string);
    rows.option("limits.disk", &merged.limits.disk, |n| bytes(*n));
    rows.option("limits.best_effort", &merged.limits.best_effort, ToString::to_string);
    for mount in &merged.mounts {
        rows.said("mounts", mount, |mount| {
            let at = mount.target.as_ref().map(|target| format!(" at {target}")).unwrap_or_default();
            format!("{}{at}, {}", mount.source, if mount.rw { "writable" } else { "read-only" })
        });
    }
    for tool in &merged.tools {
        rows.said("tools", tool, Clone::clone);
    }
    for policy in &merged.policies {
        rows.said("policies", policy, ToString::to_string);
    }
    for skill in &merged.skills {
        rows.said("skills", skill, ToString::to_string);
    }
    rows.0
}

struct Rows(Vec<Row>);

impl Rows {
    fn said<T>(&mut self, key: &str, said: &Said<T>, text: impl Fn(&T) -> String) {
        self.0.push(Row { key: key.to_owned(), value: text(&said.value), from: said.place.to_string() });
    }

    fn option<T>(&mut self, key: &str, said: &Option<Said<T>>, text: impl Fn(&T) -> String) {
        if let Some(said) = said {
            self.said(key, said, text);
        }
    }
}

/// Says what a route allows.
fn words(route: &Route) -> String {
    let mut parts = route.allow.words();
    if route.allow.matches.is_empty() {
        parts.insert(0, "everything".to_owned());
    }
    if let Some(dlp) = &route.dlp {
        let named = |detectors: &Detectors| match detectors {
            Detectors::None => "nothing".to_owned(),
            Detectors::Named(names) => names.join(" "),
        };
        parts.push(format!("looked through for {}", named(&dlp.outbound)));
    }
    parts.join(", ")
}

fn amounts(limits: &[Limit]) -> String {
    let one = |limit: &Limit| {
        let amount = limit.tokens.map_or("unlimited".to_owned(), |n| n.to_string());
        let hard = if limit.hard { " (hard)" } else { "" };
        let per = limit.per.map(|per| format!(" {}", per.words())).unwrap_or_default();
        let whose = if limit.provider == "*" { String::new() } else { format!("{} ", limit.provider) };
        format!("{whose}{amount}{per}{hard}")
    };
    limits.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Says a size in the largest unit that needs no fraction.
fn bytes(n: u64) -> String {
    let units = ["", "K", "M", "G", "T"];
    let level = (0..units.len()).rev().find(|level| n.is_multiple_of(1 << (10 * level))).unwrap_or(0);
    format!("{}{}", n >> (10 * level), units[level])
}

fn cpus(thousandths: u32) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

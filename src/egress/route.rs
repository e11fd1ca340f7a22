//! The allow-list of one bottle, compiled: host, port, method, path, headers. Nothing matches = refused.
//!
//! Pure; asked per request, before any look-up, dial or upstream byte. The most specific host decides: an exact name
//! before any wildcard, a longer suffix before a shorter one; among the routes of that host the first that fits is taken.
//! `deny` is asked of all of them, and beats what any allows. Paths are compared in the form in which they are sent on
//! ([`path`]); what an entry may say is [`compile`]'s.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;
use serde_json::json;

use super::deny::{Denial, Deny};
use super::name::Host;
use crate::api;
use crate::meter::hosts::is_model_host;

mod compile;
mod path;
#[cfg(test)]
mod tests;
mod token;

use compile::{Compiled, Pattern, Rule};
pub use compile::{RouteError, canonical};
pub use path::normal_path;

/// The compiled allow-list.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<Host, Vec<Compiled>>,
    /// By the part of the name that follows the wildcard, without its leading dot.
    below: HashMap<String, Vec<Compiled>>,
    /// Some rule asks for headers.
    headers: bool,
}

/// A request as the router sees it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The one name of the request.
    pub host: &'a Host,
    /// The port that the connection meant.
    pub port: u16,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The method.
    pub method: &'a str,
    /// The path as it came, without query.
    pub path: &'a str,
    /// Its headers, as they came.
    pub headers: &'a HeaderMap,
    /// Whether it asks to become a WebSocket.
    pub websocket: bool,
}

/// What the router allows.
#[derive(Clone, Debug)]
pub struct Allowed<'a> {
    /// The route that matched first.
    pub route: Arc<api::Route>,
    /// The path to send on.
    pub path: Cow<'a, str>,
}

/// How a host is known to an allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A route has its name.
    ByName,
    /// Only a wildcard is for it, as for any number of others.
    BySuffix,
    /// No route is for it.
    Not,
}

impl Router {
    /// Compiles `routes`.
    pub fn new(routes: &[api::Route]) -> Result<Router, RouteError> {
        let mut router = Router::default();
        for route in routes {
            let (pattern, compiled) = compile::compile(route)?;
            router.headers |= route.matches.iter().chain(&route.deny).any(|rule| !rule.headers.is_empty());
            let same = match pattern {
                Pattern::Exact(host) => router.exact.entry(host).or_default(),
                Pattern::Below(suffix) => router.below.entry(suffix.trim_start_matches('.').to_owned()).or_default(),
            };
            for earlier in same.iter() {
                compile::contradiction(&earlier.route, route)?;
            }
            same.push(compiled);
        }
        router.refuses_nothing_unseen()?;
        Ok(router)
    }

    /// Refuses to pass through unseen what a rule of a wider route is to refuse.
    fn refuses_nothing_unseen(&self) -> Result<(), RouteError> {
        let exact = self.exact.iter().map(|(host, routes)| (host.to_string(), routes));
        let below = self.below.iter().map(|(suffix, routes)| (suffix.clone(), routes));
        for (name, routes) in exact.chain(below) {
            let wider = name.match_indices('.').filter_map(|(at, _)| self.below.get(&name[at + 1..])).flatten();
            let refusing = |r: &&Compiled| !r.route.deny.is_empty() || !r.route.quiet.is_empty();
            let wider: Vec<&Compiled> = wider.filter(refusing).collect();
            for route in routes.iter().filter(|r| r.route.tls == api::Tls::Passthrough) {
                if wider.iter().any(|wide| compile::share_ports(&wide.route, &route.route)) {
                    let what = "it is passed through unseen, and a wider route has rules that refuse";
                    return Err(RouteError::Contradiction { route: route.route.host.clone(), what });
                }
            }
        }
        Ok(())
    }

    /// Gets the lists of routes for `host`, the most specific first.
    fn lists(&self, host: &Host) -> impl Iterator<Item = &Vec<Compiled>> {
        let name = match host {
            Host::Name(name) if !self.below.is_empty() => name.as_ref(),
            _ => "",
        };
        // Each suffix behind a dot: a wildcard never is for the suffix itself.
        let suffixes = name.match_indices('.').filter_map(move |(at, _)| self.below.get(&name[at + 1..]));
        self.exact.get(host).into_iter().chain(suffixes)
    }

    /// Tells whether a route asks for headers of requests.
    pub fn asks_for_headers(&self) -> bool {
        self.headers
    }

    /// Tells whether any route is for `host`, and whether by its own name.
    pub fn knows(&self, host: &Host) -> Known {
        if self.exact.contains_key(host) {
            Known::ByName
        } else if self.lists(host).next().is_some() {
            Known::BySuffix
        } else {
            Known::Not
        }
    }

    /// Gets the route by which TLS to `host` and `port` is passed through unseen, if one is.
    pub fn passes_through(&self, host: &Host, port: u16) -> Option<Arc<api::Route>> {
        let routes = self.lists(host).next()?;
        let route = &routes.iter().find(|r| port_allowed(&r.route, port))?.route;
        (route.tls == api::Tls::Passthrough && !model_host(host)).then(|| Arc::clone(route))
    }

    /// Gets the private ranges in which the address of `host` may lie for a connection to `port`.
    pub fn private(&self, host: &Host, port: u16) -> Vec<IpNet> {
        let routes = self.lists(host).next().into_iter().flatten().filter(|r| port_allowed(&r.route, port));
        routes.flat_map(|r| &r.route.allow_private).copied().collect()
    }

    /// Gets the first route that allows the request, or the most telling reason why none does.
    pub fn check<'a>(&self, asked: Asked<'a>) -> Result<Allowed<'a>, Deny> {
        let Some(routes) = self.lists(asked.host).next() else {
            return Err(route_missing(asked.host));
        };
        let all = self.lists(asked.host).flatten().filter(|r| port_allowed(&r.route, asked.port));
        let mut methods_denied = false;
        for route in all {
            denied(route, asked)?;
            methods_denied |= route.deny.iter().any(Rule::names_methods);
        }
        let mut on_port = routes.iter().filter(|r| port_allowed(&r.route, asked.port)).peekable();
        if on_port.peek().is_none() {
            return Err(wrong_port(routes, asked));
        }
        let mut reason = None;
        for route in on_port {
            match allow(route, asked, methods_denied) {
                Ok(path) => return Ok(Allowed { route: Arc::clone(&route.route), path }),
                // A path that fits with the wrong method says more than a path that does not fit at all.
                Err(deny) if reason.as_ref().is_none_or(|r: &Deny| r.kind == Denial::Path && !r.quiet) => {
                    reason = Some(deny);
                }
                Err(_) => {}
            }
        }
        Err(reason.unwrap_or_else(|| route_missing(asked.host)))
    }
}

fn model_host(host: &Host) -> bool {
    matches!(host, Host::Name(name) if is_model_host(name))
}

fn port_allowed(route: &api::Route, port: u16) -> bool {
    if route.ports.is_empty() { port == 443 || port == 80 } else { route.ports.contains(&port) }
}

/// Refuses what a route's `deny` or `quiet` is for, whatever other routes say.
fn denied(compiled: &Compiled, asked: Asked<'_>) -> Result<(), Deny> {
    let route = &compiled.route;
    if route.quiet.is_empty() && compiled.deny.is_empty() {
        return Ok(());
    }
    let path = normal_path(asked.path)?;
    let plain = path::without_parameters(&path);
    if let Some(prefix) = route.quiet.iter().find(|q| path::below(&path, q) || path::below(&plain, q)) {
        return Err(Deny::new(Denial::Path, format!("bb: {}{prefix} is not passed.", asked.host)).quietly());
    }
    let holds = |rule: &Rule| {
        (rule.path_fits(&path) || rule.path_fits(&plain))
            && rule.method_fits(asked.method)
            && rule.headers_among(asked.headers)
    };
    match compiled.deny.iter().find(|rule| holds(rule)) {
        Some(rule) => {
            let kind = if rule.names_methods() { Denial::Method } else { Denial::Path };
            Err(Deny::new(kind, format!("bb: a rule of {} refuses this request, whatever else allows it.", route.host))
                .step("do without it: only the operator can take the rule back"))
        }
        None => Ok(()),
    }
}

/// Gets the path to send on, if the route allows the request. `methods_denied`: some rule refuses methods of the host.
fn allow<'a>(compiled: &Compiled, asked: Asked<'a>, methods_denied: bool) -> Result<Cow<'a, str>, Deny> {
    let route = &compiled.route;
    if !asked.tls && (route.auth.is_some() || route.api.is_some() || route.oauth.is_some()) {
        return Err(Deny::new(
            Denial::Port,
            format!("bb: {} has a credential or is metered, so it is served over HTTPS only.", asked.host),
        )
        .step(format!("use https://{}/", asked.host)));
    }
    if route.tls == api::Tls::Passthrough {
        return Err(Deny::new(Denial::Port, format!("bb: {} is passed through, over TLS only.", asked.host))
            .step(format!("use https://{}/", asked.host)));
    }
    // Spending that nobody sees would have no limit.
    if route.api.is_none() && model_host(asked.host) {
        return Err(Deny::new(
            Denial::MeteredPathUnknown,
            format!("bb: {} is a model API, and the route to it does not meter it.", asked.host),
        )
        .rule(json!({"host": asked.host.to_string(), "api": "..."}))
        .step("only the operator can name its `api` in the route"));
    }
    // Both ways anything passes on it, unread: neither a credential nor a bound nor a rule about methods holds there. That of a
    // model API is read.
    let bounded = route.auth.is_some() || route.max_request.is_some() || route.max_response.is_some();
    let bounded = bounded && route.api.is_none();
    if asked.websocket && !route.websocket && (bounded || methods_denied) {
        return Err(no_websocket(asked.host, "has a credential, bounds or rules about methods"));
    }
    if route.matches.is_empty() && route.deny.is_empty() && route.api.is_none() && route.quiet.is_empty() {
        return Ok(Cow::Borrowed(asked.path));
    }
    let path = normal_path(asked.path)?;
    if route.matches.is_empty() {
        return Ok(path);
    }
    let mut nearest = None;
    for rule in &compiled.allow {
        let missing = if !rule.path_fits(&path) {
            continue;
        } else if !rule.method_fits(asked.method) {
            Missing::Method
        } else if let Some(name) = rule.header_missing(asked.headers) {
            Missing::Header(name.to_string())
        } else if asked.websocket && rule.names_methods() && !route.websocket {
            Missing::WebSocket
        } else {
            return Ok(path);
        };
        nearest = Some(missing);
    }
    let rule = json!({"host": asked.host.to_string(), "methods": [asked.method], "paths": [path]});
    Err(match nearest {
        None => {
            Deny::new(Denial::Path, format!("bb: the route to {} does not allow this path.", asked.host)).rule(rule)
        }
        Some(Missing::Method) => {
            let message = format!("bb: the route to {} does not allow {} here.", asked.host, asked.method);
            Deny::new(Denial::Method, message).rule(rule)
        }
        Some(Missing::Header(name)) => Deny::new(
            Denial::Path,
            format!("bb: the route to {} asks for the header {name} with a value that it names.", asked.host),
        ),
        Some(Missing::WebSocket) => no_websocket(asked.host, "names methods"),
    }
    .step("ask the operator to allow it, or do without"))
}

/// What a rule whose path fits asks for beside it.
enum Missing {
    Method,
    Header(String),
    WebSocket,
}

fn no_websocket(host: &Host, why: &str) -> Deny {
    Deny::new(Denial::Upgrade, format!("bb: the route to {host} {why}, so it passes no WebSocket unless it says so."))
        .rule(json!({"host": host.to_string(), "websocket": true}))
        .step("use plain HTTP requests, or ask the operator")
}

fn route_missing(host: &Host) -> Deny {
    Deny::new(Denial::RouteMissing, format!("bb: {host} is not on this bottle's allow-list."))
        .rule(json!({"host": host.to_string()}))
        .step("do without it, or ask the operator to add the host to the routes")
        .step("trying other addresses, ports or tools for the same host ends the same way")
}

fn wrong_port(routes: &[Compiled], asked: Asked<'_>) -> Deny {
    let ports = |r: &Compiled| if r.route.ports.is_empty() { vec![443, 80] } else { r.route.ports.clone() };
    let allowed: Vec<u16> = routes.iter().flat_map(ports).collect();
    Deny::new(Denial::Port, format!("bb: the route to {} does not include port {}.", asked.host, asked.port))
        .rule(json!({"host": asked.host.to_string(), "ports": [asked.port]}))
        .step(format!("the route has the ports {allowed:?}"))
}

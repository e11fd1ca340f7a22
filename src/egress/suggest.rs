//! From what was refused in a recorded run to the smallest set of routes that would have let it pass, for an operator to read.
//!
//! Pure, and it changes nothing. All that it reads was chosen by an agent: names and paths go through the parsers that decide on
//! requests, what is found is asked of the router before it is shown, and what cannot be a route is left out with its reason.
//! Never suggested: addresses, private names, model APIs, credentials.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderMap;
use serde::Serialize;

use super::deny::Denial;
use super::name::Host;
use super::route::{Asked, Router};
use crate::api::{Event, Match, Route, Tls};

mod ids;
mod paths;
mod wanted;
mod yaml;

use wanted::wanted;
pub use yaml::yaml;

/// Hosts of one answer, and different requests that are looked at for each.
const MOST_HOSTS: usize = 64;
const MOST_REQUESTS: usize = 512;
/// Reasons to leave something out that are kept apart.
const MOST_LEFT_OUT: usize = 200;

/// How often and when something was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How often.
    pub times: u64,
    /// First time. Unit: milliseconds since the epoch.
    pub first: i64,
    /// Last time.
    pub last: i64,
    /// By which denials, and how often each.
    pub kinds: BTreeMap<String, u64>,
    /// In which bottles.
    pub bottles: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, event: &Event, kind: &str) {
        self.first = if self.times == 0 { event.ts } else { self.first.min(event.ts) };
        self.last = self.last.max(event.ts);
        self.times += 1;
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
        self.bottles.extend(event.bottle.clone());
    }
}

/// An entry that would have let something pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// The entry.
    pub route: Route,
    /// What it would have let pass.
    #[serde(flatten)]
    pub seen: Seen,
    /// What to know before it is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Something for which no entry is suggested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What was asked for, as it was asked for, but for `<id>` in place of what looks like an id or a secret: text of an agent.
    pub what: String,
    /// Why no entry is suggested.
    pub why: String,
    /// How often and when.
    #[serde(flatten)]
    pub seen: Seen,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Suggested {
    /// Entries, by host.
    pub routes: Vec<Suggestion>,
    /// What was left out, in the order in which it came up.
    pub left_out: Vec<LeftOut>,
    /// Refusals that were left out beyond those.
    pub more: u64,
}

/// A request that an entry is wanted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Want {
    port: u16,
    method: String,
    path: String,
    websocket: bool,
    /// Only the port is known, nothing was asked for yet.
    bare: bool,
}

/// What gathers refusals, one after the other.
#[derive(Default)]
pub struct Gather {
    hosts: BTreeMap<String, BTreeMap<Want, Seen>>,
    left_out: BTreeMap<(String, String), Seen>,
    order: Vec<(String, String)>,
    private: BTreeSet<String>,
    more: u64,
}

impl Gather {
    /// Takes an event; all but refusals are passed over.
    pub fn add(&mut self, event: &Event) {
        if event.kind != "denied" {
            return;
        }
        let data = &event.data;
        let word = data["kind"].as_str().unwrap_or_default();
        let Some(kind) = Denial::ALL.iter().find(|kind| kind.as_str() == word) else { return };
        let raw = data["host"].as_str().unwrap_or_default();
        match wanted(event, *kind) {
            Ok((host, want)) => {
                let full = self.hosts.len() >= MOST_HOSTS;
                let wants = match self.hosts.get_mut(&host) {
                    Some(wants) => wants,
                    None if full => return self.leave_out(event, word, raw.to_owned(), "too many hosts in one run"),
                    None => self.hosts.entry(host).or_default(),
                };
                if wants.len() >= MOST_REQUESTS && !wants.contains_key(&want) {
                    return self.leave_out(event, word, raw.to_owned(), "too many different requests to this host");
                }
                wants.entry(want).or_default().add(event, word);
            }
            Err(why) => {
                if *kind == Denial::PrivateAddress {
                    self.private.insert(raw.to_owned());
                }
                let what = match (data["method"].as_str(), data["path"].as_str(), data["port"].as_u64()) {
                    (Some(method), Some(path), _) => format!("{method} {raw}{}", ids::without(path)),
                    (_, _, Some(port)) => format!("{raw}:{port}"),
                    _ => raw.to_owned(),
                };
                self.leave_out(event, word, what, why);
            }
        }
    }

    fn leave_out(&mut self, event: &Event, kind: &str, what: String, why: &str) {
        let key = (what, why.to_owned());
        if !self.left_out.contains_key(&key) {
            if self.order.len() >= MOST_LEFT_OUT {
                self.more += 1;
                return;
            }
            self.order.push(key.clone());
        }
        self.left_out.entry(key).or_default().add(event, kind);
    }

    /// Makes the entries. `standing` are the routes of each bottle as they were in force last, where they are known.
    pub fn suggest(mut self, standing: Option<&[Vec<Route>]>) -> Suggested {
        let mut out = Suggested::default();
        let routers: Vec<Router> =
            standing.unwrap_or_default().iter().filter_map(|routes| Router::new(routes).ok()).collect();
        for (name, wants) in std::mem::take(&mut self.hosts) {
            if self.private.contains(&name) {
                self.drop_all(&name, wants, "its address is private, so a route alone would not let it pass");
                continue;
            }
            let by_now = |want: &Want| {
                !want.bare && !routers.is_empty() && routers.iter().all(|router| passes(router, &name, want))
            };
            let (allowed, wants): (BTreeMap<_, _>, BTreeMap<_, _>) =
                wants.into_iter().partition(|(want, _)| by_now(want));
            self.drop_all(&name, allowed, "allowed by now: the routes were changed since");
            let before = standing.map(|all| all.iter().flat_map(|routes| deciding(routes, &name)).collect::<Vec<_>>());
            let (beside, note) = match before {
                Some(entries) => match beside(&name, &entries) {
                    Ok(beside) => beside,
                    Err(why) => {
                        self.drop_all(&name, wants, why);
                        continue;
                    }
                },
                None => (vec![], has_a_route(&wants).then(|| UNKNOWN.to_owned())),
            };
            let mut made = entries(&name, &wants);
            let mut all: Vec<Route> = beside.clone();
            all.extend(made.iter().map(|entry| entry.route.clone()));
            let router = Router::new(&all);
            let (passing, failing): (BTreeMap<_, _>, BTreeMap<_, _>) = wants
                .into_iter()
                .partition(|(want, _)| router.as_ref().is_ok_and(|router| passes(router, &name, want)));
            if !failing.is_empty() {
                made = entries(&name, &passing);
                self.drop_all(&name, failing, "no entry that can be written would let it pass");
            }
            if let (Some(first), Some(note)) = (made.first_mut(), note) {
                first.note = Some(match first.note.take() {
                    Some(own) => format!("{note}; {own}"),
                    None => note,
                });
            }
            if made.is_empty() {
                continue;
            }
            out.routes.extend(beside.into_iter().map(|route| Suggestion {
                route,
                seen: Seen::default(),
                note: Some(COPIED.to_owned()),
            }));
            out.routes.extend(made);
        }
        for key in std::mem::take(&mut self.order) {
            if let Some(seen) = self.left_out.remove(&key) {
                out.left_out.push(LeftOut { what: key.0, why: key.1, seen });
            }
        }
        out.more = self.more;
        out
    }

    fn drop_all(&mut self, host: &str, wants: BTreeMap<Want, Seen>, why: &str) {
        for (want, seen) in wants {
            let what = if want.bare {
                format!("{host}:{}", want.port)
            } else {
                format!("{} {host}{}", want.method, ids::without(&want.path))
            };
            let key = (what, why.to_owned());
            // Two that differ in an id only are one.
            if let Some(known) = self.left_out.get_mut(&key) {
                merge(known, &seen);
                continue;
            }
            if self.order.len() >= MOST_LEFT_OUT {
                self.more = self.more.saturating_add(seen.times);
                continue;
            }
            self.order.push(key.clone());
            self.left_out.insert(key, seen);
        }
    }
}

const UNKNOWN: &str = "it had a route, which is not known any more: keep that one beside this in the same manifest, and if it \
                       is a wildcard, copy what it allows to this host, since an exact name decides alone";
const COPIED: &str = "what a wildcard in force says, for this host: an exact name decides alone";
const NOT_ASKED: &str = "nothing was asked for yet, since nobody listened on the port: run again to see what it needs";

const WITHOUT_IDS: &str =
    "what looks like an id or a secret in a path is left out: a prefix or an expression stands for any";

/// Gets the entries that decide about a host: the most specific ones.
fn deciding<'a>(routes: &'a [Route], host: &str) -> Vec<&'a Route> {
    let of = |pattern: &str| routes.iter().filter(|route| route.host == pattern).collect::<Vec<_>>();
    let exact = of(host);
    if !exact.is_empty() {
        return exact;
    }
    let suffixes = host.match_indices('.').map(|(at, _)| of(&format!("*{}", &host[at..])));
    suffixes.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// Gets what has to be written beside a new entry for `host`, and what to know of it.
fn beside(host: &str, before: &[&Route]) -> Result<(Vec<Route>, Option<String>), &'static str> {
    if before.iter().any(|route| route.auth.is_some() || route.api.is_some()) {
        return Err("its route puts a credential in, or is metered: widen that entry yourself, if it is meant");
    }
    if before.iter().any(|route| route.tls == Tls::Passthrough) {
        return Err("its route passes TLS through unseen: change that entry yourself, if it is meant");
    }
    let asks_for_headers = |route: &&&Route| route.matches.iter().any(|rule| !rule.headers.is_empty());
    if before.iter().find(asks_for_headers).is_some() {
        return Err("its route asks for headers: change that entry yourself, if it is meant");
    }
    if before.iter().any(|route| route.host == host) {
        let note =
            "the host has an entry already: add this one to the same manifest, a later manifest's takes its place";
        return Ok((vec![], Some(note.to_owned())));
    }
    // What the wildcard refuses is asked of all entries, and needs no copy.
    let mut copies: Vec<Route> = vec![];
    for route in before {
        let copy = Route { host: host.to_owned(), deny: vec![], ..(*route).clone() };
        if !copies.contains(&copy) {
            copies.push(copy);
        }
    }
    Ok((copies, None))
}

fn has_a_route(wants: &BTreeMap<Want, Seen>) -> bool {
    let missing = |kind: &String| kind == Denial::RouteMissing.as_str();
    wants.values().any(|seen| !seen.kinds.keys().all(missing)) && wants.keys().any(|want| !want.bare)
}

/// Makes the entries for a host: one for all ports of which the same is wanted.
fn entries(host: &str, wants: &BTreeMap<Want, Seen>) -> Vec<Suggestion> {
    let ports: BTreeSet<u16> = wants.keys().map(|want| want.port).collect();
    let mut made: Vec<Suggestion> = vec![];
    for port in ports {
        let here: Vec<(&Want, &Seen)> = wants.iter().filter(|(want, _)| want.port == port).collect();
        let bare = here.iter().all(|(want, _)| want.bare);
        let matches = if bare { vec![reading()] } else { matches(&here) };
        let route = Route {
            host: host.to_owned(),
            ports: vec![port],
            matches,
            websocket: here.iter().any(|(want, _)| want.websocket),
            ..Route::default()
        };
        let mut seen = Seen::default();
        here.iter().for_each(|(_, one)| merge(&mut seen, one));
        let widened = here.iter().any(|(want, _)| ids::before_the_first(&want.path).is_some());
        let note = bare.then_some(NOT_ASKED).or(widened.then_some(WITHOUT_IDS)).map(str::to_owned);
        let same = |other: &&mut Suggestion| {
            other.route.matches == route.matches && other.route.websocket == route.websocket && other.note == note
        };
        match made.iter_mut().find(same) {
            Some(other) => {
                other.route.ports.push(port);
                merge(&mut other.seen, &seen);
            }
            None => made.push(Suggestion { route, seen, note }),
        }
    }
    made
}

fn reading() -> Match {
    Match { methods: vec!["GET".to_owned(), "HEAD".to_owned()], ..Match::default() }
}

/// Makes the rules for requests to one port: methods of which the same paths are wanted share one.
fn matches(wants: &[(&Want, &Seen)]) -> Vec<Match> {
    let mut by_method: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (want, _) in wants.iter().filter(|(want, _)| !want.bare) {
        by_method.entry(&want.method).or_default().insert(&want.path);
    }
    let mut rules: Vec<Match> = vec![];
    for (method, paths) in by_method {
        let paths = paths::merged(&paths);
        match rules.iter_mut().find(|rule| rule.paths == paths) {
            Some(rule) => rule.methods.push(method.to_owned()),
            None => rules.push(Match { methods: vec![method.to_owned()], paths, ..Match::default() }),
        }
    }
    rules
}

fn merge(into: &mut Seen, other: &Seen) {
    into.first = if into.times == 0 { other.first } else { into.first.min(other.first) };
    into.last = into.last.max(other.last);
    into.times = into.times.saturating_add(other.times);
    for (kind, times) in &other.kinds {
        *into.kinds.entry(kind.clone()).or_default() += times;
    }
    into.bottles.extend(other.bottles.iter().cloned());
}

/// Asks the engine that decides on requests.
fn passes(router: &Router, host: &str, want: &Want) -> bool {
    let Ok(host) = Host::parse(host) else { return false };
    let (method, path) = if want.bare { ("GET", "/") } else { (want.method.as_str(), want.path.as_str()) };
    let headers = HeaderMap::new();
    let asked =
        Asked { host: &host, port: want.port, tls: true, method, path, headers: &headers, websocket: want.websocket };
    router.check(asked).is_ok()
}

#[cfg(test)]
mod tests;

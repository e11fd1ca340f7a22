//! `bb routes`: the allow-list of a bottle that runs, shown and changed.

use secrecy::ExposeSecret;

use crate::api::{Match, Route, Routes, RoutesChange};
use crate::client::Client;
use crate::egress::route::{Router, canonical};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::printable::printable;
use crate::provider::Search;
use crate::settings::Settings;
use crate::yaml::read::joined;

use super::manifest::user_home;
use super::out;

/// Show the allow-list of a bottle that runs, or change it. What a change takes away is closed at once; what it gives is in
/// force when it is written in the ledger.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which bottle.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Also where each comes from, which others its refusals beat, and the hosts of which nothing is passed, quietly
    #[arg(long)]
    pub effective: bool,
    /// Allow a host, `host:port`, or a route as JSON such as '{"host": "docs.rs", "matches": [{"methods": ["GET"]}]}'
    #[arg(long, value_name = "ROUTE")]
    pub allow: Vec<String>,
    /// Take back all routes of a host
    #[arg(long, value_name = "HOST")]
    pub remove: Vec<String>,
    /// Why: said in the audit row
    #[arg(long)]
    pub reason: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut now = client.routes(&args.bottle.slug).await?;
    if !args.allow.is_empty() || !args.remove.is_empty() {
        let settings = Settings::load(&home).map_err(joined)?;
        let sources = settings.credentials.for_user(user_home().as_deref());
        let lookup = |name: &str| std::env::var(name).ok();
        let search = Search { lookup: &lookup, sources: &sources, rehearsal: false };
        let change = change(&args, &now.routes, &search)?;
        now = client.change_routes(&now.slug, &change).await?;
    }
    if args.json {
        out::json(&now)?;
    } else {
        out::print(&said(&now, args.effective))?;
    }
    Ok(0)
}

/// Makes the list that is wanted of the one in force.
fn change(args: &Args, now: &[Route], search: &Search<'_>) -> Result<RoutesChange> {
    let wrong = |e: crate::egress::route::RouteError| Error::new(Kind::Usage, e.to_string());
    let mut routes = now.to_vec();
    for host in &args.remove {
        let host = canonical(host).map_err(wrong)?;
        let before = routes.len();
        routes.retain(|route| route.host != host);
        if routes.len() == before {
            return Err(
                Error::new(Kind::Usage, format!("no route is for {host}")).hint("look at `bb routes SLUG --effective`")
            );
        }
    }
    let mut credentials = crate::api::Credentials::default();
    for text in &args.allow {
        let route = read(text)?;
        Router::new(std::slice::from_ref(&route)).map_err(wrong)?;
        if let Some(auth) = &route.auth {
            let value = search.value(&auth.credential)?;
            credentials.insert(auth.credential.clone(), value.expose_secret().to_owned());
        }
        // One of which nothing was passed would go on refusing everything.
        routes.retain(|earlier| earlier.host != route.host || !is_closed(earlier));
        routes.push(route);
    }
    let id = uuid::Uuid::now_v7().to_string();
    Ok(RoutesChange { id, routes, was: Some(now.to_vec()), credentials, reason: args.reason.clone() })
}

fn read(text: &str) -> Result<Route> {
    let mut route = if text.trim_start().starts_with('{') {
        serde_json::from_str::<Route>(text).map_err(|e| {
            Error::new(Kind::Usage, format!("`--allow` is not a route: {e}"))
                .hint("write a host's name, or a table as in docs/manifests.md")
        })?
    } else {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse::<u16>() {
                Ok(port) if port > 0 => (host, Some(port)),
                _ => {
                    let message = format!("`{text}`: a port is a number from 1 to 65535");
                    return Err(Error::new(Kind::Usage, message).hint("write it as docs.rs:8443"));
                }
            },
            _ => (text, None),
        };
        Route { host: host.to_owned(), ports: port.into_iter().collect(), ..Route::default() }
    };
    if let Some(advice) = route.advice_in_yaml() {
        return Err(Error::new(Kind::Usage, format!("`{}` is not a host name", route.host)).hint(advice));
    }
    if route.oauth.is_some() {
        let message = format!("`oauth` of the route to {} is the provider's own to say", route.host);
        return Err(Error::new(Kind::Usage, message).hint("leave it out"));
    }
    route.host = canonical(&route.host).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    Ok(route)
}

/// Tells whether a route lets nothing through: it only keeps the refusals of its host quiet.
fn is_closed(route: &Route) -> bool {
    let nothing = |rule: &Match| rule.methods == ["NONE"];
    !route.matches.is_empty() && route.matches.iter().all(nothing)
}

fn said(now: &Routes, all: bool) -> String {
    let lines = |(at, route): (usize, &Route)| {
        let words = if is_closed(route) { vec!["nothing, quietly".to_owned()] } else { route.words() };
        let words = if words.is_empty() { "everything".to_owned() } else { words.join(", ") };
        let mut lines = vec![format!("{}  {words}", route.host)];
        if all {
            lines.extend(now.origins.get(at).map(|origin| format!("  from {}", origin.words())));
            lines.extend(beaten(route, &now.routes));
        }
        lines.iter().map(|line| printable(line, false)).collect::<Vec<_>>().join("\n")
    };
    let routes = now.routes.iter().enumerate().filter(|(_, route)| all || !is_closed(route));
    let shown: Vec<String> = routes.map(lines).collect();
    let mut text = if shown.is_empty() { "nothing is allowed".to_owned() } else { shown.join("\n") };
    if now.changed {
        text.push_str("\n(changed since its launch)");
    }
    text
}

/// Says which entries the refusals of a route hold for: every one for its host, and below its wildcard.
fn beaten(route: &Route, all: &[Route]) -> Option<String> {
    if route.deny.is_empty() && (route.quiet.is_empty() || is_closed(route)) {
        return None;
    }
    let holds_for = |other: &&Route| {
        other.host == route.host || route.host.strip_prefix('*').is_some_and(|suffix| other.host.ends_with(suffix))
    };
    let mut hosts: Vec<&str> = all.iter().filter(holds_for).map(|other| other.host.as_str()).collect();
    hosts.dedup();
    let what = match (route.deny.is_empty(), route.quiet.is_empty()) {
        (false, true) => "what it never passes".to_owned(),
        (false, false) => format!("what it never passes, and {} quietly,", route.quiet.join(" ")),
        _ => format!("{} quietly", route.quiet.join(" ")),
    };
    Some(format!("  {what} is refused whatever these allow: {}", hosts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Origin, OriginKind};

    fn args(allow: &[&str], remove: &[&str]) -> Args {
        let list = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
        let bottle = super::super::slugs::One { slug: "x".into() };
        Args { bottle, effective: false, allow: list(allow), remove: list(remove), reason: None, json: false }
    }

    #[test]
    fn routes_are_added_and_taken_back_by_host() {
        let now = [
            Route { host: "a.example".into(), ..Route::default() },
            Route { host: "b.example".into(), ..Route::default() },
        ];
        let lookup = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
        let search = Search { lookup: &lookup, sources: &Default::default(), rehearsal: false };
        let hosts = |change: RoutesChange| change.routes.into_iter().map(|r| r.host).collect::<Vec<_>>();
        let changed = change(&args(&["C.example:8443"], &["A.example."]), &now, &search).unwrap();
        assert_eq!(changed.routes[1].ports, [8443]);
        assert_eq!(hosts(changed), ["b.example", "c.example"]);
        let auth = r#"{"host": "c.example", "auth": {"scheme": "Bearer", "credential": "TOKEN"}}"#;
        assert_eq!(change(&args(&[auth], &[]), &now, &search).unwrap().credentials["TOKEN"], "secret");
        for (wrong, kind) in [
            (args(&[], &["c.example"]), Kind::Usage),
            (args(&["https://c.example/"], &[]), Kind::Usage),
            (args(&["10.0.0.1"], &[]), Kind::Usage),
            (args(&["c.example:70000"], &[]), Kind::Usage),
            (args(&["c.example:"], &[]), Kind::Usage),
            (args(&[r#"{"hots": "c.example"}"#], &[]), Kind::Usage),
            (args(&[&auth.replace("TOKEN", "OTHER")], &[]), Kind::CredentialMissing),
        ] {
            assert_eq!(change(&wrong, &now, &search).unwrap_err().kind, kind);
        }
    }

    #[test]
    fn what_lets_nothing_through_is_shown_only_when_asked_for() {
        let closed = Route {
            host: "t.example".into(),
            matches: vec![Match { methods: vec!["NONE".into()], ..Match::default() }],
            ..Route::default()
        };
        let open = Route { host: "a.example".into(), ..Route::default() };
        let now = Routes { slug: "x".into(), routes: vec![open, closed], changed: true, origins: vec![] };
        assert_eq!(said(&now, false), "a.example  everything\n(changed since its launch)");
        assert_eq!(said(&now, true), "a.example  everything\nt.example  nothing, quietly\n(changed since its launch)");
    }

    #[test]
    fn each_entry_says_where_it_comes_from_and_what_its_refusals_beat() {
        let route = |host: &str| Route { host: host.into(), ..Route::default() };
        let never = Match { methods: vec!["PUT".into()], ..Match::default() };
        let routes = vec![
            Route { deny: vec![never], ..route("*.a.example") },
            route("deep.a.example"),
            route("*.b.a.example"),
            route("a.example"),
        ];
        let place = Some("~/bottles/dev.md:4".to_owned());
        let provider = Origin::new(OriginKind::Provider, Some("claude".into()));
        let origins = vec![
            Origin::new(OriginKind::Manifest, place.clone()),
            Origin { narrowed_by: place.into_iter().collect(), ..provider },
            Origin::default(),
            Origin::new(OriginKind::Change, None),
        ];
        let now = Routes { slug: "x".into(), routes, changed: false, origins };
        assert_eq!(
            said(&now, true),
            "*.a.example  never PUT\n  from ~/bottles/dev.md:4\n  what it never passes is refused whatever these allow: \
             *.a.example, deep.a.example, *.b.a.example\ndeep.a.example  everything\n  from provider claude, narrowed by \
             ~/bottles/dev.md:4\n*.b.a.example  everything\n  from the launch\na.example  everything\n  from a change while \
             it runs"
        );
        assert_eq!(said(&now, false).lines().count(), 4);
    }
}

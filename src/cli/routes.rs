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
    /// Also the hosts of which nothing is passed, whose refusals are not shown
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
    route.host = canonical(&route.host).map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
    Ok(route)
}

/// Tells whether a route lets nothing through: it only keeps the refusals of its host quiet.
fn is_closed(route: &Route) -> bool {
    let nothing = |rule: &Match| rule.methods == ["NONE"];
    !route.matches.is_empty() && route.matches.iter().all(nothing)
}

fn said(now: &Routes, all: bool) -> String {
    let line = |route: &Route| {
        let words = if is_closed(route) { vec!["nothing, quietly".to_owned()] } else { route.words() };
        let words = if words.is_empty() { "everything".to_owned() } else { words.join(", ") };
        printable(&format!("{}  {words}", route.host), false).to_string()
    };
    let shown: Vec<String> = now.routes.iter().filter(|route| all || !is_closed(route)).map(line).collect();
    let mut text = if shown.is_empty() { "nothing is allowed".to_owned() } else { shown.join("\n") };
    if now.changed {
        text.push_str("\n(changed since its launch)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let now = Routes { slug: "x".into(), routes: vec![open, closed], changed: true };
        assert_eq!(said(&now, false), "a.example  everything\n(changed since its launch)");
        assert_eq!(said(&now, true), "a.example  everything\nt.example  nothing, quietly\n(changed since its launch)");
    }
}

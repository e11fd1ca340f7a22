//! The allow-list of a bottle that runs: shown, asked and changed.
//!
//! What a change takes away takes effect first and is recorded second; what it gives takes effect when its row is committed.
//! It is left with the keeper, so that it outlives this controller.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::Controller;
use super::ledger_error;
use super::live::Live;
use super::logins::{self, Holders};
use super::note::Rules;
use crate::api::{Credentials, Launch, Origin, OriginKind, Route, Routes, RoutesChange, Unsent, Verdict};
use crate::bottle::wire::{self, Listener, Reply, Request};
use crate::egress;
use crate::egress::route::Router;
use crate::enforce::By;
use crate::error::{Error, Kind, Result};

/// Most ports that a bottle's gate listens on: their sockets travel in one packet.
pub const MOST_PORTS: usize = 48;
/// Largest packet that a note may make of itself: the next controller gets it together with what else a keeper says first.
/// Unit: bytes.
const MAX_NOTE: usize = wire::MAX_PACKET - 12 * 1024;

/// Longest list that an event tells, as JSON. Unit: bytes.
const MOST_TOLD: usize = 32 * 1024;

/// Gets the ports that a gate listens on for `routes`, and for its `proxy`. DNS has listeners of its own.
pub fn ports(routes: &[Route], proxy: bool) -> Result<Vec<u16>> {
    let mut ports = vec![443, 80];
    ports.extend(proxy.then_some(egress::proxy::PORT));
    ports.extend(routes.iter().flat_map(|r| r.ports.iter().copied()));
    ports.sort_unstable();
    ports.dedup();
    ports.retain(|&p| p != 53 && p != 0);
    if ports.len() > MOST_PORTS {
        let message = format!("the routes have {} ports; a bottle has {MOST_PORTS} at most", ports.len());
        return Err(Error::new(Kind::Usage, message).hint("leave out the ports that the agent does not need"));
    }
    Ok(ports)
}

/// Gets a list as the plane takes it.
pub fn in_force(launch: &Credentials, logins: &Holders, rules: &Rules) -> egress::Rules {
    let values = launch.iter().chain(rules.credentials.iter());
    egress::Rules {
        routes: rules.routes.clone(),
        also: rules.also.clone(),
        logins: logins.clone(),
        credentials: values.map(|(name, value)| (name.clone(), SecretString::from(value.clone()))).collect(),
    }
}

impl Controller {
    /// Gets the allow-list in force.
    ///
    /// # Errors
    /// `no_such_bottle`, `ambiguous_slug`.
    pub fn routes(&self, name: &str) -> Result<Routes> {
        let live = self.find(name)?;
        let changed = live.changed_rules().is_some();
        let routes = live.rules().routes;
        let origins = routes.iter().map(|route| origin(&live.launch, route)).collect();
        Ok(Routes { slug: live.slug.clone(), routes, changed, origins })
    }

    /// Says what would become of a request of the bottle.
    ///
    /// # Errors
    /// As [`Controller::routes`]; `usage` where it has no way out at this moment.
    pub fn why(&self, name: &str, unsent: &Unsent) -> Result<Verdict> {
        let live = self.find(name)?;
        live.with_egress(|egress| egress.verdict(unsent)).ok_or_else(|| no_way_out(&live.slug))
    }

    /// Puts another allow-list in force, in place of the one before. Streams that it does not allow are closed when this
    /// returns.
    ///
    /// # Errors
    /// As [`Controller::why`]; `usage` for a list that cannot be meant, `credential_missing` for one whose values are not
    /// there. The list in force stays then. The ledger's kinds where it could not be written: what was taken away stays away.
    pub async fn change_routes(&self, name: &str, change: RoutesChange) -> Result<Routes> {
        let live = self.find(name)?;
        let _one = live.changing().await;
        let wrong = |error: crate::egress::route::RouteError| {
            let advice = change.routes.iter().find_map(Route::advice);
            Error::new(Kind::Usage, error.to_string()).hint(advice.unwrap_or_else(|| "correct that route".to_owned()))
        };
        Router::new(&change.routes).map_err(wrong)?;
        let before = live.rules();
        if change.was.as_ref().is_some_and(|was| *was != before.routes) {
            return Err(
                Error::new(Kind::Usage, "the routes have been changed meanwhile").hint("look at them, and try again")
            );
        }
        let mut credentials = before.credentials.clone();
        for (name, value) in change.credentials.iter() {
            credentials.insert(name.clone(), value.clone());
        }
        credentials
            .retain(|name, _| change.routes.iter().filter_map(|r| r.auth.as_ref()).any(|a| a.credential == *name));
        let after = Rules { routes: change.routes, also: None, credentials };
        self.has_its_credentials(&live, &after)?;
        if after == before {
            return self.routes(&live.slug);
        }
        let (wanted, past) = live.with_room_for(&after.routes)?;
        // What is taken back, first: until the list is written both have to allow, whatever happens to the ledger or to us.
        let narrow = Rules { also: Some(after.routes.clone()), ..before.clone() };
        live.can_note(&narrow)?;
        live.put_in_force(&narrow).await?;
        let only = |these: &[Route], those: &[Route]| -> Vec<String> {
            these.iter().filter(|route| !those.contains(route)).map(Route::in_words).collect()
        };
        let data = json!({
            "added": only(&after.routes, &before.routes), "removed": only(&before.routes, &after.routes),
            "reason": change.reason, "by": By::Operator.as_str(), "routes": told(&after.routes),
        });
        live.record_routes(data).await.map_err(|e| ledger_error(&e, &self.host.home.ledger()))?;
        live.close_listeners(past).await?;
        live.listen_on(&wanted).await?;
        live.put_in_force(&after).await?;
        self.routes(&live.slug)
    }

    /// Refuses a list whose credentials are not there, or would go where the launch did not send them.
    fn has_its_credentials(&self, live: &Live, rules: &Rules) -> Result<()> {
        if let Some(name) = rules.credentials.keys().find(|name| live.launch.logins.contains_key(*name)) {
            return Err(Error::new(Kind::Usage, format!("{name} is the name of a login of this bottle"))
                .hint("give the credential another name"));
        }
        logins::fit(&live.launch.logins, &live.launch.credentials, &rules.routes)?;
        for route in &rules.routes {
            if route.oauth.is_some() && !live.launch.routes.contains(route) {
                return Err(Error::new(Kind::Usage, "a token endpoint (`oauth`) is the provider's own to name")
                    .at(route.host.clone())
                    .hint("leave it out"));
            }
            let Some(auth) = &route.auth else { continue };
            let name = &auth.credential;
            let given = rules.credentials.contains_key(name);
            let launched = live.launch.credentials.contains_key(name) || live.launch.logins.contains_key(name);
            if !given && !launched {
                let message = format!("a route needs the credential {name}, which was not given");
                return Err(Error::new(Kind::CredentialMissing, message).hint(format!("set {name} in this shell")));
            }
            let same = |own: &Route| own.host == route.host && own.auth.as_ref().is_some_and(|a| a.credential == *name);
            if launched && !live.launch.routes.iter().any(same) {
                let message = format!("the credential {name} was given for other hosts than {}", route.host);
                return Err(Error::new(Kind::Usage, message).hint("name a credential of its own for this host"));
            }
        }
        Ok(())
    }
}

/// Gets a list as events have it: nothing in place of one that is too long for an event.
pub(super) fn told(routes: &[Route]) -> Option<Value> {
    let routes = json!(routes);
    (routes.to_string().len() <= MOST_TOLD).then_some(routes)
}

/// Gets where an entry in force comes from. What the launch had is still the launch's, whatever was changed beside it.
fn origin(launch: &Launch, route: &Route) -> Origin {
    match launch.routes.iter().position(|own| own == route) {
        Some(at) => launch.origins.get(at).cloned().unwrap_or_default(),
        None => Origin::new(OriginKind::Change, None),
    }
}

fn no_way_out(slug: &str) -> Error {
    Error::new(Kind::Usage, "it has no way out at this moment").at(slug).hint("ask again while its agent runs")
}

impl Live {
    /// Gets the allow-list in force, with the credentials that came after the launch.
    pub fn rules(&self) -> Rules {
        self.changed_rules().unwrap_or_else(|| Rules { routes: self.launch.routes.clone(), ..Rules::default() })
    }

    /// Gets the ports that `routes` need listeners for, and those of past routes that have to be closed for them: listeners stay
    /// while there is room.
    fn with_room_for(&self, routes: &[Route]) -> Result<(Vec<u16>, Vec<u16>)> {
        let wanted = ports(routes, self.launch.proxy)?;
        let open = self.listeners();
        let all = wanted.iter().filter(|port| !open.contains(port)).count() + open.len();
        if all <= MOST_PORTS {
            return Ok((wanted, Vec::new()));
        }
        // What listened from the start stays: the watch over ports that nobody serves was told of it then.
        let first = ports(&self.launch.routes, self.launch.proxy)?;
        let past: Vec<u16> = open.into_iter().filter(|port| !wanted.contains(port) && !first.contains(port)).collect();
        if all - past.len() > MOST_PORTS || !self.link.knows("unlisten") {
            let message = format!(
                "with these routes the bottle would listen on more than {MOST_PORTS} ports, its first ones counted"
            );
            return Err(Error::new(Kind::Usage, message).hint("start the agent anew with the routes that it needs"));
        }
        Ok((wanted, past))
    }

    /// Tells whether the keeper can be left a note with `rules`.
    fn can_note(&self, rules: &Rules) -> Result<()> {
        let note = self.note_with(rules);
        if serde_json::to_vec(&Request::Note { note }).map_or(usize::MAX, |bytes| bytes.len()) > MAX_NOTE {
            return Err(Error::new(
                Kind::Usage,
                "the routes are too many to be kept by the bottle's keeper (some 50 KiB)",
            )
            .hint("write fewer rules, or wider ones"));
        }
        Ok(())
    }

    async fn put_in_force(self: &Arc<Self>, rules: &Rules) -> Result<()> {
        let rules_of_plane = in_force(&self.launch.credentials, &self.logins, rules);
        let done = self.with_egress(|egress| egress.set_routes(&rules_of_plane));
        done.ok_or_else(|| no_way_out(&self.slug))?.map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
        self.note_rules(rules.clone()).await;
        Ok(())
    }

    /// Closes the listeners of ports that no route has any more, here and at the keeper.
    async fn close_listeners(&self, ports: Vec<u16>) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let closed = self.with_egress(|egress| egress.close_listeners(&ports)).ok_or_else(|| no_way_out(&self.slug))?;
        for one in closed {
            // It ends without a word.
            let _ = one.await;
        }
        match self.link.ask(Request::Unlisten { ports: ports.clone() }).await? {
            (Reply::Done, _) => self.has_no_listeners(&ports),
            (Reply::Failed { error }, _) => return Err(error),
            (other, _) => return Err(Error::internal(format!("unexpected answer {other:?}"))),
        }
        Ok(())
    }

    /// Opens listeners in the gate for ports that have none. Those of ports that no route has any more stay for as long as there is
    /// room: who connects there is told why it is refused.
    async fn listen_on(&self, ports: &[u16]) -> Result<()> {
        for &port in ports {
            if self.listens_on(port) {
                continue;
            }
            match self.link.ask(Request::Listen { port }).await? {
                (Reply::Listeners { listeners }, mut fds)
                    if listeners == [Listener::Tcp { port }] && fds.len() == 1 =>
                {
                    let listener = std::net::TcpListener::from(fds.remove(0));
                    let added = self.with_egress(|egress| egress.add_listener(listener));
                    added
                        .ok_or_else(|| no_way_out(&self.slug))?
                        .map_err(|e| Error::internal(format!("a listener of the bottle: {e}")))?;
                    self.has_listener(port);
                }
                (Reply::Failed { error }, _) => return Err(error),
                (other, _) => return Err(Error::internal(format!("unexpected answer {other:?}"))),
            }
        }
        Ok(())
    }
}

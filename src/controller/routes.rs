//! The allow-list of a bottle that runs: shown, asked and changed.
//!
//! What a change takes away takes effect first and is recorded second; what it gives takes effect when its row is committed.
//! It is left with the keeper, so that it outlives this controller.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::json;

use super::Controller;
use super::ledger_error;
use super::live::Live;
use super::note::Rules;
use crate::api::{Credentials, Route, Routes, RoutesChange, Verdict};
use crate::bottle::wire::{Listener, Reply, Request};
use crate::egress::route::Router;
use crate::enforce::By;
use crate::error::{Error, Kind, Result};

/// Most ports that a bottle's gate listens on: their sockets travel in one packet.
pub const MOST_PORTS: usize = 48;
/// Largest note that a keeper is left: a packet's size less its frame. Unit: bytes.
const MAX_NOTE: usize = 48 * 1024;

/// Gets the ports that a gate listens on for `routes`. DNS has listeners of its own.
pub fn ports(routes: &[Route]) -> Result<Vec<u16>> {
    let mut ports = vec![443, 80];
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

/// Gets values as the plane takes them.
pub fn secrets<'a>(credentials: impl IntoIterator<Item = &'a Credentials>) -> BTreeMap<String, SecretString> {
    let all = credentials.into_iter().flat_map(|credentials| credentials.iter());
    all.map(|(name, value)| (name.clone(), SecretString::from(value.clone()))).collect()
}

impl Controller {
    /// Gets the allow-list in force.
    ///
    /// # Errors
    /// `no_such_bottle`, `ambiguous_slug`.
    pub fn routes(&self, name: &str) -> Result<Routes> {
        let live = self.find(name)?;
        let changed = live.changed_rules().is_some();
        Ok(Routes { slug: live.slug.clone(), routes: live.rules().routes, changed })
    }

    /// Says what would become of a request of the bottle.
    ///
    /// # Errors
    /// As [`Controller::routes`]; `usage` where it has no way out at this moment.
    pub fn why(&self, name: &str, url: &str, method: &str) -> Result<Verdict> {
        let live = self.find(name)?;
        live.with_egress(|egress| egress.why(url, method)).ok_or_else(|| no_way_out(&live.slug))
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
        let mut credentials = before.credentials.clone();
        for (name, value) in change.credentials.iter() {
            credentials.insert(name.clone(), value.clone());
        }
        let after = Rules { routes: change.routes, credentials };
        let missing = after.routes.iter().filter_map(|route| route.auth.as_ref()).find(|auth| {
            !live.launch.credentials.contains_key(&auth.credential) && !after.credentials.contains_key(&auth.credential)
        });
        if let Some(auth) = missing {
            let message = format!("a route needs the credential {}, which was not given", auth.credential);
            return Err(
                Error::new(Kind::CredentialMissing, message).hint(format!("set {} in this shell", auth.credential))
            );
        }
        let wanted = ports(&after.routes)?;
        live.can_note(&after)?;
        // What both lists have, first: whatever happens to the ledger now, what was taken back is gone.
        let stays: Vec<Route> = before.routes.iter().filter(|route| after.routes.contains(route)).cloned().collect();
        let removed: Vec<&Route> = before.routes.iter().filter(|route| !after.routes.contains(route)).collect();
        let added: Vec<&Route> = after.routes.iter().filter(|route| !before.routes.contains(route)).collect();
        if removed.is_empty() && added.is_empty() && after.routes == before.routes {
            return self.routes(&live.slug);
        }
        if !removed.is_empty() {
            // Rules that refuse are in routes as well: one that is taken out loosens, and must wait for its row.
            let narrow = Rules { routes: narrowed(&before.routes, &stays), credentials: after.credentials.clone() };
            live.put_in_force(&narrow).await?;
        }
        let words = |routes: &[&Route]| -> Vec<String> {
            routes
                .iter()
                .map(|route| [route.host.clone()].into_iter().chain(route.words()).collect::<Vec<_>>().join(", "))
                .collect()
        };
        let data = json!({
            "added": words(&added), "removed": words(&removed), "reason": change.reason, "by": By::Operator.as_str(),
        });
        live.record_routes(data).await.map_err(|e| ledger_error(&e, &self.host.home.ledger()))?;
        live.listen_on(&wanted).await?;
        live.put_in_force(&after).await?;
        self.routes(&live.slug)
    }
}

/// Gets the routes of `stays` together with what the others of `before` refuse.
fn narrowed(before: &[Route], stays: &[Route]) -> Vec<Route> {
    let refusing =
        before.iter().filter(|route| !stays.contains(route) && (!route.deny.is_empty() || !route.quiet.is_empty()));
    let refusing = refusing.map(|route| Route {
        host: route.host.clone(),
        ports: route.ports.clone(),
        api: route.api,
        // No request has this method, so that nothing is allowed by it.
        matches: vec![crate::api::Match { methods: vec!["NONE".into()], ..Default::default() }],
        deny: route.deny.clone(),
        quiet: route.quiet.clone(),
        ..Route::default()
    });
    stays.iter().cloned().chain(refusing).collect()
}

fn no_way_out(slug: &str) -> Error {
    Error::new(Kind::Usage, "it has no way out at this moment").at(slug).hint("ask again while its agent runs")
}

impl Live {
    /// Gets the allow-list in force, with the credentials that came after the launch.
    pub fn rules(&self) -> Rules {
        self.changed_rules().unwrap_or_else(|| Rules { routes: self.launch.routes.clone(), ..Rules::default() })
    }

    /// Tells whether the keeper can be left a note with `rules`.
    fn can_note(&self, rules: &Rules) -> Result<()> {
        if serde_json::to_vec(rules).map_or(usize::MAX, |bytes| bytes.len()) > MAX_NOTE {
            return Err(Error::new(Kind::Usage, "the routes are larger than 48 KiB together")
                .hint("write fewer rules, or wider ones"));
        }
        Ok(())
    }

    async fn put_in_force(self: &Arc<Self>, rules: &Rules) -> Result<()> {
        let values = secrets([&self.launch.credentials, &rules.credentials]);
        let done = self.with_egress(|egress| egress.set_routes(&rules.routes, &values));
        done.ok_or_else(|| no_way_out(&self.slug))?.map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
        self.note_rules(rules.clone()).await;
        Ok(())
    }

    /// Opens listeners in the gate for ports that have none. Those of ports that no route has any more stay: who connects
    /// there is told why it is refused.
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

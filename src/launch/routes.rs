//! The allow-list of a launch by manifests: the provider's routes and the manifests', with their credentials resolved.

use super::Desk;
use crate::api::{Credentials, Route};
use crate::egress::route::Router;
use crate::error::{Error, Kind, Result};
use crate::manifest::Effective;
use crate::provider::{self, Plan, Provider};

/// What may leave, and with what.
pub(super) struct Allowed {
    pub routes: Vec<Route>,
    pub credentials: Credentials,
    /// Each credential as a preflight names it.
    pub names: Vec<String>,
}

/// Makes the allow-list. The provider's own entry of a host wins over a manifest's.
pub(super) fn allow_list(merged: &Effective, provider: &Provider, plan: &Plan, desk: &Desk<'_>) -> Result<Allowed> {
    let mut routes = plan.routes.clone();
    let mut credentials = plan.credentials.clone();
    let mut names: Vec<String> = plan.credentials.keys().map(|name| format!("{name} of {}", plan.provider)).collect();
    for said in &merged.routes {
        let route = &said.value.allow;
        if plan.routes.iter().any(|own| own.host == route.host) {
            continue;
        }
        if let Some(auth) = &route.auth {
            // A provider's credential goes to the provider's hosts and nowhere else.
            if provider.credential_names().contains(&auth.credential.as_str()) {
                let message = format!("the credential `{}` belongs to the provider's own routes", auth.credential);
                return Err(Error::new(Kind::Usage, message)
                    .at(said.place.to_string())
                    .hint("name a variable of the host in `token_ref`"));
            }
            let value = provider::resolve(&auth.credential, desk.stage.is_some(), desk.lookup)
                .map_err(|e| e.at(said.place.to_string()))?;
            if credentials.insert(auth.credential.clone(), value).is_none() {
                names.push(format!("${{{}}}", auth.credential));
            }
        }
        routes.push(route.clone());
    }
    for said in &merged.routes {
        let host = &said.value.allow.host;
        let same: Vec<Route> = routes.iter().filter(|route| route.host == *host).cloned().collect();
        Router::new(&same).map_err(|e| {
            Error::new(Kind::Usage, e.to_string())
                .at(said.place.to_string())
                .hint("make one route of them, or remove one")
        })?;
    }
    let quiet: Vec<Route> =
        plan.quiet.iter().filter(|quiet| !routes.iter().any(|r| r.host == quiet.host)).cloned().collect();
    routes.extend(quiet);
    Ok(Allowed { routes, credentials, names })
}

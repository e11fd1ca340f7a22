//! The allow-list of a launch by manifests: the provider's routes and the manifests', with their credentials resolved.

use super::Desk;
use crate::api::{self, OriginKind, Route};
use crate::egress::route::Router;
use crate::error::{Error, Kind, Result};
use crate::manifest::Effective;
use crate::provider::{Origin, Plan, Provider, Purse, Search};
use crate::settings::Sources;

/// What may leave, and with what.
pub(super) struct Allowed {
    pub routes: Vec<Route>,
    /// Where each of them comes from.
    pub origins: Vec<api::Origin>,
    pub credentials: Purse,
    /// Each credential as a preflight names it.
    pub names: Vec<String>,
}

/// Makes the allow-list. The provider's own entry of a host wins over a manifest's.
pub(super) fn allow_list(
    merged: &Effective,
    provider: &Provider,
    plan: &Plan,
    sources: &Sources,
    desk: &Desk<'_>,
) -> Result<Allowed> {
    let search = Search { lookup: desk.lookup, sources, rehearsal: desk.stage.is_some() };
    let mut routes = plan.routes.clone();
    let mut credentials = plan.credentials.clone();
    let own = credentials.origins.iter().map(|(name, origin)| format!("{name} of {}{origin}", plan.provider));
    let mut names: Vec<String> = own.collect();
    for said in &merged.routes {
        let route = &said.value.allow;
        if plan.routes.iter().any(|own| own.host == route.host) {
            // What a manifest refuses is refused there as well.
            routes.iter_mut().filter(|own| own.host == route.host).for_each(|own| own.narrow_by(route));
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
            let found = search.resolve(&auth.credential).map_err(|e| match e.place {
                None => e.at(said.place.to_string()),
                Some(_) => e,
            })?;
            if credentials.put(&auth.credential, found) {
                names.push(match credentials.origins.get(&auth.credential) {
                    Some(origin @ Origin::Settings(_)) => format!("{}{origin}", auth.credential),
                    _ => format!("${{{}}}", auth.credential),
                });
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
    let origins = routes.iter().map(|route| origin(route, merged, plan)).collect();
    Ok(Allowed { routes, origins, credentials, names })
}

/// Gets where an entry comes from.
fn origin(route: &Route, merged: &Effective, plan: &Plan) -> api::Origin {
    let said = |exactly: bool| {
        let all = merged.routes.iter().filter(move |said| {
            let own = &said.value.allow;
            if exactly { own == route } else { own.host == route.host }
        });
        all.map(|said| said.place.to_string())
    };
    if plan.routes.iter().any(|own| own.host == route.host) {
        let origin = api::Origin::new(OriginKind::Provider, Some(plan.provider.clone()));
        return api::Origin { narrowed_by: said(false).collect(), ..origin };
    }
    match said(true).next() {
        Some(place) => api::Origin::new(OriginKind::Manifest, Some(place)),
        None => api::Origin::new(OriginKind::Provider, Some(plan.provider.clone())),
    }
}

//! Which entries of the allow-list may be a login's token endpoint. Pure.

use super::compile::{Pattern, RouteError};
use crate::api;

/// Refuses a token endpoint that could be taken for anything else: it is answered here, whatever is asked of it.
pub(super) fn is_one_only(route: &api::Route, pattern: &Pattern) -> Result<(), RouteError> {
    let exact = |rule: &api::Match| {
        let paths = !rule.paths.is_empty() && rule.paths.iter().all(|path| path.kind == api::PathKind::Exact);
        paths && rule.methods == ["POST"] && rule.headers.is_empty()
    };
    let beside = [
        ("its host is a wildcard", matches!(pattern, Pattern::Below(_))),
        ("it is passed through unseen", route.tls == api::Tls::Passthrough),
        ("it has `auth`", route.auth.is_some()),
        ("it has `api`", route.api.is_some()),
        ("it has `websocket`", route.websocket),
        ("its `matches` are others", route.matches.is_empty() || !route.matches.iter().all(exact)),
    ];
    match beside.into_iter().find(|(_, said)| *said) {
        Some((what, _)) => Err(RouteError::TokenEndpoint { route: route.host.clone(), what }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Router;
    use super::*;
    use crate::api::{Auth, AuthScheme, Match, PathKind, PathRule, Route, Tls};
    use crate::types::ApiFamily;

    fn endpoint() -> Route {
        let paths = vec![PathRule { kind: PathKind::Exact, value: "/v1/oauth/token".into() }];
        Route {
            host: "platform.claude.com".into(),
            matches: vec![Match { methods: vec!["POST".into()], paths, ..Match::default() }],
            oauth: Some("claude".into()),
            ..Route::default()
        }
    }

    #[test]
    fn a_token_endpoint_is_nothing_else() {
        let list = |route: &Route| Router::new(std::slice::from_ref(route)).map(|_| ());
        assert_eq!(list(&endpoint()), Ok(()));
        let auth = Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: "x".into() });
        let with = |change: &dyn Fn(&mut Match)| {
            let mut route = endpoint();
            change(&mut route.matches[0]);
            route
        };
        for wrong in [
            Route { host: "*.claude.com".into(), ..endpoint() },
            Route { auth, ..endpoint() },
            Route { api: Some(ApiFamily::Anthropic), ..endpoint() },
            Route { websocket: true, ..endpoint() },
            Route { matches: vec![], ..endpoint() },
            Route { tls: Tls::Passthrough, matches: vec![], ..endpoint() },
            with(&|rule| rule.methods = vec![]),
            with(&|rule| rule.methods.push("GET".into())),
            with(&|rule| rule.paths = vec![]),
            with(&|rule| rule.paths[0].kind = PathKind::Prefix),
        ] {
            assert!(
                matches!(list(&wrong), Err(RouteError::TokenEndpoint { .. } | RouteError::Blind { .. })),
                "{wrong:?}"
            );
        }
        let both = |one: &Route, other: &Route| Router::new(&[one.clone(), other.clone()]).map(|_| ());
        let all = Route { host: endpoint().host, ..Route::default() };
        assert!(both(&all, &endpoint()).is_err(), "the first takes everything");
        assert!(both(&Route { oauth: None, ..endpoint() }, &endpoint()).is_err());
        assert_eq!(both(&endpoint(), &all), Ok(()), "the second is for the rest");
    }
}

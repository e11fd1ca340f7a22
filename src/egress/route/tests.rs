//! What an allow-list lets through, by host, port, method, path and headers.

use super::*;
use crate::api::{Auth, AuthScheme, Match, PathKind, PathRule, Route};

fn asked<'a>(host: &'a Host, port: u16, method: &'a str, path: &'a str) -> Asked<'a> {
    static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
    Asked { host, port, tls: port != 80, method, path, headers: &NONE, websocket: false }
}

fn kind(router: &Router, host: &str, port: u16, method: &str, path: &str) -> Result<String, Denial> {
    let host = Host::parse(host).unwrap();
    router.check(asked(&host, port, method, path)).map(|a| a.path.into_owned()).map_err(|d| d.kind)
}

fn github() -> Router {
    Router::new(&[Route {
        host: "API.github.com".into(),
        matches: vec![
            Match {
                methods: vec!["GET".into()],
                paths: vec![PathRule { kind: PathKind::Prefix, value: "/repos/me".into() }],
                ..Match::default()
            },
            Match {
                methods: vec!["POST".into()],
                paths: vec![PathRule { kind: PathKind::Exact, value: "/graphql".into() }],
                ..Match::default()
            },
        ],
        quiet: vec!["/_telemetry".into()],
        ..Route::default()
    }])
    .unwrap()
}

#[test]
fn an_empty_list_allows_nothing() {
    let router = Router::new(&[]).unwrap();
    assert_eq!(kind(&router, "example.com", 443, "GET", "/"), Err(Denial::RouteMissing));
}

#[test]
fn hosts_are_exact_names_not_suffixes() {
    let router = github();
    assert!(kind(&router, "api.github.com", 443, "GET", "/repos/me/x").is_ok());
    for host in ["evilapi.github.com", "api.github.com.evil.net", "github.com", "x.api.github.com"] {
        assert_eq!(kind(&router, host, 443, "GET", "/repos/me"), Err(Denial::RouteMissing), "{host}");
    }
}

#[test]
fn each_part_of_a_rule_refuses_by_its_own_kind() {
    let router = github();
    assert_eq!(kind(&router, "api.github.com", 22, "GET", "/repos/me"), Err(Denial::Port));
    assert_eq!(kind(&router, "api.github.com", 443, "DELETE", "/repos/me"), Err(Denial::Method));
    assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/you"), Err(Denial::Path));
    assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/mean"), Err(Denial::Path));
    assert_eq!(kind(&router, "api.github.com", 443, "POST", "/graphql/x"), Err(Denial::Path));
    assert!(kind(&router, "api.github.com", 443, "POST", "/graphql").is_ok());
}

#[test]
fn quiet_prefixes_are_marked() {
    let router = github();
    let host = Host::parse("api.github.com").unwrap();
    let deny = router.check(asked(&host, 443, "POST", "/_telemetry/v2")).unwrap_err();
    assert!(deny.quiet);
    assert!(!router.check(asked(&host, 443, "POST", "/_telemetryx")).unwrap_err().quiet);
}

#[test]
fn a_path_that_servers_read_in_two_ways_does_not_pass_a_path_rule() {
    let router = github();
    for path in [
        "/repos/me/../you",
        "/repos/me/%2e%2e/you",
        "/repos/me/.%2E/you",
        "/repos/me%2Fx",
        "/repos/me%5cx",
        "/repos//me",
        "//repos/me",
        "/repos/me/..;/you",
        "/repos/me/x%00",
        "/repos/me/%zz",
        "/repos/me/%4",
        "/repos\\me",
        "*",
    ] {
        assert_eq!(kind(&router, "api.github.com", 443, "GET", path), Err(Denial::Path), "{path}");
    }
    assert_eq!(kind(&router, "api.github.com", 443, "GET", "/%72epos/me/").as_deref(), Ok("/repos/me/"));
    assert_eq!(
        kind(&router, "api.github.com", 443, "GET", "/repos/me/%c3%a4%20").as_deref(),
        Ok("/repos/me/%C3%A4%20")
    );
    // Double coding stays what it is: one decoding of a code is not a slash.
    assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/me/%252F").as_deref(), Ok("/repos/me/%252F"));
}

#[test]
fn a_route_without_rules_passes_paths_as_they_came() {
    let router = Router::new(&[Route { host: "registry.npmjs.org".into(), ..Route::default() }]).unwrap();
    assert_eq!(kind(&router, "registry.npmjs.org", 443, "GET", "/@babel%2fcore").as_deref(), Ok("/@babel%2fcore"));
    assert!(kind(&router, "registry.npmjs.org", 80, "GET", "/x").is_ok());
    assert_eq!(kind(&router, "registry.npmjs.org", 8443, "GET", "/x"), Err(Denial::Port));
}

#[test]
fn a_credential_never_travels_over_plain_http() {
    let auth = Auth { scheme: AuthScheme::Bearer, header: None, credential: "k".into() };
    let router = Router::new(&[Route { host: "a.example".into(), auth: Some(auth), ..Route::default() }]).unwrap();
    assert_eq!(kind(&router, "a.example", 80, "GET", "/"), Err(Denial::Port));
    assert!(kind(&router, "a.example", 443, "GET", "/").is_ok());
}

fn rules(kind: PathKind, methods: &[&str], path: &str) -> Match {
    let methods = methods.iter().map(|&m| m.into()).collect();
    Match { methods, paths: vec![PathRule { kind, value: path.into() }], ..Match::default() }
}

#[test]
fn a_wildcard_is_for_every_name_below_its_suffix_and_never_for_the_suffix() {
    let router = Router::new(&[Route { host: "*.example.com".into(), ..Route::default() }]).unwrap();
    for host in ["a.example.com", "a.b.example.com", "A.Example.COM."] {
        assert!(kind(&router, host, 443, "GET", "/").is_ok(), "{host}");
    }
    for host in ["example.com", "evilexample.com", "a.example.com.evil.net", "com", "a.example.org"] {
        assert_eq!(kind(&router, host, 443, "GET", "/"), Err(Denial::RouteMissing), "{host}");
    }
}

#[test]
fn the_most_specific_host_decides() {
    let router = Router::new(&[
        Route { host: "*.example.com".into(), ..Route::default() },
        Route {
            host: "*.api.example.com".into(),
            matches: vec![rules(PathKind::Prefix, &[], "/v1")],
            ..Route::default()
        },
        Route { host: "x.api.example.com".into(), ports: vec![8443], ..Route::default() },
    ])
    .unwrap();
    assert!(kind(&router, "a.example.com", 443, "GET", "/v2").is_ok());
    assert!(kind(&router, "a.api.example.com", 443, "GET", "/v1").is_ok());
    assert_eq!(kind(&router, "a.api.example.com", 443, "GET", "/v2"), Err(Denial::Path));
    assert_eq!(
        kind(&router, "x.api.example.com", 443, "GET", "/v1"),
        Err(Denial::Port),
        "no wildcard opens a port of it"
    );
    assert!(kind(&router, "x.api.example.com", 8443, "GET", "/v2").is_ok());
}

#[test]
fn deny_beats_whatever_allows() {
    let router = Router::new(&[
        Route { host: "a.example.com".into(), ..Route::default() },
        Route {
            host: "*.example.com".into(),
            deny: vec![rules(PathKind::Prefix, &[], "/admin"), rules(PathKind::Regex, &["DELETE"], "/items/[0-9]+")],
            quiet: vec!["/telemetry".into()],
            ..Route::default()
        },
    ])
    .unwrap();
    assert!(kind(&router, "a.example.com", 443, "GET", "/x").is_ok());
    assert!(kind(&router, "a.example.com", 443, "GET", "/items/1").is_ok());
    for path in ["/admin", "/admin/x", "/%61dmin", "/admin/../admin"] {
        assert_eq!(kind(&router, "a.example.com", 443, "GET", path), Err(Denial::Path), "{path}");
    }
    assert_eq!(kind(&router, "a.example.com", 443, "DELETE", "/items/1"), Err(Denial::Method));
    assert_eq!(kind(&router, "b.example.com", 443, "GET", "/telemetry/x"), Err(Denial::Path));
}

#[test]
fn a_model_api_without_its_meter_is_not_passed() {
    let router = Router::new(&[
        Route { host: "api.openai.com".into(), ..Route::default() },
        Route { host: "*.anthropic.com".into(), ..Route::default() },
    ])
    .unwrap();
    for host in ["api.openai.com", "API.openai.com.", "api.anthropic.com"] {
        assert_eq!(kind(&router, host, 443, "POST", "/v1/x"), Err(Denial::MeteredPathUnknown), "{host}");
    }
    assert!(kind(&router, "docs.anthropic.com", 443, "GET", "/").is_ok());
}

#[test]
fn what_is_passed_through_is_known_by_name_and_port() {
    let through = |host: &str| Route { host: host.into(), tls: crate::api::Tls::Passthrough, ..Route::default() };
    let router =
        Router::new(&[through("*.pin.example"), Route { host: "x.pin.example".into(), ..Route::default() }]).unwrap();
    let passes = |host: &str, port| router.passes_through(&Host::parse(host).unwrap(), port).is_some();
    assert!(passes("a.pin.example", 443) && !passes("a.pin.example", 8443));
    assert!(!passes("x.pin.example", 443), "an exact route decides");
    assert!(!passes("pin.example", 443));
    assert_eq!(kind(&router, "a.pin.example", 80, "GET", "/"), Err(Denial::Port), "plain HTTP is not TLS");
}

#[test]
fn a_websocket_is_no_get() {
    let route = |websocket| Route {
        host: "a.example".into(),
        matches: vec![rules(PathKind::Prefix, &["GET"], "/ws"), rules(PathKind::Prefix, &[], "/free")],
        websocket,
        ..Route::default()
    };
    let host = Host::parse("a.example").unwrap();
    let ask = |websocket, path| {
        let router = Router::new(&[route(websocket)]).unwrap();
        let asked = Asked { websocket: true, ..asked(&host, 443, "GET", path) };
        router.check(asked).map(|_| ()).map_err(|d| d.kind)
    };
    assert_eq!(ask(false, "/ws"), Err(Denial::Upgrade));
    assert_eq!((ask(true, "/ws"), ask(false, "/free")), (Ok(()), Ok(())));
}

#[test]
fn a_rule_that_refuses_cannot_be_walked_around() {
    let deny = |paths: &str| Match {
        paths: vec![PathRule { kind: PathKind::Prefix, value: paths.into() }],
        ..Match::default()
    };
    let router = Router::new(&[Route {
        host: "a.example".into(),
        deny: vec![deny("/admin")],
        quiet: vec!["/telemetry".into()],
        ..Route::default()
    }])
    .unwrap();
    for path in ["/admin;x/secret", "/admin;/x", "/telemetry;a=b/c"] {
        assert_eq!(kind(&router, "a.example", 443, "GET", path), Err(Denial::Path), "{path}");
    }
    assert!(kind(&router, "a.example", 443, "GET", "/adminx;y").is_ok());
}

#[test]
fn what_is_passed_through_has_no_wider_rule_that_refuses() {
    let through = Route { host: "x.corp.example".into(), tls: crate::api::Tls::Passthrough, ..Route::default() };
    let deny = vec![Match { methods: vec!["POST".into()], ..Match::default() }];
    let wide = |ports: Vec<u16>| Route { host: "*.corp.example".into(), deny: deny.clone(), ports, ..Route::default() };
    for routes in [[through.clone(), wide(vec![])], [wide(vec![]), through.clone()]] {
        assert!(matches!(Router::new(&routes), Err(RouteError::Contradiction { .. })));
    }
    assert!(Router::new(&[through, wide(vec![8443])]).is_ok(), "another port is another service");
}

#[test]
fn a_websocket_needs_a_word_where_it_would_pass_bounds_by() {
    let host = Host::parse("a.example").unwrap();
    let ask = |route: Route| {
        let router = Router::new(&[Route { host: "a.example".into(), ..route }]).unwrap();
        let asked = Asked { websocket: true, ..asked(&host, 443, "GET", "/ws") };
        router.check(asked).map(|_| ()).map_err(|d| d.kind)
    };
    let auth = Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: "k".into() });
    let deny = vec![Match { methods: vec!["POST".into()], ..Match::default() }];
    assert_eq!(ask(Route::default()), Ok(()));
    for route in [
        Route { auth, ..Route::default() },
        Route { max_request: Some(1), ..Route::default() },
        Route { max_response: Some(1), ..Route::default() },
        Route { deny, ..Route::default() },
    ] {
        assert_eq!(ask(route.clone()), Err(Denial::Upgrade), "{route:?}");
        assert_eq!(ask(Route { websocket: true, ..route }), Ok(()));
    }
}

#[test]
fn private_ranges_are_the_routes_own() {
    let net: IpNet = "10.1.0.0/16".parse().unwrap();
    let router = Router::new(&[
        Route { host: "db.corp.example".into(), ports: vec![8443], allow_private: vec![net], ..Route::default() },
        Route { host: "*.corp.example".into(), ..Route::default() },
    ])
    .unwrap();
    let private = |host: &str, port| router.private(&Host::parse(host).unwrap(), port);
    assert_eq!(private("db.corp.example", 8443), [net]);
    assert!(private("db.corp.example", 443).is_empty() && private("x.corp.example", 443).is_empty());
}

#[test]
fn one_host_is_one_host_however_its_routes_spell_it() {
    let auth = |name: &str| Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: name.into() });
    let routes = [
        Route { host: "a.example".into(), auth: auth("a"), ..Route::default() },
        Route { host: "A.example.".into(), auth: auth("b"), ..Route::default() },
    ];
    assert!(matches!(Router::new(&routes), Err(RouteError::Contradiction { .. })));
}

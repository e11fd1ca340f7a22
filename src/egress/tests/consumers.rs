//! Every consumer of a name agrees with every other one on what name it is, however it is spelled, or refuses it.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use proptest::prelude::*;

use super::super::address::{Gate, NameBook, of_name};
use super::super::dial::Upstreams;
use super::super::dns::reply_to;
use super::super::link::{self, Link};
use super::super::name::{Host, NameError, one_form};
use super::super::policy::{Policy, Towards};
use super::super::proxy;
use super::super::route::{Asked, Router, canonical};
use super::super::streams::Streams;
use super::*;

/// What a consumer makes of a text: the name that it takes it for; an address; or it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    Name(String),
    Address,
    Refused,
}

impl From<Result<Host, NameError>> for Reading {
    fn from(host: Result<Host, NameError>) -> Reading {
        match host {
            Ok(Host::Name(name)) => Reading::Name(name.to_string()),
            Ok(Host::Ip(_)) => Reading::Address,
            Err(_) => Reading::Refused,
        }
    }
}

/// Who reads names.
pub(super) struct Consumers {
    policy: Policy,
    streams: Streams,
}

impl Consumers {
    pub(super) fn new() -> Consumers {
        let towards = Towards {
            roots: Arc::new(RootCertStore::empty()),
            upstreams: BTreeMap::new(),
            lookups: super::super::lookup::Lookups::default(),
            proxy: None,
        };
        Consumers { policy: Policy::new(&Rules::default(), &towards).unwrap(), streams: Streams::default() }
    }

    /// Says where two consumers do not agree on `text`.
    pub(super) fn agree(&self, text: &str) -> Result<(), String> {
        let parsed = Host::parse(text);
        let name = Reading::from(parsed.clone());
        if let Ok(host) = &parsed {
            well_formed(host).map_err(|why| format!("{text:?}: {why}"))?;
        }
        // In an authority IPv6 stands in brackets.
        let bare = name == Reading::Address && text.contains(':') && !text.starts_with('[');
        let spelled = if bare { format!("[{text}]") } else { text.to_owned() };
        // Those that take any text, and have to say exactly what the parser says.
        let port = text.contains([':', '[']) && name != Reading::Address;
        let mut exact = vec![
            ("a route", if text.starts_with('*') { name.clone() } else { route(text) }),
            ("an upstream's key", if port { name.clone() } else { key(&spelled) }),
            ("why", if port || text.contains(['/', '?', '#']) { name.clone() } else { self.why(&spelled) }),
            ("a grant", if text.contains(['/', '*']) { name.clone() } else { grant(text) }),
        ];
        // To the name server an address is a name that there is not.
        let nothing =
            |reading| if reading == Reading::Refused && name == Reading::Address { name.clone() } else { reading };
        exact.extend(question(text).map(|query| ("DNS", nothing(resolved(&query)))));
        if let Some((_, other)) = exact.iter().find(|(_, reading)| *reading != name) {
            return Err(format!("{text:?} is {name:?} and {other:?}: {exact:?}"));
        }
        // Those to which only some texts come, by way of another parser: what they take is the same. What follows
        // a colon is a port.
        let meant = Reading::from(Host::parse_authority(&spelled).map(|(host, _)| host));
        let one = match &parsed {
            Ok(host) => spelled == host.authority(443, true),
            Err(_) => false,
        };
        for (who, reading) in [("Host", header(&spelled)), (":authority", authority(&spelled))] {
            taken(who, &spelled, &reading, &meant, one)?;
        }
        for (who, reading) in [("CONNECT", connect(&spelled)), ("a proxied address", proxied(&spelled))] {
            taken(who, &spelled, &reading, &meant, one)?;
        }
        // No server name is an address.
        taken("SNI", text, &server_name(text), &name, one && matches!(name, Reading::Name(_)))?;
        // The settings take the one form only.
        let is_one = matches!(&name, Reading::Name(one) if one == text);
        if crate::yaml::read::is_host(text) != is_one {
            return Err(format!("{text:?} is {name:?}, and to the settings it is not"));
        }
        Ok(())
    }

    fn why(&self, text: &str) -> Reading {
        let unsent =
            crate::api::Unsent { url: format!("https://{text}/"), method: "GET".to_owned(), headers: Vec::new() };
        let verdict = super::super::why::why(&self.policy, &self.streams, &unsent);
        match verdict.kind.as_deref() {
            Some("route_missing") => Reading::Name(verdict.host),
            Some("ip_literal") => Reading::Address,
            _ => Reading::Refused,
        }
    }
}

/// Checks that a consumer takes a text for what is `meant`, or refuses it; what is in its one form has to be taken.
fn taken(who: &str, text: &str, reading: &Reading, meant: &Reading, one: bool) -> Result<(), String> {
    let refused = *reading == Reading::Refused;
    if reading != meant && (one || !refused) {
        return Err(format!("{text:?} is {meant:?}, and to {who} {reading:?}"));
    }
    Ok(())
}

/// Checks the one form of a host: it is its own one form, and everybody who has to take it on the way out does.
fn well_formed(host: &Host) -> Result<(), String> {
    let text = host.to_string();
    if Host::parse(&text).as_ref() != Ok(host) {
        return Err(format!("{text} is another name when it is read again"));
    }
    let server = ServerName::try_from(text.clone()).map_err(|_| format!("TLS has no name {text}"))?;
    let authority = http::uri::Authority::try_from(host.authority(443, true)).map_err(|e| format!("{text}: {e}"))?;
    match host {
        Host::Name(name) => {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
            let right = name.bytes().all(plain) && labels && name.len() <= 253 && authority.host() == &**name;
            if !right || !matches!(server, ServerName::DnsName(of) if of.as_ref() == &**name) {
                return Err(format!("{text} is not in one form"));
            }
        }
        Host::Ip(ip) if one_form(*ip) != *ip => return Err(format!("{text} has another form")),
        Host::Ip(_) => {}
    }
    Ok(())
}

fn route(text: &str) -> Reading {
    let one = canonical(text);
    let router = Router::new(&[Route { host: text.to_owned(), ..Route::default() }]);
    let Ok(one) = one else {
        let address = matches!(router, Err(super::super::route::RouteError::Ip { .. }));
        return if address { Reading::Address } else { Reading::Refused };
    };
    // What is compiled is found again by the one form, and by nothing else.
    let host = Host::parse(&one).unwrap();
    let headers = HeaderMap::new();
    let asked =
        Asked { host: &host, port: 443, tls: true, method: "GET", path: "/", headers: &headers, websocket: false };
    match router {
        // The hosts of model APIs are known, and nothing but metered.
        Ok(router) if router.check(asked).is_ok() || crate::meter::hosts::is_model_host(&one) => Reading::Name(one),
        _ => Reading::Refused,
    }
}

fn key(text: &str) -> Reading {
    let upstream = Upstream { address: "127.0.0.1:1".into(), ca_pem: None };
    let upstreams = Upstreams::new(&[(text.to_owned(), upstream)].into());
    match (super::super::dial::parse_key(text), upstreams) {
        (Ok((host, 443)), Ok(upstreams)) if upstreams.get(&host, 443).is_some() => Ok(host).into(),
        _ => Reading::Refused,
    }
}

fn grant(text: &str) -> Reading {
    match crate::lua::grants::Grant::parse(&format!("egress:{text}")) {
        Ok(crate::lua::grants::Grant::Egress(host)) => Reading::Name(host),
        _ if Host::parse(text).is_ok_and(|host| host.is_ip()) => Reading::Address,
        _ => Reading::Refused,
    }
}

/// Makes the query for a text, where there can be one.
fn question(text: &str) -> Option<Vec<u8>> {
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let fits = labels.iter().all(|label| (1..=63).contains(&label.len())) && text.len() <= 253 && text.is_ascii();
    fits.then(|| {
        let name = labels.iter().flat_map(|l| [&[u8::try_from(l.len()).unwrap()], l.as_bytes()].concat());
        let head = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        head.into_iter().chain(name).chain([0, 0, 1, 0, 1]).collect()
    })
}

fn resolved(query: &[u8]) -> Reading {
    let reply = Message::from_vec(&reply_to(query, &NameBook::new()).unwrap().bytes).unwrap();
    let asked = Message::from_vec(query).unwrap().queries[0].name().to_ascii();
    match (reply.answers.first().map(|answer| &answer.data), Host::parse(&asked)) {
        (Some(RData::A(a)), Ok(Host::Name(name))) => {
            let local = *name == *"localhost" || name.ends_with(".localhost");
            let right = if local { a.0.is_loopback() } else { a.0 == of_name(&name) };
            assert!(right && reply.metadata.response_code == ResponseCode::NoError, "{name}");
            Reading::Name(name.to_string())
        }
        (None, Err(_) | Ok(Host::Ip(_))) if reply.metadata.response_code == ResponseCode::NXDomain => Reading::Refused,
        (answer, asked) => panic!("{asked:?} is answered {answer:?}"),
    }
}

/// The name of a request as the plane sees it, on a connection that went where that name is.
fn asked(request: http::request::Builder) -> Reading {
    let Ok(request) = request.body(()) else { return Reading::Refused };
    let port = 80;
    let elsewhere = Link::new(([198, 18, 0, 1], port).into(), false, None);
    let Ok(named) = link::name_once(&elsewhere, &request) else { return Reading::Refused };
    match &named.host {
        Host::Name(name) => {
            let link = Link::new((of_name(name), port).into(), false, None);
            let right = link::destination(Gate::Computed, &link, &named).is_ok() && named.text == **name;
            if right { Reading::Name(named.text.clone()) } else { Reading::Refused }
        }
        Host::Ip(_) => Reading::Address,
    }
}

fn header(text: &str) -> Reading {
    asked(Request::builder().uri("/").header("host", text.as_bytes()))
}

fn authority(text: &str) -> Reading {
    if text.contains(['/', '?', '#']) {
        return Reading::Refused;
    }
    asked(Request::builder().uri(format!("http://{text}/")))
}

/// What the bottle's proxy is asked to connect to, and where that would lead.
fn connect(text: &str) -> Reading {
    let request = Request::builder().method("CONNECT").uri(format!("{text}:443")).body(());
    let Ok(meant) = request.map_err(drop).and_then(|request| proxy::target(&request).map_err(drop)) else {
        return Reading::Refused;
    };
    let host = meant.target.unwrap();
    let right = match &host {
        Host::Name(name) => std::net::IpAddr::from(of_name(name)),
        Host::Ip(ip) => *ip,
    };
    assert_eq!(meant.address, (right, 443).into(), "{text:?}");
    Ok(host).into()
}

/// What a request with a whole address is to the bottle's proxy.
fn proxied(text: &str) -> Reading {
    if text.contains(['/', '?', '#']) {
        return Reading::Refused;
    }
    let Ok(request) = Request::builder().uri(format!("http://{text}/")).body(()) else { return Reading::Refused };
    let Ok(link) = proxy::whole(&request) else { return Reading::Refused };
    let Ok(named) = link::name_once(&link, &request) else { return Reading::Refused };
    match (&named.host, link::destination(Gate::Computed, &link, &named)) {
        (Host::Name(_), Ok(())) => Reading::Name(named.text.clone()),
        (Host::Ip(_), Err(deny)) if deny.kind == deny::Denial::IpLiteral => Reading::Address,
        (host, led) => panic!("{text:?} is {host:?} and leads {:?}", led.map_err(|deny| deny.kind)),
    }
}

/// What rustls lets a client send as a server name, and what the plane makes of it.
fn server_name(text: &str) -> Reading {
    match ServerName::try_from(text) {
        Ok(ServerName::DnsName(name)) => Host::parse(name.as_ref()).into(),
        Ok(ServerName::IpAddress(_)) => Reading::Address,
        _ => Reading::Refused,
    }
}

/// Spellings of names and of addresses, good and bad.
fn spellings() -> impl Strategy<Value = String> {
    let label = prop_oneof![
        4 => "[a-z0-9]{1,8}",
        2 => "[A-Za-z0-9_-]{1,12}",
        1 => Just("xn--bcher-kva".to_owned()),
        1 => "(xn--|XN--)[a-z0-9-]{0,10}",
        1 => "[a-zäöüßİ中日ＡＢ１]{1,6}",
        1 => "[0-9]{1,4}",
        1 => "0[xX][0-9a-fA-F]{0,30}",
        1 => "0{1,30}[0-7]{1,3}",
        1 => "[a-z]{60,66}",
        1 => "[ -~]{1,4}",
        1 => "\\PC{1,4}",
        1 => Just(String::new()),
    ];
    let dot = prop_oneof![8 => Just("."), 1 => Just("。"), 1 => Just("．"), 1 => Just("..")];
    let name = (prop::collection::vec((label, dot), 1..6), any::<bool>()).prop_map(|(labels, ended)| {
        let mut text: String = labels.into_iter().flat_map(|(label, dot)| [label, dot.to_owned()]).collect();
        if !ended {
            text.pop();
        }
        text
    });
    let v4 = (any::<u32>(), 0usize..6).prop_map(|(bits, way)| {
        let [a, b, c, d] = bits.to_be_bytes();
        match way {
            0 => format!("{a}.{b}.{c}.{d}"),
            1 => format!("{a}.{}", bits & 0xff_ffff),
            2 => format!("0x{a:x}.{b}.{}", bits & 0xffff),
            3 => bits.to_string(),
            4 => format!("0{a:o}.0{b:o}.0x{c:X}.{d}."),
            _ => format!("0x{bits:020X}"),
        }
    });
    let v6 = (any::<[u16; 8]>(), any::<u32>(), 0usize..6).prop_map(|(parts, bits, way)| {
        let (v6, v4) = (std::net::Ipv6Addr::from(parts), std::net::Ipv4Addr::from(bits));
        match way {
            0 => v6.to_string(),
            1 => format!("[{v6}]"),
            2 => format!("[::ffff:{v4}]"),
            3 => format!("64:ff9b::{v4}"),
            4 => format!("{v6}%1"),
            _ => format!("::{v4}"),
        }
    });
    let hostile = prop_oneof![
        Just(""),
        Just("\0"),
        Just("@"),
        Just("%2e"),
        Just(":443"),
        Just("*."),
        Just(" "),
        Just("\r\n"),
        Just("/"),
        Just("\\"),
        Just("#"),
        Just("\u{ad}"),
        Just("\u{202e}")
    ];
    (prop_oneof![6 => name, 2 => v4, 1 => v6], hostile.clone(), hostile, 0usize..8).prop_map(
        |(text, before, after, bad)| match bad {
            0 => format!("{before}{text}{after}"),
            1 => format!("{text}{after}"),
            _ => text,
        },
    )
}

proptest! {
    #[test]
    fn all_who_read_a_name_read_the_same_or_refuse(text in spellings()) {
        thread_local!(static CONSUMERS: Consumers = Consumers::new());
        CONSUMERS.with(|consumers| consumers.agree(&text)).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn every_spelling_that_is_told_apart_by_somebody_is_one_name_or_none() {
    let consumers = Consumers::new();
    for text in [
        "api.example.com",
        "API.example.COM.",
        "bücher.example",
        "xn--bcher-kva.example",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::",
        "fe80::1%eth0",
        "[::1]",
        "::1",
        "[2606:4700::1111]",
        "[2606:4700:0::1111]",
        "[::ffff:10.0.0.1]",
        "[::1]:443",
        "93.184.216.34",
        "api.example.com:443",
        "api.example.com:80",
        "a\0b",
        "a%2eb",
        "user@a.example",
        "a..b",
        "*.example.com",
        "a_b.example",
        "-a.example",
        "a-.example",
        "localhost",
        "a.localhost",
        "",
        ".",
        "0x00000000000000000000000000007f000001",
    ] {
        consumers.agree(text).unwrap();
    }
}

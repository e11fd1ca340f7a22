//! The explicit proxy of a bottle that has `proxy: true`: HTTP on the gate's own address, for clients that insist on one.
//!
//! It decides nothing and knows no route. A `CONNECT` is answered 200, and what follows is a connection like any other
//! ([`super::accept`]), with its target as what it meant: a refusal is told inside TLS, because clients hide the answer to a
//! CONNECT. A whole `http://` address is a request like any other ([`super::request`]).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::accept::{self, Door, Meant};
use super::address;
use super::body::Outgoing;
use super::deny::{Denial, Deny};
use super::front::{Front, Noted, Watch};
use super::link::Link;
use super::name::Host;
use super::record::Denied;
use super::refused;
use super::request::{Plane, head_size};
use super::rewound::Rewound;
use super::serve;
use crate::ledger::Ledger;

/// Where it listens: the port that proxies have by convention.
pub const PORT: u16 = 3128;

/// The addresses of a bottle's own that no client shall ask a proxy for. Not `[::1]`, which Python's urllib alone would want: httpx
/// takes an item in brackets for a port, and makes no request at all.
const OWN: &str = "localhost,127.0.0.0/8,127.0.0.1,::1";

/// Gets the variables by which clients find the proxy at `address`.
pub fn variables(address: IpAddr) -> Vec<(&'static str, String)> {
    let url = format!("http://{}", SocketAddr::new(address, PORT));
    // Both spellings: curl reads `http_proxy` in small letters only, others only the large ones.
    let found = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let mut all: Vec<_> = found.into_iter().map(|name| (name, url.clone())).collect();
    all.extend(["NO_PROXY", "no_proxy"].map(|name| (name, OWN.to_owned())));
    all
}

/// What one connection to the proxy is for.
#[derive(Clone, Default)]
struct Purpose(Arc<Mutex<Purposes>>);

#[derive(Default)]
struct Purposes {
    /// The connection that a CONNECT asked for.
    asked: Option<(OnUpgrade, Meant)>,
    /// Where its request with a whole address leads: one at a time is under way.
    link: Option<Arc<Link>>,
}

impl Purpose {
    fn lock(&self) -> MutexGuard<'_, Purposes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether its request was cancelled and is still there.
    fn lags(&self) -> bool {
        self.lock().link.as_ref().is_some_and(|link| link.lags())
    }
}

/// Serves one connection to the proxy.
pub(super) async fn connection<L: Ledger>(door: &Arc<Door<L>>, stream: Rewound, proxy: SocketAddr) -> io::Result<()> {
    let purpose = Purpose::default();
    let service = service_fn({
        let (plane, purpose) = (Arc::clone(&door.plane), purpose.clone());
        move |request| {
            let (plane, purpose) = (Arc::clone(&plane), purpose.clone());
            async move { Ok::<_, Infallible>(answer(&plane, &purpose, request, proxy).await) }
        }
    });
    let noted = Arc::new(Noted::default());
    let front = Front::new(stream, Watch::of_proxy(), Arc::clone(&noted));
    let result = tokio::select! {
        result = serve::http1().serve_connection(TokioIo::new(front), service).with_upgrades() => result,
        // What ends by a cut is seen by whoever writes the answer, and nobody does while its client does not read.
        () = serve::left_unread(&door.plane, || purpose.lags()) => Ok(()),
    };
    serve::tell_unread(&door.plane, &Link::new(proxy, false, None), &noted, result.err().as_ref());
    let begun = purpose.lock().asked.take();
    let Some((upgrade, meant)) = begun else { return Ok(()) };
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let Ok(parts) = upgraded.downcast::<TokioIo<Front<Rewound>>>() else {
        return Err(io::Error::other("the proxy's connection is of another kind"));
    };
    let stream = parts.io.into_inner().into_inner().rewind(parts.read_buf);
    accept::tunnelled(door, stream, meant).await
}

async fn answer<L: Ledger>(
    plane: &Arc<Plane<L>>,
    purpose: &Purpose,
    mut request: Request<Incoming>,
    proxy: SocketAddr,
) -> Response<Outgoing> {
    let decided = if *request.method() == Method::CONNECT {
        head_size(&request).and_then(|_| target(&request)).map(|meant| {
            let upgrade = hyper::upgrade::on(&mut request);
            purpose.lock().asked = Some((upgrade, meant));
            None
        })
    } else {
        whole(&request).map(Some)
    };
    match decided {
        Ok(None) => Response::new(Outgoing::full(Bytes::new())),
        Ok(Some(link)) => {
            let link = Arc::new(link);
            purpose.lock().link = Some(Arc::clone(&link));
            serve::answer(plane, &link, request, false).await
        }
        Err(deny) => {
            let host = request.uri().host().map_or_else(|| proxy.ip().to_string(), str::to_owned);
            let denied =
                Denied::new("http", host, proxy.port(), &deny).request(request.method().as_str(), request.uri().path());
            // Who waits for `100 Continue` has not begun to send, and shall not be told to.
            let body = (!request.headers().contains_key(header::EXPECT)).then(|| request.into_body());
            match plane.refusing.try_acquire() {
                Ok(_place) => drop(tokio::join!(plane.recorder.deny(denied), refused::drain(body))),
                Err(_) => plane.recorder.deny_limited(denied),
            }
            let mut answer = deny.answer();
            // What follows is for whoever would have been connected to, or a body that nobody reads.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        }
    }
}

/// Gets what a host and port mean: the address that the bottle's DNS has for the name.
fn meant(host: Host, port: u16) -> Meant {
    let ip = match &host {
        Host::Name(name) => address::of_name(name).into(),
        Host::Ip(ip) => *ip,
    };
    Meant { address: SocketAddr::new(ip, port), target: Some(host) }
}

/// Gets what a CONNECT asks for.
pub(super) fn target(request: &Request<impl Sized>) -> Result<Meant, Deny> {
    let wrong = |why: String| Deny::new(Denial::NameMismatch, format!("bb: the target of CONNECT: {why}."));
    let target = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let (host, port) = Host::parse_authority(target).map_err(|error| wrong(error.to_string()))?;
    let meant = meant(host, port.ok_or_else(|| wrong("it names no port".to_owned()))?);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let same = |value: &HeaderValue| {
        let named = value.to_str().ok().and_then(|host| Host::parse_authority(host).ok());
        named.is_some_and(|(host, port)| {
            Some(host) == meant.target && port.is_none_or(|port| port == meant.address.port())
        })
    };
    if !hosts.next().is_none_or(same) || hosts.next().is_some() {
        return Err(wrong("`Host` names something else".to_owned()));
    }
    Ok(meant)
}

/// Gets where a request with a whole address leads: a connection like the one that its client would have made itself.
pub(super) fn whole(request: &Request<impl Sized>) -> Result<Link, Deny> {
    let Some(authority) = request.uri().authority() else {
        return Err(Deny::new(
            Denial::ProtocolUnknown,
            "bb: this is the bottle's proxy: it takes CONNECT, and requests with a whole http:// address.",
        )
        .step("connect to the host itself: no proxy is needed in a bottle"));
    };
    let (host, port) = Host::parse_authority(authority.as_str())
        .map_err(|error| Deny::new(Denial::NameMismatch, format!("bb: {error}.")))?;
    let meant = meant(host, port.unwrap_or(80));
    Ok(Link::new(meant.address, false, None).through(meant.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(target: &str, hosts: &[&str]) -> Result<Meant, Denial> {
        let mut request = Request::builder().method("CONNECT").uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        super::target(&request.body(()).unwrap()).map_err(|deny| deny.kind)
    }

    #[test]
    fn a_target_is_one_name_and_a_port() {
        let meant = connect("A.example:443", &["a.EXAMPLE:443"]).unwrap();
        assert_eq!(meant.target, Some(Host::parse("a.example").unwrap()));
        assert_eq!(meant.address, SocketAddr::new(address::of_name("a.example").into(), 443));
        assert!(connect("a.example:443", &[]).is_ok() && connect("a.example:443", &["a.example"]).is_ok());
        let literal = connect("127.1:443", &[]).unwrap();
        assert!(literal.target.is_some_and(|host| host.is_ip()), "however it is spelled");
        for (target, hosts) in [
            ("a.example", &[][..]),
            ("a.example:0", &[]),
            ("user@a.example:443", &[]),
            ("a.example:443", &["b.example"]),
            ("a.example:443", &["a.example:80"]),
            ("a.example:443", &["a.example", "a.example"]),
        ] {
            assert_eq!(connect(target, hosts).unwrap_err(), Denial::NameMismatch, "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_connect_ends_http_at_a_proxy_only_and_has_no_body() {
        let connect = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        let follow = |mut watch: Watch, text: &str| watch.look(text.as_bytes()).map_err(|refused| refused.why);
        let raw = format!("{connect}\0\r any bytes");
        assert_eq!(follow(Watch::of_proxy(), &raw), Ok(()));
        assert!(follow(Watch::default(), &format!("{raw}\n")).is_err(), "elsewhere it is a request like any other");
        assert!(follow(Watch::of_proxy(), "GET / HTTP/1.1\r\n\r\n\0\n").is_err(), "and HTTP goes on after others");
        for body in ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"] {
            let text = format!("CONNECT a.example:443 HTTP/1.1\r\n{body}\r\n\r\n");
            assert!(follow(Watch::of_proxy(), &text).is_err(), "{body}");
        }
    }

    #[test]
    fn clients_are_told_of_it_in_both_spellings_and_kept_from_it_on_loopback() {
        let all = variables("198.18.0.3".parse().unwrap());
        let get = |name| all.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        assert_eq!(get("https_proxy"), Some("http://198.18.0.3:3128"));
        assert_eq!(get("HTTPS_PROXY"), get("https_proxy"));
        let own: Vec<&str> = get("no_proxy").unwrap().split(',').collect();
        assert!(["localhost", "127.0.0.1", "::1"].iter().all(|one| own.contains(one)) && !own.contains(&"[::1]"));
    }
}

//! The one name of a request: SNI, `:authority`, `Host` and an absolute address say the same, and the connection went
//! to the address that this bottle's DNS gave for it. Anything else is refused. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use http::uri::Authority;
use http::{Request, header};

use super::address::Gate;
use super::deny::{Denial, Deny};
use super::name::{Host, NameError};
use super::streams::Stream;

/// What is known of a connection before its first request.
pub struct Link {
    /// The address and port that the agent meant.
    pub destination: std::net::SocketAddr,
    /// Whether it is TLS.
    pub tls: bool,
    /// The server name of the TLS handshake.
    pub sni: Option<Result<Host, NameError>>,
    /// What was asked of the bottle's proxy, where it came through that.
    target: Option<Host>,
    /// The first name asked for, as it was spelled: nearly always the only one.
    known: OnceLock<(String, Arc<Named>)>,
    /// The requests of it that are under way.
    carried: Mutex<Vec<Weak<Stream>>>,
    /// Requests so far, refused ones among them.
    asked: AtomicU64,
}

impl Link {
    /// Makes it.
    pub fn new(destination: std::net::SocketAddr, tls: bool, sni: Option<Result<Host, NameError>>) -> Link {
        Link {
            destination,
            tls,
            sni,
            target: None,
            known: OnceLock::new(),
            carried: Mutex::default(),
            asked: AtomicU64::new(0),
        }
    }

    /// Says that a request of it is under way.
    pub fn carries(&self, stream: &Arc<Stream>) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.retain(|stream| stream.strong_count() > 0);
        carried.push(Arc::downgrade(stream));
    }

    /// Counts a request.
    pub fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Gets how many requests there were, and whether none is under way.
    pub fn rests(&self) -> (u64, bool) {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        (self.asked.load(Ordering::Relaxed), carried.iter().all(|stream| stream.strong_count() == 0))
    }

    /// Tells whether a request of it was cancelled and is still there.
    pub fn lags(&self) -> bool {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.iter().filter_map(Weak::upgrade).any(|stream| stream.cancelled())
    }

    /// Says that the connection came through the bottle's proxy, which was asked for `target`.
    pub fn through(self, target: Option<Host>) -> Link {
        Link { target, ..self }
    }

    /// Tells whether it did.
    pub fn is_proxied(&self) -> bool {
        self.target.is_some()
    }

    /// Gets what the connection was to, for messages.
    pub fn meant(&self) -> String {
        self.target.as_ref().map_or_else(|| self.destination.ip().to_string(), Host::to_string)
    }

    /// Gets `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// The one name of a request.
#[derive(Debug)]
pub struct Named {
    /// The host.
    pub host: Host,
    /// The host as text.
    pub text: String,
    /// The authority of the address to send to.
    pub authority: Authority,
}

/// Gets the one name of a request: SNI, `:authority`, `Host` and an absolute address must all say the same.
pub fn name_once(link: &Link, request: &Request<impl Sized>) -> Result<Arc<Named>, Deny> {
    let mismatch = |why: &str| Deny::new(Denial::NameMismatch, format!("bb: {why}."));
    let sni = match (&link.sni, link.tls) {
        (Some(Ok(host)), _) => Some(host),
        (Some(Err(error)), _) => return Err(mismatch(&format!("the TLS server name is not usable: {error}"))),
        (None, true) => return Err(literal(&link.destination.ip().to_string())),
        (None, false) => None,
    };
    if request.uri().scheme_str().is_some_and(|scheme| !scheme.eq_ignore_ascii_case(link.scheme())) {
        return Err(mismatch("the request's scheme is not the connection's"));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(|v| v.to_str().map_err(|_| mismatch("`Host` is not a text"))).transpose()?;
    if hosts.next().is_some() {
        return Err(mismatch("there is more than one `Host` header"));
    }
    let authority = request.uri().authority().map(Authority::as_str);
    let Some(first) = authority.or(host) else {
        return Err(mismatch("the request names no host"));
    };
    let named = named(link, first)?;
    if let (Some(_), Some(host)) = (authority, host)
        && !host.eq_ignore_ascii_case(first)
        && parse(link, host)? != named.host
    {
        return Err(mismatch("`Host` and the request's address name different hosts"));
    }
    if sni.is_some_and(|sni| *sni != named.host) {
        return Err(mismatch("the request's host is not the TLS server name"));
    }
    Ok(named)
}

/// Gets the name of a connection that is only known by its TLS server name.
pub fn of_host(link: &Link, host: &Host) -> Result<Arc<Named>, Deny> {
    named(link, &host.authority(link.destination.port(), link.tls))
}

/// Gets the host that `raw` names; its port must be the connection's.
fn parse(link: &Link, raw: &str) -> Result<Host, Deny> {
    let mismatch = |why: String| Deny::new(Denial::NameMismatch, format!("bb: {why}."));
    let (host, port) = Host::parse_authority(raw).map_err(|error| mismatch(error.to_string()))?;
    let port = port.unwrap_or(if link.tls { 443 } else { 80 });
    if port != link.destination.port() {
        return Err(mismatch(format!(
            "the request names port {port} on a connection to port {}",
            link.destination.port()
        )));
    }
    Ok(host)
}

fn named(link: &Link, raw: &str) -> Result<Arc<Named>, Deny> {
    if let Some((text, named)) = link.known.get()
        && text == raw
    {
        return Ok(Arc::clone(named));
    }
    let host = parse(link, raw)?;
    let authority = Authority::try_from(host.authority(link.destination.port(), link.tls))
        .map_err(|_| Deny::new(Denial::NameMismatch, "bb: the host name is not usable."))?;
    let named = Arc::new(Named { text: host.to_string(), host, authority });
    let (text, first) = link.known.get_or_init(|| (raw.to_owned(), Arc::clone(&named)));
    Ok(if text == raw { Arc::clone(first) } else { named })
}

pub(super) fn literal(what: &str) -> Deny {
    Deny::new(Denial::IpLiteral, format!("bb: {what} is an IP address; a bottle reaches hosts by name only."))
        .step("use the host's name")
}

/// Checks that the connection went where its name is: our DNS, and nothing else, led it here.
pub fn destination(gate: Gate, link: &Link, named: &Named) -> Result<(), Deny> {
    let address = link.destination.ip();
    if let Host::Ip(ip) = named.host {
        let deny = literal(&named.text);
        let own = link.is_proxied() && ip.to_canonical().is_loopback();
        // Some clients ask a proxy for it, whatever `NO_PROXY` says.
        return Err(if own {
            deny.step("the bottle's own loopback is there without the proxy: as `localhost`")
        } else {
            deny
        });
    }
    if let Some(target) = &link.target
        && *target != named.host
    {
        if target.is_ip() {
            return Err(literal(&target.to_string()));
        }
        return Err(Deny::new(
            Denial::NameMismatch,
            format!("bb: the request's host is not {target}, which the proxy was asked for."),
        ));
    }
    if gate.admits(&named.host, address) {
        return Ok(());
    }
    Err(Deny::new(
        Denial::IpLiteral,
        format!("bb: the connection went to {address}, which is not the address of {} in this bottle.", named.text),
    )
    .step("let the system's resolver look the name up; addresses from elsewhere do not work"))
}

#[cfg(test)]
mod tests {
    use super::super::address::of_name;
    use super::*;

    fn link(tls: bool, sni: Option<&str>) -> Link {
        let port = if tls { 443 } else { 80 };
        Link::new((of_name("a.example"), port).into(), tls, sni.map(Host::parse))
    }

    fn ask(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    fn name(link: &Link, request: &Request<()>) -> Result<String, Denial> {
        name_once(link, request).map(|n| n.text.clone()).map_err(|d| d.kind)
    }

    #[test]
    fn one_name_is_one_name_however_it_is_spelled() {
        let tls = link(true, Some("A.example"));
        assert_eq!(name(&tls, &ask("/x", &["a.example"])).as_deref(), Ok("a.example"));
        assert_eq!(name(&tls, &ask("/x", &["A.EXAMPLE.:443"])).as_deref(), Ok("a.example"));
        assert_eq!(name(&tls, &ask("https://a.example/x", &["a.example"])).as_deref(), Ok("a.example"));
        assert_eq!(name(&tls, &ask("https://a.example/x", &[])).as_deref(), Ok("a.example"), "HTTP/2");
        assert_eq!(name(&link(false, None), &ask("/", &["a.example:80"])).as_deref(), Ok("a.example"));
    }

    #[test]
    fn two_names_are_refused_wherever_the_second_one_stands() {
        let tls = link(true, Some("a.example"));
        for request in [
            ask("/", &["b.example"]),
            ask("/", &["a.example", "b.example"]),
            ask("/", &["a.example", "a.example"]),
            ask("https://b.example/", &["a.example"]),
            ask("https://a.example/", &["b.example"]),
            ask("http://a.example/", &["a.example"]),
            ask("/", &["a.example:8443"]),
            ask("/", &["a.example:0"]),
            ask("/", &["user@a.example"]),
            ask("/", &[]),
        ] {
            assert_eq!(name(&tls, &request), Err(Denial::NameMismatch), "{request:?}");
        }
        // The name known from the first request does not answer for a second one.
        assert!(name(&tls, &ask("/", &["a.example"])).is_ok());
        assert_eq!(name(&tls, &ask("/", &["b.example"])), Err(Denial::NameMismatch));
    }

    #[test]
    fn tls_without_a_name_and_hosts_that_are_addresses_are_literals() {
        assert_eq!(name(&link(true, None), &ask("/", &["a.example"])), Err(Denial::IpLiteral));
        let plain = link(false, None);
        let named = name_once(&plain, &ask("/", &["198.18.1.1"])).unwrap();
        assert_eq!(destination(Gate::Computed, &plain, &named).unwrap_err().kind, Denial::IpLiteral);
    }

    #[test]
    fn what_a_proxy_was_asked_for_is_the_name_too() {
        let asked = |target: &str| link(true, Some("a.example")).through(Some(Host::parse(target).unwrap()));
        let check = |link: &Link| {
            let named = name_once(link, &ask("/", &["a.example"])).unwrap();
            destination(Gate::Computed, link, &named).map_err(|deny| deny.kind)
        };
        assert_eq!(check(&asked("A.example.")), Ok(()));
        assert_eq!(check(&asked("b.example")), Err(Denial::NameMismatch));
        // The address that the name has in the bottle is none that anybody may ask for.
        assert_eq!(check(&asked(&of_name("a.example").to_string())), Err(Denial::IpLiteral));
    }

    #[test]
    fn a_connection_that_went_elsewhere_than_its_name_is_refused() {
        let named = name_once(&link(true, Some("a.example")), &ask("/", &["a.example"])).unwrap();
        let elsewhere = Link::new("140.82.112.3:443".parse().unwrap(), true, Some(Host::parse("a.example")));
        assert!(destination(Gate::Computed, &link(true, None), &named).is_ok());
        assert_eq!(destination(Gate::Computed, &elsewhere, &named).unwrap_err().kind, Denial::IpLiteral);
    }
}

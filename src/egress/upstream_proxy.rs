//! The host's own way out where it leads through a proxy (`upstream_proxy` of the settings): every connection that [`super::dial`]
//! would make is asked of it by CONNECT, but for what the settings say is reached directly.
//!
//! Called after the route check only. Names alone are asked for, never addresses; a name whose address is known here to be
//! private is refused as ever, and what cannot be looked up here is the proxy's to judge. Its credential goes to the proxy alone:
//! it is never on a connection to anybody else, and never in a message. Where the proxy is, is told to the operator and to no agent.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::deny::Denial;
use super::dial::{self, DialError};
use super::lookup::Lookups;
use super::name::{Host, NameError, one_form};
use crate::api::{self, Direct};

/// Time for a name to be looked up beside the proxy, which does not need it.
const LOOK_UP: Duration = Duration::from_secs(3);
/// Time for the proxy's answer: it dials in it.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest head of its answer. Unit: bytes.
const MAX_HEAD: usize = 16 * 1024;

/// See the module.
pub struct UpstreamProxy {
    host: Host,
    port: u16,
    /// `Basic ...`
    authorization: Option<HeaderValue>,
    /// The settings name a credential for it.
    wants_one: bool,
    direct: Vec<Direct>,
    /// Those of its own name.
    lookups: Lookups,
}

impl UpstreamProxy {
    /// Makes it of what the settings say. `credential` is `USER:PASSWORD`.
    ///
    /// # Errors
    /// Where its host is none.
    pub fn new(said: &api::UpstreamProxy, credential: Option<&SecretString>) -> Result<UpstreamProxy, NameError> {
        let authorization = credential.and_then(|credential| {
            let coded = base64::engine::general_purpose::STANDARD.encode(credential.expose_secret());
            let mut value = HeaderValue::try_from(format!("Basic {coded}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(UpstreamProxy {
            host: Host::parse(&said.host)?,
            port: said.port,
            authorization,
            wants_one: said.credential.is_some(),
            direct: said.direct.clone(),
            lookups: Lookups::of_the_proxy(),
        })
    }

    /// Connects to `host` and `port`. Where its address is known, it may lie in one of the `private` ranges, beside public ones.
    pub async fn reach(
        &self,
        host: &Host,
        port: u16,
        private: &[IpNet],
        lookups: &Lookups,
    ) -> Result<TcpStream, DialError> {
        let Host::Name(name) = host else {
            return Err(DialError::new(Denial::IpLiteral, "bb: addresses are not dialled"));
        };
        if self.is_direct_by_name(name) {
            let addresses = dial::resolve(host, port, private, lookups).await?;
            return dial::connect_to(host, &addresses).await;
        }
        match dial::resolve_all(host, port, private, lookups, LOOK_UP).await {
            Ok(addresses) if self.are_direct(&addresses) => return dial::connect_to(host, &addresses).await,
            Ok(_) => {}
            // A network with a proxy often knows no other names than its own, or keeps silent about them.
            Err(error) if error.kind == Denial::ResolveFailed => {}
            // Nor does a bottle that has used up its look-ups get past the check.
            Err(error) => return Err(error),
        }
        timeout(ANSWER, self.ask(name, port))
            .await
            .unwrap_or_else(|_| Err(self.failed(name, "it gave no answer in time", "")))
    }

    fn is_direct_by_name(&self, name: &str) -> bool {
        self.direct.iter().any(|direct| match direct {
            Direct::Below(suffix) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Direct::Range(_) => false,
        })
    }

    fn are_direct(&self, addresses: &[SocketAddr]) -> bool {
        let within = |address: &SocketAddr| {
            let ip = one_form(address.ip());
            self.direct.iter().any(|direct| matches!(direct, Direct::Range(range) if range.contains(&ip)))
        };
        !addresses.is_empty() && addresses.iter().all(within)
    }

    /// Says why it failed; to the operator also where the proxy is, and `more`.
    fn failed(&self, name: &str, why: &str, more: &str) -> DialError {
        let proxy = self.host.authority(self.port, false);
        let said = |proxy: &str, more: &str| {
            format!("bb: {name} is reached through the host's upstream proxy{proxy}: {why}{more}.")
        };
        DialError::new(Denial::UpstreamUnreachable, said("", "")).operator(said(&format!(" {proxy}"), more))
    }

    /// Has the proxy connect to a name.
    async fn ask(&self, name: &str, port: u16) -> Result<TcpStream, DialError> {
        let unreachable =
            |error: DialError| self.failed(name, "it cannot be reached", &format!(" ({})", error.message));
        let addresses = match &self.host {
            // The operator has named it, wherever it is.
            Host::Name(_) => {
                dial::resolve(&self.host, self.port, &dial::ANYWHERE, &self.lookups).await.map_err(unreachable)?
            }
            Host::Ip(ip) => vec![SocketAddr::new(*ip, self.port)],
        };
        let stream = dial::connect_to(&self.host, &addresses).await.map_err(unreachable)?;
        let broken = |_| self.failed(name, "it broke off its answer", "");
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let target = format!("{name}:{port}");
        let mut request = Request::connect(&target).header(header::HOST, &target);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|_| self.failed(name, "it cannot be asked for", ""))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let more = match self.authorization {
                    Some(_) => ": it does not accept the credential of `upstream_proxy`",
                    None if self.wants_one => {
                        ": this bottle has no credential for it, because settings.yml named another proxy, or bb was an older one, when it was launched; \
                         end it and resume it"
                    }
                    None => ": name one in `upstream_proxy` of settings.yml",
                };
                return Err(self.failed(name, "it wants a credential (407)", more));
            }
            status => return Err(self.failed(name, &format!("it answered {}", status.as_u16()), "")),
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            // Nobody that is connected to through it speaks first: what came is the proxy's own.
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(self.failed(name, "it sent more than an answer", "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(direct: &[Direct]) -> UpstreamProxy {
        let said = api::UpstreamProxy { host: "127.0.0.1".into(), port: 1, credential: None, direct: direct.to_vec() };
        UpstreamProxy::new(&said, Some(&SecretString::from("user:pass"))).unwrap()
    }

    #[test]
    fn a_suffix_is_whole_labels_and_a_range_holds_all_addresses() {
        let proxy = proxy(&[Direct::Below("corp.example".into()), Direct::Range("10.0.0.0/8".parse().unwrap())]);
        for (name, direct) in
            [("corp.example", true), ("a.b.corp.example", true), ("xcorp.example", false), ("corp.example.com", false)]
        {
            assert_eq!(proxy.is_direct_by_name(name), direct, "{name}");
        }
        let all = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert!(proxy.are_direct(&all(&["10.1.2.3:443", "[::ffff:10.1.2.4]:443"])));
        assert!(!proxy.are_direct(&all(&["10.1.2.3:443", "1.1.1.1:443"])) && !proxy.are_direct(&[]));
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_there_is_named_and_no_address_is_asked_of_it() {
        let host = Host::parse("a.invalid").unwrap();
        let error = proxy(&[]).reach(&host, 443, &[], &Lookups::default()).await.unwrap_err();
        assert_eq!(error.kind, Denial::UpstreamUnreachable);
        assert!(error.message.contains("a.invalid") && !error.message.contains("127.0.0.1"), "{error}");
        let operator = error.operator.unwrap();
        assert!(operator.contains("a.invalid") && operator.contains("127.0.0.1:1"), "{operator}");
        let literal = Host::parse("1.1.1.1").unwrap();
        assert_eq!(
            proxy(&[]).reach(&literal, 443, &[], &Lookups::default()).await.unwrap_err().kind,
            Denial::IpLiteral
        );
    }

    #[test]
    fn its_credential_is_shown_by_nothing() {
        assert!(!format!("{:?}", proxy(&[]).authorization).contains("dXNlcjpwYXNz"));
    }
}

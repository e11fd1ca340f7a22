//! `upstream_proxy` and `no_proxy` of the settings: the proxy that is the host's own way out, and what is reached beside it.
//!
//! Reads the form only. Its credential is a name: the value is resolved by whoever launches.

use super::UpstreamProxy;
use crate::api::Direct;
use crate::yaml::read::{is_variable, list, table, text};
use crate::yaml::{Entry, Node, Problems};

const KEYS: [&str; 2] = ["address", "credential"];
const FORM: &str = "write it as http://proxy.example:3128; a user and a password belong into a `credential`";

/// Reads where it is: an address, or a table of it and the name of a credential.
pub(super) fn read(entry: &Entry, problems: &mut Problems) -> Option<UpstreamProxy> {
    if entry.value.entries().is_none() {
        return address(&entry.value, problems);
    }
    let (mut proxy, mut credential) = (None, None);
    let mut said = false;
    for field in table(&entry.value, "`upstream_proxy`", problems) {
        match field.key.as_str() {
            "address" => {
                said = true;
                proxy = address(&field.value, problems);
            }
            "credential" => match text(field, problems) {
                Some(name) if is_variable(&name) => credential = Some(name),
                // Never the text: who takes the key for the secret itself must not find it in a log.
                Some(_) => {
                    problems.add(field.value.line, "`credential` is not the name of a credential").hint =
                        Some("write a name that stands in `credentials`, never the secret itself".to_owned());
                }
                None => {}
            },
            _ => problems.unknown_key(field, &KEYS),
        }
    }
    if !said {
        problems.add(entry.line, "`upstream_proxy` does not say `address`").hint = Some(FORM.to_owned());
    }
    proxy.map(|proxy| UpstreamProxy { credential, ..proxy })
}

fn address(node: &Node, problems: &mut Problems) -> Option<UpstreamProxy> {
    let read = node.text().and_then(|text| {
        let rest = text.strip_prefix("http://")?;
        let authority: http::uri::Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let plain = !authority.as_str().contains('@') && !host.is_empty();
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok().filter(|port| *port > 0)?,
            None => 80,
        };
        plain.then_some(UpstreamProxy { host, port, ..UpstreamProxy::default() })
    });
    if read.is_none() {
        // Never the text: a password may stand in it.
        problems.add(node.line, "`upstream_proxy` is not the address of an HTTP proxy").hint = Some(FORM.to_owned());
    }
    read
}

/// Reads what is reached beside it: hosts with all that lies below them, and ranges of addresses.
pub(super) fn direct(entry: &Entry, problems: &mut Problems) -> Vec<Direct> {
    let mut direct = Vec::new();
    for item in list(&entry.value, "`no_proxy`", problems) {
        let text = item.text().unwrap_or_default();
        let range = text.parse().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
        let name = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
        match range {
            Ok(range) => direct.push(Direct::Range(range)),
            Err(_) if crate::yaml::read::is_host(name) => direct.push(Direct::Below(name.to_owned())),
            Err(_) => {
                problems.add(item.line, "an item of `no_proxy` is neither a host name nor a range of addresses").hint =
                    Some("write it as `no_proxy: [corp.example, 10.0.0.0/8]`".to_owned());
            }
        }
    }
    direct
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;
    use super::*;

    fn parse(text: &str) -> Result<Option<UpstreamProxy>, Vec<crate::error::Error>> {
        Settings::parse(text, Path::new("/nowhere")).map(|settings| settings.upstream_proxy)
    }

    #[test]
    fn both_forms_are_read_in_any_order() {
        let text = "no_proxy: [.corp.example, \"*.b.example\", 10.0.0.0/8, 192.0.2.1]\n\
            upstream_proxy: {address: \"http://Proxy.corp.example:3128/\", credential: CORP}\n";
        let proxy = parse(text).unwrap().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.corp.example", 3128));
        assert_eq!(proxy.credential.as_deref(), Some("CORP"));
        let below = |name: &str| Direct::Below(name.to_owned());
        let range = |text: &str| Direct::Range(text.parse().unwrap());
        assert_eq!(
            proxy.direct,
            [below("corp.example"), below("b.example"), range("10.0.0.0/8"), range("192.0.2.1/32")]
        );
        let short = parse("upstream_proxy: http://10.0.0.1\n").unwrap().unwrap();
        assert_eq!((short.host.as_str(), short.port, short.direct.len()), ("10.0.0.1", 80, 0));
        let six = parse("upstream_proxy: \"http://[fd00::1]:8080\"\n").unwrap().unwrap();
        assert_eq!((six.host.as_str(), six.port), ("fd00::1", 8080));
        assert_eq!(parse("durability: power\n").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_password_is_shown() {
        for text in [
            "upstream_proxy: proxy.example:3128\n",
            "upstream_proxy: https://proxy.example:3128\n",
            "upstream_proxy: socks5://proxy.example:1080\n",
            "upstream_proxy: http://user:s3cret@proxy.example:3128\n",
            "upstream_proxy: http://proxy.example:0\n",
            "upstream_proxy: http://proxy.example/s3cret\n",
            "upstream_proxy: {credential: CORP}\n",
            "upstream_proxy: {address: \"http://a.example:1\", credential: \"user:s3cret\"}\n",
            "upstream_proxy: {address: \"http://a.example:1\", user: a}\n",
            "upstream_proxy: http://a.example:1\nno_proxy: [\"a b\"]\n",
            "no_proxy: [a.example]\n",
        ] {
            let problems = parse(text).unwrap_err();
            let whole = |e: &crate::error::Error| e.place.is_some() && e.hint.as_ref().is_some_and(|h| !h.is_empty());
            assert!(problems.iter().all(whole), "{text:?}: {problems:?}");
            assert!(!format!("{problems:?}").contains("s3cret"), "{text:?}: {problems:?}");
        }
    }
}

//! Which refusals an entry of the allow-list could be for, and why the others are none of its business. Pure.

use super::Want;
use crate::api::Event;
use crate::egress::deny::Denial;
use crate::egress::name::Host;
use crate::egress::route::normal_path;
use crate::meter::hosts::is_model_host;

/// Gets host and request of a refusal that an entry could be for, or why none can.
pub(super) fn wanted(event: &Event, kind: Denial) -> Result<(String, Want), &'static str> {
    let data = &event.data;
    let host = match Host::parse(data["host"].as_str().unwrap_or_default()) {
        Ok(Host::Ip(_)) => return Err("an address: a bottle reaches hosts by name only"),
        Ok(host @ Host::Name(_)) => host.to_string(),
        Err(_) => return Err("not a host name"),
    };
    match kind {
        Denial::RouteMissing | Denial::Method | Denial::Path | Denial::Port | Denial::Upgrade => {}
        Denial::IpLiteral => return Err("an address: a bottle reaches hosts by name only"),
        Denial::PrivateAddress => {
            return Err("its address is private: `allow_private` is yours to write, if it is meant");
        }
        Denial::ServerTool => return Err("a feature of a model API: `server_tools` is yours to write, if it is meant"),
        _ => return Err("not a matter of the allow-list"),
    }
    if data["quiet"].as_bool() == Some(true) {
        return Err("its route refuses it quietly, on purpose");
    }
    if is_model_host(&host) {
        return Err("a model API: a route of yours would not be metered; the provider brings its own");
    }
    if is_private(&host) {
        return Err("a name of private networks");
    }
    let port = data["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let port = port.ok_or("no port that a route can have")?;
    let websocket = kind == Denial::Upgrade || data["websocket"].as_bool() == Some(true);
    let (Some(method), Some(path)) = (data["method"].as_str(), data["path"].as_str()) else {
        if kind == Denial::Port && data["proto"] == "tcp" && speaks_http(port) {
            let (method, path) = (String::new(), String::new());
            return Ok((host, Want { port, method, path, websocket: false, bare: true }));
        }
        return Err("nothing but HTTPS and HTTP leaves a bottle, and this was neither");
    };
    if data["addable"].as_bool() == Some(false) {
        return Err("a rule refuses it whatever else allows it, or its form does: no further entry would let it pass");
    }
    let none = ["CONNECT", "TRACE", "NONE"].contains(&method);
    if none || method.is_empty() || method.len() > 16 || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err("a method that a route does not name");
    }
    let path = normal_path(path).map_err(|_| "a path that is not in normal form")?.into_owned();
    if path.len() >= 512 {
        return Err("a path of which only the beginning was recorded");
    }
    Ok((host, Want { port, method: method.to_owned(), path, websocket, bare: false }))
}

/// Tells whether a name is one that only private networks have (RFC 6761, 6762, 8375, 9476, and what home routers hand out).
fn is_private(host: &str) -> bool {
    const ENDS: [&str; 14] = [
        "localhost",
        "local",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "localdomain",
        "home.arpa",
        "arpa",
        "onion",
        "alt",
        "invalid",
    ];
    !host.contains('.') || ENDS.iter().any(|end| host.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')))
}

/// Tells whether a port that nobody listened on may be one of HTTP: those of well-known other protocols are none.
fn speaks_http(port: u16) -> bool {
    const OTHERS: [u16; 12] = [1433, 1521, 1883, 3306, 3389, 5432, 5672, 5900, 6379, 9092, 11211, 27017];
    port == 80 || port == 443 || port >= 1024 && !OTHERS.contains(&port)
}

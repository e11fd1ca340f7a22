//! How a warden makes its namespaces, and a network in which nothing can leave.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::Plan;

pub(super) fn set_up(plan: &Plan) -> Result<(), String> {
    let step = |what: &'static str| move |e: nix::Error| format!("{what}: {e}");
    let _ = nix::unistd::setsid();
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(step("subreaper"))?;
    let root = Uid::effective().is_root();
    if root {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(step("unshare"))?;
        private()?;
        show(&plan.shown)?;
        if let Some((uid, gid)) = plan.user {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            nix::unistd::setgroups(&[]).map_err(step("setgroups"))?;
            nix::unistd::setresgid(gid, gid, gid).map_err(step("setgid"))?;
            nix::unistd::setresuid(uid, uid, uid).map_err(step("setuid"))?;
            // A change of user makes a process undumpable, and then it may not even write its own maps.
            nix::sys::prctl::set_dumpable(true).map_err(step("dumpable"))?;
        }
    }
    if !Uid::effective().is_root() {
        // The same ids inside as outside: bb must see an ordinary user, and the namespaces are made all the same.
        let (uid, gid) = (Uid::effective(), Gid::effective());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .map_err(step("unprivileged user namespaces"))?;
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ] {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))?;
        }
        private()?;
    }
    show(&plan.etc)?;
    everything_is_local().map_err(|e| format!("network: {e}"))
}

fn private() -> Result<(), String> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(|e| format!("private mounts: {e}"))
}

fn show(list: &[(PathBuf, PathBuf)]) -> Result<(), String> {
    for (from, to) in list {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(|e| format!("mount of {} at {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Brings the loopback up and makes every address one of this machine: whoever tries 8.8.8.8 or 10.0.0.1 arrives at a
/// canary, or is refused by the kernel; nothing can leave.
fn everything_is_local() -> io::Result<()> {
    let lo = nix::net::if_::if_nametoindex("lo")?;
    let mut link = LinkMessage::default();
    link.header.index = lo;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    ask(RouteNetlinkMessage::SetLink(link), 0)?;
    let mut families = vec![AddressFamily::Inet];
    if Path::new("/proc/sys/net/ipv6").exists() {
        families.push(AddressFamily::Inet6);
    }
    for family in families {
        let mut route = RouteMessage::default();
        route.header.address_family = family;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.scope = RouteScope::Host;
        route.header.kind = RouteType::Local;
        route.attributes.push(RouteAttribute::Oif(lo));
        ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE)?;
    }
    Ok(())
}

/// Gives the loopback another address.
pub(super) fn own(address: IpAddr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = nix::net::if_::if_nametoindex("lo")?;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.extend([AddressAttribute::Local(address), AddressAttribute::Address(address)]);
    ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE)
}

/// Asks the kernel for one thing.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map(|m| m.payload) {
        Ok(NetlinkPayload::Error(e)) if e.code.is_some() => Err(e.to_io()),
        _ => Ok(()),
    }
}

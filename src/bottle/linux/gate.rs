//! The two network namespaces of a bottle and the way between them.
//!
//! The agent's namespace has a loopback of its own and one veth, whose other end lies in the *gate*. There every address
//! is local, so each connection that the agent makes, to wherever it means, arrives at one of the gate's [`listeners`],
//! or is refused by the kernel at once. The agent can neither see nor unbind nor shadow the listeners.
//!
//! [`listeners`]: super::listeners

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The gate's end of the veth.
pub const GATE_LINK: &str = "bb0";
/// The agent's end.
const AGENT_LINK: &str = "eth0";
/// The gate's own addresses; the agent's default routes go there.
pub const GATE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
const GATE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbb, 0, 0, 0, 0, 0, 3);
/// The agent's addresses.
const AGENT_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const AGENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbb, 0, 0, 0, 0, 0, 2);

/// A routing socket of the namespace it was made in.
struct Netlink(Socket);

impl Netlink {
    fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// Sends one request and waits for its acknowledgement.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(e) if e.code.is_some() => Err(e.to_io()),
            _ => Ok(()),
        }
    }

    fn set_up(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    fn add_veth(&self, peer_pid: i32) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes =
            vec![LinkAttribute::IfName(AGENT_LINK.to_owned()), LinkAttribute::NetNsPid(peer_pid.cast_unsigned())];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(GATE_LINK.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        // Without waiting for duplicates: there is nobody else on this link.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn add_route(&self, of: IpAddr, index: u32, gateway: Option<IpAddr>) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(of);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        (message.header.scope, message.header.kind) = match gateway {
            Some(_) => (RouteScope::Universe, RouteType::Unicast),
            None => (RouteScope::Host, RouteType::Local),
        };
        message.attributes.push(RouteAttribute::Oif(index));
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Gets the number of an interface of the current namespace.
///
/// # Errors
/// That of the system call.
pub fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// Brings the loopback of the current namespace up.
///
/// # Errors
/// Those of the kernel.
pub fn loopback_up() -> io::Result<()> {
    Netlink::open()?.set_up(index_of("lo")?)
}

/// Gate side: makes the veth with its other end in the namespace of process `agent`, and every address local.
///
/// # Errors
/// Those of the kernel.
pub fn build_gate(agent: i32) -> io::Result<()> {
    let netlink = Netlink::open()?;
    netlink.add_veth(agent)?;
    let (lo, veth) = (index_of("lo")?, index_of(GATE_LINK)?);
    netlink.add_address(veth, GATE_V4.into(), 31)?;
    netlink.set_up(veth)?;
    netlink.add_route(GATE_V4.into(), lo, None)?;
    if has_ipv6() {
        netlink.add_address(veth, GATE_V6.into(), 127)?;
        netlink.add_route(GATE_V6.into(), lo, None)?;
    }
    Ok(())
}

/// Agent side: its own loopback, and the veth as the way to everything.
///
/// # Errors
/// Those of the kernel.
pub fn build_agent_side() -> io::Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_up(index_of("lo")?)?;
    let veth = index_of(AGENT_LINK)?;
    netlink.add_address(veth, AGENT_V4.into(), 31)?;
    netlink.set_up(veth)?;
    netlink.add_route(AGENT_V4.into(), veth, Some(GATE_V4.into()))?;
    if has_ipv6() {
        netlink.add_address(veth, AGENT_V6.into(), 127)?;
        netlink.add_route(AGENT_V6.into(), veth, Some(GATE_V6.into()))?;
    }
    // Dev servers on 80 and 443 without privileges: they are the agent's own ports.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

/// Agent's network and gate in one, for a backend that has only one namespace for both: every address is local, and the
/// agent's own address is one that is not of the loopback, since programs without one take the machine for offline. IPv6
/// is left out where the namespace has it switched off.
///
/// # Errors
/// Those of the kernel.
pub fn build_shared() -> io::Result<()> {
    let netlink = Netlink::open()?;
    let lo = index_of("lo")?;
    netlink.set_up(lo)?;
    netlink.add_address(lo, AGENT_V4.into(), 32)?;
    netlink.add_route(GATE_V4.into(), lo, None)?;
    let switched_off =
        std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|s| s.trim() != "0");
    if has_ipv6() && !switched_off {
        netlink.add_address(lo, AGENT_V6.into(), 128)?;
        netlink.add_route(GATE_V6.into(), lo, None)?;
    }
    Ok(())
}

/// Tells whether this kernel knows IPv6.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

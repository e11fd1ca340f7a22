//! What listens in the gate: TCP for the plane, DNS, and the packet socket that sees what nobody listens for.
//!
//! Sockets keep the namespace that they were made in, so they are made here, inside, and handed to the keeper and from it
//! to the controller. Nothing here reads or answers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket as sock;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::gate::{GATE_LINK, has_ipv6, index_of};
use super::launch::Up;
use super::sys;
use crate::bottle::wire::{self, Listener, Reply};
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, fork_with};

/// Connections that wait in a listener while no controller accepts.
const BACKLOG: i32 = 512;

/// Makes the listeners in the current namespace, which must be the gate.
///
/// # Errors
/// Those of the kernel.
pub fn all(ports: &[u16]) -> io::Result<Vec<(Listener, OwnedFd)>> {
    let mut all = Vec::new();
    for &port in ports {
        all.push((Listener::Tcp { port }, tcp(port)?));
    }
    all.push((Listener::DnsUdp, dns_udp()?));
    all.push((Listener::DnsTcp, tcp(53)?));
    Ok(all)
}

/// Makes one socket bound to every address of the current namespace, IPv6 and IPv4.
fn bound(kind: sock::SockType, port: u16) -> io::Result<OwnedFd> {
    let flags = sock::SockFlag::SOCK_CLOEXEC | sock::SockFlag::SOCK_NONBLOCK;
    if has_ipv6() {
        let fd = sock::socket(sock::AddressFamily::Inet6, kind, flags, None)?;
        sock::setsockopt(&fd, sock::sockopt::Ipv6V6Only, &false)?;
        sock::setsockopt(&fd, sock::sockopt::ReuseAddr, &true)?;
        sock::bind(
            fd.as_raw_fd(),
            &sock::SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)),
        )?;
        return Ok(fd);
    }
    let fd = sock::socket(sock::AddressFamily::Inet, kind, flags, None)?;
    sock::setsockopt(&fd, sock::sockopt::ReuseAddr, &true)?;
    sock::bind(fd.as_raw_fd(), &sock::SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(fd)
}

/// Makes one TCP listener; accepted connections inherit `TCP_NODELAY`.
///
/// # Errors
/// Those of the kernel.
pub fn tcp(port: u16) -> io::Result<OwnedFd> {
    let fd = bound(sock::SockType::Stream, port)?;
    sock::setsockopt(&fd, sock::sockopt::TcpNoDelay, &true)?;
    sock::listen(&fd, sock::Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Makes one more TCP listener in the gate of a bottle that is up: by a child, since a process that has changed its
/// namespace cannot go back. The calling process must be single-threaded.
///
/// # Errors
/// `backend_unavailable` with what the kernel said.
pub fn one_more(up: &Up, as_root: bool, port: u16) -> Result<OwnedFd> {
    let failed = |e: &dyn std::fmt::Display| Error::new(Kind::BackendUnavailable, format!("listening on {port}: {e}"));
    let (ours, theirs) = wire::pair().map_err(|e| failed(&e))?;
    // SAFETY: the keeper is single-threaded.
    let pid = match unsafe { fork_with(0) }.map_err(|e| failed(&e))? {
        Fork::Child => {
            let made = (|| -> io::Result<OwnedFd> {
                if as_root {
                    nix::unistd::setgroups(&[])?;
                }
                setns(&up.namespaces[0], CloneFlags::CLONE_NEWUSER)?;
                setns(&up.gate, CloneFlags::CLONE_NEWNET)?;
                tcp(port)
            })();
            let sent = match &made {
                Ok(fd) => wire::send(&theirs, &Reply::Done, &[fd.as_raw_fd()]),
                Err(e) => wire::send(&theirs, &Reply::Failed { error: failed(e) }, &[]),
            };
            sys::exit_now(i32::from(sent.is_err()));
        }
        Fork::Parent(pid) => pid,
    };
    drop(theirs);
    let answer = wire::receive::<Reply>(&ours);
    let _ = waitpid(Pid::from_raw(pid), None);
    match answer {
        Ok(Some((Reply::Done, mut fds))) if fds.len() == 1 => Ok(fds.remove(0)),
        Ok(Some((Reply::Failed { error }, _))) => Err(error),
        other => Err(failed(&format!("{other:?}"))),
    }
}

fn dns_udp() -> io::Result<OwnedFd> {
    let fd = bound(sock::SockType::Datagram, 53)?;
    // Addresses that a route alone makes local count as foreign where IPv6 checks the source of an answer.
    sock::setsockopt(&fd, sock::sockopt::IpFreebind, &true)?;
    // The answer must come from the address that was asked.
    sock::setsockopt(&fd, sock::sockopt::Ipv4PacketInfo, &true)?;
    if has_ipv6() {
        sock::setsockopt(&fd, sock::sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(fd)
}

/// Makes the packet socket that sees what the kernel refuses: TCP connection attempts and UDP packets that arrive over
/// the veth for ports other than `served` and 53. Each packet is delivered from its IP header on, cut to 128 bytes.
///
/// # Errors
/// Those of the kernel.
pub fn sentinel(served: &[u16]) -> io::Result<OwnedFd> {
    packets_of(GATE_LINK, &sentinel_filter(served, false))
}

/// Makes the packet socket of a namespace that is agent's network and gate in one: as [`sentinel`], less what the agent says
/// to itself on its loopback addresses, and what DNS answers.
///
/// # Errors
/// Those of the kernel.
pub fn sentinel_of_loopback(served: &[u16]) -> io::Result<OwnedFd> {
    packets_of("lo", &sentinel_filter(served, true))
}

fn packets_of(link: &str, filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let fd = sock::socket(
        sock::AddressFamily::Packet,
        sock::SockType::Datagram,
        sock::SockFlag::SOCK_CLOEXEC | sock::SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program points to `filter`, which outlives the call; the kernel copies it.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    sock::setsockopt(&fd, sock::sockopt::RcvBuf, &(64 * 1024))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index_of(link)?.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole sockaddr_ll and its size is passed with it.
    let bound = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// A classic BPF program; offsets count from the IP header.
fn sentinel_filter(served: &[u16], shared: bool) -> Vec<libc::sock_filter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_X: u16 = 0x48;
    const LOAD_BYTE_X: u16 = 0x50;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_X: u16 = 0x01;
    const AND: u16 = 0x54;
    const JUMP_EQ: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Ancillary loads (`SKF_AD_OFF` + `SKF_AD_PROTOCOL`, `SKF_AD_PKTTYPE`).
    const PROTOCOL: u32 = (-0x1000i32).cast_unsigned();
    const PACKET_TYPE: u32 = (-0x1000i32 + 4).cast_unsigned();
    const KEEP: u32 = 128;

    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let eq = |k, jt, jf| libc::sock_filter { code: JUMP_EQ, jt, jf, k };
    // From here on X is the length of the IP header and A the protocol number.
    let mut transport = vec![
        eq(6, 0, 3),         // TCP?
        op(LOAD_BYTE_X, 13), // its flags,
        op(AND, 0x12),       // SYN and ACK of them
        eq(0x02, 2, 1),      // a first SYN goes on to the port,
        eq(17, 1, 0),        // and so does UDP;
        op(RETURN, 0),       // nothing else is kept
    ];
    if shared {
        transport.extend([op(LOAD_HALF_X, 0), eq(53, 0, 1), op(RETURN, 0)]); // source port of an answer of DNS
    }
    transport.push(op(LOAD_HALF_X, 2)); // destination port
    let mut ports = served.to_vec();
    ports.push(53);
    let count = ports.len();
    for (i, port) in ports.into_iter().enumerate() {
        transport.push(eq(u32::from(port), (count - i) as u8, 0));
    }
    transport.push(op(RETURN, KEEP));
    transport.push(op(RETURN, 0));

    let mut program = Vec::new();
    if shared {
        program.extend([
            op(LOAD_HALF, PROTOCOL),
            eq(libc::ETH_P_IP as u32, 0, 3),
            op(LOAD_BYTE, 16),
            eq(127, 0, 7), // to 127.0.0.0/8?
            op(RETURN, 0),
            eq(libc::ETH_P_IPV6 as u32, 0, 5),
            op(LOAD_WORD, 24),
            eq(0, 0, 3), // to ::1, or to what begins and ends like it?
            op(LOAD_WORD, 36),
            eq(1, 0, 1),
            op(RETURN, 0),
        ]);
    }
    program.extend([
        op(LOAD_BYTE, PACKET_TYPE),
        eq(libc::PACKET_HOST as u32, 1, 0),
        op(RETURN, 0),
        op(LOAD_HALF, PROTOCOL),
        eq(libc::ETH_P_IPV6 as u32, 4, 0),
        eq(libc::ETH_P_IP as u32, 0, 6), // neither: to the refusal after the IPv6 part
        op(LOAD_HEADER_LENGTH, 0),
        op(LOAD_BYTE, 9),
        libc::sock_filter { code: 0x05, jt: 0, jf: 0, k: 4 }, // over the IPv6 part and the refusal
        op(LOAD_X, 40),
        op(LOAD_BYTE, 6),
        libc::sock_filter { code: 0x05, jt: 0, jf: 0, k: 1 }, // over the refusal
        op(RETURN, 0),
    ]);
    program.append(&mut transport);
    program
}

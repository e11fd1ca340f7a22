//! Datagrams that are answered as the address that was asked, whichever of a socket's many that was.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

/// What came with a datagram.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its length in the buffer.
    pub length: usize,
    /// Who sent it.
    peer: SockaddrStorage,
    /// The address that it was sent to, where the kernel says so.
    asked: Option<IpAddr>,
}

/// Has the kernel tell of every datagram where it was sent to.
///
/// # Errors
/// Those of the system calls.
pub fn prepare(socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Receives one datagram; what does not fit into the buffer is lost.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_fd().as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let peer = message.address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut asked = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                asked = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => asked = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
            _ => {}
        }
    }
    Ok(Received { length: message.bytes, peer, asked })
}

/// Answers a datagram from the address that it was sent to.
///
/// # Errors
/// Those of sendmsg(2).
pub fn answer(socket: &impl AsFd, bytes: &[u8], to: &Received) -> io::Result<()> {
    let slices = [IoSlice::new(bytes)];
    let fd = socket.as_fd().as_raw_fd();
    let send = |control: &[ControlMessage<'_>]| sendmsg(fd, &slices, control, MsgFlags::empty(), Some(&to.peer));
    match to.asked {
        Some(IpAddr::V4(address)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])?;
        }
        Some(IpAddr::V6(address)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])?;
        }
        None => {
            send(&[])?;
        }
    }
    Ok(())
}

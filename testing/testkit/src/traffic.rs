//! Frames of N sessions, told apart by their source port, and a way to send them as they are.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use etherparse::PacketBuilder;

use crate::TestkitError;
use crate::link::index_of;

/// Sends whole frames from one interface.
#[derive(Debug)]
pub struct RawSender {
    socket: OwnedFd,
    index: i32,
}

impl RawSender {
    /// Opens a sender on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// If there is no such interface, or the process lacks CAP_NET_RAW.
    pub fn open(interface: &str) -> Result<RawSender, TestkitError> {
        let what = format!("opening a packet socket on {interface}");
        let index = index_of(interface)
            .map_err(TestkitError::system(what.clone()))?
            .cast_signed();
        // SAFETY: socket has no memory arguments. Protocol 0: this socket receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(TestkitError::system(what)(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(RawSender { socket, index })
    }

    /// Sends one frame, waiting for room.
    ///
    /// # Errors
    /// If the interface refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<(), TestkitError> {
        // SAFETY: sockaddr_ll is plain data for which all zeroes are valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.index;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: frame and address are valid for reads of the lengths given.
        let sent = unsafe {
            let to = (&raw const to).cast::<libc::sockaddr>();
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                to,
                length,
            )
        };
        if sent < 0 {
            return Err(TestkitError::system("sending a frame")(
                io::Error::last_os_error(),
            ));
        }
        Ok(())
    }
}

/// Transport of a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP datagrams.
    Udp,
    /// TCP segments inside an established connection (ACK set, SYN not).
    TcpData,
    /// TCP segments that open a connection.
    TcpSyn,
}

/// Addresses and ports of a session.
#[derive(Clone, Copy, Debug)]
pub struct Flow<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// Source and destination hardware addresses.
#[derive(Clone, Copy, Debug)]
pub struct Macs {
    /// Source.
    pub source: [u8; 6],
    /// Destination.
    pub destination: [u8; 6],
}

/// An IPv4 frame of the session with a payload of `payload` zero bytes and right checksums.
#[must_use]
pub fn ipv4(macs: Macs, flow: Flow<Ipv4Addr>, transport: Transport, payload: usize) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(macs.source, macs.destination).ipv4(
        flow.source.octets(),
        flow.destination.octets(),
        64,
    );
    let ports = (flow.source_port, flow.destination_port);
    finish(ip, ports, transport, payload)
}

/// An IPv4 frame with this UDP payload and right checksums.
#[must_use]
pub fn ipv4_udp(macs: Macs, flow: Flow<Ipv4Addr>, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (flow.source.octets(), flow.destination.octets());
    let ip = PacketBuilder::ethernet2(macs.source, macs.destination).ipv4(source, destination, 64);
    let mut frame = Vec::with_capacity(payload.len() + 42);
    let udp = ip.udp(flow.source_port, flow.destination_port);
    udp.write(&mut frame, payload)
        .expect("a Vec takes every byte and the payload fits a packet");
    frame
}

/// An IPv6 frame of the session with a payload of `payload` zero bytes and right checksums.
#[must_use]
pub fn ipv6(macs: Macs, flow: Flow<Ipv6Addr>, transport: Transport, payload: usize) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(macs.source, macs.destination).ipv6(
        flow.source.octets(),
        flow.destination.octets(),
        64,
    );
    let ports = (flow.source_port, flow.destination_port);
    finish(ip, ports, transport, payload)
}

fn finish(
    ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>,
    (source_port, destination_port): (u16, u16),
    transport: Transport,
    payload: usize,
) -> Vec<u8> {
    let payload = vec![0; payload];
    let mut frame = Vec::with_capacity(payload.len() + 74);
    let written = match transport {
        Transport::Udp => ip
            .udp(source_port, destination_port)
            .write(&mut frame, &payload),
        Transport::TcpData => ip
            .tcp(source_port, destination_port, 1, 8192)
            .ack(1)
            .write(&mut frame, &payload),
        Transport::TcpSyn => ip
            .tcp(source_port, destination_port, 1, 8192)
            .syn()
            .write(&mut frame, &payload),
    };
    written.expect("a Vec takes every byte and the payload fits a packet");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_headers_and_length() {
        let macs = Macs {
            source: [2; 6],
            destination: [4; 6],
        };
        let flow = Flow {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            source_port: 1,
            destination_port: 80,
        };
        let frame = ipv4(macs, flow, Transport::Udp, 18);
        assert_eq!(
            (frame.len(), &frame[12..14], frame[23]),
            (60, &[8, 0][..], 17)
        );
        let frame = ipv4(macs, flow, Transport::TcpSyn, 0);
        assert_eq!((frame.len(), frame[23], frame[47]), (54, 6, 2));
    }
}

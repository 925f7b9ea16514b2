//! Network and transport headers.

use squalus_abi::{Address, FlowKey};
use squalus_bpf_net::{
    Eth, Frame, IcmpHeader, Ipv4, Ipv6, Step, TcpHeader, UdpHeader, Verdict, ip_proto,
};

use crate::packet::Packet;

/// Bytes before the transport header.
pub const fn transport_offset(v6: bool) -> usize {
    Eth::LEN + if v6 { Ipv6::LEN } else { Ipv4::LEN }
}

/// Bytes before the transport header of the packet embedded in an ICMP error.
const fn embedded_offset(v6: bool) -> usize {
    transport_offset(v6) + IcmpHeader::LEN + if v6 { Ipv6::LEN } else { Ipv4::LEN }
}

/// Reads the IP header. Fragments, IPv4 options and short headers are dropped; checksums are not looked at.
///
/// `key` starts empty and becomes the packet's flow. The addresses of an ICMP packet of its own family stay zero: the embedded packet decides.
#[inline(always)]
pub fn network<'k, const V6: bool>(frame: &Frame, key: &'k mut FlowKey) -> Step<Packet<'k>> {
    if V6 {
        ipv6(frame, key)
    } else {
        ipv4(frame, key)
    }
}

#[inline(always)]
fn ipv4<'k>(frame: &Frame, key: &'k mut FlowKey) -> Step<Packet<'k>> {
    let ip = frame.header::<Ipv4>(Eth::LEN)?;
    if !ip.is_plain() || ip.is_fragment() {
        return Err(Verdict::Drop);
    }
    let packet = packet(key, ip.proto, ip.tos, ip.total_len.to_host());
    if ip.proto != ip_proto::ICMP {
        packet.flow.src = Address::from_v4_word(ip.src);
        packet.flow.dst = Address::from_v4_word(ip.dst);
    }
    Ok(packet)
}

#[inline(always)]
fn ipv6<'k>(frame: &Frame, key: &'k mut FlowKey) -> Step<Packet<'k>> {
    let ip = frame.header::<Ipv6>(Eth::LEN)?;
    if ip.next_header == ip_proto::FRAGMENT {
        return Err(Verdict::Drop);
    }
    let packet = packet(
        key,
        ip.next_header,
        ip.traffic_class(),
        ip.payload_len.to_host(),
    );
    if ip.next_header != ip_proto::ICMPV6 {
        packet.flow.src = ip.src;
        packet.flow.dst = ip.dst;
    }
    Ok(packet)
}

#[inline(always)]
fn packet(key: &mut FlowKey, proto: u8, tos: u8, ip_len: u16) -> Packet<'_> {
    key.proto = proto;
    Packet {
        flow: key,
        real_index: 0,
        ip_len,
        tos,
        icmp: false,
        syn: false,
        rst: false,
    }
}

/// Reads ports and TCP flags, of the embedded packet after an ICMP error. What is neither TCP nor UDP is passed up.
#[inline(always)]
pub fn transport<const V6: bool>(frame: &Frame, packet: &mut Packet<'_>) -> Step<()> {
    let (src, dst) = match packet.flow.proto {
        ip_proto::TCP => {
            let tcp = at_transport::<V6, TcpHeader>(frame, packet)?;
            packet.syn = tcp.syn();
            packet.rst = tcp.rst();
            (tcp.src_port, tcp.dst_port)
        }
        ip_proto::UDP => {
            let udp = at_transport::<V6, UdpHeader>(frame, packet)?;
            (udp.src_port, udp.dst_port)
        }
        _ => return Err(Verdict::Pass),
    };
    // The embedded packet travelled from the VIP to the client.
    let (src, dst) = if packet.icmp { (dst, src) } else { (src, dst) };
    packet.flow.src_port = src;
    packet.flow.dst_port = dst;
    Ok(())
}

#[inline(always)]
fn at_transport<'a, const V6: bool, T: squalus_bpf_net::Wire>(
    frame: &'a Frame,
    packet: &Packet<'_>,
) -> Step<&'a T> {
    if packet.icmp {
        frame.header(embedded_offset(V6))
    } else {
        frame.header(transport_offset(V6))
    }
}

//! Encapsulation: IP in IP (RFC 2003, RFC 2473).
//!
//! The outer source address is not this host's. Its prefix says that a balancer sent the packet, and its other bits
//! come from the client's address and port, so that a real's receive-side scaling spreads flows over its cores.

use squalus_abi::{Address, Be16, CtlValue, RealDefinition};
use squalus_bpf_net::{
    Eth, Frame, Ipv4, Ipv6, Mac, Step, Words, Xdp, ether_type, internet_checksum, ip_proto,
};

use crate::{packet::Packet, tunables};

/// Puts an IPv4 header before the packet.
///
/// The inner packet is taken to be IPv4; a VIP of IPv6 cannot have reals of IPv4.
#[inline(always)]
pub fn ipip_v4(
    xdp: Xdp,
    packet: &Packet<'_>,
    router: &CtlValue,
    real: &RealDefinition,
) -> Step<()> {
    let src = ipv4_source(packet);
    let mut frame = xdp.grow_head(Ipv4::LEN as i32)?;
    ethernet(&mut frame, Ipv4::LEN, router, ether_type::IPV4)?;
    let len = Be16::from_host(packet.ip_len.wrapping_add(Ipv4::LEN as u16));
    let tos = tunables::outer_tos(packet.tos);
    let mut words = [
        0x45 | u32::from(tos) << 8 | u32::from(len.raw()) << 16,
        0,
        u32::from(tunables::default_ttl()) | u32::from(ip_proto::IPIP) << 8,
        src,
        real.dst.words()[0],
    ];
    words[2] |= u32::from(internet_checksum(&words)) << 16;
    frame.header_mut::<Words<5>>(Eth::LEN)?.set(words);
    Ok(())
}

/// Puts an IPv6 header before the packet.
#[inline(always)]
pub fn ipip_v6<const INNER_V6: bool>(
    xdp: Xdp,
    packet: &Packet<'_>,
    router: &CtlValue,
    real: &RealDefinition,
) -> Step<()> {
    let mut frame = xdp.grow_head(Ipv6::LEN as i32)?;
    ethernet(&mut frame, Ipv6::LEN, router, ether_type::IPV6)?;
    // The length in an IPv6 header does not include the header.
    let (next_header, len) = if INNER_V6 {
        (ip_proto::IPV6, packet.ip_len.wrapping_add(Ipv6::LEN as u16))
    } else {
        (ip_proto::IPIP, packet.ip_len)
    };
    let class = tunables::outer_tos(packet.tos);
    *frame.header_mut::<Ipv6>(Eth::LEN)? = Ipv6 {
        version_class_label: [0x60 | class >> 4, class << 4, 0, 0],
        payload_len: Be16::from_host(len),
        next_header,
        hop_limit: tunables::default_ttl(),
        src: ipv6_source::<INNER_V6>(packet),
        dst: real.dst,
    };
    Ok(())
}

/// Writes the Ethernet header of a frame that grew by `grown` bytes: to the router, from the address it was sent to.
#[inline(always)]
fn ethernet(frame: &mut Frame, grown: usize, router: &CtlValue, ether_type: Be16) -> Step<()> {
    let src = frame.header::<Eth>(grown)?.dst;
    *frame.header_mut::<Eth>(0)? = Eth {
        dst: Mac::from_number(router.as_number()),
        src,
        ether_type,
    };
    Ok(())
}

/// Prefix, then the low two bytes of the client's address mixed with the port's bytes in host order.
#[inline(always)]
fn ipv4_source(packet: &Packet<'_>) -> u32 {
    let port = u32::from(packet.flow.src_port.to_host());
    let mixed = port << 16 ^ packet.flow.src.words()[0];
    mixed & 0xffff_0000 | tunables::ipip_v4_prefix()
}

/// Prefix, then the last word of the client's address with the port mixed into its first two bytes.
#[inline(always)]
fn ipv6_source<const INNER_V6: bool>(packet: &Packet<'_>) -> Address {
    let [a, b, c] = tunables::ipip_v6_prefix();
    let client = packet.flow.src.words()[if INNER_V6 { 3 } else { 0 }];
    Address::from_words([a, b, c, client ^ u32::from(packet.flow.src_port.raw())])
}

//! ICMP: answers to echo requests, and errors that follow their flow to its real.
//!
//! An error belongs to the flow of the packet embedded in it, which the real sent: its source is the VIP. So the
//! error's flow is the embedded one turned around, and the real that sent the packet gets the error.
//!
//! The protocol number alone chooses the parser, whatever the IP version: katran does so too. An IPv4 packet of
//! protocol 58 is thus read as ICMPv6, at IPv4's offset.

use squalus_abi::{Address, GlobalCounter, consts};
use squalus_bpf_net::{
    Eth, Frame, IcmpHeader, Ipv4, Ipv6, Step, Verdict, Words, icmp, icmpv6, internet_checksum,
    ip_proto,
};

use crate::{counters, packet::Packet, parse::transport_offset, tunables};

/// Answers an echo request, or replaces the packet's flow by that of the embedded packet of an error.
#[inline(always)]
pub fn handle<const V6: bool>(frame: &mut Frame, packet: &mut Packet<'_>) -> Step<()> {
    let offset = transport_offset(V6);
    match packet.flow.proto {
        ip_proto::ICMPV6 => icmpv6_packet(frame, offset, packet),
        ip_proto::ICMP => icmp_packet(frame, offset, packet),
        _ => Ok(()),
    }
}

/// Whether a QUIC server would ignore this ICMP error.
#[inline(always)]
pub fn is_ignored_by_quic<const V6: bool>(frame: &Frame) -> bool {
    let Some(header) = frame.get::<IcmpHeader>(transport_offset(V6)) else {
        return false;
    };
    if V6 {
        matches!(
            header.code,
            icmpv6::ADDR_UNREACHABLE | icmpv6::PORT_UNREACHABLE
        )
    } else {
        matches!(header.code, icmp::HOST_UNREACHABLE | icmp::PORT_UNREACHABLE)
    }
}

#[inline(always)]
fn icmpv6_packet(frame: &mut Frame, offset: usize, packet: &mut Packet<'_>) -> Step<()> {
    let header = frame.header::<IcmpHeader>(offset)?;
    match header.kind {
        icmpv6::ECHO => return Err(echo_reply_v6(frame)),
        icmpv6::PACKET_TOO_BIG => {
            let [high, low] = header.rest.map(|half| u32::from(half.to_host()));
            let mtu = high << 16 | low;
            count_too_big(GlobalCounter::IcmpPtbV6Stats, mtu)?;
        }
        icmpv6::UNREACHABLE => {}
        _ => return Err(Verdict::Pass),
    }
    let embedded = frame.header::<Ipv6>(offset + IcmpHeader::LEN)?;
    packet.flow.proto = embedded.next_header;
    packet.flow.src = embedded.dst;
    packet.flow.dst = embedded.src;
    packet.icmp = true;
    Ok(())
}

#[inline(always)]
fn icmp_packet(frame: &mut Frame, offset: usize, packet: &mut Packet<'_>) -> Step<()> {
    let header = frame.header::<IcmpHeader>(offset)?;
    match header.kind {
        icmp::ECHO => return Err(echo_reply_v4(frame)),
        icmp::UNREACHABLE => {}
        _ => return Err(Verdict::Pass),
    }
    if header.code == icmp::FRAG_NEEDED {
        let mtu = u32::from(header.rest[1].to_host());
        count_too_big(GlobalCounter::IcmpPtbV4Stats, mtu)?;
    }
    let embedded = frame.header::<Ipv4>(offset + IcmpHeader::LEN)?;
    if !embedded.is_plain() {
        return Err(Verdict::Drop);
    }
    packet.flow.proto = embedded.proto;
    packet.flow.src = with_first_word(packet.flow.src, embedded.dst);
    packet.flow.dst = with_first_word(packet.flow.dst, embedded.src);
    packet.icmp = true;
    Ok(())
}

/// An IPv4 packet's other words are zero; an IPv6 packet of protocol 1 keeps its own, as in katran.
#[inline(always)]
fn with_first_word(address: Address, word: u32) -> Address {
    let [_, b, c, d] = *address.words();
    Address::from_words([word, b, c, d])
}

#[inline(always)]
fn count_too_big(counter: GlobalCounter, mtu: u32) -> Step<()> {
    let low = u64::from(mtu < consts::MIN_EXPECTED_MTU);
    counters::add(counter, 1, low)
}

/// Turns an echo request into its reply. The frame was addressed to any destination, not only a VIP.
#[inline(always)]
fn echo_reply_v4(frame: &mut Frame) -> Verdict {
    match write_echo_reply_v4(frame) {
        Ok(()) => Verdict::Tx,
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn write_echo_reply_v4(frame: &mut Frame) -> Step<()> {
    // Request and reply differ in the type only, so the checksum changes by it; katran does not carry.
    let header = frame.header_mut::<IcmpHeader>(Eth::LEN + Ipv4::LEN)?;
    header.kind = icmp::ECHO_REPLY;
    header.check = header.check.wrapping_add(u16::from(icmp::ECHO));

    let ip = frame.header_mut::<Ipv4>(Eth::LEN)?;
    (ip.src, ip.dst) = (ip.dst, ip.src);
    ip.ttl = tunables::default_ttl();
    ip.check = 0;
    let words = frame.header::<Words<5>>(Eth::LEN)?;
    let check = internet_checksum(&words.all());
    frame.header_mut::<Ipv4>(Eth::LEN)?.check = check;
    swap_macs(frame)
}

#[inline(always)]
fn echo_reply_v6(frame: &mut Frame) -> Verdict {
    match write_echo_reply_v6(frame) {
        Ok(()) => Verdict::Tx,
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn write_echo_reply_v6(frame: &mut Frame) -> Step<()> {
    let header = frame.header_mut::<IcmpHeader>(Eth::LEN + Ipv6::LEN)?;
    header.kind = icmpv6::ECHO_REPLY;
    header.check = header
        .check
        .wrapping_sub(u16::from(icmpv6::ECHO_REPLY - icmpv6::ECHO));

    let ip = frame.header_mut::<Ipv6>(Eth::LEN)?;
    (ip.src, ip.dst) = (ip.dst, ip.src);
    ip.hop_limit = tunables::default_ttl();
    swap_macs(frame)
}

#[inline(always)]
fn swap_macs(frame: &mut Frame) -> Step<()> {
    let eth = frame.header_mut::<Eth>(0)?;
    (eth.src, eth.dst) = (eth.dst, eth.src);
    Ok(())
}

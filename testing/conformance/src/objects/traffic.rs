//! Frames for programs of which nothing is known: every kind of packet that an XDP program may look for,
//! among a few hosts and ports, so that map entries made from the same numbers are hit.

use crate::Rng;
use crate::frames::{self, Address, ETHERNET, Flow, MAX_FRAME, proto, tcp};

/// Addresses of the first family.
const V4: [[u8; 4]; 6] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [192, 168, 1, 7],
    [127, 0, 0, 1],
    [224, 0, 0, 5],
    [255, 255, 255, 255],
];
/// Ports that programs know: SSH, DNS, HTTP, HTTPS, GTP-U, VXLAN, GUE, Geneve; and others.
const PORTS: [u16; 12] = [
    22, 53, 80, 443, 1234, 2152, 4789, 6080, 6081, 8080, 9, 40_000,
];
/// Ethertypes other than IP: ARP, VLAN, 802.1ad, MPLS, PPPoE, LLDP, a length, nothing known.
const ETHERTYPES: [u16; 8] = [
    0x0806, 0x8100, 0x88a8, 0x8847, 0x8864, 0x88cc, 0x0026, 0xbeef,
];

/// The address with this number, of either family.
fn address(rng: &mut Rng, v6: bool) -> Address {
    if !v6 {
        return rng.pick(&V4).to_vec();
    }
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(
        rng.pick(&[&[0xfc, 0], &[0xfe, 0x80], &[0xff, 2]])
            .as_slice(),
    );
    address[15] = rng.between(1, 4) as u8;
    address.to_vec()
}

fn flow(rng: &mut Rng) -> Flow {
    let v6 = rng.percent(35);
    Flow {
        src: address(rng, v6),
        dst: address(rng, v6),
        sport: *rng.pick(&PORTS),
        dport: *rng.pick(&PORTS),
    }
}

/// `count` frames, none outside what the kernel's test run takes.
#[must_use]
pub fn frames(rng: &mut Rng, count: usize) -> Vec<Vec<u8>> {
    let mut out = vec![vec![0; ETHERNET], vec![0xff; ETHERNET + 1]];
    while out.len() < count {
        let mut frame = frame(rng);
        if rng.percent(25) {
            frames::damage(rng, &mut frame);
        }
        frame.truncate(MAX_FRAME);
        frame.resize(frame.len().max(ETHERNET), 0);
        out.push(frame);
    }
    out
}

/// A frame as a host or a tunnel would send it.
fn frame(rng: &mut Rng) -> Vec<u8> {
    if rng.percent(5) {
        let len = rng.between(ETHERNET, 200);
        return rng.bytes(len);
    }
    if rng.percent(8) {
        return other(rng);
    }
    let packet = packet(rng, 0);
    let mut frame = frames::ethernet(&packet);
    addresses(rng, &mut frame);
    for _ in 0..rng.below(8).saturating_sub(5) {
        tag(rng, &mut frame);
    }
    frame
}

/// Broadcast, multicast, and hosts that differ in one byte.
fn addresses(rng: &mut Rng, frame: &mut [u8]) {
    match rng.below(8) {
        0 => frame[..6].fill(0xff),
        1 => frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 5]),
        host => frame[5] = host as u8,
    }
    frame[11] = rng.byte() & 3;
}

/// A VLAN tag behind the addresses.
fn tag(rng: &mut Rng, frame: &mut Vec<u8>) {
    let mut tag = rng
        .pick(&[0x8100u16, 0x8100, 0x88a8])
        .to_be_bytes()
        .to_vec();
    let id = *rng.pick(&[1u16, 2, 10, 100, 4011, 0x2042]);
    tag.extend(id.to_be_bytes());
    frame.splice(12..12, tag);
}

/// Not IP: ARP that is right, or any bytes under a known type.
fn other(rng: &mut Rng) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2]);
    let ethertype = *rng.pick(&ETHERTYPES);
    frame.extend(ethertype.to_be_bytes());
    if ethertype == 0x0806 {
        frame.extend([0, 1, 8, 0, 6, 4, 0, rng.between(1, 2) as u8]);
        frame.extend([2, 0, 0, 0, 0, 2]);
        frame.extend(address(rng, false));
        frame.extend([0; 6]);
        frame.extend(address(rng, false));
    }
    let more = rng.between(0, 60);
    frame.extend(rng.bytes(more));
    frame
}

/// An IP packet; `depth` tunnels are around it.
fn packet(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let flow = flow(rng);
    let (protocol, payload) = match rng.below(20) {
        0..7 => (proto::TCP, segment(rng, &flow)),
        7..12 => (proto::UDP, datagram(rng, &flow, depth)),
        12..14 => control(rng, &flow),
        14 | 15 if depth < 2 => {
            let inner = packet(rng, depth + 1);
            let v6 = inner.first().is_some_and(|byte| byte >> 4 == 6);
            (if v6 { proto::IPV6 } else { proto::IPIP }, inner)
        }
        16 => (proto::FRAGMENT, fragment(rng, &flow)),
        17 => (47, gre(rng, depth)),
        _ => (*rng.pick(&[0, 2, 50, 89, 132, 255]), any(rng, 40)),
    };
    frames::ip(rng, &flow.src, &flow.dst, protocol, &payload)
}

fn any(rng: &mut Rng, most: usize) -> Vec<u8> {
    let len = rng.between(0, most);
    rng.bytes(len)
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let most = *rng.pick(&[0, 20, 64, 400, 1400, 3000]);
    any(rng, most)
}

fn segment(rng: &mut Rng, flow: &Flow) -> Vec<u8> {
    let flags = *rng.pick(&[
        tcp::SYN,
        tcp::SYN,
        tcp::ACK,
        tcp::ACK | tcp::PSH,
        tcp::SYN | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        0,
    ]);
    // Maximum segment size, window scale, SACK, timestamps, padding.
    let options: &[&[u8]] = &[
        &[],
        &[2, 4, 5, 0xb4],
        &[
            2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
        &[1, 1, 8, 10, 9, 9, 9, 9, 1, 2, 3, 4],
        &[254, 6, 1, 2, 3, 4, 0, 0],
        &[3, 0, 0, 0],
    ];
    let options = *rng.pick(options);
    let payload = payload(rng);
    frames::tcp_segment(rng, flow, flags, options, &payload)
}

fn datagram(rng: &mut Rng, flow: &Flow, depth: usize) -> Vec<u8> {
    let payload = match flow.dport {
        53 => dns(rng),
        443 => frames::quic_long(rng, 0, &[1, 2, 3, 4, 5, 6, 7, 8]),
        2152 | 4789 | 6080 | 6081 if depth < 2 => tunnelled(rng, flow.dport, depth),
        _ => payload(rng),
    };
    frames::udp_datagram(rng, flow, &payload)
}

/// What follows the UDP header in GTP-U, VXLAN, GUE and Geneve.
fn tunnelled(rng: &mut Rng, port: u16, depth: usize) -> Vec<u8> {
    let inner = packet(rng, depth + 1);
    match port {
        2152 => {
            let mut out = vec![0x30, 0xff];
            out.extend((inner.len() as u16).to_be_bytes());
            out.extend([0, 0, 0, rng.byte()]);
            out.extend(inner);
            out
        }
        6080 => inner,
        _ => {
            let mut out = vec![if port == 4789 { 8 } else { 0 }, 0, 0x65, 0x58, 0, 0, 1, 0];
            out.extend(frames::ethernet(&inner));
            out
        }
    }
}

/// A query or answer, sometimes with an OPT record that carries a cookie.
fn dns(rng: &mut Rng) -> Vec<u8> {
    let opt = rng.percent(50);
    let mut out = rng.bytes(2);
    out.extend(if rng.percent(80) {
        [1, 0x20]
    } else {
        [0x81, 0x80]
    });
    out.extend([0, 1, 0, 0, 0, 0, 0, u8::from(opt)]);
    for label in [&b"www"[..], b"example", b"org"] {
        out.push(label.len() as u8);
        out.extend(label);
    }
    out.extend([0, 0, *rng.pick(&[1, 28, 16, 255]), 0, 1]);
    if opt {
        let cookie = rng.percent(50);
        out.extend([
            0,
            0,
            41,
            4,
            0xd0,
            0,
            0,
            0,
            0,
            0,
            if cookie { 12 } else { 0 },
        ]);
        if cookie {
            out.extend([0, 10, 0, 8]);
            out.extend(rng.bytes(8));
        }
    }
    out
}

/// ICMP of the flow's family: echo, errors about a packet, neighbour discovery.
fn control(rng: &mut Rng, flow: &Flow) -> (u8, Vec<u8>) {
    let v6 = flow.src.len() == 16;
    let kinds: &[u8] = if v6 {
        &[128, 129, 1, 2, 135, 136]
    } else {
        &[8, 0, 3, 11, 5]
    };
    let kind = *rng.pick(kinds);
    let body = match kind {
        1 | 2 | 3 | 11 => {
            let reversed = flow.reversed();
            let segment = segment(rng, &reversed);
            frames::ip(rng, &reversed.src, &reversed.dst, proto::TCP, &segment)
        }
        135 | 136 => address(rng, true),
        _ => any(rng, 56),
    };
    let rest = [0, 1, 5, rng.byte()];
    let code = rng.byte() & 4;
    let protocol = if v6 { proto::ICMPV6 } else { proto::ICMP };
    (protocol, frames::icmp(kind, code, rest, &body))
}

/// An IPv6 fragment header and a segment (in IPv4 a payload that nobody knows).
fn fragment(rng: &mut Rng, flow: &Flow) -> Vec<u8> {
    let mut out = vec![proto::TCP, 0, 0, rng.byte() & 0xf9];
    out.extend(rng.bytes(4));
    out.extend(segment(rng, flow));
    out
}

fn gre(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let inner = if depth < 2 {
        packet(rng, depth + 1)
    } else {
        Vec::new()
    };
    let v6 = inner.first().is_some_and(|byte| byte >> 4 == 6);
    let ethertype: u16 = if v6 { 0x86dd } else { 0x0800 };
    let mut out = vec![0, 0];
    out.extend(ethertype.to_be_bytes());
    out.extend(inner);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_frame_comes_up() {
        let frames = frames(&mut Rng::new(1), 2000);
        let count = |wanted: &dyn Fn(&[u8]) -> bool| frames.iter().filter(|f| wanted(f)).count();
        let ip = |frame: &[u8], version: u8, protocol: u8| {
            let at = if version == 4 { 23 } else { 20 };
            frame.get(ETHERNET).map(|byte| byte >> 4) == Some(version)
                && frame.get(at) == Some(&protocol)
        };
        for protocol in [proto::TCP, proto::UDP, proto::IPIP, proto::IPV6, 47] {
            for version in [4, 6] {
                let found = count(&|frame| ip(frame, version, protocol));
                assert!(found >= 10, "IPv{version} protocol {protocol}: {found}");
            }
        }
        assert!(count(&|frame| frame[12..14] == [0x81, 0]) >= 50, "VLAN");
        assert!(count(&|frame| frame[12..14] == [8, 6]) >= 10, "ARP");
        assert!(count(&|frame| ip(frame, 6, proto::FRAGMENT)) >= 10);
        assert!(count(&|frame| frame.len() < 34) >= 20, "short frames");
        assert!(count(&|frame| frame.len() > 1500) >= 20, "long frames");
        assert!(
            frames
                .iter()
                .all(|f| (ETHERNET..=MAX_FRAME).contains(&f.len()))
        );
    }
}

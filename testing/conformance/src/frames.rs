//! Frames that mean something: built field by field, then sometimes damaged.
//!
//! Everything here writes bytes itself and does not use the product's own header code: a generator that
//! shared its mistakes could not find them.

use crate::Rng;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// The kernel's test run takes no longer frames in one piece.
pub const MAX_FRAME: usize = 3520;

/// An address of either family, as the bytes in the header: 4 or 16.
pub type Address = Vec<u8>;

/// Who sends what to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address; its length decides the family.
    pub src: Address,
    /// Destination address of the same family.
    pub dst: Address,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Flow {
    /// The same in the other direction.
    #[must_use]
    pub fn reversed(&self) -> Flow {
        Flow {
            src: self.dst.clone(),
            dst: self.src.clone(),
            sport: self.dport,
            dport: self.sport,
        }
    }
}

/// Protocol numbers.
#[allow(missing_docs, reason = "the names say it")]
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
}

/// TCP flag bits.
#[allow(missing_docs, reason = "the names say it")]
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet frame around an IP packet, of the ethertype that its version asks for.
#[must_use]
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let ethertype: u16 = match packet.first().map(|byte| byte >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend(ethertype.to_be_bytes());
    out.extend(packet);
    out
}

/// An IP packet of the flow's family.
#[must_use]
pub fn ip(rng: &mut Rng, src: &[u8], dst: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    // Codepoints and ECN: the outer header copies them.
    let tos = if rng.percent(50) { 0 } else { rng.byte() };
    let ttl = *rng.pick(&[64, 64, 64, 1, 2, 255, 0]);
    if src.len() == 4 {
        ipv4(rng, [tos, ttl, protocol], src, dst, payload)
    } else {
        ipv6(rng, [tos, ttl, protocol], src, dst, payload)
    }
}

fn ipv4(
    rng: &mut Rng,
    [tos, ttl, protocol]: [u8; 3],
    src: &[u8],
    dst: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = vec![0x45, tos];
    header.extend(total.to_be_bytes());
    header.extend((rng.word() as u16).to_be_bytes());
    // Don't Fragment or nothing; fragments come by `damage`.
    header.extend(if rng.percent(50) { [0x40, 0] } else { [0, 0] });
    header.extend([ttl, protocol, 0, 0]);
    header.extend(&src[..4]);
    header.extend(&dst[..4]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

fn ipv6(
    rng: &mut Rng,
    [tos, ttl, protocol]: [u8; 3],
    src: &[u8],
    dst: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let flow = if rng.percent(50) {
        0
    } else {
        rng.word() as u32 & 0xf_ffff
    };
    let first = 6 << 28 | u32::from(tos) << 20 | flow;
    let mut header = first.to_be_bytes().to_vec();
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([protocol, ttl]);
    header.extend(src);
    header.extend(dst);
    header.extend(payload);
    header
}

/// A TCP segment with these options (padded to four bytes) and payload.
#[must_use]
pub fn tcp_segment(
    rng: &mut Rng,
    flow: &Flow,
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut padded = options.to_vec();
    padded.truncate(40);
    padded.resize(padded.len().next_multiple_of(4), 0);
    let mut out = ports(flow);
    out.extend(rng.bytes(8));
    out.push(((20 + padded.len()) as u8 / 4) << 4);
    out.push(flags);
    out.extend(rng.bytes(6));
    out.extend(padded);
    out.extend(payload);
    out
}

/// A UDP datagram. The checksum is any, sometimes zero: nobody checks it, but encapsulation uses it.
#[must_use]
pub fn udp_datagram(rng: &mut Rng, flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let mut out = ports(flow);
    out.extend(((8 + payload.len()) as u16).to_be_bytes());
    let sum = if rng.percent(20) {
        0
    } else {
        rng.word() as u16
    };
    out.extend(sum.to_be_bytes());
    out.extend(payload);
    out
}

fn ports(flow: &Flow) -> Vec<u8> {
    let mut out = flow.sport.to_be_bytes().to_vec();
    out.extend(flow.dport.to_be_bytes());
    out
}

/// An ICMP message: type, code, the four bytes after the checksum, body.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(rest);
    out.extend(body);
    let sum = checksum(&out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The payload of a QUIC packet with a long header of the given type bits (`0x00` Initial, `0x10` 0-RTT,
/// `0x20` Handshake, `0x30` Retry).
#[must_use]
pub fn quic_long(rng: &mut Rng, kind: u8, connection: &[u8]) -> Vec<u8> {
    let mut out = vec![0xc0 | kind | rng.byte() & 0x0f, 0, 0, 0, 1];
    out.push(connection.len() as u8);
    out.extend(connection);
    out.push(0);
    out.extend(rng.bytes(20));
    out
}

/// The payload of a QUIC packet with a short header.
#[must_use]
pub fn quic_short(rng: &mut Rng, connection: &[u8]) -> Vec<u8> {
    let mut out = vec![0x40 | rng.byte() & 0x3f];
    out.extend(connection);
    let more = rng.between(0, 30);
    out.extend(rng.bytes(more));
    out
}

/// A connection id that carries `server` in the way of katran's version 1, 2 or 3 (the top two bits).
#[must_use]
pub fn connection_id(rng: &mut Rng, version: u8, server: u32, len: usize) -> Vec<u8> {
    let mut id = rng.bytes(len.max(8));
    let [_, high, middle, low] = server.to_be_bytes();
    match version {
        1 => {
            let [upper, lower] = (server as u16).to_be_bytes();
            id[0] = 0x40 | upper >> 2;
            id[1] = upper << 6 | lower >> 2;
            id[2] = lower << 6 | id[2] & 0x3f;
        }
        2 => {
            id[0] = 0x80 | id[0] & 0x3f;
            id[1..4].copy_from_slice(&[high, middle, low]);
        }
        3 => {
            id[0] = 0xc0 | id[0] & 0x3f;
            id[1..5].copy_from_slice(&server.to_be_bytes());
        }
        _ => id[0] &= 0x3f,
    }
    id.truncate(len);
    id
}

/// Damages a frame in one of the ways frames get damaged, or made up by attackers.
pub fn damage(rng: &mut Rng, frame: &mut Vec<u8>) {
    match rng.below(8) {
        0 | 1 => truncate(rng, frame),
        2 => {
            for _ in 0..rng.between(1, 4) {
                let at = rng.below(frame.len());
                frame[at] ^= 1 << rng.below(8);
            }
        }
        3 => fragment(rng, frame),
        4 => ip_options(rng, frame),
        5 => lie_about_length(rng, frame),
        6 => {
            let at = rng.between(ETHERNET, frame.len().max(ETHERNET + 1) - 1);
            if let Some(byte) = frame.get_mut(at) {
                *byte = rng.byte();
            }
        }
        _ => {
            let more = rng.between(1, 64);
            let tail = rng.bytes(more);
            frame.extend(tail);
        }
    }
}

/// Cuts anywhere, most often among the headers.
fn truncate(rng: &mut Rng, frame: &mut Vec<u8>) {
    let end = if rng.percent(80) {
        frame.len().min(140)
    } else {
        frame.len()
    };
    let len = rng.between(ETHERNET, end.max(ETHERNET));
    frame.truncate(len);
}

fn fragment(rng: &mut Rng, frame: &mut [u8]) {
    let fields: [[u8; 2]; 6] = [
        [0x20, 0],
        [0, 1],
        [0x3f, 0xff],
        [0x20, 0x10],
        [0x80, 0],
        [0x60, 0],
    ];
    match frame.get(ETHERNET).map(|byte| byte >> 4) {
        Some(4) if frame.len() >= ETHERNET + 20 => {
            frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&fields[rng.below(6)]);
        }
        Some(6) if frame.len() >= ETHERNET + 40 => frame[ETHERNET + 6] = proto::FRAGMENT,
        _ => {}
    }
}

/// Another header length in IPv4; an extension header in IPv6.
fn ip_options(rng: &mut Rng, frame: &mut Vec<u8>) {
    match frame.get(ETHERNET).map(|byte| byte >> 4) {
        Some(4) => {
            let words = rng.between(0, 15) as u8;
            frame[ETHERNET] = 0x40 | words;
            if words > 5 && frame.len() >= ETHERNET + 20 {
                let options = rng.bytes(usize::from(words - 5) * 4);
                frame.splice(ETHERNET + 20..ETHERNET + 20, options);
            }
        }
        Some(6) if frame.len() >= ETHERNET + 40 => {
            let next = frame[ETHERNET + 6];
            frame[ETHERNET + 6] = *rng.pick(&[0, 43, 50, 51, 60, 135]);
            let extension = [next, 0, 1, 4, 0, 0, 0, 0];
            frame.splice(ETHERNET + 40..ETHERNET + 40, extension);
        }
        _ => {}
    }
}

/// A length in the IP header that is not the packet's.
fn lie_about_length(rng: &mut Rng, frame: &mut [u8]) {
    let at = match frame.get(ETHERNET).map(|byte| byte >> 4) {
        Some(4) => ETHERNET + 2,
        _ => ETHERNET + 4,
    };
    let any = rng.word() as u16;
    let lie = *rng.pick(&[0, 1, 19, 20, 40, 1500, 0x7fff, 0xffff, any]);
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&lie.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_carry_the_server() {
        let mut rng = Rng::new(1);
        let id = connection_id(&mut rng, 1, 0xabcd, 8);
        let server = u32::from(id[0] & 0x3f) << 10 | u32::from(id[1]) << 2 | u32::from(id[2]) >> 6;
        assert_eq!((id[0] >> 6, server), (1, 0xabcd));
        let id = connection_id(&mut rng, 2, 0x0012_3456, 9);
        assert_eq!(
            (id[0] >> 6, &id[1..4], id.len()),
            (2, &[0x12, 0x34, 0x56][..], 9)
        );
        let id = connection_id(&mut rng, 3, 0x8234_5678, 20);
        assert_eq!((id[0] >> 6, &id[1..5]), (3, &[0x82, 0x34, 0x56, 0x78][..]));
    }

    #[test]
    fn headers_sum_to_zero() {
        let mut rng = Rng::new(2);
        let packet = ip(
            &mut rng,
            &[10, 0, 0, 1],
            &[10, 0, 0, 2],
            proto::UDP,
            &[1, 2, 3],
        );
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(packet.len(), 23);
        assert_eq!(checksum(&icmp(8, 0, [1, 2, 3, 4], b"odd")), 0);
    }

    #[test]
    fn damage_keeps_frames_inside_the_kernels_limits() {
        let mut rng = Rng::new(3);
        for _ in 0..10_000 {
            let len = rng.between(0, 100);
            let payload = rng.bytes(len);
            let src = rng.bytes(16);
            let packet = ip(&mut rng, &src, &[1; 16], proto::TCP, &payload);
            let mut frame = ethernet(&packet);
            damage(&mut rng, &mut frame);
            assert!((ETHERNET..=MAX_FRAME).contains(&frame.len()));
        }
    }
}

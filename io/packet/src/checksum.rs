//! Completing transport checksums that a sender left to its card.
//!
//! Between interfaces of one machine the kernel leaves the checksum of TCP and UDP packets unfinished: the
//! field holds the sum of the pseudo header only, and the packet is marked. Whoever sends such a packet on
//! in another wrapping, as a balancer does, must finish it first.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Computes the TCP or UDP checksum of an Ethernet frame anew and stores it; false, and no change, if the
/// frame has none: other protocols, fragments, cut packets.
pub fn complete_checksum(frame: &mut [u8]) -> bool {
    let Some(segment) = find_segment(frame) else {
        return false;
    };
    let field = segment.start + if segment.protocol == TCP { 16 } else { 6 };
    let Some(stored) = frame
        .get_mut(field..field + 2)
        .filter(|_| field + 2 <= segment.end)
    else {
        return false;
    };
    stored.fill(0);
    let length = (segment.end - segment.start) as u32;
    let sum = segment.addresses + length + u32::from(segment.protocol);
    let mut checksum = !fold(sum + ones_sum(&frame[segment.start..segment.end]));
    if checksum == 0 && segment.protocol == UDP {
        // Zero would mean that there is none (RFC 768).
        checksum = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// A TCP or UDP segment in a frame.
struct Segment {
    start: usize,
    end: usize,
    protocol: u8,
    /// Sum of the addresses, for the pseudo header.
    addresses: u32,
}

fn find_segment(frame: &[u8]) -> Option<Segment> {
    let mut at = 12;
    let mut ethertype = be16(frame, at)?;
    while ETHERTYPES_VLAN.contains(&ethertype) {
        at += 4;
        ethertype = be16(frame, at)?;
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4_segment(frame, at + 2),
        ETHERTYPE_IPV6 => ipv6_segment(frame, at + 2),
        _ => None,
    }
}

fn ipv4_segment(frame: &[u8], at: usize) -> Option<Segment> {
    let header_len = usize::from(frame.get(at)? & 0x0f) * 4;
    let total_len = usize::from(be16(frame, at + 2)?);
    let fragment = be16(frame, at + 6)? & 0x3fff != 0;
    let protocol = *frame.get(at + 9)?;
    let known = matches!(protocol, TCP | UDP) && header_len >= 20 && !fragment;
    let addresses = ones_sum(frame.get(at + 12..at + 20)?);
    let (start, end) = (at + header_len, at + total_len);
    (known && start <= end && end <= frame.len()).then_some(Segment {
        start,
        end,
        protocol,
        addresses,
    })
}

fn ipv6_segment(frame: &[u8], at: usize) -> Option<Segment> {
    let payload_len = usize::from(be16(frame, at + 4)?);
    let addresses = ones_sum(frame.get(at + 8..at + 40)?);
    let end = at + 40 + payload_len;
    let mut protocol = *frame.get(at + 6)?;
    let mut start = at + 40;
    // Hop-by-hop options, routing and destination options may stand before the segment.
    while matches!(protocol, 0 | 43 | 60) {
        protocol = *frame.get(start)?;
        start += (usize::from(*frame.get(start + 1)?) + 1) * 8;
    }
    (matches!(protocol, TCP | UDP) && start <= end && end <= frame.len()).then_some(Segment {
        start,
        end,
        protocol,
        addresses,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Sum of 16-bit words, the last one padded with zero; no overflow below 128 KiB.
fn ones_sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let sum: u32 = words
        .by_ref()
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    sum + words
        .remainder()
        .first()
        .map_or(0, |byte| u32::from(*byte) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 UDP frame of RFC 1071's kind, with a checksum worked out by hand.
    fn udp4(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(((28 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x04, 0x00, 0x00, 0x50]);
        frame.extend(((8 + payload.len()) as u16).to_be_bytes());
        frame.extend([0xaa, 0xaa]);
        frame.extend(payload);
        frame
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([next, 64]);
        frame.extend((1..=32).collect::<Vec<u8>>());
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_known_sum() {
        let mut frame = udp4(&[]);
        assert!(complete_checksum(&mut frame));
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 0008 + 0400 + 0050 + 0008 = 1874
        assert_eq!(&frame[40..42], &(!0x1874_u16).to_be_bytes());
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        // The sum above plus this word is ffff.
        let mut frame = udp4(&(0xffff_u16 - 0x1874 - 2 * 2).to_be_bytes());
        assert!(complete_checksum(&mut frame));
        assert_eq!(&frame[40..42], &[0xff, 0xff]);
    }

    #[test]
    fn padding_behind_the_packet_does_not_count() {
        let mut padded = udp4(b"odd");
        let mut bare = padded.clone();
        padded.extend([0x77; 15]);
        assert!(complete_checksum(&mut padded) && complete_checksum(&mut bare));
        assert_eq!(padded[..bare.len()], bare);
    }

    #[test]
    fn tags_and_extension_headers_are_skipped() {
        let mut tcp = vec![0; 20];
        tcp[16] = 0xff;
        let mut plain = ipv6(TCP, &tcp);
        assert!(complete_checksum(&mut plain));

        let mut extended = vec![TCP, 0, 0, 0, 0, 0, 0, 0];
        extended.extend(&tcp);
        let mut frame = ipv6(60, &extended);
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert!(complete_checksum(&mut frame));
        assert_eq!(frame[frame.len() - 4..], plain[plain.len() - 4..]);
    }

    #[test]
    fn what_has_no_checksum_is_left_alone() {
        let mut fragment = udp4(b"data");
        fragment[20] = 0x20;
        let mut icmp = udp4(b"data");
        icmp[23] = 1;
        let mut cut = udp4(b"data");
        cut.truncate(44);
        let mut lying = udp4(b"");
        lying[17] = 24;
        let short = vec![0x08; 13];
        for frame in [fragment, icmp, cut, lying, short] {
            let mut after = frame.clone();
            assert!(!complete_checksum(&mut after));
            assert_eq!(after, frame);
        }
    }

    proptest! {
        /// With the checksum in place the whole segment and its pseudo header sum to ffff.
        #[test]
        fn a_completed_segment_verifies(payload in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let mut frame = udp4(&payload);
            prop_assert!(complete_checksum(&mut frame));
            let length = (frame.len() - 34) as u32;
            let sum = ones_sum(&frame[26..34]) + 17 + length + ones_sum(&frame[34..]);
            prop_assert_eq!(fold(sum), 0xffff);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            complete_checksum(&mut bytes);
        }
    }
}

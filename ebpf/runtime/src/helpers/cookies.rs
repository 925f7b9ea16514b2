//! SYN cookies: `bpf_tcp_raw_gen_syncookie_*` and `bpf_tcp_raw_check_syncookie_*`.
//!
//! A cookie is made as the kernel makes it: a hash of the connection, the minute, and which entry of a
//! small table the maximum segment size was rounded down to. The secret is the environment's, so cookies
//! are checked by whoever shares it, and by no kernel.

use squalus_isa::Errno;

use super::bytes;
use crate::siphash::siphash;
use crate::{ClockId, Env};

/// Segment sizes a cookie can express, by IP version.
const SIZES_V4: [u16; 4] = [536, 1300, 1440, 1460];
const SIZES_V6: [u16; 4] = [1220, 1420, 1440, 8940];
/// How many minutes a cookie is good for (`MAX_SYNCOOKIE_AGE`).
const MAX_AGE: u32 = 2;
const MINUTE_NS: u64 = 60_000_000_000;
/// Bits of a cookie below the minute (`COOKIEBITS`).
const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;

const TCP_HEADER: usize = 20;
const IPV4_HEADER: u64 = 20;
const IPV6_HEADER: u64 = 40;

helpers! {
    /// `bpf_tcp_raw_gen_syncookie_ipv4(ip, tcp, tcp_len)`: the cookie, and above it the segment size.
    fn tcp_raw_gen_syncookie_ipv4(env, ip, tcp, len) {
        // SAFETY: the module's contract: an IPv4 header, and as much TCP as the length says.
        let (ip, tcp) = unsafe { (bytes(ip, IPV4_HEADER), bytes(tcp, len)) };
        generate(env, &ip[12..20], tcp, SIZES_V4, 536)
    }

    /// `bpf_tcp_raw_gen_syncookie_ipv6(ip, tcp, tcp_len)`: the cookie, and above it the segment size.
    fn tcp_raw_gen_syncookie_ipv6(env, ip, tcp, len) {
        // SAFETY: the module's contract: an IPv6 header, and as much TCP as the length says.
        let (ip, tcp) = unsafe { (bytes(ip, IPV6_HEADER), bytes(tcp, len)) };
        generate(env, &ip[8..40], tcp, SIZES_V6, 1220)
    }

    /// `bpf_tcp_raw_check_syncookie_ipv4(ip, tcp)`: 0 if the segment acknowledges a fresh cookie.
    fn tcp_raw_check_syncookie_ipv4(env, ip, tcp) {
        // SAFETY: the module's contract: an IPv4 and a TCP header.
        let (ip, tcp) = unsafe { (bytes(ip, IPV4_HEADER), bytes(tcp, TCP_HEADER as u64)) };
        check(env, &ip[12..20], tcp)
    }

    /// `bpf_tcp_raw_check_syncookie_ipv6(ip, tcp)`: 0 if the segment acknowledges a fresh cookie.
    fn tcp_raw_check_syncookie_ipv6(env, ip, tcp) {
        // SAFETY: the module's contract: an IPv6 and a TCP header.
        let (ip, tcp) = unsafe { (bytes(ip, IPV6_HEADER), bytes(tcp, TCP_HEADER as u64)) };
        check(env, &ip[8..40], tcp)
    }
}

fn generate(env: &Env, addresses: &[u8], tcp: &[u8], sizes: [u16; 4], default: u16) -> u64 {
    if tcp.len() < TCP_HEADER || tcp.len() != usize::from(tcp[12] >> 4) * 4 {
        return Errno::EINVAL.as_return();
    }
    let wanted = segment_size(&tcp[TCP_HEADER..]).unwrap_or(default);
    let fitting = sizes.iter().rposition(|size| *size <= wanted);
    let entry = fitting.unwrap_or(0);
    let minute = minute(env);
    let flow = Flow::new(env, addresses, tcp);
    let cookie = flow
        .base(word(tcp, 4))
        .wrapping_add(minute << BITS)
        .wrapping_add(flow.hash(minute).wrapping_add(entry as u32) & MASK);
    u64::from(cookie) | u64::from(sizes[entry]) << 32
}

fn check(env: &Env, addresses: &[u8], tcp: &[u8]) -> u64 {
    let flow = Flow::new(env, addresses, tcp);
    let sequence = word(tcp, 4).wrapping_sub(1);
    let cookie = word(tcp, 8)
        .wrapping_sub(1)
        .wrapping_sub(flow.base(sequence));
    let minute = minute(env);
    let age = minute.wrapping_sub(cookie >> BITS) & (u32::MAX >> BITS);
    if age >= MAX_AGE {
        return Errno::EACCES.as_return();
    }
    let entry = cookie.wrapping_sub(flow.hash(minute.wrapping_sub(age))) & MASK;
    if entry as usize >= SIZES_V4.len() {
        return Errno::EACCES.as_return();
    }
    0
}

/// The maximum segment size among TCP options: the last one that is not 0, as in the kernel.
fn segment_size(mut options: &[u8]) -> Option<u16> {
    let mut size = None;
    loop {
        match *options {
            [1, ..] => options = &options[1..],
            [kind, len, ..] if kind != 0 && (2..=options.len()).contains(&len.into()) => {
                if kind == 2 && len == 4 {
                    let value = u16::from_be_bytes([options[2], options[3]]);
                    size = (value != 0).then_some(value).or(size);
                }
                options = &options[len.into()..];
            }
            _ => return size,
        }
    }
}

/// What tells one connection from another, and the secret.
struct Flow {
    secret: [u64; 2],
    /// Addresses (up to 32 bytes), ports, and room for a number.
    input: [u8; 40],
}

impl Flow {
    fn new(env: &Env, addresses: &[u8], tcp: &[u8]) -> Flow {
        let mut input = [0; 40];
        input[..addresses.len()].copy_from_slice(addresses);
        input[32..36].copy_from_slice(&tcp[..4]);
        Flow {
            secret: env.secret,
            input,
        }
    }

    fn hash(&self, number: u32) -> u32 {
        let mut input = self.input;
        input[36..].copy_from_slice(&number.to_le_bytes());
        siphash(self.secret, &input) as u32
    }

    /// What depends on the connection and the client's sequence number alone.
    fn base(&self, sequence: u32) -> u32 {
        // Minutes stay below this number for thousands of years.
        self.hash(u32::MAX).wrapping_add(sequence)
    }
}

fn minute(env: &Env) -> u32 {
    (env.clock.now(ClockId::Monotonic) / MINUTE_NS) as u32
}

fn word(tcp: &[u8], at: usize) -> u32 {
    let bytes = tcp[at..].first_chunk().expect("a TCP header has 20 bytes");
    u32::from_be_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{Clock, Rng};

    fn syn(size: u16) -> Vec<u8> {
        let mut tcp = vec![
            0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0, 0, 0, 0, 0, 0,
        ];
        tcp.extend([2, 4]);
        tcp.extend(size.to_be_bytes());
        tcp
    }

    /// The handshake's last segment for a cookie.
    fn ack(syn: &[u8], cookie: u32) -> Vec<u8> {
        let mut tcp = syn[..20].to_vec();
        tcp[4..8].copy_from_slice(&(word(syn, 4) + 1).to_be_bytes());
        tcp[8..12].copy_from_slice(&cookie.wrapping_add(1).to_be_bytes());
        tcp
    }

    #[test]
    fn a_cookie_is_good_for_its_connection_and_two_minutes() {
        let time = Arc::new(AtomicU64::new(5 * MINUTE_NS));
        let env = Env::new(0, Clock::Manual(Arc::clone(&time)), Rng::seeded(1));
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        let syn = syn(1450);
        let made = generate(&env, &addresses, &syn, SIZES_V4, 536);
        assert_eq!(made >> 32, 1440);
        let ack = ack(&syn, made as u32);
        assert_eq!(check(&env, &addresses, &ack), 0);

        let refused = Errno::EACCES.as_return();
        assert_eq!(check(&env, &[10, 0, 0, 9, 10, 0, 0, 2], &ack), refused);
        let mut other = ack.clone();
        other[10] ^= 1;
        assert_eq!(check(&env, &addresses, &other), refused);
        time.store(6 * MINUTE_NS, Ordering::Relaxed);
        assert_eq!(check(&env, &addresses, &ack), 0);
        time.store(7 * MINUTE_NS, Ordering::Relaxed);
        assert_eq!(check(&env, &addresses, &ack), refused);
    }

    #[test]
    fn options_are_read_as_far_as_they_are_well_formed() {
        assert_eq!(segment_size(&[1, 1, 2, 4, 5, 180, 0, 0]), Some(1460));
        assert_eq!(segment_size(&[0, 2, 4, 5, 180]), None);
        assert_eq!(segment_size(&[3, 1, 2, 4, 5, 180]), None);
        assert_eq!(segment_size(&[2, 4, 5, 180, 2, 4, 0, 0, 8]), Some(1460));
        assert_eq!(segment_size(&[2, 4, 5]), None);
    }
}

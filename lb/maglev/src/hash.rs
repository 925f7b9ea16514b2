//! The hashes behind the rings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// MurmurHash3 (x64, 128 bits) of the sixteen bytes `a` then `b`, of which the low half is returned.
///
/// All arithmetic wraps. `a` and `b` are what little-endian loads of the two halves give.
#[must_use]
pub const fn murmur3_x64_64(a: u64, b: u64, seed: u32) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    const LENGTH: u64 = 16;

    let k1 = a.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let k2 = b.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);

    let mut low = seed as u64;
    let mut high = seed as u64;
    low = (low ^ k1).rotate_left(27).wrapping_add(high);
    low = low.wrapping_mul(5).wrapping_add(0x52dc_e729);
    high = (high ^ k2).rotate_left(31).wrapping_add(low);
    high = high.wrapping_mul(5).wrapping_add(0x3849_5ab5);

    low ^= LENGTH;
    high ^= LENGTH;
    low = low.wrapping_add(high);
    high = high.wrapping_add(low);
    murmur_mix(low).wrapping_add(murmur_mix(high))
}

/// MurmurHash3's 64-bit finalizer.
const fn murmur_mix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

/// The hash of a real's address that orders reals and seeds their walks: folly's `IPAddress::hash()`.
///
/// An IPv4-mapped IPv6 address hashes as the IPv4 address, with which folly also compares it equal.
#[must_use]
pub fn real_hash(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => hash_v4(v4),
        IpAddr::V6(v6) => hash_v6(v6),
    }
}

/// `AF_INET`, which folly mixes into the hash of an IPv4 address.
const AF_INET: u64 = 2;
/// `AF_INET6` of Linux.
const AF_INET6: u64 = 10;

fn hash_v4(address: Ipv4Addr) -> u64 {
    combine(AF_INET, u64::from(fnv32_sign_extended(&address.octets())))
}

fn hash_v6(address: Ipv6Addr) -> u64 {
    let (first, second) = spooky_128(address.octets());
    combine(AF_INET6, combine(first, second))
}

/// FNV-1, except that bytes from 128 on are sign-extended before the exclusive or (folly keeps this old
/// mistake as `fnv32_buf_BROKEN`, because hashes made with it are stored in many places).
fn fnv32_sign_extended(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash: u32, &byte| {
        let extended = i32::from(byte.cast_signed()).cast_unsigned();
        hash.wrapping_mul(16_777_619) ^ extended
    })
}

/// folly's `hash_128_to_64`.
const fn combine(upper: u64, lower: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9ddf_ea08_eb38_2d69;
    let mut a = (lower ^ upper).wrapping_mul(MULTIPLIER);
    a ^= a >> 47;
    let mut b = (upper ^ a).wrapping_mul(MULTIPLIER);
    b ^= b >> 47;
    b.wrapping_mul(MULTIPLIER)
}

/// SpookyHash V2 of a message of exactly sixteen bytes, with both seeds zero: its path for short
/// messages, one mixing round and the end.
fn spooky_128(message: [u8; 16]) -> (u64, u64) {
    const FILL: u64 = 0xdead_beef_dead_beef;
    const MIX: [u32; 12] = [50, 52, 30, 41, 54, 48, 38, 37, 62, 34, 5, 36];
    const END: [u32; 11] = [15, 52, 26, 51, 28, 9, 47, 54, 32, 25, 63];

    let words = u128::from_le_bytes(message);
    let low = words as u64;
    let high = (words >> 64) as u64;
    let mut h = [0, 0, FILL.wrapping_add(low), FILL.wrapping_add(high)];

    for (step, &rotation) in MIX.iter().enumerate() {
        let at = (step + 2) % 4;
        h[at] = h[at].rotate_left(rotation).wrapping_add(h[(at + 1) % 4]);
        h[(at + 2) % 4] ^= h[at];
    }

    let length = (message.len() as u64) << 56;
    h[2] = h[2].wrapping_add(FILL);
    h[3] = h[3].wrapping_add(length).wrapping_add(FILL);

    for (step, &rotation) in END.iter().enumerate() {
        let (from, to) = ((step + 2) % 4, (step + 3) % 4);
        h[to] ^= h[from];
        h[from] = h[from].rotate_left(rotation);
        h[to] = h[to].wrapping_add(h[from]);
    }
    (h[0], h[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur_of_sixteen_bytes() {
        // The low half of MurmurHash3_x64_128("squalus acanthia", seed 2307) by the Python package mmh3.
        let half = |text: &[u8; 8]| u64::from_le_bytes(*text);
        let hash = murmur3_x64_64(half(b"squalus "), half(b"acanthia"), 2307);
        assert_eq!(hash, 0xc11e_0d0c_d2c9_fdb9);
    }

    #[test]
    fn fnv_agrees_with_fnv1_below_128_only() {
        let fnv1 = |bytes: &[u8]| {
            bytes.iter().fold(2_166_136_261u32, |h, &b| {
                h.wrapping_mul(16_777_619) ^ u32::from(b)
            })
        };
        assert_eq!(
            fnv32_sign_extended(&[10, 0, 0, 127]),
            fnv1(&[10, 0, 0, 127])
        );
        assert_eq!(
            fnv32_sign_extended(&[10, 0, 0, 128]),
            fnv1(&[10, 0, 0, 128]) ^ 0xffff_ff00
        );
    }

    #[test]
    fn mapped_address_hashes_as_v4() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(real_hash(v4), real_hash(mapped));
    }
}

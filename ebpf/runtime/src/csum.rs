//! Internet checksum arithmetic with the kernel's results, bit for bit.
//!
//! `csum_partial` works modulo 2^32 - 1 with end-around carry. Every residue but zero has one
//! representation, and zero stays `0` only if everything added was `0`, so any order of additions gives
//! the same 32 bits as the kernel's assembly.

/// The ones' complement sum of `bytes` and `seed`, over 32-bit little-endian words. A torn last word is
/// padded with zeros.
#[must_use]
pub fn csum_partial(bytes: &[u8], seed: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = u64::from(seed);
    for word in words {
        sum += u64::from(u32::from_le_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_le_bytes(last));
    while sum >> 32 != 0 {
        sum = (sum & 0xffff_ffff) + (sum >> 32);
    }
    sum as u32
}

/// `a - b` in ones' complement.
fn csum_sub(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(!b);
    sum + u32::from(carry)
}

/// Folds to 16 bits (`csum_from32to16`).
fn fold(sum: u32) -> u64 {
    u64::from(sum.wrapping_add(sum.rotate_right(16)) >> 16)
}

/// The difference that replacing `from` by `to` makes to a checksum, added to `seed` (`bpf_csum_diff`).
///
/// As since Linux 6.13: the result is folded to 16 bits, and lengths may be any (older kernels refused
/// those that are no multiple of four, with `EINVAL`).
#[must_use]
pub fn csum_diff(from: &[u8], to: &[u8], seed: u32) -> u64 {
    fold(match (from.is_empty(), to.is_empty()) {
        (false, false) => csum_sub(csum_partial(to, seed), csum_partial(from, 0)),
        (true, false) => csum_partial(to, seed),
        (false, true) => !csum_partial(from, !seed),
        (true, true) => seed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_ip_header_sums_to_its_checksum() {
        // The classic example header: its checksum field holds 0xb861.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        let sum = csum_diff(&[], &header, 0);
        let check = !(sum as u16);
        assert_eq!(check.to_le_bytes(), [0xb8, 0x61]);
        header[10..12].copy_from_slice(&check.to_le_bytes());
        assert_eq!(csum_diff(&[], &header, 0), 0xffff);
    }

    #[test]
    fn zero_has_two_forms_like_the_kernels() {
        assert_eq!(csum_diff(&[], &[0; 4], 0), 0);
        assert_eq!(csum_diff(&[1, 2, 3, 4], &[1, 2, 3, 4], 0), 0xffff);
        assert_eq!(csum_diff(&[], &[0xff; 4], 0), 0xffff);
        assert_eq!(csum_diff(&[], &[], 0x1_0001), 2);
    }

    #[test]
    fn replacing_equals_summing_anew() {
        let old = [1, 2, 3, 4, 200, 201, 202, 203];
        let new = [9, 8, 7, 6, 250, 1, 0, 77];
        let before = csum_diff(&[], &old, 0) as u32;
        assert_eq!(csum_diff(&old, &new, before), csum_diff(&[], &new, 0));
        assert_eq!(csum_diff(&old, &[], before) % 0xffff, 0);
    }

    #[test]
    fn torn_words_are_padded_with_zeros() {
        assert_eq!(csum_diff(&[], &[1, 2, 3], 0), 0x0204);
        assert_eq!(csum_diff(&[], &[1, 2, 3, 0, 5], 0), 0x0209);
    }
}

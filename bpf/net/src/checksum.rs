//! The Internet checksum (RFC 1071).

/// Checksum of some words as they are in memory; the result is to be stored as it is.
///
/// Words of 32 bits give the same sum as words of 16, since 2^16 is 1 modulo 2^16 - 1.
#[inline(always)]
pub fn internet_checksum<const N: usize>(words: &[u32; N]) -> u16 {
    let mut sum = 0_u64;
    for word in words {
        sum += u64::from(*word);
    }
    for _ in 0..4 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let mut words = [
            0x0012_0045_u32,
            0xfedc_ba98,
            0x0000_1140,
            0xc0a8_0101,
            0xffff_ffff,
        ];
        words[2] |= u32::from(internet_checksum(&words)) << 16;
        assert_eq!(internet_checksum(&words), 0);
    }
}

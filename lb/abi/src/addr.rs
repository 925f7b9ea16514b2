//! Ports and addresses, kept in network byte order.

use crate::layout::Layout;

/// A 16 bit number in network byte order, such as a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// Zero, which as a VIP's port means "any port".
    pub const ZERO: Self = Self(0);

    /// From a number in host order.
    #[inline(always)]
    pub const fn from_host(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From the two bytes as loaded from memory into an integer.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes of memory loaded as an integer. katran mixes this raw value into outer source addresses.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// An IP address in the 16 bytes that all of katran's structs reserve for it (`struct address`).
///
/// An IPv4 address takes the first four bytes and the others are zero, so the address alone does not tell its family.
/// The bytes are held as four 32 bit words because the packet path loads, stores and hashes words; each word is the
/// memory as it is, not converted to host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address {
    words: [u32; 4],
}

impl Address {
    /// All bytes zero.
    pub const ZERO: Self = Self { words: [0; 4] };

    /// From the words as they are in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// An IPv4 address from its word as it is in memory.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [word, 0, 0, 0],
        }
    }

    /// The words as they are in memory; an IPv4 address is the first one.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        &self.words
    }

    /// From the four bytes of an IPv4 address.
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// From the 16 bytes of an IPv6 address.
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }

    /// The first four bytes: an IPv4 address if this is one.
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.words[0].to_ne_bytes()
    }

    /// All 16 bytes: an IPv6 address if this is one.
    pub fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        self.write_to(&mut out);
        out
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

impl Layout for Be16 {
    const SIZE: usize = 2;

    fn write_to(&self, out: &mut [u8]) {
        self.0.write_to(out);
    }

    fn read_from(bytes: &[u8]) -> Self {
        Self(u16::read_from(bytes))
    }
}

impl Layout for Address {
    const SIZE: usize = 16;

    fn write_to(&self, out: &mut [u8]) {
        self.words.write_to(out);
    }

    fn read_from(bytes: &[u8]) -> Self {
        Self {
            words: <[u32; 4]>::read_from(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_port_is_stored_in_network_order() {
        let port = Be16::from_host(0x1234);
        assert_eq!(port.to_bytes::<2>(), Some([0x12, 0x34]));
        assert_eq!(port.to_host(), 0x1234);
        assert_eq!(Be16::from_raw(port.raw()), port);
    }

    #[test]
    fn addresses_keep_their_bytes() {
        let v4 = Address::from(IpAddr::V4(Ipv4Addr::new(10, 200, 1, 2)));
        assert_eq!(v4.v4_octets(), [10, 200, 1, 2]);
        assert_eq!(v4.octets()[4..], [0; 12]);
        let v6: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().expect("a valid literal");
        assert_eq!(Address::from(IpAddr::V6(v6)).octets(), v6.octets());
        assert_eq!(Address::from_words(*v4.words()), v4);
    }
}

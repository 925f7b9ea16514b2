//! Headers as they are on the wire.

use squalus_abi::{Address, Be16};

/// A header: any bytes are a value of it.
///
/// Headers have the alignment of their fields although packets align nothing. BPF loads and stores work at any
/// address (where the machine cannot do that, the kernel refuses the program), and a header declared as packed would
/// be read byte by byte.
///
/// # Safety
///
/// The type must have no padding and no invalid bit patterns.
pub unsafe trait Wire: Copy {}

macro_rules! headers {
    ($($(#[$meta:meta])* $name:ident[$size:literal] { $($(#[$field_meta:meta])* $field:ident: $ty:ty,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)+
        }

        // SAFETY: made of integers, and its size is that of its fields.
        unsafe impl Wire for $name {}

        const _: () = assert!(size_of::<$name>() == $size && $size == 0 $(+ size_of::<$ty>())+);
    )+};
}

headers! {
    /// A MAC address, as words in memory, which are fewer accesses than its bytes.
    Mac[6] {
        /// The words.
        words: [u16; 3],
    }

    /// Ethernet.
    Eth[14] {
        /// Destination.
        dst: Mac,
        /// Source.
        src: Mac,
        /// See [`ether_type`].
        ether_type: Be16,
    }

    /// IPv4 without options.
    Ipv4[20] {
        /// Version and header length in words.
        version_ihl: u8,
        /// Type of service: DSCP and ECN.
        tos: u8,
        /// Bytes of header and payload.
        total_len: Be16,
        /// Identification.
        id: Be16,
        /// Flags and fragment offset.
        frag_off: Be16,
        /// Time to live.
        ttl: u8,
        /// See [`ip_proto`].
        proto: u8,
        /// Header checksum.
        check: u16,
        /// Source, in network byte order.
        src: u32,
        /// Destination, in network byte order.
        dst: u32,
    }

    /// IPv6.
    Ipv6[40] {
        /// Version, traffic class and flow label.
        version_class_label: [u8; 4],
        /// Bytes after this header.
        payload_len: Be16,
        /// See [`ip_proto`].
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source.
        src: Address,
        /// Destination.
        dst: Address,
    }

    /// ICMP and ICMPv6.
    IcmpHeader[8] {
        /// See [`icmp`] and [`icmpv6`].
        kind: u8,
        /// Refines `kind`.
        code: u8,
        /// Checksum.
        check: u16,
        /// Depends on `kind`.
        rest: [Be16; 2],
    }

    /// TCP without options.
    TcpHeader[20] {
        /// Source port.
        src_port: Be16,
        /// Destination port.
        dst_port: Be16,
        /// Sequence number, in network byte order.
        seq: u32,
        /// Acknowledged number, in network byte order.
        ack: u32,
        /// Header length in words, in the upper half.
        data_offset: u8,
        /// FIN, SYN, RST, ...
        flags: u8,
        /// Window.
        window: Be16,
        /// Checksum.
        check: u16,
        /// Urgent pointer.
        urgent: Be16,
    }

    /// UDP.
    UdpHeader[8] {
        /// Source port.
        src_port: Be16,
        /// Destination port.
        dst_port: Be16,
        /// Bytes of header and payload.
        len: Be16,
        /// Checksum.
        check: u16,
    }
}

/// Some words as they are in memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Words<const N: usize>([u32; N]);

// SAFETY: integers.
unsafe impl<const N: usize> Wire for Words<N> {}

impl<const N: usize> Words<N> {
    /// All words.
    #[inline(always)]
    pub fn all(&self) -> [u32; N] {
        self.0
    }

    /// Replaces all words.
    #[inline(always)]
    pub fn set(&mut self, words: [u32; N]) {
        self.0 = words;
    }
}

// SAFETY: a byte.
unsafe impl Wire for u8 {}

// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}

impl Ipv4 {
    /// Bytes of the header, without options.
    pub const LEN: usize = size_of::<Self>();

    /// Whether the header has no options, judged by its length field alone.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.version_ihl & 0x0f == 5
    }

    /// Whether this is a fragment, the first one included.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.frag_off.raw() & 0x3fff_u16.to_be() != 0
    }
}

impl Ipv6 {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// Traffic class: DSCP and ECN.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        self.version_class_label[0] << 4 | self.version_class_label[1] >> 4
    }
}

impl Mac {
    /// The address in the first six bytes of a number.
    #[inline(always)]
    pub fn from_number(value: u64) -> Self {
        Self {
            words: [value as u16, (value >> 16) as u16, (value >> 32) as u16],
        }
    }
}

impl Eth {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
}

impl IcmpHeader {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
}

impl UdpHeader {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
}

impl TcpHeader {
    /// Whether SYN is set.
    #[inline(always)]
    pub fn syn(&self) -> bool {
        self.flags & 0x02 != 0
    }

    /// Whether RST is set.
    #[inline(always)]
    pub fn rst(&self) -> bool {
        self.flags & 0x04 != 0
    }
}

/// Ethernet types.
pub mod ether_type {
    use squalus_abi::Be16;

    /// IPv4.
    pub const IPV4: Be16 = Be16::from_host(0x0800);
    /// IPv6.
    pub const IPV6: Be16 = Be16::from_host(0x86dd);
}

/// IP protocols.
pub mod ip_proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// ICMP types and the codes of "destination unreachable".
pub mod icmp {
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Type: echo request.
    pub const ECHO: u8 = 8;
    /// Code: host unreachable.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Code: port unreachable.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Code: fragmentation needed.
    pub const FRAG_NEEDED: u8 = 4;
}

/// ICMPv6 types and the codes of "destination unreachable".
pub mod icmpv6 {
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Type: packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Type: echo request.
    pub const ECHO: u8 = 128;
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Code: address unreachable.
    pub const ADDR_UNREACHABLE: u8 = 3;
    /// Code: port unreachable.
    pub const PORT_UNREACHABLE: u8 = 4;
}

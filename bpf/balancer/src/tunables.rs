//! What can be set when the object is loaded: constants in `.rodata` under the names they have here.
//!
//! A loader writes the section's initial contents before the kernel freezes it; from then on the verifier knows each
//! value, and code that depends on one is reduced to what remains. The defaults are katran's.

use core::ptr::read_volatile;

use squalus_abi::consts;

macro_rules! tunables {
    ($($(#[$meta:meta])* $name:ident: $ty:ty = $default:expr;)+) => {
        mod rodata {
            #![allow(non_upper_case_globals, reason = "a tunable has one name, also in the object")]
            use super::consts;

            $(
                #[unsafe(no_mangle)]
                #[unsafe(link_section = ".rodata")]
                pub static $name: $ty = $default;
            )+
        }

        $(
            $(#[$meta])*
            #[inline(always)]
            pub fn $name() -> $ty {
                // SAFETY: a static; volatile, since its value at run time is not the one the compiler sees.
                unsafe { read_volatile(&raw const rodata::$name) }
            }
        )+
    };
}

tunables! {
    /// Longest frame to a VIP, in bytes with the Ethernet header.
    max_packet_size: u32 = consts::MAX_PACKET_SIZE;
    /// TTL and hop limit of outer headers and of ICMP answers.
    default_ttl: u8 = consts::DEFAULT_TTL;
    /// Whether the outer header gets the inner type of service or traffic class (1) or `default_tos` (0).
    copy_inner_tos: u8 = 1;
    /// Outer type of service or traffic class if the inner one is not copied.
    default_tos: u8 = 0;
    /// Age beyond which a UDP session is a miss, in nanoseconds.
    udp_timeout_ns: u64 = consts::LRU_UDP_TIMEOUT_NS;
    /// New connections a second and CPU before session inserts are skipped.
    max_conn_rate: u64 = consts::MAX_CONN_RATE;
    /// First two bytes of outer IPv4 sources, in the low half as they are in memory.
    ipip_v4_prefix: u32 = consts::IPIP_V4_PREFIX;
    /// First three words of outer IPv6 sources, as they are in memory.
    ipip_v6_prefix: [u32; 3] = consts::IPIP_V6_PREFIX;
}

/// Type of service or traffic class of the outer header.
#[inline(always)]
pub fn outer_tos(inner: u8) -> u8 {
    if copy_inner_tos() != 0 {
        inner
    } else {
        default_tos()
    }
}

//! The global counters: where they are in `stats` and what they count.

use crate::consts::MAX_VIPS;

macro_rules! counters {
    ($($(#[$meta:meta])* $variant:ident = $index:literal, $name:literal;)+) => {
        /// A global counter pair, found in `stats` at [`MAX_VIPS`] plus its number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum GlobalCounter {
            $($(#[$meta])* $variant = $index,)+
        }

        impl GlobalCounter {
            /// Every counter, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// katran's name for it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

counters! {
    /// v1: packets to VIPs that reached session lookup; v2: packets that the ring routed.
    LruCntrs = 0, "LRU_CNTRS";
    /// Session misses of TCP; v1: SYN; v2: other.
    LruMissCntr = 1, "LRU_MISS_CNTR";
    /// The rate guard, not a counter; v1: new connections in this window; v2: start of the window in nanoseconds.
    NewConnRateCntr = 2, "NEW_CONN_RATE_CNTR";
    /// v1: packets that used `fallback_cache`.
    FallbackLruCntr = 3, "FALLBACK_LRU_CNTR";
    /// ICMP "too big" sent; v1: IPv4; v2: IPv6.
    IcmpTooBigCntrs = 4, "ICMP_TOOBIG_CNTRS";
    /// Source routing; v1: miss; v2: hit.
    LpmSrcCntrs = 5, "LPM_SRC_CNTRS";
    /// v1: packets to an inline decapsulation address.
    RemoteEncapCntrs = 6, "REMOTE_ENCAP_CNTRS";
    /// Encapsulation failures; v1: IPv4 reals; v2: IPv6 reals.
    EncapFailCntr = 7, "ENCAP_FAIL_CNTR";
    /// v1: the CPU has no global session table; v2: packets it routed.
    GlobalLruCntr = 8, "GLOBAL_LRU_CNTR";
    /// v1: the ring's real is out of range; v2: the ring's slot is empty.
    ChDropStats = 9, "CH_DROP_STATS";
    /// Packets decapsulated; v1: outer IPv4; v2: outer IPv6, and every IPIP packet.
    DecapCntr = 10, "DECAP_CNTR";
    /// ICMP errors to QUIC VIPs; v1: all; v2: codes a QUIC server ignores.
    QuicIcmpStats = 11, "QUIC_ICMP_STATS";
    /// ICMPv6 "packet too big"; v1: all; v2: MTU below 1280.
    IcmpPtbV6Stats = 12, "ICMP_PTB_V6_STATS";
    /// ICMP "fragmentation needed"; v1: all; v2: MTU below 1280.
    IcmpPtbV4Stats = 13, "ICMP_PTB_V4_STATS";
    /// Packets balanced again after decapsulation; v1: inner IPv4; v2: inner IPv6.
    XpopDecapSuccessful = 14, "XPOP_DECAP_SUCCESSFUL";
    /// v1: UDP packets moved away from a real that is down.
    UdpFlowMigrationStats = 15, "UDP_FLOW_MIGRATION_STATS";
    /// All frames; v1: packets; v2: bytes.
    XdpTotalCntr = 16, "XDP_TOTAL_CNTR";
    /// Frames sent out; v1: packets; v2: bytes at entry.
    XdpTxCntr = 17, "XDP_TX_CNTR";
    /// Frames dropped; v1: packets; v2: bytes at entry.
    XdpDropCntr = 18, "XDP_DROP_CNTR";
    /// Frames passed up; v1: packets; v2: bytes at entry.
    XdpPassCntr = 19, "XDP_PASS_CNTR";
    /// Packets sent out after decapsulation; v1: inner IPv4; v2: inner IPv6.
    EgressDecapCntr = 20, "EGRESS_DECAP_CNTR";
    /// Reserved by katran and never counted.
    LpmVipCntr = 21, "LPM_VIP_CNTR";
}

impl GlobalCounter {
    /// The key in `stats`.
    #[inline(always)]
    pub const fn stats_index(self) -> u32 {
        MAX_VIPS + self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_numbered_without_gaps() {
        for (i, counter) in GlobalCounter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i, "{}", counter.name());
            assert_eq!(counter.stats_index() as usize, 512 + i);
        }
        assert_eq!(GlobalCounter::ALL.len(), 22);
    }
}

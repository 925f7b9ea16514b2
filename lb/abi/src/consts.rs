//! Constants of katran's default build (`balancer_consts.h`).

/// VIPs, and the position of the first global counter in `stats`.
pub const MAX_VIPS: u32 = 512;
/// VIPs that are IPv6 prefixes.
pub const MAX_CIDR_VIPS: u32 = 256;
/// Entries of `reals`. Index 0 is never a real.
pub const MAX_REALS: u32 = 4096;
/// Slots of a VIP's ring; prime.
pub const RING_SIZE: u32 = 65537;
/// Entries of `ch_rings`.
pub const CH_RINGS_SIZE: u32 = MAX_VIPS * RING_SIZE;
/// Entries of `stats`.
pub const STATS_MAP_SIZE: u32 = MAX_VIPS * 2;
/// Source routing rules of each family.
pub const MAX_LPM_SRC: u32 = 3_000_000;
/// Inline decapsulation addresses the control plane accepts.
pub const MAX_DECAP_DST: u32 = 6;
/// Entries of `server_id_map` as an array.
pub const MAX_QUIC_REALS: u32 = 0x00ff_fffe;
/// Entries of `server_id_map` as a hash.
pub const MAX_NUM_SERVER_IDS: u32 = 1 << 24;
/// Entries of `ctl_array`.
pub const CTL_MAP_SIZE: u32 = 16;
/// Entries of the maps with one inner map for each CPU.
pub const MAX_SUPPORTED_CPUS: u32 = 128;
/// Entries of `fallback_cache`.
pub const DEFAULT_LRU_SIZE: u32 = 1000;
/// Entries of `fallback_glru`.
pub const DEFAULT_GLOBAL_LRU_SIZE: u32 = 10000;
/// Entries of `subprograms`.
pub const SUBPROGRAMS_ARRAY_SIZE: u32 = 1;

/// Window of the new-connection rate guard, in nanoseconds.
pub const ONE_SEC_NS: u64 = 1_000_000_000;
/// Age beyond which a UDP session is a miss, in nanoseconds.
pub const LRU_UDP_TIMEOUT_NS: u64 = 30_000_000_000;
/// New connections a second and CPU before session inserts are skipped.
pub const MAX_CONN_RATE: u64 = 125_000;

/// TTL and hop limit of outer headers and of ICMP answers.
pub const DEFAULT_TTL: u8 = 64;
/// Longest frame to a VIP, in bytes with the Ethernet header.
pub const MAX_PACKET_SIZE: u32 = 1514;
/// ICMP "too big" messages with an MTU below this are counted apart.
pub const MIN_EXPECTED_MTU: u32 = 1280;
/// First two bytes of outer IPv4 sources, 172.16, as a word in memory.
pub const IPIP_V4_PREFIX: u32 = u16::from_ne_bytes([172, 16]) as u32;
/// First three words of outer IPv6 sources, 0100::/96, as they are in memory.
pub const IPIP_V6_PREFIX: [u32; 3] = [u32::from_ne_bytes([1, 0, 0, 0]), 0, 0];
/// Destination port of GUE.
pub const GUE_DPORT: u16 = 6080;

/// Seed of the flow hash.
pub const INIT_JHASH_SEED: u32 = CH_RINGS_SIZE;
/// Seed of the hash of an IPv6 client address.
pub const INIT_JHASH_SEED_V6: u32 = MAX_VIPS;

/// Shortest QUIC connection id that can carry a server id.
pub const QUIC_MIN_CONNID_LEN: u8 = 8;

/// `ctl_array`: MAC address of the default router.
pub const CTL_MAC_POS: u32 = 0;
/// `ctl_array`: the introspection gate; events are sent if it is not zero.
pub const CTL_INTROSPECTION_POS: u32 = 5;
/// `pckt_srcs`: this host's IPv4 address.
pub const V4_SRC_INDEX: u32 = 0;
/// `pckt_srcs`: this host's IPv6 address.
pub const V6_SRC_INDEX: u32 = 1;

/// Name of the balancer's program.
pub const BALANCER_PROGRAM: &str = "balancer_ingress";
/// Prefix of the names of the per-CPU session tables; the CPU's number follows.
pub const LRU_NAME_PREFIX: &str = "katran_lru";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_katrans_words() {
        assert_eq!(IPIP_V4_PREFIX, 4268);
        assert_eq!(IPIP_V6_PREFIX, [1, 0, 0]);
        assert_eq!(CH_RINGS_SIZE, 33_554_944);
        assert_eq!(MAX_QUIC_REALS, 16_777_214);
    }
}

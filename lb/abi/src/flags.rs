//! Flags of VIPs and reals.

/// VIP: the client's port is zeroed before session lookup and hash, so a client always meets the same real.
pub const VIP_HASH_NO_SRC_PORT: u32 = 1;
/// VIP: no session table lookup or update.
pub const VIP_LRU_BYPASS: u32 = 1 << 1;
/// VIP: route by the server id in QUIC connection ids.
pub const VIP_QUIC: u32 = 1 << 2;
/// VIP: hash the destination port alone.
pub const VIP_HASH_DPORT_ONLY: u32 = 1 << 3;
/// VIP: look up the client in the source routing tables first.
pub const VIP_SRC_ROUTING: u32 = 1 << 4;
/// VIP: deliver to a real on this host without encapsulation.
pub const VIP_LOCAL: u32 = 1 << 5;
/// VIP: look into the global session table after the CPU's own.
pub const VIP_GLOBAL_LRU: u32 = 1 << 6;
/// VIP for any port: the destination port stays in the session key and hash.
pub const VIP_HASH_SRC_DST_PORT: u32 = 1 << 7;
/// VIP: route UDP by the server id of the stable routing header.
pub const VIP_UDP_STABLE_ROUTING: u32 = 1 << 8;
/// VIP: move UDP flows away from reals marked down.
pub const VIP_UDP_FLOW_MIGRATION: u32 = 1 << 9;

/// Real: the address is IPv6. Follows from the address; callers cannot set it.
pub const REAL_IPV6: u8 = 1;
/// Real: it is this host.
pub const REAL_LOCAL: u8 = 1 << 1;

/// Value of `decap_dst`: send the decapsulated packet out again instead of balancing it.
pub const DECAP_EGRESS: u32 = 2;

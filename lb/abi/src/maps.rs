//! The maps of the balancer's program: name, type and sizes.

use crate::{
    Address, CtlValue, FlowDebugInfo, FlowKey, LbStats, QuicStats, RealDefinition, RealPosLru,
    StableRoutingStats, TprStats, V4LpmKey, V6LpmKey, VipDefinition, VipLpmKey, VipMeta, consts,
    layout::Layout,
};

/// Type of a map, with the kernel's number (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgArray = 3,
    /// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`.
    PerfEventArray = 4,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    ArrayOfMaps = 12,
    /// `BPF_MAP_TYPE_HASH_OF_MAPS`.
    HashOfMaps = 13,
}

/// The build of katran's program in which a map is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Every build.
    Always,
    /// `CIDR_VIP`.
    CidrVip,
    /// `LPM_SRC_LOOKUP`.
    LpmSrcLookup,
    /// `GLOBAL_LRU_LOOKUP`.
    GlobalLru,
    /// `KATRAN_INTROSPECTION`.
    Introspection,
    /// `INLINE_DECAP_IPIP` or `INLINE_DECAP_GUE`.
    InlineDecap,
    /// `GUE_ENCAP` or `DECAP_STRICT_DESTINATION`.
    PacketSources,
    /// `RECORD_FLOW_INFO`.
    FlowDebug,
}

/// Definition of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name. The kernel keeps 15 characters of it.
    pub name: &'static str,
    /// Type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, on each CPU if the map is per CPU.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_*` flags.
    pub flags: u32,
    /// The builds that have it.
    pub presence: Presence,
}

/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;

/// Names of the maps.
pub mod name {
    #![allow(missing_docs, reason = "each constant is the name it spells")]

    pub const VIP_MAP: &str = "vip_map";
    pub const VIP_LPM_MAP: &str = "vip_lpm_map";
    pub const FALLBACK_CACHE: &str = "fallback_cache";
    pub const LRU_MAPPING: &str = "lru_mapping";
    pub const CH_RINGS: &str = "ch_rings";
    pub const REALS: &str = "reals";
    pub const REALS_STATS: &str = "reals_stats";
    pub const LRU_MISS_STATS: &str = "lru_miss_stats";
    pub const VIP_MISS_STATS: &str = "vip_miss_stats";
    pub const STATS: &str = "stats";
    pub const QUIC_STATS_MAP: &str = "quic_stats_map";
    pub const STABLE_RT_STATS: &str = "stable_rt_stats";
    pub const TPR_STATS_MAP: &str = "tpr_stats_map";
    pub const DECAP_VIP_STATS: &str = "decap_vip_stats";
    pub const SERVER_ID_STATS: &str = "server_id_stats";
    pub const SERVER_ID_MAP: &str = "server_id_map";
    pub const LPM_SRC_V4: &str = "lpm_src_v4";
    pub const LPM_SRC_V6: &str = "lpm_src_v6";
    pub const GLOBAL_LRU_MAPS: &str = "global_lru_maps";
    pub const FALLBACK_GLRU: &str = "fallback_glru";
    pub const VIP_TO_DOWN_REALS_MAP: &str = "vip_to_down_reals_map";
    pub const CTL_ARRAY: &str = "ctl_array";
    pub const EVENT_PIPE: &str = "event_pipe";
    pub const DECAP_DST: &str = "decap_dst";
    pub const SUBPROGRAMS: &str = "subprograms";
    pub const PCKT_SRCS: &str = "pckt_srcs";
    pub const FLOW_DEBUG_MAPS: &str = "flow_debug_maps";
    /// Of the decapsulating program, not the balancer.
    pub const DECAP_COUNTERS: &str = "decap_counters";
}

/// All maps of the balancer's program.
pub const BALANCER: &[MapSpec] = &[
    map::<VipDefinition, VipMeta>(name::VIP_MAP, MapKind::Hash, consts::MAX_VIPS),
    map::<VipLpmKey, VipMeta>(name::VIP_LPM_MAP, MapKind::LpmTrie, consts::MAX_CIDR_VIPS)
        .sparse()
        .only(Presence::CidrVip),
    map::<FlowKey, RealPosLru>(
        name::FALLBACK_CACHE,
        MapKind::LruHash,
        consts::DEFAULT_LRU_SIZE,
    ),
    map::<u32, u32>(
        name::LRU_MAPPING,
        MapKind::ArrayOfMaps,
        consts::MAX_SUPPORTED_CPUS,
    ),
    map::<u32, u32>(name::CH_RINGS, MapKind::Array, consts::CH_RINGS_SIZE),
    map::<u32, RealDefinition>(name::REALS, MapKind::Array, consts::MAX_REALS),
    map::<u32, LbStats>(name::REALS_STATS, MapKind::PerCpuArray, consts::MAX_REALS),
    map::<u32, u32>(
        name::LRU_MISS_STATS,
        MapKind::PerCpuArray,
        consts::MAX_REALS,
    ),
    map::<u32, VipDefinition>(name::VIP_MISS_STATS, MapKind::Array, 1),
    map::<u32, LbStats>(name::STATS, MapKind::PerCpuArray, consts::STATS_MAP_SIZE),
    map::<u32, QuicStats>(name::QUIC_STATS_MAP, MapKind::PerCpuArray, 1),
    map::<u32, StableRoutingStats>(name::STABLE_RT_STATS, MapKind::PerCpuArray, 1),
    map::<u32, TprStats>(name::TPR_STATS_MAP, MapKind::PerCpuArray, 1),
    map::<u32, LbStats>(
        name::DECAP_VIP_STATS,
        MapKind::PerCpuArray,
        consts::MAX_VIPS,
    ),
    map::<u32, LbStats>(
        name::SERVER_ID_STATS,
        MapKind::PerCpuArray,
        consts::MAX_VIPS,
    ),
    map::<u32, u32>(name::SERVER_ID_MAP, MapKind::Array, consts::MAX_QUIC_REALS),
    map::<V4LpmKey, u32>(name::LPM_SRC_V4, MapKind::LpmTrie, consts::MAX_LPM_SRC)
        .sparse()
        .only(Presence::LpmSrcLookup),
    map::<V6LpmKey, u32>(name::LPM_SRC_V6, MapKind::LpmTrie, consts::MAX_LPM_SRC)
        .sparse()
        .only(Presence::LpmSrcLookup),
    map::<u32, u32>(
        name::GLOBAL_LRU_MAPS,
        MapKind::ArrayOfMaps,
        consts::MAX_SUPPORTED_CPUS,
    )
    .only(Presence::GlobalLru),
    map::<FlowKey, u32>(
        name::FALLBACK_GLRU,
        MapKind::LruHash,
        consts::DEFAULT_GLOBAL_LRU_SIZE,
    )
    .only(Presence::GlobalLru),
    map::<VipDefinition, u32>(
        name::VIP_TO_DOWN_REALS_MAP,
        MapKind::HashOfMaps,
        consts::MAX_VIPS,
    )
    .sparse(),
    map::<u32, CtlValue>(name::CTL_ARRAY, MapKind::Array, consts::CTL_MAP_SIZE),
    map::<u32, u32>(
        name::EVENT_PIPE,
        MapKind::PerfEventArray,
        consts::MAX_SUPPORTED_CPUS,
    )
    .only(Presence::Introspection),
    map::<Address, u32>(name::DECAP_DST, MapKind::Hash, consts::MAX_VIPS)
        .only(Presence::InlineDecap),
    map::<u32, u32>(
        name::SUBPROGRAMS,
        MapKind::ProgArray,
        consts::SUBPROGRAMS_ARRAY_SIZE,
    )
    .only(Presence::InlineDecap),
    map::<u32, RealDefinition>(name::PCKT_SRCS, MapKind::Array, 2).only(Presence::PacketSources),
    map::<u32, u32>(
        name::FLOW_DEBUG_MAPS,
        MapKind::ArrayOfMaps,
        consts::MAX_SUPPORTED_CPUS,
    )
    .only(Presence::FlowDebug),
];

/// A session table, as `lru_mapping` holds one for each CPU; the control plane chooses the entries.
pub const SESSION_TABLE: MapSpec = map::<FlowKey, RealPosLru>(
    consts::LRU_NAME_PREFIX,
    MapKind::LruHash,
    consts::DEFAULT_LRU_SIZE,
);

/// The set of a VIP's reals that are down, as `vip_to_down_reals_map` holds; a real's index is present or not.
pub const DOWN_REALS: MapSpec =
    map::<u32, u8>("down_reals", MapKind::Hash, consts::MAX_REALS).sparse();

/// A CPU's record of who encapsulated a flow, as `flow_debug_maps` holds.
pub const FLOW_DEBUG: MapSpec =
    map::<FlowKey, FlowDebugInfo>("flow_debug", MapKind::LruHash, consts::DEFAULT_LRU_SIZE)
        .only(Presence::FlowDebug);

/// The definition of the balancer's map `name`.
pub fn find(name: &str) -> Option<&'static MapSpec> {
    BALANCER.iter().find(|spec| spec.name == name)
}

const fn map<K: Layout, V: Layout>(name: &'static str, kind: MapKind, max_entries: u32) -> MapSpec {
    MapSpec {
        name,
        kind,
        key_size: K::SIZE as u32,
        value_size: V::SIZE as u32,
        max_entries,
        flags: 0,
        presence: Presence::Always,
    }
}

impl MapSpec {
    const fn sparse(mut self) -> Self {
        self.flags = NO_PREALLOC;
        self
    }

    const fn only(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_also_in_the_kernels_fifteen_characters() {
        for (i, a) in BALANCER.iter().enumerate() {
            for b in &BALANCER[i + 1..] {
                let cut = |name: &'static str| &name[..name.len().min(15)];
                assert_ne!(cut(a.name), cut(b.name));
            }
        }
    }

    #[test]
    fn sizes_are_those_of_katrans_loaded_maps() {
        let sizes = |name| find(name).map(|m| (m.key_size, m.value_size, m.max_entries, m.flags));
        assert_eq!(sizes("vip_map"), Some((20, 8, 512, 0)));
        assert_eq!(sizes("fallback_cache"), Some((40, 16, 1000, 0)));
        assert_eq!(sizes("ch_rings"), Some((4, 4, 33_554_944, 0)));
        assert_eq!(sizes("reals"), Some((4, 20, 4096, 0)));
        assert_eq!(sizes("quic_stats_map"), Some((4, 104, 1, 0)));
        assert_eq!(sizes("lpm_src_v6"), Some((20, 4, 3_000_000, 1)));
        assert_eq!(sizes("vip_to_down_reals_map"), Some((20, 4, 512, 1)));
        assert_eq!(sizes("no_such_map"), None);
    }
}

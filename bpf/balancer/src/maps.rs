//! The maps of katran's default build. Names, types, sizes and layouts are its interface with the control plane.
#![allow(
    non_upper_case_globals,
    reason = "the names of the maps are katran's, and a map has one name"
)]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, HashOfMaps, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use squalus_abi::{
    CtlValue, FlowKey, LbStats, QuicStats, RealDefinition, RealPosLru, StableRoutingStats,
    TprStats, VipDefinition, VipMeta, consts,
};

const MAX_VIPS: usize = consts::MAX_VIPS as usize;
const MAX_REALS: usize = consts::MAX_REALS as usize;
const MAX_CPUS: usize = consts::MAX_SUPPORTED_CPUS as usize;
const LRU_SIZE: usize = consts::DEFAULT_LRU_SIZE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Flow to real. The control plane makes one for each forwarding CPU, of a size of its choice.
pub type SessionTable = LruHashMap<FlowKey, RealPosLru, LRU_SIZE>;
/// Indices of reals that are down; the value means nothing.
pub type DownReals = HashMap<u32, u8, MAX_REALS, NO_PREALLOC>;

#[btf_map]
pub static vip_map: HashMap<VipDefinition, VipMeta, MAX_VIPS> = HashMap::new();

/// The session table of CPUs that have no own.
#[btf_map]
pub static fallback_cache: SessionTable = LruHashMap::new();

#[btf_map]
pub static lru_mapping: ArrayOfMaps<SessionTable, MAX_CPUS> = ArrayOfMaps::new();

#[btf_map]
pub static ch_rings: Array<u32, { consts::CH_RINGS_SIZE as usize }> = Array::new();

#[btf_map]
pub static reals: Array<RealDefinition, MAX_REALS> = Array::new();

#[btf_map]
pub static reals_stats: PerCpuArray<LbStats, MAX_REALS> = PerCpuArray::new();

#[btf_map]
pub static lru_miss_stats: PerCpuArray<u32, MAX_REALS> = PerCpuArray::new();

#[btf_map]
pub static vip_miss_stats: Array<VipDefinition, 1> = Array::new();

#[btf_map]
pub static stats: PerCpuArray<LbStats, { consts::STATS_MAP_SIZE as usize }> = PerCpuArray::new();

#[btf_map]
pub static quic_stats_map: PerCpuArray<QuicStats, 1> = PerCpuArray::new();

#[btf_map]
pub static stable_rt_stats: PerCpuArray<StableRoutingStats, 1> = PerCpuArray::new();

#[btf_map]
pub static tpr_stats_map: PerCpuArray<TprStats, 1> = PerCpuArray::new();

#[btf_map]
pub static decap_vip_stats: PerCpuArray<LbStats, MAX_VIPS> = PerCpuArray::new();

#[btf_map]
pub static server_id_stats: PerCpuArray<LbStats, MAX_VIPS> = PerCpuArray::new();

#[btf_map]
pub static server_id_map: Array<u32, { consts::MAX_QUIC_REALS as usize }> = Array::new();

#[btf_map]
pub static vip_to_down_reals_map: HashOfMaps<VipDefinition, DownReals, MAX_VIPS, NO_PREALLOC> =
    HashOfMaps::new();

#[btf_map]
pub static ctl_array: Array<CtlValue, { consts::CTL_MAP_SIZE as usize }> = Array::new();

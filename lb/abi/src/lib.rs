//! What the balancer's programs and its control plane must agree on, byte for byte: the layouts of map keys and
//! values, map names and sizes, flags and counter positions.
//!
//! Everything here equals katran's data plane (its `balancer_structs.h`, `balancer_maps.h` and `balancer_consts.h`),
//! so that katran's object runs under this control plane and this project's object under katran's. The BPF programs
//! depend on this crate by path; there is no second definition.
//!
//! Integers are little-endian as on every host the programs run on. What is in network byte order on the wire stays
//! in network byte order in memory, and has a type that says so: [`Be16`] for ports, [`Address`] for IP addresses.
//!
//! The structs have no implicit padding: unused bytes are fields, so a value is fully initialised and its bytes can be
//! a map key. [`Layout::to_bytes`] and [`Layout::from_bytes`] convert without `unsafe`.

#![no_std]
#![forbid(unsafe_code)]

mod addr;
pub mod consts;
pub mod counters;
pub mod flags;
mod layout;
pub mod maps;
mod structs;

pub use addr::{Address, Be16};
pub use counters::GlobalCounter;
pub use layout::Layout;
pub use structs::{
    CtlValue, DecapCounters, EventMetadata, FlowDebugInfo, FlowKey, HcDstKey, HcKey, HcReal,
    HcStats, LbStats, QuicStats, RealDefinition, RealPosLru, StableRoutingStats, TprStats,
    V4LpmKey, V6LpmKey, VipDefinition, VipLpmKey, VipMeta,
};

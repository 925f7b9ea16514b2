//! The balancer's state, and what each change of it means for the maps of the program.
//!
//! [`Balancer`] is pure: it opens nothing, waits for nothing and knows neither eBPF nor sockets. A change
//! either fails and leaves everything as it was, or returns [`MapOp`]s (map name, key bytes, value bytes)
//! that whoever holds the loaded object applies in order. If the object refuses one of them,
//! [`Balancer::undo`] takes the change back.
//!
//! Behaviour is katran's (`KatranLb`), down to its numbering: VIP numbers are handed out first in first
//! out from 0 and freed ones appended, indices of reals likewise from 1 (0 means "none" in the maps), and
//! a real shared by several VIPs or server ids has one index as long as anything refers to it. That makes
//! rings, counters and recorded sessions comparable between the two. Differences, all on purpose:
//!
//! - A VIP is identified by its address, not by how the address was spelled.
//! - A real twice in one batch takes one reference; katran leaks one.
//! - Changing the hash function keeps reals of weight 0 out of the ring; katran's V1 lets them in.
#![forbid(unsafe_code)]

mod balancer;
mod error;
mod journal;
mod op;
mod reals;
mod server_ids;
mod types;
mod vip;

pub use balancer::Balancer;
pub use error::CoreError;
pub use op::MapOp;
pub use squalus_maglev::{HashFunction, RingError, RingSize};
pub use types::{
    Action, Change, Config, Mac, NewReal, RealNum, RealOfVip, ServerId, Sources, VipKey, VipNum,
    parse_address,
};

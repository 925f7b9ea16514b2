//! The host's routes and neighbours, as programs ask for them with `bpf_fib_lookup`.
//!
//! In the kernel the helper looks into the host's own tables. In userspace nobody can ask them per packet,
//! so this crate keeps a copy: [`Tables`] are the facts as netlink tells them (or as a test makes them up),
//! a [`Snapshot`] is those facts arranged for lookups, and a [`Watcher`] publishes a new snapshot whenever
//! the host's tables change. A snapshot is behind the host by the few milliseconds that takes.
//!
//! Answers are the kernel's, error for error, with these limits, all of which netlink does not show:
//! - Path MTUs that were learned from ICMP, and routes cached for them.
//! - Which of several equal paths a flow takes: any of them is chosen by a hash of our own.
//! - VRFs: their tables are only found by rules or by number.
//! - Whether there ever was a policy rule besides the default ones; see [`Snapshot::new`].
#![forbid(unsafe_code)]

mod facts;
mod prefixes;
mod reader;
mod route4;
mod route6;
mod rules;
mod snapshot;
mod source;
mod watch;
mod wire;

pub use facts::{
    Address, Inet, Inet6, Link, Neighbour, NextHop, Prefix, Route, Rule, RuleAction, Tables,
};
pub use reader::{FibError, Reader};
pub use snapshot::Snapshot;
pub use watch::Watcher;

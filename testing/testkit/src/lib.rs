//! Hosts on one machine: network namespaces, links, HTTP and raw traffic for tests and the demo.
//!
//! Namespaces here have no name. Each is held by a descriptor of this process, so that whatever ends the
//! process, `kill -9` included, the kernel removes them with their links, routes, sockets and XDP
//! programs: nothing is left to clean up, by construction.

mod cpu;
mod error;
pub mod http;
mod lab;
mod link;
mod netns;
pub mod traffic;

pub use cpu::stay_on_this_cpu;
pub use error::TestkitError;
pub use lab::{Host, Lab, LabOptions};
pub use link::{
    Cidr, LinkCounters, LinkEnd, add_addresses, add_neighbour, add_route, connect, counters, sysctl,
};
pub use netns::{Namespace, Rights, enter_user_namespace};

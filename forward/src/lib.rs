//! An object on interfaces, in userspace: engine and ports in one loop.
//!
//! A worker is a thread with a CPU number of its own (so its own values in per-CPU maps), and one or several
//! ports, each with its own memory. It takes a burst from a port, runs the program on it in place, and does
//! with each frame what the program said:
//!
//! ```text
//!   whoever holds the maps ──┐
//!                            v
//!   port ──> burst ──> program ──> port | host | another interface | dropped (counted by reason)
//!    └──────────── worker n, pinned to core cores[n] ────────────┘
//! ```
//!
//! Workers share the maps and the code and nothing else. They write their counters where any thread can
//! read them ([`Forwarder::reports`]). The packet loop neither allocates nor locks nor logs.
//!
//! Nothing here knows what the program is for. The balancer's user backend is one user, `squalus prog attach`
//! another; a third needs no more than this:
//!
//! ```no_run
//! use squalus_forward::{Forwarder, Options, PortOptions};
//! use squalus_vm::{Object, VmBuilder};
//!
//! let object = Object::parse(&std::fs::read("filter.o")?)?;
//! let vm = VmBuilder::new(squalus_vm::for_host(object)?).build()?;
//! let mut forwarder = Forwarder::new(vm, "filter", Options::default())?;
//! for port in forwarder.attach(&[PortOptions::everything("eth0")])? {
//!     println!("{port}");
//! }
//! std::thread::sleep(std::time::Duration::from_secs(60));
//! println!("{:?}", forwarder.reports());
//! forwarder.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod forwarder;
mod opener;
mod outlets;
mod ports;
mod redirect;
mod report;
mod worker;

pub use error::ForwardError;
pub use forwarder::{Forwarder, Options, PortAndPool};
pub use opener::{HostInterfaces, Interfaces};
pub use ports::{OpenPorts, PortOptions, open};
pub use redirect::Sockets;
pub use report::{LaneReport, RedirectDrop, WorkerReport};
pub use worker::Idle;

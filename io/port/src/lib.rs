//! Frames and ports: how packets come and go.
//!
//! A [`Port`] gives and takes bursts of frames; a [`Pool`] is the memory they live in. This crate holds
//! what all ports share (the pool, the [`Port`] trait, what a port says about itself, errors) and the two
//! ports that need nothing of the system: an in-memory one and one that reads and writes captures, so
//! that a file can stand in for the network card. It knows nothing of eBPF or of load balancing.
//!
//! # Run to completion
//!
//! One worker owns one pool and one port (one queue of one interface) and repeats:
//!
//! ```text
//!  recv ──> burst of frames ──> program, in place ──┬─ send   out of the same port, same memory
//!    ^                                              ├─ pass   to the host's stack
//!    └──────────── pool.free  <─────────────────────┴─ free   dropped
//! ```
//!
//! A frame is a handle of eight bytes that names a chunk of the pool and the range of the chunk that holds
//! the packet. The packet may start anywhere in its chunk: a program that encapsulates moves the start
//! towards the beginning of the chunk, and the port sends from there. Nothing is copied between `recv`
//! and `send`, and nothing is allocated.
//!
//! # Who holds a chunk
//!
//! Every chunk is in exactly one of three hands: free in the pool, held by a worker as a [`Frame`], or
//! lent to a port's rings. The pool keeps one byte for each chunk that says which. Handles can be neither
//! cloned nor forged, and a chunk that a ring hands back without having been lent is refused, so two
//! frames never share memory. Letting a [`Frame`] go out of scope without freeing or sending it loses its
//! chunk for as long as the pool lives; it does no other harm.

mod burst;
mod capture;
mod error;
mod info;
mod interface;
mod memory;
mod pcap;
mod pool;
mod port;
mod umem;

pub use burst::{BURST, Burst};
pub use capture::{Capture, CaptureWriter, Captured};
pub use error::PortError;
pub use info::{HostPath, PortInfo, PortMode, PortRequest, PortState, PortStats};
pub use interface::{Interface, MacAddr};
pub use memory::{MemoryPort, Wire};
pub use pcap::{PcapConfig, PcapPort};
pub use pool::{DEFAULT_HEADROOM, Frame, FrameBounds, FrameSize, Pool, PoolConfig};
pub use port::Port;
pub use umem::Umem;

//! AF_XDP ports: bursts of frames from a queue of a network card into our memory, past the host's stack.
//!
//! A [`Steering`] program on the interface decides which frames come; each [`AfXdpPort`] is the socket of one
//! receive queue:
//!
//! ```text
//!              interface ── steering program ──┬── not to a VIP ──> the host's stack
//!                                              └── queue n ──> port n ──┬── sent out again
//!                                                                       ├── passed ──> tap ──> stack
//!                                                                       └── dropped
//! ```
//!
//! Memory and rings are our own, on top of libc. The published crates each bring their own packet type and
//! allocator, tied to their sockets; here all ports of a worker share one [`squalus_port::Pool`], so that a
//! frame received on one can leave through another without a copy, and its headroom is the whole 256 bytes
//! that the kernel leaves.
//!
//! Chunks of AF_XDP are at most a page. For longer frames a port takes a pool with longer chunks
//! ([`squalus_port::FrameSize::Jumbo`]) and copies once more, since they come in pieces (`XDP_USE_SG`).
//!
//! On virtual Ethernet the card does nothing: frames come with whatever checksum the sender left to it, and
//! AF_XDP, unlike AF_PACKET, does not tell. Turn offloads off at the sending end
//! ([`squalus_port::Interface::disable_offloads`]).

mod attached;
mod bpf;
mod port;
mod reinject;
mod rings;
mod socket;
mod staging;
mod steer;

pub use attached::{AttachedProgram, attached_program};
pub use port::{AfXdpConfig, AfXdpPort};
pub use reinject::Reinjection;
pub use steer::{AttachMode, Filter, MAX_VIPS, Steering, frame_size};

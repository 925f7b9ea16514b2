//! AF_PACKET and tap ports.
//!
//! AF_PACKET needs no BPF rights and works on every Ethernet interface; it is what remains when AF_XDP is
//! refused. It differs from AF_XDP in one way that matters: the port gets *copies*. The host's stack
//! sees every frame too, whatever the program says of it:
//!
//! * `PASS` needs no work ([`squalus_port::HostPath::Already`]), unless the program has changed the frame:
//!   such a frame goes through a tap or a veth pair, if the port has one
//!   ([`PacketPort::with_host_path`]). The host then gets both, the frame as it came and as it is.
//! * `DROP` cannot keep the host from seeing the frame, and `TX` cannot keep the host from handling it as
//!   well. For traffic to a VIP the host must therefore have nothing to do with it: no VIP on any of its
//!   interfaces, and `net.ipv4.ip_forward` (and `net.ipv6.conf.all.forwarding`) 0, so that it drops
//!   what is not its own without a word. Echo requests to the host's own addresses are answered twice, by
//!   the program and by the host.
//!
//! Frames between interfaces of one machine (veth) may carry unfinished checksums or be longer than the
//! MTU, since a card was to complete or cut them. The port completes checksums that the kernel marks as
//! unfinished; it counts and drops frames longer than a frame of its pool. [`disable_offloads`] on the
//! sender's interface avoids both.

mod changed;
mod checksum;
mod messages;
mod packet;
mod sys;
mod tap;

pub use checksum::complete_checksum;
pub use packet::{Fanout, PacketConfig, PacketPort};
pub use tap::{TapConfig, TapPort};

use squalus_port::{Interface, PortError};

/// Turns an interface's segmentation, aggregation, checksum and VLAN offloads off
/// ([`Interface::disable_offloads`]).
///
/// # Errors
/// Without `CAP_NET_ADMIN`, or if there is no such interface.
pub fn disable_offloads(interface: &str) -> Result<(), PortError> {
    Interface::by_name(interface)?.disable_offloads()
}

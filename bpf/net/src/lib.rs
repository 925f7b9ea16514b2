//! Frames, headers and checksums, for programs that run as BPF.
//!
//! The kernel's verifier accepts a packet access only after a comparison of that very pointer with the end of the
//! frame. [`Frame`] is the one place that makes this comparison; what it hands out are references to headers that
//! lie within the frame.

#![no_std]

mod checksum;
mod frame;
mod headers;
mod verdict;

pub use checksum::internet_checksum;
pub use frame::{Frame, Xdp};
pub use headers::{
    Eth, IcmpHeader, Ipv4, Ipv6, Mac, TcpHeader, UdpHeader, Wire, Words, ether_type, icmp, icmpv6,
    ip_proto,
};
pub use verdict::{Step, Verdict};

/// There is no panic in these programs: everything that could is checked, and the linker drops this function.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

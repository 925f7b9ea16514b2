//! The balancer: sends packets for a VIP to one of its reals, encapsulated, and the same real for a flow's life.
//!
//! What it does with a frame, the layout of its maps and each counter equal katran's `balancer_ingress`, oddities
//! included, so either side of the system can be exchanged for katran's. The steps, in order, with their modules:
//!
//! ```text
//! frame -> parse -> icmp -> vip -> session table -> quic -> session -> ring -> encap -> XDP_TX
//!            |        |      |                                |          |
//!          drop    answer   pass                             hit       miss
//! ```
//!
//! A step returns what the next one needs or the verdict that ends the processing ([`Step`]). Each step is compiled
//! twice, for IPv4 and IPv6 (`const V6`), and all of it is inlined into one program. What can be set at load is in
//! [`tunables`]; the verifier knows those values and drops code that they make unreachable.

#![no_std]
#![no_main]

mod balance;
mod counters;
mod encap;
mod hash;
mod icmp;
mod maps;
mod packet;
mod parse;
mod quic;
mod ring;
mod session;
mod tunables;
mod vip;

use aya_ebpf::bindings::xdp_md;
use squalus_abi::GlobalCounter;
use squalus_bpf_net::{Eth, Step, Verdict, Xdp, ether_type};

/// Entry point; the name is katran's.
///
/// # Safety
///
/// To be called by the kernel or an engine as an XDP program, with its context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn balancer_ingress(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the caller vouches for the context.
    let xdp = unsafe { Xdp::new(ctx) };
    run(xdp).unwrap_or_else(|verdict| verdict) as u32
}

/// Counts the frame, before and after it is processed. A frame without an Ethernet header is not counted.
#[inline(always)]
fn run(xdp: Xdp) -> Step<Verdict> {
    let frame = xdp.frame();
    let ether_type = frame.header::<Eth>(0)?.ether_type;
    let bytes = frame.len();
    counters::add(GlobalCounter::XdpTotalCntr, 1, bytes)?;
    let verdict = match ether_type {
        ether_type::IPV4 => balance::process::<false>(xdp),
        ether_type::IPV6 => balance::process::<true>(xdp),
        _ => Verdict::Pass,
    };
    counters::add(
        match verdict {
            Verdict::Tx => GlobalCounter::XdpTxCntr,
            Verdict::Drop => GlobalCounter::XdpDropCntr,
            Verdict::Pass => GlobalCounter::XdpPassCntr,
        },
        1,
        bytes,
    )?;
    Ok(verdict)
}

/// Some helpers are only for programs whose licence is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

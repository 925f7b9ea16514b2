//! Decapsulation on a real server, for hosts whose kernel has no IPIP device.
//!
//! Takes the outer header off IPv4 in IPv4, IPv4 in IPv6 and IPv6 in IPv6 and passes the inner packet up as if it had
//! come that way; the host needs the VIP on an interface that does not answer ARP, usually `lo`. Everything else is
//! passed up untouched. The inner TTL stays as it is.
//!
//! With `any_destination` set to 0 at load, only packets whose outer destination is in `decap_dst` are decapsulated.

#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use squalus_abi::{Address, Be16, DecapCounters};
use squalus_bpf_net::{Eth, Frame, Ipv4, Ipv6, Step, Verdict, Xdp, ether_type, ip_proto};

/// What was done; `tpr_*` stay zero.
#[btf_map(name = "decap_counters")]
static COUNTERS: PerCpuArray<DecapCounters, 1> = PerCpuArray::new();

/// Outer destinations to decapsulate if `any_destination` is 0. The values mean nothing.
#[btf_map(name = "decap_dst")]
static DESTINATIONS: HashMap<Address, u32, 512> = HashMap::new();

/// Whether to decapsulate whatever the outer destination is.
#[unsafe(export_name = "any_destination")]
#[unsafe(link_section = ".rodata")]
static ANY_DESTINATION: u8 = 1;

/// Entry point; the name is that of katran's program for the same task.
///
/// # Safety
///
/// To be called by the kernel or an engine as an XDP program, with its context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn xdpdecap(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the caller vouches for the context.
    let xdp = unsafe { Xdp::new(ctx) };
    match run(xdp) {
        Ok(()) => Verdict::Pass as u32,
        Err(verdict) => verdict as u32,
    }
}

#[inline(always)]
fn run(xdp: Xdp) -> Step<()> {
    let counters = COUNTERS.get_ptr_mut(0).ok_or(Verdict::Pass)?;
    // SAFETY: a per-CPU value, which no other run on this CPU interrupts.
    let counters = unsafe { &mut *counters };
    counters.total += 1;

    let mut frame = xdp.frame();
    let eth = *frame.get::<Eth>(0).ok_or(Verdict::Pass)?;
    match eth.ether_type {
        ether_type::IPV4 => {
            outer_v4(&frame)?;
            strip::<{ Ipv4::LEN }>(xdp, &mut frame, eth, ether_type::IPV4)?;
            counters.decap_v4 += 1;
        }
        ether_type::IPV6 => {
            let inner = outer_v6(&frame)?;
            strip::<{ Ipv6::LEN }>(xdp, &mut frame, eth, inner)?;
            counters.decap_v6 += 1;
        }
        _ => {}
    }
    Ok(())
}

/// Goes on only if the packet is IPv4 in IPv4 and for this host.
#[inline(always)]
fn outer_v4(frame: &Frame) -> Step<()> {
    let ip = frame.get::<Ipv4>(Eth::LEN).ok_or(Verdict::Pass)?;
    if ip.proto != ip_proto::IPIP || !ip.is_plain() || ip.is_fragment() {
        return Err(Verdict::Pass);
    }
    for_this_host(Address::from_v4_word(ip.dst))?;
    frame
        .get::<Ipv4>(Eth::LEN + Ipv4::LEN)
        .map(|_| ())
        .ok_or(Verdict::Pass)
}

/// Goes on only if the packet is IP in IPv6 and for this host; tells the inner Ethernet type.
#[inline(always)]
fn outer_v6(frame: &Frame) -> Step<Be16> {
    let ip = frame.get::<Ipv6>(Eth::LEN).ok_or(Verdict::Pass)?;
    let (inner, complete) = match ip.next_header {
        ip_proto::IPIP => (
            ether_type::IPV4,
            frame.get::<Ipv4>(Eth::LEN + Ipv6::LEN).is_some(),
        ),
        ip_proto::IPV6 => (
            ether_type::IPV6,
            frame.get::<Ipv6>(Eth::LEN + Ipv6::LEN).is_some(),
        ),
        _ => return Err(Verdict::Pass),
    };
    for_this_host(ip.dst)?;
    if complete {
        Ok(inner)
    } else {
        Err(Verdict::Pass)
    }
}

#[inline(always)]
fn for_this_host(dst: Address) -> Step<()> {
    // SAFETY: a static; volatile, since its value at run time is not the one the compiler sees.
    let any = unsafe { read_volatile(&raw const ANY_DESTINATION) };
    if any != 0 || DESTINATIONS.get_ptr(dst).is_some() {
        Ok(())
    } else {
        Err(Verdict::Pass)
    }
}

/// Cuts the outer header out, moving the Ethernet header next to the inner one.
#[inline(always)]
fn strip<const OUTER: usize>(xdp: Xdp, frame: &mut Frame, eth: Eth, inner: Be16) -> Step<()> {
    *frame.header_mut::<Eth>(OUTER)? = Eth {
        ether_type: inner,
        ..eth
    };
    xdp.shrink_head(OUTER as i32).map(|_| ())
}

/// Some helpers are only for programs whose licence is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

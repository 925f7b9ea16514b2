//! The helpers themselves. Numbers, limits and error values are those of Linux 6.18.
//!
//! All have one signature and one contract, stated here once.
//!
//! # Safety
//! `env` must point to the running worker's [`Env`] whose frame is live and used by nobody else. Every
//! argument must be what the helper's [`Proto`](crate::Proto) says: map arguments point to live maps,
//! memory arguments to as many readable or writable bytes as the following length or the map's definition
//! says. Pointers returned from maps are valid until the worker's next quiescent point.
#![allow(clippy::missing_safety_doc, reason = "the contract is the module's")]

use core::slice;

use squalus_isa::{Errno, Verdict};
use squalus_maps::Map;

use crate::{ClockId, Env, MAX_TAIL_CALLS, csum};

/// The environment behind a helper's first argument.
///
/// # Safety
/// As the module's contract; the reference must not outlive the helper.
unsafe fn env<'a>(env: *mut Env) -> &'a mut Env {
    // SAFETY: the caller passes the worker's live environment, which only this helper uses now.
    unsafe { &mut *env }
}

/// Memory of `len` bytes, which may be null if there are none.
///
/// # Safety
/// `address` must be readable for `len` bytes.
unsafe fn bytes<'a>(address: u64, len: u64) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller promises that the range is readable.
    unsafe { slice::from_raw_parts(address as *const u8, len as usize) }
}

fn outcome(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.as_return(),
    }
}

/// `bpf_ktime_get_ns`.
pub unsafe extern "C" fn ktime_get_ns(e: *mut Env, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.clock.now(ClockId::Monotonic)
}

/// `bpf_ktime_get_boot_ns`.
pub unsafe extern "C" fn ktime_get_boot_ns(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.clock.now(ClockId::Boot)
}

/// `bpf_ktime_get_coarse_ns`.
pub unsafe extern "C" fn ktime_get_coarse_ns(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.clock.now(ClockId::Coarse)
}

/// `bpf_ktime_get_tai_ns`.
pub unsafe extern "C" fn ktime_get_tai_ns(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.clock.now(ClockId::Tai)
}

/// `bpf_get_prandom_u32`.
pub unsafe extern "C" fn get_prandom_u32(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.rng.next_u32().into()
}

/// `bpf_get_smp_processor_id`: the worker's number.
pub unsafe extern "C" fn get_smp_processor_id(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.cpu.into()
}

/// `bpf_get_numa_node_id`.
pub unsafe extern "C" fn get_numa_node_id(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.numa_node.into()
}

/// `bpf_tail_call` called as a function: always fails. Engines replace the call by their own jump.
pub unsafe extern "C" fn tail_call(_: *mut Env, _: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    Errno::EINVAL.as_return()
}

/// `bpf_csum_diff(from, from_size, to, to_size, seed)`.
pub unsafe extern "C" fn csum_diff(
    _: *mut Env,
    from: u64,
    from_size: u64,
    to: u64,
    to_size: u64,
    seed: u64,
) -> u64 {
    // SAFETY: the module's contract; sizes are 32-bit arguments.
    let (from, to) = unsafe {
        (
            bytes(from, from_size & 0xffff_ffff),
            bytes(to, to_size & 0xffff_ffff),
        )
    };
    csum::csum_diff(from, to, seed as u32)
}

/// `bpf_xdp_adjust_head(ctx, delta)`.
pub unsafe extern "C" fn xdp_adjust_head(
    e: *mut Env,
    _: u64,
    delta: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract: the environment's frame is live and ours.
    outcome(unsafe { env(e).frame.adjust_head(delta as i32) })
}

/// `bpf_xdp_adjust_tail(ctx, delta)`.
pub unsafe extern "C" fn xdp_adjust_tail(
    e: *mut Env,
    _: u64,
    delta: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract: the environment's frame is live and ours.
    outcome(unsafe { env(e).frame.adjust_tail(delta as i32) })
}

/// `bpf_xdp_adjust_meta(ctx, delta)`.
pub unsafe extern "C" fn xdp_adjust_meta(
    e: *mut Env,
    _: u64,
    delta: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    outcome(unsafe { env(e) }.frame.adjust_meta(delta as i32))
}

/// `bpf_xdp_get_buff_len(ctx)`.
pub unsafe extern "C" fn xdp_get_buff_len(
    e: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.frame.len() as u64
}

/// `bpf_xdp_load_bytes(ctx, offset, to, len)`.
pub unsafe extern "C" fn xdp_load_bytes(
    e: *mut Env,
    _: u64,
    offset: u64,
    to: u64,
    len: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    let part = unsafe { env(e) }.frame.part(offset as u32, len as u32);
    outcome(part.map(|from| {
        // SAFETY: `from` has `len` packet bytes; `to` is writable for `len` by the module's contract. They
        // may overlap when the program copies within the packet.
        unsafe { core::ptr::copy(from, to as *mut u8, len as u32 as usize) };
    }))
}

/// `bpf_xdp_store_bytes(ctx, offset, from, len)`.
pub unsafe extern "C" fn xdp_store_bytes(
    e: *mut Env,
    _: u64,
    offset: u64,
    from: u64,
    len: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    let part = unsafe { env(e) }.frame.part(offset as u32, len as u32);
    outcome(part.map(|to| {
        // SAFETY: `to` has `len` packet bytes; `from` is readable for `len` by the module's contract. They
        // may overlap when the program copies within the packet.
        unsafe { core::ptr::copy(from as *const u8, to, len as u32 as usize) };
    }))
}

/// `bpf_redirect(ifindex, flags)`: no flags exist for XDP, any of them aborts.
pub unsafe extern "C" fn redirect(
    e: *mut Env,
    ifindex: u64,
    flags: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    if flags != 0 {
        return Verdict::Aborted as u64;
    }
    // SAFETY: the module's contract.
    unsafe { env(e) }.redirect_ifindex = ifindex as u32;
    Verdict::Redirect as u64
}

/// `bpf_trace_printk(format, size, ...)`: counted, not formatted. Returns the format's length.
pub unsafe extern "C" fn trace_printk(
    e: *mut Env,
    _: u64,
    size: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    unsafe { env(e) }.trace_lines += 1;
    (size & 0xffff_ffff).saturating_sub(1)
}

/// The map in a register.
///
/// # Safety
/// `address` must be a live map's, as the module's contract says of map arguments.
unsafe fn map<'a>(address: u64) -> &'a Map {
    // SAFETY: the caller's; maps outlive every run that can reach them.
    unsafe { &*(address as *const Map) }
}

/// `bpf_map_lookup_elem(map, key)`: the value's address, the inner map's in maps of maps, or 0.
pub unsafe extern "C" fn map_lookup_elem(
    e: *mut Env,
    m: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    let value = unsafe { map(m).lookup(key as *const u8, env(e).cpu) };
    value.expose_provenance() as u64
}

/// `bpf_map_update_elem(map, key, value, flags)`.
pub unsafe extern "C" fn map_update_elem(
    e: *mut Env,
    m: u64,
    key: u64,
    value: u64,
    flags: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    outcome(unsafe { map(m).update(key as *const u8, value as *const u8, flags, env(e).cpu) })
}

/// `bpf_map_delete_elem(map, key)`.
pub unsafe extern "C" fn map_delete_elem(
    _: *mut Env,
    m: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    outcome(unsafe { map(m).delete(key as *const u8) })
}

/// `bpf_map_lookup_percpu_elem(map, key, cpu)`: the value's address, or 0.
pub unsafe extern "C" fn map_lookup_percpu_elem(
    _: *mut Env,
    m: u64,
    key: u64,
    cpu: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    let value = unsafe { map(m).lookup_percpu(key as *const u8, cpu as u32) };
    value.expose_provenance() as u64
}

/// Decides a tail call to entry `index` of the program array `m`: 1 and [`Env::next_program`] set if it
/// happens, 0 if the program just goes on (no such entry, or the 34th tail call of this run).
///
/// Not a helper of the kernel's: engines call it in place of `bpf_tail_call`.
pub unsafe extern "C" fn resolve_tail_call(
    e: *mut Env,
    _ctx: u64,
    m: u64,
    index: u64,
    _: u64,
    _: u64,
) -> u64 {
    // SAFETY: the module's contract.
    let (env, map) = unsafe { (env(e), map(m)) };
    match map.program(index as u32) {
        Some(program) if env.tail_calls < MAX_TAIL_CALLS => {
            env.tail_calls += 1;
            env.next_program = program;
            1
        }
        _ => 0,
    }
}

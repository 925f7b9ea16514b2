//! The packet: its limits, copies in and out, checksums.

use super::{bytes, outcome};
use crate::csum;

helpers! {
    /// `bpf_csum_diff(from, from_size, to, to_size, seed)`.
    fn csum_diff(_, from, from_size, to, to_size, seed) {
        // SAFETY: the module's contract.
        let (from, to) = unsafe { (bytes(from, from_size), bytes(to, to_size)) };
        csum::csum_diff(from, to, seed as u32)
    }

    /// `bpf_xdp_adjust_head(ctx, delta)`.
    fn xdp_adjust_head(env, _, delta) {
        // SAFETY: the module's contract: the environment's frame is live and ours.
        outcome(unsafe { env.frame_mut().adjust_head(delta as i32) })
    }

    /// `bpf_xdp_adjust_tail(ctx, delta)`.
    fn xdp_adjust_tail(env, _, delta) {
        // SAFETY: the module's contract: the environment's frame is live and ours.
        outcome(unsafe { env.frame_mut().adjust_tail(delta as i32) })
    }

    /// `bpf_xdp_adjust_meta(ctx, delta)`.
    fn xdp_adjust_meta(env, _, delta) {
        // SAFETY: the module's contract: the environment's frame is live and ours.
        outcome(unsafe { env.frame_mut() }.adjust_meta(delta as i32))
    }

    /// `bpf_xdp_get_buff_len(ctx)`.
    fn xdp_get_buff_len(env) {
        // SAFETY: the module's contract: the environment's frame is live.
        unsafe { env.frame() }.len() as u64
    }

    /// `bpf_xdp_load_bytes(ctx, offset, to, len)`.
    fn xdp_load_bytes(env, _, offset, to, len) {
        // SAFETY: the module's contract: the environment's frame is live.
        let part = unsafe { env.frame() }.part(offset as u32, len as u32);
        outcome(part.map(|from| {
            // SAFETY: `from` has `len` packet bytes; `to` is writable for `len` by the module's contract.
            // They may overlap when the program copies within the packet.
            unsafe { core::ptr::copy(from, to as *mut u8, len as u32 as usize) };
        }))
    }

    /// `bpf_xdp_store_bytes(ctx, offset, from, len)`.
    fn xdp_store_bytes(env, _, offset, from, len) {
        // SAFETY: the module's contract: the environment's frame is live.
        let part = unsafe { env.frame() }.part(offset as u32, len as u32);
        outcome(part.map(|to| {
            // SAFETY: `to` has `len` packet bytes; `from` is readable for `len` by the module's contract.
            // They may overlap when the program copies within the packet.
            unsafe { core::ptr::copy(from as *const u8, to, len as u32 as usize) };
        }))
    }
}

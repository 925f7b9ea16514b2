//! Events for the control plane: perf buffers and ring buffers.

use core::slice;

use squalus_isa::Errno;

use super::maps::map;
use super::{bytes, outcome};

/// The bits of the flags that choose the entry (`BPF_F_INDEX_MASK`); all set for this CPU's.
const INDEX_MASK: u64 = 0xffff_ffff;
/// The bits that say how many packet bytes follow (`BPF_F_CTXLEN_MASK`).
const PACKET_MASK: u64 = 0xf_ffff << 32;

helpers! {
    /// `bpf_perf_event_output(ctx, map, flags, data, size)`: the data, and after it the start of the packet,
    /// as much as the flags say.
    fn perf_event_output(env, _, m, flags, data, size) {
        if flags & !(INDEX_MASK | PACKET_MASK) != 0 {
            return Errno::EINVAL.as_return();
        }
        let packet = ((flags & PACKET_MASK) >> 32) as usize;
        // SAFETY: the module's contract: the environment's frame is live, and nobody changes it meanwhile.
        let frame = unsafe { env.frame() };
        if packet > frame.len() {
            return Errno::EFAULT.as_return();
        }
        // SAFETY: the module's contract: readable data, and a live frame whose packet is as long as checked
        // above. Nobody writes to either meanwhile.
        let (map, data, packet) = unsafe {
            (map(m), bytes(data, size), slice::from_raw_parts(frame.data(), packet))
        };
        let Some(events) = map.perf() else {
            return Errno::EINVAL.as_return();
        };
        outcome(events.output((flags & INDEX_MASK) as u32, env.cpu, &[data, packet]))
    }

    /// `bpf_ringbuf_output(map, data, size, flags)`.
    fn ringbuf_output(_, m, data, size, flags) {
        // SAFETY: the module's contract.
        let (map, data) = unsafe { (map(m), bytes(data, size)) };
        let ring = map.ring().ok_or(Errno::EINVAL);
        outcome(ring.and_then(|ring| ring.output(data, flags)))
    }

    /// `bpf_ringbuf_reserve(map, size, flags)`: the record's address, or 0 if there is no room. The run
    /// holds the record until it submits or discards it.
    fn ringbuf_reserve(env, m, size, flags) {
        // SAFETY: the module's contract.
        let ring = unsafe { map(m) }.ring();
        let Some(ring) = ring.filter(|_| flags == 0 && env.held.has_room()) else {
            return 0;
        };
        let record = ring.reserve(size).expose_provenance() as u64;
        if record != 0 {
            env.held.reserved(record, size, m);
        }
        record
    }

    /// `bpf_ringbuf_submit(record, flags)`.
    fn ringbuf_submit(env, record, flags) {
        if let Some(held) = env.held.released(record) {
            // SAFETY: the map is the one that gave the record out, which only this run holds.
            unsafe {
                if let Some(ring) = map(held.map).ring() {
                    ring.submit(record as *mut u8, flags);
                }
            }
        }
        0
    }

    /// `bpf_ringbuf_discard(record, flags)`.
    fn ringbuf_discard(env, record, flags) {
        if let Some(held) = env.held.released(record) {
            // SAFETY: the map is the one that gave the record out, which only this run holds.
            unsafe {
                if let Some(ring) = map(held.map).ring() {
                    ring.discard(record as *mut u8, flags);
                }
            }
        }
        0
    }

    /// `bpf_ringbuf_query(map, what)`.
    fn ringbuf_query(_, m, what) {
        // SAFETY: the module's contract.
        unsafe { map(m) }.ring().map_or(0, |ring| ring.query(what))
    }
}

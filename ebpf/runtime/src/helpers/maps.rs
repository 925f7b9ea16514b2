//! Maps: lookups, changes, tail calls.

use squalus_isa::Errno;
use squalus_maps::Map;

use super::outcome;
use crate::MAX_TAIL_CALLS;

/// The map in a register.
///
/// # Safety
/// `address` must be a live map's, as the contract of helpers says of map arguments.
pub(super) unsafe fn map<'a>(address: u64) -> &'a Map {
    // SAFETY: the caller's; maps outlive every run that can reach them.
    unsafe { &*(address as *const Map) }
}

helpers! {
    /// `bpf_map_lookup_elem(map, key)`: the value's address, the inner map's in maps of maps, or 0.
    fn map_lookup_elem(env, m, key) {
        // SAFETY: the module's contract.
        let value = unsafe { map(m).lookup(key as *const u8, env.cpu) };
        value.expose_provenance() as u64
    }

    /// `bpf_map_update_elem(map, key, value, flags)`.
    fn map_update_elem(env, m, key, value, flags) {
        // SAFETY: the module's contract.
        outcome(unsafe { map(m).update(key as *const u8, value as *const u8, flags, env.cpu) })
    }

    /// `bpf_map_delete_elem(map, key)`.
    fn map_delete_elem(_, m, key) {
        // SAFETY: the module's contract.
        outcome(unsafe { map(m).delete(key as *const u8) })
    }

    /// `bpf_map_lookup_percpu_elem(map, key, cpu)`: the value's address, or 0.
    fn map_lookup_percpu_elem(_, m, key, cpu) {
        // SAFETY: the module's contract.
        let value = unsafe { map(m).lookup_percpu(key as *const u8, cpu as u32) };
        value.expose_provenance() as u64
    }

    /// `bpf_map_push_elem(map, value, flags)`.
    fn map_push_elem(_, m, value, flags) {
        // SAFETY: the module's contract.
        outcome(unsafe { map(m).push(value as *const u8, flags) })
    }

    /// `bpf_map_pop_elem(map, value)`.
    fn map_pop_elem(_, m, value) {
        // SAFETY: the module's contract.
        outcome(unsafe { map(m).pop(value as *mut u8) })
    }

    /// `bpf_map_peek_elem(map, value)`.
    fn map_peek_elem(_, m, value) {
        // SAFETY: the module's contract.
        outcome(unsafe { map(m).peek(value as *mut u8) })
    }

    /// `bpf_tail_call` called as a function: always fails. Engines replace the call by their own jump.
    fn tail_call(_) { Errno::EINVAL.as_return() }

    /// Decides a tail call to entry `index` of the program array `m`: 1 and
    /// [`Env::next_program`](crate::Env::next_program) set if it happens, 0 if the program just goes on (no
    /// such entry, or the 34th tail call of this run).
    ///
    /// Not a helper of the kernel's: engines call it in place of `bpf_tail_call`.
    fn resolve_tail_call(env, _ctx, m, index) {
        // SAFETY: the module's contract.
        match unsafe { map(m) }.program(index as u32) {
            Some(program) if env.tail_calls < MAX_TAIL_CALLS => {
                env.tail_calls += 1;
                env.next_program = program;
                1
            }
            _ => 0,
        }
    }
}

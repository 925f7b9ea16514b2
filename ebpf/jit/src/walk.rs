//! Walks over maps for compiled code.

use squalus_maps::Map;
use squalus_runtime::{Env, Walk};

/// Begins a walk over a map: 0, or what the helper returns.
///
/// # Safety
/// Called by compiled code with the address of a map that it checked, and of room for a walk.
pub(crate) unsafe extern "C" fn begin_walk(
    _env: *mut Env,
    map: *const Map,
    flags: u64,
    walk: *mut Walk,
) -> u64 {
    // SAFETY: the caller's.
    match Walk::new(unsafe { &*map }, flags) {
        Ok(begun) => {
            // SAFETY: the caller's.
            unsafe { walk.write(begun) };
            0
        }
        Err(errno) => errno.as_return(),
    }
}

/// Goes to the next element of a walk: 1, or 0 if there is none.
///
/// # Safety
/// As [`begin_walk`], which began the walk; `env` is the running environment.
pub(crate) unsafe extern "C" fn next_element(
    env: *mut Env,
    map: *const Map,
    walk: *mut Walk,
    frame: u64,
) -> u64 {
    // SAFETY: the caller's; nobody else uses environment and walk while compiled code waits.
    let (env, map, walk) = unsafe { (&mut *env, &*map, &mut *walk) };
    walk.next(map, env, frame as usize).into()
}

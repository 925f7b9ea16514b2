//! Spin locks in map values.

use crate::TrapReason;

helpers! {
    /// `bpf_spin_lock(lock)`: waits until nobody else holds it. A run holds one lock at most, and no helper
    /// but the next one is called meanwhile.
    fn spin_lock(env, lock) {
        if env.held.is_locked() {
            env.trap = TrapReason::SpinLock as u32;
            return 0;
        }
        // SAFETY: the module's contract: a `struct bpf_spin_lock` of a live map's value, which programs and
        // the control side use as nothing else.
        unsafe { squalus_maps::spin_lock(lock as *mut u8) };
        env.held.lock = lock;
        0
    }

    /// `bpf_spin_unlock(lock)`.
    fn spin_unlock(env, lock) {
        if env.held.lock != lock {
            env.trap = TrapReason::SpinLock as u32;
            return 0;
        }
        // SAFETY: this run has taken the lock and not given it back.
        unsafe { squalus_maps::spin_unlock(lock as *mut u8) };
        env.held.lock = 0;
        0
    }
}

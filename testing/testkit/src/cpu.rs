//! Where a thread runs.

/// Keeps the calling thread, and those it starts from now on, on the CPU that it is on.
///
/// Between the ends of a veth the sender's CPU carries frames all the way. A sender that moved in between could have
/// them arrive in another order, and meet another CPU's session table. Where pinning is forbidden nothing happens.
pub fn stay_on_this_cpu() {
    // SAFETY: a `cpu_set_t` is an array of integers, for which all bits zero is a value (no CPU). The set lives across
    // the call and has the size given; thread 0 is the caller.
    unsafe {
        let mut only: libc::cpu_set_t = std::mem::zeroed();
        let cpu = libc::sched_getcpu();
        if (0..8 * size_of_val(&only) as i32).contains(&cpu) {
            libc::CPU_SET(cpu as usize, &mut only);
            libc::sched_setaffinity(0, size_of_val(&only), &raw const only);
        }
    }
}

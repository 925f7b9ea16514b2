//! Time, randomness, and where the program runs.

use crate::ClockId;

helpers! {
    /// `bpf_ktime_get_ns`.
    fn ktime_get_ns(env) {
        if env.burst_time != 0 {
            return env.burst_time;
        }
        let now = env.clock.now(ClockId::Monotonic);
        if env.time_per_burst {
            env.burst_time = now;
        }
        now
    }

    /// `bpf_ktime_get_boot_ns`.
    fn ktime_get_boot_ns(env) { env.clock.now(ClockId::Boot) }

    /// `bpf_ktime_get_coarse_ns`.
    fn ktime_get_coarse_ns(env) { env.clock.now(ClockId::Coarse) }

    /// `bpf_ktime_get_tai_ns`.
    fn ktime_get_tai_ns(env) { env.clock.now(ClockId::Tai) }

    /// `bpf_jiffies64`.
    fn jiffies64(env) { env.clock.jiffies() }

    /// `bpf_get_prandom_u32`.
    fn get_prandom_u32(env) { env.rng.next_u32().into() }

    /// `bpf_get_smp_processor_id`: the worker's number.
    fn get_smp_processor_id(env) { env.cpu.into() }

    /// `bpf_get_numa_node_id`.
    fn get_numa_node_id(env) { env.numa_node.into() }

    /// `bpf_get_current_pid_tgid`: the process and thread that run the program.
    fn get_current_pid_tgid(_) {
        // SAFETY: neither call takes anything or can fail.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        u64::from(process.cast_unsigned()) << 32 | u64::from(thread.cast_unsigned())
    }
}

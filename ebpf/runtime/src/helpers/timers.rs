//! Timers in map values.

use squalus_isa::Errno;

use super::outcome;
use crate::timers::Callback;

helpers! {
    /// `bpf_timer_init(timer, map, flags)`.
    fn timer_init(env, timer, map, flags) {
        let timers = env.timers.as_ref().ok_or(Errno::EOPNOTSUPP);
        outcome(timers.and_then(|timers| timers.init(timer, map, flags)))
    }

    /// `bpf_timer_set_callback(timer, callback)`. The engine adds what it knows its program by.
    fn timer_set_callback(env, timer, callback, owner) {
        let timers = env.timers.as_ref().ok_or(Errno::EINVAL);
        let callback = Callback::new(owner, callback);
        outcome(timers.and_then(|timers| timers.set_callback(timer, callback)))
    }

    /// `bpf_timer_start(timer, nsecs, flags)`.
    fn timer_start(env, timer, ns, flags) {
        let timers = env.timers.as_ref().ok_or(Errno::EINVAL);
        outcome(timers.and_then(|timers| timers.start(timer, ns, flags, env)))
    }

    /// `bpf_timer_cancel(timer)`: 1 if it was armed, 0 if not.
    fn timer_cancel(env, timer) {
        let timers = env.timers.as_ref().ok_or(Errno::EINVAL);
        match timers.and_then(|timers| timers.cancel(timer, env)) {
            Ok(armed) => armed.into(),
            Err(errno) => errno.as_return(),
        }
    }
}

//! The trait every port implements.

use std::time::Duration;

use crate::{Burst, Pool, PortInfo, PortState, PortStats};

/// One queue of something that frames come from and go to.
///
/// A port belongs to one worker thread and works on that worker's [`Pool`]; always the same one, since a
/// port may have lent chunks of it to the kernel. The methods below are called in the packet loop: they
/// don't allocate, block, log or panic. What goes wrong there is counted in [`PortStats`] or, if the port
/// cannot go on, shown by [`Port::state`].
pub trait Port: Send {
    /// What was asked for and what was obtained.
    fn info(&self) -> &PortInfo;

    /// Appends the frames that have arrived to `burst`, as many as it has room for; returns how many.
    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize;

    /// Sends all of `frames`, leaving it empty; returns how many were accepted.
    ///
    /// The others are freed and counted as [`PortStats::tx_dropped`]. The chunks of those accepted return
    /// to the pool when they have been sent, which may be in a later call.
    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize;

    /// Hands all of `frames` to the host's network stack, leaving it empty; returns how many got there.
    ///
    /// Where the host has its own copy of every frame and there is no other way to it
    /// ([`crate::HostPath::Already`]) this only frees them; a program's edits are then lost to the host.
    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize;

    /// Waits until frames may have arrived, but not longer than `timeout`; true if they may have.
    fn wait(&mut self, timeout: Duration) -> bool;

    /// Whether the port still works; worth asking when `recv` returned nothing.
    fn state(&self) -> PortState;

    /// Counters since the port was opened. May make system calls, so not for every burst.
    fn stats(&mut self) -> PortStats;
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn info(&self) -> &PortInfo {
        (**self).info()
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        (**self).recv(pool, burst)
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        (**self).send(pool, frames)
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        (**self).pass(pool, frames)
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        (**self).wait(timeout)
    }

    fn state(&self) -> PortState {
        (**self).state()
    }

    fn stats(&mut self) -> PortStats {
        (**self).stats()
    }
}

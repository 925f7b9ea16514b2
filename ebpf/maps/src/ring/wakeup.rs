//! How a consumer sleeps until a producer has something for it.
//!
//! A consumer says that it is going to sleep, looks once more whether there is anything, then sleeps on
//! an event descriptor. A producer that has something looks whether anybody sleeps, which costs a load;
//! only if so it makes the system call. All four steps are sequentially consistent, so at least one of
//! the two sees the other.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Wakeup {
    asleep: AtomicBool,
    event: OnceLock<OwnedFd>,
}

impl Wakeup {
    pub(crate) fn new() -> Wakeup {
        Wakeup {
            asleep: AtomicBool::new(false),
            event: OnceLock::new(),
        }
    }

    /// Producers': wakes the consumer if it sleeps. Never waits.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.must_wake() {
            self.signal();
        }
    }

    /// Whether somebody sleeps, who from now on counts as woken.
    pub(crate) fn must_wake(&self) -> bool {
        self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst)
    }

    #[cold]
    fn signal(&self) {
        let one = 1_u64;
        if let Some(event) = self.event.get() {
            // SAFETY: eight readable bytes. The counter is far from its limit; if not, it is readable.
            unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Consumers': announces sleep, unless there is something to do. True if it may sleep now.
    pub(crate) fn may_sleep(&self, is_ready: impl Fn() -> bool) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if is_ready() {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Sleeps until a producer wakes, at most for `timeout`. False if it ran out.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        is_ready: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let event = self.event()?;
        if !self.may_sleep(&is_ready) {
            return Ok(true);
        }
        let woken = poll(event, timeout);
        self.asleep.store(false, Ordering::SeqCst);
        let mut count = 0_u64;
        // SAFETY: eight writable bytes. Nothing to read is no error here.
        unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
        woken
    }

    fn event(&self) -> io::Result<&OwnedFd> {
        if let Some(event) = self.event.get() {
            return Ok(event);
        }
        // SAFETY: a new descriptor.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(self.event.get_or_init(|| event))
    }
}

/// Whether `event` became readable before the time ran out.
fn poll(event: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
    let mut what = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = timeout.map_or(-1, |time| {
        // Rounded up: a short time is not no time.
        time.as_nanos()
            .div_ceil(1_000_000)
            .try_into()
            .unwrap_or(i32::MAX)
    });
    // SAFETY: one entry, which lives across the call.
    match unsafe { libc::poll(&raw mut what, 1, millis) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        ready => Ok(ready > 0),
    }
}

//! The compiled code that workers run, and how it is replaced while they do.
//!
//! Workers find it by a pointer that they read at the start of a burst, and use it until the burst ends: the
//! reclaimer that keeps removed inner maps alive for them keeps replaced code alive too. So a worker waits for
//! nobody, and code is freed by whoever replaces it.

use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use squalus_maps::Reclaimer;

use crate::native::Native;

/// Where a machine keeps its compiled code.
#[derive(Debug)]
pub(crate) struct CodeSlot {
    /// Leads into `current`.
    address: AtomicPtr<Native>,
    current: Mutex<Arc<Native>>,
    reclaimer: Arc<Reclaimer>,
}

impl CodeSlot {
    /// A slot for workers of this reclaimer.
    pub fn new(native: Arc<Native>, reclaimer: &Arc<Reclaimer>) -> CodeSlot {
        CodeSlot {
            address: AtomicPtr::new(Arc::as_ptr(&native).cast_mut()),
            current: Mutex::new(native),
            reclaimer: Arc::clone(reclaimer),
        }
    }

    /// What is to be run now.
    ///
    /// # Safety
    /// The calling thread must be a worker of the slot's reclaimer, not paused, and use the code no longer than
    /// to its next quiescent point.
    pub unsafe fn get(&self) -> &Native {
        // SAFETY: the pointer led to code in an `Arc` that the slot kept when it was read. Since then the code
        // may have been replaced; but the reclaimer drops it only after the caller's next quiescent point.
        unsafe { &*self.address.load(SeqCst) }
    }

    /// Replaces the code. Each worker runs the new one from its next burst on; until then the old one stays.
    pub fn install(&self, native: Arc<Native>) {
        let mut current = self.lock();
        self.address.store(Arc::as_ptr(&native).cast_mut(), SeqCst);
        let old = std::mem::replace(&mut *current, native);
        drop(current);
        self.reclaimer.retire(old);
    }

    /// The code that was installed last.
    pub fn current(&self) -> Arc<Native> {
        Arc::clone(&self.lock())
    }

    /// Waits until no worker runs code any more that was replaced before the call. False if the time ran out: then
    /// some worker is neither at work nor paused, or was not for so long.
    pub fn wait_for_workers(&self, timeout: Duration) -> bool {
        let (token, start) = (Arc::new(()), Instant::now());
        self.reclaimer.retire(Arc::clone(&token));
        while Arc::strong_count(&token) > 1 {
            if start.elapsed() > timeout {
                return false;
            }
            std::thread::sleep(Duration::from_micros(20));
            self.reclaimer.collect();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Native>> {
        // Whole between any two statements.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Arc<Native> {
        Arc::new(
            Native::compile(&[], squalus_jit::Options::default()).expect("there is nothing in it"),
        )
    }

    #[test]
    fn replaced_code_stays_until_workers_have_left_it() {
        let reclaimer = Reclaimer::new();
        let worker = reclaimer.register();
        let first = code();
        let weak = Arc::downgrade(&first);
        let slot = CodeSlot::new(first, &reclaimer);
        // SAFETY: the worker is registered, and quiescent only after the last use.
        let found = unsafe { slot.get() };
        assert!(std::ptr::eq(found, weak.as_ptr()));
        let second = code();
        slot.install(Arc::clone(&second));
        // SAFETY: as above.
        assert!(std::ptr::eq(unsafe { slot.get() }, &raw const *second));
        assert!(!slot.wait_for_workers(Duration::from_millis(1)));
        assert!(weak.upgrade().is_some());
        worker.quiescent();
        reclaimer.collect();
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn who_is_paused_holds_nothing_up() {
        let reclaimer = Reclaimer::new();
        let worker = reclaimer.register();
        let slot = CodeSlot::new(code(), &reclaimer);
        worker.pause();
        assert!(slot.wait_for_workers(Duration::ZERO));
        worker.resume();
        assert!(!slot.wait_for_workers(Duration::ZERO));
    }
}

//! Quiescent-state reclamation: when it is safe to free what workers may still be using.
//!
//! A program that looked up an inner map holds a bare pointer to it until it ends. Whoever removes the
//! inner map meanwhile may therefore not free it at once. The kernel waits for an RCU grace period; here
//! every worker announces, between bursts, that it holds nothing. An object retired before that
//! announcement can go once all workers have made theirs.
//!
//! An announcement is one load and one store, in the worker's own cache line. Workers never wait for
//! anybody; memory waits for workers. A worker that sleeps must say so ([`Worker::pause`]), or it would
//! hold up all memory for as long as it sleeps.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// What a worker's slot holds while it is paused: it uses nothing.
const PAUSED: u64 = u64::MAX;

/// Keeps retired objects until no worker can hold a pointer into them.
#[derive(Default)]
pub struct Reclaimer {
    /// How many objects were retired so far.
    clock: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Weak<Slot>>,
    retired: Vec<Retired>,
}

/// An object, and the clock that every worker must have seen before it goes.
struct Retired {
    at: u64,
    _object: Box<dyn Send>,
}

/// The clock a worker saw when it last held nothing. A pair of cache lines of its own.
#[repr(align(128))]
struct Slot(AtomicU64);

impl Reclaimer {
    /// A reclaimer without workers.
    #[must_use]
    pub fn new() -> Arc<Reclaimer> {
        Arc::default()
    }

    /// Makes the caller a worker: from now on nothing it may hold is freed before it says so.
    ///
    /// Whoever runs programs must be one, also for a single run.
    pub fn register(self: &Arc<Self>) -> Worker {
        let slot = Arc::new(Slot(AtomicU64::new(PAUSED)));
        self.lock().workers.push(Arc::downgrade(&slot));
        let worker = Worker {
            reclaimer: Arc::clone(self),
            slot,
        };
        worker.resume();
        worker
    }

    /// Hands over an object that new readers can no longer find. It is dropped, here or in a later call,
    /// when all workers have passed a quiescent point.
    pub fn retire<T: Send + 'static>(&self, object: T) {
        let at = self.clock.fetch_add(1, SeqCst) + 1;
        self.lock().retired.push(Retired {
            at,
            _object: Box::new(object),
        });
        self.collect();
    }

    /// Drops what can be dropped by now. Returns how many objects still wait.
    pub fn collect(&self) -> usize {
        let mut state = self.lock();
        state.workers.retain(|slot| slot.strong_count() > 0);
        // Orders the caller's unlinking before the slots are read, and what a gone worker did before its
        // object is freed.
        fence(SeqCst);
        let seen = state
            .workers
            .iter()
            .filter_map(Weak::upgrade)
            .map(|slot| slot.0.load(SeqCst))
            .min()
            .unwrap_or(PAUSED);
        let (free, wait): (Vec<_>, Vec<_>) = std::mem::take(&mut state.retired)
            .into_iter()
            .partition(|retired| retired.at <= seen);
        let waiting = wait.len();
        state.retired = wait;
        // What goes may itself retire objects (a map of maps its inner maps): not under the lock.
        drop(state);
        drop(free);
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reclaimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Reclaimer")
            .field("clock", &self.clock)
            .field("workers", &state.workers.len())
            .field("retired", &state.retired.len())
            .finish()
    }
}

/// A thread that runs programs. Dropping it deregisters it.
pub struct Worker {
    reclaimer: Arc<Reclaimer>,
    slot: Arc<Slot>,
}

impl Worker {
    /// Announces that this worker holds no pointer from a map. Call between bursts.
    #[inline]
    pub fn quiescent(&self) {
        // Nothing to say if nothing was retired since, which spares the store's barrier.
        let now = self.reclaimer.clock.load(SeqCst);
        if self.slot.0.load(SeqCst) != now {
            self.slot.0.store(now, SeqCst);
        }
    }

    /// Announces that this worker will run nothing until [`Worker::resume`]. Call before sleeping.
    #[inline]
    pub fn pause(&self) {
        // After all that the worker did with what it held.
        self.slot.0.store(PAUSED, Release);
    }

    /// Ends a pause.
    #[inline]
    pub fn resume(&self) {
        // Any clock up to the current one is correct; the fence orders the store before the lookups that follow,
        // so that a collector, whose fence is between unlinking and looking here, either sees it or had unlinked
        // the object before.
        self.slot
            .0
            .store(self.reclaimer.clock.load(SeqCst), Relaxed);
        fence(SeqCst);
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("seen", &self.slot.0)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    struct Flag(Arc<AtomicBool>);

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }

    fn flag() -> (Flag, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        (Flag(Arc::clone(&dropped)), dropped)
    }

    #[test]
    fn without_workers_objects_go_at_once() {
        let (object, dropped) = flag();
        Reclaimer::new().retire(object);
        assert!(dropped.load(SeqCst));
    }

    #[test]
    fn every_worker_must_pass_a_quiescent_point() {
        let reclaimer = Reclaimer::new();
        let (one, two) = (reclaimer.register(), reclaimer.register());
        let (object, dropped) = flag();
        reclaimer.retire(object);
        one.quiescent();
        assert_eq!(reclaimer.collect(), 1);
        assert!(!dropped.load(SeqCst));
        two.quiescent();
        assert_eq!(reclaimer.collect(), 0);
        assert!(dropped.load(SeqCst));
    }

    #[test]
    fn paused_and_dropped_workers_hold_nothing() {
        let reclaimer = Reclaimer::new();
        let (one, two) = (reclaimer.register(), reclaimer.register());
        let (object, dropped) = flag();
        reclaimer.retire(object);
        one.pause();
        drop(two);
        assert_eq!(reclaimer.collect(), 0);
        assert!(dropped.load(SeqCst));

        one.resume();
        let (object, dropped) = flag();
        reclaimer.retire(object);
        assert!(!dropped.load(SeqCst));
    }

    #[test]
    fn a_worker_that_came_later_does_not_wait_for_older_objects() {
        let reclaimer = Reclaimer::new();
        let old = reclaimer.register();
        let (object, dropped) = flag();
        reclaimer.retire(object);
        let _young = reclaimer.register();
        old.quiescent();
        reclaimer.collect();
        assert!(dropped.load(SeqCst));
    }
}

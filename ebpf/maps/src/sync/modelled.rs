//! The crate's atomics and locks as loom explores them.
//!
//! Maps keep their atomics in zeroed memory and reach them by address, which loom's own types don't allow.
//! Here each type has the layout of the standard one; while [`check`] runs a model, every operation goes
//! to a loom atomic that stands for its address, made when the address is first used. So the code under
//! test is the real one, to the last cast. Outside of models all is as usual.
//!
//! * Loom demands that an atomic's creation happens before its use: models touch whatever their threads
//!   will use before they start them.
//! * Loom takes sequentially consistent accesses for acquire and release. A store or an exchange becomes
//!   one between two full fences here, a load an acquiring load, which is how processors implement them.
//! * Loom compares a store only with the last access before it, so it would not try a reader before and
//!   after a writer that reads first. A second atomic beside each one, which everybody stores to before
//!   any access and nobody reads, makes all accesses to one address depend on each other.
//! * Bytes that are not written through atomics (what programs write in place) are not explored.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What stands for an atomic.
#[derive(Clone)]
struct Cell {
    atomic: Rc<dyn Any>,
    accessed: Rc<loom::sync::atomic::AtomicBool>,
}

thread_local! {
    /// Atomics by address, while a model runs (all its threads are coroutines of one thread).
    static CELLS: RefCell<Option<HashMap<usize, Cell>>> = const { RefCell::new(None) };
}

/// Runs `model` with all interleavings of its threads that have at most `preemptions` switches of a thread
/// that could go on, and all values that their loads may see. Returns how many there were.
#[cfg(test)]
pub(crate) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        CELLS.set(Some(HashMap::new()));
        model();
        CELLS.set(None);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    runs.load(Ordering::Relaxed)
}

/// The loom atomic that stands for `addr` and is going to be accessed; `None` outside of a model.
fn cell<T: 'static>(addr: usize, new: impl FnOnce() -> T) -> Option<Rc<T>> {
    let cell = CELLS.with_borrow_mut(|cells| {
        let cell = cells.as_mut()?.entry(addr).or_insert_with(|| Cell {
            atomic: Rc::new(new()),
            accessed: Rc::new(loom::sync::atomic::AtomicBool::new(false)),
        });
        Some(cell.clone())
    })?;
    cell.accessed.store(true, Ordering::Relaxed);
    let atomic = cell.atomic.downcast();
    Some(atomic.expect("an address is always used as the same type"))
}

/// The memory at `addr` may become another atomic's.
fn forget(addr: usize) {
    let _ = CELLS.try_with(|cells| {
        if let Ok(mut cells) = cells.try_borrow_mut()
            && let Some(cells) = cells.as_mut()
        {
            cells.remove(&addr);
        }
    });
}

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;
    use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

    use super::*;

    pub(crate) fn fence(order: Ordering) {
        if CELLS.with_borrow(Option::is_some) {
            loom::sync::atomic::fence(order);
        } else {
            std::sync::atomic::fence(order);
        }
    }

    fn loading(order: Ordering) -> Ordering {
        if order == SeqCst { Acquire } else { order }
    }

    /// Runs an access that is not only a load.
    fn changing<R>(order: Ordering, weaker: Ordering, access: impl FnOnce(Ordering) -> R) -> R {
        if order != SeqCst {
            return access(order);
        }
        fence(SeqCst);
        let result = access(weaker);
        fence(SeqCst);
        result
    }

    macro_rules! atomics {
        ($($name:ident: $value:ty { $($operation:ident),* };)*) => { $(
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub(crate) struct $name(std::sync::atomic::$name);

            #[allow(dead_code, reason = "the same operations for all types")]
            impl $name {
                pub(crate) const fn new(value: $value) -> $name {
                    $name(std::sync::atomic::$name::new(value))
                }

                fn addr(&self) -> usize {
                    std::ptr::from_ref(self).addr()
                }

                fn cell(&self) -> Option<Rc<loom::sync::atomic::$name>> {
                    let new = || loom::sync::atomic::$name::new(self.0.load(Relaxed));
                    cell(self.addr(), new)
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    match self.cell() {
                        Some(cell) => cell.load(loading(order)),
                        None => self.0.load(order),
                    }
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    if let Some(cell) = self.cell() {
                        changing(order, Release, |order| cell.store(value, order));
                    }
                    self.0.store(value, order);
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    match self.cell() {
                        Some(cell) => {
                            let old = changing(order, AcqRel, |order| cell.swap(value, order));
                            self.0.store(value, Relaxed);
                            old
                        }
                        None => self.0.swap(value, order),
                    }
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    let Some(cell) = self.cell() else {
                        return self.0.compare_exchange(current, new, success, failure);
                    };
                    let result = changing(success, AcqRel, |success| {
                        cell.compare_exchange(current, new, success, loading(failure))
                    });
                    if result.is_ok() {
                        self.0.store(new, Relaxed);
                    }
                    result
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(current, new, success, failure)
                }

                pub(crate) fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    mut update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    let mut old = self.load(failure);
                    while let Some(new) = update(old) {
                        match self.compare_exchange(old, new, success, failure) {
                            Err(now) => old = now,
                            done => return done,
                        }
                    }
                    Err(old)
                }

                pub(crate) fn get_mut(&mut self) -> &mut $value {
                    forget(self.addr());
                    self.0.get_mut()
                }

                $(pub(crate) fn $operation(&self, value: $value, order: Ordering) -> $value {
                    match self.cell() {
                        Some(cell) => {
                            let old = changing(order, AcqRel, |order| cell.$operation(value, order));
                            // What the standard type makes of it.
                            self.0.store(old, Relaxed);
                            self.0.$operation(value, Relaxed);
                            old
                        }
                        None => self.0.$operation(value, order),
                    }
                })*
            }

            impl Drop for $name {
                fn drop(&mut self) {
                    forget(self.addr());
                }
            }
        )* };
    }

    atomics! {
        AtomicBool: bool { fetch_or, fetch_and };
        AtomicU8: u8 { fetch_add, fetch_sub, fetch_or, fetch_and };
        AtomicU16: u16 { fetch_add, fetch_sub, fetch_or, fetch_and };
        AtomicU32: u32 { fetch_add, fetch_sub, fetch_or, fetch_and };
        AtomicU64: u64 { fetch_add, fetch_sub, fetch_or, fetch_and };
        AtomicUsize: usize { fetch_add, fetch_sub, fetch_or, fetch_and };
    }

    /// A pointer, explored as its address (of eight bytes, as entries of hashes are written).
    #[repr(transparent)]
    pub(crate) struct AtomicPtr<T>(AtomicU64, std::marker::PhantomData<*mut T>);

    // SAFETY: as the standard type.
    unsafe impl<T> Send for AtomicPtr<T> {}
    // SAFETY: as the standard type.
    unsafe impl<T> Sync for AtomicPtr<T> {}

    impl<T> Default for AtomicPtr<T> {
        fn default() -> AtomicPtr<T> {
            AtomicPtr(AtomicU64::new(0), std::marker::PhantomData)
        }
    }

    #[allow(dead_code, reason = "the same operations for all types")]
    impl<T> AtomicPtr<T> {
        pub(crate) fn new(pointer: *mut T) -> AtomicPtr<T> {
            AtomicPtr(
                AtomicU64::new(pointer.expose_provenance() as u64),
                std::marker::PhantomData,
            )
        }

        pub(crate) fn load(&self, order: Ordering) -> *mut T {
            std::ptr::with_exposed_provenance_mut(self.0.load(order) as usize)
        }

        pub(crate) fn store(&self, pointer: *mut T, order: Ordering) {
            self.0.store(pointer.expose_provenance() as u64, order);
        }

        pub(crate) fn swap(&self, pointer: *mut T, order: Ordering) -> *mut T {
            let old = self.0.swap(pointer.expose_provenance() as u64, order);
            std::ptr::with_exposed_provenance_mut(old as usize)
        }
    }
}

pub(crate) mod hint {
    pub(crate) fn spin_loop() {
        super::thread::yield_now();
    }
}

pub(crate) mod thread {
    pub(crate) fn yield_now() {
        if super::CELLS.with_borrow(Option::is_some) {
            loom::thread::yield_now();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A lock: the standard one's interface over an atomic, since threads of a model must not block.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    locked: atomic::AtomicBool,
    value: std::cell::UnsafeCell<T>,
}

// SAFETY: as the standard type.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: the value is only reached by who holds the lock.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex {
            locked: atomic::AtomicBool::new(false),
            value: std::cell::UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, PoisonError<MutexGuard<'_, T>>> {
        use atomic::Ordering::{Acquire, Relaxed};
        while self
            .locked
            .compare_exchange(false, true, Acquire, Relaxed)
            .is_err()
        {
            thread::yield_now();
        }
        Ok(MutexGuard(self))
    }
}

/// Holds a lock.
pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>);

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.0.locked.store(false, atomic::Ordering::Release);
    }
}

pub(crate) use std::sync::PoisonError;

//! Arrays of references: `ARRAY_OF_MAPS` and `PROG_ARRAY` (kernel/bpf/arraymap.c, map_in_map.c).

use std::sync::Arc;
use std::{io, ptr};

use squalus_isa::Errno;

use crate::arena::Arena;
use crate::reclaim::Reclaimer;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::{ArrayBase, Map};

/// A reference to a map, owned by whoever stores it.
pub(crate) type MapCell = AtomicPtr<Map>;

/// Maps by index. Each element is a pointer that programs load, null while unset.
pub(crate) struct MapArray {
    arena: Arena,
    entries: u32,
    /// Cells from here on were never set: most of a huge array need never be looked at.
    used: AtomicU32,
    /// Serialises the control side, so that nobody clones a reference while another drops it.
    control: Mutex<()>,
    reclaimer: Arc<Reclaimer>,
}

impl MapArray {
    pub(crate) fn new(
        entries: u32,
        colour: u32,
        reclaimer: Arc<Reclaimer>,
    ) -> io::Result<MapArray> {
        let arena = Arena::new(entries as usize * size_of::<MapCell>(), colour)?;
        Ok(MapArray {
            arena,
            entries,
            used: AtomicU32::new(0),
            control: Mutex::new(()),
            reclaimer,
        })
    }

    pub(crate) fn base(&self) -> ArrayBase {
        ArrayBase {
            base: self.arena.base() as usize,
            stride: size_of::<MapCell>(),
            cpu_stride: 0,
            entries: self.entries,
        }
    }

    fn cell(&self, index: u32) -> Option<&MapCell> {
        (index < self.entries).then(|| {
            let cell = self.arena.at(index as usize * size_of::<MapCell>());
            // SAFETY: in bounds and aligned; zeroed memory is a null pointer, and only cells live here.
            unsafe { &*cell.cast::<MapCell>() }
        })
    }

    /// All cells that were ever set.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &MapCell> {
        (0..self.used.load(Ordering::Acquire)).filter_map(|index| self.cell(index))
    }

    #[inline]
    pub(crate) fn lookup(&self, index: u32) -> *mut Map {
        self.cell(index)
            .map_or(ptr::null_mut(), |cell| cell.load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, index: u32, inner: Arc<Map>) -> Result<(), Errno> {
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        let _guard = self.lock();
        // Before the map can be found by a lookup.
        if index >= self.used.load(Ordering::Relaxed) {
            self.used.store(index + 1, Ordering::Release);
        }
        replace(cell, Some(inner), &self.reclaimer);
        Ok(())
    }

    pub(crate) fn get(&self, index: u32) -> Option<Arc<Map>> {
        let _guard = self.lock();
        clone(self.cell(index)?)
    }

    pub(crate) fn delete(&self, index: u32) -> Result<(), Errno> {
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        let _guard = self.lock();
        if replace(cell, None, &self.reclaimer) {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MapArray {
    fn drop(&mut self) {
        for cell in self.cells() {
            replace(cell, None, &self.reclaimer);
        }
    }
}

/// Puts an object (or nothing) into `cell`; what was there is freed once no worker uses it. Returns whether
/// anything was there.
pub(crate) fn replace<T: Send + Sync + 'static>(
    cell: &AtomicPtr<T>,
    new: Option<Arc<T>>,
    reclaimer: &Reclaimer,
) -> bool {
    let new = new.map_or(ptr::null(), Arc::into_raw);
    let old = cell.swap(new.cast_mut(), Ordering::AcqRel);
    if old.is_null() {
        return false;
    }
    // SAFETY: non-null cells own one reference, made by `Arc::into_raw` above; the swap took it.
    reclaimer.retire(unsafe { Arc::from_raw(old) });
    true
}

/// Another reference to the object in `cell`. The caller keeps others from replacing it meanwhile.
pub(crate) fn clone<T>(cell: &AtomicPtr<T>) -> Option<Arc<T>> {
    let object = cell.load(Ordering::Acquire);
    if object.is_null() {
        return None;
    }
    // SAFETY: the cell owns a reference, which the caller keeps in place; this makes one more.
    unsafe {
        Arc::increment_strong_count(object);
        Some(Arc::from_raw(object))
    }
}

/// Programs by index: opaque numbers of the virtual machine's.
pub(crate) struct ProgArray {
    /// Words: 0 if unset, else the number plus one.
    arena: Arena,
    entries: u32,
}

impl ProgArray {
    pub(crate) fn new(entries: u32, colour: u32) -> io::Result<ProgArray> {
        Ok(ProgArray {
            arena: Arena::new(entries as usize * size_of::<AtomicU64>(), colour)?,
            entries,
        })
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        (index < self.entries).then(|| {
            let slot = self.arena.at(index as usize * size_of::<AtomicU64>());
            // SAFETY: in bounds and aligned, and only such words live here.
            unsafe { &*slot.cast::<AtomicU64>() }
        })
    }

    pub(crate) fn set(&self, index: u32, program: Option<u32>) -> Result<(), Errno> {
        let slot = self.slot(index).ok_or(Errno::E2BIG)?;
        let new = program.map_or(0, |id| u64::from(id) + 1);
        let old = slot.swap(new, Ordering::AcqRel);
        if program.is_none() && old == 0 {
            Err(Errno::ENOENT)
        } else {
            Ok(())
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<u32> {
        let slot = self.slot(index)?.load(Ordering::Acquire);
        slot.checked_sub(1).map(|id| id as u32)
    }
}

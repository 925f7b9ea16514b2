//! The program side of maps: what helpers and compiled code call.

use squalus_isa::{Errno, MapType};

use crate::entries::Value;
use crate::index::Place;
use crate::refs::MapCell;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::targets;
use crate::{ArrayBase, HashLayout, Kind, Map, PerfEvents, Ring, Target};

/// Where a walk over the elements of a map stands. The default is before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u64);

/// The program side.
///
/// In all of it `key` must be readable for the key size and `value` for the value size. Neither needs to
/// be aligned. `cpu` is below the environment's number of CPUs (others count as 0). A caller that uses
/// what a lookup returned must hold the map, and for inner maps be a registered [`Worker`](crate::Worker).
impl Map {
    /// The address of the value under `key` (in per-CPU maps this CPU's), aligned to 8, or null. In maps
    /// of maps it is the inner map, a `*const Map`. In LRU maps it marks the entry as used.
    ///
    /// # Safety
    /// `key` must be readable for the map's key size.
    #[inline]
    pub unsafe fn lookup(&self, key: *const u8, cpu: u32) -> *mut u8 {
        match &self.kind {
            // SAFETY: array keys have 4 bytes.
            Kind::Array(array) => array.slot(unsafe { index(key) }, cpu),
            // SAFETY: the caller's.
            Kind::Hash(hash) => unsafe { hash.lookup(key, cpu) },
            // SAFETY: the caller's.
            Kind::Trie(trie) => unsafe { trie.lookup(key) },
            // SAFETY: array keys have 4 bytes.
            Kind::MapArray(maps) => maps.lookup(unsafe { index(key) }).cast(),
            // SAFETY: the caller's, and the kind says it holds maps.
            Kind::MapHash(hash) => unsafe { hash.lookup_map(key) }.cast(),
            // SAFETY: these keys have 4 bytes.
            Kind::Targets(targets) => targets.lookup(unsafe { index(key) }),
            // SAFETY: the caller's.
            Kind::DeviceHash(hash) => unsafe { hash.lookup(key, cpu) },
            Kind::ProgArray(_)
            | Kind::Queue(_)
            | Kind::Bloom(_)
            | Kind::Ring(_)
            | Kind::Perf(_) => std::ptr::null_mut(),
        }
    }

    /// The address of the value of CPU `cpu` under `key`, or null (`bpf_map_lookup_percpu_elem`). Null
    /// also for other CPUs than the map has, and in maps that are not per-CPU.
    ///
    /// # Safety
    /// As [`Map::lookup`].
    pub unsafe fn lookup_percpu(&self, key: *const u8, cpu: u32) -> *mut u8 {
        if !self.def.kind.is_per_cpu() || cpu >= self.cpus {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { self.lookup(key, cpu) }
    }

    /// Sets the value under `key`; in per-CPU maps this CPU's only (a new element's others are zero).
    ///
    /// # Errors
    /// As the kernel's: `EINVAL` for unknown flags, `EEXIST`/`ENOENT` for `NOEXIST`/`EXIST`, `E2BIG` if
    /// the map is full or an index is outside (`ENOSPC` in tries), `EOPNOTSUPP` in maps of references.
    ///
    /// # Safety
    /// `key` and `value` must be readable for the map's key and value size.
    pub unsafe fn update(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        cpu: u32,
    ) -> Result<(), Errno> {
        match &self.kind {
            // SAFETY: the caller's.
            Kind::Array(array) => unsafe { array.update(index(key), value, flags, cpu) },
            // SAFETY: the caller's.
            Kind::Hash(hash) => unsafe { hash.update(key, Value::Program(value, cpu), flags) },
            // SAFETY: the caller's.
            Kind::Trie(trie) => unsafe { trie.update(key, value, flags) },
            Kind::Queue(_) | Kind::Bloom(_) => Err(Errno::EINVAL),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EINVAL` in arrays, `EOPNOTSUPP` in maps of references.
    ///
    /// # Safety
    /// `key` must be readable for the map's key size.
    pub unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        match &self.kind {
            Kind::Array(_) | Kind::Queue(_) => Err(Errno::EINVAL),
            // SAFETY: the caller's.
            Kind::Hash(hash) => unsafe { hash.delete(key) },
            // SAFETY: the caller's.
            Kind::Trie(trie) => unsafe { trie.delete(key) },
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Puts a value into a `QUEUE`, `STACK` or `BLOOM_FILTER` (`bpf_map_push_elem`).
    ///
    /// # Errors
    /// `E2BIG` if it is full, unless `BPF_EXIST` says to drop the oldest value; `EINVAL` for other flags;
    /// `EOPNOTSUPP` in other maps.
    ///
    /// # Safety
    /// `value` must be readable for the map's value size.
    pub unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        match &self.kind {
            // SAFETY: the caller's.
            Kind::Queue(queue) => unsafe { queue.push(value, flags) },
            // SAFETY: the caller's.
            Kind::Bloom(bloom) => unsafe { bloom.push(value, flags) },
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Takes the oldest value out of a `QUEUE`, the newest out of a `STACK` (`bpf_map_pop_elem`).
    ///
    /// # Errors
    /// `ENOENT` if it is empty, and zeros as the value; `EOPNOTSUPP` in other maps.
    ///
    /// # Safety
    /// `value` must be writable for the map's value size.
    pub unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        match &self.kind {
            // SAFETY: the caller's.
            Kind::Queue(queue) => unsafe { queue.pop(value) },
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Copies the value that [`Map::pop`] would take; of a `BLOOM_FILTER`, asks whether `value` was pushed
    /// (`bpf_map_peek_elem`).
    ///
    /// # Errors
    /// `ENOENT` if there is none (and zeros as the value), or if the value certainly was not pushed;
    /// `EOPNOTSUPP` in other maps.
    ///
    /// # Safety
    /// `value` must be readable and writable for the map's value size.
    pub unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        match &self.kind {
            // SAFETY: the caller's.
            Kind::Queue(queue) => unsafe { queue.peek(value) },
            // SAFETY: the caller's.
            Kind::Bloom(bloom) => unsafe { bloom.peek(value) },
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Where `bpf_redirect_map` sends a frame for `key`: of `DEVMAP`, `DEVMAP_HASH`, `CPUMAP` and `XSKMAP`.
    #[inline]
    #[must_use]
    pub fn redirect(&self, key: u32) -> Option<Target> {
        match &self.kind {
            Kind::Targets(targets) => targets.get(key),
            Kind::DeviceHash(hash) => {
                // SAFETY: keys have 4 bytes.
                let value = unsafe { hash.lookup(key.to_ne_bytes().as_ptr(), 0) };
                if value.is_null() {
                    return None;
                }
                // SAFETY: values are aligned words, at addresses that stay valid.
                let word = unsafe { &*value.cast::<AtomicU64>() }.load(Ordering::Acquire);
                targets::target(MapType::DevMapHash, key, word)
            }
            _ => None,
        }
    }

    /// The next entry that a broadcast goes to (`BPF_F_BROADCAST`), in maps that [`Map::redirect`] serves.
    pub fn next_device(&self, cursor: &mut Cursor) -> Option<Target> {
        match &self.kind {
            Kind::Targets(targets) => {
                let (next, target) = targets.from(u32::try_from(cursor.0).ok()?)?;
                cursor.0 = next.into();
                Some(target)
            }
            Kind::DeviceHash(_) => loop {
                let mut key = [0; 4];
                // SAFETY: keys have 4 bytes.
                unsafe { self.for_each(cursor, key.as_mut_ptr(), 0) }?;
                if let Some(target) = self.redirect(u32::from_ne_bytes(key)) {
                    return Some(target);
                }
            },
            _ => None,
        }
    }

    /// The next element of a walk (`bpf_for_each_map_elem`): its key is copied to `key`, the result is the
    /// address of its value (in per-CPU maps this CPU's). Of `ARRAY`, `PERCPU_ARRAY` and the hashes; others
    /// have no elements.
    ///
    /// The map may change meanwhile. What is there all the time is given, and once, unless an insertion must
    /// move it within the table to make room in two full sets: then it may come twice, or in LRU maps not at
    /// all.
    ///
    /// # Safety
    /// `key` must be writable for the map's key size.
    pub unsafe fn for_each(&self, cursor: &mut Cursor, key: *mut u8, cpu: u32) -> Option<*mut u8> {
        match &self.kind {
            Kind::Array(array) => {
                let index = u32::try_from(cursor.0).ok()?;
                let value = array.slot(index, cpu);
                if value.is_null() {
                    return None;
                }
                // SAFETY: array keys have 4 bytes; the caller's.
                unsafe { key.cast::<u32>().write_unaligned(index) };
                cursor.0 += 1;
                Some(value)
            }
            Kind::Hash(hash) | Kind::DeviceHash(hash) => {
                let from = Place::from_number(cursor.0);
                // SAFETY: the caller's.
                let (place, value) = unsafe { hash.entry_from(from, key, cpu) }?;
                cursor.0 = place.next().number();
                Some(value)
            }
            _ => None,
        }
    }

    /// The records of a `RINGBUF`.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Option<&Ring> {
        match &self.kind {
            Kind::Ring(ring) => Some(ring),
            _ => None,
        }
    }

    /// The rings of a `PERF_EVENT_ARRAY`.
    #[inline]
    #[must_use]
    pub fn perf(&self) -> Option<&PerfEvents> {
        match &self.kind {
            Kind::Perf(events) => Some(events),
            _ => None,
        }
    }

    /// Copies the key of the element whose value is at `value` to `key`; false if no value of an `ARRAY` or a
    /// hash that is not per-CPU is there. The element may have been removed.
    ///
    /// # Safety
    /// `key` must be writable for the map's key size.
    pub unsafe fn key_of(&self, value: usize, key: *mut u8) -> bool {
        match &self.kind {
            Kind::Array(array) => array.index_of(value).is_some_and(|index| {
                // SAFETY: array keys have 4 bytes; the caller's.
                unsafe { key.cast::<u32>().write_unaligned(index) };
                true
            }),
            // SAFETY: the caller's.
            Kind::Hash(hash) => unsafe { hash.key_of(value, key) },
            _ => false,
        }
    }

    /// The program at `index` of a `PROG_ARRAY`, if one is set.
    #[inline]
    #[must_use]
    pub fn program(&self, index: u32) -> Option<u32> {
        match &self.kind {
            Kind::ProgArray(programs) => programs.get(index),
            _ => None,
        }
    }

    /// Asks the inner maps of a map of maps, in any order, until one answers. Takes no lock and allocates
    /// nothing. A map that is put in meanwhile may or may not be asked.
    ///
    /// # Safety
    /// The caller must be a [`Worker`](crate::Worker) of this environment's reclaimer that is not paused.
    pub unsafe fn find_inner<T>(&self, ask: impl FnMut(&Map) -> Option<T>) -> Option<T> {
        // SAFETY: a non-null cell holds a live map, which the reclaimer keeps while the caller may use it.
        let inner = |cell: &MapCell| unsafe { cell.load(Ordering::Acquire).as_ref() };
        match &self.kind {
            Kind::MapArray(maps) => maps.cells().filter_map(inner).find_map(ask),
            Kind::MapHash(hash) => hash.cells().filter_map(inner).find_map(ask),
            _ => None,
        }
    }

    /// Whether `len` bytes at `addr` lie inside one value of this map (of one CPU), in use or not. Never
    /// in maps of references.
    #[must_use]
    pub fn contains(&self, addr: usize, len: usize) -> bool {
        match &self.kind {
            Kind::Array(array) => array.contains(addr, len),
            Kind::Hash(hash) => hash.contains(addr, len),
            Kind::Trie(trie) => trie.contains(addr, len),
            Kind::Targets(targets) => targets.contains(addr, len),
            Kind::DeviceHash(hash) => hash.contains(addr, len),
            _ => false,
        }
    }

    /// Where the elements of an `ARRAY`, `PERCPU_ARRAY` or `ARRAY_OF_MAPS` (pointers, null if unset) are.
    #[must_use]
    pub fn array_base(&self) -> Option<ArrayBase> {
        match &self.kind {
            Kind::Array(array) => Some(array.base()),
            Kind::MapArray(maps) => Some(maps.base()),
            _ => None,
        }
    }

    /// Where things are in a hash of values, for code that looks up in line.
    #[must_use]
    pub fn hash_layout(&self) -> Option<&HashLayout> {
        matches!(self.kind, Kind::Hash(_)).then_some(&self.layout)
    }

    /// Offset of [`Map::hash_layout`] in a map.
    pub const OFFSET_LAYOUT: usize = std::mem::offset_of!(Map, layout);
}

/// An array index at any address.
///
/// # Safety
/// `key` must be readable for 4 bytes.
#[inline]
unsafe fn index(key: *const u8) -> u32 {
    // SAFETY: the caller's.
    unsafe { key.cast::<u32>().read_unaligned() }
}

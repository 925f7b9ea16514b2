//! `HASH`, `PERCPU_HASH`, `LRU_HASH`, `LRU_PERCPU_HASH` and `HASH_OF_MAPS` (kernel/bpf/hashtab.c).
//!
//! An [`Index`] finds the slot of a key, [`Entries`] hold the slots. As in the kernel, replacing a value
//! that is not per-CPU fills another slot and swaps it in, so that whoever looked the old value up goes on
//! reading it unchanged until the slot is used again.

use std::io;
use std::ptr;
use std::sync::Arc;

use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};

use crate::Map;
use crate::entries::{Entries, Value};
use crate::index::{Index, Outcome, Place, Writer};
use crate::inline::HashLayout;
use crate::key::{Fixed, Key, Raw};
use crate::lru::Clock;
use crate::quota::Quota;
use crate::reclaim::Reclaimer;
use crate::refs::{self, MapCell};
use crate::set::Set;
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// How many more sets are searched for an entry that is not in use.
const FURTHER_SETS: u32 = 2;

pub(crate) struct Hash {
    index: Index,
    entries: Entries,
    quota: Quota,
    /// In a place of its own: compiled code has its address.
    lru: Option<Box<Clock>>,
    maps: Option<InnerMaps>,
}

/// What a hash of maps has besides: values are [`MapCell`]s.
struct InnerMaps {
    /// Serialises the control side, so that nobody clones a reference while another drops it.
    control: Mutex<()>,
    reclaimer: Arc<Reclaimer>,
}

/// Runs `$body` with `$key` as a [`Key`] read from `$ptr`, its size known to the compiler if common.
macro_rules! with_key {
    ($entries:expr, $ptr:expr, |$key:ident| $body:expr) => {{
        let len = $entries.key_len();
        // SAFETY (of all arms): the caller's pointer is readable for the key size, of that many words.
        match $entries.key_words() {
            1 => { let $key = &Fixed::<1>::read($ptr, len); $body }
            2 => { let $key = &Fixed::<2>::read($ptr, len); $body }
            3 => { let $key = &Fixed::<3>::read($ptr, len); $body }
            4 => { let $key = &Fixed::<4>::read($ptr, len); $body }
            5 => { let $key = &Fixed::<5>::read($ptr, len); $body }
            _ => { let $key = &Raw::new($ptr, len); $body }
        }
    }};
}

impl Hash {
    pub(crate) fn new(
        def: &MapDef,
        cpus: u32,
        seed: u64,
        colour: u32,
        reclaimer: &Arc<Reclaimer>,
    ) -> io::Result<Hash> {
        let shares = shares(def, cpus);
        // The kernel gives each share the same number of entries.
        let capacity = def
            .max_entries
            .checked_next_multiple_of(shares)
            .unwrap_or(def.max_entries / shares * shares);
        let quota = Quota::new(capacity, shares, cpus)?;
        let lru = matches!(def.kind, MapType::LruHash | MapType::LruPerCpuHash);
        let maps = def.kind.is_map_in_map().then(|| InnerMaps {
            control: Mutex::new(()),
            reclaimer: Arc::clone(reclaimer),
        });
        // A reference is stored as a pointer, whatever its size for the control side.
        let stored = MapDef {
            value_size: if maps.is_some() {
                size_of::<MapCell>() as u32
            } else {
                def.value_size
            },
            ..def.clone()
        };
        // Who may only evict entries of its own may find none of them in its key's sets.
        let mut index = Index::new(capacity, !lru || shares > 1, seed, colour)?;
        index.both_ways = lru;
        Ok(Hash {
            index,
            entries: Entries::new(&stored, quota.slots(), cpus, colour.wrapping_add(1))?,
            quota,
            lru: lru.then(|| Box::new(Clock::new(capacity))),
            maps,
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.quota.len()
    }

    /// Copies the key of the entry whose value is at an address; false if none is there.
    ///
    /// # Safety
    /// `key` is writable for the key size.
    pub(crate) unsafe fn key_of(&self, value: usize, key: *mut u8) -> bool {
        let slot = self.entries.slot_of(value);
        // SAFETY: the caller's.
        slot.map(|slot| unsafe { self.entries.copy_key(slot, key) })
            .is_some()
    }

    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        self.maps.is_none() && self.entries.contains(addr, len)
    }
}

/// How many CPUs have entries of their own.
fn shares(def: &MapDef, cpus: u32) -> u32 {
    if def.flags.contains(MapFlags::NO_COMMON_LRU) {
        cpus
    } else {
        1
    }
}

/// Program side.
impl Hash {
    /// # Safety
    /// `key` is readable for the key size.
    #[inline]
    pub(crate) unsafe fn lookup(&self, key: *const u8, cpu: u32) -> *mut u8 {
        // SAFETY: the caller's.
        let found = unsafe {
            with_key!(self.entries, key, |key| self.index.find(
                &self.entries,
                key,
                |place, slot| (place, slot)
            ))
        };
        let Some((place, slot)) = found else {
            return ptr::null_mut();
        };
        if let Some(lru) = &self.lru {
            self.index.set(place.set).touch(place.way, lru.now());
        }
        self.entries.value(slot, cpu)
    }

    /// The set where `key` is at home, and its tag there.
    ///
    /// # Safety
    /// `key` is readable for the key size.
    pub(crate) unsafe fn home(&self, key: *const u8) -> (&Set, u8) {
        // SAFETY: the caller's.
        let at = unsafe { with_key!(self.entries, key, |key| self.index.hashed(key)) };
        (self.index.set(at.home), at.tag)
    }

    /// Address of the first slot, and bytes between slots.
    pub(crate) fn slots(&self) -> (usize, usize) {
        self.entries.slots()
    }

    /// Where things are, for compiled code. Not for maps of maps.
    pub(crate) fn layout(&self) -> HashLayout {
        HashLayout::new(&self.index, &self.entries, self.lru.as_deref())
    }

    /// The inner map under `key`, or null.
    ///
    /// # Safety
    /// `key` is readable for the key size, and this is a hash of maps.
    #[inline]
    pub(crate) unsafe fn lookup_map(&self, key: *const u8) -> *mut Map {
        // The cell is read while the search still watches the set: later it may be another key's.
        let read = |_, slot| {
            let cell = self.entries.value(slot, 0).cast::<MapCell>();
            // SAFETY: values of hashes of maps are cells, at addresses that stay valid.
            unsafe { (*cell).load(Ordering::Acquire) }
        };
        // SAFETY: the caller's.
        let found = unsafe {
            with_key!(self.entries, key, |key| self.index.find(
                &self.entries,
                key,
                read
            ))
        };
        found.unwrap_or(ptr::null_mut())
    }

    /// The first entry at or after a place: its place, and the value of `cpu`. Its key is copied to `key`.
    ///
    /// # Safety
    /// `key` is writable for the key size.
    pub(crate) unsafe fn entry_from(
        &self,
        from: Place,
        key: *mut u8,
        cpu: u32,
    ) -> Option<(Place, *mut u8)> {
        self.index.entry_from(from, |slot| {
            // SAFETY: the caller's.
            unsafe { self.entries.copy_key(slot, key) };
            self.entries.value(slot, cpu)
        })
    }

    /// The cells of all entries of a hash of maps.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &MapCell> {
        let slots = self.maps.iter().flat_map(|_| self.index.slots());
        slots.map(|slot| {
            // SAFETY: values of hashes of maps are cells, at addresses that stay valid.
            unsafe { &*self.entries.value(slot, 0).cast::<MapCell>() }
        })
    }

    /// Both sides' update.
    ///
    /// # Safety
    /// `key` is readable for the key size; the value's contract holds.
    pub(crate) unsafe fn update(
        &self,
        key: *const u8,
        value: Value<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        let locked = flags & UpdateFlags::LOCK.0 != 0;
        let flags = flags & !UpdateFlags::LOCK.0;
        if flags > UpdateFlags::EXIST.0 || locked && !self.entries.layout().has_lock() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's.
        unsafe { with_key!(self.entries, key, |key| self.set(key, value, flags, locked)) }
    }

    /// # Safety
    /// The value's contract holds.
    #[inline]
    unsafe fn set<K: Key>(
        &self,
        key: &K,
        value: Value<'_>,
        flags: u64,
        locked: bool,
    ) -> Result<(), Errno> {
        let mut writer = Writer::new(&self.index, &self.entries, key);
        if let Some((place, old)) = writer.at_home()
            && flags != UpdateFlags::NOEXIST.0
        {
            // SAFETY: the caller's.
            unsafe { self.replace(&writer, place, old, value, locked) };
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.set_anywhere(&mut writer, value, flags, locked) }
    }

    /// Of a key that is not at home.
    ///
    /// # Safety
    /// The value's contract holds.
    #[inline(never)]
    unsafe fn set_anywhere<K: Key>(
        &self,
        writer: &mut Writer<'_, K>,
        value: Value<'_>,
        flags: u64,
        locked: bool,
    ) -> Result<(), Errno> {
        let share = match value {
            Value::Program(_, cpu) => self.quota.of_cpu(cpu),
            Value::Control(_) => self.quota.of_control(),
        };
        if self.lru.is_some() && self.quota.is_full(share) {
            // There must be a victim, best of both sets.
            writer.lock_both();
        }
        let room = match writer.find_or_room() {
            Outcome::Found(_) if flags == UpdateFlags::NOEXIST.0 => return Err(Errno::EEXIST),
            Outcome::Found(place) => {
                let old = writer.slot(place).ok_or(Errno::ENOENT)?;
                // SAFETY: the caller's.
                unsafe { self.replace(writer, place, old, value, locked) };
                return Ok(());
            }
            _ if flags == UpdateFlags::EXIST.0 => return Err(Errno::ENOENT),
            Outcome::Room(place) => Some(place),
            Outcome::Full => None,
        };
        // SAFETY: the caller's.
        unsafe {
            match &self.lru {
                Some(lru) => self.insert_lru(lru, writer, room, value, share),
                None => self.insert(writer, room, value, share),
            }
        }
    }

    /// # Safety
    /// `key` is readable for the key size.
    pub(crate) unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's.
        let key = unsafe { Raw::new(key, self.entries.key_len()) };
        let mut writer = Writer::new(&self.index, &self.entries, &key);
        let place = writer.find().ok_or(Errno::ENOENT)?;
        let slot = writer.remove(place).ok_or(Errno::ENOENT)?;
        self.drop_inner(slot);
        self.entries.retire(slot);
        self.quota.release(slot);
        Ok(())
    }

    /// # Safety
    /// The value's contract holds, and `old` is the slot at `place`.
    #[inline]
    unsafe fn replace<K: Key>(
        &self,
        writer: &Writer<'_, K>,
        place: Place,
        old: u32,
        value: Value<'_>,
        locked: bool,
    ) {
        if let Some(lru) = &self.lru {
            self.index.set(place.set).touch(place.way, lru.now());
        }
        if locked {
            // SAFETY: the caller's.
            return unsafe { self.entries.write_locked(old, value) };
        }
        if self.entries.is_per_cpu() {
            // SAFETY: the caller's.
            return unsafe { self.entries.write(old, value) };
        }
        // The entry stays its CPU's.
        let slot = self.quota.slot(self.quota.of_slot(old));
        // SAFETY: a slot that was not in use; the rest is the caller's.
        unsafe { self.entries.fill(slot, writer.key(), value) };
        writer.replace(place, slot);
        self.entries.retire(old);
        self.quota.give_back(old);
    }

    /// # Safety
    /// The value's contract holds.
    unsafe fn insert<K: Key>(
        &self,
        writer: &mut Writer<'_, K>,
        room: Option<Place>,
        value: Value<'_>,
        share: u32,
    ) -> Result<(), Errno> {
        if !self.quota.claim(share) {
            return Err(Errno::E2BIG);
        }
        let Some(place) = room.or_else(|| writer.stash_room()) else {
            // Not reached: the stash alone holds as many entries.
            self.quota.unclaim(share);
            return Err(Errno::ENOMEM);
        };
        let slot = self.quota.slot(share);
        // SAFETY: a slot that was not in use; the rest is the caller's.
        unsafe { self.entries.fill(slot, writer.key(), value) };
        writer.publish(place, slot, 0);
        Ok(())
    }

    /// Inserts into an LRU map: into a free slot of the share while there are any, else into the slot of its
    /// oldest entry.
    ///
    /// # Safety
    /// The value's contract holds.
    unsafe fn insert_lru<K: Key>(
        &self,
        lru: &Clock,
        writer: &mut Writer<'_, K>,
        room: Option<Place>,
        value: Value<'_>,
        share: u32,
    ) -> Result<(), Errno> {
        let stamp = lru.insert();
        let room = match room {
            // Where the sets are full of others' entries.
            None if self.quota.shares() > 1 => writer.stash_room(),
            room => room,
        };
        let (place, slot) = match room {
            Some(place) if self.quota.claim(share) => (place, self.quota.slot(share)),
            room => {
                let slot = self.evict(lru, writer, room.is_some(), share)?;
                // The victim may have left a better place.
                let Some(place) = writer.free_way().or(room) else {
                    self.quota.release(slot);
                    return Err(Errno::ENOMEM);
                };
                (place, slot)
            }
        };
        // SAFETY: the slot was not in use or is no longer in the index; the rest is the caller's.
        unsafe { self.entries.fill(slot, writer.key(), value) };
        writer.publish(place, slot, stamp);
        Ok(())
    }

    /// Removes the share's entry that should go, and returns its slot: the oldest of the writer's sets, or of
    /// others if these have none or, where there is `room` for the new entry anyway, only such as are in use.
    fn evict<K: Key>(
        &self,
        lru: &Clock,
        writer: &mut Writer<'_, K>,
        room: bool,
        share: u32,
    ) -> Result<u32, Errno> {
        let own = |slot| self.quota.of_slot(slot) == share;
        let remove = |place| self.index.remove(&self.entries, place);
        let elsewhere =
            |tries, unused| lru.evict_elsewhere(&self.index, tries, unused, own, remove);
        let slot = match lru.oldest(writer.candidates().filter(|(_, entry)| own(entry.slot))) {
            Some((place, true)) if room => {
                elsewhere(FURTHER_SETS, true).or_else(|| writer.remove(place))
            }
            Some((place, _)) => writer.remove(place),
            None => elsewhere(FURTHER_SETS * self.quota.shares(), true)
                .or_else(|| elsewhere(self.index.sets() * 2, false))
                .or_else(|| writer.remove_from_stash(own)),
        };
        let slot = slot.ok_or(Errno::ENOMEM)?;
        self.entries.retire(slot);
        Ok(slot)
    }
}

/// Control side. Keys and values have the right length.
impl Hash {
    /// With `locked`, under the value's lock.
    pub(crate) fn sys_lookup(&self, key: &[u8], locked: bool) -> Option<Vec<u8>> {
        // SAFETY: the slice has the key's length and outlives the search.
        let key = unsafe { Raw::new(key.as_ptr(), key.len()) };
        self.index.find(&self.entries, &key, |_, slot| {
            self.entries.value_bytes(slot, locked)
        })
    }

    /// Removes the key; the result is the last value it had.
    pub(crate) fn sys_take(&self, key: &[u8], locked: bool) -> Option<Vec<u8>> {
        // SAFETY: the slice has the key's length and outlives the search.
        let key = unsafe { Raw::new(key.as_ptr(), key.len()) };
        let mut writer = Writer::new(&self.index, &self.entries, &key);
        let place = writer.find()?;
        let slot = writer.remove(place)?;
        let value = self.entries.value_bytes(slot, locked);
        self.entries.retire(slot);
        self.quota.release(slot);
        Some(value)
    }

    /// The first entry at or after a place: its place, key and value.
    pub(crate) fn sys_entry_from(
        &self,
        from: Place,
        locked: bool,
    ) -> Option<(Place, Vec<u8>, Vec<u8>)> {
        let read = |slot| {
            let value = self.entries.value_bytes(slot, locked);
            (self.entries.key_bytes(slot), value)
        };
        let (place, (key, value)) = self.index.entry_from(from, read)?;
        Some((place, key, value))
    }

    pub(crate) fn sys_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: the slices have the right lengths.
        unsafe { self.update(key.as_ptr(), Value::Control(value), flags) }
    }

    pub(crate) fn sys_delete(&self, key: &[u8]) -> Result<(), Errno> {
        let _guard = self.maps.as_ref().map(InnerMaps::lock);
        // SAFETY: the slice has the key's length.
        unsafe { self.delete(key.as_ptr()) }
    }

    pub(crate) fn sys_next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        let found = key.and_then(|key| {
            // SAFETY: the slice has the key's length and outlives the search.
            let key = unsafe { Raw::new(key.as_ptr(), key.len()) };
            self.index.find(&self.entries, &key, |place, _| place)
        });
        let from = found.map_or(Place::FIRST, Place::next);
        self.key_from(from).map(|(_, key)| key)
    }

    /// The first key at or after a place, and its place.
    pub(crate) fn key_from(&self, from: Place) -> Option<(Place, Vec<u8>)> {
        let read = |slot| self.entries.key_bytes(slot);
        self.index.entry_from(from, read)
    }

    /// The words of all keys, and where their values are (CPU 0's); none if there are more than `most`.
    pub(crate) fn places(&self, most: usize) -> Option<Vec<(Vec<u64>, usize)>> {
        let read = |slot| {
            let key = self.entries.key(slot);
            let words = (0..key.words()).map(|index| key.word(index));
            (
                words.collect(),
                self.entries.value(slot, 0).expose_provenance(),
            )
        };
        let (mut places, mut from) = (Vec::new(), Place::FIRST);
        while let Some((place, entry)) = self.index.entry_from(from, read) {
            if places.len() == most {
                return None;
            }
            places.push(entry);
            from = place.next();
        }
        Some(places)
    }

    /// Sets the inner map under `key` (hashes of maps).
    pub(crate) fn set_inner(&self, key: &[u8], inner: Arc<Map>, flags: u64) -> Result<(), Errno> {
        let maps = self.maps.as_ref().ok_or(Errno::EINVAL)?;
        let _guard = maps.lock();
        let raw = Arc::into_raw(inner) as usize;
        if flags != UpdateFlags::NOEXIST.0
            && let Some(cell) = self.cell(key)
        {
            // SAFETY: `raw` is the reference just given up, taken back.
            refs::replace(
                cell,
                Some(unsafe { Arc::from_raw(raw as *const Map) }),
                &maps.reclaimer,
            );
            return Ok(());
        }
        let inserted = self.sys_update(key, &raw.to_ne_bytes(), flags);
        if inserted.is_err() {
            // SAFETY: as above; the map did not take it.
            drop(unsafe { Arc::from_raw(raw as *const Map) });
        }
        inserted
    }

    /// The inner map under `key` (hashes of maps).
    pub(crate) fn get_inner(&self, key: &[u8]) -> Option<Arc<Map>> {
        let _guard = self.maps.as_ref()?.lock();
        refs::clone(self.cell(key)?)
    }

    /// Removes and returns the inner map under `key` (hashes of maps).
    pub(crate) fn take_inner(&self, key: &[u8]) -> Option<Arc<Map>> {
        let _guard = self.maps.as_ref()?.lock();
        let inner = refs::clone(self.cell(key)?)?;
        // SAFETY: the slice has the key's length.
        unsafe { self.delete(key.as_ptr()) }.ok().map(|()| inner)
    }

    /// The cell under `key`. The caller holds the control lock, so it stays that key's.
    fn cell(&self, key: &[u8]) -> Option<&MapCell> {
        // SAFETY: the slice has the key's length.
        let cell = unsafe { self.lookup(key.as_ptr(), 0) };
        // SAFETY: values of hashes of maps are cells; entries stay mapped as long as `self`.
        (!cell.is_null()).then(|| unsafe { &*cell.cast::<MapCell>() })
    }

    /// Gives up the reference in a removed slot.
    fn drop_inner(&self, slot: u32) {
        if let Some(maps) = &self.maps {
            let cell = self.entries.value(slot, 0).cast::<MapCell>();
            // SAFETY: values of hashes of maps are cells.
            refs::replace(unsafe { &*cell }, None, &maps.reclaimer);
        }
    }
}

impl InnerMaps {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hash {
    fn drop(&mut self) {
        if self.maps.is_none() {
            return;
        }
        while let Some((_, key)) = self.key_from(Place::FIRST) {
            if self.sys_delete(&key).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The control side of maps: what the `bpf(2)` syscall offers.

use std::sync::Arc;

use squalus_isa::{Errno, MapFlags, MapType, UpdateFlags};

use crate::array::next_index;
use crate::sync::atomic::Ordering;
use crate::{Kind, Map, targets, validate};

/// The control side.
///
/// Keys and values of another length than the map's are `EINVAL`. `EPERM` answers what the flags
/// `BPF_F_RDONLY` and `BPF_F_WRONLY` forbid, and writes to a frozen map.
impl Map {
    /// The value under `key`, if present; in per-CPU maps all CPUs' ([`Map::sys_value_len`]). In maps of
    /// maps it is the inner map's id, in program arrays the program's number. Does not mark an LRU entry
    /// as used.
    ///
    /// # Errors
    /// See [`Map`]'s control side.
    pub fn sys_lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        self.sys_lookup_with(key, UpdateFlags::ANY)
    }

    /// As [`Map::sys_lookup`]; with `BPF_F_LOCK`, under the value's spin lock.
    ///
    /// # Errors
    /// `EINVAL` for other flags, or if the value has no lock; see [`Map`]'s control side.
    pub fn sys_lookup_with(
        &self,
        key: &[u8],
        flags: UpdateFlags,
    ) -> Result<Option<Vec<u8>>, Errno> {
        if flags.0 & !UpdateFlags::LOCK.0 != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_key(key)?;
        self.check_read()?;
        self.check_lock(flags.0)?;
        let locked = flags == UpdateFlags::LOCK;
        Ok(match &self.kind {
            Kind::Array(array) => array.sys_lookup(key_index(key), locked),
            Kind::Hash(hash) => hash.sys_lookup(key, locked),
            Kind::Trie(trie) => trie.sys_lookup(key),
            Kind::MapHash(hash) => hash.get_inner(key).map(|map| id_bytes(map.id)),
            Kind::MapArray(maps) => maps.get(key_index(key)).map(|map| id_bytes(map.id)),
            Kind::ProgArray(programs) => programs.get(key_index(key)).map(id_bytes),
            Kind::Queue(_) => self.next_value(false),
            // Needs the value that is asked for.
            Kind::Bloom(_) => return Err(Errno::EINVAL),
            Kind::Ring(_) | Kind::Perf(_) => return Err(Errno::ENOTSUPP),
            Kind::Targets(targets) => targets.sys_lookup(key_index(key))?,
            Kind::DeviceHash(hash) => {
                let cut = |mut value: Vec<u8>| {
                    value.truncate(self.def.value_size as usize);
                    value
                };
                hash.sys_lookup(key, false).map(cut)
            }
        })
    }

    /// Removes `key` and returns the last value it had (`BPF_MAP_LOOKUP_AND_DELETE_ELEM`); of a queue or
    /// stack, with an empty key, takes the next value. `None` if there is none.
    ///
    /// # Errors
    /// `ENOTSUPP` in all maps but hashes, queues and stacks; as [`Map::sys_lookup_with`].
    pub fn sys_lookup_and_delete(
        &self,
        key: &[u8],
        flags: UpdateFlags,
    ) -> Result<Option<Vec<u8>>, Errno> {
        if flags.0 & !UpdateFlags::LOCK.0 != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_key(key)?;
        self.check_read()?;
        let _write = self.begin_write()?;
        self.check_lock(flags.0)?;
        match &self.kind {
            Kind::Hash(hash) => Ok(hash.sys_take(key, flags == UpdateFlags::LOCK)),
            Kind::Queue(_) => Ok(self.next_value(true)),
            _ => Err(Errno::ENOTSUPP),
        }
    }

    /// Whether `value` may have been pushed to a `BLOOM_FILTER` (the syscall's lookup there).
    ///
    /// # Errors
    /// `EINVAL` in other maps; see [`Map`]'s control side.
    pub fn sys_peek(&self, value: &[u8]) -> Result<bool, Errno> {
        if value.len() != self.sys_value_len() {
            return Err(Errno::EINVAL);
        }
        self.check_read()?;
        match &self.kind {
            // SAFETY: the slice has the value's length.
            Kind::Bloom(bloom) => Ok(unsafe { bloom.peek(value.as_ptr()) }.is_ok()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The value that a queue or stack gives next; with `take`, it is gone then.
    fn next_value(&self, take: bool) -> Option<Vec<u8>> {
        let mut value = vec![0; self.sys_value_len()];
        let at = value.as_mut_ptr();
        // SAFETY: the vector has the value's length.
        let got = unsafe { if take { self.pop(at) } else { self.peek(at) } };
        got.ok().map(|()| value)
    }

    /// Sets the value under `key`; in per-CPU maps all CPUs'.
    ///
    /// # Errors
    /// As [`Map::update`]. Maps of references are set by [`Map::set_inner`] and [`Map::set_program`]:
    /// `EOPNOTSUPP`.
    pub fn sys_update(&self, key: &[u8], value: &[u8], flags: UpdateFlags) -> Result<(), Errno> {
        self.check_key(key)?;
        if value.len() != self.sys_value_len() {
            return Err(Errno::EINVAL);
        }
        let _write = self.begin_write()?;
        self.check_lock(flags.0)?;
        match &self.kind {
            Kind::Array(array) => array.sys_update(key_index(key), value, flags.0),
            Kind::Hash(hash) => hash.sys_update(key, value, flags.0),
            // SAFETY: the slices have the right lengths.
            Kind::Trie(trie) => unsafe { trie.update(key.as_ptr(), value.as_ptr(), flags.0) },
            // SAFETY: the slice has the value's length.
            Kind::Queue(queue) => unsafe { queue.push(value.as_ptr(), flags.0) },
            // SAFETY: the slice has the value's length.
            Kind::Bloom(bloom) => unsafe { bloom.push(value.as_ptr(), flags.0) },
            Kind::Targets(targets) => targets.sys_update(key_index(key), value, flags.0),
            Kind::DeviceHash(hash) => {
                let word = targets::word(value);
                // The kernel takes `BPF_EXIST`, but inserts all the same.
                let flags = match flags {
                    UpdateFlags(flags) if flags > UpdateFlags::EXIST.0 => flags,
                    UpdateFlags::NOEXIST => UpdateFlags::NOEXIST.0,
                    _ => UpdateFlags::ANY.0,
                };
                if word as u32 == 0 {
                    return Err(Errno::EINVAL);
                }
                hash.sys_update(key, &word.to_ne_bytes(), flags)
            }
            Kind::Ring(_) => Err(Errno::ENOTSUPP),
            Kind::MapHash(_) | Kind::MapArray(_) | Kind::ProgArray(_) | Kind::Perf(_) => {
                Err(Errno::EOPNOTSUPP)
            }
        }
    }

    /// Removes `key`, also from maps of references.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EINVAL` in arrays, `E2BIG` for an index outside an array of references.
    pub fn sys_delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.check_key(key)?;
        let _write = self.begin_write()?;
        match &self.kind {
            Kind::Array(_) | Kind::Queue(_) => Err(Errno::EINVAL),
            Kind::Bloom(_) => Err(Errno::EOPNOTSUPP),
            Kind::Ring(_) => Err(Errno::ENOTSUPP),
            Kind::Perf(events) => events.close(key_index(key)),
            Kind::Targets(targets) => targets.sys_delete(key_index(key)),
            Kind::Hash(hash) | Kind::MapHash(hash) | Kind::DeviceHash(hash) => hash.sys_delete(key),
            // SAFETY: the slice has the right length.
            Kind::Trie(trie) => unsafe { trie.delete(key.as_ptr()) },
            Kind::MapArray(maps) => maps.delete(key_index(key)),
            Kind::ProgArray(programs) => programs.set(key_index(key), None),
        }
    }

    /// The key after `key` in the map's own order; the first one if `key` is `None` or absent; `None`
    /// after the last. Arrays list all their indices.
    ///
    /// # Errors
    /// See [`Map`]'s control side.
    pub fn sys_next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, Errno> {
        if let Some(key) = key {
            self.check_key(key)?;
        }
        self.check_read()?;
        Ok(match &self.kind {
            Kind::Queue(_) => return Err(Errno::EINVAL),
            Kind::Bloom(_) => return Err(Errno::EOPNOTSUPP),
            Kind::Ring(_) => return Err(Errno::ENOTSUPP),
            Kind::Hash(hash) | Kind::MapHash(hash) | Kind::DeviceHash(hash) => {
                hash.sys_next_key(key)
            }
            Kind::Trie(trie) => trie.sys_next_key(key),
            Kind::Array(_)
            | Kind::MapArray(_)
            | Kind::ProgArray(_)
            | Kind::Perf(_)
            | Kind::Targets(_) => {
                next_index(self.def.max_entries, key.map(key_index)).map(id_bytes)
            }
        })
    }

    /// Puts `inner` into a map of maps under `key`, replacing what was there.
    ///
    /// # Errors
    /// `EINVAL` if this is no map of maps, or `inner` is not like its definition of inner maps: type, key
    /// size, value size and flags must be equal, and in arrays without `BPF_F_INNER_MAP` the number of
    /// entries. `E2BIG` if the index is outside or the map is full.
    pub fn set_inner(&self, key: &[u8], inner: Arc<Map>) -> Result<(), Errno> {
        self.check_key(key)?;
        let _write = self.begin_write()?;
        let template = self.def.inner.as_deref().ok_or(Errno::EINVAL)?;
        // The kernel looks at an array's index first.
        if self.def.kind == MapType::ArrayOfMaps && key_index(key) >= self.def.max_entries {
            return Err(Errno::E2BIG);
        }
        if !validate::fits_template(template, &inner.def) {
            return Err(Errno::EINVAL);
        }
        match &self.kind {
            Kind::MapArray(maps) => maps.set(key_index(key), inner),
            Kind::MapHash(hash) => hash.set_inner(key, inner, UpdateFlags::ANY.0),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The inner map under `key`, if one is set.
    ///
    /// # Errors
    /// `EINVAL` if this is no map of maps.
    pub fn get_inner(&self, key: &[u8]) -> Result<Option<Arc<Map>>, Errno> {
        self.check_key(key)?;
        match &self.kind {
            Kind::MapArray(maps) => Ok(maps.get(key_index(key))),
            Kind::MapHash(hash) => Ok(hash.get_inner(key)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Sets or clears the program at `index` of a `PROG_ARRAY`. Programs are numbers that the virtual
    /// machine gives.
    ///
    /// # Errors
    /// `EINVAL` in other maps, `E2BIG` for an index outside, `ENOENT` when clearing what was not set.
    pub fn set_program(&self, index: u32, program: Option<u32>) -> Result<(), Errno> {
        match &self.kind {
            Kind::ProgArray(programs) => {
                let _write = self.begin_write()?;
                programs.set(index, program)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Forbids the control side all further writes (`BPF_MAP_FREEZE`). Programs may still write.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// [`Map::freeze`] as the syscall does it.
    ///
    /// # Errors
    /// `ENOTSUPP` if values have locks or timers, `EPERM` with `BPF_F_RDONLY` or if it is frozen.
    pub fn sys_freeze(&self) -> Result<(), Errno> {
        if !self.def.fields.is_empty() {
            return Err(Errno::ENOTSUPP);
        }
        self.check_write()?;
        self.freeze();
        Ok(())
    }

    /// Whether [`Map::freeze`] was called.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.def.key_size as usize {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Whether `BPF_F_LOCK`, if set, can be obeyed.
    pub(crate) fn check_lock(&self, flags: u64) -> Result<(), Errno> {
        if flags & UpdateFlags::LOCK.0 != 0 && self.def.fields.spin_lock.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    pub(crate) fn check_read(&self) -> Result<(), Errno> {
        if self.def.flags.contains(MapFlags::WRONLY) {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_write(&self) -> Result<(), Errno> {
        if self.is_frozen() || self.def.flags.contains(MapFlags::RDONLY) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

/// The index in an array's key, whose length was checked.
fn key_index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}

fn id_bytes(id: u32) -> Vec<u8> {
    id.to_ne_bytes().to_vec()
}

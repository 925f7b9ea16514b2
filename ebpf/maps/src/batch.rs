//! Many elements with one call: the batch commands of `bpf(2)`.
//!
//! A walk in batches goes on where the one before ended, by a cursor that only the map understands: in
//! hashes a place in the table, so that deleting what was given does not start it again; elsewhere the last
//! key. What is in the map all the time is given as [`Map::for_each`] says.

use squalus_isa::{Errno, UpdateFlags};

use crate::index::Place;
use crate::{Kind, Map};

/// A part of a map's elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// How many elements.
    pub count: u32,
    /// Their keys, one after the other.
    pub keys: Vec<u8>,
    /// Their values, one after the other, each as [`Map::sys_lookup`] gives it.
    pub values: Vec<u8>,
    /// What the next batch is to be asked with.
    pub cursor: Option<Vec<u8>>,
    /// Whether the map's end was met (the kernel's `ENOENT`). A batch as long as asked for may end there
    /// without saying so; the next one is empty then.
    pub at_end: bool,
}

/// A batch that ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {done} elements: {errno}")]
pub struct BatchError {
    /// How many elements were changed before.
    pub done: u32,
    /// What the next one met.
    pub errno: Errno,
}

impl From<Errno> for BatchError {
    fn from(errno: Errno) -> BatchError {
        BatchError { done: 0, errno }
    }
}

impl Batch {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count += 1;
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
    }
}

/// Batches of the control side.
impl Map {
    /// Up to `count` elements from where `cursor` points, at first from the beginning
    /// (`BPF_MAP_LOOKUP_BATCH`).
    ///
    /// # Errors
    /// `ENOTSUPP` in maps without elements to list or of redirection; as [`Map::sys_lookup_with`].
    pub fn sys_lookup_batch(
        &self,
        cursor: Option<&[u8]>,
        count: u32,
        flags: UpdateFlags,
    ) -> Result<Batch, Errno> {
        self.check_read()?;
        match &self.kind {
            Kind::Hash(_) | Kind::MapHash(_) => self.hash_batch(cursor, count, flags, false),
            Kind::Array(_) | Kind::Trie(_) | Kind::MapArray(_) => {
                self.key_batch(cursor, count, flags)
            }
            _ => Err(Errno::ENOTSUPP),
        }
    }

    /// As [`Map::sys_lookup_batch`], and removes what it gives (`BPF_MAP_LOOKUP_AND_DELETE_BATCH`).
    ///
    /// # Errors
    /// `ENOTSUPP` in all maps but hashes; as [`Map::sys_lookup_with`].
    pub fn sys_lookup_and_delete_batch(
        &self,
        cursor: Option<&[u8]>,
        count: u32,
        flags: UpdateFlags,
    ) -> Result<Batch, Errno> {
        self.check_read()?;
        let _write = self.begin_write()?;
        match &self.kind {
            Kind::Hash(_) | Kind::MapHash(_) => self.hash_batch(cursor, count, flags, true),
            _ => Err(Errno::ENOTSUPP),
        }
    }

    /// Sets values in their order, up to the first that cannot be set (`BPF_MAP_UPDATE_BATCH`).
    ///
    /// # Errors
    /// `ENOTSUPP` in maps that have no such batches; as [`Map::sys_update`]. `EINVAL` unless there are as many values
    /// as keys; flags other than `BPF_F_LOCK` are `EINVAL`, too.
    pub fn sys_update_batch(
        &self,
        keys: &[u8],
        values: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), BatchError> {
        let _write = self.begin_write()?;
        if !self.has_batches() {
            return Err(Errno::ENOTSUPP.into());
        }
        self.check_batch_flags(flags)?;
        let (key_len, value_len) = (self.def.key_size as usize, self.sys_value_len());
        let count = self.count_of(keys)?;
        if values.len() != count * value_len {
            return Err(Errno::EINVAL.into());
        }
        let elements = keys.chunks(key_len).zip(values.chunks(value_len));
        each(elements, |(key, value)| self.sys_update(key, value, flags))
    }

    /// Removes keys in their order, up to the first that is not there (`BPF_MAP_DELETE_BATCH`).
    ///
    /// # Errors
    /// `ENOTSUPP` in arrays and maps that have no such batches; as [`Map::sys_delete`]. Flags are as for
    /// [`Map::sys_update_batch`].
    pub fn sys_delete_batch(&self, keys: &[u8], flags: UpdateFlags) -> Result<(), BatchError> {
        let _write = self.begin_write()?;
        if !matches!(self.kind, Kind::Hash(_) | Kind::MapHash(_) | Kind::Trie(_)) {
            return Err(Errno::ENOTSUPP.into());
        }
        self.check_batch_flags(flags)?;
        self.count_of(keys)?;
        each(keys.chunks(self.def.key_size as usize), |key| {
            self.sys_delete(key)
        })
    }

    fn has_batches(&self) -> bool {
        matches!(
            self.kind,
            Kind::Array(_) | Kind::Hash(_) | Kind::MapHash(_) | Kind::Trie(_) | Kind::MapArray(_)
        )
    }

    fn check_batch_flags(&self, flags: UpdateFlags) -> Result<(), Errno> {
        if flags.0 & !UpdateFlags::LOCK.0 != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_lock(flags.0)
    }

    fn count_of(&self, keys: &[u8]) -> Result<usize, Errno> {
        let key_len = self.def.key_size as usize;
        if !keys.len().is_multiple_of(key_len) {
            return Err(Errno::EINVAL);
        }
        Ok(keys.len() / key_len)
    }

    /// In the order of keys; the cursor is the last one.
    fn key_batch(
        &self,
        cursor: Option<&[u8]>,
        count: u32,
        flags: UpdateFlags,
    ) -> Result<Batch, Errno> {
        self.check_batch_flags(flags)?;
        let mut batch = Batch {
            cursor: cursor.map(<[u8]>::to_vec),
            ..Batch::default()
        };
        while batch.count < count {
            let Some(key) = self.sys_next_key(batch.cursor.as_deref())? else {
                batch.at_end = true;
                break;
            };
            if let Some(value) = self.sys_lookup_with(&key, flags)? {
                batch.add(&key, &value);
            }
            batch.cursor = Some(key);
        }
        Ok(batch)
    }

    /// In the order of places; the cursor is the next one's number.
    fn hash_batch(
        &self,
        cursor: Option<&[u8]>,
        count: u32,
        flags: UpdateFlags,
        take: bool,
    ) -> Result<Batch, Errno> {
        self.check_batch_flags(flags)?;
        let mut place = match cursor {
            None => Place::FIRST,
            Some(bytes) => {
                let number = bytes.try_into().map_err(|_| Errno::EINVAL)?;
                Place::from_number(u32::from_ne_bytes(number).into())
            }
        };
        let mut batch = Batch::default();
        while batch.count < count {
            let Some((at, key, value)) = self.entry_from(place, flags, take) else {
                batch.at_end = true;
                break;
            };
            if let Some(value) = value {
                batch.add(&key, &value);
            }
            place = at.next();
        }
        // Tables of the most entries there can be have fewer places than 2^32.
        batch.cursor = Some((place.number() as u32).to_ne_bytes().to_vec());
        Ok(batch)
    }

    /// The first entry at or after a place; no value if it is gone meanwhile.
    fn entry_from(
        &self,
        place: Place,
        flags: UpdateFlags,
        take: bool,
    ) -> Option<(Place, Vec<u8>, Option<Vec<u8>>)> {
        let locked = flags.0 & UpdateFlags::LOCK.0 != 0;
        match &self.kind {
            Kind::Hash(hash) => {
                let (at, key, value) = hash.sys_entry_from(place, locked)?;
                let value = if take {
                    hash.sys_take(&key, locked)
                } else {
                    Some(value)
                };
                Some((at, key, value))
            }
            Kind::MapHash(hash) => {
                let (at, key) = hash.key_from(place)?;
                let inner = if take {
                    hash.take_inner(&key)
                } else {
                    hash.get_inner(&key)
                };
                Some((at, key, inner.map(|map| map.id().to_ne_bytes().to_vec())))
            }
            _ => None,
        }
    }
}

/// Applies `change` to one element after the other.
fn each<T>(
    elements: impl Iterator<Item = T>,
    change: impl Fn(T) -> Result<(), Errno>,
) -> Result<(), BatchError> {
    for (done, element) in (0..).zip(elements) {
        change(element).map_err(|errno| BatchError { done, errno })?;
    }
    Ok(())
}

//! eBPF maps in userspace with the kernel's semantics.
//!
//! A [`Map`] has two sides, as in the kernel. The *program side* ([`Map::lookup`], [`Map::update`],
//! [`Map::delete`]) is what helpers and compiled code call for every packet: bare pointers, no allocation,
//! and no lock in a lookup. The *control side* (`sys_*`) is what the `bpf(2)` syscall offers: bytes in,
//! bytes out, per-CPU values of all CPUs one after the other.
//!
//! Both sides run at the same time on any number of threads. Keys and structure never tear: a lookup
//! returns the element of its own key or none. Values are memory that programs write in place, so a reader
//! may see a value half updated beyond one word, exactly as in the kernel.
//!
//! Results, error numbers and flags follow the kernel (the tests run the same operations on kernel maps);
//! memory layouts are our own, made to be inlined by a compiler and to touch few cache lines.
//! A pointer returned by a lookup stays valid memory while the map lives; after its element is deleted it
//! may come to hold another element's value, also as in the kernel.

mod arena;
mod array;
mod entries;
mod hash;
mod index;
mod key;
mod lpm;
mod lru;
mod pool;
mod reclaim;
mod refs;
mod set;
mod sync;
mod validate;
mod words;

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::fmt;
use std::sync::Arc;

use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};

pub use array::ArrayBase;
pub use reclaim::{Reclaimer, Worker};
pub use validate::MapError;

use array::{Array, next_index};
use entries::Value;
use hash::Hash;
use lpm::Trie;
use refs::{MapArray, MapCell, ProgArray};

/// What maps share: how many CPUs there are, and what frees removed inner maps.
///
/// One environment serves one virtual machine: maps of maps and the maps in them, and all workers.
#[derive(Clone, Debug)]
pub struct MapEnv {
    /// How many copies per-CPU maps have: the number of workers, at least 1.
    pub cpus: u32,
    /// Frees inner maps once no worker uses them.
    pub reclaimer: Arc<Reclaimer>,
    seed: u64,
    next_id: Arc<AtomicU32>,
}

impl MapEnv {
    /// An environment for `cpus` workers (at least 1), whose maps hash with random seeds.
    #[must_use]
    pub fn new(cpus: u32) -> MapEnv {
        use std::hash::{BuildHasher, RandomState};
        MapEnv::with_seed(cpus, RandomState::new().hash_one(cpus))
    }

    /// An environment whose maps derive their hash seeds from `seed`, for runs that can be replayed.
    #[must_use]
    pub fn with_seed(cpus: u32, seed: u64) -> MapEnv {
        MapEnv {
            cpus: cpus.max(1),
            reclaimer: Reclaimer::new(),
            seed,
            next_id: Arc::new(AtomicU32::new(1)),
        }
    }

    /// The hash seed of the map with this number.
    fn seed_of(&self, id: u32) -> u64 {
        self.seed ^ u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A map.
pub struct Map {
    def: MapDef,
    id: u32,
    cpus: u32,
    frozen: AtomicBool,
    kind: Kind,
}

enum Kind {
    Array(Array),
    Hash(Hash),
    MapHash(Hash),
    Trie(Box<Trie>),
    MapArray(MapArray),
    ProgArray(ProgArray),
}

impl Map {
    /// Creates an empty map (arrays: all zero). Takes no time however large it is.
    ///
    /// # Errors
    /// As the kernel refuses sizes and flags, if the type is not supported, or if memory is short.
    pub fn new(def: &MapDef, env: &MapEnv) -> Result<Arc<Map>, MapError> {
        validate::validate(def)?;
        let id = env.next_id.fetch_add(1, Ordering::Relaxed);
        let kind = Kind::new(def, env, id).map_err(|error| {
            MapError::new(
                def,
                Errno::ENOMEM,
                format!(
                    "no memory for {} entries ({error}); lower max_entries",
                    def.max_entries
                ),
            )
        })?;
        Ok(Arc::new(Map {
            def: def.clone(),
            id,
            cpus: env.cpus,
            frozen: AtomicBool::new(false),
            kind,
        }))
    }

    /// What the map was created from.
    #[must_use]
    pub fn def(&self) -> &MapDef {
        &self.def
    }

    /// A number that no other map of the same environment has. The control side reads it as the value
    /// in a map of maps.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many values the map has per key: the environment's CPUs in per-CPU maps, else 1.
    #[must_use]
    pub fn copies(&self) -> u32 {
        if self.def.kind.is_per_cpu() {
            self.cpus
        } else {
            1
        }
    }

    /// How many keys are present, in maps that count them (hashes and tries).
    #[must_use]
    pub fn live(&self) -> Option<u32> {
        match &self.kind {
            Kind::Hash(hash) | Kind::MapHash(hash) => Some(hash.len()),
            Kind::Trie(trie) => Some(trie.len()),
            Kind::Array(_) | Kind::MapArray(_) | Kind::ProgArray(_) => None,
        }
    }

    /// Length of what [`Map::sys_lookup`] returns and [`Map::sys_update`] takes: one value, or in per-CPU
    /// maps one per CPU, each padded to 8 bytes.
    #[must_use]
    pub fn sys_value_len(&self) -> usize {
        let value = self.def.value_size as usize;
        if self.def.kind.is_per_cpu() {
            words::pad(value) * self.cpus as usize
        } else {
            value
        }
    }
}

impl Kind {
    fn new(def: &MapDef, env: &MapEnv, id: u32) -> std::io::Result<Kind> {
        let hash = || Hash::new(def, env.cpus, env.seed_of(id), id, &env.reclaimer);
        Ok(match def.kind {
            MapType::Array | MapType::PerCpuArray => Kind::Array(Array::new(def, env.cpus, id)?),
            MapType::Hash | MapType::PerCpuHash | MapType::LruHash | MapType::LruPerCpuHash => {
                Kind::Hash(hash()?)
            }
            MapType::LpmTrie => Kind::Trie(Box::new(Trie::new(def, id)?)),
            MapType::HashOfMaps => Kind::MapHash(hash()?),
            MapType::ArrayOfMaps => {
                let reclaimer = Arc::clone(&env.reclaimer);
                Kind::MapArray(MapArray::new(def.max_entries, id, reclaimer)?)
            }
            MapType::ProgArray => Kind::ProgArray(ProgArray::new(def.max_entries)),
            // Refused by `validate`.
            _ => return Err(std::io::ErrorKind::Unsupported.into()),
        })
    }
}

/// The program side.
///
/// In all of it `key` must be readable for the key size and `value` for the value size. Neither needs to
/// be aligned. `cpu` is below the environment's number of CPUs (others count as 0). A caller that uses
/// what a lookup returned must hold the map, and for inner maps be a registered [`Worker`].
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
            Kind::ProgArray(_) => std::ptr::null_mut(),
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
            Kind::MapHash(_) | Kind::MapArray(_) | Kind::ProgArray(_) => Err(Errno::EOPNOTSUPP),
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
            Kind::Array(_) => Err(Errno::EINVAL),
            // SAFETY: the caller's.
            Kind::Hash(hash) => unsafe { hash.delete(key) },
            // SAFETY: the caller's.
            Kind::Trie(trie) => unsafe { trie.delete(key) },
            Kind::MapHash(_) | Kind::MapArray(_) | Kind::ProgArray(_) => Err(Errno::EOPNOTSUPP),
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
    /// The caller must be a [`Worker`] of this environment's reclaimer that is not paused.
    pub unsafe fn find_inner<T>(&self, ask: impl FnMut(&Map) -> Option<T>) -> Option<T> {
        // SAFETY: a non-null cell holds a live map, which the reclaimer keeps while the caller may use it.
        let inner = |cell: &MapCell| unsafe { cell.load(Ordering::Acquire).as_ref() };
        match &self.kind {
            Kind::MapArray(maps) => maps.cells().filter_map(inner).find_map(ask),
            Kind::MapHash(hash) => hash.cells().filter_map(inner).find_map(ask),
            Kind::Array(_) | Kind::Hash(_) | Kind::Trie(_) | Kind::ProgArray(_) => None,
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
            Kind::MapHash(_) | Kind::MapArray(_) | Kind::ProgArray(_) => false,
        }
    }

    /// Where the elements of an `ARRAY`, `PERCPU_ARRAY` or `ARRAY_OF_MAPS` (pointers, null if unset) are.
    #[must_use]
    pub fn array_base(&self) -> Option<ArrayBase> {
        match &self.kind {
            Kind::Array(array) => Some(array.base()),
            Kind::MapArray(maps) => Some(maps.base()),
            Kind::Hash(_) | Kind::MapHash(_) | Kind::Trie(_) | Kind::ProgArray(_) => None,
        }
    }
}

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
        self.check_key(key)?;
        self.check_read()?;
        Ok(match &self.kind {
            Kind::Array(array) => array.sys_lookup(key_index(key)),
            Kind::Hash(hash) => hash.sys_lookup(key),
            Kind::Trie(trie) => trie.sys_lookup(key),
            Kind::MapHash(hash) => hash.get_inner(key).map(|map| id_bytes(map.id)),
            Kind::MapArray(maps) => maps.get(key_index(key)).map(|map| id_bytes(map.id)),
            Kind::ProgArray(programs) => programs.get(key_index(key)).map(id_bytes),
        })
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
        self.check_write()?;
        match &self.kind {
            Kind::Array(array) => array.sys_update(key_index(key), value, flags.0),
            Kind::Hash(hash) => hash.sys_update(key, value, flags.0),
            // SAFETY: the slices have the right lengths.
            Kind::Trie(trie) => unsafe { trie.update(key.as_ptr(), value.as_ptr(), flags.0) },
            Kind::MapHash(_) | Kind::MapArray(_) | Kind::ProgArray(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Removes `key`, also from maps of references.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EINVAL` in arrays, `E2BIG` for an index outside an array of references.
    pub fn sys_delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.check_key(key)?;
        self.check_write()?;
        match &self.kind {
            Kind::Array(_) => Err(Errno::EINVAL),
            Kind::Hash(hash) | Kind::MapHash(hash) => hash.sys_delete(key),
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
            Kind::Hash(hash) | Kind::MapHash(hash) => hash.sys_next_key(key),
            Kind::Trie(trie) => trie.sys_next_key(key),
            Kind::Array(_) | Kind::MapArray(_) | Kind::ProgArray(_) => {
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
        self.check_write()?;
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
                self.check_write()?;
                programs.set(index, program)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Forbids the control side all further writes (`BPF_MAP_FREEZE`). Programs may still write.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
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

    fn check_read(&self) -> Result<(), Errno> {
        if self.def.flags.contains(MapFlags::WRONLY) {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    fn check_write(&self) -> Result<(), Errno> {
        if self.is_frozen() || self.def.flags.contains(MapFlags::RDONLY) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("id", &self.id)
            .field("def", &self.def)
            .finish_non_exhaustive()
    }
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

/// The index in an array's key, whose length was checked.
fn key_index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}

fn id_bytes(id: u32) -> Vec<u8> {
    id.to_ne_bytes().to_vec()
}

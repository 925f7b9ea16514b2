//! eBPF maps in userspace with the kernel's semantics.
//!
//! A [`Map`] has two sides, as in the kernel. The *program side* ([`Map::lookup`], [`Map::update`],
//! [`Map::push`], [`Map::redirect`] and so on) is what helpers and compiled code call for every packet:
//! bare pointers, no allocation, and no lock in a lookup. The *control side* (`sys_*`) is what the `bpf(2)`
//! syscall offers: bytes in, bytes out, per-CPU values of all CPUs one after the other.
//!
//! Both sides run at the same time on any number of threads. Keys and structure never tear: a lookup
//! returns the element of its own key or none. Values are memory that programs write in place, so a reader
//! may see a value half updated beyond one word, exactly as in the kernel.
//!
//! Results, error numbers and flags follow the kernel (the tests run the same operations on kernel maps);
//! memory layouts are our own, made to be inlined by a compiler and to touch few cache lines.
//! A pointer returned by a lookup stays valid memory while the map lives; after its element is deleted it
//! may come to hold another element's value, also as in the kernel.

mod ahead;
mod arena;
mod array;
mod batch;
mod bloom;
mod contents;
mod control;
mod entries;
mod hash;
mod index;
mod inline;
mod key;
mod layout;
mod lpm;
mod lru;
#[cfg(all(test, feature = "model"))]
mod models;
mod perf;
mod pool;
mod program;
mod queue;
mod quota;
mod reclaim;
mod refs;
mod ring;
mod set;
mod spin;
mod sync;
mod targets;
mod validate;
mod words;
mod writes;

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::fmt;
use std::sync::Arc;

use squalus_isa::{Errno, MapDef, MapFlags, MapType};

pub use ahead::Ahead;
pub use array::ArrayBase;
pub use batch::{Batch, BatchError};
pub use inline::HashLayout;
pub use perf::{PERF_CURRENT_CPU, PerfEvents, PerfRecord};
pub use program::Cursor;
pub use reclaim::{Reclaimer, Worker};
pub use ring::{RING_FORCE_WAKEUP, RING_NO_WAKEUP, Ring};
pub use spin::{spin_lock, spin_unlock};
pub use targets::Target;
pub use validate::MapError;
pub use writes::WriteHook;

use array::Array;
use bloom::Bloom;
use hash::Hash;
use lpm::Trie;
use queue::Queue;
use refs::{MapArray, ProgArray};
use targets::Targets;
use writes::HookCell;

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
    fn seed_of(&self, def: &MapDef, id: u32) -> u64 {
        if def.flags.contains(MapFlags::ZERO_SEED) {
            return 0;
        }
        self.seed ^ u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A map.
pub struct Map {
    def: MapDef,
    id: u32,
    cpus: u32,
    frozen: AtomicBool,
    /// Hears of the control side's writes.
    hook: HookCell,
    /// Of a hash or an array of values; else zeros.
    layout: HashLayout,
    kind: Kind,
}

enum Kind {
    Array(Array),
    Hash(Hash),
    MapHash(Hash),
    Trie(Box<Trie>),
    MapArray(MapArray),
    ProgArray(ProgArray),
    Queue(Queue),
    Bloom(Bloom),
    Targets(Targets),
    Ring(Ring),
    Perf(PerfEvents),
    /// Values are words as in [`Targets`], 8 bytes whatever the definition says.
    DeviceHash(Hash),
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
            def: validate::created(def),
            id,
            cpus: env.cpus,
            frozen: AtomicBool::new(false),
            hook: HookCell::new(),
            layout: match &kind {
                Kind::Hash(hash) => hash.layout(),
                Kind::Array(array) => HashLayout::of_array(array),
                _ => HashLayout::default(),
            },
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

    /// How many keys are present (in queues and stacks: values), in maps that count them.
    #[must_use]
    pub fn live(&self) -> Option<u32> {
        match &self.kind {
            Kind::Hash(hash) | Kind::MapHash(hash) | Kind::DeviceHash(hash) => Some(hash.len()),
            Kind::Trie(trie) => Some(trie.len()),
            Kind::Queue(queue) => Some(queue.len()),
            _ => None,
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
        let hash =
            |def: &MapDef| Hash::new(def, env.cpus, env.seed_of(def, id), id, &env.reclaimer);
        Ok(match def.kind {
            MapType::Array | MapType::PerCpuArray => Kind::Array(Array::new(def, env.cpus, id)?),
            MapType::Hash | MapType::PerCpuHash | MapType::LruHash | MapType::LruPerCpuHash => {
                Kind::Hash(hash(def)?)
            }
            MapType::LpmTrie => Kind::Trie(Box::new(Trie::new(def, id)?)),
            MapType::HashOfMaps => Kind::MapHash(hash(def)?),
            MapType::ArrayOfMaps => {
                let reclaimer = Arc::clone(&env.reclaimer);
                Kind::MapArray(MapArray::new(def.max_entries, id, reclaimer)?)
            }
            MapType::ProgArray => Kind::ProgArray(ProgArray::new(def.max_entries, id)?),
            MapType::Queue | MapType::Stack => Kind::Queue(Queue::new(def, id)?),
            MapType::BloomFilter => Kind::Bloom(Bloom::new(def, env.seed_of(def, id) as u32, id)?),
            MapType::DevMap | MapType::CpuMap | MapType::XskMap => {
                Kind::Targets(Targets::new(def, env.cpus, id)?)
            }
            MapType::DevMapHash => Kind::DeviceHash(hash(&MapDef {
                value_size: size_of::<u64>() as u32,
                ..def.clone()
            })?),
            MapType::RingBuf => Kind::Ring(Ring::new(def.max_entries)?),
            MapType::PerfEventArray => {
                let reclaimer = Arc::clone(&env.reclaimer);
                Kind::Perf(PerfEvents::new(def, env.cpus, id, reclaimer)?)
            }
            // Refused by `validate`.
            _ => return Err(std::io::ErrorKind::Unsupported.into()),
        })
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

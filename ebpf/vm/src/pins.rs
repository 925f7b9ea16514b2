//! Maps that several machines share by name, as the kernel's pinned maps.
//!
//! A map that an object wants pinned (`LIBBPF_PIN_BY_NAME`, iproute2's `PIN_GLOBAL_NS`) is made by the first
//! machine built with a [`PinnedMaps`] and found by the next ones, if it is what they expect: the loader's rule is
//! libbpf's. The namespace is ours and lives in the process: it has nothing to do with a bpf file system.
//!
//! Machines that share maps share what frees removed elements too, and so the number of CPUs: of all workers of all
//! these machines, no two that run at the same time may have the same number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squalus_isa::{MapDef, MapType};
use squalus_maps::{Map, MapEnv};
use squalus_object::Pinning;

use crate::VmError;

/// A namespace of maps. Clones are handles on the same one.
#[derive(Clone)]
pub struct PinnedMaps {
    env: MapEnv,
    maps: Arc<Mutex<ByName>>,
}

type ByName = HashMap<String, Arc<Map>>;

impl std::fmt::Debug for PinnedMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl PinnedMaps {
    /// An empty namespace for machines of `cpus` CPUs (workers) together, at least 1.
    #[must_use]
    pub fn new(cpus: u32) -> PinnedMaps {
        PinnedMaps::of(MapEnv::new(cpus.max(1)))
    }

    /// As [`PinnedMaps::new`], with hash seeds that follow from `seed`, so that runs can be replayed.
    #[must_use]
    pub fn with_seed(cpus: u32, seed: u64) -> PinnedMaps {
        PinnedMaps::of(MapEnv::with_seed(cpus.max(1), seed))
    }

    fn of(env: MapEnv) -> PinnedMaps {
        PinnedMaps {
            env,
            maps: Arc::default(),
        }
    }

    /// How many CPUs the machines have together.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.env.cpus
    }

    /// The names there are, sorted. Maps shared only among loads of one object have that object's number before a slash.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// What the map with this name is like.
    #[must_use]
    pub fn def(&self, name: &str) -> Option<MapDef> {
        self.lock().get(name).map(|map| map.def().clone())
    }

    /// Removes a name; machines that have the map keep it. Whether there was one.
    pub fn unpin(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    pub(crate) fn env(&self) -> &MapEnv {
        &self.env
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to build a machine; others wait until it is done.
    pub(crate) fn begin(&self) -> Session<'_> {
        Session {
            pinned: self.lock(),
            new: Vec::new(),
        }
    }
}

/// Under which name a map is shared, and whether a new one takes the name over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    name: String,
    replace: bool,
}

impl Pin {
    /// `object` tells apart objects whose maps are shared among their own loads only.
    pub fn of(pinning: Pinning, map: &str, object: u64) -> Option<Pin> {
        let (name, replace) = match pinning {
            Pinning::None => return None,
            Pinning::ByName => (map.to_owned(), false),
            Pinning::Replace => (map.to_owned(), true),
            Pinning::ByObject => (format!("{object:016x}/{map}"), false),
        };
        Some(Pin { name, replace })
    }
}

/// The names while a machine is built. What is new is pinned only when all has succeeded.
pub(crate) struct Session<'p> {
    pinned: MutexGuard<'p, ByName>,
    new: Vec<(String, Arc<Map>)>,
}

impl Session<'_> {
    /// The map that is pinned already, if it is the one expected.
    pub fn find(&self, pin: &Pin, def: &MapDef) -> Result<Option<Arc<Map>>, VmError> {
        let Some(map) = self.pinned.get(&pin.name).filter(|_| !pin.replace) else {
            return Ok(None);
        };
        match difference(def, map.def()) {
            None => Ok(Some(Arc::clone(map))),
            Some(difference) => Err(VmError::Pinned {
                map: def.name.clone(),
                difference,
            }),
        }
    }

    /// Pins a new map in the end.
    pub fn add(&mut self, pin: &Pin, map: &Arc<Map>) {
        self.new.push((pin.name.clone(), Arc::clone(map)));
    }

    /// Makes the names known.
    pub fn publish(mut self) {
        self.pinned.extend(self.new);
    }
}

/// How a pinned map is other than expected, in libbpf's sense; also if it may refer to programs, whose numbers mean
/// nothing to another machine.
fn difference(expected: &MapDef, pinned: &MapDef) -> Option<String> {
    if expected.kind != pinned.kind {
        return Some(format!(
            "its type is {}, not {}",
            pinned.kind, expected.kind
        ));
    }
    let number = |what, pinned: u64, expected: u64| {
        (pinned != expected).then(|| format!("its {what} is {pinned}, not {expected}"))
    };
    let differs = [
        ("key size", pinned.key_size, expected.key_size),
        ("value size", pinned.value_size, expected.value_size),
        (
            "number of entries",
            pinned.max_entries,
            expected.max_entries,
        ),
        ("flags", pinned.flags.0, expected.flags.0),
    ]
    .into_iter()
    .find_map(|(what, pinned, expected)| number(what, pinned.into(), expected.into()))
    .or_else(|| number("map_extra", pinned.extra, expected.extra));
    let programs = match pinned.kind {
        MapType::ProgArray => true,
        MapType::DevMap | MapType::DevMapHash | MapType::CpuMap => pinned.value_size > 4,
        _ => false,
    };
    differs.or_else(|| {
        programs.then(|| {
            "its entries are programs of the machine that made it, which another one cannot run"
                .to_owned()
        })
    })
}

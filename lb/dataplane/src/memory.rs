//! Maps in memory, and a dataplane that has nothing else: for dry runs and tests of everything above it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use squalus_abi::maps::{BALANCER, Presence};
use squalus_engine::{EngineError, MapAccess, MapRef};
use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};

use crate::controller::load::map_def;
use crate::dataplane::{Dataplane, Info};
use crate::error::DataplaneError;

/// Maps with the kernel's errors for what the control plane does, but no eviction and no prefix match.
#[derive(Debug)]
pub struct MemoryMaps {
    defs: Vec<MapDef>,
    cpus: usize,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    flat: BTreeMap<String, Elements>,
    inner: BTreeMap<(String, Vec<u8>), (MapDef, Elements)>,
    /// How many more changes maps take; others take all.
    budgets: BTreeMap<String, u64>,
}

type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

impl MemoryMaps {
    /// Empty maps with these definitions.
    #[must_use]
    pub fn new(defs: Vec<MapDef>, cpus: usize) -> Self {
        MemoryMaps {
            defs,
            cpus,
            contents: Mutex::default(),
        }
    }

    /// The maps of a balancer without optional features.
    #[must_use]
    pub fn balancer(cpus: usize) -> Self {
        let always = BALANCER
            .iter()
            .filter(|spec| spec.presence == Presence::Always);
        Self::new(always.map(map_def).collect(), cpus)
    }

    /// Makes a map refuse changes with `EPERM` after so many more; `None` lets it take all again.
    pub fn refuse_after(&self, map: &str, changes: Option<u64>) {
        let mut contents = self.lock();
        match changes {
            Some(budget) => drop(contents.budgets.insert(map.to_owned(), budget)),
            None => drop(contents.budgets.remove(map)),
        }
    }

    /// The definition of an inner map.
    #[must_use]
    pub fn inner_def(&self, outer: &str, key: &[u8]) -> Option<MapDef> {
        let inner = (outer.to_owned(), key.to_vec());
        self.lock().inner.get(&inner).map(|(def, _)| def.clone())
    }

    /// All elements of a map, ordered by key.
    #[must_use]
    pub fn elements(&self, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let contents = self.lock();
        contents
            .flat
            .get(map)
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn def(&self, name: &str) -> Result<&MapDef, EngineError> {
        let found = self.defs.iter().find(|def| def.name == name);
        found.ok_or_else(|| EngineError::NoMap(name.to_owned()))
    }

    /// Bytes of a value as the interface passes it.
    fn value_size(&self, def: &MapDef) -> usize {
        match def.kind.is_per_cpu() {
            true => self.cpus * def.value_size.next_multiple_of(8) as usize,
            false => def.value_size as usize,
        }
    }

    /// Runs `act` on a map's definition and elements.
    fn with<T>(
        &self,
        map: MapRef<'_>,
        act: impl FnOnce(&MapDef, &mut Elements) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut contents = self.lock();
        match map {
            MapRef::Name(name) => {
                let def = self.def(name)?;
                act(def, contents.flat.entry(name.to_owned()).or_default())
            }
            MapRef::Inner { outer, key } => {
                let inner = contents.inner.get_mut(&(outer.to_owned(), key.to_vec()));
                let (def, elements) = inner.ok_or_else(|| EngineError::NoMap(map.to_string()))?;
                act(def, elements)
            }
        }
    }

    fn spend(&self, map: MapRef<'_>, operation: &'static str) -> Result<(), EngineError> {
        let (MapRef::Name(name) | MapRef::Inner { outer: name, .. }) = map;
        let mut contents = self.lock();
        let Some(budget) = contents.budgets.get_mut(name) else {
            return Ok(());
        };
        let left = budget.checked_sub(1);
        *budget = left.ok_or_else(|| refused(&map.to_string(), operation, Errno::EPERM))?;
        Ok(())
    }
}

fn refused(map: &str, operation: &'static str, errno: Errno) -> EngineError {
    EngineError::Map {
        map: map.to_owned(),
        operation,
        errno,
    }
}

fn check_size(map: &str, what: &'static str, got: usize, want: usize) -> Result<(), EngineError> {
    match got == want {
        true => Ok(()),
        false => Err(EngineError::Size {
            map: map.to_owned(),
            what,
            got,
            want,
        }),
    }
}

/// Whether all keys below the map's size exist from the start.
fn is_array(def: &MapDef) -> bool {
    matches!(
        def.kind,
        MapType::Array | MapType::PerCpuArray | MapType::ArrayOfMaps
    )
}

fn index_of(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}

impl MapAccess for MemoryMaps {
    fn maps(&self) -> Vec<MapDef> {
        self.defs.clone()
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.with(map, |def, elements| {
            check_size(&def.name, "key", key.len(), def.key_size as usize)?;
            let zero = || {
                let exists = is_array(def) && index_of(key) < def.max_entries;
                exists.then(|| vec![0; self.value_size(def)])
            };
            Ok(elements.get(key).cloned().or_else(zero))
        })
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        self.spend(map, "update")?;
        self.with(map, |def, elements| {
            check_size(&def.name, "key", key.len(), def.key_size as usize)?;
            check_size(&def.name, "value", value.len(), self.value_size(def))?;
            let present = elements.contains_key(key) || is_array(def);
            let full = match is_array(def) {
                true => index_of(key) >= def.max_entries,
                false => !present && elements.len() >= def.max_entries as usize,
            };
            let errno = match flags {
                UpdateFlags::NOEXIST if present => Some(Errno::EEXIST),
                UpdateFlags::EXIST if !present => Some(Errno::ENOENT),
                _ if full => Some(Errno::E2BIG),
                _ => None,
            };
            match errno {
                Some(errno) => Err(refused(&def.name, "update", errno)),
                None => {
                    elements.insert(key.to_vec(), value.to_vec());
                    Ok(())
                }
            }
        })
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        let (key_size, value_size) = self.with(map, |def, _| {
            Ok((def.key_size as usize, self.value_size(def)))
        })?;
        let pairs = keys.chunks(key_size).zip(values.chunks(value_size));
        let mut pairs = pairs.map(|(key, value)| self.update(map, key, value, UpdateFlags::ANY));
        pairs.try_for_each(|outcome| outcome)
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        self.spend(map, "delete")?;
        if let MapRef::Name(outer) = map
            && self.def(outer)?.kind.is_map_in_map()
        {
            let removed = self.lock().inner.remove(&(outer.to_owned(), key.to_vec()));
            let missing = || refused(outer, "delete", Errno::ENOENT);
            return removed.map(drop).ok_or_else(missing);
        }
        self.with(map, |def, elements| match is_array(def) {
            true => Err(refused(&def.name, "delete", Errno::EINVAL)),
            false => match elements.remove(key) {
                Some(_) => Ok(()),
                None => Err(refused(&def.name, "delete", Errno::ENOENT)),
            },
        })
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        self.with(map, |_, elements| {
            let next = match key {
                Some(key) if elements.contains_key(key) => {
                    elements.keys().find(|candidate| candidate.as_slice() > key)
                }
                _ => elements.keys().next(),
            };
            Ok(next.cloned())
        })
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        self.spend(outer.into(), "update")?;
        let outer_def = self.def(outer)?;
        if !outer_def.kind.is_map_in_map() {
            return Err(refused(outer, "update", Errno::EINVAL));
        }
        check_size(outer, "key", key.len(), outer_def.key_size as usize)?;
        let inner = (def.clone(), Elements::new());
        self.lock()
            .inner
            .insert((outer.to_owned(), key.to_vec()), inner);
        Ok(())
    }
}

/// A dataplane that is only maps and forwards nothing.
impl Dataplane for MemoryMaps {
    fn maps(&self) -> &dyn MapAccess {
        self
    }

    fn info(&self) -> Info {
        Info {
            backend: "none",
            engine: "memory".to_owned(),
            place: String::new(),
            asked: "offline".to_owned(),
            obtained: "offline".to_owned(),
            workers: self.cpus,
        }
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        Ok(())
    }
}

/// Shared maps, so that a test can look into what a controller owns.
impl Dataplane for std::sync::Arc<MemoryMaps> {
    fn maps(&self) -> &dyn MapAccess {
        &**self
    }

    fn info(&self) -> Info {
        Dataplane::info(&**self)
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        Ok(())
    }
}

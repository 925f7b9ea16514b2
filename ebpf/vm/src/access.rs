//! The control plane's side: maps by name, keys and values as bytes, from any thread.

use std::sync::Arc;

use squalus_engine::{EngineError, MapAccess, MapRef};
use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};
use squalus_maps::Map;

use crate::shared::Shared;

/// The maps of a machine. Clones are handles on the same maps; use them from any thread while workers run.
///
/// In program arrays a value is the number of a program: its place in [`squalus_engine::Engine::programs`],
/// as four bytes. In device and CPU maps the second half of a value is that number plus one; 0 is no
/// program. Inner maps are set with [`MapAccess::create_inner`].
#[derive(Clone)]
pub struct Maps {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.shared.map_index.keys())
            .finish()
    }
}

impl Maps {
    pub(crate) fn named(&self, name: &str) -> Result<&Arc<Map>, EngineError> {
        let index = self.shared.map_index.get(name);
        index
            .and_then(|index| self.shared.maps.get(*index))
            .ok_or_else(|| EngineError::NoMap(name.to_owned()))
    }

    fn resolve(&self, map: MapRef<'_>) -> Result<Arc<Map>, EngineError> {
        match map {
            MapRef::Name(name) => self.named(name).cloned(),
            MapRef::Inner { outer, key } => {
                let outer_map = self.named(outer)?;
                check_key(map, outer_map, key)?;
                let refused = |errno| EngineError::Map {
                    map: outer.to_owned(),
                    operation: "lookup of an inner map",
                    errno,
                };
                outer_map
                    .get_inner(key)
                    .map_err(refused)?
                    .ok_or_else(|| EngineError::NoMap(map.to_string()))
            }
        }
    }

    fn update_one(
        &self,
        (name, map): (MapRef<'_>, &Map),
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        check_key(name, map, key)?;
        if map.def().kind == MapType::ProgArray {
            return self.set_program(name, map, key, value);
        }
        let want = map.sys_value_len();
        check_size(name, "value", value.len(), want)?;
        if let MapType::DevMap | MapType::DevMapHash | MapType::CpuMap = map.def().kind {
            self.check_target(value).map_err(refused(name, "update"))?;
        }
        map.sys_update(key, value, flags)
            .map_err(refused(name, "update"))
    }

    /// The second half of a target is the number of a program plus one, or 0 or less for none.
    fn check_target(&self, value: &[u8]) -> Result<(), Errno> {
        let Some(program) = value.get(4..).and_then(<[u8]>::first_chunk::<4>) else {
            return Ok(());
        };
        match i32::from_ne_bytes(*program) > self.shared.programs.len() as i32 {
            true => Err(Errno::EBADF),
            false => Ok(()),
        }
    }

    fn set_program(
        &self,
        name: MapRef<'_>,
        map: &Map,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), EngineError> {
        let wrong = |_| EngineError::Size {
            map: name.to_string(),
            what: "value",
            got: value.len(),
            want: 4,
        };
        let id = u32::from_ne_bytes(value.try_into().map_err(wrong)?);
        let index = u32::from_ne_bytes(key.try_into().map_err(wrong)?);
        let set = if (id as usize) < self.shared.programs.len() {
            map.set_program(index, Some(id))
        } else {
            Err(Errno::EBADF)
        };
        set.map_err(refused(name, "update"))
    }
}

impl MapAccess for Maps {
    fn maps(&self) -> Vec<MapDef> {
        self.shared
            .maps
            .iter()
            .map(|map| map.def().clone())
            .collect()
    }

    fn cpus(&self) -> usize {
        self.shared.settings.cpus as usize
    }

    fn lookup(&self, name: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let map = self.resolve(name)?;
        check_key(name, &map, key)?;
        map.sys_lookup(key).map_err(refused(name, "lookup"))
    }

    fn update(
        &self,
        name: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        let map = self.resolve(name)?;
        self.update_one((name, &map), key, value, flags)
    }

    fn update_batch(
        &self,
        name: MapRef<'_>,
        keys: &[u8],
        values: &[u8],
    ) -> Result<(), EngineError> {
        let map = self.resolve(name)?;
        let key_len = map.def().key_size as usize;
        let value_len = map.sys_value_len();
        let count = keys.len() / key_len;
        check_size(name, "key batch", keys.len(), count * key_len)?;
        check_size(name, "value batch", values.len(), count * value_len)?;
        let pairs = keys
            .chunks_exact(key_len)
            .zip(values.chunks_exact(value_len));
        for (key, value) in pairs {
            self.update_one((name, &map), key, value, UpdateFlags::ANY)?;
        }
        Ok(())
    }

    fn delete(&self, name: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        let map = self.resolve(name)?;
        check_key(name, &map, key)?;
        map.sys_delete(key).map_err(refused(name, "delete"))
    }

    fn next_key(
        &self,
        name: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let map = self.resolve(name)?;
        if let Some(key) = key {
            check_key(name, &map, key)?;
        }
        map.sys_next_key(key).map_err(refused(name, "next key"))
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        let outer_map = self.named(outer)?;
        let name = MapRef::Name(outer);
        check_key(name, outer_map, key)?;
        let inner = Map::new(def, &self.shared.map_env)
            .map_err(|error| refused(name, "creation of an inner map")(error.errno))?;
        outer_map
            .set_inner(key, inner)
            .map_err(refused(name, "update of an inner map"))
    }
}

fn check_key(name: MapRef<'_>, map: &Map, key: &[u8]) -> Result<(), EngineError> {
    check_size(name, "key", key.len(), map.def().key_size as usize)
}

fn check_size(
    name: MapRef<'_>,
    what: &'static str,
    got: usize,
    want: usize,
) -> Result<(), EngineError> {
    if got == want {
        return Ok(());
    }
    Err(EngineError::Size {
        map: name.to_string(),
        what,
        got,
        want,
    })
}

fn refused(name: MapRef<'_>, operation: &'static str) -> impl FnOnce(Errno) -> EngineError {
    let map = name.to_string();
    move |errno| EngineError::Map {
        map,
        operation,
        errno,
    }
}

//! Applying operations, and taking them back.

use squalus_core::MapOp;
use squalus_engine::{EngineError, MapAccess, MapRef};
use squalus_isa::{MapType, UpdateFlags};

use super::load::map_def;
use crate::error::ControlError;

/// How one applied operation is taken back.
enum Inverse {
    /// Give the element the value it had, or remove it.
    Restore {
        place: Place,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// Remove the inner map.
    RemoveInner { map: &'static str, key: Vec<u8> },
}

/// A map, owned.
enum Place {
    Flat(&'static str),
    Inner { outer: &'static str, key: Vec<u8> },
}

impl Place {
    fn as_ref(&self) -> MapRef<'_> {
        match self {
            Place::Flat(name) => MapRef::Name(name),
            Place::Inner { outer, key } => MapRef::Inner { outer, key },
        }
    }
}

/// Operations that were not all applied.
pub(super) struct Failure {
    pub refusal: EngineError,
    applied: Vec<Inverse>,
}

impl Failure {
    /// Takes back what was applied, then writes `rings` (what the balancer says rings were).
    pub fn take_back(self, maps: &dyn MapAccess, rings: &[MapOp]) -> ControlError {
        let Failure { refusal, applied } = self;
        let restored = applied
            .into_iter()
            .rev()
            .try_for_each(|inverse| inverse.run(maps))
            .and_then(|()| restore_rings(maps, rings));
        match restored {
            Ok(()) => ControlError::Refused(refusal),
            Err(restoring) => ControlError::Torn { refusal, restoring },
        }
    }
}

/// Writes rings back. A map that refused the first slot of a new ring refuses the old one too, but then
/// still holds it, which is as good.
fn restore_rings(maps: &dyn MapAccess, rings: &[MapOp]) -> Result<(), EngineError> {
    let Err(failure) = apply(maps, rings) else {
        return Ok(());
    };
    for op in rings {
        let MapOp::UpdateBatch { map, keys, values } = op else {
            return Err(failure.refusal);
        };
        let slots = keys
            .chunks_exact(size_of::<u32>())
            .zip(values.chunks_exact(size_of::<u32>()));
        for (key, value) in slots {
            if maps.lookup((*map).into(), key)?.as_deref() != Some(value) {
                return Err(failure.refusal);
            }
        }
    }
    Ok(())
}

impl Inverse {
    fn run(self, maps: &dyn MapAccess) -> Result<(), EngineError> {
        match self {
            Inverse::Restore {
                place,
                key,
                value: Some(value),
            } => maps.update(place.as_ref(), &key, &value, UpdateFlags::ANY),
            Inverse::Restore {
                place,
                key,
                value: None,
            } => maps.delete(place.as_ref(), &key),
            Inverse::RemoveInner { map, key } => maps.delete(map.into(), &key),
        }
    }
}

/// Applies operations in order until one is refused.
pub(super) fn apply(maps: &dyn MapAccess, ops: &[MapOp]) -> Result<(), Failure> {
    let mut applied = Vec::new();
    for op in ops {
        match apply_one(maps, op) {
            Ok(inverse) => applied.extend(inverse),
            Err(refusal) => return Err(Failure { refusal, applied }),
        }
    }
    Ok(())
}

fn apply_one(maps: &dyn MapAccess, op: &MapOp) -> Result<Option<Inverse>, EngineError> {
    match op {
        MapOp::Update { map, key, value } => update(maps, Place::Flat(map), key, value).map(Some),
        MapOp::UpdateInner {
            map: outer,
            outer_key,
            key,
            value,
        } => {
            let place = Place::Inner {
                outer,
                key: outer_key.clone(),
            };
            update(maps, place, key, value).map(Some)
        }
        MapOp::UpdateBatch { map, keys, values } => maps
            .update_batch((*map).into(), keys, values)
            .map(|()| None),
        MapOp::Delete { map, key } => delete(maps, Place::Flat(map), key),
        MapOp::DeleteInner {
            map: outer,
            outer_key,
            key,
        } => delete(
            maps,
            Place::Inner {
                outer,
                key: outer_key.clone(),
            },
            key,
        ),
        MapOp::ZeroPerCpu { map, entries } => zero(maps, map, *entries).map(|()| None),
        MapOp::CreateInner { map, key, spec } => {
            maps.create_inner(map, key, &map_def(spec))?;
            Ok(Some(Inverse::RemoveInner {
                map,
                key: key.clone(),
            }))
        }
    }
}

fn update(
    maps: &dyn MapAccess,
    place: Place,
    key: &[u8],
    value: &[u8],
) -> Result<Inverse, EngineError> {
    let was = maps.lookup(place.as_ref(), key)?;
    maps.update(place.as_ref(), key, value, UpdateFlags::ANY)?;
    Ok(Inverse::Restore {
        place,
        key: key.to_vec(),
        value: was,
    })
}

/// Deletes an element; an inner map cannot be brought back, so its deletion has no inverse.
fn delete(maps: &dyn MapAccess, place: Place, key: &[u8]) -> Result<Option<Inverse>, EngineError> {
    if let Place::Flat(name) = place
        && is_map_in_map(maps, name)
    {
        return maps.delete(place.as_ref(), key).map(|()| None);
    }
    let was = maps.lookup(place.as_ref(), key)?;
    maps.delete(place.as_ref(), key)?;
    Ok(Some(Inverse::Restore {
        place,
        key: key.to_vec(),
        value: was,
    }))
}

fn is_map_in_map(maps: &dyn MapAccess, name: &str) -> bool {
    maps.maps()
        .iter()
        .any(|def| def.name == name && MapType::is_map_in_map(def.kind))
}

fn zero(maps: &dyn MapAccess, map: &'static str, entries: u32) -> Result<(), EngineError> {
    let found = maps.maps().into_iter().find(|def| def.name == map);
    let def = found.ok_or_else(|| EngineError::NoMap(map.to_owned()))?;
    let value = vec![0; maps.cpus() * def.value_size.next_multiple_of(8) as usize];
    for index in 0..entries {
        maps.update(map.into(), &index.to_ne_bytes(), &value, UpdateFlags::ANY)?;
    }
    Ok(())
}

//! Maps that are alike as far as a program can tell.

use squalus_isa::{MapDef, MapFlags, MapType, ValueFields};
use squalus_runtime::{LinkedProgram, touches_fields};

use crate::{Interval, MapRef};

/// Classes of maps with the same family of types, key size, value size and access flags.
///
/// A program that uses one of two maps (an inner map, or a fallback if there is none) is still known to
/// use a map of their shape.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    shapes: Vec<MapDef>,
    /// For each, the type if all its maps have the same.
    kinds: Vec<Option<MapType>>,
    direct: Vec<Option<u32>>,
    inner: Vec<Option<u32>>,
}

impl Shapes {
    /// The shapes of a program's maps and of the maps in its maps of maps.
    #[must_use]
    pub fn new(program: &LinkedProgram) -> Shapes {
        let mut shapes = Shapes::default();
        for map in program.maps() {
            let def = map.def();
            let direct = shapes.class(def);
            let inner = def.inner.as_deref().and_then(|inner| shapes.class(inner));
            shapes.direct.push(direct);
            shapes.inner.push(inner);
        }
        shapes
    }

    /// The simplest type that programs use like this map (`Hash` for all hashes of values), and its key size.
    #[must_use]
    pub fn family(&self, map: MapRef) -> Option<(MapType, u32)> {
        let def = self.def(self.of(map)?)?;
        Some((family(def.kind), def.key_size))
    }

    /// Whether a map that is so far known may be the program's map with this index: maps of an object can be
    /// inner maps too.
    pub(crate) fn may_be(&self, map: MapRef, index: usize) -> bool {
        let class = self.direct.get(index).copied().flatten();
        match map {
            MapRef::Direct(n) => n as usize == index,
            MapRef::Inner(_) | MapRef::Shaped(_) => {
                self.of(map).is_none_or(|shape| class == Some(shape))
            }
            MapRef::Values(len) => {
                let def = class.and_then(|class| self.def(class));
                def.is_some_and(|def| def.value_size >= len)
            }
        }
    }

    /// The type of a map, if all that it may be have the same.
    #[must_use]
    pub fn kind(&self, map: MapRef) -> Option<MapType> {
        *self.kinds.get(self.of(map)? as usize)?
    }

    /// The size of a map's values.
    #[must_use]
    pub fn value_size(&self, map: MapRef) -> Option<u32> {
        Some(self.def(self.of(map)?)?.value_size)
    }

    /// The class of a definition. Maps of maps have none: what they hold matters.
    fn class(&mut self, def: &MapDef) -> Option<u32> {
        if def.kind.is_map_in_map() {
            return None;
        }
        let known = self.shapes.iter().position(|known| alike(known, def));
        let class = known.unwrap_or_else(|| {
            self.shapes.push(def.clone());
            self.kinds.push(Some(def.kind));
            self.shapes.len() - 1
        });
        if self.kinds[class] != Some(def.kind) {
            self.kinds[class] = None;
        }
        Some(class as u32)
    }

    fn of(&self, map: MapRef) -> Option<u32> {
        match map {
            MapRef::Direct(n) => self.direct.get(n as usize).copied().flatten(),
            MapRef::Inner(n) => self.inner.get(n as usize).copied().flatten(),
            MapRef::Shaped(shape) => Some(shape),
            MapRef::Values(_) => None,
        }
    }

    /// What is known of a map that is one of two.
    pub(crate) fn join(&self, a: MapRef, b: MapRef) -> Option<MapRef> {
        if a == b {
            return Some(a);
        }
        let shape = self.of(a)?;
        (self.of(b)? == shape).then_some(MapRef::Shaped(shape))
    }

    /// What is known of the map of a value that is of one of two maps.
    pub(crate) fn join_values(&self, a: MapRef, b: MapRef) -> Option<MapRef> {
        if let Some(map) = self.join(a, b) {
            return Some(map);
        }
        let (a, b) = (self.values(a)?, self.values(b)?);
        (a.is_free() && b.is_free()).then_some(MapRef::Values(a.len.min(b.len)))
    }

    /// What programs may do with the values of a map.
    pub(crate) fn values(&self, map: MapRef) -> Option<ValueUse> {
        if let MapRef::Values(len) = map {
            return Some(ValueUse {
                len,
                flags: MapFlags::default(),
                fields: ValueFields::default(),
            });
        }
        let def = self.def(self.of(map)?)?;
        Some(ValueUse {
            len: def.value_size,
            flags: MapFlags(def.flags.0 & ACCESS),
            fields: def.fields,
        })
    }

    /// A definition with this shape. Its number of entries means nothing.
    pub(crate) fn def(&self, shape: u32) -> Option<&MapDef> {
        self.shapes.get(shape as usize)
    }
}

/// What programs may do with values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueUse {
    /// How many bytes they have at least.
    pub(crate) len: u32,
    /// Of the map's flags, those that say what programs may not do.
    flags: MapFlags,
    fields: ValueFields,
}

impl ValueUse {
    fn is_free(self) -> bool {
        self.flags == MapFlags::default() && self.fields.is_empty()
    }

    /// Whether programs may read or write `size` bytes at any of the offsets.
    pub(crate) fn allows(self, off: Interval, size: i64, write: bool) -> bool {
        let forbidden = if write {
            MapFlags::RDONLY_PROG
        } else {
            MapFlags::WRONLY_PROG
        };
        off.fits(size, self.len.into())
            && !self.flags.contains(forbidden)
            && !touches_fields(self.fields, off.lo, off.hi + size)
    }
}

/// The flags that say what programs may not do.
const ACCESS: u32 = MapFlags::RDONLY_PROG.0 | MapFlags::WRONLY_PROG.0;

fn alike(a: &MapDef, b: &MapDef) -> bool {
    let (sizes, others) = ((a.key_size, a.value_size), (b.key_size, b.value_size));
    let (access, other) = (a.flags.0 & ACCESS, b.flags.0 & ACCESS);
    family(a.kind) == family(b.kind) && sizes == others && access == other && a.fields == b.fields
}

/// The simplest type that lookups, updates and deletes treat alike. Only `map_lookup_percpu_elem` knows
/// more; it is never proved of a shape.
const fn family(kind: MapType) -> MapType {
    match kind {
        MapType::LruHash | MapType::PerCpuHash | MapType::LruPerCpuHash => MapType::Hash,
        MapType::PerCpuArray => MapType::Array,
        other => other,
    }
}

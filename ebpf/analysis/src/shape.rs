//! Maps that are alike as far as a program can tell.

use squalus_isa::{MapDef, MapFlags, MapType};
use squalus_runtime::LinkedProgram;

use crate::MapRef;

/// Classes of maps with the same family of types, key size, value size and access flags.
///
/// A program that uses one of two maps (an inner map, or a fallback if there is none) is still known to
/// use a map of their shape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    shapes: Vec<MapDef>,
    direct: Vec<Option<u32>>,
    inner: Vec<Option<u32>>,
}

impl Shapes {
    /// The shapes of a program's maps and of the maps in its maps of maps.
    pub(crate) fn new(program: &LinkedProgram) -> Shapes {
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

    /// The class of a definition. Maps of maps have none: what they hold matters.
    fn class(&mut self, def: &MapDef) -> Option<u32> {
        if def.kind.is_map_in_map() {
            return None;
        }
        let known = self.shapes.iter().position(|known| alike(known, def));
        let class = known.unwrap_or_else(|| {
            self.shapes.push(def.clone());
            self.shapes.len() - 1
        });
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
        let free = MapFlags::default();
        match (self.values(a)?, self.values(b)?) {
            ((a, fa), (b, fb)) if fa == free && fb == free => Some(MapRef::Values(a.min(b))),
            _ => None,
        }
    }

    /// How many bytes the values of a map have at least, and what programs may not do with them.
    pub(crate) fn values(&self, map: MapRef) -> Option<(u32, MapFlags)> {
        if let MapRef::Values(len) = map {
            return Some((len, MapFlags::default()));
        }
        let def = self.def(self.of(map)?)?;
        Some((def.value_size, MapFlags(def.flags.0 & ACCESS)))
    }

    /// A definition with this shape. Its number of entries means nothing.
    pub(crate) fn def(&self, shape: u32) -> Option<&MapDef> {
        self.shapes.get(shape as usize)
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

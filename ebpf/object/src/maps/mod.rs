//! Map definitions in all the forms objects have had: `maps` sections, `.maps` with BTF, data sections.

mod btf_def;
mod data;
mod fields;
mod legacy;

use std::collections::{HashMap, HashSet};

use crate::btf::Btf;
use crate::elf::{Elf, Symbol};
use crate::functions::Functions;
use crate::limits::NAME_BYTES;
use crate::{Global, MapSpec, ObjectError};

/// The maps of an object, and where in the file they were found.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) specs: Vec<MapSpec>,
    pub(crate) globals: Vec<Global>,
    /// Index of the map defined at (section, offset).
    defined: HashMap<(usize, u64), usize>,
    /// Index of the map that holds a data section.
    data: HashMap<usize, usize>,
    names: HashSet<String>,
}

/// What an address in a section means to programs.
pub(crate) enum MapRef {
    /// The map with this index.
    Map(usize),
    /// A place in the value of a data section's map.
    Value { map: usize, offset: u32 },
}

impl Maps {
    pub(crate) fn collect(
        elf: &Elf<'_>,
        btf: Option<&Btf>,
        functions: &Functions<'_>,
    ) -> Result<Maps, ObjectError> {
        let mut maps = Maps::default();
        legacy::collect(&mut maps, elf, btf, functions)?;
        btf_def::collect(&mut maps, elf, btf, functions)?;
        data::collect(&mut maps, elf, btf)?;
        Ok(maps)
    }

    /// What `offset` in `section` is: a map's definition or data. `None` if the section holds neither.
    pub(crate) fn at(&self, section: usize, offset: u64) -> Option<MapRef> {
        if let Some(&map) = self.data.get(&section) {
            // One past the end is a legal address in C.
            let size = self.specs.get(map)?.def.value_size;
            let offset = u32::try_from(offset).ok().filter(|&o| o <= size)?;
            return Some(MapRef::Value { map, offset });
        }
        self.defined
            .get(&(section, offset))
            .map(|&map| MapRef::Map(map))
    }

    fn define(&mut self, section: usize, offset: u64, spec: MapSpec) -> Result<usize, ObjectError> {
        let index = self.add(spec)?;
        self.defined.insert((section, offset), index);
        Ok(index)
    }

    /// Adds a map that no section of the file defines.
    pub(crate) fn add(&mut self, spec: MapSpec) -> Result<usize, ObjectError> {
        let index = self.specs.len();
        if !self.names.insert(spec.def.name.clone()) {
            return Err(map_error(
                &spec.def.name,
                "the object defines two maps of this name; rename one",
            ));
        }
        self.specs.push(spec);
        Ok(index)
    }
}

fn map_error(map: &str, reason: impl Into<String>) -> ObjectError {
    ObjectError::Map {
        map: map.into(),
        reason: reason.into(),
    }
}

/// Symbols that can name a variable of a section, by ascending offset, one for each offset.
fn variables<'e, 'a>(elf: &'e Elf<'a>, section: usize) -> Vec<&'e Symbol<'a>> {
    use crate::elf::SymbolKind::{Object, Untyped};
    let mut found: Vec<_> = elf
        .symbols_in(section)
        .filter(|s| matches!(s.kind, Object | Untyped) && !s.name.is_empty())
        .collect();
    // Of several names for one place the exported, typed one comes first.
    found.sort_by_key(|s| (s.value, s.local, s.kind == Untyped));
    found.dedup_by_key(|s| s.value);
    found
}

/// A copy of a name, if it is not absurd.
fn owned_name(name: &str) -> Result<String, ObjectError> {
    if name.len() > NAME_BYTES {
        return Err(ObjectError::TooLarge {
            what: "the name of a map".into(),
            limit: format!("{NAME_BYTES} bytes"),
        });
    }
    Ok(name.into())
}

//! `struct bpf_map_def` in a section `maps`: five words and whatever the loader of the day added.
//!
//! All layouts in the wild begin with type, key size, value size, maximum of entries and flags:
//!
//! | length | from | further words |
//! |---|---|---|
//! | 20 | libbpf | |
//! | 24 | the kernel's samples, early | inner map's index |
//! | 28 | the kernel's samples | inner map's index, NUMA node |
//! | 28 | iproute2, early | id, pinning |
//! | 36 | iproute2 | id, pinning, inner map's id, index in the outer map |
//! | 280 | gobpf | pinning, and a namespace as text |
//!
//! The two of 28 bytes are told apart by what can't be of the other's: only a map of maps has an inner map, and only
//! a map with the flag `NUMA_NODE` a node. Other lengths are accepted as long as what follows the flags is zero.
//! Definitions without flags (16 bytes) are older still.
//!
//! iproute2 fills program arrays by the names of sections: the programs of section `5/2` are entry 2 of the array
//! with id 5. And where a program says so with `BPF_ANNOTATE_KV_PAIR`, a struct `____btf_map_NAME` holds the types
//! of key and value.

use std::collections::HashMap;

use squalus_isa::{MapDef, MapFlags, MapType};

use super::{Maps, fields, map_error, owned_name, variables};
use crate::btf::{Btf, Kind, TypeId};
use crate::elf::Elf;
use crate::functions::Functions;
use crate::reader::word_at;
use crate::section::tail;
use crate::{InitialTarget, InitialValue, MapOrigin, MapSpec, ObjectError, Pinning};

pub(super) fn collect(
    maps: &mut Maps,
    elf: &Elf<'_>,
    btf: Option<&Btf>,
    functions: &Functions<'_>,
) -> Result<(), ObjectError> {
    let mut all = Vec::new();
    for (index, section) in elf.sections.iter().enumerate() {
        if section.name == "maps" || section.name.starts_with("maps/") {
            all.append(&mut entries(elf, index)?);
        }
    }
    let pairs = btf.map(annotations).unwrap_or_default();
    let mut indices = Vec::with_capacity(all.len());
    for entry in &all {
        indices.push(maps.define(entry.section, entry.offset, entry.spec(btf, &pairs)?)?);
    }
    link_inner_maps(maps, &all, &indices)?;
    link_tail_calls(maps, elf, functions, &all, &indices);
    Ok(())
}

/// Which loader a definition was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Libbpf,
    Samples,
    Iproute2,
    Gobpf,
}

/// One definition, as words.
struct Entry<'a> {
    name: &'a str,
    section: usize,
    offset: u64,
    words: Vec<u32>,
}

/// Cuts the section at its symbols. A symbol without a size reaches to the next one.
fn entries<'a>(elf: &Elf<'a>, index: usize) -> Result<Vec<Entry<'a>>, ObjectError> {
    let section = &elf.sections[index];
    let symbols = variables(elf, index);
    let ends = symbols
        .iter()
        .skip(1)
        .map(|s| s.value)
        .chain([section.size]);
    symbols
        .iter()
        .zip(ends)
        .map(|(symbol, next)| {
            let end = match symbol.size {
                0 => Some(next),
                size => symbol.value.checked_add(size).filter(|&end| end <= next),
            };
            let bytes = end
                .and_then(|end| {
                    let range = usize::try_from(symbol.value).ok()?..usize::try_from(end).ok()?;
                    section.data.get(range)
                })
                .ok_or_else(|| {
                    map_error(
                        symbol.name,
                        "its definition overlaps another one or the end of its section",
                    )
                })?;
            Ok(Entry {
                name: symbol.name,
                section: index,
                offset: symbol.value,
                words: words(symbol.name, bytes)?,
            })
        })
        .collect()
}

fn words(name: &str, bytes: &[u8]) -> Result<Vec<u32>, ObjectError> {
    if bytes.len() < 16 || bytes.len() > 4096 {
        return Err(map_error(
            name,
            format!(
                "its definition has {} bytes; a struct bpf_map_def has 20 (type, key size, value size, max entries, flags)",
                bytes.len()
            ),
        ));
    }
    let count = bytes.len() / 4;
    Ok((0..count).filter_map(|i| word_at(bytes, i * 4)).collect())
}

impl Entry<'_> {
    fn word(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or(0)
    }

    fn layout(&self) -> Layout {
        let inner = MapType::from_id(self.word(0)).is_some_and(MapType::is_map_in_map);
        let numa = MapFlags(self.word(4)).contains(MapFlags::NUMA_NODE);
        match self.words.len() {
            6 if inner => Layout::Samples,
            7 if inner || numa => Layout::Samples,
            7 | 9 => Layout::Iproute2,
            70 => Layout::Gobpf,
            _ => Layout::Libbpf,
        }
    }

    fn spec(
        &self,
        btf: Option<&Btf>,
        pairs: &HashMap<&str, TypeId>,
    ) -> Result<MapSpec, ObjectError> {
        let layout = self.layout();
        if layout == Layout::Libbpf && self.words.iter().skip(5).any(|&w| w != 0) {
            return Err(map_error(
                self.name,
                format!(
                    "its definition has {} bytes with values past the flags that no known loader defines; convert it to a BTF map (SEC(\".maps\"))",
                    self.words.len() * 4
                ),
            ));
        }
        let kind = MapType::from_id(self.word(0)).ok_or_else(|| {
            map_error(self.name, format!("map type {} is not known", self.word(0)))
        })?;
        let flags = MapFlags(self.word(4));
        let numa = layout == Layout::Samples && flags.contains(MapFlags::NUMA_NODE);
        let def = MapDef {
            flags,
            ..MapDef::new(
                owned_name(self.name)?,
                kind,
                (self.word(1), self.word(2)),
                self.word(3),
            )
        };
        let mut spec = MapSpec {
            pinning: self.pinning()?,
            numa_node: numa.then(|| self.word(6)),
            ..MapSpec::new(def, MapOrigin::Legacy)
        };
        if let (Some(btf), Some(&pair)) = (btf, pairs.get(self.name)) {
            annotate(&mut spec, btf, pair)?;
        }
        Ok(spec)
    }

    fn pinning(&self) -> Result<Pinning, ObjectError> {
        let pinning = match self.layout() {
            Layout::Iproute2 => self.word(6),
            Layout::Gobpf => self.word(5),
            Layout::Libbpf | Layout::Samples => 0,
        };
        match pinning {
            0 => Ok(Pinning::None),
            1 => Ok(Pinning::ByObject),
            2 => Ok(Pinning::ByName),
            other => Err(map_error(
                self.name,
                format!(
                    "pinning {other} names a custom directory, which is not supported; use 0, 1 (by object) or 2 (by name)"
                ),
            )),
        }
    }

    /// iproute2's number for the map, if it has one.
    fn id(&self) -> Option<u32> {
        (self.layout() == Layout::Iproute2).then(|| self.word(5))
    }

    /// Position of the inner map among all definitions.
    fn inner(&self, kind: MapType, all: &[Entry<'_>]) -> Result<Option<usize>, ObjectError> {
        if !kind.is_map_in_map() {
            return Ok(None);
        }
        let position = match self.layout() {
            Layout::Samples => Some(self.word(5) as usize).filter(|&i| i < all.len()),
            Layout::Iproute2 if self.word(7) != 0 => {
                all.iter().position(|e| e.id() == Some(self.word(7)))
            }
            _ => return Ok(None),
        };
        position
            .map(Some)
            .ok_or_else(|| map_error(self.name, "its inner map is not in the object"))
    }
}

/// Gives maps of maps their inner definitions, once all are known. `indices` are the maps of the definitions.
fn link_inner_maps(
    maps: &mut Maps,
    all: &[Entry<'_>],
    indices: &[usize],
) -> Result<(), ObjectError> {
    for (outer, &outer_map) in all.iter().zip(indices) {
        let Some(position) = outer.inner(maps.specs[outer_map].def.kind, all)? else {
            continue;
        };
        let (inner, inner_map) = (&all[position], indices[position]);
        let inner_def = maps.specs[inner_map].def.clone();
        if inner_def.kind.is_map_in_map() {
            return Err(map_error(
                outer.name,
                "its inner map is itself a map of maps",
            ));
        }
        let spec = &mut maps.specs[outer_map];
        // An index of -1 says: the outer map is filled later.
        if outer.layout() == Layout::Iproute2 && inner.word(8) != u32::MAX {
            spec.values.push(InitialValue {
                index: inner.word(8),
                target: InitialTarget::Map(inner_def.name.clone()),
            });
        }
        spec.def.inner = Some(Box::new(inner_def));
    }
    Ok(())
}

/// The structs that `BPF_ANNOTATE_KV_PAIR` makes, by the names of their maps.
fn annotations(btf: &Btf) -> HashMap<&str, TypeId> {
    let structs = btf
        .types()
        .filter(|(_, t)| matches!(t.kind, Kind::Composite { .. }));
    structs
        .filter_map(|(id, t)| Some((btf.name(t.name).strip_prefix("____btf_map_")?, id)))
        .collect()
}

/// Gives a map the types of such a struct, if they fit its sizes.
fn annotate(spec: &mut MapSpec, btf: &Btf, pair: TypeId) -> Result<(), ObjectError> {
    let typed = |member: &str, size: u32| {
        let ty = btf.member(pair, member)?.ty;
        (btf.size_of(ty) == Ok(size.into())).then_some(ty)
    };
    let key = typed("key", spec.def.key_size);
    let value = typed("value", spec.def.value_size);
    if let (Some(key), Some(value)) = (key, value) {
        (spec.key_type, spec.value_type) = (Some(key), Some(value));
        spec.def.fields = fields::of_value(btf, &spec.def.name, Some(value))?;
    }
    Ok(())
}

/// Fills program arrays from the names of sections.
fn link_tail_calls(
    maps: &mut Maps,
    elf: &Elf<'_>,
    functions: &Functions<'_>,
    all: &[Entry<'_>],
    indices: &[usize],
) {
    let numbered = all.iter().zip(indices).filter_map(|(entry, &map)| {
        let id = entry.id().filter(|&id| id != 0)?;
        (maps.specs[map].def.kind == MapType::ProgArray).then_some((id, map))
    });
    let numbered: HashMap<u32, usize> = numbered.collect();
    for function in functions.all.iter().filter(|f| f.entry) {
        let Some((id, index)) = tail(elf.section_name(function.section)) else {
            continue;
        };
        if let Some(&map) = numbered.get(&id) {
            maps.specs[map].values.push(InitialValue {
                index,
                target: InitialTarget::Program(function.name.into()),
            });
        }
    }
}

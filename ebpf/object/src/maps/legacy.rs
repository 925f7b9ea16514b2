//! `struct bpf_map_def` in a section `maps`: five words and whatever the loader of the day added.
//!
//! Three layouts are in the wild. All begin with type, key size, value size, maximum of entries and flags:
//!
//! | length | from | further words |
//! |---|---|---|
//! | 20 | libbpf | |
//! | 28 | the kernel's samples | inner map's index, NUMA node |
//! | 36 | iproute2 | id, pinning, inner map's id, index in the outer map |
//!
//! Other lengths are accepted as long as what follows the flags is zero. Definitions without flags (16 bytes)
//! are older still.

use squalus_isa::{MapDef, MapFlags, MapType};

use super::{Maps, map_error, owned_name, variables};
use crate::elf::Elf;
use crate::reader::word_at;
use crate::{InitialTarget, InitialValue, MapOrigin, MapSpec, ObjectError, Pinning};

pub(super) fn collect(maps: &mut Maps, elf: &Elf<'_>) -> Result<(), ObjectError> {
    let mut all = Vec::new();
    for (index, section) in elf.sections.iter().enumerate() {
        if section.name == "maps" || section.name.starts_with("maps/") {
            all.append(&mut entries(elf, index)?);
        }
    }
    let mut indices = Vec::with_capacity(all.len());
    for entry in &all {
        indices.push(maps.define(entry.section, entry.offset, entry.spec()?)?);
    }
    link_inner_maps(maps, &all, &indices)
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

    fn is_samples(&self) -> bool {
        self.words.len() == 7
    }

    fn is_iproute2(&self) -> bool {
        self.words.len() == 9
    }

    fn spec(&self) -> Result<MapSpec, ObjectError> {
        if !self.is_samples() && !self.is_iproute2() && self.words.iter().skip(5).any(|&w| w != 0) {
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
        let numa = self.is_samples() && flags.contains(MapFlags::NUMA_NODE);
        Ok(MapSpec {
            def: MapDef {
                name: owned_name(self.name)?,
                kind,
                key_size: self.word(1),
                value_size: self.word(2),
                max_entries: self.word(3),
                flags,
                inner: None,
                extra: 0,
                fields: Default::default(),
            },
            origin: MapOrigin::Legacy,
            initial: None,
            frozen: false,
            pinning: self.pinning()?,
            numa_node: numa.then(|| self.word(6)),
            key_type: None,
            value_type: None,
            values: Vec::new(),
        })
    }

    fn pinning(&self) -> Result<Pinning, ObjectError> {
        if !self.is_iproute2() {
            return Ok(Pinning::None);
        }
        match self.word(6) {
            0 => Ok(Pinning::None),
            1 => Ok(Pinning::ByObject),
            2 => Ok(Pinning::ByName),
            other => Err(map_error(
                self.name,
                format!(
                    "iproute2 pinning {other} names a custom directory, which is not supported; use 0, 1 or 2"
                ),
            )),
        }
    }

    /// Position of the inner map among all definitions.
    fn inner(&self, kind: MapType, all: &[Entry<'_>]) -> Result<Option<usize>, ObjectError> {
        if !kind.is_map_in_map() {
            return Ok(None);
        }
        let position = if self.is_samples() {
            Some(self.word(5) as usize).filter(|&i| i < all.len())
        } else if self.is_iproute2() && self.word(7) != 0 {
            all.iter().position(|e| e.word(5) == self.word(7))
        } else {
            return Ok(None);
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
        if outer.is_iproute2() {
            spec.values.push(InitialValue {
                index: inner.word(8),
                target: InitialTarget::Map(inner_def.name.clone()),
            });
        }
        spec.def.inner = Some(Box::new(inner_def));
    }
    Ok(())
}

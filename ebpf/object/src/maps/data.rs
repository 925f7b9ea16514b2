//! `.rodata*`, `.data*` and `.bss*`: arrays of one value that hold the program's variables.

use std::collections::HashMap;

use squalus_isa::{MapDef, MapFlags, MapType, ValueFields};

use super::{Maps, fields};
use crate::btf::{Btf, Kind, TypeId};
use crate::elf::{Elf, Section, SymbolKind};
use crate::limits::DATA_BYTES;
use crate::{Global, MapOrigin, MapSpec, ObjectError};

pub(super) fn collect(
    maps: &mut Maps,
    elf: &Elf<'_>,
    btf: Option<&Btf>,
) -> Result<(), ObjectError> {
    let types = sections(btf);
    let mut total = 0u64;
    for (index, section) in elf.sections.iter().enumerate() {
        if !is_data(section) || section.size == 0 {
            continue;
        }
        total = total.saturating_add(section.size);
        if total > DATA_BYTES {
            return Err(ObjectError::TooLarge {
                what: format!("data up to section `{}`", section.name),
                limit: format!("{DATA_BYTES} bytes"),
            });
        }
        let map = maps.define(index, 0, spec(section, types.get(section.name).copied()))?;
        maps.data.insert(index, map);
        let types = variable_types(btf, types.get(section.name).copied());
        let first = maps.globals.len();
        collect_globals(maps, elf, index, map, &types)?;
        if let Some(btf) = btf {
            maps.specs[map].def.fields = variable_fields(btf, maps.globals.get(first..))?;
        }
    }
    Ok(())
}

/// Variables that the kernel keeps for itself: locks and timers that are no part of a struct.
fn variable_fields(btf: &Btf, globals: Option<&[Global]>) -> Result<ValueFields, ObjectError> {
    let mut found = ValueFields::default();
    for global in globals.unwrap_or_default() {
        let within = fields::of_value(btf, &global.section, global.ty)?;
        let shift = |at: u32| at.saturating_add(global.offset as u32);
        found.spin_lock = found.spin_lock.or(within.spin_lock.map(shift));
        found.timer = found.timer.or(within.timer.map(shift));
    }
    Ok(found)
}

/// The `DATASEC` types by name.
fn sections(btf: Option<&Btf>) -> HashMap<&str, TypeId> {
    btf.into_iter()
        .flat_map(|btf| {
            btf.types()
                .filter(|(_, t)| matches!(t.kind, Kind::DataSec { .. }))
                .map(|(id, t)| (btf.name(t.name), id))
        })
        .collect()
}

/// The types of a section's variables by name.
fn variable_types(btf: Option<&Btf>, section: Option<TypeId>) -> HashMap<&str, TypeId> {
    let found = btf
        .zip(section)
        .and_then(|(btf, id)| Some((btf, &btf.get(id)?.kind)));
    let Some((btf, Kind::DataSec { vars, .. })) = found else {
        return HashMap::new();
    };
    vars.iter()
        .filter_map(|v| match btf.get(v.var)?.kind {
            Kind::Var { ty, .. } => Some((btf.type_name(v.var), ty)),
            _ => None,
        })
        .collect()
}

fn is_data(section: &Section<'_>) -> bool {
    let named = |name: &str| {
        section
            .name
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    section.alloc && !section.exec && [".rodata", ".data", ".bss"].into_iter().any(named)
}

fn spec(section: &Section<'_>, value_type: Option<TypeId>) -> MapSpec {
    let size = u32::try_from(section.size).expect("limited to DATA_BYTES before");
    let frozen = section.name.starts_with(".rodata");
    let initial = if section.nobits {
        vec![0; size as usize]
    } else {
        section.data.to_vec()
    };
    let def = MapDef {
        flags: if frozen {
            MapFlags::RDONLY_PROG
        } else {
            MapFlags::default()
        },
        ..MapDef::new(section.name, MapType::Array, (4, size), 1)
    };
    MapSpec {
        initial: Some(initial),
        frozen,
        value_type,
        ..MapSpec::new(def, MapOrigin::Data)
    }
}

fn collect_globals(
    maps: &mut Maps,
    elf: &Elf<'_>,
    index: usize,
    map: usize,
    types: &HashMap<&str, TypeId>,
) -> Result<(), ObjectError> {
    let section = &elf.sections[index];
    for symbol in elf.symbols_in(index) {
        if symbol.kind != SymbolKind::Object || symbol.name.is_empty() || symbol.size == 0 {
            continue;
        }
        let end = symbol.value.checked_add(symbol.size);
        if end.is_none_or(|end| end > section.size) {
            return Err(ObjectError::Symbol {
                symbol: symbol.name.into(),
                section: section.name.into(),
                reason: "the variable reaches past the end of its section".into(),
            });
        }
        maps.globals.push(Global {
            name: symbol.name.into(),
            section: section.name.into(),
            map,
            offset: symbol.value as usize,
            size: symbol.size as usize,
            ty: types.get(symbol.name).copied(),
        });
    }
    Ok(())
}

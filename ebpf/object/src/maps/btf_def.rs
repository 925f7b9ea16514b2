//! `.maps`: each variable is a map, and its type's members say which.
//!
//! The convention is libbpf's. A number is the length of an array that a member points to
//! (`int (*max_entries)[128]`), a key or value type is what a member points to, and an array `values` of
//! pointers holds inner maps or programs: the type it points to defines inner maps, relocations fill its
//! entries.

use std::collections::HashMap;

use squalus_isa::{MapDef, MapFlags, MapType};

use super::{Maps, fields, map_error, owned_name, variables};
use crate::btf::{Btf, Kind, Member, TypeId};
use crate::elf::{Elf, Place, R_64_64, R_64_ABS64, Rel, Symbol};
use crate::functions::Functions;
use crate::limits::TYPE_DEPTH;
use crate::reader::Reader;
use crate::{InitialTarget, InitialValue, MapOrigin, MapSpec, ObjectError, Pinning};

pub(super) fn collect(
    maps: &mut Maps,
    elf: &Elf<'_>,
    btf: Option<&Btf>,
    functions: &Functions<'_>,
) -> Result<(), ObjectError> {
    let Some((index, section)) = elf.section(".maps") else {
        return Ok(());
    };
    let section_error = |reason: &str| ObjectError::Section {
        section: ".maps".into(),
        reason: reason.into(),
    };
    let btf = btf.ok_or_else(|| {
        section_error("its maps are described by BTF, which the object lacks; compile with -g")
    })?;
    let (_, vars) = btf
        .section(".maps")
        .ok_or_else(|| section_error("the object's BTF does not describe it; compile with -g"))?;
    let types: HashMap<&str, TypeId> = vars
        .iter()
        .filter_map(|v| match btf.get(v.var)?.kind {
            Kind::Var { ty, .. } => Some((btf.type_name(v.var), ty)),
            _ => None,
        })
        .collect();

    let symbols = variables(elf, index);
    let mut values = Vec::new();
    for symbol in &symbols {
        let ty = *types
            .get(symbol.name)
            .ok_or_else(|| map_error(symbol.name, "the object's BTF does not describe it"))?;
        let raw = Definition::parse(btf, symbol.name, ty, Role::Outer)?;
        if symbol
            .value
            .checked_add(symbol.size)
            .is_none_or(|end| end > section.size)
        {
            return Err(map_error(symbol.name, "it reaches past the end of `.maps`"));
        }
        values.push(raw.values);
        maps.define(index, symbol.value, raw.spec(btf, symbol.name)?)?;
    }
    initial_values(maps, elf, index, functions, &symbols, &values)
}

/// `pinning` of Cilium's own, beside libbpf's.
const CILIUM_PIN_REPLACE: u32 = 1 << 4;

/// A definition with each member given once has 12.
const MEMBERS: usize = 64;

/// Whether a definition is a map of its own or describes the inner maps of one.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Outer,
    Inner,
}

/// What entries of `values` are.
#[derive(Clone, Copy)]
enum ValuesOf {
    Maps,
    Programs,
}

/// The array `values`.
#[derive(Clone, Copy)]
struct Values {
    /// Offset in the definition in bytes.
    offset: u64,
    of: ValuesOf,
}

/// A definition as its members give it.
#[derive(Default)]
struct Definition {
    kind: Option<u32>,
    key_size: Option<u32>,
    value_size: Option<u32>,
    max_entries: u32,
    flags: u32,
    numa_node: Option<u32>,
    pinning: u32,
    map_extra: u64,
    key_type: Option<TypeId>,
    value_type: Option<TypeId>,
    inner: Option<Box<MapDef>>,
    /// Key and value type of inner maps.
    inner_types: Option<KeyValue>,
    values: Option<Values>,
}

/// A key's and a value's type.
type KeyValue = (Option<TypeId>, Option<TypeId>);

/// What a member `values` says: where it is, and what inner maps are like, if it holds maps.
struct ValuesMember {
    values: Values,
    inner: Option<(Box<MapDef>, KeyValue)>,
}

impl Definition {
    fn parse(btf: &Btf, map: &str, ty: TypeId, place: Role) -> Result<Self, ObjectError> {
        let members =
            definition_members(btf, ty).ok_or_else(|| map_error(map, "its type is no struct"))?;
        if members.len() > MEMBERS {
            return Err(map_error(map, "its definition has too many members"));
        }
        let mut definition = Definition::default();
        for member in members {
            let reader = MemberReader {
                btf,
                map,
                name: btf.name(member.name),
                member: *member,
            };
            definition.set(&reader, place)?;
        }
        Ok(definition)
    }

    fn set(&mut self, member: &MemberReader<'_>, place: Role) -> Result<(), ObjectError> {
        match member.name {
            "type" => self.kind = Some(member.number()?),
            "max_entries" => self.max_entries = member.number()?,
            "map_flags" => self.flags = member.number()?,
            "numa_node" => self.numa_node = Some(member.number()?),
            "key_size" => member.set_size(&mut self.key_size, member.number()?)?,
            "value_size" => member.set_size(&mut self.value_size, member.number()?)?,
            "map_extra" => self.map_extra = member.long_number()?,
            "key" => {
                let (ty, size) = member.pointee()?;
                member.set_size(&mut self.key_size, size)?;
                self.key_type = Some(ty);
            }
            "value" => {
                let (ty, size) = member.pointee()?;
                member.set_size(&mut self.value_size, size)?;
                self.value_type = Some(ty);
            }
            "pinning" if place == Role::Outer => self.pinning = member.number()?,
            "values" if place == Role::Outer => {
                let ValuesMember { values, inner } = member.values()?;
                self.values = Some(values);
                (self.inner, self.inner_types) = inner.unzip();
            }
            other => {
                return Err(member.error(format!("member `{other}` is not known here")));
            }
        }
        Ok(())
    }

    /// The kernel's view of it.
    fn def(&self, btf: &Btf, name: &str) -> Result<MapDef, ObjectError> {
        let number = self
            .kind
            .ok_or_else(|| map_error(name, "its definition has no `type`"))?;
        let kind = MapType::from_id(number)
            .ok_or_else(|| map_error(name, format!("map type {number} is not known")))?;
        // libbpf's defaults: maps of descriptors have 32-bit values.
        let fd_value = self.values.is_some() || kind.is_map_in_map();
        let value_size = self.value_size.or(fd_value.then_some(4)).unwrap_or(0);
        let key_size = self.key_size.or(self.values.map(|_| 4)).unwrap_or(0);
        if let Some(Values { of, .. }) = self.values {
            let fits = match of {
                ValuesOf::Maps => kind.is_map_in_map(),
                ValuesOf::Programs => kind == MapType::ProgArray,
            };
            if !fits {
                return Err(map_error(
                    name,
                    format!("a map of type {kind} cannot have such `values`"),
                ));
            }
        }
        Ok(MapDef {
            name: owned_name(name)?,
            kind,
            key_size,
            value_size,
            max_entries: self.max_entries,
            flags: MapFlags(self.flags),
            inner: self.inner.clone(),
            extra: self.map_extra,
            fields: fields::of_value(btf, name, self.value_type)?,
        })
    }

    fn spec(&self, btf: &Btf, name: &str) -> Result<MapSpec, ObjectError> {
        let pinning = match self.pinning {
            0 => Pinning::None,
            1 => Pinning::ByName,
            CILIUM_PIN_REPLACE => Pinning::Replace,
            other => {
                return Err(map_error(
                    name,
                    format!("pinning {other} is not known; use LIBBPF_PIN_BY_NAME (1)"),
                ));
            }
        };
        let (inner_key_type, inner_value_type) = self.inner_types.unwrap_or_default();
        Ok(MapSpec {
            pinning,
            numa_node: self.numa_node,
            inner_key_type,
            inner_value_type,
            key_type: self.key_type,
            value_type: self.value_type,
            ..MapSpec::new(self.def(btf, name)?, MapOrigin::Btf)
        })
    }
}

/// The members of a definition. Rust objects wrap the struct (`struct Map(UnsafeCell<Def>)`): a struct whose
/// only member is a struct stands for that one.
fn definition_members(btf: &Btf, mut ty: TypeId) -> Option<&[Member]> {
    for _ in 0..TYPE_DEPTH {
        let members = btf.members(ty)?;
        match members {
            [only] if btf.members(only.ty).is_some() => ty = only.ty,
            _ => return Some(members),
        }
    }
    None
}

/// One member of a definition.
struct MemberReader<'a> {
    btf: &'a Btf,
    map: &'a str,
    name: &'a str,
    member: Member,
}

impl MemberReader<'_> {
    fn error(&self, reason: String) -> ObjectError {
        map_error(self.map, reason)
    }

    fn wrong(&self, expected: &str) -> ObjectError {
        self.error(format!("member `{}` is not {expected}", self.name))
    }

    fn pointer(&self) -> Option<TypeId> {
        match self.btf.resolve(self.member.ty)?.1.kind {
            Kind::Ptr(to) => Some(to),
            _ => None,
        }
    }

    /// `int (*name)[number]`, what `__uint()` writes.
    fn number(&self) -> Result<u32, ObjectError> {
        self.pointer()
            .and_then(|to| match self.btf.resolve(to)?.1.kind {
                Kind::Array { len, .. } => Some(len),
                _ => None,
            })
            .ok_or_else(|| self.wrong("a number as __uint() writes it"))
    }

    /// As [`Self::number`], or a pointer to an enumeration of one value, what `__ulong()` writes.
    fn long_number(&self) -> Result<u64, ObjectError> {
        let enumerated = self
            .pointer()
            .and_then(|to| match &self.btf.resolve(to)?.1.kind {
                Kind::Enum { values, .. } => values.first().map(|v| v.value),
                _ => None,
            });
        match enumerated {
            Some(value) => Ok(value),
            None => self.number().map(u64::from),
        }
    }

    /// `type *name`, what `__type()` writes: the type and its size.
    fn pointee(&self) -> Result<(TypeId, u32), ObjectError> {
        let ty = self
            .pointer()
            .ok_or_else(|| self.wrong("a pointer to a type as __type() writes it"))?;
        let size = self
            .btf
            .size_of(ty)
            .map_err(|e| self.error(format!("member `{}`: {e}", self.name)))?;
        let size = u32::try_from(size)
            .map_err(|_| self.error(format!("member `{}` has {size} bytes", self.name)))?;
        Ok((ty, size))
    }

    /// Sets a size, which may be given twice if it is the same.
    fn set_size(&self, size: &mut Option<u32>, value: u32) -> Result<(), ObjectError> {
        match *size {
            Some(before) if before != value => Err(self.error(format!(
                "member `{}` makes its size {value}, another member {before}",
                self.name
            ))),
            _ => {
                *size = Some(value);
                Ok(())
            }
        }
    }

    /// `type *values[]`, what `__array()` writes, with the definition of inner maps if it holds maps.
    fn values(&self) -> Result<ValuesMember, ObjectError> {
        let target = self
            .btf
            .resolve(self.member.ty)
            .and_then(|(_, t)| match t.kind {
                Kind::Array { element, .. } => Some(element),
                _ => None,
            })
            .and_then(|element| match self.btf.resolve(element)?.1.kind {
                Kind::Ptr(to) => self.btf.resolve(to),
                _ => None,
            });
        let values = |of| Values {
            offset: u64::from(self.member.bit_offset / 8),
            of,
        };
        match target {
            Some((_, t)) if matches!(t.kind, Kind::FuncProto { .. }) => Ok(ValuesMember {
                values: values(ValuesOf::Programs),
                inner: None,
            }),
            Some((id, t)) if matches!(t.kind, Kind::Composite { .. }) => {
                let name = format!("{}.inner", self.map);
                let inner = Definition::parse(self.btf, &name, id, Role::Inner)?;
                let def = Box::new(inner.def(self.btf, &name)?);
                Ok(ValuesMember {
                    values: values(ValuesOf::Maps),
                    inner: Some((def, (inner.key_type, inner.value_type))),
                })
            }
            _ => {
                Err(self.wrong("an array of pointers to maps or functions as __array() writes it"))
            }
        }
    }
}

/// Fills `values` from the section's relocations.
fn initial_values(
    maps: &mut Maps,
    elf: &Elf<'_>,
    index: usize,
    functions: &Functions<'_>,
    symbols: &[&Symbol<'_>],
    values: &[Option<Values>],
) -> Result<(), ObjectError> {
    let section = &elf.sections[index];
    for rel in &section.rels {
        let error = |reason: &str| ObjectError::Relocation {
            section: ".maps".into(),
            offset: rel.offset,
            symbol: elf.symbols[rel.symbol].name.into(),
            reason: reason.into(),
        };
        if rel.kind != R_64_64 && rel.kind != R_64_ABS64 {
            return Err(error("its kind is not known in map definitions"));
        }
        let at = symbols
            .partition_point(|s| s.value <= rel.offset)
            .checked_sub(1)
            .ok_or_else(|| error("it belongs to no map"))?;
        let (outer, values) = symbols
            .get(at)
            .zip(values.get(at).copied().flatten())
            .ok_or_else(|| error("the map there has no `values`"))?;
        let entry = (rel.offset - outer.value)
            .checked_sub(values.offset)
            .filter(|byte| byte.is_multiple_of(8))
            .and_then(|byte| u32::try_from(byte / 8).ok())
            .ok_or_else(|| error("it is not an entry of `values`"))?;
        let target = target(maps, elf, functions, section.data, rel, values.of)
            .ok_or_else(|| error("the entry is neither a map nor a program of this object"))?;
        let Some(&outer) = maps.defined.get(&(index, outer.value)) else {
            continue;
        };
        maps.specs[outer].values.push(InitialValue {
            index: entry,
            target,
        });
    }
    Ok(())
}

/// The map or program that an entry points to.
fn target(
    maps: &Maps,
    elf: &Elf<'_>,
    functions: &Functions<'_>,
    data: &[u8],
    rel: &Rel,
    of: ValuesOf,
) -> Option<InitialTarget> {
    let symbol = &elf.symbols[rel.symbol];
    let Place::Section(section) = symbol.place else {
        return None;
    };
    let place = data.get(usize::try_from(rel.offset).ok()?..)?;
    let addend = match rel.addend {
        Some(addend) => addend.cast_unsigned(),
        None => Reader::new(place).u64()?,
    };
    let address = symbol.value.checked_add(addend)?;
    match of {
        ValuesOf::Maps => {
            let map = *maps.defined.get(&(section, address))?;
            Some(InitialTarget::Map(maps.specs.get(map)?.def.name.clone()))
        }
        ValuesOf::Programs => functions
            .starting_at(section, address)
            .map(|f| InitialTarget::Program(f.name.into())),
    }
}

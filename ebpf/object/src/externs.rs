//! Externs: what an object only declares, because the kernel has it.
//!
//! BTF says which these are. Variables of the section `.kconfig` are values of the kernel's configuration: as
//! libbpf, we lay them out in a map of that name, which [`Object::resolve_config`](crate::Object::resolve_config)
//! fills. The section `.ksyms` holds functions and variables of the kernel. A weak extern may be absent: then it
//! reads as zero and its address is null, which programs ask before they use it.

use std::cmp::Reverse;
use std::collections::HashMap;

use squalus_isa::{MapDef, MapFlags, MapType};

use crate::btf::{Btf, Kind, Layout, SecVar, TypeId};
use crate::config::{ConfigExtern, ConfigKind};
use crate::elf::{Elf, Place, Symbol};
use crate::{Kfunc, MapOrigin, MapSpec, ObjectError};

/// The section, and the map that holds its values.
const KCONFIG: &str = ".kconfig";

/// The externs of an object.
#[derive(Default)]
pub(crate) struct Externs<'a> {
    by_name: HashMap<&'a str, Extern>,
    pub(crate) config: Vec<ConfigExtern>,
    pub(crate) kfuncs: Vec<Kfunc>,
    /// Bytes of all configuration values.
    size: u32,
    section: Option<TypeId>,
}

/// What a name that the object does not define stands for.
#[derive(Clone, Copy)]
pub(crate) enum Extern {
    /// A value of the kernel's configuration, by its place in [`Externs::config`].
    Config(usize),
    /// A kernel function, by its place in [`Externs::kfuncs`].
    Function(usize),
    /// A kernel variable.
    Variable,
}

impl<'a> Externs<'a> {
    pub(crate) fn collect(elf: &Elf<'a>, btf: Option<&'a Btf>) -> Result<Self, ObjectError> {
        let mut externs = Externs::default();
        let Some(btf) = btf else {
            return Ok(externs);
        };
        let undefined: HashMap<&str, &Symbol<'_>> = elf
            .symbols
            .iter()
            .filter(|s| s.place == Place::Undefined)
            .map(|s| (s.name, s))
            .collect();
        if let Some((id, vars)) = btf.section(KCONFIG) {
            externs.section = Some(id);
            externs.collect_config(btf, vars, &undefined)?;
        }
        for var in btf.section(".ksyms").map_or(&[][..], |(_, vars)| vars) {
            let name = btf.type_name(var.var);
            let Some(symbol) = undefined.get(name) else {
                continue;
            };
            let of = match btf.get(var.var).map(|t| &t.kind) {
                Some(&Kind::Func { proto, .. }) => {
                    externs.kfuncs.push(Kfunc {
                        name: name.into(),
                        weak: symbol.weak,
                        proto,
                    });
                    Extern::Function(externs.kfuncs.len() - 1)
                }
                _ => Extern::Variable,
            };
            externs.by_name.insert(name, of);
        }
        Ok(externs)
    }

    /// Lays the values out as libbpf does: by alignment, largest first, then by size, smallest first, then by name.
    fn collect_config(
        &mut self,
        btf: &'a Btf,
        vars: &[SecVar],
        undefined: &HashMap<&str, &Symbol<'_>>,
    ) -> Result<(), ObjectError> {
        let mut found = Vec::new();
        for var in vars {
            let name = btf.type_name(var.var);
            let Some(symbol) = undefined.get(name) else {
                continue;
            };
            let Some(&Kind::Var { ty, .. }) = btf.get(var.var).map(|t| &t.kind) else {
                return Err(config_error(name, "it is no variable"));
            };
            let (kind, size, align) = shape(btf, ty).ok_or_else(|| {
                config_error(
                    name,
                    "its type is none that the kernel's configuration has: bool, char, an integer, enum libbpf_tristate or an array of char",
                )
            })?;
            found.push((align, size, name, kind, symbol.weak));
        }
        found.sort_by_key(|&(align, size, name, ..)| (Reverse(align), size, name));
        found.dedup_by_key(|f| f.2);
        let mut end = 0u32;
        for (align, size, name, kind, weak) in found {
            let offset = end.next_multiple_of(align);
            end = offset.checked_add(size).ok_or_else(too_large)?;
            if u64::from(end) > crate::limits::DATA_BYTES {
                return Err(too_large());
            }
            self.by_name.insert(name, Extern::Config(self.config.len()));
            self.config.push(ConfigExtern {
                name: name.into(),
                weak,
                kind,
                offset,
                size,
            });
        }
        self.size = end;
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Extern> {
        self.by_name.get(name).copied()
    }

    /// The map of configuration values, all zero for now.
    pub(crate) fn map(&self) -> Option<MapSpec> {
        let def = MapDef {
            flags: MapFlags::RDONLY_PROG,
            ..MapDef::new(KCONFIG, MapType::Array, (4, self.size), 1)
        };
        (self.size > 0).then(|| MapSpec {
            initial: Some(vec![0; self.size as usize]),
            frozen: true,
            value_type: self.section,
            ..MapSpec::new(def, MapOrigin::Data)
        })
    }

    /// Where the values are, for the kernel's version of the types.
    pub(crate) fn layout(&self) -> Option<(&'static str, Layout)> {
        let offset = |c: &ConfigExtern| (c.name.clone(), u64::from(c.offset));
        (self.size > 0).then(|| {
            let layout = Layout {
                size: self.size.into(),
                offsets: self.config.iter().map(offset).collect(),
            };
            (KCONFIG, layout)
        })
    }
}

fn too_large() -> ObjectError {
    ObjectError::TooLarge {
        what: "the externs in .kconfig".into(),
        limit: format!("{} bytes", crate::limits::DATA_BYTES),
    }
}

fn config_error(name: &str, reason: &str) -> ObjectError {
    ObjectError::Symbol {
        symbol: name.into(),
        section: KCONFIG.into(),
        reason: reason.into(),
    }
}

/// Kind, size and alignment of a configuration value, by its type.
fn shape(btf: &Btf, ty: TypeId) -> Option<(ConfigKind, u32, u32)> {
    let (_, resolved) = btf.resolve(ty)?;
    match &resolved.kind {
        Kind::Array { element, len } if *len > 0 => {
            // No deeper than one array, so that a type that contains itself ends here.
            let (_, element) = btf.resolve(*element)?;
            let char = matches!(
                element.kind,
                Kind::Int {
                    size: 1,
                    boolean: false,
                    ..
                }
            );
            char.then_some((ConfigKind::Text, *len, 1))
        }
        Kind::Enum { size: 4, .. } if is_tristate(btf, ty) => Some((ConfigKind::Tristate, 4, 4)),
        &Kind::Int {
            size,
            signed,
            boolean,
            ..
        } => {
            let kind = match size {
                1 if boolean => ConfigKind::Bool,
                _ if boolean => return None,
                1 => ConfigKind::Char { signed },
                2 | 4 | 8 => ConfigKind::Int { signed },
                _ => return None,
            };
            Some((kind, size, size))
        }
        _ => None,
    }
}

/// Whether a type is, behind qualifiers and typedefs, `enum libbpf_tristate`.
fn is_tristate(btf: &Btf, ty: TypeId) -> bool {
    btf.resolve(ty)
        .is_some_and(|(id, _)| btf.type_name(id) == "libbpf_tristate")
}

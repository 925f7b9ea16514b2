//! From an ELF object to map definitions and relocatable programs.
//!
//! `aya-obj` parses and relocates. The maps in between are created by [`crate::load`] and not by aya's
//! own loader, which has no way to give a map of maps another prototype than the declared one, and
//! whose typed maps need key and value types at compile time.

use std::collections::HashMap;

use aya_obj::generated::bpf_insn;
use aya_obj::programs::XdpAttachType;
use aya_obj::{EbpfSectionKind, Object, ProgramSection};
use squalus_isa::{INSN_SIZE, Insn, MapDef, MapFlags, MapType};

use crate::sys::Records;
use crate::{KernelError, LoadOptions};

/// `BPF_F_XDP_HAS_FRAGS` of `BPF_PROG_LOAD`.
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_XDP_DEVMAP`, `BPF_XDP_CPUMAP` and `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_TYPES: (u32, u32, u32) = (34, 35, crate::sys::ATTACH_XDP);

/// A map of the object, with what its definition cannot hold.
pub(crate) struct ObjectMap {
    pub(crate) def: MapDef,
    pub(crate) source: aya_obj::Map,
}

impl ObjectMap {
    /// Initial content of a data section.
    pub(crate) fn data(&self) -> &[u8] {
        self.source.data()
    }

    pub(crate) fn is_rodata(&self) -> bool {
        self.source.section_kind() == EbpfSectionKind::Rodata
    }

    pub(crate) fn is_data_section(&self) -> bool {
        use EbpfSectionKind::{Bss, Data, Rodata};
        matches!(self.source.section_kind(), Bss | Data | Rodata)
    }

    /// Key and value type in the object's BTF, for the map types that may have them.
    pub(crate) fn btf_types(&self) -> Option<(u32, u32)> {
        use MapType as T;
        let aya_obj::Map::Btf(map) = &self.source else {
            return None;
        };
        let untyped = matches!(
            self.def.kind,
            T::PerfEventArray
                | T::CgroupArray
                | T::StackTrace
                | T::ProgArray
                | T::ArrayOfMaps
                | T::HashOfMaps
                | T::DevMap
                | T::DevMapHash
                | T::CpuMap
                | T::XskMap
                | T::SockMap
                | T::SockHash
                | T::Queue
                | T::Stack
                | T::RingBuf
        );
        (!untyped).then_some((map.def.btf_key_type_id, map.def.btf_value_type_id))
    }
}

/// A program before loading.
pub(crate) struct ObjectProgram {
    pub(crate) name: String,
    pub(crate) insns: Vec<[u8; INSN_SIZE]>,
    pub(crate) license: std::ffi::CString,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
    pub(crate) func_info: Records,
    pub(crate) line_info: Records,
}

/// A parsed object, with the options applied.
pub(crate) struct Parsed {
    object: Object,
    pub(crate) maps: Vec<ObjectMap>,
}

impl Parsed {
    pub(crate) fn new(bytes: &[u8], options: &LoadOptions) -> Result<Parsed, KernelError> {
        let mut object = parse(bytes)?;
        let globals = options
            .globals
            .iter()
            .map(|(name, value)| (name.as_str(), (value.as_slice(), true)))
            .collect();
        object
            .patch_map_data(globals)
            .map_err(|error| KernelError::Object(error.to_string()))?;
        let mut maps = maps(&mut object)?;
        apply(&mut maps, options)?;
        Ok(Parsed { object, maps })
    }

    /// The object's type information as the running kernel understands it.
    pub(crate) fn btf_bytes(&mut self) -> Result<Option<Vec<u8>>, KernelError> {
        let Some(features) = aya::features().btf() else {
            return Ok(None);
        };
        let btf = self.object.fixup_and_sanitize_btf(features);
        Ok(btf.map_err(unusable)?.map(aya_obj::btf::Btf::to_bytes))
    }

    /// Links the programs: CO-RE, map references (`fds`, in the order of `maps`), subprograms.
    pub(crate) fn programs(mut self, fds: &[i32]) -> Result<Vec<ObjectProgram>, KernelError> {
        let object = &mut self.object;
        if object.has_btf_relocations() {
            let kernel = aya::Btf::from_sys_fs().map_err(unusable)?;
            object.relocate_btf(&kernel).map_err(unusable)?;
        }
        let sections = object.functions.keys().map(|(section, _)| *section);
        let sections = sections.collect();
        let maps = self.maps.iter().zip(fds);
        let maps = maps.map(|(map, fd)| (map.def.name.as_str(), *fd, &map.source));
        object.relocate_maps(maps, &sections).map_err(unusable)?;
        object.relocate_calls(&sections).map_err(unusable)?;
        object.sanitize_functions(aya::features());
        Ok(xdp_programs(object))
    }
}

/// The error with its causes: aya's outer errors often say only that something failed.
fn unusable(error: impl std::error::Error) -> KernelError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    KernelError::Object(text)
}

/// Parses from an aligned copy: the ELF reader refuses headers at odd addresses.
fn parse(bytes: &[u8]) -> Result<Object, KernelError> {
    const ALIGN: usize = 8;
    let mut copy = vec![0; bytes.len() + ALIGN];
    let start = copy.as_ptr().align_offset(ALIGN).min(ALIGN);
    let aligned = &mut copy[start..start + bytes.len()];
    aligned.copy_from_slice(bytes);
    Object::parse(aligned).map_err(unusable)
}

/// Takes the maps out of the object, in its order.
fn maps(object: &mut Object) -> Result<Vec<ObjectMap>, KernelError> {
    let mut found: Vec<_> = object.maps.drain().collect();
    found.sort_by_key(|(_, map)| (map.section_index(), map.symbol_index()));
    found
        .into_iter()
        .map(|(name, source)| {
            let def = definition(name, &source)?;
            Ok(ObjectMap { def, source })
        })
        .collect()
}

fn definition(name: String, map: &aya_obj::Map) -> Result<MapDef, KernelError> {
    let kind = MapType::from_id(map.map_type()).ok_or_else(|| {
        KernelError::Object(format!("map `{name}` has unknown type {}", map.map_type()))
    })?;
    let inner = match map.inner() {
        Some(inner) => Some(Box::new(definition(format!("{name}.inner"), &inner)?)),
        None => None,
    };
    Ok(MapDef {
        kind,
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: MapFlags(map.map_flags()),
        inner,
        name,
        extra: 0,
        fields: Default::default(),
    })
}

fn apply(maps: &mut [ObjectMap], options: &LoadOptions) -> Result<(), KernelError> {
    let index: HashMap<String, usize> = maps
        .iter()
        .enumerate()
        .map(|(i, map)| (map.def.name.clone(), i))
        .collect();
    let find = |name: &str| {
        index.get(name).copied().ok_or_else(|| KernelError::Option {
            name: name.to_owned(),
            reason: "the object has no such map".to_owned(),
        })
    };
    for (name, entries) in &options.max_entries {
        maps[find(name)?].def.max_entries = *entries;
    }
    for (name, prototype) in &options.inner {
        let def = &mut maps[find(name)?].def;
        if !def.kind.is_map_in_map() {
            return Err(KernelError::Option {
                name: name.clone(),
                reason: format!("it is of type {}, no map of maps", def.kind),
            });
        }
        def.inner = Some(Box::new(prototype.clone()));
    }
    Ok(())
}

fn xdp_programs(object: &mut Object) -> Vec<ObjectProgram> {
    let mut programs: Vec<_> = object.programs.iter().collect();
    programs.sort_by_key(|(_, program)| program.function_key());
    programs
        .into_iter()
        .filter_map(|(name, program)| {
            let ProgramSection::Xdp { frags, attach_type } = &program.section else {
                return None;
            };
            let function = object.functions.get(&program.function_key())?;
            Some(ObjectProgram {
                name: name.clone(),
                insns: function.instructions.iter().map(instruction).collect(),
                license: program.license.clone(),
                attach_type: match attach_type {
                    XdpAttachType::DevMap => ATTACH_TYPES.0,
                    XdpAttachType::CpuMap => ATTACH_TYPES.1,
                    XdpAttachType::Interface => ATTACH_TYPES.2,
                },
                flags: if *frags { XDP_HAS_FRAGS } else { 0 },
                func_info: Records {
                    size: function.func_info_rec_size,
                    bytes: function.func_info.func_info_bytes(),
                },
                line_info: Records {
                    size: function.line_info_rec_size,
                    bytes: function.line_info.line_info_bytes(),
                },
            })
        })
        .collect()
}

fn instruction(insn: &bpf_insn) -> [u8; INSN_SIZE] {
    let insn = Insn {
        op: insn.code,
        dst: insn.dst_reg(),
        src: insn.src_reg(),
        off: insn.off,
        imm: insn.imm,
    };
    insn.to_bytes()
}

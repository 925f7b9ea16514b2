//! The loaded object and what can be asked of it.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::btf::{Btf, BtfFeatures, KernelBtf};
use crate::config::ConfigExtern;
use crate::elf::Elf;
use crate::externs::Externs;
use crate::functions::Functions;
use crate::lines::Extra;
use crate::link::{Linked, Linker, struct_ops, tail_kind};
use crate::maps::Maps;
use crate::reader::word_at;
use crate::{Global, Kfunc, MapSpec, ObjectError, Program, Refused};

/// A parsed and linked object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Maps: definitions in their section's order, then data sections.
    pub maps: Vec<MapSpec>,
    /// Programs, in the object's order.
    pub programs: Vec<Program>,
    /// Programs that cannot be loaded here, with the reason.
    pub refused: Vec<Refused>,
    /// The `license` section; empty without one.
    pub license: String,
    /// The `version` section: the kernel version the object was built for; 0 without one.
    pub kern_version: u32,
    /// A number that loads of the same bytes share, and others hardly ever (see
    /// [`Pinning::ByObject`](crate::Pinning::ByObject)); stable within a process.
    pub identity: u64,
    /// The object's types, if it has a `.BTF` section.
    pub btf: Option<Btf>,
    /// Kernel functions that programs call; empty once [`Object::resolve_kfuncs`] has put in their numbers.
    pub kfuncs: Vec<Kfunc>,
    pub(crate) globals: Vec<Global>,
    pub(crate) config: Vec<ConfigExtern>,
    pub(crate) kernel_btf: KernelBtf,
}

impl Object {
    /// Parses and links an object file.
    ///
    /// # Errors
    /// If the file is no eBPF object, or anything in it is malformed; also if none of its programs can be
    /// loaded, with the reason of the first.
    pub fn parse(bytes: &[u8]) -> Result<Object, ObjectError> {
        let elf = Elf::parse(bytes)?;
        let raw = elf.section(".BTF").map(|(_, s)| s.data);
        let btf = raw.map(Btf::parse).transpose()?;
        let kernel_btf = raw.zip(btf.as_ref());
        let kernel_btf = kernel_btf.map(|(raw, btf)| KernelBtf::collect(&elf, raw, btf));
        let mut kernel_btf = kernel_btf.unwrap_or_default();
        let functions = Functions::collect(&elf)?;
        let mut maps = Maps::collect(&elf, btf.as_ref(), &functions)?;
        let externs = Externs::collect(&elf, btf.as_ref())?;
        let config_map = externs.map().map(|map| maps.add(map)).transpose()?;
        if let Some((section, layout)) = externs.layout() {
            kernel_btf.set_layout(section, layout);
        }
        let extra = Extra::collect(&elf, btf.as_ref())?;
        let Linked {
            programs,
            mut refused,
        } = Linker {
            elf: &elf,
            functions: &functions,
            maps: &maps,
            externs: &externs,
            config_map,
            extra: &extra,
            tail_kind: tail_kind(&elf, &functions),
            spent: Cell::new(0),
        }
        .link()?;
        refused.extend(struct_ops(&elf));
        if programs.is_empty() {
            return Err(refused
                .into_iter()
                .next()
                .map_or(ObjectError::NoPrograms, |r| r.reason));
        }
        let Externs { config, kfuncs, .. } = externs;
        Ok(Object {
            maps: maps.specs,
            programs,
            refused,
            license: license(&elf),
            kern_version: elf
                .section("version")
                .and_then(|(_, s)| word_at(s.data, 0))
                .unwrap_or(0),
            identity: identity(bytes),
            btf,
            kfuncs,
            globals: maps.globals,
            config,
            kernel_btf,
        })
    }

    /// The program with this name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }

    /// The program with this name, or why there is none.
    ///
    /// # Errors
    /// The reason it was refused, or [`ObjectError::NoProgram`] with the names there are.
    pub fn require_program(&self, name: &str) -> Result<&Program, ObjectError> {
        if let Some(program) = self.program(name) {
            return Ok(program);
        }
        if let Some(refused) = self.refused.iter().find(|r| r.name == name) {
            return Err(refused.reason.clone());
        }
        Err(ObjectError::NoProgram {
            name: name.into(),
            available: listing(self.programs.iter().map(|p| p.name.as_str())),
        })
    }

    /// The map with this name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&MapSpec> {
        self.maps.iter().find(|m| m.def.name == name)
    }

    /// The object's types as a kernel with these features takes them (`BPF_BTF_LOAD`): sections of variables with
    /// their sizes and offsets, names and kinds such as it accepts. Types keep their numbers. `None` if the object
    /// has none.
    ///
    /// # Errors
    /// If the section is malformed.
    pub fn kernel_btf(&self, features: BtfFeatures) -> Result<Option<Vec<u8>>, ObjectError> {
        let Some(btf) = &self.btf else {
            return Ok(None);
        };
        Ok(Some(self.kernel_btf.bytes(btf, features)?))
    }

    /// The variables of data sections, in the symbol table's order.
    #[must_use]
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// Sets the initial contents of a variable of `.rodata*`, `.data*` or `.bss*`, little-endian as in memory.
    ///
    /// # Errors
    /// If there is no such variable, several static ones share the name, or it has another size. Nothing changes then.
    pub fn set_global(&mut self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let global = self.global(name)?;
        if global.size != bytes.len() {
            return Err(ObjectError::GlobalSize {
                name: name.into(),
                section: global.section.clone(),
                want: global.size,
                got: bytes.len(),
            });
        }
        let (map, start) = (global.map, global.offset);
        let place = self
            .maps
            .get_mut(map)
            .and_then(|m| m.initial.as_mut())
            .and_then(|data| data.get_mut(start..)?.get_mut(..bytes.len()))
            .expect("globals lie within their sections: the parser checked");
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// The variable with this name.
    ///
    /// # Errors
    /// If there is none, or several static ones share the name.
    pub fn global(&self, name: &str) -> Result<&Global, ObjectError> {
        let mut found = self.globals.iter().filter(|g| g.name == name);
        let first = found.next().ok_or_else(|| ObjectError::NoGlobal {
            name: name.into(),
            available: listing(self.globals.iter().map(|g| g.name.as_str())),
        })?;
        if found.next().is_some() {
            let all = self.globals.iter().filter(|g| g.name == name);
            return Err(ObjectError::AmbiguousGlobal {
                name: name.into(),
                sections: listing(all.map(|g| g.section.as_str())),
            });
        }
        Ok(first)
    }
}

fn identity(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The licence, as far as it is text.
fn license(elf: &Elf<'_>) -> String {
    const LONGEST: usize = 128;
    let data = elf.section("license").map_or(&[][..], |(_, s)| s.data);
    let window = data.get(..LONGEST).unwrap_or(data);
    let text = window.split(|&b| b == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(text).into_owned()
}

/// Names for an error message: the first few, or `none`.
pub(crate) fn listing<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 32;
    let names: Vec<_> = names.take(SHOWN + 1).collect();
    match names.get(..SHOWN) {
        _ if names.is_empty() => "none".into(),
        Some(first) if names.len() > SHOWN => format!("{}, ...", first.join(", ")),
        _ => names.join(", "),
    }
}

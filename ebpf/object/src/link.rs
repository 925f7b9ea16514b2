//! Linking: from functions and relocations to flat programs.
//!
//! A program is its own function followed by every function it reaches, each once, in the order in which
//! they are first reached. Calls and function addresses are patched when all have their place.

use std::collections::HashMap;
use std::sync::Arc;

use squalus_isa::{INSN_SIZE, Insn, opcode};

use crate::btf::{Btf, Kind};
use crate::core_relo::CoreRelo;
use crate::elf::{Elf, Place, R_64_32, R_64_64, Rel, Symbol};
use crate::functions::{Function, Functions, kind_of};
use crate::limits::{OBJECT_SLOTS, PROGRAM_SLOTS};
use crate::lines::Extra;
use crate::maps::{MapRef, Maps};
use crate::{ObjectError, Program, Refused, Subprogram};

const CALL: u8 = opcode::JMP | opcode::CALL;

/// What all programs of an object share while they are linked.
pub(crate) struct Linker<'l, 'a> {
    pub(crate) elf: &'l Elf<'a>,
    pub(crate) functions: &'l Functions<'a>,
    pub(crate) maps: &'l Maps,
    pub(crate) btf: Option<&'l Btf>,
    pub(crate) extra: &'l Extra,
}

/// All programs of an object, and those it has but which cannot be had here.
#[derive(Default)]
pub(crate) struct Linked {
    pub(crate) programs: Vec<Program>,
    pub(crate) refused: Vec<Refused>,
}

impl Linker<'_, '_> {
    /// Links every program.
    pub(crate) fn link(&self) -> Result<Linked, ObjectError> {
        let mut linked = Linked::default();
        let mut slots = 0;
        for (index, function) in self.functions.all.iter().enumerate() {
            if !function.entry {
                continue;
            }
            let section = self.elf.section_name(function.section);
            match self.program(index, function, section) {
                Ok(program) => {
                    slots += program.insns.len();
                    linked.programs.push(program);
                }
                Err(reason @ ObjectError::Unsupported { .. }) => linked.refused.push(Refused {
                    name: function.name.into(),
                    section: section.into(),
                    reason,
                }),
                Err(broken) => return Err(broken),
            }
            if slots > OBJECT_SLOTS {
                return Err(ObjectError::TooLarge {
                    what: "the code of all programs with their subprograms".into(),
                    limit: format!("{OBJECT_SLOTS} instructions"),
                });
            }
        }
        Ok(linked)
    }

    fn program(
        &self,
        index: usize,
        function: &Function<'_>,
        section: &str,
    ) -> Result<Program, ObjectError> {
        refuse_section(function.name, section)?;
        let (kind, autoload) = kind_of(section);
        let mut flat = Flat::default();
        flat.place(index);
        let mut next = 0;
        while let Some(&(index, _)) = flat.placed.get(next) {
            next += 1;
            self.append(&mut flat, index)?;
        }
        flat.patch_calls()?;
        let (subprograms, lines, core) = self.describe(&flat);
        Ok(Program {
            name: function.name.into(),
            section: section.into(),
            kind,
            autoload,
            insns: flat.insns,
            subprograms,
            lines,
            poisoned: Vec::new(),
            core,
        })
    }

    /// Appends a function's code with its map references resolved and its calls noted.
    fn append(&self, flat: &mut Flat, index: usize) -> Result<(), ObjectError> {
        let function = &self.functions.all[index];
        let code = self.functions.code(function);
        let base = flat.insns.len();
        if base + code.len() > PROGRAM_SLOTS {
            return Err(ObjectError::TooLarge {
                what: format!("a program that contains function `{}`", function.name),
                limit: format!("{PROGRAM_SLOTS} instructions"),
            });
        }
        flat.start(index);
        flat.insns.extend_from_slice(code);
        let mut rels = self.rels(function);
        let mut slot = 0;
        while let Some(&insn) = code.get(slot) {
            let place = Site {
                function,
                slot,
                flat: base + slot,
            };
            match rels.first() {
                Some(rel) if place.offset() == Some(rel.offset) => {
                    self.relocate(flat, &place, insn, rel)?;
                    rels = &rels[1..];
                }
                Some(rel) if place.offset().is_none_or(|at| at > rel.offset) => {
                    return Err(self.relocation_error(
                        function,
                        rel,
                        "it is inside an instruction, or a second one for the same",
                    ));
                }
                _ => self.unrelocated(flat, &place, insn)?,
            }
            slot += if insn.op == opcode::LD_IMM64 { 2 } else { 1 };
        }
        match rels.first() {
            Some(rel) => Err(self.relocation_error(function, rel, "it is inside an instruction")),
            None => Ok(()),
        }
    }

    /// The relocations within a function.
    fn rels(&self, function: &Function<'_>) -> &[Rel] {
        let rels = self
            .elf
            .sections
            .get(function.section)
            .map_or(&[][..], |s| &s.rels);
        let start = (function.start * INSN_SIZE) as u64;
        let end = start + (function.len * INSN_SIZE) as u64;
        let from = rels.partition_point(|r| r.offset < start);
        let to = rels.partition_point(|r| r.offset < end);
        rels.get(from..to).unwrap_or(&[])
    }

    fn relocation_error(&self, function: &Function<'_>, rel: &Rel, reason: &str) -> ObjectError {
        ObjectError::Relocation {
            section: self.elf.section_name(function.section).into(),
            offset: rel.offset,
            symbol: self.elf.symbols[rel.symbol].name.into(),
            reason: reason.into(),
        }
    }

    fn relocate(
        &self,
        flat: &mut Flat,
        site: &Site<'_, '_>,
        insn: Insn,
        rel: &Rel,
    ) -> Result<(), ObjectError> {
        let symbol = &self.elf.symbols[rel.symbol];
        let error = |reason: &str| self.relocation_error(site.function, rel, reason);
        let section = match symbol.place {
            Place::Section(section) => section,
            Place::Undefined => return Err(self.refuse_extern(site.function, symbol)),
            Place::Other => return Err(error("the symbol is absolute or common")),
        };
        match (insn.op, rel.kind) {
            (CALL, R_64_32) if insn.src == opcode::PSEUDO_CALL => {
                let address =
                    i128::from(symbol.value) + (i128::from(insn.imm) + 1) * INSN_SIZE as i128;
                let target = self
                    .function_at(section, address)
                    .ok_or_else(|| error("no function starts where it points"))?;
                flat.calls.push((site.flat, target));
                flat.place(target);
                Ok(())
            }
            (opcode::LD_IMM64, R_64_64) => {
                let address = i128::from(symbol.value) + i128::from(insn.imm);
                self.relocate_address(flat, site, section, address)
                    .map_err(|reason| {
                        reason.unwrap_or_else(|| error("it points to no map, variable or function"))
                    })
            }
            _ => Err(error(&format!(
                "kind {} does not fit the instruction there (opcode {:#04x}); the object may come from an unsupported compiler",
                rel.kind, insn.op
            ))),
        }
    }

    /// Makes an `LD_IMM64` refer to what lies at `address` of `section`. `Err(None)` if nothing does.
    fn relocate_address(
        &self,
        flat: &mut Flat,
        site: &Site<'_, '_>,
        section: usize,
        address: i128,
    ) -> Result<(), Option<ObjectError>> {
        if self.elf.sections.get(section).is_some_and(|s| s.exec) {
            let target = self.function_at(section, address).ok_or(None)?;
            flat.set_wide(site, opcode::PSEUDO_FUNC, 0, 0)?;
            flat.calls.push((site.flat, target));
            flat.place(target);
            return Ok(());
        }
        let at = u64::try_from(address).map_err(|_| None)?;
        match self.maps.at(section, at).ok_or(None)? {
            MapRef::Map(map) => {
                flat.set_wide(site, opcode::PSEUDO_MAP_FD, index_imm(map), 0)?;
            }
            MapRef::Value { map, section_size } => {
                // One past the end is a legal address in C.
                let offset = u32::try_from(at)
                    .ok()
                    .filter(|_| at <= section_size)
                    .ok_or(None)?;
                flat.set_wide(
                    site,
                    opcode::PSEUDO_MAP_VALUE,
                    index_imm(map),
                    offset.cast_signed(),
                )?;
            }
        }
        Ok(())
    }

    fn function_at(&self, section: usize, address: i128) -> Option<usize> {
        self.functions
            .index_at(section, u64::try_from(address).ok()?)
    }

    /// An instruction without relocation: a call within the section is relative already, a reference is an error.
    fn unrelocated(
        &self,
        flat: &mut Flat,
        site: &Site<'_, '_>,
        insn: Insn,
    ) -> Result<(), ObjectError> {
        let function = site.function;
        match (insn.op, insn.src) {
            (CALL, opcode::PSEUDO_CALL) => {
                let slot = (function.start + site.slot) as i128 + 1 + i128::from(insn.imm);
                let target = self
                    .function_at(function.section, slot * INSN_SIZE as i128)
                    .ok_or_else(|| site.error("it calls a place where no function starts"))?;
                flat.calls.push((site.flat, target));
                flat.place(target);
                Ok(())
            }
            (opcode::LD_IMM64, src) if src != opcode::PSEUDO_IMM => Err(site.error(
                "it refers to a map, variable or function without a relocation; the object was loaded before or is damaged",
            )),
            _ => Ok(()),
        }
    }

    /// Why a reference to something outside the object cannot be resolved.
    fn refuse_extern(&self, function: &Function<'_>, symbol: &Symbol<'_>) -> ObjectError {
        let name = symbol.name;
        let reason = match self.extern_section(name) {
            Some(".kconfig") => format!(
                "it reads the kernel's configuration value `{name}` (an extern in .kconfig), which this loader does not provide; make it a `const volatile` variable"
            ),
            Some(".ksyms") => format!(
                "it uses `{name}` of the kernel (an extern in .ksyms), which exists only inside the kernel"
            ),
            _ => format!(
                "it refers to `{name}`, which the object does not define; link it with the object that does (bpftool gen object)"
            ),
        };
        ObjectError::Unsupported {
            name: function.name.into(),
            section: self.elf.section_name(function.section).into(),
            reason,
        }
    }

    /// The section of externs that declares a name.
    fn extern_section(&self, name: &str) -> Option<&'static str> {
        let btf = self.btf?;
        let declares = |section| {
            btf.section(section)
                .is_some_and(|(_, vars)| vars.iter().any(|v| btf.type_name(v.var) == name))
        };
        if let Some(section) = [".kconfig", ".ksyms"].into_iter().find(|&s| declares(s)) {
            return Some(section);
        }
        btf.find(name, |k| {
            matches!(
                k,
                Kind::Func {
                    linkage: crate::btf::Linkage::Extern,
                    ..
                }
            )
        })
        .map(|_| ".ksyms")
    }

    /// Names, source lines and CO-RE relocations of linked code.
    fn describe(&self, flat: &Flat) -> (Vec<Subprogram>, Vec<crate::LineInfo>, Vec<CoreRelo>) {
        let mut subprograms = Vec::with_capacity(flat.placed.len());
        let (mut lines, mut core) = (Vec::new(), Vec::new());
        for &(index, start) in &flat.placed {
            let function = &self.functions.all[index];
            subprograms.push(Subprogram {
                name: Arc::clone(&function.shared_name),
                start,
            });
            self.extra.append(function, start, &mut lines, &mut core);
        }
        (subprograms, lines, core)
    }
}

fn index_imm(map: usize) -> i32 {
    i32::try_from(map).expect("an object in memory has fewer maps than 2^31")
}

/// Sections whose programs exist only within the kernel.
fn refuse_section(name: &str, section: &str) -> Result<(), ObjectError> {
    let prefix = section.trim_start_matches('?').split('/').next();
    let reason = match prefix {
        Some("freplace") => {
            "it replaces a function of a program that is already in the kernel (freplace); load it there with the tool that owns that program"
        }
        Some("struct_ops" | "struct_ops.s") => {
            "it implements a kernel interface (struct_ops), which exists only inside the kernel"
        }
        _ => return Ok(()),
    };
    Err(ObjectError::Unsupported {
        name: name.into(),
        section: section.into(),
        reason: reason.into(),
    })
}

/// An instruction under relocation.
struct Site<'f, 'a> {
    function: &'f Function<'a>,
    /// Slot in the function.
    slot: usize,
    /// Slot in the linked program.
    flat: usize,
}

impl Site<'_, '_> {
    /// Its offset in the section in bytes.
    fn offset(&self) -> Option<u64> {
        let slot = self.function.start.checked_add(self.slot)?;
        u64::try_from(slot.checked_mul(INSN_SIZE)?).ok()
    }

    fn error(&self, reason: &str) -> ObjectError {
        ObjectError::Code {
            function: self.function.name.into(),
            slot: self.slot,
            reason: reason.into(),
        }
    }
}

/// A program under construction.
#[derive(Default)]
struct Flat {
    insns: Vec<Insn>,
    /// Functions in order of their place, with their first slot once they are appended.
    placed: Vec<(usize, usize)>,
    /// Position in `placed` of each function.
    positions: HashMap<usize, usize>,
    /// Calls and function addresses to patch: slot and function.
    calls: Vec<(usize, usize)>,
}

impl Flat {
    /// Makes sure a function becomes part of the program.
    fn place(&mut self, function: usize) {
        let next = self.placed.len();
        if *self.positions.entry(function).or_insert(next) == next {
            self.placed.push((function, 0));
        }
    }

    /// Notes that a placed function starts at the end of what is there.
    fn start(&mut self, function: usize) {
        let start = self.insns.len();
        if let Some(placed) = self
            .positions
            .get(&function)
            .and_then(|&p| self.placed.get_mut(p))
        {
            placed.1 = start;
        }
    }

    /// Fills both slots of an `LD_IMM64`.
    fn set_wide(
        &mut self,
        site: &Site<'_, '_>,
        src: u8,
        low: i32,
        high: i32,
    ) -> Result<(), ObjectError> {
        let [first, second] = self
            .insns
            .get_mut(site.flat..)
            .and_then(|rest| rest.first_chunk_mut::<2>())
            .ok_or_else(|| site.error("the function ends inside a 64-bit immediate"))?;
        first.src = src;
        first.imm = low;
        second.imm = high;
        Ok(())
    }

    fn patch_calls(&mut self) -> Result<(), ObjectError> {
        for &(slot, function) in &self.calls {
            let start = self
                .positions
                .get(&function)
                .and_then(|&p| self.placed.get(p))
                .map_or(0, |&(_, start)| start);
            let relative = start as i64 - slot as i64 - 1;
            if let Some(insn) = self.insns.get_mut(slot) {
                insn.imm = i32::try_from(relative)
                    .expect("programs have fewer than 2^31 slots: limited to PROGRAM_SLOTS");
            }
        }
        Ok(())
    }
}

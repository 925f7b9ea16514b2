//! Linking: from functions and relocations to flat programs.
//!
//! A program is its own function followed by every function it reaches, each once, depth first: the order in
//! which libbpf lays them out, so that functions have the same numbers as in the kernel. Calls and function
//! addresses are patched when all have their place.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use squalus_isa::{INSN_SIZE, Insn, opcode};

use crate::core_relo::CoreRelo;
use crate::elf::{Elf, Place, R_64_32, R_64_64, Rel, Symbol, SymbolKind};
use crate::externs::{Extern, Externs};
use crate::functions::{Function, Functions};
use crate::limits::{OBJECT_SLOTS, PROGRAM_SLOTS};
use crate::lines::Extra;
use crate::maps::{MapRef, Maps};
use crate::section::{Class, tail};
use crate::{ObjectError, Program, ProgramKind, Refused, Subprogram};

const CALL: u8 = opcode::JMP | opcode::CALL;

/// What all programs of an object share while they are linked.
pub(crate) struct Linker<'l, 'a> {
    pub(crate) elf: &'l Elf<'a>,
    pub(crate) functions: &'l Functions<'a>,
    pub(crate) maps: &'l Maps,
    pub(crate) externs: &'l Externs<'a>,
    /// Index of the map of configuration values.
    pub(crate) config_map: Option<usize>,
    pub(crate) extra: &'l Extra,
    /// What programs are whose section's name only says where they are tail-called from.
    pub(crate) tail_kind: Option<ProgramKind>,
    /// Slots copied so far.
    pub(crate) spent: Cell<usize>,
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
        for (index, function) in self.functions.all.iter().enumerate() {
            if !function.entry {
                continue;
            }
            let section = self.elf.section_name(function.section);
            match self.program(index, function, section) {
                Ok(program) => linked.programs.push(program),
                Err(reason @ ObjectError::Unsupported { .. }) => linked.refused.push(Refused {
                    name: function.name.into(),
                    section: section.into(),
                    reason,
                }),
                Err(broken) => return Err(broken),
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
        let mut class = Class::of(section);
        if let (ProgramKind::Unknown(_), Some(_), Some(kind)) =
            (&class.kind, tail(section), &self.tail_kind)
        {
            class.kind = kind.clone();
        }
        let mut flat = self.assemble(index)?;
        flat.patch_calls();
        let (subprograms, lines, core) = self.describe(&flat);
        Ok(Program {
            name: function.name.into(),
            section: section.into(),
            kind: class.kind,
            attach: class.attach,
            sleepable: class.sleepable,
            autoload: class.autoload,
            insns: flat.insns,
            subprograms,
            lines,
            poisoned: Vec::new(),
            core,
            config: flat.config.into_iter().collect(),
            kfuncs: flat.kfuncs,
        })
    }

    /// Lays out a function and all it reaches, depth first, with map references resolved and calls noted.
    fn assemble(&self, entry: usize) -> Result<Flat, ObjectError> {
        let mut flat = Flat::default();
        let mut open = vec![self.open(&mut flat, entry)?];
        while let Some(cursor) = open.last_mut() {
            match self.advance(&mut flat, cursor)? {
                Some(reached) if flat.starts.contains_key(&reached) => {}
                Some(reached) => open.push(self.open(&mut flat, reached)?),
                None => {
                    open.pop();
                }
            }
        }
        Ok(flat)
    }

    /// Appends a function's code as it stands in its section.
    fn open(&self, flat: &mut Flat, index: usize) -> Result<Cursor<'_, '_>, ObjectError> {
        let function = &self.functions.all[index];
        let code = self.functions.code(function);
        let base = flat.insns.len();
        if base + code.len() > PROGRAM_SLOTS {
            return Err(ObjectError::TooLarge {
                what: format!("a program that contains function `{}`", function.name),
                limit: format!("{PROGRAM_SLOTS} instructions"),
            });
        }
        self.spend(code.len())?;
        flat.starts.insert(index, base);
        flat.placed.push((index, base));
        flat.insns.extend_from_slice(code);
        Ok(Cursor {
            function,
            code,
            rels: self.rels(function),
            slot: 0,
            base,
        })
    }

    /// Counts copied code, whether it becomes part of a program or of one that is refused.
    fn spend(&self, slots: usize) -> Result<(), ObjectError> {
        let spent = self.spent.get() + slots;
        self.spent.set(spent);
        if spent > OBJECT_SLOTS {
            return Err(ObjectError::TooLarge {
                what: "the code of all programs with their subprograms".into(),
                limit: format!("{OBJECT_SLOTS} instructions"),
            });
        }
        Ok(())
    }

    /// Resolves instructions up to and with the next one that refers to a function, which it gives.
    fn advance(
        &self,
        flat: &mut Flat,
        cursor: &mut Cursor<'_, '_>,
    ) -> Result<Option<usize>, ObjectError> {
        while let Some(&insn) = cursor.code.get(cursor.slot) {
            let site = Site {
                function: cursor.function,
                slot: cursor.slot,
                flat: cursor.base + cursor.slot,
            };
            cursor.slot += if insn.op == opcode::LD_IMM64 { 2 } else { 1 };
            let at = site.offset();
            let reached = match cursor.rels.split_first() {
                Some((rel, rest)) if rel.offset == at => {
                    cursor.rels = rest;
                    self.relocate(flat, &site, insn, rel)?
                }
                Some((rel, _)) if rel.offset < at => {
                    return Err(self.misplaced(cursor.function, rel));
                }
                _ => self.unrelocated(&site, insn)?,
            };
            if let Some(target) = reached {
                flat.calls.push((site.flat, target));
                return Ok(Some(target));
            }
        }
        match cursor.rels.first() {
            Some(rel) => Err(self.misplaced(cursor.function, rel)),
            None => Ok(None),
        }
    }

    fn misplaced(&self, function: &Function<'_>, rel: &Rel) -> ObjectError {
        self.relocation_error(
            function,
            rel,
            "it is inside an instruction, or a second one for the same",
        )
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

    /// Resolves an instruction's relocation; gives the function it refers to, if it is one.
    fn relocate(
        &self,
        flat: &mut Flat,
        site: &Site<'_, '_>,
        insn: Insn,
        rel: &Rel,
    ) -> Result<Option<usize>, ObjectError> {
        let symbol = &self.elf.symbols[rel.symbol];
        let error = |reason: &str| self.relocation_error(site.function, rel, reason);
        let section = match symbol.place {
            Place::Section(section) => section,
            Place::Undefined => return self.resolve_extern(flat, site, insn, rel).map(|()| None),
            Place::Other => return Err(error("the symbol is absolute or common")),
        };
        let base = i128::from(symbol.value);
        let imm = rel.addend.map_or(insn.imm.into(), i128::from);
        match (insn.op, rel.kind) {
            (CALL, R_64_32) if insn.src == opcode::PSEUDO_CALL => self
                .function_at(section, base + (imm + 1) * INSN_SIZE as i128)
                .map(Some)
                .ok_or_else(|| error("no function starts where it points")),
            (opcode::LD_IMM64, R_64_64) => {
                let address = base + imm;
                if self.elf.sections.get(section).is_some_and(|s| s.exec) {
                    let target = self
                        .function_at(section, address)
                        .ok_or_else(|| error("no function starts where it points"))?;
                    flat.set_wide(site, opcode::PSEUDO_FUNC, 0, 0)?;
                    return Ok(Some(target));
                }
                let (src, map, offset) = self
                    .map_at(section, address)
                    .ok_or_else(|| error("it points to no map or variable"))?;
                flat.set_wide(site, src, index_imm(map), offset.cast_signed())?;
                Ok(None)
            }
            _ => Err(error(&format!(
                "kind {} does not fit the instruction there (opcode {:#04x}); the object may come from an unsupported compiler",
                rel.kind, insn.op
            ))),
        }
    }

    /// The map that an address in a section refers to: how, which, and where in its value.
    fn map_at(&self, section: usize, address: i128) -> Option<(u8, usize, u32)> {
        Some(match self.maps.at(section, u64::try_from(address).ok()?)? {
            MapRef::Map(map) => (opcode::PSEUDO_MAP_FD, map, 0),
            MapRef::Value { map, offset } => (opcode::PSEUDO_MAP_VALUE, map, offset),
        })
    }

    fn function_at(&self, section: usize, address: i128) -> Option<usize> {
        self.functions
            .index_at(section, u64::try_from(address).ok()?)
    }

    /// An instruction without relocation: a call within the section is relative already, a reference is an error.
    fn unrelocated(&self, site: &Site<'_, '_>, insn: Insn) -> Result<Option<usize>, ObjectError> {
        match (insn.op, insn.src) {
            (CALL, opcode::PSEUDO_CALL) => {
                let next = i128::from(site.offset()) + INSN_SIZE as i128;
                self.function_at(
                    site.function.section,
                    next + i128::from(insn.imm) * INSN_SIZE as i128,
                )
                .map(Some)
                .ok_or_else(|| site.error("it calls a place where no function starts"))
            }
            (opcode::LD_IMM64, src) if src != opcode::PSEUDO_IMM => Err(site.error(
                "it refers to a map, variable or function without a relocation; the object was loaded before or is damaged",
            )),
            _ => Ok(None),
        }
    }

    /// Resolves a reference to something outside the object, as far as that can be done before the host is known.
    fn resolve_extern(
        &self,
        flat: &mut Flat,
        site: &Site<'_, '_>,
        insn: Insn,
        rel: &Rel,
    ) -> Result<(), ObjectError> {
        let symbol = &self.elf.symbols[rel.symbol];
        let address = insn.op == opcode::LD_IMM64 && rel.kind == R_64_64;
        let call = insn.op == CALL && insn.src == opcode::PSEUDO_CALL && rel.kind == R_64_32;
        match (self.externs.get(symbol.name), self.config_map) {
            (Some(Extern::Config(at)), Some(map)) if address => {
                let offset = self.externs.config[at].offset;
                flat.config.insert(at);
                let low = index_imm(map);
                flat.set_wide(site, opcode::PSEUDO_MAP_VALUE, low, offset.cast_signed())
            }
            (Some(Extern::Function(at)), _) if call => {
                flat.set_kfunc(site, at);
                Ok(())
            }
            (Some(Extern::Function(at)), _) if address && symbol.weak => {
                flat.kfuncs.push((site.flat, at));
                flat.set_wide(site, opcode::PSEUDO_IMM, 0, 0)
            }
            (Some(Extern::Variable), _) if address && symbol.weak => {
                flat.set_wide(site, opcode::PSEUDO_IMM, 0, 0)
            }
            (of, _) => Err(self.refuse_extern(site, symbol, of)),
        }
    }

    /// Why a reference to something outside the object cannot be resolved.
    fn refuse_extern(
        &self,
        site: &Site<'_, '_>,
        symbol: &Symbol<'_>,
        of: Option<Extern>,
    ) -> ObjectError {
        let name = symbol.name;
        let at = self.extra.place(site.function, site.slot);
        let reason = match of {
            Some(Extern::Variable) => format!(
                "it reads `{name}` of the kernel (an extern in .ksyms){at}, which exists only inside the kernel; declare it __weak and test whether its address is null"
            ),
            Some(Extern::Function(_)) => format!(
                "it takes the address of `{name}` of the kernel (an extern in .ksyms){at}; declare it __weak, so that it may be absent"
            ),
            Some(Extern::Config(_)) => format!(
                "it refers to `{name}` (an extern in .kconfig){at} in a way no compiler does; is the object damaged?"
            ),
            None => format!(
                "it refers to `{name}`{at}, which the object does not define; link it with the object that does (bpftool gen object)"
            ),
        };
        ObjectError::Unsupported {
            name: site.function.name.into(),
            section: self.elf.section_name(site.function.section).into(),
            reason,
        }
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
                ty: self.extra.func(function),
            });
            self.extra.append(function, start, &mut lines, &mut core);
        }
        (subprograms, lines, core)
    }
}

fn index_imm(index: usize) -> i32 {
    i32::try_from(index).expect("an object in memory has fewer maps and functions than 2^31")
}

/// What tail-called programs are whose section's name does not say it: the same as the others.
pub(crate) fn tail_kind(elf: &Elf<'_>, functions: &Functions<'_>) -> Option<ProgramKind> {
    let entries = functions.all.iter().filter(|f| f.entry);
    let mut kinds = entries.map(|f| Class::of(elf.section_name(f.section)).kind);
    kinds.find(|kind| matches!(kind, ProgramKind::Xdp { .. } | ProgramKind::Tc))
}

/// Implementations of kernel interfaces, which are variables and not programs.
pub(crate) fn struct_ops(elf: &Elf<'_>) -> Vec<Refused> {
    let sections = elf.sections.iter().enumerate().filter(|(_, s)| {
        let name = s.name.trim_start_matches('?');
        name == ".struct_ops" || name == ".struct_ops.link"
    });
    let variables = sections.flat_map(|(index, section)| {
        let symbols = elf
            .symbols_in(index)
            .filter(|s| s.kind == SymbolKind::Object);
        symbols.map(|symbol| (symbol.name, section.name))
    });
    let refuse = |(name, section): (&str, &str)| Refused {
        name: name.into(),
        section: section.into(),
        reason: ObjectError::Unsupported {
            name: name.into(),
            section: section.into(),
            reason: STRUCT_OPS.into(),
        },
    };
    variables.map(refuse).collect()
}

const STRUCT_OPS: &str =
    "it implements a kernel interface (struct_ops), which exists only inside the kernel";

/// Sections whose programs exist only within the kernel.
fn refuse_section(name: &str, section: &str) -> Result<(), ObjectError> {
    let prefix = section.trim_start_matches('?').split('/').next();
    let reason = match prefix {
        Some("freplace") => {
            "it replaces a function of a program that is already in the kernel (freplace); load it there with the tool that owns that program"
        }
        Some("struct_ops" | "struct_ops.s") => STRUCT_OPS,
        _ => return Ok(()),
    };
    Err(ObjectError::Unsupported {
        name: name.into(),
        section: section.into(),
        reason: reason.into(),
    })
}

/// A function whose instructions are being resolved.
struct Cursor<'l, 'a> {
    function: &'l Function<'a>,
    code: &'l [Insn],
    /// Relocations not yet applied.
    rels: &'l [Rel],
    /// Next slot.
    slot: usize,
    /// Where the function starts in the program.
    base: usize,
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
    fn offset(&self) -> u64 {
        ((self.function.start + self.slot) * INSN_SIZE) as u64
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
    /// Functions with their first slot, by ascending slot.
    placed: Vec<(usize, usize)>,
    /// The same, by function.
    starts: HashMap<usize, usize>,
    /// Calls and function addresses to patch: slot and function.
    calls: Vec<(usize, usize)>,
    /// Configuration values it reads.
    config: BTreeSet<usize>,
    /// Slots that call a kernel function or take its address, and which.
    kfuncs: Vec<(usize, usize)>,
}

impl Flat {
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

    /// Makes the call at `site` one of a kernel function.
    fn set_kfunc(&mut self, site: &Site<'_, '_>, kfunc: usize) {
        if let Some(insn) = self.insns.get_mut(site.flat) {
            insn.src = opcode::PSEUDO_KFUNC_CALL;
            insn.off = 0;
            insn.imm = index_imm(kfunc);
        }
        self.kfuncs.push((site.flat, kfunc));
    }

    fn patch_calls(&mut self) {
        for (slot, function) in &self.calls {
            if let (Some(insn), Some(&start)) =
                (self.insns.get_mut(*slot), self.starts.get(function))
            {
                insn.imm = i32::try_from(start as i64 - *slot as i64 - 1)
                    .expect("programs are limited to PROGRAM_SLOTS, far below 2^31");
            }
        }
    }
}

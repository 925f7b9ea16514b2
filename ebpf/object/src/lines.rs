//! What `.BTF.ext` adds to functions: types, source lines and CO-RE relocations, moved to where linking put the code.

use std::collections::HashMap;
use std::sync::Arc;

use squalus_isa::INSN_SIZE;

use crate::btf::{Btf, CoreRecord, Ext, FuncRecord, LineRecord, TypeId};
use crate::core_relo::CoreRelo;
use crate::elf::Elf;
use crate::functions::Function;
use crate::{BtfError, LineInfo};

/// The records of `.BTF.ext` by section, ascending by offset.
#[derive(Default)]
pub(crate) struct Extra {
    funcs: HashMap<usize, Vec<FuncRecord>>,
    lines: HashMap<usize, Vec<LineRecord>>,
    core: HashMap<usize, Vec<CoreRecord>>,
    /// Strings of line records by offset.
    texts: HashMap<u32, Arc<str>>,
}

impl Extra {
    pub(crate) fn collect(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Extra, BtfError> {
        let (Some(btf), Some((_, section))) = (btf, elf.section(".BTF.ext")) else {
            return Ok(Extra::default());
        };
        let ext = Ext::parse(section.data, btf)?;
        let mut indices = HashMap::new();
        for (index, section) in elf.sections.iter().enumerate() {
            indices.entry(section.name).or_insert(index);
        }
        let mut extra = Extra::default();
        for of_section in ext.funcs {
            if let Some(&index) = indices.get(of_section.section) {
                extra.funcs.insert(index, of_section.records);
            }
        }
        for mut of_section in ext.lines {
            if let Some(&index) = indices.get(of_section.section) {
                of_section
                    .records
                    .dedup_by_key(|r| r.offset as usize / INSN_SIZE);
                extra.intern(btf, &of_section.records);
                extra.lines.insert(index, of_section.records);
            }
        }
        for of_section in ext.core {
            if let Some(&index) = indices.get(of_section.section) {
                refuse_duplicates(&of_section.records)?;
                extra.core.insert(index, of_section.records);
            }
        }
        Ok(extra)
    }

    fn intern(&mut self, btf: &Btf, records: &[LineRecord]) {
        for offset in records.iter().flat_map(|r| [r.file, r.text]) {
            self.texts
                .entry(offset)
                .or_insert_with(|| btf.text(offset).trim().into());
        }
    }

    fn text(&self, offset: u32) -> Arc<str> {
        self.texts.get(&offset).cloned().unwrap_or_default()
    }

    /// The type of a function, if the compiler told.
    pub(crate) fn func(&self, function: &Function<'_>) -> Option<TypeId> {
        let first = within(self.funcs.get(&function.section), function, |f| f.offset).first()?;
        let starts = first.offset as usize / INSN_SIZE == function.start;
        starts.then_some(first.ty)
    }

    /// The source line of an instruction for an error message, as ` (file.c:12)`; empty if unknown.
    pub(crate) fn place(&self, function: &Function<'_>, slot: usize) -> String {
        let records = within(self.lines.get(&function.section), function, |l| l.offset);
        let at = (function.start + slot) * INSN_SIZE;
        let after = records.partition_point(|r| r.offset as usize <= at);
        match after.checked_sub(1).and_then(|i| records.get(i)) {
            Some(record) => format!(" ({}:{})", self.text(record.file), record.line),
            None => String::new(),
        }
    }

    /// Appends the records of a function that was linked at slot `start`.
    pub(crate) fn append(
        &self,
        function: &Function<'_>,
        start: usize,
        lines: &mut Vec<LineInfo>,
        core: &mut Vec<CoreRelo>,
    ) {
        let slot_of = |offset: u32| start + (offset as usize / INSN_SIZE - function.start);
        for record in within(self.lines.get(&function.section), function, |l| l.offset) {
            lines.push(LineInfo {
                slot: slot_of(record.offset),
                file: self.text(record.file),
                line: record.line,
                column: record.column,
                text: self.text(record.text),
                names: (record.file, record.text),
            });
        }
        for record in within(self.core.get(&function.section), function, |c| c.offset) {
            core.push(CoreRelo {
                slot: slot_of(record.offset),
                record: *record,
            });
        }
    }
}

/// No compiler relocates an instruction twice; accepting it would let a small file cost much time.
fn refuse_duplicates(records: &[CoreRecord]) -> Result<(), BtfError> {
    let mut slots = records.iter().map(|r| r.offset as usize / INSN_SIZE);
    let Some(mut last) = slots.next() else {
        return Ok(());
    };
    for slot in slots {
        if slot == last {
            return Err(BtfError::Ext("two CO-RE relocations for one instruction"));
        }
        last = slot;
    }
    Ok(())
}

/// The records whose instruction lies within a function.
fn within<'r, T>(
    records: Option<&'r Vec<T>>,
    function: &Function<'_>,
    offset: impl Fn(&T) -> u32,
) -> &'r [T] {
    let records = records.map_or(&[][..], Vec::as_slice);
    let slot = |r: &T| offset(r) as usize / INSN_SIZE;
    let from = records.partition_point(|r| slot(r) < function.start);
    let to = records.partition_point(|r| slot(r) < function.start + function.len);
    records.get(from..to).unwrap_or(&[])
}

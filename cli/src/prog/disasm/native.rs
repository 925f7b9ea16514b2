//! Machine code beside the instructions and source lines it comes from.

use std::fmt::Write;
use std::ops::Range;

use anyhow::Result;
use serde::Serialize;
use squalus_object::{Object, Program};

use super::super::compiled::Compiled;
use super::super::machine::{MachineInst, disassemble};
use super::bytecode::{Listing, Row};

/// A program's instructions and machine code.
#[derive(Serialize)]
pub struct View<'a> {
    #[serde(flatten)]
    listing: Listing<'a>,
    native: Vec<NativeRow>,
    /// Where the code of each function is.
    #[serde(skip)]
    functions: Vec<Range<usize>>,
}

/// A machine instruction.
#[derive(Serialize)]
struct NativeRow {
    /// Offset from the program's first byte.
    pc: usize,
    disasm: String,
    opcodes: String,
    /// The instruction it comes from; none where functions begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<usize>,
}

impl<'a> View<'a> {
    /// # Errors
    /// If an instruction is malformed.
    pub fn of(object: &'a Object, program: &'a Program, compiled: &Compiled) -> Result<View<'a>> {
        let native = disassemble(compiled.code(), compiled.map());
        let row = |inst: MachineInst| NativeRow {
            pc: inst.at,
            opcodes: hex::encode(&compiled.code()[inst.at..][..inst.len]),
            disasm: inst.text,
            slot: inst.slot,
        };
        Ok(View {
            listing: Listing::of(object, program)?,
            native: native.into_iter().map(row).collect(),
            functions: compiled.map().functions().to_vec(),
        })
    }

    pub fn text(&self, by_address: bool, opcodes: bool) -> String {
        let Listing { name, section, .. } = &self.listing;
        let mut out = format!("program {name} (section {section}):\n");
        if by_address {
            self.by_address(opcodes, &mut out);
        } else {
            self.by_line(opcodes, &mut out);
        }
        out
    }

    /// Each source line with its instructions, then their machine code wherever it is.
    fn by_line(&self, opcodes: bool, out: &mut String) {
        let mut rows = &self.listing.instructions[..];
        let mut entered = 0;
        while let [first, rest @ ..] = rows {
            let same = |row: &&Row<'_>| row.source.is_none() && row.function.is_none();
            let len = 1 + rest.iter().take_while(same).count();
            let (group, others) = rows.split_at(len);
            group.iter().for_each(|row| row.write(out));
            if first.function.is_some() {
                self.write(self.entry(entered), opcodes, out);
                entered += 1;
            }
            let end = others.first().map_or(usize::MAX, |row| row.slot);
            let here = |row: &NativeRow| row.slot.is_some_and(|s| (first.slot..end).contains(&s));
            self.write(
                (0..self.native.len()).filter(|n| here(&self.native[*n])),
                opcodes,
                out,
            );
            rows = others;
        }
        let entries: Vec<usize> = (0..entered).flat_map(|n| self.entry(n)).collect();
        let rest = (0..self.native.len()).filter(|n| self.native[*n].slot.is_none());
        let mut rest = rest.filter(|n| !entries.contains(n)).peekable();
        if rest.peek().is_some() {
            *out += "; where failed checks end runs:\n";
            self.write(rest, opcodes, out);
        }
    }

    /// The machine code in which a function begins.
    fn entry(&self, function: usize) -> impl Iterator<Item = usize> + use<> {
        let start = self.functions.get(function).map_or(0, |code| code.start);
        let first = self.native.partition_point(|row| row.pc < start);
        let none = self.native[first..]
            .iter()
            .take_while(|row| row.slot.is_none());
        first..first + none.count()
    }

    /// Machine instructions by number, with dots where some are left out.
    fn write(&self, numbers: impl Iterator<Item = usize>, opcodes: bool, out: &mut String) {
        let mut last = None;
        for n in numbers {
            if last.is_some_and(|last| last + 1 != n) {
                let _ = writeln!(out, "{:>16}", "...");
            }
            self.native[n].write(opcodes, out);
            last = Some(n);
        }
    }

    fn by_address(&self, opcodes: bool, out: &mut String) {
        let (mut last, mut line) = (None, None);
        for row in &self.native {
            if row.slot != last
                && let Some(slot) = row.slot
            {
                let rows = &self.listing.instructions;
                let at = rows
                    .partition_point(|row| row.slot <= slot)
                    .saturating_sub(1);
                let source = rows[..=at].iter().rev().find_map(|row| row.source);
                if let Some(source) = source.filter(|_| source != line) {
                    let _ = writeln!(out, "; {source}");
                }
                line = source;
                let _ = writeln!(out, "{slot:6}: {}", rows[at].disasm);
            }
            last = row.slot;
            row.write(opcodes, out);
        }
    }
}

impl NativeRow {
    fn write(&self, opcodes: bool, out: &mut String) {
        let NativeRow { pc, disasm, .. } = self;
        let bytes = match opcodes {
            true => format!("{:<32}", self.opcodes),
            false => String::new(),
        };
        let _ = writeln!(out, "{pc:>16x}:  {bytes}{disasm}");
    }
}

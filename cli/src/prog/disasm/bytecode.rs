//! Instructions between the source lines they come from.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use squalus_isa::{CallTarget, Decoded, ImmSource, Inst, Reg, decode, format_inst};
use squalus_object::{LineInfo, Object, Program};

/// A program's instructions.
#[derive(Serialize)]
pub struct Listing<'a> {
    pub name: &'a str,
    pub section: &'a str,
    pub instructions: Vec<Row<'a>>,
}

/// An instruction.
#[derive(Serialize)]
pub struct Row<'a> {
    pub slot: usize,
    /// The function that begins here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<&'a str>,
    pub disasm: String,
    /// The source line, where it is another than the instruction's before.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source<'a>>,
    /// What the target's BTF lacks, if CO-RE could not resolve the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Source<'a> {
    file: &'a str,
    line: u32,
    #[serde(rename = "src", skip_serializing_if = "str::is_empty")]
    text: &'a str,
}

impl<'a> Source<'a> {
    fn of(line: &'a LineInfo) -> Self {
        Source {
            file: &line.file,
            line: line.line,
            text: line.text.trim(),
        }
    }
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Source { file, line, text } = self;
        let colon = if text.is_empty() { "" } else { ": " };
        write!(f, "{file}:{line}{colon}{text}")
    }
}

impl<'a> Listing<'a> {
    /// # Errors
    /// If an instruction is malformed.
    pub fn of(object: &'a Object, program: &'a Program) -> Result<Self> {
        let decoded = decode(&program.insns)
            .with_context(|| format!("program `{}` cannot be disassembled", program.name))?;
        let mut last = None;
        let rows = decoded.iter().map(|decoded| {
            let source = program.line(decoded.slot).map(Source::of);
            let row = Row::of(object, program, decoded, source.filter(|_| source != last));
            last = source;
            row
        });
        Ok(Listing {
            name: &program.name,
            section: &program.section,
            instructions: rows.collect(),
        })
    }

    pub fn text(&self) -> String {
        let mut out = format!("program {} (section {}):\n", self.name, self.section);
        for row in &self.instructions {
            row.write(&mut out);
        }
        out
    }
}

impl<'a> Row<'a> {
    fn of(
        object: &Object,
        program: &'a Program,
        decoded: &Decoded,
        source: Option<Source<'a>>,
    ) -> Self {
        let slot = decoded.slot;
        let poisoned = program.poisoned.iter().find(|(at, _)| *at == slot);
        Row {
            slot,
            function: function_at(program, slot),
            disasm: with_names(object, program, &decoded.inst),
            source,
            unresolved: poisoned.map(|(_, lacks)| &**lacks),
        }
    }

    /// With the function and the source line that begin here.
    pub fn write(&self, out: &mut String) {
        if let Some(function) = self.function {
            let _ = writeln!(out, "{function}:");
        }
        if let Some(source) = self.source {
            let _ = writeln!(out, "; {source}");
        }
        let _ = write!(out, "{:6}: {}", self.slot, self.disasm);
        if let Some(lacks) = self.unresolved {
            let _ = write!(out, "  ; {lacks}");
        }
        out.push('\n');
    }
}

fn function_at(program: &Program, slot: usize) -> Option<&str> {
    let found = program.subprograms.iter().find(|sub| sub.start == slot)?;
    Some(&found.name)
}

/// The instruction's text, with maps, variables and functions by name.
fn with_names(object: &Object, program: &Program, inst: &Inst) -> String {
    let named = match *inst {
        Inst::LoadImm { dst, imm } => immediate(object, program, dst, imm),
        Inst::Call(CallTarget::Local(target)) => {
            function_at(program, target).map(|name| format!("call {name}"))
        }
        _ => None,
    };
    named.unwrap_or_else(|| format_inst(inst))
}

fn immediate(object: &Object, program: &Program, dst: Reg, imm: ImmSource) -> Option<String> {
    let map_name = |map: u32| Some(object.maps.get(map as usize)?.def.name.as_str());
    match imm {
        ImmSource::Value(_) => None,
        ImmSource::Map(map) => Some(format!("{dst} = map[{}] ll", map_name(map)?)),
        ImmSource::MapValue { map, offset } => {
            let (name, at) = (map_name(map)?, offset as usize);
            let mut globals = object.globals().iter();
            let variable = globals
                .find(|g| g.map == map as usize && (g.offset..g.offset + g.size).contains(&at));
            Some(match variable {
                Some(global) if global.offset == at => {
                    format!("{dst} = map[{name}][0]+{at} ll  ; {}", global.name)
                }
                Some(global) => {
                    let inside = at - global.offset;
                    format!("{dst} = map[{name}][0]+{at} ll  ; {}+{inside}", global.name)
                }
                None => format!("{dst} = map[{name}][0]+{at} ll"),
            })
        }
        ImmSource::Func(target) => {
            Some(format!("{dst} = func {} ll", function_at(program, target)?))
        }
    }
}

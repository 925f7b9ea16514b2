//! `squalus prog disasm`: instructions between the source lines they come from.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use squalus_isa::{CallTarget, Decoded, ImmSource, Inst, Reg, decode, format_inst};
use squalus_object::{LineInfo, Object, Program};

use super::loaded;

/// Options of `squalus prog disasm`.
#[derive(Debug, Args)]
pub struct DisasmArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// The program; all of them if not given.
    program: Option<String>,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Prints the instructions of one program or of all.
///
/// # Errors
/// If the file is no object, has no such program, or an instruction is malformed.
pub fn run(args: &DisasmArgs) -> Result<bool> {
    let object = loaded::parse(&args.object)?;
    let programs: Vec<&Program> = match &args.program {
        Some(name) => vec![object.require_program(name)?],
        None => object.programs.iter().collect(),
    };
    let listings = programs.iter().map(|program| Listing::of(&object, program));
    let listings: Vec<Listing<'_>> = listings.collect::<Result<_>>()?;
    if args.json {
        super::print_json(&listings)?;
    } else {
        let texts: Vec<String> = listings.iter().map(Listing::text).collect();
        super::print(&texts.join(
            "
",
        ))?;
    }
    Ok(true)
}

#[derive(Serialize)]
struct Listing<'a> {
    name: &'a str,
    section: &'a str,
    instructions: Vec<Row<'a>>,
}

/// An instruction.
#[derive(Serialize)]
struct Row<'a> {
    slot: usize,
    /// The function that begins here.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    disasm: String,
    /// The source line, where it is another than the instruction's before.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
    /// What the target's BTF lacks, if CO-RE could not resolve the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
struct Source<'a> {
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

impl<'a> Listing<'a> {
    fn of(object: &'a Object, program: &'a Program) -> Result<Self> {
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

    fn text(&self) -> String {
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

    fn write(&self, out: &mut String) {
        if let Some(function) = self.function {
            let _ = writeln!(out, "{function}:");
        }
        if let Some(Source { file, line, text }) = self.source {
            let colon = if text.is_empty() { "" } else { ": " };
            let _ = writeln!(out, "; {file}:{line}{colon}{text}");
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

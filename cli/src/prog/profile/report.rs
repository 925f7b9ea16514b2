//! What the samples say: of source lines, machine instructions, and code outside the program.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use squalus_jit::CompiledProgram;
use squalus_object::{Object, Program};
use squalus_vm::Vm;

use super::super::machine::{MachineInst, disassemble};
use super::record::{BURST, Recording};
use super::symbols::Symbols;

/// Machine instructions shown of a source line.
const HOTTEST: usize = 4;
/// Functions shown of a kind of code.
const FUNCTIONS: usize = 4;

/// Where the time went.
#[derive(Serialize)]
pub struct Report {
    program: String,
    packets: u64,
    /// Of the median burst, in nanoseconds; entering the program and looking at the clock twice a burst included.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_per_packet: Option<f64>,
    verdicts: BTreeMap<&'static str, u64>,
    samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
    /// Lines of the object's programs, those first that took most.
    lines: Vec<Line>,
    /// Everything else that the programs ran, those first that took most.
    outside: Vec<Outside>,
}

fn median(numbers: &[u32]) -> Option<u32> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A source line, or a program's code that is of none.
#[derive(Serialize)]
struct Line {
    program: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    samples: u64,
    percent: f64,
    native: Vec<Instruction>,
}

/// A machine instruction.
#[derive(Serialize)]
struct Instruction {
    pc: usize,
    disasm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<usize>,
    samples: u64,
    percent: f64,
}

/// Code of one kind.
#[derive(Serialize)]
struct Outside {
    kind: &'static str,
    samples: u64,
    percent: f64,
    functions: Vec<Function>,
}

#[derive(Serialize)]
struct Function {
    name: String,
    samples: u64,
    percent: f64,
}

/// A kind of code outside the programs, by where a function is.
fn kind(name: &str) -> &'static str {
    let name = name.trim_start_matches(['<', '&']);
    for (prefix, kind) in [
        ("squalus_maps", "maps"),
        ("squalus_runtime", "helpers"),
        ("squalus_fib", "helpers"),
        ("squalus_jit", "engine"),
        ("squalus_vm", "engine"),
        ("[vdso]", "clock"),
    ] {
        if name.starts_with(prefix) {
            return kind;
        }
    }
    "other code"
}

impl Report {
    pub fn of(vm: &Vm, object: &Object, program: &str, recording: &Recording) -> Report {
        let samples = recording.addresses.values().sum();
        let mut tally = Tally::new(vm, object, recording, samples);
        for (&address, &count) in &recording.addresses {
            tally.add(address, count);
        }
        Report {
            program: program.to_owned(),
            packets: recording.packets,
            ns_per_packet: median(&recording.bursts).map(|burst| f64::from(burst) / BURST as f64),
            verdicts: recording.verdicts.clone(),
            samples,
            lost: recording.lost,
            outside: tally.outside(),
            lines: tally.lines(),
        }
    }

    pub fn text(&self, lines: usize) -> String {
        let mut out = format!("program {}: {} packets", self.program, self.packets);
        if let Some(nanos) = self.ns_per_packet {
            let _ = write!(out, ", {nanos:.1} ns each (median)");
        }
        let _ = writeln!(out, "; {} samples", self.samples);
        let verdicts: Vec<String> = self
            .verdicts
            .iter()
            .map(|(verdict, count)| format!("{verdict} {count}"))
            .collect();
        let _ = writeln!(out, "verdicts: {}", verdicts.join(", "));
        if self.lost != 0 {
            let _ = writeln!(out, "{} samples lost: take a lower --frequency", self.lost);
        }
        self.shares(&mut out);
        out.push_str(
            "\npercent  source line, and below it: percent, instruction, address, machine code\n",
        );
        for line in self.lines.iter().take(lines) {
            line.write(&mut out);
        }
        if let Some(left) = self.lines.len().checked_sub(lines).filter(|n| *n != 0) {
            let rest: f64 = self.lines[lines..].iter().map(|line| line.percent).sum();
            let _ = writeln!(out, "{rest:7.2}  {left} more lines (--lines)");
        }
        out
    }

    /// What share compiled code has, and everything else.
    fn shares(&self, out: &mut String) {
        let compiled: f64 = self.lines.iter().map(|line| line.percent).sum();
        let _ = writeln!(out, "\n{compiled:7.2}  compiled code");
        for outside in &self.outside {
            let functions = outside.functions.iter().take(FUNCTIONS);
            let functions: Vec<String> = functions
                .map(|function| format!("{} {:.2}", function.name, function.percent))
                .collect();
            let (percent, kind) = (outside.percent, outside.kind);
            let _ = writeln!(out, "{percent:7.2}  {kind} ({})", functions.join(", "));
        }
    }
}

impl Line {
    fn write(&self, out: &mut String) {
        let place = match &self.source {
            Some(source) => source.clone(),
            None => format!("{}: code of no source line", self.program),
        };
        let _ = writeln!(out, "{:7.2}  {place}", self.percent);
        for inst in self.native.iter().take(HOTTEST) {
            let Instruction {
                pc,
                disasm,
                slot,
                percent,
                ..
            } = inst;
            let slot = slot.map_or_else(String::new, |slot| slot.to_string());
            let _ = writeln!(out, "         {percent:7.2} {slot:>6} {pc:>6x}:  {disasm}");
        }
    }
}

/// Machine code of one program.
struct Code<'a> {
    program: &'a str,
    compiled: &'a CompiledProgram,
    insts: Vec<MachineInst>,
    source: Option<&'a Program>,
}

impl<'a> Code<'a> {
    fn of(program: &'a str, compiled: &'a CompiledProgram, object: &'a Object) -> Code<'a> {
        let map = compiled.map();
        Code {
            program,
            compiled,
            insts: map.map_or_else(Vec::new, |map| disassemble(compiled.code(), map)),
            source: object.programs.iter().find(|known| known.name == program),
        }
    }

    fn inst(&self, address: usize) -> Option<&MachineInst> {
        let start = self.compiled.code().as_ptr().addr();
        let offset = address.checked_sub(start)?;
        let after = self
            .insts
            .partition_point(|inst| inst.at + inst.len <= offset);
        self.insts.get(after).filter(|inst| inst.at <= offset)
    }

    fn line(&self, inst: &MachineInst) -> Option<String> {
        let line = self.source?.line(inst.slot?)?;
        let colon = if line.text.trim().is_empty() {
            ""
        } else {
            ": "
        };
        Some(format!(
            "{}:{}{colon}{}",
            line.file,
            line.line,
            line.text.trim()
        ))
    }
}

/// Adds up samples.
struct Tally<'a> {
    all: u64,
    code: Vec<Code<'a>>,
    symbols: Symbols,
    lines: BTreeMap<(&'a str, Option<String>), Vec<Instruction>>,
    outside: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl<'a> Tally<'a> {
    fn new(vm: &'a Vm, object: &'a Object, recording: &'a Recording, all: u64) -> Tally<'a> {
        let code = recording.code.iter().flat_map(|code| {
            let programs = vm.linked().iter().zip(code.programs());
            programs.map(|(linked, compiled)| Code::of(linked.name(), compiled, object))
        });
        Tally {
            all,
            code: code.collect(),
            symbols: Symbols::of_this_process(),
            lines: BTreeMap::new(),
            outside: BTreeMap::new(),
        }
    }

    fn percent(&self, samples: u64) -> f64 {
        samples as f64 * 100.0 / self.all.max(1) as f64
    }

    fn add(&mut self, address: usize, samples: u64) {
        let mut code = self.code.iter();
        let found = code.find_map(|code| Some((code, code.inst(address)?)));
        let Some((code, inst)) = found else {
            let name = self.symbols.name(address);
            let of_kind = self.outside.entry(kind(&name)).or_default();
            *of_kind.entry(name).or_default() += samples;
            return;
        };
        let instruction = Instruction {
            pc: inst.at,
            disasm: inst.text.clone(),
            slot: inst.slot,
            samples,
            percent: self.percent(samples),
        };
        let line = self.lines.entry((code.program, code.line(inst)));
        line.or_default().push(instruction);
    }

    fn lines(self) -> Vec<Line> {
        let all = self.all.max(1) as f64;
        let line = |((program, source), mut native): ((&str, _), Vec<Instruction>)| {
            native.sort_by_key(|inst| std::cmp::Reverse(inst.samples));
            let samples = native.iter().map(|inst| inst.samples).sum();
            Line {
                program: program.to_owned(),
                source,
                samples,
                percent: samples as f64 * 100.0 / all,
                native,
            }
        };
        let mut lines: Vec<Line> = self.lines.into_iter().map(line).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.samples));
        lines
    }

    fn outside(&self) -> Vec<Outside> {
        let of_kind = |(kind, functions): (&&'static str, &BTreeMap<String, u64>)| {
            let function = |(name, samples): (&String, &u64)| Function {
                name: name.clone(),
                samples: *samples,
                percent: self.percent(*samples),
            };
            let mut functions: Vec<Function> = functions.iter().map(function).collect();
            functions.sort_by_key(|function| std::cmp::Reverse(function.samples));
            let samples = functions.iter().map(|function| function.samples).sum();
            Outside {
                kind,
                samples,
                percent: self.percent(samples),
                functions,
            }
        };
        let mut outside: Vec<Outside> = self.outside.iter().map(of_kind).collect();
        outside.sort_by_key(|outside| std::cmp::Reverse(outside.samples));
        outside
    }
}

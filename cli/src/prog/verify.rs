//! `squalus prog verify`: what is proved of an object's programs, and what will be checked as they run.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use squalus_analysis::{Check, Facts, analyse};
use squalus_object::{Object, Program, ProgramKind};
use squalus_runtime::LinkedProgram;
use squalus_vm::{EngineKind, VmBuilder};

use super::loaded;

/// Options of `squalus prog verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// The program; all XDP programs if not given.
    #[arg(value_name = "PROGRAM")]
    program: Option<String>,
    /// Fail if anything is left to be checked at run time.
    #[arg(long)]
    strict: bool,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Analyses programs. False if one cannot run, or, with `--strict`, if one needs checks.
///
/// # Errors
/// If the file is no object or has no such program.
pub fn run(args: &VerifyArgs) -> Result<bool> {
    let object = loaded::parse(&args.object)?;
    let programs: Vec<&Program> = match &args.program {
        Some(name) => vec![object.require_program(name)?],
        None => {
            let all = object.programs.iter();
            all.filter(|program| matches!(program.kind, ProgramKind::Xdp { .. }))
                .collect()
        }
    };
    let reports: Vec<Report> = programs.iter().map(|p| Report::of(&object, p)).collect();
    if args.json {
        super::print_json(&reports)?;
    } else if reports.is_empty() {
        super::print("the object has no XDP program\n")?;
    } else {
        let texts: Vec<String> = reports.iter().map(Report::text).collect();
        super::print(&texts.join("\n"))?;
    }
    let good = |report: &Report| match &report.outcome {
        Outcome::Refused { .. } => false,
        Outcome::Analysed(found) => !args.strict || found.checks.is_empty(),
    };
    Ok(reports.iter().all(good))
}

#[derive(Serialize)]
struct Report {
    program: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    /// No userspace engine runs it.
    Refused {
        refused: String,
    },
    Analysed(Found),
}

#[derive(Serialize)]
struct Found {
    instructions: usize,
    accesses: Proof,
    calls: Proof,
    microseconds: u128,
    checks: Vec<CheckRow>,
    unreachable: Vec<Unreachable>,
    /// Loops that are not seen to end.
    loops: Vec<Place>,
}

/// How much is proved, and how much is checked.
#[derive(Serialize)]
struct Proof {
    proved: usize,
    checked: usize,
}

#[derive(Serialize)]
struct CheckRow {
    #[serde(flatten)]
    place: Place,
    instruction: String,
    registers: Vec<RegisterRow>,
    reason: String,
}

#[derive(Serialize)]
struct RegisterRow {
    register: String,
    holds: String,
}

#[derive(Serialize)]
struct Place {
    slot: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

#[derive(Serialize)]
struct Unreachable {
    #[serde(flatten)]
    place: Place,
    slots: usize,
}

impl Report {
    fn of(object: &Object, program: &Program) -> Report {
        let outcome = match Found::of(object, &program.name) {
            Ok(found) => Outcome::Analysed(found),
            Err(error) => Outcome::Refused {
                refused: format!("{error:#}"),
            },
        };
        Report {
            program: program.name.clone(),
            outcome,
        }
    }

    fn text(&self) -> String {
        let mut out = format!("program {}: ", self.program);
        match &self.outcome {
            Outcome::Refused { refused } => {
                let _ = writeln!(out, "cannot run in userspace: {refused}");
            }
            Outcome::Analysed(found) => found.write(&mut out),
        }
        out
    }
}

impl Found {
    fn of(object: &Object, name: &str) -> Result<Found> {
        let object = squalus_vm::for_host(object.clone())?;
        let builder = VmBuilder::new(object).engine(EngineKind::Interp);
        let vm = builder.only(&[name]).build()?;
        let linked = vm.linked().iter().find(|program| program.name() == name);
        let program = linked.expect("the machine was built for this program");
        let start = Instant::now();
        let facts = analyse(program)?;
        Ok(Found::new(program, &facts, start.elapsed().as_micros()))
    }

    fn new(program: &LinkedProgram, facts: &Facts, microseconds: u128) -> Found {
        let counts = facts.counts(program);
        let checks = facts.checks(program).into_iter();
        let unreachable = facts.unreachable(program).into_iter();
        let loops = facts.unbounded_loops(program).into_iter();
        Found {
            instructions: counts.reachable,
            accesses: Proof {
                proved: counts.proved,
                checked: counts.checked,
            },
            calls: Proof {
                proved: counts.proved_calls,
                checked: counts.checked_calls,
            },
            microseconds,
            checks: checks.map(|check| CheckRow::of(program, check)).collect(),
            unreachable: unreachable
                .map(|slots| Unreachable {
                    place: Place::of(program, slots.start),
                    slots: slots.len(),
                })
                .collect(),
            loops: loops.map(|slot| Place::of(program, slot)).collect(),
        }
    }

    fn write(&self, out: &mut String) {
        let Found {
            instructions,
            accesses,
            calls,
            ..
        } = self;
        let millis = self.microseconds as f64 / 1000.0;
        let summary = match self.checks.len() {
            0 => "everything is proved, nothing is checked at run time".to_owned(),
            1 => "1 instruction is checked at run time".to_owned(),
            n => format!("{n} instructions are checked at run time"),
        };
        let _ = writeln!(out, "{summary}");
        let _ = writeln!(
            out,
            "  {instructions} instructions can be reached; proved: {} of {} memory accesses, {} of {} helper \
             calls; analysed in {millis:.1} ms",
            accesses.proved,
            accesses.proved + accesses.checked,
            calls.proved,
            calls.proved + calls.checked
        );
        for check in &self.checks {
            check.write(out);
        }
        for Unreachable { place, slots } in &self.unreachable {
            let last = place.slot + slots - 1;
            let range = match slots {
                1 => format!("instruction {last} is"),
                _ => format!("instructions {} to {last} are", place.slot),
            };
            let _ = writeln!(out, "  {range} never reached{}", place.source_text());
        }
        for place in &self.loops {
            let _ = writeln!(
                out,
                "  the loop at instruction {} has no bound that is known; the instruction budget ends it{}",
                place.slot,
                place.source_text()
            );
        }
    }
}

impl CheckRow {
    fn of(program: &LinkedProgram, check: Check) -> CheckRow {
        let row = |(register, holds)| RegisterRow {
            register: format!("{register:?}"),
            holds,
        };
        CheckRow {
            place: Place::of(program, check.slot),
            instruction: check.instruction,
            registers: check.registers.into_iter().map(row).collect(),
            reason: check.reason,
        }
    }

    fn write(&self, out: &mut String) {
        if let Some(source) = &self.place.source {
            let _ = writeln!(out, "  ; {source}");
        }
        let _ = writeln!(out, "  {:6}: {}", self.place.slot, self.instruction);
        let registers = self.registers.iter();
        let registers: Vec<String> = registers
            .map(|row| format!("{} is {}", row.register, row.holds))
            .collect();
        let _ = writeln!(out, "          {}", registers.join("; "));
        let _ = writeln!(out, "          {}", self.reason);
    }
}

impl Place {
    fn of(program: &LinkedProgram, slot: usize) -> Place {
        Place {
            slot,
            source: program.line(slot).map(ToString::to_string),
        }
    }

    fn source_text(&self) -> String {
        match &self.source {
            Some(source) => format!(" ({source})"),
            None => String::new(),
        }
    }
}

//! `squalus bench micro`: small programs in the kernel, in our engines, and as native code of the same source.
//!
//! What a figure is: the time of a packet, less that of a program that only returns, measured on the same frames
//! just before, in the same engine. So entering a program, which differs most between engines and which real
//! programs are much larger than, is left out everywhere; the report gives it apart. In the kernel it is what
//! [`KernelEngine::measure`](squalus_kernel::KernelEngine::measure) does anyway.

mod compile;
mod measure;
mod native;
pub mod programs;
mod report;
pub mod traffic;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::Machine;
pub use compile::CompileTime;
pub use measure::{Answer, Subject};
pub use native::Clang;
use programs::{EMPTY, PROGRAMS, Program};
pub use report::{Figure, Report, Row};

/// Where a micro program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The Linux kernel.
    Kernel,
    /// Our interpreter.
    Interp,
    /// Our compiler.
    Jit,
    /// The same C source, compiled for this machine by clang.
    Native,
}

impl EngineName {
    /// All of them.
    pub const ALL: [EngineName; 4] = [
        EngineName::Kernel,
        EngineName::Interp,
        EngineName::Jit,
        EngineName::Native,
    ];

    /// The name as users type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EngineName::Kernel => "kernel",
            EngineName::Interp => "interp",
            EngineName::Jit => "jit",
            EngineName::Native => "native",
        }
    }
}

/// Options of `squalus bench micro`.
#[derive(Debug, Args)]
pub struct MicroArgs {
    /// Only programs whose names match one of these patterns (`*` stands for anything)
    #[arg(long, value_delimiter = ',', value_name = "GLOB")]
    pub programs: Vec<String>,
    /// Only these engines; native code needs clang, which the variable CLANG can name
    #[arg(long, value_delimiter = ',', value_enum, value_name = "ENGINE")]
    pub engines: Vec<EngineName>,
    /// Rounds in which the engines take turns
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub rounds: usize,
    /// Packets a round; the interpreter runs a twentieth of it
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub packets: u32,
    /// Flags for clang; add `-fno-vectorize -fno-slp-vectorize` for what scalar code can do
    #[arg(
        long,
        default_value = "-O3 -march=native",
        allow_hyphen_values = true,
        value_name = "FLAGS"
    )]
    pub cflags: String,
}

/// Checks that all engines give the same answers, then measures them; `progress` hears of each step.
///
/// # Errors
/// If an engine cannot load a program, or two engines answer differently.
pub fn run(args: &MicroArgs, progress: impl Fn(&str)) -> Result<Report> {
    ensure!(
        args.rounds > 0 && args.packets > 0,
        "--rounds and --packets must be at least 1"
    );
    let chosen = chosen(&args.programs)?;
    let clang = Clang::find(&args.cflags);
    let engines = engines(&args.engines, clang.as_ref())?;
    let mut machine = Machine::observe();
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: 0 }),
        "cannot pin the measuring thread to CPU 0: allow it that CPU (taskset, cpuset)"
    );
    let mut rows = Vec::new();
    for program in chosen {
        progress(program.name);
        let row = measure_program(args, program, &engines, clang.as_ref());
        rows.push(row.with_context(|| format!("program {}", program.name))?);
    }
    machine.observe_after();
    let flags = |clang: &Clang| format!("{}, {}", clang.version, clang.flags());
    Ok(Report {
        version: 1,
        machine,
        clang: clang.as_ref().map(flags),
        rows,
    })
}

fn engines(wanted: &[EngineName], clang: Option<&Clang>) -> Result<Vec<EngineName>> {
    let mut engines = wanted.to_vec();
    if wanted.is_empty() {
        engines.extend(EngineName::ALL);
    }
    if clang.is_none() {
        if wanted.contains(&EngineName::Native) {
            bail!("native code needs clang: install it, or name it in the variable CLANG");
        }
        engines.retain(|engine| *engine != EngineName::Native);
    }
    Ok(engines)
}

fn chosen(patterns: &[String]) -> Result<Vec<&'static Program>> {
    let wanted = |program: &&Program| {
        patterns.is_empty() || patterns.iter().any(|p| matches(p, program.name))
    };
    let chosen: Vec<_> = PROGRAMS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let all: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
        bail!(
            "no program matches {}; there are: {}",
            patterns.join(", "),
            all.join(", ")
        );
    }
    Ok(chosen)
}

/// Whether `name` is like `pattern`, where `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(tail) = name.strip_prefix(start) else {
        return false;
    };
    (0..=tail.len()).any(|skip| tail.get(skip..).is_some_and(|tail| matches(rest, tail)))
}

/// A program and the empty one in one engine, and what was measured so far.
struct Pair {
    engine: EngineName,
    program: Subject,
    empty: Option<Subject>,
    whole: Vec<f64>,
    entering: Vec<f64>,
}

impl Pair {
    fn round(&mut self, frames: &[Vec<u8>], packets: u32) -> Result<()> {
        // The interpreter is for truth, not for speed: fewer packets tell as much.
        let packets = match self.engine {
            EngineName::Interp => packets.div_ceil(20),
            _ => packets,
        };
        if let Some(empty) = &mut self.empty {
            self.entering.push(empty.measure(frames, packets)?);
        }
        self.whole.push(self.program.measure(frames, packets)?);
        Ok(())
    }
}

fn measure_program(
    args: &MicroArgs,
    program: &Program,
    engines: &[EngineName],
    clang: Option<&Clang>,
) -> Result<Row> {
    let frames = program.traffic.frames();
    let mut pairs = Vec::new();
    for &engine in engines {
        let load = |program| Subject::load(engine, program, &frames, clang);
        // The kernel's own measuring takes an empty program off.
        let empty = (engine != EngineName::Kernel).then(|| load(&EMPTY));
        pairs.push(Pair {
            engine,
            program: load(program)?,
            empty: empty.transpose()?,
            whole: Vec::new(),
            entering: Vec::new(),
        });
    }
    check(&mut pairs, &frames)?;
    let warm_up = args.packets.div_ceil(10);
    for pair in &mut pairs {
        pair.round(&frames, warm_up)?;
        pair.whole.clear();
        pair.entering.clear();
    }
    for _ in 0..args.rounds {
        for pair in &mut pairs {
            pair.round(&frames, args.packets)?;
        }
    }
    let figures = pairs
        .iter()
        .map(|pair| Figure::new(pair.engine, &pair.whole, &pair.entering))
        .collect();
    Ok(Row {
        program: program.name,
        kind: program.kind(),
        figures,
        compile: compile::measure(program, args.rounds)?,
    })
}

/// Runs all frames twice (the second time finds in maps what the first has left) and compares what came out.
fn check(pairs: &mut [Pair], frames: &[Vec<u8>]) -> Result<()> {
    for pass in 0..2 {
        let mut first: Option<(EngineName, Vec<Answer>)> = None;
        for pair in &mut *pairs {
            let answers = pair.program.check(frames)?;
            let (engine, expected) = first.get_or_insert_with(|| (pair.engine, answers.clone()));
            for (at, (answer, expected)) in answers.iter().zip(expected).enumerate() {
                ensure!(
                    answer == expected,
                    "pass {pass}, frame {at}: {} answers {expected}, {} {answer}",
                    engine.name(),
                    pair.engine.name(),
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("csum_*", "csum_20"));
        assert!(matches("*64*", "hash_fnv64"));
        assert!(matches("*", ""));
        assert!(!matches("csum", "csum_20"));
        assert!(!matches("*_2", "csum_20"));
    }

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let names: std::collections::HashSet<_> = PROGRAMS.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), PROGRAMS.len());
        assert!(names.len() >= 40);
    }
}

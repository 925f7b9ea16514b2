//! `squalus bench micro`: small programs in the kernel, in our engines, and as native code of the same source.
//!
//! What a figure is: what the processor has to do for a packet besides entering the program, which differs most
//! between engines and which real programs are much larger than.
//!
//! - Each frame comes some times in a row, in all engines, and what that takes more than each frame once is the figure
//!   (see [`Schedule`]): branches are as predictable in one engine as in the other.
//! - In our engines, in native code and in rbpf, bursts of prepared frames are timed, and bursts of the same frames
//!   through a program that only returns. The difference is the program's. Packets follow each other without a stall,
//!   and an entry is some nanoseconds of work, so what a program adds shows. How much exactly depends on the entry: the
//!   more of the processor it leaves idle, the more of a short program goes there. The report tells what entering takes
//!   in each engine; a nanosecond or two between short programs is as much of the entries as of the programs.
//! - The kernel cannot be measured so: whatever runs a program there waits so long on the way in and out that a short
//!   one takes no time beside an empty one, or less. So the program is measured several times in a row, as one program,
//!   against once, in the same driver ([`squalus_kernel::Stopwatch`]): the difference is that many programs less one,
//!   without a stall between. See [`repeated`]. It is in the kernel's favour by what entering a function pushes and
//!   pops; against it by the count of a loop, where the program has loops itself. In the kernel a repetition finds the
//!   frame as the one before left it, unless the program reads there what it wrote: then the packet holds the frame
//!   several times, and each repetition adds its distance to the frame's start, which is one instruction more.
//!
//! How certain a figure is: the rounds' odd and even halves are compared. What is taken off differs between them by
//! what a program that takes no time would be measured with; what nine programs of ten keep below is the engine's
//! resolution. A figure below it is shown as `<`, and counts as that in ratios. That a program is slower than in the
//! kernel is said only if the two are further apart than resolution and halves could explain.
//!
//! Rounds are short and many, and the engines take turns, so that what else the machine does hits them alike. The
//! median round is what one may expect; the best one, in which least came between, compares engines on a busy machine.

mod compile;
mod measure;
mod native;
pub mod programs;
mod rbpf;
pub mod repeated;
mod report;
mod schedule;
pub mod traffic;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};

use crate::Machine;
use crate::engines::CodeArgs;
pub use compile::CompileTime;
pub use measure::{Answer, Subject, Timer};
pub use native::Clang;
use programs::{EMPTY, PROGRAMS, Program};
pub use report::{Figure, Report, Row};
pub use schedule::Schedule;

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
    /// The engine rbpf on the same bytecode: programs without maps and helpers only.
    Rbpf,
}

impl EngineName {
    /// All of them.
    pub const ALL: [EngineName; 5] = [
        EngineName::Kernel,
        EngineName::Interp,
        EngineName::Jit,
        EngineName::Native,
        EngineName::Rbpf,
    ];

    /// The name as users type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EngineName::Kernel => "kernel",
            EngineName::Interp => "interp",
            EngineName::Jit => "jit",
            EngineName::Native => "native",
            EngineName::Rbpf => "rbpf",
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
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub rounds: usize,
    /// Packets a round; the interpreter runs a twentieth of it
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub packets: u32,
    /// Print the best round of each instead of the median one, as is better on a busy machine
    #[arg(long)]
    pub best: bool,
    /// Flags for clang; add `-fno-vectorize -fno-slp-vectorize` for what scalar code can do
    #[arg(
        long,
        default_value = "-O3 -march=native",
        allow_hyphen_values = true,
        value_name = "FLAGS"
    )]
    pub cflags: String,
    /// How our compiler does its work.
    #[command(flatten)]
    pub code: CodeArgs,
}

/// Checks that all engines give the same answers, then measures them; `progress` hears of each step.
///
/// # Errors
/// If an engine cannot load a program, or two engines answer differently.
pub fn run(args: &MicroArgs, progress: impl Fn(&str)) -> Result<Report> {
    ensure!(
        args.rounds > 1 && args.packets > 0,
        "--rounds must be at least 2, since figures are compared between rounds, and --packets at least 1"
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
        version: 3,
        machine,
        best: args.best,
        clang: clang.as_ref().map(flags),
        rows,
    })
}

fn engines(wanted: &[EngineName], clang: Option<&Clang>) -> Result<Vec<EngineName>> {
    let mut engines = EngineName::ALL.to_vec();
    engines.retain(|engine| wanted.is_empty() || wanted.contains(engine));
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

/// A program in one engine, and the empty one if the engine does not measure that itself.
struct Pair {
    engine: EngineName,
    program: Subject,
    empty: Option<Subject>,
}

impl Pair {
    /// `None` if the engine does not have what the program needs.
    fn load(
        engine: EngineName,
        program: &Program,
        frames: &[Vec<u8>],
        clang: Option<&Clang>,
        code: CodeArgs,
    ) -> Result<Option<Pair>> {
        let load = |program| Subject::load(engine, program, frames, clang, code);
        let loaded = match load(program) {
            Err(error) if error.downcast_ref::<squalus_rbpf::Unfit>().is_some() => return Ok(None),
            loaded => loaded?,
        };
        let empty = (engine != EngineName::Kernel).then(|| load(&EMPTY));
        Ok(Some(Pair {
            engine,
            program: loaded,
            empty: empty.transpose()?,
        }))
    }

    fn course<'a>(&'a mut self, frames: &'a [Vec<u8>], schedule: Schedule) -> Result<Course<'a>> {
        let empty = self.empty.as_mut();
        let empty = empty.map(|empty| empty.timer(frames, schedule));
        Ok(Course {
            engine: self.engine,
            program: self.program.timer(frames, schedule)?,
            empty: empty.transpose()?,
            whole: Vec::new(),
            baseline: Vec::new(),
        })
    }
}

/// The rounds of a program in one engine, in nanoseconds a packet.
struct Course<'a> {
    engine: EngineName,
    program: Timer<'a>,
    empty: Option<Timer<'a>>,
    whole: Vec<f64>,
    /// What is to be taken off.
    baseline: Vec<f64>,
}

impl Course<'_> {
    fn round(&mut self, packets: u32) -> Result<()> {
        // The interpreter is for truth, not for speed: fewer packets tell as much.
        let packets = match self.engine {
            EngineName::Interp => packets.div_ceil(20),
            _ => packets,
        };
        if let Some(empty) = &mut self.empty {
            self.baseline.push(empty.round(packets)?.whole);
        }
        let sample = self.program.round(packets)?;
        self.baseline.extend(sample.baseline);
        self.whole.push(sample.whole);
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
        pairs.extend(Pair::load(engine, program, &frames, clang, args.code)?);
    }
    let wrong = check(&mut pairs, &frames)?;
    let wanted = pairs.iter().find_map(|pair| pair.program.repeats());
    let repeats = wanted.map_or_else(|| program.repeats(), Ok)?;
    let schedule = Schedule::new(&frames, repeats);
    let courses: Result<Vec<Course<'_>>> = pairs
        .iter_mut()
        .map(|pair| pair.course(&frames, schedule))
        .collect();
    let mut courses = courses?;
    let warm_up = args.packets.div_ceil(10);
    for course in &mut courses {
        course.round(warm_up)?;
        course.whole.clear();
        course.baseline.clear();
    }
    for _ in 0..args.rounds {
        for course in &mut courses {
            course.round(args.packets)?;
        }
    }
    let figures = courses
        .iter()
        .map(|course| Figure::new(course.engine, &course.whole, &course.baseline))
        .collect();
    Ok(Row {
        program: program.name,
        kind: program.kind(),
        repeats: schedule.repeats(),
        figures,
        wrong,
        compile: compile::measure(program, args.rounds, args.code)?,
    })
}

/// Runs all frames twice (the second time finds in maps what the first has left) and compares what came out. Says
/// how foreign engines differ, and takes those out.
fn check(pairs: &mut Vec<Pair>, frames: &[Vec<u8>]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for pass in 0..2 {
        let mut first: Option<(EngineName, Vec<Answer>)> = None;
        let mut failed = None;
        pairs.retain_mut(|pair| match compare(pair, frames, &mut first) {
            Ok(None) => true,
            Ok(Some(difference)) if pair.engine == EngineName::Rbpf => {
                wrong.push(difference);
                false
            }
            Ok(Some(difference)) => {
                failed.get_or_insert_with(|| anyhow!("pass {pass}, {difference}"));
                true
            }
            Err(error) => {
                failed.get_or_insert(error);
                true
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    Ok(wrong)
}

/// How the answers of an engine differ from those of the first one, which it becomes if there is none yet.
fn compare(
    pair: &mut Pair,
    frames: &[Vec<u8>],
    first: &mut Option<(EngineName, Vec<Answer>)>,
) -> Result<Option<String>> {
    let answers = pair.program.check(frames)?;
    let Some((engine, expected)) = first else {
        *first = Some((pair.engine, answers));
        return Ok(None);
    };
    let mut pairs = answers.iter().zip(expected).enumerate();
    let difference = pairs.find(|(_, (answer, expected))| *answer != &**expected);
    Ok(difference.map(|(at, (answer, expected))| {
        let (engine, own) = (engine.name(), pair.engine.name());
        format!("frame {at}: {engine} answers {expected}, {own} {answer}")
    }))
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

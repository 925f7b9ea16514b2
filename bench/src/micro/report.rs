//! Figures as data and as a table.

use std::fmt::Write;

use serde::Serialize;

use super::{CompileTime, EngineName};
use crate::Machine;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub version: u32,
    /// The machine.
    pub machine: Machine,
    /// Whether the text shows the best round of each instead of the median one.
    pub best: bool,
    /// The compiler of native code and its flags, if there was one.
    pub clang: Option<String>,
    /// One row for each program.
    pub rows: Vec<Row>,
}

/// One program.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub program: &'static str,
    /// What sort of program it is.
    pub kind: &'static str,
    /// One figure for each engine that has what the program needs.
    pub figures: Vec<Figure>,
    /// How the answers of foreign engines differ; they are not measured then.
    pub wrong: Vec<String>,
    /// How long our engine takes to compile it.
    pub compile: CompileTime,
}

/// One program in one engine, in nanoseconds a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `kernel`, `interp`, `jit`, `native` or `rbpf`.
    pub engine: &'static str,
    /// The program less the empty one: the median over the rounds.
    pub ns: f64,
    /// The program's fastest round less the empty one's fastest.
    pub best: f64,
    /// The largest difference in a round.
    pub worst: f64,
    /// The empty program: the median over the rounds. In the kernel, its driver.
    pub entering: f64,
}

impl Figure {
    /// Sums up rounds: the program's whole time in each, and the empty one's beside it.
    #[must_use]
    pub fn new(engine: EngineName, whole: &[f64], entering: &[f64]) -> Figure {
        let net: Vec<f64> = whole
            .iter()
            .zip(entering)
            .map(|(all, entry)| all - entry)
            .collect();
        let least = |samples: &[f64]| samples.iter().copied().reduce(f64::min).unwrap_or(f64::NAN);
        Figure {
            engine: engine.name(),
            ns: median(&net),
            best: least(whole) - least(entering),
            worst: net.iter().copied().reduce(f64::max).unwrap_or(f64::NAN),
            entering: median(entering),
        }
    }

    fn shown(&self, best: bool) -> f64 {
        if best { self.best } else { self.ns }
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Less than this cannot be told from nothing, so it counts as this in ratios.
const LEAST: f64 = 0.5;
/// How many times as long as in the kernel is worth telling.
const SLOW: f64 = 1.1;

impl Row {
    fn figure(&self, engine: EngineName) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.engine == engine.name())
    }

    /// How many times as long `engine` takes as `other`, by the best rounds or the median ones.
    #[must_use]
    pub fn ratio(&self, engine: EngineName, other: EngineName, best: bool) -> Option<f64> {
        let (figure, other) = self.figure(engine).zip(self.figure(other))?;
        Some(figure.shown(best).max(LEAST) / other.shown(best).max(LEAST))
    }
}

/// The means that are shown: how many times as long one engine takes as another.
const MEANS: [(EngineName, EngineName); 5] = [
    (EngineName::Jit, EngineName::Native),
    (EngineName::Jit, EngineName::Kernel),
    (EngineName::Kernel, EngineName::Native),
    (EngineName::Rbpf, EngineName::Native),
    (EngineName::Jit, EngineName::Rbpf),
];

impl Report {
    /// The geometric mean of how many times as long `engine` takes as `other`, over the rows that `wanted` takes and
    /// that have both.
    fn mean(
        &self,
        (engine, other): (EngineName, EngineName),
        best: bool,
        wanted: impl Fn(&Row) -> bool,
    ) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| wanted(row));
        let logs: Vec<f64> = rows
            .filter_map(|row| Some(row.ratio(engine, other, best)?.ln()))
            .collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    /// A line for each program, and below the means.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = self.heading();
        let _ = write!(out, "{:<20}", "program");
        let engines = self.engines();
        for engine in &engines {
            let _ = write!(out, " {:>8}", engine.name());
        }
        let _ = writeln!(
            out,
            " {:>10} {:>10} {:>6} {:>8} {:>6} {:>6} {:>6}",
            "jit/native", "jit/kernel", "insns", "analysis", "ssa", "code", "all"
        );
        for row in &self.rows {
            self.line(&mut out, row, &engines);
        }
        self.means(&mut out);
        self.slow(&mut out);
        self.compiling(&mut out);
        self.entering(&mut out);
        self.wrong(&mut out);
        out
    }

    fn engines(&self) -> Vec<EngineName> {
        let known = |engine: &EngineName| self.rows.iter().any(|row| row.figure(*engine).is_some());
        EngineName::ALL.into_iter().filter(known).collect()
    }

    fn line(&self, out: &mut String, row: &Row, engines: &[EngineName]) {
        let _ = write!(out, "{:<20}", row.program);
        for engine in engines {
            let shown = row.figure(*engine).map(|figure| figure.shown(self.best));
            let _ = write!(out, " {:>8}", number(shown, 1));
        }
        let jit = |other| number(row.ratio(EngineName::Jit, other, self.best), 2);
        let compile = &row.compile;
        let each = |us| us / compile.instructions as f64;
        let _ = writeln!(
            out,
            " {:>10} {:>10} {:>6} {:>8.1} {:>6.1} {:>6.1} {:>6.1}",
            jit(EngineName::Native),
            jit(EngineName::Kernel),
            compile.instructions,
            each(compile.analysis_us),
            each(compile.ssa_us),
            each(compile.code_us),
            each(compile.all_us()),
        );
    }

    fn means(&self, out: &mut String) {
        let mut kinds: Vec<&str> = self.rows.iter().map(|row| row.kind).collect();
        kinds.dedup();
        let engines = self.engines();
        let known = |(a, b): &(EngineName, EngineName)| engines.contains(a) && engines.contains(b);
        let means: Vec<_> = MEANS.into_iter().filter(known).collect();
        if means.is_empty() {
            return;
        }
        let _ = write!(out, "\n{:<20}", "geometric means");
        for (a, b) in &means {
            let _ = write!(out, " {:>13}", format!("{}/{}", a.name(), b.name()));
        }
        let mut line = |name: &str, best: bool, wanted: &dyn Fn(&Row) -> bool| {
            let _ = write!(out, "\n{name:<20}");
            for pair in &means {
                let _ = write!(out, " {:>13}", number(self.mean(*pair, best, wanted), 2));
            }
        };
        for kind in kinds {
            line(kind, self.best, &|row| row.kind == kind);
        }
        line("all, median round", false, &|_| true);
        line("all, best round", true, &|_| true);
        if engines.contains(&EngineName::Rbpf) {
            let there = |row: &Row| row.figure(EngineName::Rbpf).is_some();
            line("those rbpf has", self.best, &there);
        }
        out.push('\n');
    }

    /// Programs that are slower than in the kernel, slowest first.
    fn slow(&self, out: &mut String) {
        let ratio = |row: &Row| {
            let ratio = row.ratio(EngineName::Jit, EngineName::Kernel, self.best)?;
            (ratio > SLOW).then_some((ratio, row.program))
        };
        if !self.engines().contains(&EngineName::Kernel) {
            return;
        }
        let mut slow: Vec<(f64, &str)> = self.rows.iter().filter_map(ratio).collect();
        slow.sort_by(|a, b| b.0.total_cmp(&a.0));
        let slow: Vec<String> = slow
            .iter()
            .map(|(ratio, name)| format!("{name} {ratio:.2}"))
            .collect();
        let slow = if slow.is_empty() {
            "none".to_owned()
        } else {
            slow.join(", ")
        };
        let _ = writeln!(out, "\nmore than 10 % slower than the kernel: {slow}");
    }

    fn compiling(&self, out: &mut String) {
        let total =
            |of: fn(&CompileTime) -> f64| -> f64 { self.rows.iter().map(|r| of(&r.compile)).sum() };
        let instructions = total(|c| c.instructions as f64);
        let each = |of| total(of) / instructions;
        let _ = writeln!(
            out,
            "compiling, µs an instruction over all: {:.1} (analysis {:.1}, SSA {:.1}, code {:.1})",
            each(CompileTime::all_us),
            each(|c| c.analysis_us),
            each(|c| c.ssa_us),
            each(|c| c.code_us),
        );
    }

    fn entering(&self, out: &mut String) {
        let one = |engine: &EngineName| {
            let figures = self.rows.iter().filter_map(|row| row.figure(*engine));
            let samples: Vec<f64> = figures.map(|figure| figure.entering).collect();
            format!("{} {:.1}", engine.name(), median(&samples))
        };
        let all: Vec<String> = self.engines().iter().map(one).collect();
        let _ = writeln!(
            out,
            "entering a program, taken off, in ns (the kernel's is its driver): {}",
            all.join(", ")
        );
    }

    fn wrong(&self, out: &mut String) {
        for row in &self.rows {
            for difference in &row.wrong {
                let _ = writeln!(out, "not measured, wrong: {}, {difference}", row.program);
            }
        }
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let clang = self.clang.as_deref();
        let mut out = format!(
            "ns per packet less the empty program, {} round, one pinned core; compile times in µs an instruction\n\
             {}, {} CPUs, Linux {}\nnative: {}\n",
            if self.best { "best" } else { "median" },
            machine.cpu,
            machine.cpus,
            machine.kernel,
            clang.unwrap_or("NOT MEASURED: no clang found (install one, or name it in CLANG)")
        );
        let (before, after) = (machine.busy_before * 100.0, machine.busy_after * 100.0);
        let _ = write!(out, "other load: {before:.0} % before, {after:.0} % after");
        out.push_str(if machine.was_idle() {
            "\n\n"
        } else {
            ": THE MACHINE WAS NOT IDLE, don't trust the figures\n\n"
        });
        out
    }
}

fn number(value: Option<f64>, places: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.places$}"))
}

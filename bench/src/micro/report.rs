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
    /// One figure for each engine.
    pub figures: Vec<Figure>,
    /// How long our engine takes to compile it.
    pub compile: CompileTime,
}

/// One program in one engine, in nanoseconds a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `kernel`, `interp`, `jit` or `native`.
    pub engine: &'static str,
    /// The program less the empty one: the median over the rounds.
    pub ns: f64,
    /// Fastest round.
    pub min: f64,
    /// Slowest round.
    pub max: f64,
    /// The empty program: the median over the rounds. In the kernel it is not known apart.
    pub entering: Option<f64>,
}

impl Figure {
    /// Sums up rounds: the program's whole time in each, and the empty one's beside it, if it was measured.
    #[must_use]
    pub fn new(engine: EngineName, whole: &[f64], entering: &[f64]) -> Figure {
        let other = entering.iter().copied().chain(std::iter::repeat(0.0));
        let mut net: Vec<f64> = whole
            .iter()
            .zip(other)
            .map(|(all, entry)| all - entry)
            .collect();
        net.sort_by(f64::total_cmp);
        Figure {
            engine: engine.name(),
            ns: median(&net),
            min: net.first().copied().unwrap_or(f64::NAN),
            max: net.last().copied().unwrap_or(f64::NAN),
            entering: (!entering.is_empty()).then(|| median(entering)),
        }
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Less than this cannot be told from nothing, so it counts as this in ratios.
const LEAST: f64 = 0.5;

impl Row {
    fn ns(&self, engine: EngineName) -> Option<f64> {
        let figure = self.figures.iter().find(|f| f.engine == engine.name());
        figure.map(|figure| figure.ns)
    }

    /// How many times as long `engine` takes as `other`.
    #[must_use]
    pub fn ratio(&self, engine: EngineName, other: EngineName) -> Option<f64> {
        let (ns, other) = self.ns(engine).zip(self.ns(other))?;
        Some(ns.max(LEAST) / other.max(LEAST))
    }
}

impl Report {
    /// The geometric mean of how many times as long `engine` takes as `other`, over the rows that `wanted` takes.
    fn mean(
        &self,
        engine: EngineName,
        other: EngineName,
        wanted: impl Fn(&Row) -> bool,
    ) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| wanted(row));
        let logs: Vec<f64> = rows
            .filter_map(|row| Some(row.ratio(engine, other)?.ln()))
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
            let _ = write!(out, " {:>9}", engine.name());
        }
        let _ = writeln!(
            out,
            " {:>10} {:>10} {:>6} {:>8} {:>8} {:>6}",
            "jit/native", "jit/kernel", "insns", "analysis", "codegen", "µs/in"
        );
        for row in &self.rows {
            self.line(&mut out, row, &engines);
        }
        self.means(&mut out);
        out
    }

    fn engines(&self) -> Vec<EngineName> {
        let known = |engine: &EngineName| self.rows.iter().any(|row| row.ns(*engine).is_some());
        EngineName::ALL.into_iter().filter(known).collect()
    }

    fn line(&self, out: &mut String, row: &Row, engines: &[EngineName]) {
        let _ = write!(out, "{:<20}", row.program);
        for engine in engines {
            let _ = write!(out, " {:>9}", number(row.ns(*engine), 1));
        }
        let jit = |other| number(row.ratio(EngineName::Jit, other), 2);
        let compile = &row.compile;
        let _ = writeln!(
            out,
            " {:>10} {:>10} {:>6} {:>5.2} ms {:>5.2} ms {:>6.1}",
            jit(EngineName::Native),
            jit(EngineName::Kernel),
            compile.instructions,
            compile.analysis_us / 1000.0,
            compile.codegen_us / 1000.0,
            compile.us_per_instruction
        );
    }

    fn means(&self, out: &mut String) {
        let mut kinds: Vec<&str> = self.rows.iter().map(|row| row.kind).collect();
        kinds.dedup();
        let _ = writeln!(
            out,
            "\ngeometric means     jit/native jit/kernel kernel/native"
        );
        let mut line = |name: &str, wanted: &dyn Fn(&Row) -> bool| {
            let mean = |a, b| number(self.mean(a, b, wanted), 2);
            let _ = writeln!(
                out,
                "{name:<20}{:>10} {:>10} {:>13}",
                mean(EngineName::Jit, EngineName::Native),
                mean(EngineName::Jit, EngineName::Kernel),
                mean(EngineName::Kernel, EngineName::Native)
            );
        };
        for kind in kinds {
            line(kind, &|row| row.kind == kind);
        }
        line("all", &|_| true);
        let total = |of: fn(&CompileTime) -> f64| self.rows.iter().map(|r| of(&r.compile)).sum();
        let (analysis, codegen): (f64, f64) = (total(|c| c.analysis_us), total(|c| c.codegen_us));
        let instructions: f64 = total(|c| c.instructions as f64);
        let _ = writeln!(
            out,
            "\ncompiling: {:.1} µs an instruction over all (analysis {:.1}, code {:.1})",
            (analysis + codegen) / instructions,
            analysis / instructions,
            codegen / instructions
        );
        let entering = |engine: &EngineName| {
            let figures = self.rows.iter().flat_map(|row| &row.figures);
            let own = figures.filter(|figure| figure.engine == engine.name());
            let samples: Vec<f64> = own.filter_map(|figure| figure.entering).collect();
            (!samples.is_empty()).then(|| format!("{} {:.1} ns", engine.name(), median(&samples)))
        };
        let entering: Vec<String> = self.engines().iter().filter_map(entering).collect();
        if !entering.is_empty() {
            let _ = writeln!(
                out,
                "entering a program, taken off: {}",
                entering.join(", ")
            );
        }
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let clang = self.clang.as_deref();
        let mut out = format!(
            "ns per packet less the empty program, median of rounds, one pinned core\n{}, {} CPUs, Linux {}\n\
             native: {}\n",
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

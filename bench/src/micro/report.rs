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
    /// How often each frame came in a row.
    pub repeats: usize,
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
    /// The program alone: the median over the rounds.
    pub ns: f64,
    /// The program alone by its fastest round and that of what is taken off.
    pub best: f64,
    /// The largest difference in a round.
    pub worst: f64,
    /// The empty program, which is taken off: the median over the rounds. In the kernel, where the program itself is
    /// taken off once, nothing.
    pub entering: Option<f64>,
    /// By how much half of the rounds and the others differ in what the program takes.
    pub spread: Both,
    /// By how much they differ in what is taken off: what a program that takes no time would be measured with.
    pub resolution: Both,
}

/// A number of nanoseconds, by the median rounds and by the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Both {
    /// By the median rounds.
    pub median: f64,
    /// By the fastest.
    pub best: f64,
}

impl Both {
    /// What is left of `whole` without `baseline`, which was measured in the same rounds.
    fn net(whole: &[f64], baseline: &[f64]) -> Both {
        let rounds = whole.iter().zip(baseline);
        let each: Vec<f64> = rounds.map(|(all, less)| all - less).collect();
        Both {
            median: median(&each),
            best: least(whole) - least(baseline),
        }
    }

    /// How far two are from each other.
    fn apart(self, other: Both) -> Both {
        Both {
            median: (self.median - other.median).abs(),
            best: (self.best - other.best).abs(),
        }
    }

    fn shown(self, best: bool) -> f64 {
        if best { self.best } else { self.median }
    }
}

impl Figure {
    /// Sums up rounds, two at least: the program's whole time in each, and beside it what is to be taken off.
    ///
    /// To tell how certain the figure is, every other round is compared with the rest: so what changes slowly hits
    /// both alike.
    #[must_use]
    pub fn new(engine: EngineName, whole: &[f64], baseline: &[f64]) -> Figure {
        let all = Both::net(whole, baseline);
        let rounds = whole.iter().zip(baseline);
        let half = |skip| -> (Vec<f64>, Vec<f64>) { rounds.clone().skip(skip).step_by(2).unzip() };
        let (even, odd) = (half(0), half(1));
        let nothing = Both {
            median: 0.0,
            best: 0.0,
        };
        Figure {
            engine: engine.name(),
            ns: all.median,
            best: all.best,
            worst: rounds
                .map(|(all, less)| all - less)
                .reduce(f64::max)
                .unwrap_or(f64::NAN),
            entering: (engine != EngineName::Kernel).then(|| median(baseline)),
            spread: Both::net(&even.0, &even.1).apart(Both::net(&odd.0, &odd.1)),
            resolution: Both::net(&even.1, &odd.1).apart(nothing),
        }
    }

    fn shown(&self, best: bool) -> f64 {
        if best { self.best } else { self.ns }
    }
}

fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().reduce(f64::min).unwrap_or(f64::NAN)
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample that so great a part of them lies below.
fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// A time in one engine and how certain it is, in nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
struct Time {
    ns: f64,
    /// Whether it is less than the engine's resolution, which `ns` is then.
    below: bool,
    /// By how much it may be wrong.
    doubt: f64,
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let below = if self.below { "<" } else { "" };
        write!(f, "{below}{:.1}", self.ns)
    }
}

impl Time {
    /// How many times as long as another.
    fn ratio(self, other: Time) -> f64 {
        self.ns / other.ns
    }

    fn certainly_above(self, other: Time) -> bool {
        self.ns - self.doubt > other.ns + other.doubt
    }
}

/// The resolution of an engine is what this part of the programs keep below.
const MOST: f64 = 0.9;
/// No resolution is better than this.
const FINEST: f64 = 0.1;
/// How many times as long as in the kernel is worth telling.
const SLOW: f64 = 1.1;

impl Row {
    fn figure(&self, engine: EngineName) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.engine == engine.name())
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
    /// What an engine's figures of a program that takes no time come to, in nine programs of ten.
    #[must_use]
    pub fn resolution(&self, engine: EngineName, best: bool) -> f64 {
        let figures = self.rows.iter().filter_map(|row| row.figure(engine));
        let samples: Vec<f64> = figures.map(|f| f.resolution.shown(best)).collect();
        quantile(&samples, MOST).max(FINEST)
    }

    /// How long an engine takes for a program, by the best rounds or the median ones.
    fn time(&self, row: &Row, engine: EngineName, best: bool) -> Option<Time> {
        let figure = row.figure(engine)?;
        let (shown, resolution) = (figure.shown(best), self.resolution(engine, best));
        Some(Time {
            ns: shown.max(resolution),
            below: shown < resolution,
            doubt: figure.spread.shown(best).max(resolution),
        })
    }

    /// How many times as long `engine` takes as `other`; what is below the resolution counts as that.
    #[must_use]
    pub fn ratio(
        &self,
        row: &Row,
        (engine, other): (EngineName, EngineName),
        best: bool,
    ) -> Option<f64> {
        let other = self.time(row, other, best)?;
        Some(self.time(row, engine, best)?.ratio(other))
    }

    /// The geometric mean of how many times as long `engine` takes as `other`, over the rows that `wanted` takes and
    /// that have both.
    fn mean(
        &self,
        pair: (EngineName, EngineName),
        best: bool,
        wanted: impl Fn(&Row) -> bool,
    ) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| wanted(row));
        let logs: Vec<f64> = rows
            .filter_map(|row| Some(self.ratio(row, pair, best)?.ln()))
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
        self.resolutions(&mut out);
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
            let time = self.time(row, *engine, self.best);
            let shown = time.map_or("-".to_owned(), |time| time.to_string());
            let _ = write!(out, " {shown:>8}");
        }
        let jit = |other| number(self.ratio(row, (EngineName::Jit, other), self.best), 2);
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

    /// Programs that are slower than in the kernel, slowest first: those that certainly are, and those of which the
    /// figures don't tell.
    fn slow(&self, out: &mut String) {
        if !self.engines().contains(&EngineName::Kernel) {
            return;
        }
        let mut slow: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| self.slower(row))
            .collect();
        slow.sort_by(|a, b| b.0.total_cmp(&a.0));
        let list = |certain: bool| {
            let chosen = slow.iter().filter(|slow| slow.2 == certain);
            let names: Vec<_> = chosen
                .map(|(ratio, name, _)| format!("{name} {ratio:.2}"))
                .collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        let _ = writeln!(
            out,
            "\nmore than 10 % slower than the kernel: {}",
            list(true)
        );
        let _ = writeln!(
            out,
            "perhaps, by less than the figures are certain to: {}",
            list(false)
        );
    }

    /// How many times as long as in the kernel, if that is much, and whether it is certain to be longer at all.
    fn slower(&self, row: &Row) -> Option<(f64, &'static str, bool)> {
        let time = |engine| self.time(row, engine, self.best);
        let (jit, kernel) = time(EngineName::Jit).zip(time(EngineName::Kernel))?;
        let ratio = jit.ratio(kernel);
        (ratio > SLOW).then(|| (ratio, row.program, jit.certainly_above(kernel)))
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
            let samples: Vec<f64> = figures.filter_map(|figure| figure.entering).collect();
            (!samples.is_empty()).then(|| format!("{} {:.1}", engine.name(), median(&samples)))
        };
        let all: Vec<String> = self.engines().iter().filter_map(one).collect();
        let _ = writeln!(
            out,
            "entering a program, taken off, in ns (in the kernel the program itself is, once): {}",
            all.join(", ")
        );
    }

    fn resolutions(&self, out: &mut String) {
        let one = |engine: &EngineName| {
            format!(
                "{} {:.1}",
                engine.name(),
                self.resolution(*engine, self.best)
            )
        };
        let all: Vec<String> = self.engines().iter().map(one).collect();
        let _ = writeln!(
            out,
            "resolution, in ns (nothing measured against nothing, nine times of ten): {}",
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
            "ns per packet without entering the program, {} round, one pinned core; compile times in µs an instruction\n\
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

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(engine: EngineName, ns: f64, noise: f64) -> Figure {
        let rounds = |ns: f64| [ns, ns + noise, ns, ns + noise];
        Figure::new(engine, &rounds(ns + 10.0), &rounds(10.0))
    }

    fn report(rows: &[(&'static str, f64, f64)], noise: f64) -> Report {
        let row = |(program, kernel, jit): &(&'static str, f64, f64)| Row {
            program,
            kind: "parse",
            repeats: 8,
            figures: vec![
                figure(EngineName::Kernel, *kernel, noise),
                figure(EngineName::Jit, *jit, noise),
            ],
            wrong: Vec::new(),
            compile: CompileTime {
                instructions: 10,
                analysis_us: 10.0,
                ssa_us: 20.0,
                code_us: 30.0,
                code_bytes: 100,
            },
        };
        Report {
            version: 3,
            machine: Machine {
                cpu: "a".to_owned(),
                cpus: 1,
                kernel: "b".to_owned(),
                busy_before: 0.0,
                busy_after: 0.0,
            },
            best: false,
            clang: None,
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn what_is_below_the_resolution_is_no_figure() {
        let report = report(&[("short", -3.0, 0.5), ("long", 40.0, 60.0)], 1.0);
        let text = report.text();
        let line = |name| {
            text.lines()
                .find(|line| line.starts_with(name))
                .expect(name)
        };
        let words = |name| line(name).split_whitespace().collect::<Vec<_>>();
        assert_eq!(words("short")[1..5], ["<1.0", "<1.0", "-", "1.00"]);
        assert_eq!(words("long")[1..5], ["40.0", "60.0", "-", "1.50"]);
        assert_eq!(words("resolution,")[11..], ["kernel", "1.0,", "jit", "1.0"]);
    }

    #[test]
    fn slower_is_what_is_so_beyond_doubt() {
        let rows = [
            ("long", 40.0, 60.0),
            ("short", 4.0, 5.0),
            ("even", 40.0, 43.0),
        ];
        let text = report(&rows, 1.0).text();
        assert!(
            text.contains("slower than the kernel: long 1.50\n"),
            "{text}"
        );
        assert!(text.contains("certain to: short 1.25\n"), "{text}");
        let text = report(&rows, 0.0).text();
        assert!(
            text.contains("slower than the kernel: long 1.50, short 1.25\n"),
            "{text}"
        );
        assert!(text.contains("certain to: none\n"), "{text}");
    }

    #[test]
    fn halves_are_compared() {
        let baseline = [10.0, 10.5, 10.0, 10.5, 10.0];
        let whole = [30.0, 30.5, 30.0, 30.5, 99.0];
        let figure = Figure::new(EngineName::Jit, &whole, &baseline);
        assert_eq!((figure.ns, figure.best, figure.worst), (20.0, 20.0, 89.0));
        assert_eq!(
            figure.resolution,
            Both {
                median: 0.5,
                best: 0.5
            }
        );
        assert_eq!(
            figure.spread,
            Both {
                median: 0.0,
                best: 0.0
            }
        );
        assert_eq!(figure.entering, Some(10.0));
    }
}

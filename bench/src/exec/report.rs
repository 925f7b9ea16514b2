//! Figures as data and as a table.

use std::fmt::Write;

use serde::Serialize;

use super::measure::Sample;
use crate::Machine;
use crate::engines::EngineName;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub version: u32,
    /// The object's file, or `built-in`.
    pub object: String,
    /// The machine.
    pub machine: Machine,
    /// One row for each case, number of sessions and engine.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kind of traffic.
    pub case: String,
    /// `kernel`, `interp` or `jit`.
    pub engine: &'static str,
    /// Sessions in turn.
    pub sessions: u32,
    /// Median over the rounds.
    pub ns_per_packet: f64,
    /// From the fastest round with the program and the fastest without: what the rest of the machine disturbed
    /// least.
    pub best: f64,
    /// Slowest round.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
    /// How many times faster than the kernel: median over the rounds, each compared with the kernel's beside it.
    pub times_kernel: Option<f64>,
}

impl Row {
    /// Sums up the rounds of one measurement; those of `kernel` took turns with them.
    #[must_use]
    pub fn new(
        case: &str,
        engine: EngineName,
        sessions: u32,
        samples: &[Sample],
        kernel: Option<&[Sample]>,
    ) -> Row {
        let nanos = sorted(samples.iter().map(Sample::nanos));
        let whole = sorted(samples.iter().map(|sample| sample.whole));
        let restoring = sorted(samples.iter().map(|sample| sample.restoring));
        let pairs = kernel.map(|kernel| kernel.iter().zip(samples));
        let times = pairs.map(|pairs| sorted(pairs.map(|(k, own)| k.nanos() / own.nanos())));
        Row {
            case: case.to_owned(),
            engine: engine.name(),
            sessions,
            ns_per_packet: median(&nanos),
            best: at(&whole, 0) - at(&restoring, 0),
            max: at(&nanos, nanos.len().saturating_sub(1)),
            rounds: nanos.len(),
            times_kernel: times.as_deref().map(median),
        }
    }
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn at(sorted: &[f64], index: usize) -> f64 {
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn median(sorted: &[f64]) -> f64 {
    at(sorted, sorted.len() / 2)
}

impl Report {
    /// The table: a line for each case and number of sessions, a column for each engine; medians, then bests.
    #[must_use]
    pub fn text(&self) -> String {
        let engines: Vec<&str> = EngineName::ALL
            .iter()
            .map(|engine| engine.name())
            .filter(|name| self.rows.iter().any(|row| row.engine == *name))
            .collect();
        let ratio = ["kernel", "jit"].iter().all(|name| engines.contains(name));
        let mut out = self
            .machine
            .heading("ns per packet, median and best of rounds", &self.object);
        out.push('\n');
        let mut line = vec![format!("{:<18} {:>8}", "case", "sessions")];
        for best in ["", "best "] {
            line.extend(
                engines
                    .iter()
                    .map(|engine| format!("{:>12}", format!("{best}{engine}"))),
            );
            line.extend(ratio.then(|| format!("{:>11}", "kernel/jit")));
        }
        let _ = writeln!(out, "{}", line.join(" "));
        for first in self.rows.iter().filter(|row| row.engine == engines[0]) {
            let rows: Vec<&Row> = engines
                .iter()
                .filter_map(|name| self.row(first, name))
                .collect();
            let of = |name: &str| rows.iter().find(|row| row.engine == name);
            let times = of("jit").and_then(|row| row.times_kernel);
            let best = of("kernel")
                .zip(of("jit"))
                .map(|(k, jit)| k.best / jit.best);
            let mut line = vec![format!("{:<18} {:>8}", first.case, first.sessions)];
            line.extend(
                rows.iter()
                    .map(|row| format!("{:>12.1}", row.ns_per_packet)),
            );
            line.extend(times.map(|times| format!("{times:>10.2}x")));
            line.extend(rows.iter().map(|row| format!("{:>12.1}", row.best)));
            line.extend(best.map(|best| format!("{best:>10.2}x")));
            let _ = writeln!(out, "{}", line.join(" "));
        }
        out
    }

    fn row(&self, like: &Row, engine: &str) -> Option<&Row> {
        let same = |row: &&Row| {
            row.case == like.case && row.sessions == like.sessions && row.engine == engine
        };
        self.rows.iter().find(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_those_beside_them() {
        let sample = |(whole, restoring)| Sample { whole, restoring };
        // Everything took three times as long in the last round.
        let kernel = [(120.0, 20.0), (119.0, 20.0), (360.0, 60.0)].map(sample);
        let own = [(30.0, 5.0), (30.0, 6.0), (90.0, 15.0)].map(sample);
        let row = Row::new("case", EngineName::Jit, 1, &own, Some(&kernel));
        assert_eq!((row.ns_per_packet, row.best, row.max), (25.0, 25.0, 75.0));
        assert_eq!(row.times_kernel, Some(4.0));
    }
}

//! Figures as data and as a table.

use std::fmt::Write;

use serde::Serialize;

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
    /// Fastest round.
    pub min: f64,
    /// Slowest round.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Row {
    /// Sums up the rounds of one measurement.
    #[must_use]
    pub fn new(case: &str, engine: EngineName, sessions: u32, samples: &[f64]) -> Row {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Row {
            case: case.to_owned(),
            engine: engine.name(),
            sessions,
            ns_per_packet: at(sorted.len() / 2),
            min: at(0),
            max: at(sorted.len().saturating_sub(1)),
            rounds: sorted.len(),
        }
    }
}

impl Report {
    /// The table: a line for each case and number of sessions, a column for each engine.
    #[must_use]
    pub fn text(&self) -> String {
        let engines: Vec<&str> = EngineName::ALL
            .iter()
            .map(|engine| engine.name())
            .filter(|name| self.rows.iter().any(|row| row.engine == *name))
            .collect();
        let mut out = self.heading();
        let _ = write!(out, "{:<20} {:>9}", "case", "sessions");
        for engine in &engines {
            let _ = write!(out, " {engine:>10}");
        }
        let _ = writeln!(out, " {:>12}", "kernel/jit");
        for first in self.rows.iter().filter(|row| row.engine == engines[0]) {
            let _ = write!(out, "{:<20} {:>9}", first.case, first.sessions);
            for engine in &engines {
                let _ = write!(
                    out,
                    " {:>10}",
                    self.figure(first, engine)
                        .map_or("-".into(), |ns| format!("{ns:.1}"))
                );
            }
            let ratio = self
                .figure(first, "kernel")
                .zip(self.figure(first, "jit"))
                .map(|(k, j)| k / j);
            let _ = writeln!(
                out,
                " {:>12}",
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x"))
            );
        }
        out
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let mut out = format!(
            "ns per packet, median of rounds, one pinned core; object {}\n{}, {} CPUs, Linux {}\n",
            self.object, machine.cpu, machine.cpus, machine.kernel
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

    fn figure(&self, like: &Row, engine: &str) -> Option<f64> {
        let same = |row: &&Row| {
            row.case == like.case && row.sessions == like.sessions && row.engine == engine
        };
        self.rows.iter().find(same).map(|row| row.ns_per_packet)
    }
}

//! A program on every frame of a capture, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use squalus_engine::TestRun;
use squalus_isa::Verdict;
use squalus_port::Capture;

use super::dump::MapDump;
use super::loaded::{Loaded, TrapReport};

/// What became of the frames.
#[derive(Default, Serialize)]
pub struct Report {
    frames: u64,
    verdicts: BTreeMap<&'static str, u64>,
    /// Mean of one run in nanoseconds.
    duration: u128,
    traps: Vec<Trapped>,
    /// Frames the engine took not at all.
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maps: Option<Vec<MapDump>>,
}

/// Runs that ended in the same place for the same reason.
#[derive(Serialize)]
struct Trapped {
    count: u64,
    #[serde(flatten)]
    trap: TrapReport,
}

/// Runs `program` on each frame, the whole capture `repeat` times.
///
/// # Errors
/// If the capture cannot be read, or there is no such program.
pub fn run(loaded: &mut Loaded, program: &str, path: &Path, repeat: u32) -> Result<Report> {
    let capture = Capture::read(path)?;
    let mut report = Report::default();
    let mut time = Duration::ZERO;
    for _ in 0..repeat {
        for frame in capture.iter() {
            report.frames += 1;
            match loaded
                .engine()
                .test_run(program, &TestRun::once(frame.bytes))
            {
                Ok(result) => {
                    *report.verdicts.entry(result.verdict().name()).or_default() += 1;
                    time += result.duration;
                    report.count_trap(loaded.trap());
                }
                Err(error @ squalus_engine::EngineError::TestRun { .. }) => {
                    report.refused += 1;
                    report.refusal.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let runs = report.frames - report.refused;
    report.duration = time.as_nanos().checked_div(runs.into()).unwrap_or(0);
    Ok(report)
}

impl Report {
    fn count_trap(&mut self, trap: Option<TrapReport>) {
        let Some(trap) = trap else { return };
        match self.traps.iter_mut().find(|known| known.trap == trap) {
            Some(known) => known.count += 1,
            None => self.traps.push(Trapped { count: 1, trap }),
        }
    }

    /// What did not go as it should, a line each.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        let traps = self.traps.iter();
        let traps = traps.map(|Trapped { count, trap }| format!("{count} times: {trap}"));
        let refusal = self.refusal.iter();
        traps.chain(refusal.map(|reason| format!("{} frames not run: {reason}", self.refused)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} frames", self.frames)?;
        let count = |verdict: &Verdict| self.verdicts.get(verdict.name()).copied();
        let counts = Verdict::ALL
            .iter()
            .filter_map(|v| Some((v.name(), count(v)?)));
        for (verdict, count) in counts {
            writeln!(f, "{verdict:<12} {count}")?;
        }
        writeln!(f, "duration (average): {}ns", self.duration)
    }
}

//! What a report must say of the machine it was made on.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// Facts about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// How many of them.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// Share of all processors that was busy just before, 0 to 1.
    pub busy_before: f64,
    /// The same just after.
    pub busy_after: f64,
}

/// How long to watch how busy the machine is.
const WATCH: Duration = Duration::from_millis(400);

impl Machine {
    /// Looks at the machine before an experiment.
    #[must_use]
    pub fn observe() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cpu: model.unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: release.trim().to_owned(),
            busy_before: busy(),
            busy_after: 0.0,
        }
    }

    /// Looks again after it.
    pub fn observe_after(&mut self) {
        self.busy_after = busy();
    }

    /// What a report begins with: what its figures are, of which object, and on what machine.
    #[must_use]
    pub fn heading(&self, figures: &str, object: &str) -> String {
        let Machine {
            cpu, cpus, kernel, ..
        } = self;
        let (before, after) = (self.busy_before * 100.0, self.busy_after * 100.0);
        let warning = match self.was_idle() {
            true => "",
            false => ": THE MACHINE WAS NOT IDLE, look at the best rounds only",
        };
        format!(
            "{figures}, one pinned core; object {object}\n{cpu}, {cpus} CPUs, Linux {kernel}\n\
             other load: {before:.0} % before, {after:.0} % after{warning}\n"
        )
    }

    /// Whether anything else ran worth mentioning.
    #[must_use]
    pub fn was_idle(&self) -> bool {
        self.busy_before < 0.1 && self.busy_after < 0.1
    }
}

/// Share of processor time that was not idle over a moment in which this process sleeps.
fn busy() -> f64 {
    let before = jiffies();
    std::thread::sleep(WATCH);
    let after = jiffies();
    let (total, idle) = (
        after.0.saturating_sub(before.0),
        after.1.saturating_sub(before.1),
    );
    if total == 0 {
        0.0
    } else {
        1.0 - idle as f64 / total as f64
    }
}

/// All and idle time since boot.
fn jiffies() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    let idle = fields.get(3).unwrap_or(&0) + fields.get(4).unwrap_or(&0);
    (fields.iter().take(8).sum(), idle)
}

//! What workers show to other threads.
//!
//! Every number is written by one worker and read by anybody: plain stores and loads, no locks, and numbers
//! of one moment only as far as it does not matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use squalus_isa::Verdict;
use squalus_port::{PortInfo, PortState, PortStats};
use squalus_runtime::TrapReason;
use squalus_vm::WorkerStats;

/// What a worker does and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its number, which is its CPU in per-CPU maps.
    pub number: u32,
    /// The core it was to be pinned to.
    pub core: Option<usize>,
    /// Whether the system let it.
    pub pinned: bool,
    /// Whether its thread runs.
    pub running: bool,
    /// Frames by verdict.
    pub verdicts: Vec<(Verdict, u64)>,
    /// Aborted runs by reason; only reasons that occurred.
    pub aborts: Vec<(TrapReason, u64)>,
    /// Its ports.
    pub lanes: Vec<LaneReport>,
}

/// What a port of a worker does and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// What the port is.
    pub info: PortInfo,
    /// Its counters.
    pub stats: PortStats,
    /// Whether it works.
    pub state: PortState,
    /// Frames shorter than an Ethernet header, dropped before any program ran.
    pub runts: u64,
    /// Frames with verdict `XDP_REDIRECT`, dropped because there is nowhere to redirect to here.
    pub redirects: u64,
}

/// Where a worker writes.
#[derive(Debug)]
pub(crate) struct Board {
    number: u32,
    core: Option<usize>,
    vm: Arc<WorkerStats>,
    lanes: Vec<Arc<LaneBoard>>,
    pub(crate) pinned: AtomicBool,
    pub(crate) running: AtomicBool,
}

/// Where a worker writes about one port.
#[derive(Debug)]
pub(crate) struct LaneBoard {
    info: PortInfo,
    stats: [AtomicU64; STATS],
    state: AtomicI64,
    pub(crate) runts: AtomicU64,
    pub(crate) redirects: AtomicU64,
}

impl Board {
    pub(crate) fn new(
        number: u32,
        core: Option<usize>,
        vm: Arc<WorkerStats>,
        lanes: Vec<Arc<LaneBoard>>,
    ) -> Board {
        Board {
            number,
            core,
            vm,
            lanes,
            pinned: AtomicBool::new(false),
            running: AtomicBool::new(true),
        }
    }

    pub(crate) fn core(&self) -> Option<usize> {
        self.core
    }

    pub(crate) fn infos(&self) -> Vec<PortInfo> {
        self.lanes.iter().map(|lane| lane.info.clone()).collect()
    }

    pub(crate) fn report(&self) -> WorkerReport {
        let verdicts = Verdict::ALL.map(|verdict| (verdict, self.vm.verdict(verdict)));
        let aborts = TrapReason::ALL
            .iter()
            .map(|reason| (*reason, self.vm.trap(*reason)));
        WorkerReport {
            number: self.number,
            core: self.core,
            pinned: self.pinned.load(Relaxed),
            running: self.running.load(Relaxed),
            verdicts: verdicts.to_vec(),
            aborts: aborts.filter(|(_, count)| *count > 0).collect(),
            lanes: self.lanes.iter().map(|lane| lane.report()).collect(),
        }
    }
}

impl LaneBoard {
    pub(crate) fn new(info: PortInfo) -> LaneBoard {
        LaneBoard {
            info,
            stats: Default::default(),
            state: AtomicI64::new(UP),
            runts: AtomicU64::new(0),
            redirects: AtomicU64::new(0),
        }
    }

    pub(crate) fn publish(&self, stats: &PortStats, state: PortState) {
        for (cell, value) in self.stats.iter().zip(to_array(stats)) {
            cell.store(value, Relaxed);
        }
        self.state.store(encode(state), Relaxed);
    }

    fn report(&self) -> LaneReport {
        let values = std::array::from_fn(|n| self.stats[n].load(Relaxed));
        LaneReport {
            info: self.info.clone(),
            stats: from_array(values),
            state: decode(self.state.load(Relaxed)),
            runts: self.runts.load(Relaxed),
            redirects: self.redirects.load(Relaxed),
        }
    }
}

const UP: i64 = 0;
const FINISHED: i64 = -1;

/// A state as a number: 0, -1, or the error number.
fn encode(state: PortState) -> i64 {
    match state {
        PortState::Up => UP,
        PortState::Finished => FINISHED,
        PortState::Failed(errno) => errno.into(),
    }
}

fn decode(state: i64) -> PortState {
    match state {
        UP => PortState::Up,
        FINISHED => PortState::Finished,
        errno => PortState::Failed(errno as i32),
    }
}

/// Number of counters in [`PortStats`].
const STATS: usize = 10;

fn to_array(stats: &PortStats) -> [u64; STATS] {
    let PortStats {
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        passed,
        rx_dropped,
        rx_too_long,
        tx_dropped,
        tx_too_long,
        pass_dropped,
    } = *stats;
    [
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        passed,
        rx_dropped,
        rx_too_long,
        tx_dropped,
        tx_too_long,
        pass_dropped,
    ]
}

fn from_array(values: [u64; STATS]) -> PortStats {
    let [
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        passed,
        rx_dropped,
        rx_too_long,
        tx_dropped,
        tx_too_long,
        pass_dropped,
    ] = values;
    PortStats {
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        passed,
        rx_dropped,
        rx_too_long,
        tx_dropped,
        tx_too_long,
        pass_dropped,
    }
}

/// Adds to a counter that only the calling thread writes.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_reads_back() {
        let stats = from_array(std::array::from_fn(|n| n as u64 + 1));
        assert_eq!(to_array(&stats), std::array::from_fn(|n| n as u64 + 1));
        for state in [PortState::Up, PortState::Finished, PortState::Failed(100)] {
            assert_eq!(decode(encode(state)), state);
        }
    }
}

//! What workers show to other threads.
//!
//! Every number is written by one worker and read by anybody: plain stores and loads, no locks, and numbers
//! of one moment only as far as it does not matter.

use std::fmt;
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
    /// Runs that a failed check ended, by reason; only reasons that occurred.
    pub aborts: Vec<(TrapReason, u64)>,
    /// Runs that ended with `XDP_ABORTED` because the program said so.
    pub aborted_by_program: u64,
    /// Runs that returned a number which is no verdict, and so ended with `XDP_ABORTED`.
    pub unknown_verdicts: u64,
    /// Redirected frames that got where they were to go; a frame for several interfaces counts with each.
    pub redirected: u64,
    /// Redirected frames that did not, by reason; only reasons that occurred.
    pub redirect_drops: Vec<(RedirectDrop, u64)>,
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
    /// Frames too long for one piece, dropped because the program does not take fragments (its section is not
    /// `xdp.frags`).
    pub fragmented: u64,
}

/// Where a worker writes.
#[derive(Debug)]
pub(crate) struct Board {
    number: u32,
    core: Option<usize>,
    vm: Arc<WorkerStats>,
    redirects: Arc<RedirectBoard>,
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
    pub(crate) fragmented: AtomicU64,
}

/// Why a redirected frame did not get anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectDrop {
    /// The program named no target, or a map had none that takes the frame.
    NoTarget,
    /// There is no such interface (`EINVAL` in the kernel).
    NoInterface,
    /// The interface was not open yet; it is being opened.
    NotOpen,
    /// The interface is down (`ENETDOWN`).
    Down,
    /// The frame is longer than the interface's MTU allows (`EMSGSIZE`).
    TooLong,
    /// The interface did not take it: its queue is full, or it refuses.
    Refused,
    /// The program of the map's entry dropped it.
    Program,
    /// The program of the map's entry aborted, or gave a verdict that is none there.
    Aborted,
    /// Nobody reads the socket.
    NoConsumer,
    /// There was no free frame for a copy.
    NoMemory,
    /// Programs of cpumap entries redirected it in a circle.
    Loop,
}

impl RedirectDrop {
    /// All reasons.
    pub const ALL: [RedirectDrop; 11] = [
        RedirectDrop::NoTarget,
        RedirectDrop::NoInterface,
        RedirectDrop::NotOpen,
        RedirectDrop::Down,
        RedirectDrop::TooLong,
        RedirectDrop::Refused,
        RedirectDrop::Program,
        RedirectDrop::Aborted,
        RedirectDrop::NoConsumer,
        RedirectDrop::NoMemory,
        RedirectDrop::Loop,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RedirectDrop::NoTarget => "no_target",
            RedirectDrop::NoInterface => "no_interface",
            RedirectDrop::NotOpen => "not_open_yet",
            RedirectDrop::Down => "interface_down",
            RedirectDrop::TooLong => "too_long",
            RedirectDrop::Refused => "refused",
            RedirectDrop::Program => "egress_program",
            RedirectDrop::Aborted => "egress_aborted",
            RedirectDrop::NoConsumer => "no_consumer",
            RedirectDrop::NoMemory => "no_memory",
            RedirectDrop::Loop => "loop",
        }
    }

    /// What a verdict other than `XDP_PASS` means where a frame is about to leave.
    pub(crate) fn of_program(verdict: Verdict) -> RedirectDrop {
        match verdict {
            Verdict::Drop => RedirectDrop::Program,
            _ => RedirectDrop::Aborted,
        }
    }
}

impl fmt::Display for RedirectDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a worker counts what became of redirected frames.
#[derive(Debug, Default)]
pub(crate) struct RedirectBoard {
    sent: AtomicU64,
    drops: [AtomicU64; RedirectDrop::ALL.len()],
}

impl RedirectBoard {
    pub(crate) fn sent(&self, count: u64) {
        add(&self.sent, count);
    }

    pub(crate) fn count(&self, why: RedirectDrop, count: u64) {
        add(&self.drops[why as usize], count);
    }
}

impl Board {
    pub(crate) fn new(
        number: u32,
        core: Option<usize>,
        vm: Arc<WorkerStats>,
        lanes: Vec<Arc<LaneBoard>>,
        redirects: Arc<RedirectBoard>,
    ) -> Board {
        Board {
            number,
            core,
            vm,
            redirects,
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
        let trapped: u64 = TrapReason::ALL.iter().map(|r| self.vm.trap(*r)).sum();
        let unknown = self.vm.unknown_verdicts();
        let drops = RedirectDrop::ALL.map(|why| {
            let count = self.redirects.drops[why as usize].load(Relaxed);
            (why, count)
        });
        WorkerReport {
            number: self.number,
            core: self.core,
            pinned: self.pinned.load(Relaxed),
            running: self.running.load(Relaxed),
            verdicts: verdicts.to_vec(),
            aborts: aborts.filter(|(_, count)| *count > 0).collect(),
            aborted_by_program: self
                .vm
                .verdict(Verdict::Aborted)
                .saturating_sub(trapped + unknown),
            unknown_verdicts: unknown,
            redirected: self.redirects.sent.load(Relaxed),
            redirect_drops: drops.into_iter().filter(|(_, n)| *n > 0).collect(),
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
            fragmented: AtomicU64::new(0),
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
            fragmented: self.fragmented.load(Relaxed),
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
    fn reasons_are_listed_by_their_numbers() {
        for (n, why) in RedirectDrop::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
        }
    }

    #[test]
    fn what_is_published_reads_back() {
        let stats = from_array(std::array::from_fn(|n| n as u64 + 1));
        assert_eq!(to_array(&stats), std::array::from_fn(|n| n as u64 + 1));
        for state in [PortState::Up, PortState::Finished, PortState::Failed(100)] {
            assert_eq!(decode(encode(state)), state);
        }
    }
}

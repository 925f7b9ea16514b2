//! The data plane's side: one worker per thread, bursts of frames, nothing shared but maps and code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use squalus_interp::Interp;
use squalus_isa::Verdict;
use squalus_jit::{Lookahead, Outcomes};
use squalus_maps::{Cursor, Target};
use squalus_runtime::{Due, Env, FrameRef, Timers, Trap, TrapReason};

use crate::Destination;
use crate::shared::Shared;

/// Frames of a burst whose destinations are remembered.
const REMEMBERED: usize = 64;

/// What a worker did so far. Written by the worker alone; read from any thread.
#[derive(Debug, Default)]
pub struct WorkerStats {
    verdicts: [AtomicU64; Verdict::ALL.len()],
    traps: [AtomicU64; TrapReason::COUNT],
    unknown: AtomicU64,
}

impl WorkerStats {
    /// How many frames got this verdict.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize].load(Relaxed)
    }

    /// How many runs ended for this reason; they count as [`Verdict::Aborted`] too.
    #[must_use]
    pub fn trap(&self, reason: TrapReason) -> u64 {
        self.traps[reason as usize].load(Relaxed)
    }

    /// How many runs returned a number that is no verdict; they count as [`Verdict::Aborted`] too.
    #[must_use]
    pub fn unknown_verdicts(&self) -> u64 {
        self.unknown.load(Relaxed)
    }

    /// How many runs there were.
    #[must_use]
    pub fn runs(&self) -> u64 {
        Verdict::ALL.iter().map(|v| self.verdict(*v)).sum()
    }
}

/// Adds to a cell that only this thread writes.
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed) + more, Relaxed);
}

/// What the runs of a burst returned, on its way to the [`WorkerStats`].
#[derive(Default)]
struct Tally {
    verdicts: [u64; Verdict::ALL.len()],
    unknown: u64,
}

impl Tally {
    /// Counts a run that returned `value`.
    #[inline]
    fn verdict(&mut self, value: u64) -> Verdict {
        let verdict = Verdict::known(value).unwrap_or_else(|| {
            self.unknown += 1;
            Verdict::Aborted
        });
        self.verdicts[verdict as usize] += 1;
        verdict
    }

    fn add_to(&self, stats: &WorkerStats) {
        for (cell, more) in stats.verdicts.iter().zip(self.verdicts) {
            add(cell, more);
        }
        add(&stats.unknown, self.unknown);
    }
}

/// Runs one program on one thread. It has a CPU number of its own, hence its own values in per-CPU maps.
///
/// From a worker's first burst on, memory that the control plane frees waits for its next one: a worker
/// that goes to wait for frames must [`Worker::pause`] first.
pub struct Worker {
    shared: Arc<Shared>,
    runs: Runs,
    quiescence: squalus_maps::Worker,
    paused: bool,
    entry: usize,
    destinations: [Destination; REMEMBERED],
}

/// What running programs takes, whichever engine does it.
struct Runs {
    env: Box<Env>,
    interp: Interp,
    lookahead: Lookahead,
    stats: Arc<WorkerStats>,
    last_trap: Option<Trap>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("program", &self.shared.programs[self.entry].name())
            .field("env", &self.runs.env)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker with number `cpu` that runs program `entry`; both were checked.
    pub(crate) fn new(shared: &Arc<Shared>, cpu: u32, entry: usize) -> Worker {
        let quiescence = shared.map_env.reclaimer.register();
        quiescence.pause();
        let mut interp = Interp::new();
        interp.check_facts(Arc::clone(&shared.checked_facts));
        Worker {
            shared: Arc::clone(shared),
            runs: Runs {
                env: Box::new(shared.env(cpu)),
                interp,
                lookahead: Lookahead::default(),
                stats: Arc::default(),
                last_trap: None,
            },
            quiescence,
            paused: true,
            entry,
            destinations: [Destination::Nowhere; REMEMBERED],
        }
    }

    /// The first claim of the analysis that a run found to be false, see [`crate::VmBuilder::check_facts`].
    pub(crate) fn false_fact(&self) -> Option<&str> {
        self.runs.interp.false_fact()
    }

    /// Begins a test run of program `entry`.
    pub(crate) fn begin(&mut self, entry: usize) {
        self.entry = entry;
        self.runs.last_trap = None;
    }

    /// Whether the program takes frames in fragments (its section is `xdp.frags`). An interface must not give
    /// others any ([`FrameRef::has_fragments`]); test runs do, as the kernel's.
    #[must_use]
    pub fn takes_fragments(&self) -> bool {
        self.shared.fragments.get(self.entry) == Some(&true)
    }

    /// Sets the interface and queue that frames come from, as programs see them.
    pub fn set_ingress(&mut self, ifindex: u32, queue: u32) {
        self.runs.env.ingress_ifindex = ifindex;
        self.runs.env.rx_queue_index = queue;
    }

    /// Sets the interface that frames are about to leave by, as the program of a devmap entry sees it; 0 for
    /// programs that run where frames come in.
    pub fn set_egress(&mut self, ifindex: u32) {
        self.runs.env.egress_ifindex = ifindex;
    }

    /// Where frame `n` of the last burst was redirected to; meaningful with verdict `XDP_REDIRECT`, and for
    /// the first 64 frames of a burst.
    #[must_use]
    pub fn redirect(&self, n: usize) -> Destination {
        self.destinations.get(n).copied().unwrap_or_default()
    }

    /// Runs the program on each frame and writes each verdict to the same place. Returns how many frames
    /// that were: the shorter length of the two.
    ///
    /// Neither allocates nor locks nor panics. Between bursts it lets go of everything in maps.
    pub fn run_burst(&mut self, frames: &mut [FrameRef<'_>], verdicts: &mut [Verdict]) -> usize {
        self.wake();
        self.run_due();
        let done = frames.len().min(verdicts.len());
        let (frames, verdicts) = (&mut frames[..done], &mut verdicts[..done]);
        let mut tally = Tally::default();
        let (entry, destinations) = (self.entry, &mut self.destinations);
        let each = |n: usize, value| verdicts[n] = tally.verdict(value);
        self.runs
            .each(&self.shared, entry, frames, destinations, each);
        tally.add_to(&self.runs.stats);
        self.rest();
        done
    }

    /// Runs another program of the machine, by its number, on one frame: that of a devmap or cpumap entry
    /// which the frame was redirected to. It counts as a burst of one, and in no verdict's counter.
    pub fn run_program(&mut self, program: u32, frame: &mut FrameRef<'_>) -> Verdict {
        if program as usize >= self.shared.programs.len() {
            return Verdict::Aborted;
        }
        self.wake();
        let (shared, destinations) = (&self.shared, &mut self.destinations);
        let value = self.runs.one(shared, program as usize, frame, destinations);
        self.rest();
        Verdict::from_return(value)
    }

    /// The next device of a map that a frame was redirected to the whole of: its interface and its program.
    /// `cursor` begins as the default.
    pub fn next_device(&self, map: u32, cursor: &mut Cursor) -> Option<(u32, Option<u32>)> {
        let mut maps = self.shared.maps.iter();
        let map = maps.find(|candidate| candidate.id() == map)?;
        match map.next_device(cursor)? {
            Target::Device { ifindex, program } => Some((ifindex, program)),
            Target::Cpu { .. } | Target::Socket { .. } => None,
        }
    }

    /// Runs the program on one frame and returns its whole `r0`; 0 (`XDP_ABORTED`) if a check failed.
    pub fn run(&mut self, frame: &mut FrameRef<'_>) -> u64 {
        self.repeat(frame, 1)
    }

    /// Runs the program `repeat` times on the same frame, in bursts; returns the last `r0`.
    pub(crate) fn repeat(&mut self, frame: &mut FrameRef<'_>, repeat: u32) -> u64 {
        const BURST: u32 = 64;
        self.wake();
        self.run_due();
        let mut value = 0;
        let mut left = repeat;
        while left != 0 {
            self.wake();
            let burst = left.min(BURST);
            let mut tally = Tally::default();
            for _ in 0..burst {
                let (shared, destinations) = (&self.shared, &mut self.destinations);
                value = self.runs.one(shared, self.entry, frame, destinations);
                tally.verdict(value);
            }
            tally.add_to(&self.runs.stats);
            self.rest();
            left -= burst;
        }
        value
    }

    /// Runs the timers of map values that are due, as each burst does first; returns how many. Who waits
    /// long for frames calls it meanwhile.
    pub fn run_timers(&mut self) -> usize {
        self.wake();
        let done = self.run_due();
        self.rest();
        done
    }

    fn run_due(&mut self) -> usize {
        /// Most in one go, so that timers that set themselves anew let frames pass.
        const MOST: usize = 64;
        let env = &self.runs.env;
        let timers = env.timers.as_ref().filter(|timers| timers.is_due(env));
        let Some(timers) = timers.map(Arc::clone) else {
            return 0;
        };
        let mut done = 0;
        while done < MOST
            && let Some(due) = timers.take_due(&self.runs.env)
        {
            self.runs.timer(&self.shared, &timers, &due);
            done += 1;
        }
        done
    }

    /// What this worker counts.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.runs.stats)
    }

    /// The last run that was ended by a failed check.
    #[must_use]
    pub fn last_trap(&self) -> Option<&Trap> {
        self.runs.last_trap.as_ref()
    }

    /// Says that this worker runs nothing until its next burst. Call before sleeping.
    pub fn pause(&mut self) {
        self.quiescence.pause();
        self.paused = true;
    }

    /// Says that this worker holds nothing, between two bursts. Where code is taken out of use while others wait, it
    /// says so for as long as the next burst has not come.
    #[inline]
    fn rest(&mut self) {
        if self.shared.special.is_some() {
            self.pause();
        } else {
            self.quiescence.quiescent();
        }
    }

    fn wake(&mut self) {
        if self.paused {
            self.quiescence.resume();
            self.paused = false;
        }
        self.runs.env.fib.refresh();
        self.runs.env.burst_time = 0;
    }
}

impl Runs {
    /// Runs program `entry` on each frame and gives `each` the frame's number and `r0`: 0 (`XDP_ABORTED`) if the run
    /// was ended. If `r0` is `XDP_REDIRECT`, the frame is told where it goes, and so is its place in `destinations`.
    ///
    /// The worker whose runs these are must be awake.
    #[inline]
    fn each(
        &mut self,
        shared: &Shared,
        entry: usize,
        frames: &mut [FrameRef<'_>],
        destinations: &mut [Destination],
        each: impl FnMut(usize, u64),
    ) {
        let (env, stats) = (&mut *self.env, &*self.stats);
        let last_trap = &mut self.last_trap;
        let mut hearer = Hearer {
            entry,
            stats,
            last_trap,
            destinations,
            each,
        };
        if let Some(code) = &shared.code {
            let lookahead = &mut self.lookahead;
            // SAFETY: this worker is registered with the maps' reclaimer; its callers woke it, and let no
            // quiescent point pass before this returns.
            unsafe {
                code.get()
                    .run_burst(entry, env, lookahead, frames, &mut hearer);
            }
            return;
        }
        for (n, frame) in frames.iter_mut().enumerate() {
            // SAFETY: as above.
            let result = unsafe { self.interp.run(&shared.programs, entry, env, frame) };
            let value = result.unwrap_or_else(|trap| {
                hearer.trap(trap);
                0
            });
            hearer.returned(n, frame, env, value);
        }
    }

    /// Runs program `entry` on one frame and returns `r0`, as [`Runs::each`].
    fn one(
        &mut self,
        shared: &Shared,
        entry: usize,
        frame: &mut FrameRef<'_>,
        destinations: &mut [Destination],
    ) -> u64 {
        let mut value = 0;
        let frames = std::slice::from_mut(frame);
        let each = |_, returned| value = returned;
        self.each(shared, entry, frames, destinations, each);
        value
    }

    /// Runs the callback of a timer. The worker must be awake.
    fn timer(&mut self, shared: &Shared, timers: &Timers, due: &Due) {
        if let Some(code) = &shared.code {
            // SAFETY: as in `each`.
            unsafe { code.get().run_timer(&mut self.env, timers, due) };
        } else {
            // SAFETY: as in `each`.
            let result = unsafe {
                let (programs, env) = (&shared.programs, &mut self.env);
                self.interp.run_timer(programs, env, timers, due)
            };
            self.last_trap = result.err().or(self.last_trap.take());
        }
        if let Some(reason) = self.env.trap_reason() {
            add(&self.stats.traps[reason as usize], 1);
        }
    }
}

/// Hears of the runs of a burst.
struct Hearer<'r, F> {
    entry: usize,
    stats: &'r WorkerStats,
    last_trap: &'r mut Option<Trap>,
    destinations: &'r mut [Destination],
    each: F,
}

impl<F> Hearer<'_, F> {
    fn trap(&mut self, trap: Trap) {
        add(&self.stats.traps[trap.reason as usize], 1);
        *self.last_trap = Some(trap);
    }

    /// Notes where a frame goes. Out of the way of those that go nowhere.
    #[inline(never)]
    fn redirected(&mut self, n: usize, frame: &mut FrameRef<'_>, env: &Env) {
        frame.set_redirect(env.redirect);
        if let Some(place) = self.destinations.get_mut(n) {
            *place = Destination::of(frame);
        }
    }
}

impl<F: FnMut(usize, u64)> Outcomes for Hearer<'_, F> {
    #[cold]
    fn trapped(&mut self, env: &Env) {
        self.trap(native_trap(env, self.entry));
    }

    #[inline]
    fn returned(&mut self, n: usize, frame: &mut FrameRef<'_>, env: &Env, value: u64) {
        if value as u32 == Verdict::Redirect as u32 {
            self.redirected(n, frame, env);
        }
        (self.each)(n, value);
    }
}

/// Compiled code keeps no registers for us, and of tail calls only the last.
fn native_trap(env: &Env, program: usize) -> Trap {
    let program = match env.next_program {
        Env::NO_PROGRAM => program,
        last => last as usize,
    };
    Trap {
        // Only these numbers are ever stored.
        reason: env.trap_reason().unwrap_or(TrapReason::Unsupported),
        program,
        slot: env.trap_slot as usize,
        registers: [0; 11],
    }
}

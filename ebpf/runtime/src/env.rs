//! What a running program can reach besides its maps: one [`Env`] per worker.

use core::mem::offset_of;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use crate::{
    Clock, FibReader, Frame, FramePlace, Held, LentKeys, Redirect, Rng, Timers, TraceLog,
    TrapReason,
};

/// Most tail calls in one run (`MAX_TAIL_CALL_CNT`).
pub const MAX_TAIL_CALLS: u32 = 33;
/// Bytes of stack that each program or subprogram has.
pub const STACK_SIZE: usize = 512;
/// Most nested subprogram calls, the program itself included (`MAX_CALL_FRAMES`).
pub const MAX_CALL_FRAMES: usize = 8;
/// Most frames that are open at once in a run. A tail call in a subprogram replaces its frame alone, by a program that
/// may make as many calls as any other.
pub const MAX_OPEN_FRAMES: usize =
    MAX_TAIL_CALLS as usize * (MAX_CALL_FRAMES - 1) + MAX_CALL_FRAMES;
/// How many instructions a run may execute unless told otherwise.
pub const DEFAULT_BUDGET: u64 = 10_000_000;

/// State of one worker while it runs programs.
///
/// Generated code addresses it by the `OFFSET_*` constants; helpers get a pointer to it as their first
/// argument. What every run reads or sets is in the first two cache lines.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Env {
    /// The frame being processed, which lies where whoever wants it processed has it.
    frame: FramePlace,
    /// CPU number the program sees, and index of per-CPU values.
    pub cpu: u32,
    /// NUMA node the program sees.
    pub numa_node: u32,
    /// A [`TrapReason`] as a number, or 0.
    pub trap: u32,
    /// Tail calls made in this run.
    pub tail_calls: u32,
    /// Slot of the instruction that trapped.
    pub trap_slot: u32,
    /// Index of the program a tail call goes to, or [`Env::NO_PROGRAM`]. Compiled code that made a tail
    /// call returns with this set; whoever started it then runs that program.
    pub next_program: u32,
    /// Instructions (or, in compiled code, loop iterations) left in this run.
    pub budget: u64,
    /// What [`Env::begin`] refills the budget with.
    pub budget_per_run: u64,
    /// The timer whose callback runs, or 0.
    pub(crate) timer: u64,
    /// Interface the frame came in by.
    pub ingress_ifindex: u32,
    /// Receive queue the frame came in by.
    pub rx_queue_index: u32,
    /// Interface the frame leaves by; 0 unless the program runs on the way out.
    pub egress_ifindex: u32,
    /// Where a frame with verdict `XDP_REDIRECT` goes: what the last redirect of this run chose.
    pub redirect: Redirect,
    /// What this run holds and must give back.
    pub held: Held,
    /// Free for an engine's own use.
    pub scratch: [u64; 8],
    /// Source of `bpf_get_prandom_u32`.
    pub rng: Rng,
    /// Whether `bpf_ktime_get_ns` tells the same time throughout a burst.
    pub time_per_burst: bool,
    /// That time once it was asked for, else 0. Whoever starts a burst sets it to 0.
    pub burst_time: u64,
    /// Text that programs write with `bpf_trace_printk`.
    pub trace: Arc<TraceLog>,
    /// Routes that programs ask for. Without any, lookups find no interface.
    pub fib: FibReader,
    /// Key of SYN cookies and of what stands for addresses in text. [`Env::new`] takes the process's own, so
    /// that all workers agree; set it to replay a run.
    pub secret: [u64; 2],
    /// Source of time.
    pub clock: Clock,
    /// Keys that callbacks were lent.
    pub keys: LentKeys,
    /// The machine's timers, if its maps have any.
    pub timers: Option<Arc<Timers>>,
}

impl Env {
    /// Value of [`Env::next_program`] while no tail call is under way.
    pub const NO_PROGRAM: u32 = u32::MAX;

    /// Offset of the frame's address.
    pub const OFFSET_FRAME: usize = offset_of!(Env, frame);
    /// Offsets from here on are of the [`Frame`], wherever that is; the environment has none so large.
    pub const FRAME: usize = 1 << 16;
    /// Offset of [`Frame`]'s `data`.
    pub const OFFSET_DATA: usize = Env::FRAME + Frame::OFFSET_DATA;
    /// Offset of [`Frame`]'s `data_end`.
    pub const OFFSET_DATA_END: usize = Env::FRAME + Frame::OFFSET_DATA_END;
    /// Offset of [`Frame`]'s `data_meta`.
    pub const OFFSET_DATA_META: usize = Env::FRAME + Frame::OFFSET_DATA_META;
    /// Offset of the number of the packet's bytes in fragments.
    pub const OFFSET_REST: usize = Env::FRAME + Frame::OFFSET_REST;
    /// Offset of [`Env::ingress_ifindex`].
    pub const OFFSET_INGRESS_IFINDEX: usize = offset_of!(Env, ingress_ifindex);
    /// Offset of [`Env::rx_queue_index`].
    pub const OFFSET_RX_QUEUE_INDEX: usize = offset_of!(Env, rx_queue_index);
    /// Offset of [`Env::egress_ifindex`].
    pub const OFFSET_EGRESS_IFINDEX: usize = offset_of!(Env, egress_ifindex);
    /// Offset of [`Env::cpu`].
    pub const OFFSET_CPU: usize = offset_of!(Env, cpu);
    /// Offset of [`Env::numa_node`].
    pub const OFFSET_NUMA_NODE: usize = offset_of!(Env, numa_node);
    /// Offset of [`Env::tail_calls`].
    pub const OFFSET_TAIL_CALLS: usize = offset_of!(Env, tail_calls);
    /// Offset of [`Env::trap`].
    pub const OFFSET_TRAP: usize = offset_of!(Env, trap);
    /// Offset of [`Env::trap_slot`].
    pub const OFFSET_TRAP_SLOT: usize = offset_of!(Env, trap_slot);
    /// Offset of [`Env::next_program`].
    pub const OFFSET_NEXT_PROGRAM: usize = offset_of!(Env, next_program);
    /// Offset of [`Env::budget`].
    pub const OFFSET_BUDGET: usize = offset_of!(Env, budget);
    /// Offset of [`Env::budget_per_run`].
    pub const OFFSET_BUDGET_PER_RUN: usize = offset_of!(Env, budget_per_run);
    /// Of the budget of a run, the part that is left as a shift when `may_goto` begins to jump: enough for what
    /// follows the loop.
    pub const LOW_BUDGET_SHIFT: u32 = 4;
    /// Offset of [`Env::scratch`].
    pub const OFFSET_SCRATCH: usize = offset_of!(Env, scratch);
    /// Offset of [`Env::burst_time`].
    pub const OFFSET_BURST_TIME: usize = offset_of!(Env, burst_time);
    /// Offset of [`Frame`]'s `hard_start`.
    pub const OFFSET_HARD_START: usize = Env::FRAME + Frame::OFFSET_HARD_START;
    /// Offset of [`Env::redirect`].
    pub const OFFSET_REDIRECT: usize = offset_of!(Env, redirect);
    /// Offset of [`Env::rng`].
    pub const OFFSET_RNG: usize = offset_of!(Env, rng);

    /// Offset of the address of the spin lock that the run holds, 0 if none.
    pub const OFFSET_LOCK: usize = offset_of!(Env, held) + Held::OFFSET_LOCK;

    /// The environment of worker `cpu`, with no frame yet and interface 1, as in the kernel's test run.
    #[must_use]
    pub fn new(cpu: u32, clock: Clock, rng: Rng) -> Env {
        Env {
            frame: FramePlace::NOWHERE,
            cpu,
            numa_node: 0,
            trap: 0,
            trap_slot: 0,
            tail_calls: 0,
            next_program: Env::NO_PROGRAM,
            budget: DEFAULT_BUDGET,
            budget_per_run: DEFAULT_BUDGET,
            timer: 0,
            ingress_ifindex: 1,
            rx_queue_index: 0,
            egress_ifindex: 0,
            redirect: Redirect::Nowhere,
            held: Held::NOTHING,
            scratch: [0; 8],
            rng,
            time_per_burst: false,
            burst_time: 0,
            trace: Arc::new(TraceLog::new()),
            fib: FibReader::default(),
            secret: process_secret(),
            clock,
            keys: LentKeys::new(),
            timers: None,
        }
    }

    /// Prepares the next run: takes its frame and forgets what the last run left.
    #[inline]
    pub fn begin(&mut self, frame: FramePlace) {
        self.begin_next(frame);
        self.forget();
        self.timer = 0;
    }

    /// Prepares the next run of the same kind, if the last one ended plainly or was forgotten: of what [`Env::begin`] sets,
    /// only this can have changed.
    #[inline]
    pub fn begin_next(&mut self, frame: FramePlace) {
        self.frame = frame;
        self.budget = self.budget_per_run;
        self.redirect = Redirect::Nowhere;
    }

    /// The frame being processed.
    ///
    /// # Safety
    /// During a run only, whose frame must be live and changed by nobody else for as long as the reference.
    #[must_use]
    pub unsafe fn frame(&self) -> &Frame {
        // SAFETY: the caller's.
        unsafe { &*self.frame.address() }
    }

    /// The same, to change.
    ///
    /// # Safety
    /// As [`Env::frame`], and nobody else may use it at all.
    pub unsafe fn frame_mut(&mut self) -> &mut Frame {
        // SAFETY: the caller's.
        unsafe { &mut *self.frame.address() }
    }

    /// Where the frame being processed is.
    #[inline]
    #[must_use]
    pub const fn frame_place(&self) -> FramePlace {
        self.frame
    }

    /// Forgets why the last run was ended, and its tail calls.
    #[inline]
    pub fn forget(&mut self) {
        self.trap = 0;
        self.tail_calls = 0;
        self.trap_slot = 0;
        self.next_program = Env::NO_PROGRAM;
    }

    /// Whether the run was neither ended by a failed check nor made a tail call, so that the next one may be prepared by
    /// [`Env::begin_next`].
    #[inline]
    #[must_use]
    pub const fn ended_plainly(&self) -> bool {
        self.trap | self.tail_calls == 0
    }

    /// Ends a run: gives back what it still holds. Each [`Env::begin`] needs one.
    ///
    /// # Safety
    /// The maps that the run used must be alive: call it before the worker's next quiescent point.
    #[inline]
    pub unsafe fn end(&mut self) {
        if !self.held.is_empty() {
            // SAFETY: the caller's.
            unsafe { self.held.give_back() };
        }
    }

    /// Whether `may_goto` jumps: loops have used up nearly all that a run may execute.
    #[must_use]
    pub const fn is_budget_low(&self) -> bool {
        self.budget <= self.budget_per_run >> Env::LOW_BUDGET_SHIFT
    }

    /// Why the last run was ended, if it was.
    #[must_use]
    pub fn trap_reason(&self) -> Option<TrapReason> {
        TrapReason::from_code(self.trap)
    }
}

/// What every run sets is in the first two lines, and so is what nearly every program reads.
const _: () = {
    assert!(offset_of!(Env, redirect) < 128);
    assert!(size_of::<Env>() <= Env::FRAME);
};

/// Random, the same for the whole process.
fn process_secret() -> [u64; 2] {
    static SECRET: OnceLock<[u64; 2]> = OnceLock::new();
    *SECRET.get_or_init(|| {
        let random = RandomState::new();
        [random.hash_one(0u8), random.hash_one(1u8)]
    })
}

//! The packet loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arrayvec::ArrayVec;
use squalus_isa::Verdict;
use squalus_port::{BURST, Burst, Frame, Pool, Port, PortState};
use squalus_runtime::{FrameRef, RESERVED_TAIL, TEST_RUN_PAGE};
use squalus_vm::Destination;

use crate::PortAndPool;
use crate::redirect::{Place, Redirector};
use crate::report::{Board, LaneBoard, add};

/// Shortest frame a program gets: an Ethernet header.
const ETHERNET: usize = 14;

/// Bursts between two looks at a port's counters, which may take system calls.
const PUBLISH_EVERY: u32 = 1024;

/// What a worker does when no frames come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Asks again at once: the shortest latency, for a core of its own.
    Spin,
    /// Asks some times more, then sleeps until frames come.
    Wait {
        /// How often to ask in vain before sleeping.
        spins: u32,
        /// The longest sleep, after which a request to stop is seen.
        timeout: Duration,
    },
}

impl Default for Idle {
    fn default() -> Self {
        Idle::Wait {
            spins: 50,
            timeout: Duration::from_millis(20),
        }
    }
}

/// A port of a worker, and its frames.
pub(crate) struct Lane {
    port: Box<dyn Port>,
    pool: Pool,
    ingress: (u32, u32),
    board: Arc<LaneBoard>,
}

impl Lane {
    pub(crate) fn new((port, pool): PortAndPool) -> Lane {
        let info = port.info();
        Lane {
            ingress: (info.ifindex.unwrap_or(0), info.queue),
            board: Arc::new(LaneBoard::new(info.clone())),
            port,
            pool,
        }
    }

    pub(crate) fn board(&self) -> Arc<LaneBoard> {
        Arc::clone(&self.board)
    }

    fn publish(&mut self) {
        self.board.publish(&self.port.stats(), self.port.state());
    }
}

/// A worker before and during its run.
pub(crate) struct Worker {
    vm: squalus_vm::Worker,
    lanes: Vec<Lane>,
    bursts: Bursts,
    redirector: Redirector,
    idle: Idle,
    stop: Arc<AtomicBool>,
    board: Arc<Board>,
}

/// Frames on their way.
#[derive(Default)]
struct Bursts {
    received: Burst,
    send: Burst,
    pass: Burst,
    redirect: Burst,
    /// Of each frame in `redirect`.
    targets: ArrayVec<Target, BURST>,
}

/// Where a frame is redirected to, and how much metadata it carries.
#[derive(Clone, Copy)]
struct Target {
    to: Destination,
    meta_len: usize,
}

/// What a program left of a frame.
#[derive(Clone, Copy)]
struct Outcome {
    verdict: Verdict,
    start: usize,
    len: usize,
    meta_len: usize,
}

impl Worker {
    pub(crate) fn new(
        vm: squalus_vm::Worker,
        lanes: Vec<Lane>,
        redirector: Redirector,
        idle: Idle,
        stop: Arc<AtomicBool>,
        board: Arc<Board>,
    ) -> Worker {
        Worker {
            vm,
            lanes,
            bursts: Bursts::default(),
            redirector,
            idle,
            stop,
            board,
        }
    }

    /// Forwards until told to stop, or until all ports have come to their end.
    pub(crate) fn run(mut self) {
        if let Some(id) = self.board.core() {
            let pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
            self.board.pinned.store(pinned, Relaxed);
        }
        self.forward();
        self.vm.pause();
        self.lanes.iter_mut().for_each(Lane::publish);
        self.board.running.store(false, Relaxed);
    }

    fn forward(&mut self) {
        let (mut vain, mut unpublished) = (0_u32, 0_u32);
        while !self.stop.load(Relaxed) {
            let mut received = 0;
            for lane in &mut self.lanes {
                let bursts = &mut self.bursts;
                received += forward_burst(&mut self.vm, lane, bursts, &mut self.redirector);
            }
            unpublished += 1;
            if received > 0 {
                vain = 0;
                if unpublished >= PUBLISH_EVERY {
                    unpublished = 0;
                    self.lanes.iter_mut().for_each(Lane::publish);
                }
                continue;
            }
            // Bursts run what is due by themselves.
            self.vm.run_timers();
            vain = vain.saturating_add(1);
            if vain == 1 {
                unpublished = 0;
                self.lanes.iter_mut().for_each(Lane::publish);
            }
            if self.is_finished() {
                return;
            }
            self.wait(vain);
        }
    }

    fn is_finished(&self) -> bool {
        let finished = |lane: &Lane| lane.port.state() == PortState::Finished;
        self.lanes.iter().all(finished)
    }

    /// Sleeps, if it is time to. With several ports it may not sleep on one for long.
    fn wait(&mut self, vain: u32) {
        let (spins, timeout) = match self.idle {
            Idle::Spin => {
                std::hint::spin_loop();
                return;
            }
            Idle::Wait { spins, timeout } => (spins, timeout),
        };
        if vain < spins {
            std::hint::spin_loop();
            return;
        }
        self.vm.pause();
        match &mut self.lanes[..] {
            [only] => drop(only.port.wait(timeout)),
            several => {
                for lane in several {
                    if lane.port.wait(Duration::from_millis(1)) {
                        return;
                    }
                }
            }
        }
    }
}

/// Receives a burst, runs the program on it and does what it says; returns how many frames that were.
fn forward_burst(
    vm: &mut squalus_vm::Worker,
    lane: &mut Lane,
    bursts: &mut Bursts,
    redirector: &mut Redirector,
) -> usize {
    let received = lane.port.recv(&mut lane.pool, &mut bursts.received);
    if received == 0 {
        return 0;
    }
    let limits = Limits::of(vm, &lane.pool);
    if bursts.received.iter().any(|frame| limits.refuse(frame)) {
        drop_unfit(lane, bursts, limits);
    }
    let (ifindex, queue) = lane.ingress;
    vm.set_ingress(ifindex, queue);
    let outcomes = run_burst(vm, &mut lane.pool, &mut bursts.received);
    dispatch(vm, lane, bursts, &outcomes);
    if !bursts.redirect.is_empty() {
        redirect(vm, lane, bursts, redirector);
    }
    if !bursts.send.is_empty() {
        lane.port.send(&mut lane.pool, &mut bursts.send);
    }
    if !bursts.pass.is_empty() {
        lane.port.pass(&mut lane.pool, &mut bursts.pass);
    }
    received
}

/// Runs the program on each frame in place; each frame's range is what the program left.
fn run_burst(vm: &mut squalus_vm::Worker, pool: &mut Pool, burst: &mut Burst) -> [Outcome; BURST] {
    let mut verdicts = [Verdict::Aborted; BURST];
    let mut outcomes = [Outcome {
        verdict: Verdict::Aborted,
        start: 0,
        len: 0,
        meta_len: 0,
    }; BURST];
    {
        let chunks = pool.chunks_mut(burst).zip(burst.iter());
        // What does not fit is gone, so every frame becomes a reference, at its own place.
        let mut frames: ArrayVec<FrameRef<'_>, BURST> = chunks
            .filter_map(|(chunk, frame)| {
                FrameRef::fragmented(chunk, frame.start(), frame.len()).ok()
            })
            .collect();
        vm.run_burst(&mut frames, &mut verdicts);
        for ((outcome, frame), verdict) in outcomes.iter_mut().zip(&frames).zip(verdicts) {
            *outcome = Outcome {
                verdict,
                start: frame.data_offset(),
                len: frame.len(),
                meta_len: frame.metadata().len(),
            };
        }
    }
    for (frame, outcome) in burst.iter_mut().zip(&outcomes) {
        // The program's range lies in the chunk, so this does not fail.
        let _ = pool.set_range(frame, outcome.start, outcome.len);
    }
    outcomes
}

/// Sorts the received frames by verdict; frees those that go nowhere.
fn dispatch(
    vm: &squalus_vm::Worker,
    lane: &mut Lane,
    bursts: &mut Bursts,
    outcomes: &[Outcome; BURST],
) {
    for (n, (frame, outcome)) in bursts.received.drain().zip(outcomes).enumerate() {
        let refused = match outcome.verdict {
            Verdict::Tx => bursts.send.push(frame).err(),
            Verdict::Pass => bursts.pass.push(frame).err(),
            Verdict::Drop | Verdict::Aborted => Some(frame),
            Verdict::Redirect => {
                bursts.targets.push(Target {
                    to: vm.redirect(n),
                    meta_len: outcome.meta_len,
                });
                bursts.redirect.push(frame).err()
            }
        };
        if let Some(frame) = refused {
            lane.pool.free(frame);
        }
    }
}

/// Takes the redirected frames where they are to go.
fn redirect(
    vm: &mut squalus_vm::Worker,
    lane: &mut Lane,
    bursts: &mut Bursts,
    redirector: &mut Redirector,
) {
    let (ifindex, queue) = lane.ingress;
    // Programs of map entries are not told the queue.
    vm.set_ingress(ifindex, 0);
    let mut place = Place {
        vm,
        pool: &mut lane.pool,
        pass: &mut bursts.pass,
        ingress: ifindex,
    };
    for (frame, target) in bursts.redirect.drain().zip(bursts.targets.drain(..)) {
        redirector.redirect(&mut place, frame, target.meta_len, target.to);
    }
    redirector.flush(&mut lane.pool);
    vm.set_ingress(ifindex, queue);
}

/// Which frames the program can be given.
#[derive(Clone, Copy)]
struct Limits {
    longest_end: usize,
}

impl Limits {
    /// Where chunks are longer than the kernel's page, a frame may be one that the kernel would hold in
    /// fragments, which not all programs take.
    fn of(vm: &squalus_vm::Worker, pool: &Pool) -> Limits {
        let all = pool.chunk_size() <= TEST_RUN_PAGE || vm.takes_fragments();
        Limits {
            longest_end: if all {
                usize::MAX
            } else {
                TEST_RUN_PAGE - RESERVED_TAIL
            },
        }
    }

    fn refuse(self, frame: &Frame) -> bool {
        frame.len() < ETHERNET || frame.start() + frame.len() > self.longest_end
    }
}

/// Frees and counts frames that the program can't be given, keeping the order of the others.
fn drop_unfit(lane: &mut Lane, bursts: &mut Bursts, limits: Limits) {
    for frame in bursts.received.drain() {
        let refused = match limits.refuse(&frame) {
            true => {
                let counter = match frame.len() < ETHERNET {
                    true => &lane.board.runts,
                    false => &lane.board.fragmented,
                };
                add(counter, 1);
                Some(frame)
            }
            false => bursts.send.push(frame).err(),
        };
        if let Some(frame) = refused {
            lane.pool.free(frame);
        }
    }
    std::mem::swap(&mut bursts.received, &mut bursts.send);
}

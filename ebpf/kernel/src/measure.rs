//! How long a program takes per packet, in the kernel, also if it changes the packet.
//!
//! `BPF_PROG_TEST_RUN` repeats a program on whatever frame the repetition before left: one that
//! encapsulates would soon work on garbage or run out of headroom. So the program measured here is a
//! small *driver*, which in each repetition
//!
//! 1. takes the next of the given frames from a map,
//! 2. brings the packet's start back to where it was at first, and its end to the frame's length,
//! 3. copies the frame into the packet,
//! 4. tail-calls the program of interest.
//!
//! The same driver is measured with a program that only returns `XDP_TX` in that place. The difference
//! is the program's own time (and the little that undoing its changes costs: `adjust_head` and
//! `adjust_tail` are called in both cases, but in one of them have something to do).
//!
//! What the processor still does for a packet when the driver goes on to the next one is not in the figure: some ten
//! nanoseconds, in which a short program disappears. Such a program shows only several times in a row, compared with
//! once ([`KernelEngine::stopwatch_between`]).
//!
//! The clock is the thread's own: it leaves out the time in which the thread was not running, also the
//! tens of milliseconds that setting up a repeated run waits. The kernel's clock would too, but reports whole
//! nanoseconds a packet, which is too coarse for small programs. The little that setting up computes is the
//! same for both programs, and goes with the difference.
//!
//! The start of the packet cannot be known from lengths alone, since a program may move either end. The
//! driver therefore stores the packet's address in a map and reads it back as a number, which the
//! verifier allows the privileged.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use squalus_isa::{
    Errno, HelperId, INSN_SIZE, Insn, MapDef, MapType, UpdateFlags, Verdict, opcode as o,
};

use crate::load::{LoadedProgram, load_xdp};
use crate::maps::create_map;
use crate::sys::{self, MapExtras, MapFd, Pinned, XdpLoad};
use crate::{KernelEngine, KernelError};

/// The longest frame that can be measured, in bytes.
pub const MAX_MEASURED_FRAME: usize = CHUNK * 24;
/// The driver copies this many bytes at once; packets are padded to it meanwhile.
const CHUNK: usize = 64;
/// How often each of the two programs is measured unless told otherwise; the result is the median.
const ROUNDS: usize = 7;

/// The driver's state: five 64-bit numbers in the only value of a map.
mod state {
    pub(super) const NEXT: i16 = 0;
    pub(super) const HOME: i16 = 8;
    pub(super) const SCRATCH: i16 = 16;
    pub(super) const COUNT: i16 = 24;
    pub(super) const FAILED: i16 = 32;
    pub(super) const SIZE: usize = 40;
}

/// A program's time per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Nanoseconds per repetition of the driver with the program, one number a round.
    pub with_program: Vec<f64>,
    /// Nanoseconds per repetition of the driver with an empty program, measured in between.
    pub with_nothing: Vec<f64>,
    /// The program's verdict on the last frame it saw.
    pub verdict: Verdict,
}

impl Measured {
    /// Nanoseconds that the program takes per packet: median with it minus median without.
    #[must_use]
    pub fn nanos(&self) -> f64 {
        median(&self.with_program) - median(&self.with_nothing)
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl KernelEngine {
    /// Measures `program` over `frames` in turn, `repeat` packets a round, on one CPU. A hundred thousand
    /// packets and more give steady numbers.
    ///
    /// The program changes its maps as it would on real packets.
    ///
    /// # Errors
    /// If there is no such program, there are no frames or one is too long, the privilege is lacking
    /// (storing packet addresses needs `CAP_PERFMON` or root), or the program leaves packets that the
    /// driver cannot restore (shorter than an Ethernet header, say).
    pub fn measure(
        &self,
        program: &str,
        frames: &[Vec<u8>],
        repeat: u32,
        cpu: u32,
    ) -> Result<Measured, KernelError> {
        self.measure_rounds(program, frames, repeat, cpu, ROUNDS)
    }

    /// [`KernelEngine::measure`] with another number of rounds, for who takes turns with other engines.
    ///
    /// # Errors
    /// As [`KernelEngine::measure`].
    pub fn measure_rounds(
        &self,
        program: &str,
        frames: &[Vec<u8>],
        repeat: u32,
        cpu: u32,
        rounds: usize,
    ) -> Result<Measured, KernelError> {
        let mut stopwatch = self.stopwatch(program, frames)?;
        let _pinned = Pinned::to(cpu).map_err(|errno| KernelError::System {
            what: "pinning the measuring thread",
            errno,
        })?;
        let mut measured = Measured {
            with_program: Vec::with_capacity(rounds),
            with_nothing: Vec::with_capacity(rounds),
            verdict: Verdict::Aborted,
        };
        for _ in 0..rounds {
            let round = stopwatch.round(repeat)?;
            measured.with_nothing.push(round.baseline);
            measured.with_program.push(round.with_program);
            measured.verdict = round.verdict;
        }
        Ok(measured)
    }

    /// Readies the measuring of `program` over `frames` in turn, for who wants to choose when each round is.
    ///
    /// # Errors
    /// As [`KernelEngine::measure`].
    pub fn stopwatch(
        &self,
        program: &str,
        frames: &[Vec<u8>],
    ) -> Result<Stopwatch<'_>, KernelError> {
        check(frames)?;
        let program = self.program(program)?;
        let nothing = load("sq_empty", program, &empty())?;
        Stopwatch::new(program, Baseline::Empty(nothing), frames)
    }

    /// As [`KernelEngine::stopwatch`], with `baseline`, another program of the object, in place of the empty one.
    ///
    /// # Errors
    /// As [`KernelEngine::measure`].
    pub fn stopwatch_between(
        &self,
        baseline: &str,
        program: &str,
        frames: &[Vec<u8>],
    ) -> Result<Stopwatch<'_>, KernelError> {
        check(frames)?;
        let baseline = Baseline::Loaded(self.program(baseline)?);
        Stopwatch::new(self.program(program)?, baseline, frames)
    }
}

/// One round of a [`Stopwatch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Nanoseconds per repetition of the driver with the program.
    pub with_program: f64,
    /// Nanoseconds per repetition of the driver with the empty program, or what stands for it, measured just before.
    pub baseline: f64,
    /// The program's verdict on the last frame it saw.
    pub verdict: Verdict,
}

fn check(frames: &[Vec<u8>]) -> Result<(), KernelError> {
    const MIN: usize = 14;
    if frames.is_empty() {
        return Err(KernelError::Measure("no frames given".to_owned()));
    }
    let unfit = |frame: &&Vec<u8>| !(MIN..=MAX_MEASURED_FRAME).contains(&frame.len());
    match frames.iter().find(unfit) {
        None => Ok(()),
        Some(frame) => Err(KernelError::Measure(format!(
            "a frame has {} bytes; frames of {MIN} to {MAX_MEASURED_FRAME} can be measured",
            frame.len()
        ))),
    }
}

/// What a program is compared with.
enum Baseline<'a> {
    Empty(OwnedFd),
    Loaded(&'a LoadedProgram),
}

impl AsRawFd for Baseline<'_> {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Baseline::Empty(fd) => fd.as_raw_fd(),
            Baseline::Loaded(program) => program.fd.as_raw_fd(),
        }
    }
}

/// The driver of one program, its maps, and what the program is compared with.
pub struct Stopwatch<'a> {
    program: &'a LoadedProgram,
    baseline: Baseline<'a>,
    driver: OwnedFd,
    state: MapFd,
    targets: MapFd,
    /// Held so that the driver's map stays: the kernel has copied the frames.
    _frames: MapFd,
    first: Vec<u8>,
    /// How many frames there are, and which is next.
    count: u64,
    next: u64,
}

impl std::fmt::Debug for Stopwatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopwatch")
            .field("program", &self.program.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Stopwatch<'a> {
    fn new(
        program: &'a LoadedProgram,
        baseline: Baseline<'a>,
        frames: &[Vec<u8>],
    ) -> Result<Stopwatch<'a>, KernelError> {
        let state = array("sq_state", MapType::Array, state::SIZE, 1)?;
        let targets = array("sq_targets", MapType::ProgArray, 4, 1)?;
        let chunks = frames
            .iter()
            .map(|frame| frame.len().div_ceil(CHUNK))
            .max()
            .unwrap_or(1);
        // A frame in the map: its length (eight bytes), then the bytes, as long as the longest frame.
        let size = 8 + chunks * CHUNK;
        let stored = array("sq_frames", MapType::Array, size, frames.len())?;
        let mut value = vec![0; size];
        for (index, frame) in (0u32..).zip(frames) {
            value[..8].copy_from_slice(&(frame.len() as u64).to_ne_bytes());
            value[8..8 + frame.len()].copy_from_slice(frame);
            stored
                .update(&index.to_ne_bytes(), &value, UpdateFlags::ANY)
                .map_err(system("storing the frames"))?;
        }
        Ok(Stopwatch {
            program,
            baseline,
            driver: load(
                "sq_driver",
                program,
                &driver(&state, &stored, &targets, chunks),
            )?,
            state,
            targets,
            _frames: stored,
            first: frames[0].clone(),
            count: frames.len() as u64,
            next: 0,
        })
    }

    /// Measures `repeat` packets, beginning with the frame after the last one of the round before. The calling
    /// thread should stay on one CPU meanwhile.
    ///
    /// # Errors
    /// As [`KernelEngine::measure`].
    pub fn round(&mut self, repeat: u32) -> Result<Round, KernelError> {
        let repeat = repeat.max(1);
        let (baseline, _) = self.run(self.baseline.as_raw_fd(), repeat)?;
        let (with_program, verdict) = self.run(self.program.fd.as_raw_fd(), repeat)?;
        self.next = (self.next + u64::from(repeat)) % self.count;
        Ok(Round {
            with_program,
            baseline,
            verdict,
        })
    }

    /// Runs the driver on the program with this descriptor: nanoseconds per packet, last verdict.
    fn run(&self, target: RawFd, repeat: u32) -> Result<(f64, Verdict), KernelError> {
        let zero = 0u32.to_ne_bytes();
        let mut fresh = [0; state::SIZE];
        for (at, value) in [(state::NEXT, self.next), (state::COUNT, self.count)] {
            fresh[at as usize..][..8].copy_from_slice(&value.to_ne_bytes());
        }
        let set = |map: &MapFd, value: &[u8]| {
            map.update(&zero, value, UpdateFlags::ANY)
                .map_err(system("setting up the driver"))
        };
        set(&self.state, &fresh)?;
        set(&self.targets, &target.to_ne_bytes())?;
        let mut output = vec![0; 2 * crate::MAX_TEST_FRAME];
        let start = sys::thread_nanos();
        let done = sys::prog_test_run(self.driver.as_fd(), &self.first, repeat, &mut output)
            .map_err(system("running the driver"))?;
        let nanos = (sys::thread_nanos() - start) as f64;
        self.require_success(repeat)?;
        let verdict = Verdict::from_return(done.retval.into());
        Ok((nanos / f64::from(repeat), verdict))
    }

    fn require_success(&self, repeat: u32) -> Result<(), KernelError> {
        let value = self.state.lookup(&0u32.to_ne_bytes());
        let value = value.map_err(system("reading the driver's state"))?;
        let failed = state::FAILED as usize;
        let field = value.as_deref().and_then(|v| v[failed..].first_chunk());
        match field.map(|bytes| u64::from_ne_bytes(*bytes)) {
            Some(0) => Ok(()),
            Some(failed) => Err(KernelError::Measure(format!(
                "in {failed} of {repeat} repetitions the frame could not be restored: \
                 the program cuts packets too short, or uses up all room around them"
            ))),
            None => Err(KernelError::Measure(
                "the driver's state is gone".to_owned(),
            )),
        }
    }
}

fn system(what: &'static str) -> impl Fn(Errno) -> KernelError {
    move |errno| KernelError::System { what, errno }
}

fn array(name: &str, kind: MapType, value: usize, entries: usize) -> Result<MapFd, KernelError> {
    let def = MapDef::new(name, kind, (4, value as u32), entries as u32);
    create_map(&def, MapExtras::default(), 1)
}

/// Loads a helper program of the same kind as `like`, so that tail calls between the two are allowed.
fn load(
    name: &str,
    like: &LoadedProgram,
    insns: &[[u8; INSN_SIZE]],
) -> Result<OwnedFd, KernelError> {
    load_xdp(&XdpLoad {
        name,
        insns,
        license: c"Dual MIT/GPL",
        attach_type: like.attach_type,
        flags: like.flags,
        ifindex: 0,
        btf: None,
    })
}

/// `return XDP_TX`.
fn empty() -> Vec<[u8; INSN_SIZE]> {
    let mut asm = Assembler::default();
    asm.mov_imm(R0, Verdict::Tx as i32);
    asm.exit();
    asm.finish(&[])
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const CTX: u8 = 6;
const STATE: u8 = 7;
const FRAME: u8 = 8;
const LEN: u8 = 9;
const FP: u8 = 10;
/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
/// Jump targets of the driver.
const FAIL: usize = 0;
const END: usize = 1;
const COPIED: usize = 2;

/// The driver; see the module's documentation.
fn driver(state: &MapFd, frames: &MapFd, targets: &MapFd, chunks: usize) -> Vec<[u8; INSN_SIZE]> {
    let mut asm = Assembler::default();
    let mut labels = [0; 3];
    asm.mov(CTX, R1);
    asm.store_imm(o::W, FP, -4, 0);
    asm.lookup(state, -4);
    asm.jump_imm(o::JEQ, R0, 0, END);
    asm.mov(STATE, R0);
    next_frame(&mut asm, frames);
    restore_start(&mut asm);
    pad_to_chunks(&mut asm);
    copy(&mut asm, chunks);
    labels[COPIED] = asm.here();
    cut_to_length(&mut asm);
    asm.mov(R1, CTX);
    asm.load_map(R2, targets);
    asm.mov_imm(R3, 0);
    asm.call(HelperId::TAIL_CALL);
    labels[FAIL] = asm.here();
    asm.load(o::DW, R1, STATE, state::FAILED);
    asm.alu_imm(o::ADD, R1, 1);
    asm.store(o::DW, STATE, state::FAILED, R1);
    labels[END] = asm.here();
    asm.mov_imm(R0, Verdict::Aborted as i32);
    asm.exit();
    asm.finish(&labels)
}

/// `FRAME` = the frame at `state.next`, which advances; `LEN` = its length.
fn next_frame(asm: &mut Assembler, frames: &MapFd) {
    asm.load(o::DW, R1, STATE, state::NEXT);
    asm.store(o::W, FP, -4, R1);
    asm.alu_imm(o::ADD, R1, 1);
    asm.load(o::DW, R2, STATE, state::COUNT);
    asm.skip_if(o::JLT, R1, R2, 1);
    asm.mov_imm(R1, 0);
    asm.store(o::DW, STATE, state::NEXT, R1);
    asm.lookup(frames, -4);
    asm.jump_imm(o::JEQ, R0, 0, FAIL);
    asm.mov(FRAME, R0);
    asm.load(o::DW, LEN, FRAME, 0);
}

/// Moves the packet's start back to the address it had in the first repetition.
fn restore_start(asm: &mut Assembler) {
    asm.load(o::W, R1, CTX, DATA);
    asm.store(o::DW, STATE, state::SCRATCH, R1);
    asm.load(o::DW, R1, STATE, state::SCRATCH);
    asm.load(o::DW, R2, STATE, state::HOME);
    asm.skip_if_not_zero(R2, 2);
    asm.store(o::DW, STATE, state::HOME, R1);
    asm.mov(R2, R1);
    asm.alu(o::SUB, R2, R1);
    asm.mov(R1, CTX);
    asm.call(HelperId::XDP_ADJUST_HEAD);
    asm.jump_imm(o::JNE, R0, 0, FAIL);
}

/// Makes the packet as long as the frame rounded up to whole chunks.
fn pad_to_chunks(asm: &mut Assembler) {
    asm.load(o::W, R1, CTX, DATA);
    asm.load(o::W, R3, CTX, DATA_END);
    asm.alu(o::SUB, R3, R1);
    asm.mov(R2, LEN);
    asm.alu_imm(o::ADD, R2, CHUNK as i32 - 1);
    asm.alu_imm(o::AND, R2, -(CHUNK as i32));
    asm.alu(o::SUB, R2, R3);
    asm.mov(R1, CTX);
    asm.call(HelperId::XDP_ADJUST_TAIL);
    asm.jump_imm(o::JNE, R0, 0, FAIL);
}

fn copy(asm: &mut Assembler, chunks: usize) {
    asm.load(o::W, R1, CTX, DATA);
    asm.load(o::W, R2, CTX, DATA_END);
    for chunk in 0..chunks {
        let start = (chunk * CHUNK) as i16;
        asm.mov(R3, R1);
        asm.alu_imm(o::ADD, R3, i32::from(start) + CHUNK as i32);
        asm.jump(o::JGT, R3, R2, COPIED);
        for at in (start..start + CHUNK as i16).step_by(8) {
            asm.load(o::DW, R4, FRAME, 8 + at);
            asm.store(o::DW, R1, at, R4);
        }
    }
}

fn cut_to_length(asm: &mut Assembler) {
    asm.alu(o::SUB, R2, R1);
    asm.mov(R3, LEN);
    asm.alu(o::SUB, R3, R2);
    asm.mov(R2, R3);
    asm.mov(R1, CTX);
    asm.call(HelperId::XDP_ADJUST_TAIL);
    asm.jump_imm(o::JNE, R0, 0, FAIL);
}

/// Collects instructions; jumps to labels are resolved at the end.
#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    jumps: Vec<(usize, usize)>,
}

impl Assembler {
    fn here(&self) -> usize {
        self.insns.len()
    }

    fn push(&mut self, op: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn {
            op,
            dst,
            src,
            off,
            imm,
        });
    }

    fn mov(&mut self, dst: u8, src: u8) {
        self.alu(o::MOV, dst, src);
    }

    fn mov_imm(&mut self, dst: u8, imm: i32) {
        self.alu_imm(o::MOV, dst, imm);
    }

    fn alu(&mut self, op: u8, dst: u8, src: u8) {
        self.push(o::ALU64 | op | o::X, dst, src, 0, 0);
    }

    fn alu_imm(&mut self, op: u8, dst: u8, imm: i32) {
        self.push(o::ALU64 | op | o::K, dst, 0, 0, imm);
    }

    fn load(&mut self, size: u8, dst: u8, base: u8, off: i16) {
        self.push(o::LDX | o::MEM | size, dst, base, off, 0);
    }

    fn store(&mut self, size: u8, base: u8, off: i16, src: u8) {
        self.push(o::STX | o::MEM | size, base, src, off, 0);
    }

    fn store_imm(&mut self, size: u8, base: u8, off: i16, imm: i32) {
        self.push(o::ST | o::MEM | size, base, 0, off, imm);
    }

    fn load_map(&mut self, dst: u8, map: &MapFd) {
        let fd = map.as_fd().as_raw_fd();
        self.push(o::LD_IMM64, dst, o::PSEUDO_MAP_FD, 0, fd);
        self.push(0, 0, 0, 0, 0);
    }

    /// `r0 = map_lookup_elem(map, fp + key)`.
    fn lookup(&mut self, map: &MapFd, key: i16) {
        self.load_map(R1, map);
        self.mov(R2, FP);
        self.alu_imm(o::ADD, R2, key.into());
        self.call(HelperId::MAP_LOOKUP_ELEM);
    }

    fn call(&mut self, helper: HelperId) {
        self.push(o::JMP | o::CALL, 0, 0, 0, helper.0.cast_signed());
    }

    fn exit(&mut self) {
        self.push(o::JMP | o::EXIT, 0, 0, 0, 0);
    }

    fn jump(&mut self, cond: u8, dst: u8, src: u8, label: usize) {
        self.jumps.push((self.here(), label));
        self.push(o::JMP | cond | o::X, dst, src, 0, 0);
    }

    fn jump_imm(&mut self, cond: u8, dst: u8, imm: i32, label: usize) {
        self.jumps.push((self.here(), label));
        self.push(o::JMP | cond | o::K, dst, 0, 0, imm);
    }

    fn skip_if(&mut self, cond: u8, dst: u8, src: u8, slots: i16) {
        self.push(o::JMP | cond | o::X, dst, src, slots, 0);
    }

    fn skip_if_not_zero(&mut self, dst: u8, slots: i16) {
        self.push(o::JMP | o::JNE | o::K, dst, 0, slots, 0);
    }

    /// The encoded program, its jumps pointing at `labels`.
    fn finish(mut self, labels: &[usize]) -> Vec<[u8; INSN_SIZE]> {
        for (at, label) in std::mem::take(&mut self.jumps) {
            let offset = labels[label] as i64 - at as i64 - 1;
            self.insns[at].off = offset as i16;
        }
        self.insns.iter().map(|insn| insn.to_bytes()).collect()
    }
}

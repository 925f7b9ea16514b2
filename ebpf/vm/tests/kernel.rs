//! The kernel as judge: the same instructions through `BPF_PROG_TEST_RUN` and through the machine.
//!
//! Programs here need no maps, so that two system calls suffice.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use squalus_engine::{Engine, TestRun};
use squalus_isa::{HelperId, Insn, MemSize, disassemble, opcode as o};
use squalus_runtime::Rng;
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{EngineKind, VmBuilder};

const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const TYPE_XDP: u32 = 6;

/// The two uses of `union bpf_attr`, padded with zeros to a size every kernel since 4.17 takes.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    rest: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    result: u32,
    len_in: u32,
    len_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 4],
}

fn bpf<T>(command: i64, attr: &mut T) -> std::io::Result<i64> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a bpf_attr of that size, whose pointers lead to live buffers of the stated lengths.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result)
}

/// Loads a program; the error carries the verifier's log.
fn load(code: &[Insn]) -> Result<OwnedFd, (std::io::Error, String)> {
    let bytes: Vec<u8> = code.iter().flat_map(|insn| insn.to_bytes()).collect();
    let mut log = vec![0u8; 1 << 20];
    let mut attr = Load {
        kind: TYPE_XDP,
        count: code.len() as u32,
        code: bytes.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr().addr() as u64,
        ..Load::default()
    };
    match bpf(PROG_LOAD, &mut attr) {
        // SAFETY: the kernel just gave us this descriptor.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Err((error, String::from_utf8_lossy(&log[..end]).into_owned()))
        }
    }
}

fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> (u32, Vec<u8>) {
    let mut out = vec![0u8; 4096];
    let mut attr = Run {
        program: program.as_raw_fd() as u32,
        len_in: frame.len() as u32,
        len_out: out.len() as u32,
        data_in: frame.as_ptr().addr() as u64,
        data_out: out.as_mut_ptr().addr() as u64,
        repeat,
        ..Run::default()
    };
    bpf(PROG_TEST_RUN, &mut attr).expect("the kernel runs what it loaded");
    out.truncate(attr.len_out as usize);
    (attr.result, out)
}

fn may_use_bpf() -> bool {
    let mut code = Asm::new();
    code.mov(0, 0).exit();
    match load(&code.finish()) {
        Ok(_) => true,
        Err((error, _)) => {
            eprintln!("SKIPPED: no comparison with the kernel: bpf(2) says {error}");
            false
        }
    }
}

const BOTH: &[EngineKind] = &[EngineKind::Interp, EngineKind::Jit];

/// Runs `code` everywhere and compares results and frames.
fn compare(code: &[Insn], frame: &[u8], repeat: u32) {
    compare_with(BOTH, code, frame, repeat);
}

fn compare_with(kinds: &[EngineKind], code: &[Insn], frame: &[u8], repeat: u32) {
    let text = || disassemble(code).unwrap();
    let program = load(code).unwrap_or_else(|(error, log)| panic!("{error}\n{}\n{log}", text()));
    let (want, want_frame) = run(&program, frame, repeat);
    for &kind in kinds {
        let programs = vec![("main".to_owned(), code.to_vec())];
        let mut vm = VmBuilder::assembled(Vec::new(), programs)
            .engine(kind)
            .build()
            .unwrap();
        let test = TestRun {
            frame,
            repeat,
            cpu: 0,
        };
        let got = vm.test_run("main", &test).unwrap();
        let name = kind.name();
        assert!(
            vm.last_trap(0).is_none(),
            "{name}: {}\n{}",
            vm.last_trap(0).unwrap(),
            text()
        );
        assert_eq!(got.return_value, want, "{name}: return value\n{}", text());
        assert_eq!(got.frame, want_frame, "{name}: frame\n{}", text());
    }
}

fn frame() -> Vec<u8> {
    (0..64u8).map(|n| n.wrapping_mul(37)).collect()
}

#[test]
fn the_packets_limits_are_the_kernels() {
    if !may_use_bpf() {
        return;
    }
    let one = |helper, delta: i32| {
        let mut code = Asm::new();
        code.mov(2, delta).call(helper).exit();
        compare(&code.finish(), &frame(), 1);
    };
    for delta in [
        0,
        -1,
        1,
        -216,
        -217,
        50,
        51,
        64,
        65,
        -256,
        i32::MAX,
        i32::MIN,
    ] {
        one(HelperId::XDP_ADJUST_HEAD, delta);
        one(HelperId::XDP_ADJUST_TAIL, delta);
    }
    for delta in [3456, 3457, 3776, 3777, -50, -51] {
        one(HelperId::XDP_ADJUST_TAIL, delta);
    }
    for delta in [0, -1, -4, -32, -36, -216, -220, -252, -256, 4, 1] {
        one(HelperId::XDP_ADJUST_META, delta);
    }
}

#[test]
fn sequences_of_adjustments_agree() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(11);
    let helpers = [
        HelperId::XDP_ADJUST_HEAD,
        HelperId::XDP_ADJUST_TAIL,
        HelperId::XDP_ADJUST_META,
    ];
    for round in 0..100 {
        let mut code = Asm::new();
        code.mov(6, R(1)).mov(7, 0);
        for _ in 0..6 {
            let helper = helpers[rng.next_u32() as usize % 3];
            let range = if rng.next_u32().is_multiple_of(4) {
                400
            } else {
                40
            };
            let delta = (rng.next_u32() % range) as i32 - range as i32 / 2;
            code.mov(1, R(6)).mov(2, delta).call(helper);
            code.alu(o::MUL, 7, 31).add(7, R(0));
        }
        code.mov(0, R(7)).exit();
        compare(&code.finish(), &frame(), 1 + round % 3);
    }
}

#[test]
fn copies_and_lengths_agree() {
    if !may_use_bpf() {
        return;
    }
    for helper in [HelperId::XDP_LOAD_BYTES, HelperId::XDP_STORE_BYTES] {
        for (offset, len) in [
            (0, 8),
            (56, 8),
            (57, 8),
            (63, 1),
            (64, 1),
            (-1, 1),
            (0x1_0000, 4),
            (0, 32),
        ] {
            let mut code = Asm::new();
            for at in 1..=4 {
                code.store(MemSize::Dw, 10, -8 * at, i32::from(at) * 0x0101);
            }
            code.mov(6, R(1))
                .mov(2, offset)
                .mov(3, R(10))
                .add(3, -32)
                .mov(4, len)
                .call(helper);
            code.mov(7, R(0))
                .load(MemSize::Dw, 8, 10, -32)
                .load(MemSize::Dw, 9, 10, -8);
            code.mov(1, R(6)).call(HelperId::XDP_GET_BUFF_LEN);
            for reg in 7..=9 {
                code.alu(o::MUL, 0, 31).add(0, R(reg));
            }
            code.exit();
            compare(&code.finish(), &frame(), 1);
        }
    }
}

#[test]
fn ordered_accesses_agree() {
    if !may_use_bpf() {
        return;
    }
    for size in [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw] {
        let mut code = Asm::new();
        code.imm64(1, 0x8182_8384_8586_8788)
            .store(MemSize::Dw, 10, -8, -1)
            .atomic(size, o::ATOMIC_STORE_REL, 10, -8, 1)
            .load_acquire(size, 7, 10, -8)
            .load(MemSize::Dw, 0, 10, -8)
            .alu(o::XOR, 0, R(7))
            .mov(1, R(0))
            .alu(o::RSH, 1, 32)
            .alu(o::XOR, 0, R(1))
            .add(0, R(7))
            .exit();
        compare(&code.finish(), &frame(), 1);
    }
}

#[test]
fn signed_numbers_of_the_context_agree() {
    if !may_use_bpf() {
        return;
    }
    for off in [12, 16] {
        let mut code = Asm::new();
        code.load_signed(MemSize::W, 0, 1, off).exit();
        compare(&code.finish(), &frame(), 1);
    }
    for off in [0, 4, 8] {
        let mut code = Asm::new();
        code.load_signed(MemSize::W, 2, 1, off).mov(0, 0).exit();
        assert!(load(&code.finish()).is_err(), "the kernel allows {off}");
    }
}

#[test]
fn loops_that_may_be_left_agree() {
    if !may_use_bpf() {
        return;
    }
    let mut code = Asm::new();
    let (again, out) = (code.label(), code.label());
    code.bind(again)
        .may_goto(out)
        .jump(again)
        .bind(out)
        .mov(0, 2)
        .exit();
    compare(&code.finish(), &frame(), 1);
}

#[test]
fn checksum_differences_agree() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(5);
    let edges = [0u32, 1, 0xffff, 0x1_0000, 0xffff_0000, u32::MAX];
    for round in 0..150 {
        let mut code = Asm::new();
        for at in 1..=8 {
            let value = match round % 3 {
                0 => 0,
                1 => -1,
                _ => rng.next_u32().cast_signed(),
            };
            code.store(MemSize::W, 10, -4 * at, value);
        }
        let (from, to) = (rng.next_u32() % 18, rng.next_u32() % 18);
        let seed = if rng.next_u32().is_multiple_of(2) {
            edges[rng.next_u32() as usize % edges.len()]
        } else {
            rng.next_u32()
        };
        let memory = |code: &mut Asm, reg: u8, at: i32, len: u32| {
            if len == 0 {
                code.mov(reg, 0);
            } else {
                code.mov(reg, R(10)).add(reg, at);
            }
            code.mov(reg + 1, len.cast_signed());
        };
        memory(&mut code, 1, -32, from);
        memory(&mut code, 3, -17, to);
        code.alu32(o::MOV, 5, seed.cast_signed())
            .call(HelperId::CSUM_DIFF);
        code.mov(1, R(0))
            .alu(o::RSH, 1, 32)
            .alu(o::MUL, 1, 31)
            .add(0, R(1))
            .exit();
        compare(&code.finish(), &frame(), 1);
    }
}

/// Random code that the verifier accepts: arithmetic, stack traffic, atomics and forward jumps on
/// initialised registers, folded into one result.
struct Generator {
    rng: Rng,
    code: Asm,
}

impl Generator {
    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    /// Any register but r1, which holds the context.
    fn reg(&mut self) -> u8 {
        [0, 2, 3, 4, 5, 6, 7, 8, 9][self.below(9) as usize]
    }

    fn number(&mut self) -> u64 {
        let edges = [
            0,
            1,
            2,
            31,
            32,
            63,
            64,
            0x7f,
            0x80,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
        ];
        match self.below(4) {
            0 => edges[self.below(12) as usize],
            1 => edges[self.below(12) as usize].wrapping_neg(),
            2 => u64::from(self.rng.next_u32()),
            _ => u64::from(self.rng.next_u32()) << 32 | u64::from(self.rng.next_u32()),
        }
    }

    fn program(mut self) -> Vec<Insn> {
        for reg in [0, 2, 3, 4, 5, 6, 7, 8, 9] {
            let value = self.number();
            self.code.imm64(reg, value);
        }
        for slot in 1..=4 {
            let reg = self.reg();
            self.code.store(MemSize::Dw, 10, -8 * slot, R(reg));
        }
        for _ in 0..40 {
            self.instruction();
        }
        for reg in 2..=9 {
            self.code.alu(o::MUL, 0, 0x0100_0193).alu(o::XOR, 0, R(reg));
        }
        for slot in 1..=4 {
            self.code.load(MemSize::Dw, 2, 10, -8 * slot);
            self.code.alu(o::MUL, 0, 0x0100_0193).alu(o::XOR, 0, R(2));
        }
        self.code
            .mov(2, R(0))
            .alu(o::RSH, 2, 32)
            .alu(o::XOR, 0, R(2))
            .exit();
        self.code.finish()
    }

    fn instruction(&mut self) {
        match self.below(10) {
            0..=4 => self.arithmetic(),
            5 => self.memory(),
            6 => self.atomic(),
            7 => self.unary(),
            _ => self.branch(),
        }
    }

    fn arithmetic(&mut self) {
        let (op, off) = o::ARITHMETIC[self.below(14) as usize];
        let (dst, src) = (self.reg(), self.reg());
        let narrow = self.below(2) == 0;
        if self.below(2) == 0 {
            if narrow {
                self.code.alu32_off(op, dst, R(src), off);
            } else {
                self.code.alu_off(op, dst, R(src), off);
            }
            return;
        }
        // The verifier refuses shifts by too much and divisions by 0 if they are constants.
        let imm = match op {
            o::LSH | o::RSH | o::ARSH => self.below(if narrow { 32 } else { 64 }).cast_signed(),
            o::DIV | o::MOD => (self.number() as i32) | 1,
            _ => self.number() as i32,
        };
        if narrow {
            self.code.alu32_off(op, dst, imm, off);
        } else {
            self.code.alu_off(op, dst, imm, off);
        }
    }

    fn unary(&mut self) {
        let (dst, src) = (self.reg(), self.reg());
        let bits = [16, 32, 64][self.below(3) as usize];
        match self.below(7) {
            0 => self.code.endian(o::ALU, dst, bits),
            1 => self.code.endian(o::ALU | o::X, dst, bits),
            2 => self.code.endian(o::ALU64, dst, bits),
            3 => self.code.alu(o::NEG, dst, 0),
            4 => self.code.alu32(o::NEG, dst, 0),
            5 => {
                let from = [8, 16, 32][self.below(3) as usize];
                self.code.alu_off(o::MOV, dst, R(src), from)
            }
            _ => {
                let from = [8, 16][self.below(2) as usize];
                self.code.alu32_off(o::MOV, dst, R(src), from)
            }
        };
    }

    fn place(&mut self) -> (MemSize, i16) {
        let size = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw][self.below(4) as usize];
        let bytes = size.bytes();
        let slot = self.below(32 / bytes);
        (size, -((slot * bytes + bytes) as i16))
    }

    fn memory(&mut self) {
        let (reg, (size, off)) = (self.reg(), self.place());
        match self.below(4) {
            0 => self.code.load(size, reg, 10, off),
            1 if size != MemSize::Dw => self.code.load_signed(size, reg, 10, off),
            2 => {
                let imm = self.number() as i32;
                self.code.store(size, 10, off, imm)
            }
            _ => self.code.store(size, 10, off, R(reg)),
        };
    }

    fn atomic(&mut self) {
        let (reg, (size, off)) = (self.reg(), self.place());
        if !matches!(size, MemSize::W | MemSize::Dw) {
            return;
        }
        let ops = [o::ADD, o::OR, o::AND, o::XOR].map(i32::from);
        let op = match self.below(10) {
            n @ 0..=3 => ops[n as usize],
            n @ 4..=7 => ops[n as usize - 4] | o::ATOMIC_FETCH,
            8 => o::ATOMIC_XCHG,
            _ => o::ATOMIC_CMPXCHG,
        };
        self.code.atomic(size, op, 10, off, reg);
    }

    fn branch(&mut self) {
        let cond = o::CONDITIONS[self.below(11) as usize];
        let (dst, src, imm) = (self.reg(), self.reg(), self.number() as i32);
        let skip = self.code.label();
        match self.below(4) {
            0 => self.code.jump_if(cond, dst, R(src), skip),
            1 => self.code.jump_if(cond, dst, imm, skip),
            2 => self.code.jump_if32(cond, dst, R(src), skip),
            _ => self.code.jump_if32(cond, dst, imm, skip),
        };
        self.arithmetic();
        self.unary();
        self.code.bind(skip);
    }
}

#[test]
fn random_programs_agree() {
    if !may_use_bpf() {
        return;
    }
    for seed in 0..400 {
        let generator = Generator {
            rng: Rng::seeded(seed),
            code: Asm::new(),
        };
        // Compiling takes longest by far in a test build.
        let kinds = &BOTH[..1 + usize::from(seed % 4 == 0)];
        compare_with(kinds, &generator.program(), &frame(), 1);
    }
}

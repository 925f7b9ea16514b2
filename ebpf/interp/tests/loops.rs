//! What the analysis claims of random programs with loops holds in every round.
//!
//! The programs do what its reasoning about loops could trip over: counters of 32 and 64 bits that go up or
//! down, wrap around or start anywhere, left by any comparison with a constant, another counter or a pointer;
//! pointers that move beside them, are spilled and filled, become null on one path; packets that get shorter
//! in the loop; calls of subprograms; jumps into the middle of a loop.
//!
//! `SQUALUS_LOOPS` is the number of programs, `SQUALUS_LOOPS_SEED` the first seed.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use std::sync::Arc;

use common::map;
use squalus_analysis::{Access, Facts, analyse};
use squalus_interp::Interp;
use squalus_isa::{HelperId, MapType, MemSize, opcode as o};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::asm::{Asm, Label, R, Src};
use squalus_runtime::{Clock, Env, FrameMemory, LinkedProgram, Rng, TrapReason};

/// The context; the packet's start and end after an adjustment.
const CONTEXT: u8 = 6;
const SIZES: [MemSize; 4] = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];

struct Chaos {
    rng: Rng,
    code: Asm,
    function: Label,
    out: Label,
    /// Places that wild jumps go to.
    places: Vec<Label>,
}

impl Chaos {
    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// A register that code may do anything with.
    fn reg(&mut self) -> u8 {
        self.pick(&[0, 1, 2, 3, 4, 5, 7, 8, 9])
    }

    /// A constant of the sort that counters start from, move by or end at.
    fn constant(&mut self) -> i32 {
        match self.below(10) {
            0..4 => self.below(20) as i32,
            4 => -(self.below(20) as i32),
            5 => 8 * self.below(10) as i32,
            6 => self.below(300) as i32,
            _ => self.pick(&[1, -1, 3, 64, 0x7fff_ffff, i32::MIN, -2, 0xffff]),
        }
    }

    fn operand(&mut self) -> Src {
        match self.chance(70) {
            true => self.constant().into(),
            false => R(self.reg()).into(),
        }
    }

    fn program(mut self) -> Asm {
        self.code.mov(CONTEXT, R(1));
        for reg in [0, 1, 2, 3, 4, 5, 7, 8, 9] {
            self.start(reg);
        }
        self.block(3, 6);
        while let Some(place) = self.places.pop() {
            self.code.bind(place);
        }
        let out = self.out;
        self.code.bind(out).mov(0, 2).exit();
        let function = self.function;
        self.code.bind(function);
        for _ in 0..self.below(4) {
            self.callee();
        }
        self.code.mov(0, R(1)).exit();
        self.code
    }

    /// Gives a register something to start from.
    fn start(&mut self, reg: u8) {
        match self.below(8) {
            0 => drop(self.code.load(MemSize::W, reg, CONTEXT, 0)),
            1 => drop(self.code.load(MemSize::W, reg, CONTEXT, 4)),
            2 | 3 => {
                let off = -8 * self.below(20) as i32;
                self.code.mov(reg, R(10)).add(reg, off);
            }
            4 => {
                // Any number, or one of a few.
                self.code.load(MemSize::W, reg, CONTEXT, 12);
                let mask = self.constant();
                self.code.alu(o::AND, reg, mask);
            }
            5 if self.chance(30) => {
                let near = self.pick(&[i64::MIN, i64::MAX, -1, 1 << 32, 1 << 61, -1 << 61]);
                let number = near.wrapping_add(i64::from(self.below(7)) - 3);
                self.code.imm64(reg, number.cast_unsigned());
            }
            5 => {
                let off = self.below(8) * 4;
                self.code.map_value(reg, 0, off);
            }
            _ => {
                let number = self.constant();
                self.code.mov(reg, number);
            }
        }
    }

    fn block(&mut self, depth: u32, len: u32) {
        for _ in 0..=self.below(len) {
            self.unit(depth);
        }
    }

    fn unit(&mut self, depth: u32) {
        match self.below(20) {
            0..3 if depth > 0 => self.a_loop(depth - 1),
            3..5 if depth > 0 => self.condition(depth - 1),
            5 => {
                let reg = self.reg();
                self.start(reg);
            }
            6 => self.bounded_access(),
            7 if self.chance(30) => self.adjust(),
            8 if self.chance(40) => {
                let function = self.function;
                self.code.call_local(function);
                for reg in 1..=5 {
                    self.start(reg);
                }
            }
            9 if self.chance(15) => {
                let place = self.code.label();
                self.code.bind(place);
                let (cond, reg, with) = (self.pick(&o::CONDITIONS), self.reg(), self.operand());
                let to = self.code.label();
                self.places.push(to);
                self.code.jump_if(cond, reg, with, to);
                // Back into what came before.
                let (cond, reg, with) = (self.pick(&o::CONDITIONS), self.reg(), self.operand());
                self.code.jump_if(cond, reg, with, place);
            }
            10 | 11 => self.stack_access(),
            12 if self.chance(40) && !self.places.is_empty() => {
                let place = self.places.swap_remove(0);
                self.code.bind(place);
            }
            _ => self.straight(),
        }
    }

    fn straight(&mut self) {
        let (reg, other) = (self.reg(), self.reg());
        match self.below(12) {
            0..4 => {
                let by = self.pick(&[1, 1, 2, 4, 8, -1, -8, 3, 16, 1 << 20]);
                match self.chance(70) {
                    true => self.code.add(reg, by),
                    false => self.code.alu32(o::ADD, reg, by),
                };
            }
            4 => drop(self.code.mov(reg, R(other))),
            5 => drop(self.code.alu32(o::MOV, reg, R(other))),
            6 => drop(self.code.alu(o::ADD, reg, R(other))),
            7 => drop(self.code.alu(o::SUB, reg, R(other))),
            8 => {
                let by = self.pick(&[1, 2, 8, -1]);
                match self.chance(50) {
                    true => self.code.alu(o::SUB, reg, by),
                    false => self.code.alu32(o::SUB, reg, by),
                };
            }
            9 => {
                let mask = self.pick(&[7, 0x3f, 0xf8, 0xff]);
                self.code.alu(o::AND, reg, mask);
            }
            10 => {
                let by = self.below(4) as i32;
                let op = self.pick(&[o::LSH, o::RSH, o::ARSH]);
                self.code.alu(op, reg, by);
            }
            _ => {
                let (op, with) = (self.pick(&[o::XOR, o::OR, o::MUL]), self.operand());
                self.code.alu(op, reg, with);
            }
        }
    }

    /// A loop around a counter, tested at its head or end.
    fn a_loop(&mut self, depth: u32) {
        let (counter, beside) = (self.reg(), self.reg());
        if self.chance(80) {
            self.start(counter);
        }
        if self.chance(60) {
            let start = self.constant();
            self.code.mov(counter, start);
        }
        let (head, out) = (self.code.label(), self.code.label());
        let step = self.pick(&[1, 1, 1, 2, 4, 8, 3, -1, -1, -2, 16]);
        let cond = self.pick(&o::CONDITIONS);
        let end = match self.below(4) {
            0 => self.operand(),
            _ => (step * self.below(20) as i32).into(),
        };
        let narrow = self.chance(30);
        self.code.bind(head);
        let at_head = self.chance(40);
        if at_head {
            self.test(narrow, cond, counter, end, out);
        }
        let slot = self.chance(30).then(|| -8 * (1 + self.below(3) as i16));
        if let Some(slot) = slot {
            self.code.store(MemSize::Dw, 10, slot, R(counter));
        }
        self.block(depth, 4);
        if let Some(slot) = slot {
            self.code.load(MemSize::Dw, counter, 10, slot);
        }
        if self.chance(60) {
            let by = self.pick(&[1, 2, 4, 8, -8, 3]);
            self.code.add(beside, by);
        }
        match narrow {
            true => self.code.alu32(o::ADD, counter, step),
            false => self.code.add(counter, step),
        };
        match at_head {
            true => drop(self.code.jump(head)),
            false => self.test(narrow, cond, counter, end, head),
        }
        self.code.bind(out);
    }

    fn test(&mut self, narrow: bool, cond: u8, reg: u8, with: Src, to: Label) {
        match narrow {
            true => self.code.jump_if32(cond, reg, with, to),
            false => self.code.jump_if(cond, reg, with, to),
        };
    }

    fn condition(&mut self, depth: u32) {
        let (cond, reg, with) = (self.pick(&o::CONDITIONS), self.reg(), self.operand());
        let (other, on) = (self.code.label(), self.code.label());
        let narrow = self.chance(30);
        self.test(narrow, cond, reg, with, other);
        self.block(depth, 3);
        self.code.jump(on).bind(other);
        self.block(depth, 3);
        self.code.bind(on);
    }

    /// An access at a moving pointer, behind a comparison that may allow it.
    fn bounded_access(&mut self) {
        let (pointer, end, by) = (self.reg(), self.reg(), self.below(20) as i32);
        let skip = self.code.label();
        match self.chance(50) {
            true => {
                self.code.load(MemSize::W, end, CONTEXT, 4);
                if end == pointer {
                    return;
                }
                let copy = self.reg();
                if copy == end || copy == pointer {
                    return;
                }
                self.code.mov(copy, R(pointer)).add(copy, by);
                let cond = self.pick(&[o::JGT, o::JGE, o::JLT, o::JLE, o::JEQ, o::JNE]);
                self.code.jump_if(cond, copy, R(end), skip);
            }
            false => {
                let with = self.operand();
                let cond = self.pick(&[o::JGT, o::JGE, o::JSGT, o::JNE, o::JEQ]);
                self.code.jump_if(cond, end, with, skip);
                let base = self.pick(&[10, 7, 8]);
                self.code.mov(pointer, R(base)).alu(o::ADD, pointer, R(end));
            }
        }
        if self.chance(30) {
            let (size, off) = (self.pick(&SIZES), -(self.below(32) as i16));
            self.code.load(size, end, pointer, off);
        }
        self.code.bind(skip);
    }

    fn stack_access(&mut self) {
        // Mostly few slots, so that they are read again, and written in parts.
        let slots = self.pick(&[3, 3, 20]);
        let (reg, off) = (self.reg(), -8 * (1 + self.below(slots) as i16));
        let (size, byte) = (self.pick(&SIZES), self.below(4) as i16);
        match self.below(6) {
            0 | 1 => drop(self.code.store(MemSize::Dw, 10, off, R(reg))),
            2 | 3 => drop(self.code.load(MemSize::Dw, reg, 10, off)),
            4 => drop(self.code.store(size, 10, off + byte, R(reg))),
            _ => drop(self.code.load(size, reg, 10, off)),
        }
    }

    /// Makes the packet shorter or longer, and sometimes looks where it is now.
    fn adjust(&mut self) {
        let by = self.pick(&[-1, -4, 8, 0, -60]);
        let helper = self.pick(&[HelperId::XDP_ADJUST_TAIL, HelperId::XDP_ADJUST_HEAD]);
        self.code.mov(1, R(CONTEXT)).mov(2, by).call(helper);
        for reg in 1..=5 {
            self.start(reg);
        }
    }

    /// What the subprogram does, which may get pointers in `r1` to `r5`.
    fn callee(&mut self) {
        let (reg, other) = (self.below(5) as u8 + 1, self.below(5) as u8 + 1);
        match self.below(4) {
            0 => drop(self.code.add(reg, 8)),
            1 => drop(self.code.mov(reg, R(other))),
            2 => {
                let off = -8 * (1 + self.below(8) as i16);
                self.code.store(MemSize::Dw, 10, off, R(reg));
            }
            _ => {
                let (on, with) = (self.code.label(), self.constant());
                self.code.jump_if(o::JGT, reg, with, on);
                self.code.add(other, 1).bind(on);
            }
        }
    }
}

fn program(seed: u64) -> Asm {
    let mut code = Asm::new();
    let (function, out) = (code.label(), code.label());
    let chaos = Chaos {
        rng: Rng::seeded(seed),
        code,
        function,
        out,
        places: Vec::new(),
    };
    chaos.program()
}

/// What came of all programs.
#[derive(Debug, Default)]
struct Seen {
    ended: u32,
    trapped: u32,
    rounds: u32,
    proved: usize,
}

fn run(seed: u64, seen: &mut Seen) {
    let maps = MapEnv::with_seed(1, 7);
    let _worker = maps.reclaimer.register();
    let values = Map::new(&map(MapType::Array, 4, 64, 1), &maps).unwrap();
    let code = program(seed).finish();
    let linked = LinkedProgram::new("loops", &code, Arc::new([values]), Vec::new());
    let program = Arc::new(linked.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    // What no program may do is refused.
    let Ok(facts) = analyse(&program) else { return };
    seen.proved += proved(&facts);
    let facts: Arc<[Facts]> = Arc::new([facts]);
    for (number, len) in [(0, 64), (5, 20), (200, 110)] {
        let mut memory = FrameMemory::new();
        memory.set(&vec![number as u8 + 3; len]).unwrap();
        let mut frame = memory.frame().unwrap();
        let mut env = Env::new(0, Clock::Fixed(1), Rng::seeded(seed));
        env.budget_per_run = 3000;
        env.ingress_ifindex = number;
        let mut interp = Interp::new();
        interp.check_facts(Arc::clone(&facts));
        // SAFETY: the worker is registered and not paused.
        let ran = unsafe { interp.run(&[Arc::clone(&program)], 0, &mut env, &mut frame) };
        if let Some(told) = interp.false_fact() {
            panic!("seed {seed}: {told}\n{}", facts[0].annotate(&program));
        }
        match ran.map_err(|trap| trap.reason) {
            Ok(_) => seen.ended += 1,
            Err(TrapReason::Budget) => seen.rounds += 1,
            Err(_) => seen.trapped += 1,
        }
    }
}

fn proved(facts: &Facts) -> usize {
    let all = facts.reachable().filter_map(|known| known.access);
    all.filter(|access| matches!(access, Access::Proved(_)))
        .count()
}

#[test]
fn claims_about_loops_are_true() {
    let number = |name, otherwise| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |given| given.parse().unwrap())
    };
    let first: u64 = number("SQUALUS_LOOPS_SEED", 0);
    let mut seen = Seen::default();
    for seed in first..first + number("SQUALUS_LOOPS", 3000) {
        run(seed, &mut seen);
    }
    eprintln!("{seen:?}");
    assert!(
        seen.ended > 0 && seen.rounds > 0 && seen.proved > 0,
        "{seen:?}"
    );
}

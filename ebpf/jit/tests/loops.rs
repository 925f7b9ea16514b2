//! Loops that move, fill and add up memory: written out or not, they do what the interpreter does.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{agree, compile_all, link};
use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_jit::{Options, run_linked};
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{Clock, Env, FrameMemory, Rng};
use squalus_ssa::{Pass, Passes};

/// Bytes of the packet.
const LEN: usize = 1600;
/// Bytes of the packet or the stack, as a distance from the packet's beginning or the stack's end.
#[derive(Clone, Copy, Debug)]
enum At {
    Packet(i32),
    Stack(i32),
}

/// What is done with each number.
#[derive(Clone, Copy, Debug)]
enum Work {
    Move,
    /// It is changed by the round's number.
    Change,
    /// The round's number goes to its place.
    Number,
    /// It is added up.
    Sum,
    /// It is added up and put elsewhere.
    SumAndMove,
    /// It and what is at its place go to each other's.
    Swap,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    rounds: i32,
    size: MemSize,
    from: At,
    to: At,
    /// How far both places move in a round, in numbers of this size.
    steps: [i32; 2],
    work: Work,
}

fn begin(asm: &mut Asm, reg: u8, at: At) {
    match at {
        At::Packet(off) => asm.mov(reg, R(6)).add(reg, off),
        At::Stack(off) => asm.mov(reg, R(10)).add(reg, off),
    };
}

fn check(shape: Shape) {
    let code = program(|asm| moving(asm, shape));
    let ran = agree(&[code], &[], &packet());
    assert!(ran.result.is_ok(), "{shape:?}");
}

fn moving(asm: &mut Asm, shape: Shape) {
    let head = asm.label();
    for off in (-64..0).step_by(8) {
        asm.mov(5, i32::from(off) * 0x0123_4567)
            .store(MemSize::Dw, 10, off, R(5));
    }
    begin(asm, 3, shape.from);
    begin(asm, 4, shape.to);
    asm.mov(1, 0).bind(head);
    match shape.work {
        Work::Number => asm.mov(5, R(1)),
        _ => asm.load(shape.size, 5, 3, 0),
    };
    match shape.work {
        Work::Change => asm.alu(o::XOR, 5, R(1)),
        Work::Sum | Work::SumAndMove => asm.add(0, R(5)),
        Work::Swap => asm.load(shape.size, 2, 4, 0).store(shape.size, 3, 0, R(2)),
        _ => &mut *asm,
    };
    if !matches!(shape.work, Work::Sum) {
        asm.store(shape.size, 4, 0, R(5));
    }
    let size = shape.size.bytes() as i32;
    asm.add(3, shape.steps[0] * size)
        .add(4, shape.steps[1] * size)
        .add(1, 1)
        .jump_if(o::JNE, 1, shape.rounds, head);
    for off in (-64..0).step_by(8) {
        asm.load(MemSize::Dw, 5, 10, off)
            .alu(o::MUL, 0, 31)
            .add(0, R(5));
    }
}

fn packet() -> Vec<u8> {
    (0..LEN).map(|n| (n * n / 7) as u8 ^ n as u8).collect()
}

/// A program that goes on with `r6` at the packet's beginning if it is long enough, and returns `r0`.
fn program(work: impl FnOnce(&mut Asm)) -> Vec<Insn> {
    let mut asm = Asm::new();
    let short = asm.label();
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 7, 1, 4)
        .mov(8, R(6))
        .add(8, LEN as i32)
        .mov(0, 0)
        .jump_if(o::JGT, 8, R(7), short);
    work(&mut asm);
    asm.bind(short).exit();
    asm.finish()
}

#[test]
fn bytes_are_moved_one_after_the_other() {
    let up = [1, 1];
    for (rounds, from, to, steps) in [
        (1, 0, 100, up),
        (2, 0, 100, up),
        (16, 3, 100, up),
        (64, 0, 64, up),
        (64, 63, 64, [-1, 1]),
        (64, 63, 200, [-1, -1]),
        (37, 0, 100, [2, 1]),
        (37, 0, 400, [1, 3]),
        (200, 0, 300, up),
        (777, 0, 800, up),
        // What is written is read again.
        (64, 0, 1, up),
        (64, 0, 3, up),
        (200, 0, 1, up),
        (64, 5, 4, up),
        (64, 100, 101, [-1, -1]),
        (64, 100, 99, [-1, 1]),
    ] {
        for work in [Work::Move, Work::Change] {
            check(Shape {
                rounds,
                size: MemSize::B,
                from: At::Packet(from),
                to: At::Packet(to),
                steps,
                work,
            });
        }
    }
}

#[test]
fn words_are_moved_one_after_the_other() {
    for size in [MemSize::H, MemSize::W, MemSize::Dw] {
        for distance in [1, 8, 16, 520, -1, -8] {
            check(Shape {
                rounds: 64,
                size,
                from: At::Packet(20),
                to: At::Packet(20 + distance),
                steps: [1, 1],
                work: Work::Move,
            });
        }
    }
}

#[test]
fn numbers_are_turned_around_in_place() {
    for size in [MemSize::B, MemSize::H, MemSize::Dw] {
        // Up to the middle, up to the middle of one number, past it, and others.
        for (rounds, last) in [(64, 127), (32, 62), (64, 63), (50, 1), (16, 16)] {
            for (from, steps) in [(503, [1, -1]), (20, [1, 1])] {
                check(Shape {
                    rounds,
                    size,
                    from: At::Packet(from),
                    to: At::Packet(from + last * size.bytes() as i32),
                    steps,
                    work: Work::Swap,
                });
            }
        }
    }
}

#[test]
fn the_stack_is_moved_and_filled() {
    for (size, rounds) in [(MemSize::B, 64), (MemSize::W, 16), (MemSize::Dw, 8)] {
        for (from, to) in [
            (At::Packet(9), At::Stack(-64)),
            (At::Stack(-64), At::Packet(9)),
            (At::Stack(-64), At::Stack(-64)),
        ] {
            for work in [Work::Move, Work::Change, Work::Number] {
                check(Shape {
                    rounds,
                    size,
                    from,
                    to,
                    steps: [1, 1],
                    work,
                });
            }
        }
    }
}

#[test]
fn numbers_are_added_up() {
    for work in [Work::Sum, Work::SumAndMove] {
        for size in [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw] {
            for (rounds, step) in [
                (3, 1),
                (8, 1),
                (9, -1),
                (16, 2),
                (45, 1),
                (128, 1),
                (173, 1),
            ] {
                let from = if step < 0 { 256 } else { 10 };
                check(Shape {
                    rounds,
                    size,
                    from: At::Packet(from),
                    to: At::Packet(12),
                    steps: [step, 0],
                    work,
                });
            }
        }
    }
}

/// Lines of 16 numbers are moved by a loop in a loop, each number changed by a branch.
fn lines(asm: &mut Asm, rows: i32, columns: i32) {
    let [row, column, same] = [(); 3].map(|()| asm.label());
    asm.mov(1, 0)
        .bind(row)
        .mov(3, R(1))
        .alu(o::LSH, 3, 4)
        .add(3, R(6))
        .mov(2, 0)
        .bind(column)
        .load(MemSize::B, 5, 3, 1)
        .jump_if(o::JGT, 5, 99, same)
        .add(0, R(2))
        .alu(o::XOR, 5, 0x55)
        .bind(same)
        .store(MemSize::B, 3, 600, R(5))
        .add(0, R(5))
        .add(3, 1)
        .add(2, 1)
        .jump_if(o::JLT, 2, columns, column)
        .add(1, 1)
        .jump_if(o::JLT, 1, rows, row);
}

/// A loop of few numbers that are moved, in a loop that changes some of them.
fn groups(asm: &mut Asm, rows: i32, columns: i32) {
    let [row, column, less] = [(); 3].map(|()| asm.label());
    asm.mov(3, R(6))
        .mov(1, 0)
        .bind(row)
        .mov(2, 0)
        .bind(column)
        .load(MemSize::B, 5, 3, 1)
        .store(MemSize::B, 3, 600, R(5))
        .add(3, 1)
        .add(2, 1)
        .jump_if(o::JLT, 2, columns, column)
        .jump_if(o::JLT, 5, 99, less)
        .store(MemSize::B, 3, 600, 7)
        .bind(less)
        .add(1, 1)
        .jump_if(o::JLT, 1, rows, row);
}

/// Programs whose loops have other loops in them.
fn nested() -> Vec<(String, Vec<Insn>)> {
    let sizes = [
        (1, 1),
        (3, 5),
        (2, 16),
        (16, 2),
        (32, 16),
        (60, 16),
        (60, 3),
        (100, 2),
    ];
    let both = sizes.map(|(rows, columns)| {
        let name = format!("{rows} times {columns}");
        let lines = program(|asm| lines(asm, rows.min(60), columns));
        let groups = program(|asm| groups(asm, rows, columns));
        [
            (format!("lines, {name}"), lines),
            (format!("groups, {name}"), groups),
        ]
    });
    both.into_iter().flatten().collect()
}

#[test]
fn loops_may_be_in_loops() {
    for (name, code) in nested() {
        let ran = agree(&[code], &[], &packet());
        assert!(ran.result.is_ok(), "{name}");
    }
}

#[test]
fn counters_may_come_around() {
    for (first, by, last) in [
        (-8, 1, 8),
        (16, -1, -1),
        (-2, 3, 28),
        (0x7fff_fff8, 1, -0x7fff_fff8),
    ] {
        let code = program(|asm| {
            let (head, out) = (asm.label(), asm.label());
            asm.mov(3, R(6))
                .alu32(o::MOV, 1, first)
                .bind(head)
                .jump_if32(o::JEQ, 1, last, out)
                .load(MemSize::W, 5, 3, 8)
                .add(0, R(5))
                .store(MemSize::W, 3, 400, R(5))
                .store(MemSize::W, 3, 800, R(1))
                .add(3, 4)
                .alu32(o::ADD, 1, by)
                .jump(head)
                .bind(out)
                .add(0, R(1));
        });
        let ran = agree(&[code], &[], &packet());
        assert!(ran.result.is_ok());
    }
}

/// Sums that are looked at in between, that leave by another way, or that begin with what was summed up before.
#[test]
fn sums_may_be_wanted_on_the_way() {
    for (wanted, twice, carries) in [
        (false, true, false),
        (true, false, false),
        (false, false, true),
        (true, true, true),
    ] {
        let code = program(|asm| {
            for _ in 0..=i32::from(twice) {
                let (head, less) = (asm.label(), asm.label());
                asm.mov(3, R(6)).mov(1, 0).bind(head);
                for word in 0..8 {
                    asm.load(MemSize::W, 5, 3, word * 4).add(0, R(5));
                }
                if wanted {
                    asm.store(MemSize::Dw, 6, 1500, R(0));
                }
                if carries {
                    asm.jump_if(o::JGE, 0, R(5), less).add(0, 1);
                }
                asm.bind(less)
                    .add(3, 32)
                    .add(1, 1)
                    .jump_if(o::JNE, 1, 40, head);
            }
        });
        let ran = agree(&[code], &[], &packet());
        assert!(ran.result.is_ok());
    }
}

/// What a run leaves of its budget.
fn left(code: &[Insn], passes: Passes, budget: u64) -> (u64, bool) {
    let loaded = link(&[code.to_vec()], &[]);
    let options = Options {
        passes,
        ..Options::default()
    };
    let programs = compile_all(&loaded, options);
    let _worker = loaded.env.reclaimer.register();
    let mut memory = FrameMemory::new();
    memory.set(&packet()).unwrap();
    let mut frame = memory.frame().unwrap();
    let mut env = Env::new(0, Clock::Fixed(1_000), Rng::seeded(1));
    env.budget_per_run = budget;
    env.begin(frame.place());
    // SAFETY: environment and frame are live and ours; the worker is registered; `compile_all` made the programs
    // from their own facts.
    unsafe { run_linked(&programs, 0, &raw mut env) };
    (env.budget, env.trap_reason().is_some())
}

#[test]
fn loops_cost_what_they_did() {
    for (name, code) in nested() {
        let (plain, ended) = left(&code, Passes::NONE, 10_000);
        assert!(!ended);
        let price = 10_000 - plain;
        for passes in [
            Passes::ALL,
            Passes::NONE.with(Pass::Unroll),
            Passes::ALL.without(Pass::Unroll),
            Passes::ALL.without(Pass::Hoist),
            Passes::ALL.without(Pass::Simplify),
            Passes::NONE.with(Pass::Unroll).with(Pass::Hoist),
        ] {
            let case = format!("{name}: {passes}");
            assert_eq!(left(&code, passes, 10_000), (plain, false), "{case}");
            assert_eq!(left(&code, passes, price), (0, false), "{case}");
            assert!(left(&code, passes, price - 1).1, "{case}");
        }
    }
}

//! Instructions of RFC 9669, group by group, as programs.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{Machine, map, run, run_with};
use squalus_isa::{MapType, MemSize, opcode as o};
use squalus_runtime::TrapReason;
use squalus_runtime::asm::{Asm, R};

#[test]
fn immediates_are_sign_extended_to_the_width() {
    let wide = run(|c| {
        c.mov(0, -2).exit();
    });
    assert_eq!(wide, Ok(-2i64 as u64));
    let narrow = run(|c| {
        c.alu32(o::MOV, 0, -2).exit();
    });
    assert_eq!(narrow, Ok(0xffff_fffe));
    let full = run(|c| {
        c.imm64(0, 0x1122_3344_5566_7788).exit();
    });
    assert_eq!(full, Ok(0x1122_3344_5566_7788));
}

#[test]
fn arithmetic_takes_registers_and_immediates() {
    for (op, a, b, want) in [
        (o::ADD, 7, 3, 10),
        (o::SUB, 7, 3, 4),
        (o::MUL, 7, 3, 21),
        (o::DIV, 7, 3, 2),
        (o::MOD, 7, 3, 1),
        (o::OR, 6, 3, 7),
        (o::AND, 6, 3, 2),
        (o::XOR, 6, 3, 5),
        (o::LSH, 6, 3, 48),
        (o::RSH, 48, 3, 6),
        (o::ARSH, -48, 3, -6i64 as u64),
    ] {
        let imm = run(|c| {
            c.mov(0, a).alu(op, 0, b).exit();
        });
        assert_eq!(imm, Ok(want), "{op:#x}");
        let reg = run(|c| {
            c.mov(0, a).mov(1, b).alu(op, 0, R(1)).exit();
        });
        assert_eq!(reg, Ok(want), "{op:#x}");
        let narrow = run(|c| {
            c.mov(0, a).mov(1, b).alu32(op, 0, R(1)).exit();
        });
        assert_eq!(narrow, Ok(u64::from(want as u32)), "{op:#x}");
    }
}

#[test]
fn signed_variants_are_selected_by_offset() {
    let div = run(|c| {
        c.mov(0, -13).alu_off(o::DIV, 0, 3, 1).exit();
    });
    assert_eq!(div, Ok(-4i64 as u64));
    let rem = run(|c| {
        c.mov(0, -13).mov(2, 3).alu32_off(o::MOD, 0, R(2), 1).exit();
    });
    assert_eq!(rem, Ok(u64::from(-1i32 as u32)));
    let mov = run(|c| {
        c.mov(1, 0x1_80ff).alu_off(o::MOV, 0, R(1), 16).exit();
    });
    assert_eq!(mov, Ok(0xffff_ffff_ffff_80ff));
    let narrow = run(|c| {
        c.mov(1, 0x1_80ff).alu32_off(o::MOV, 0, R(1), 8).exit();
    });
    assert_eq!(narrow, Ok(0xffff_ffff));
    let neg = run(|c| {
        c.mov(0, 5).alu(o::NEG, 0, 0).exit();
    });
    assert_eq!(neg, Ok(-5i64 as u64));
}

#[test]
fn byte_order() {
    let value = 0x1122_3344_5566_7788;
    for (op, bits, want) in [
        (o::ALU | o::X, 16, 0x8877),
        (o::ALU | o::X, 64, 0x8877_6655_4433_2211),
        (o::ALU, 32, 0x5566_7788),
        (o::ALU64, 16, 0x8877),
        (o::ALU64, 32, 0x8877_6655),
    ] {
        let got = run(|c| {
            c.imm64(0, value).endian(op, 0, bits).exit();
        });
        assert_eq!(got, Ok(want), "{op:#x} {bits}");
    }
}

#[test]
fn every_condition_jumps_as_it_says() {
    let minus = -1i32;
    for (cond, a, b, taken) in [
        (o::JEQ, 3, 3, true),
        (o::JEQ, 3, 4, false),
        (o::JNE, 3, 4, true),
        (o::JGT, minus, 4, true),
        (o::JGT, 4, 4, false),
        (o::JGE, 4, 4, true),
        (o::JLT, 3, minus, true),
        (o::JLT, 4, 4, false),
        (o::JLE, 4, 4, true),
        (o::JSET, 6, 2, true),
        (o::JSET, 6, 1, false),
        (o::JSGT, 4, minus, true),
        (o::JSGE, minus, minus, true),
        (o::JSLT, minus, 4, true),
        (o::JSLE, 5, 4, false),
    ] {
        for narrow in [false, true] {
            for by_register in [false, true] {
                let got = run(|c| {
                    let out = c.label();
                    c.mov(0, 1).mov(1, a).mov(2, b);
                    match (narrow, by_register) {
                        (false, false) => c.jump_if(cond, 1, b, out),
                        (false, true) => c.jump_if(cond, 1, R(2), out),
                        (true, false) => c.jump_if32(cond, 1, b, out),
                        (true, true) => c.jump_if32(cond, 1, R(2), out),
                    };
                    c.mov(0, 0).bind(out).exit();
                });
                assert_eq!(got, Ok(taken.into()), "{cond:#x} {a} {b} {narrow}");
            }
        }
    }
}

#[test]
fn jumps_go_both_ways() {
    let sum = run(|c| {
        let (again, done) = (c.label(), c.label());
        c.mov(0, 0)
            .mov(1, 10)
            .bind(again)
            .jump_eq(1, 0, done)
            .add(0, R(1))
            .add(1, -1)
            .jump_long(again)
            .bind(done)
            .exit();
    });
    assert_eq!(sum, Ok(55));
}

#[test]
fn loads_extend_and_stores_truncate() {
    let store = |c: &mut Asm| {
        c.imm64(1, 0xfedc_ba98_8765_f4f3)
            .store(MemSize::Dw, 10, -8, R(1));
    };
    for (size, signed, want) in [
        (MemSize::B, false, 0xf3),
        (MemSize::H, false, 0xf4f3),
        (MemSize::W, false, 0x8765_f4f3),
        (MemSize::Dw, false, 0xfedc_ba98_8765_f4f3),
        (MemSize::B, true, 0xffff_ffff_ffff_fff3),
        (MemSize::H, true, 0xffff_ffff_ffff_f4f3),
        (MemSize::W, true, 0xffff_ffff_8765_f4f3),
    ] {
        let got = run(|c| {
            store(c);
            if signed {
                c.load_signed(size, 0, 10, -8);
            } else {
                c.load(size, 0, 10, -8);
            }
            c.exit();
        });
        assert_eq!(got, Ok(want), "{size:?} {signed}");
    }
    let stored = run(|c| {
        store(c);
        c.store(MemSize::B, 10, -8, -1)
            .store(MemSize::H, 10, -6, 0)
            .store(MemSize::W, 10, -4, -2)
            .load(MemSize::Dw, 0, 10, -8)
            .exit();
    });
    assert_eq!(stored, Ok(0xffff_fffe_0000_f4ff));
    let sign_extended = run(|c| {
        c.store(MemSize::Dw, 10, -8, -2)
            .load(MemSize::Dw, 0, 10, -8)
            .exit();
    });
    assert_eq!(sign_extended, Ok(-2i64 as u64));
}

#[test]
fn accesses_need_not_be_aligned() {
    let got = run(|c| {
        c.imm64(1, 0x0102_0304_0506_0708)
            .store(MemSize::Dw, 10, -13, R(1))
            .load(MemSize::Dw, 0, 10, -13)
            .exit();
    });
    assert_eq!(got, Ok(0x0102_0304_0506_0708));
}

#[test]
fn unwritten_stack_reads_as_zero_in_every_call() {
    let got = run(|c| {
        let (sub, probe) = (c.label(), c.label());
        c.call_local(sub)
            .call_local(probe)
            .load(MemSize::Dw, 1, 10, -512)
            .alu(o::OR, 0, R(1))
            .exit();
        c.bind(sub).store(MemSize::Dw, 10, -8, -1).mov(0, 0).exit();
        c.bind(probe).load(MemSize::Dw, 0, 10, -8).exit();
    });
    assert_eq!(got, Ok(0));
}

#[test]
fn atomics_return_what_was_there() {
    let cases = [
        (o::ADD.into(), 12, None),
        (o::OR.into(), 7, None),
        (o::AND.into(), 1, None),
        (o::XOR.into(), 6, None),
        (i32::from(o::ADD) | o::ATOMIC_FETCH, 12, Some(5)),
        (i32::from(o::OR) | o::ATOMIC_FETCH, 7, Some(5)),
        (i32::from(o::AND) | o::ATOMIC_FETCH, 1, Some(5)),
        (i32::from(o::XOR) | o::ATOMIC_FETCH, 6, Some(5)),
        (o::ATOMIC_XCHG, 3, Some(5)),
    ];
    for (op, memory, fetched) in cases {
        let (src, memory) = if op == i32::from(o::ADD) || op == i32::from(o::ADD) | 1 {
            (7, memory)
        } else {
            (3, memory)
        };
        for size in [MemSize::W, MemSize::Dw] {
            let program = |result: u8| {
                run(move |c| {
                    c.store(size, 10, -8, 5)
                        .mov(3, src)
                        .atomic(size, op, 10, -8, 3)
                        .load(size, 2, 10, -8)
                        .mov(0, R(result))
                        .exit();
                })
            };
            assert_eq!(program(2), Ok(memory), "{op:#x} {size:?}");
            assert_eq!(
                program(3),
                Ok(fetched.unwrap_or(src as u64)),
                "{op:#x} {size:?}"
            );
        }
    }
}

#[test]
fn compare_and_exchange_works_on_r0() {
    for (expected, memory) in [(5, 9), (4, 5)] {
        let program = |result: u8| {
            run(move |c| {
                c.store(MemSize::Dw, 10, -8, 5)
                    .mov(0, expected)
                    .mov(1, 9)
                    .atomic(MemSize::Dw, o::ATOMIC_CMPXCHG, 10, -8, 1)
                    .load(MemSize::Dw, 2, 10, -8)
                    .mov(0, R(result))
                    .exit();
            })
        };
        assert_eq!(program(0), Ok(5));
        assert_eq!(program(2), Ok(memory));
    }
    let narrow = run(|c| {
        c.store(MemSize::W, 10, -8, 5)
            .imm64(0, 0xffff_ffff_0000_0005)
            .mov(1, 9)
            .atomic(MemSize::W, o::ATOMIC_CMPXCHG, 10, -8, 1)
            .exit();
    });
    assert_eq!(
        narrow,
        Ok(5),
        "32 bits are compared, and r0 is zero-extended"
    );
}

#[test]
fn subprograms_keep_the_callers_registers_and_stack() {
    let got = run(|c| {
        let (sub, inner) = (c.label(), c.label());
        c.mov(6, 100)
            .store(MemSize::Dw, 10, -8, 1000)
            .mov(1, 3)
            .call_local(sub);
        c.add(0, R(6))
            .load(MemSize::Dw, 1, 10, -8)
            .add(0, R(1))
            .exit();
        // sub(n) = inner(&n) + 1, spoiling everything of its own
        c.bind(sub)
            .mov(6, 1)
            .store(MemSize::Dw, 10, -8, R(1))
            .mov(1, R(10))
            .add(1, -8);
        c.call_local(inner).add(0, R(6)).exit();
        // inner(p) = *p * 2
        c.bind(inner)
            .load(MemSize::Dw, 0, 1, 0)
            .alu(o::LSH, 0, 1)
            .exit();
    });
    assert_eq!(got, Ok(1107));
}

#[test]
fn eight_calls_deep_and_no_more() {
    let nested = |depth: i32| {
        run(move |c| {
            let (sub, stop) = (c.label(), c.label());
            c.mov(1, depth).call_local(sub).exit();
            c.bind(sub)
                .mov(0, 42)
                .jump_eq(1, 0, stop)
                .add(1, -1)
                .call_local(sub);
            c.bind(stop).exit();
        })
    };
    assert_eq!(nested(6), Ok(42));
    assert_eq!(nested(7), Err(TrapReason::CallDepth));
}

#[test]
fn spilled_pointers_stay_pointers() {
    let spill = |restore: fn(&mut Asm)| {
        run(move |c| {
            c.load(MemSize::W, 1, 1, 0).store(MemSize::Dw, 10, -8, R(1));
            restore(c);
            c.load(MemSize::B, 0, 2, 5).exit();
        })
    };
    assert_eq!(
        spill(|c| {
            c.load(MemSize::Dw, 2, 10, -8);
        }),
        Ok(5)
    );
    let overwritten = spill(|c| {
        c.store(MemSize::B, 10, -3, 0).load(MemSize::Dw, 2, 10, -8);
    });
    assert_eq!(overwritten, Err(TrapReason::NotPointer));
    let copied_in_halves = spill(|c| {
        c.load(MemSize::W, 3, 10, -8).load(MemSize::W, 4, 10, -4);
        c.store(MemSize::W, 10, -16, R(3))
            .store(MemSize::W, 10, -12, R(4));
        c.load(MemSize::Dw, 2, 10, -16);
    });
    assert_eq!(copied_in_halves, Err(TrapReason::NotPointer));
}

#[test]
fn addresses_inside_a_map_value() {
    let array = map(MapType::Array, 4, 16, 1);
    let got = run_with(std::slice::from_ref(&array), |c| {
        c.map_value(1, 0, 8).store(MemSize::Dw, 1, 0, 77);
        c.map_value(2, 0, 0).load(MemSize::Dw, 0, 2, 8).exit();
    });
    assert_eq!(got, Ok(77));
    let outside = run_with(&[array], |c| {
        c.map_value(1, 0, 12).load(MemSize::Dw, 0, 1, 0).exit();
    });
    assert_eq!(outside, Err(TrapReason::MapValue));
}

#[test]
fn tail_calls_replace_the_program_up_to_the_limit() {
    let mut machine = Machine::new(&[
        map(MapType::ProgArray, 4, 4, 3),
        map(MapType::Array, 4, 8, 1),
    ]);
    // Counts its runs, then tail-calls entry 0, itself.
    let mut again = Asm::new();
    again.mov(6, R(1)).map_value(2, 1, 0).mov(3, 1);
    again.atomic(MemSize::Dw, o::ADD.into(), 2, 0, 3);
    again
        .mov(1, R(6))
        .map(2, 0)
        .mov(3, 0)
        .call(squalus_isa::HelperId::TAIL_CALL);
    again.map_value(2, 1, 0).load(MemSize::Dw, 0, 2, 0).exit();
    machine.add(&again.finish());
    machine.maps[0].set_program(0, Some(0)).unwrap();
    assert_eq!(machine.run(), Ok(34));
}

#[test]
fn a_tail_call_in_a_subprogram_returns_to_the_caller() {
    let mut machine = Machine::new(&[map(MapType::ProgArray, 4, 4, 2)]);
    let mut main = Asm::new();
    let sub = main.label();
    main.mov(6, 100).call_local(sub).add(0, R(6)).exit();
    main.bind(sub)
        .map(2, 0)
        .mov(3, 1)
        .call(squalus_isa::HelperId::TAIL_CALL)
        .mov(0, 1)
        .exit();
    machine.add(&main.finish());
    let mut other = Asm::new();
    other.mov(0, 7).exit();
    let other = machine.add(&other.finish());
    assert_eq!(machine.run(), Ok(101), "an empty entry falls through");
    machine.maps[0].set_program(1, Some(other as u32)).unwrap();
    assert_eq!(machine.run(), Ok(107));
    machine.maps[0].set_program(1, Some(99)).unwrap();
    assert_eq!(machine.run(), Err(TrapReason::TailCall));
}

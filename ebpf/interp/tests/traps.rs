//! What the kernel's verifier would reject ends as the right trap, when it happens.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{Machine, map, run, run_with};
use squalus_isa::{HelperId, MapFlags, MapType, MemSize, opcode as o};
use squalus_runtime::TrapReason as T;
use squalus_runtime::asm::{Asm, R};

#[test]
fn packet_accesses_are_bounded_by_its_ends() {
    let at = |size, off| {
        run(move |c| {
            c.load(MemSize::W, 1, 1, 0).load(size, 0, 1, off).exit();
        })
    };
    assert_eq!(at(MemSize::B, 63), Ok(63));
    assert_eq!(at(MemSize::Dw, 56), Ok(0x3f3e_3d3c_3b3a_3938));
    assert_eq!(at(MemSize::B, 64), Err(T::Packet));
    assert_eq!(at(MemSize::Dw, 57), Err(T::Packet));
    assert_eq!(at(MemSize::B, -1), Err(T::Packet));
    let past = run(|c| {
        c.load(MemSize::W, 1, 1, 0)
            .imm64(2, u64::MAX - 4)
            .add(1, R(2))
            .load(MemSize::Dw, 0, 1, 0)
            .exit();
    });
    assert_eq!(past, Err(T::Packet));
}

#[test]
fn the_end_of_the_packet_is_for_comparisons() {
    let length = run(|c| {
        c.load(MemSize::W, 2, 1, 4)
            .load(MemSize::W, 3, 1, 0)
            .mov(0, R(2))
            .alu(o::SUB, 0, R(3))
            .exit();
    });
    assert_eq!(length, Ok(64));
    let through = run(|c| {
        c.load(MemSize::W, 2, 1, 4)
            .load(MemSize::B, 0, 2, -1)
            .exit();
    });
    assert_eq!(through, Err(T::NotPointer));
}

#[test]
fn packet_pointers_die_with_an_adjustment() {
    for (helper, delta) in [
        (HelperId::XDP_ADJUST_HEAD, -8),
        (HelperId::XDP_ADJUST_HEAD, 10_000),
        (HelperId::XDP_ADJUST_TAIL, 4),
        (HelperId::XDP_ADJUST_META, -4),
    ] {
        let stale = run(|c| {
            c.mov(6, R(1))
                .load(MemSize::W, 7, 1, 0)
                .mov(2, delta)
                .call(helper);
            c.load(MemSize::B, 0, 7, 0).exit();
        });
        assert_eq!(stale, Err(T::StalePacket), "{helper}");
        let fresh = run(|c| {
            c.mov(6, R(1))
                .mov(2, delta)
                .call(helper)
                .load(MemSize::W, 7, 6, 0);
            c.load(MemSize::B, 1, 7, 20).mov(0, 1).exit();
        });
        assert_eq!(fresh, Ok(1), "{helper}");
    }
}

#[test]
fn the_stack_ends_at_512_bytes() {
    let at = |size, off| {
        run(move |c| {
            c.load(size, 0, 10, off).exit();
        })
    };
    assert_eq!(at(MemSize::Dw, -512), Ok(0));
    assert_eq!(at(MemSize::B, -1), Ok(0));
    assert_eq!(at(MemSize::B, 0), Err(T::Stack));
    assert_eq!(at(MemSize::H, -1), Err(T::Stack));
    assert_eq!(at(MemSize::B, -513), Err(T::Stack));
}

#[test]
fn a_dead_calls_stack_is_gone() {
    let got = run(|c| {
        let sub = c.label();
        c.call_local(sub).load(MemSize::B, 0, 0, 0).exit();
        c.bind(sub).mov(0, R(10)).add(0, -8).exit();
    });
    assert_eq!(got, Err(T::Stack));
    let reused = run(|c| {
        let sub = c.label();
        c.mov(1, R(10))
            .call_local(sub)
            .load(MemSize::Dw, 6, 10, -8)
            .mov(1, R(10))
            .call_local(sub);
        c.load(MemSize::B, 0, 6, 0).exit();
        c.bind(sub)
            .mov(2, R(10))
            .add(2, -8)
            .store(MemSize::Dw, 1, -8, R(2))
            .mov(0, 0)
            .exit();
    });
    assert_eq!(
        reused,
        Err(T::Stack),
        "a later call of the same depth has another stack"
    );
}

#[test]
fn numbers_are_not_pointers() {
    let scalar = run(|c| {
        c.imm64(1, 0x7fff_0000_0000)
            .load(MemSize::B, 0, 1, 0)
            .exit();
    });
    assert_eq!(scalar, Err(T::NotPointer));
    let null = run(|c| {
        c.mov(1, 0).load(MemSize::B, 0, 1, 8).exit();
    });
    assert_eq!(null, Err(T::NullPointer));
    for op in [o::AND, o::OR, o::XOR, o::MUL, o::RSH] {
        let masked = run(|c| {
            c.mov(1, R(10))
                .add(1, -8)
                .alu(op, 1, 0)
                .load(MemSize::B, 0, 1, 0)
                .exit();
        });
        assert!(
            matches!(masked, Err(T::NotPointer | T::NullPointer)),
            "{op:#x}"
        );
    }
    let narrowed = run(|c| {
        c.alu32(o::MOV, 1, R(10)).load(MemSize::B, 0, 1, -8).exit();
    });
    assert_eq!(narrowed, Err(T::NotPointer));
}

#[test]
fn registers_must_be_written_first() {
    let cases: [fn(&mut Asm); 7] = [
        |c| {
            c.exit();
        },
        |c| {
            c.mov(0, R(5)).exit();
        },
        |c| {
            c.add(0, 1).exit();
        },
        |c| {
            c.mov(0, 0).store(MemSize::B, 10, -1, R(4)).exit();
        },
        |c| {
            c.load(MemSize::B, 0, 9, 0).exit();
        },
        |c| {
            let out = c.label();
            c.mov(0, 0).jump_eq(8, 0, out).bind(out).exit();
        },
        |c| {
            c.mov(3, 1).call(HelperId::KTIME_GET_NS).mov(0, R(3)).exit();
        },
    ];
    for case in cases {
        assert_eq!(run(case), Err(T::Uninitialised));
    }
}

#[test]
fn the_context_is_read_only_and_read_by_field() {
    let field = |off| {
        run(move |c| {
            c.load(MemSize::W, 0, 1, off).exit();
        })
    };
    assert_eq!(field(12), Ok(1));
    assert_eq!(field(16), Ok(0));
    assert_eq!(field(20), Ok(0));
    assert_eq!(field(24), Err(T::Context));
    assert_eq!(field(-4), Err(T::Context));
    for (size, off) in [
        (MemSize::Dw, 0),
        (MemSize::H, 12),
        (MemSize::B, 12),
        (MemSize::W, 2),
    ] {
        let got = run(|c| {
            c.load(size, 0, 1, off).exit();
        });
        assert_eq!(got, Err(T::Context));
    }
    let store = run(|c| {
        c.store(MemSize::W, 1, 12, 5).mov(0, 0).exit();
    });
    assert_eq!(store, Err(T::Context));
}

#[test]
fn map_values_are_bounded_exactly() {
    let at = |size, off| {
        run_with(&[map(MapType::Array, 4, 12, 4)], move |c| {
            let null = c.label();
            c.store(MemSize::W, 10, -4, 1)
                .map(1, 0)
                .mov(2, R(10))
                .add(2, -4);
            c.call(HelperId::MAP_LOOKUP_ELEM).jump_eq(0, 0, null);
            c.load(size, 0, 0, off).bind(null).exit();
        })
    };
    assert_eq!(at(MemSize::W, 8), Ok(0));
    assert_eq!(at(MemSize::Dw, 4), Ok(0));
    assert_eq!(at(MemSize::Dw, 8), Err(T::MapValue));
    assert_eq!(at(MemSize::B, 12), Err(T::MapValue));
    assert_eq!(at(MemSize::B, -1), Err(T::MapValue));
}

#[test]
fn a_missed_lookup_is_a_null_pointer() {
    let got = run_with(&[map(MapType::Array, 4, 12, 4)], |c| {
        c.store(MemSize::W, 10, -4, 4)
            .map(1, 0)
            .mov(2, R(10))
            .add(2, -4);
        c.call(HelperId::MAP_LOOKUP_ELEM)
            .load(MemSize::W, 0, 0, 0)
            .exit();
    });
    assert_eq!(got, Err(T::NullPointer));
}

#[test]
fn read_only_maps_are_not_written() {
    let mut def = map(MapType::Array, 4, 8, 1);
    def.flags = MapFlags::RDONLY_PROG;
    let defs = [def];
    let store = run_with(&defs, |c| {
        c.map_value(1, 0, 0)
            .store(MemSize::B, 1, 0, 1)
            .mov(0, 0)
            .exit();
    });
    assert_eq!(store, Err(T::ReadOnly));
    let update = run_with(&defs, |c| {
        c.store(MemSize::Dw, 10, -8, 0)
            .map(1, 0)
            .mov(2, R(10))
            .add(2, -8)
            .mov(3, R(2))
            .mov(4, 0);
        c.call(HelperId::MAP_UPDATE_ELEM).exit();
    });
    assert_eq!(update, Err(T::ReadOnly));
}

#[test]
fn atomics_need_alignment_and_their_own_memory() {
    let misaligned = run(|c| {
        c.mov(1, 1)
            .atomic(MemSize::Dw, o::ADD.into(), 10, -12, 1)
            .mov(0, 0)
            .exit();
    });
    assert_eq!(misaligned, Err(T::Misaligned));
    let packet = run(|c| {
        c.load(MemSize::W, 1, 1, 0)
            .mov(2, 1)
            .atomic(MemSize::W, o::ADD.into(), 1, 0, 2)
            .mov(0, 0)
            .exit();
    });
    assert_eq!(packet, Err(T::AtomicPlace));
}

#[test]
fn endless_loops_run_out_of_budget() {
    let mut machine = Machine::new(&[]);
    machine.env.budget_per_run = 1000;
    let mut code = Asm::new();
    let again = code.label();
    code.mov(0, 0).bind(again).add(0, 1).jump(again);
    machine.add(&code.finish());
    assert_eq!(machine.run(), Err(T::Budget));
    let trap = machine.trap.unwrap();
    assert!(trap.registers[0] > 400, "{trap}");
    assert_eq!(machine.env.trap_slot as usize, trap.slot);
}

#[test]
fn programs_return_numbers() {
    let got = run(|c| {
        c.mov(0, R(10)).exit();
    });
    assert_eq!(got, Err(T::Return));
}

type Program = fn(&mut Asm);

#[test]
fn helpers_check_their_arguments() {
    let array = [map(MapType::Array, 4, 8, 1)];
    let wrong: [(T, Program); 9] = [
        // No map.
        (T::Argument, |c| {
            c.mov(1, 0)
                .mov(2, R(10))
                .add(2, -4)
                .call(HelperId::MAP_LOOKUP_ELEM)
                .exit();
        }),
        // A key that leaves the stack.
        (T::Stack, |c| {
            c.map(1, 0)
                .mov(2, R(10))
                .add(2, -3)
                .call(HelperId::MAP_LOOKUP_ELEM)
                .exit();
        }),
        // A number as key.
        (T::NotPointer, |c| {
            c.map(1, 0)
                .mov(2, 0x7000_0000)
                .call(HelperId::MAP_LOOKUP_ELEM)
                .exit();
        }),
        // A helper for other maps.
        (T::HelperMap, |c| {
            c.map(2, 0).mov(3, 0).call(HelperId::TAIL_CALL).exit();
        }),
        (T::HelperMap, |c| {
            c.map(1, 0)
                .mov(2, R(10))
                .add(2, -4)
                .mov(3, 0)
                .call(HelperId::MAP_LOOKUP_PERCPU_ELEM)
                .exit();
        }),
        // No context.
        (T::Argument, |c| {
            c.mov(1, R(10))
                .mov(2, 0)
                .call(HelperId::XDP_ADJUST_HEAD)
                .exit();
        }),
        // A length of 0 where one is needed, and one too long.
        (T::Argument, |c| {
            c.mov(2, 0)
                .mov(3, R(10))
                .mov(4, 0)
                .call(HelperId::XDP_LOAD_BYTES)
                .exit();
        }),
        (T::Stack, |c| {
            c.mov(2, 0)
                .mov(3, R(10))
                .add(3, -8)
                .mov(4, 9)
                .call(HelperId::XDP_LOAD_BYTES)
                .exit();
        }),
        // Null memory with a length.
        (T::Argument, |c| {
            c.mov(1, 0)
                .mov(2, 4)
                .mov(3, 0)
                .mov(4, 0)
                .mov(5, 0)
                .call(HelperId::CSUM_DIFF)
                .exit();
        }),
    ];
    for (n, (reason, case)) in wrong.into_iter().enumerate() {
        assert_eq!(run_with(&array, case), Err(reason), "case {n}");
    }
}

//! What loops do not lose, what they must lose, and whether they end.

use squalus_analysis::{Access, Area, Scalar, Value};
use squalus_isa::{HelperId, Inst, MemSize, Reg, opcode as o};
use squalus_runtime::asm::{Asm, R};

use crate::{PACKET, accesses, end, facts, packet, require};

#[test]
fn loops_over_the_packet_are_proved() {
    let mut asm = Asm::new();
    let (again, out) = (asm.label(), asm.label());
    packet(&mut asm);
    asm.mov(0, 0).bind(again);
    require(&mut asm, 7, 2, out);
    asm.load(MemSize::H, 1, 7, 0)
        .add(0, R(1))
        .add(7, 2)
        .jump(again);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(accesses(&program, &facts), [PACKET]);
}

#[test]
fn loop_counters_keep_their_bounds() {
    let mut asm = Asm::new();
    let again = asm.label();
    asm.mov(1, 0)
        .bind(again)
        .mov(2, R(10))
        .add(2, -16)
        .add(2, R(1))
        .store(MemSize::B, 2, 0, 1)
        .add(1, 1)
        .jump_if(o::JLT, 1, 16, again)
        .mov(0, 0)
        .exit();
    let (program, facts) = facts(&asm, &[]);
    let store = program
        .insts()
        .iter()
        .position(|decoded| matches!(decoded.inst, Inst::Store { .. }));
    let known = facts
        .inst(store.expect("there is a store"))
        .expect("it is reached");
    assert_eq!(known.access, Some(Access::Proved(Area::Stack)));
    let r1 = Reg::new(1).expect("r1 exists");
    assert_eq!(known.reg(r1), Value::Scalar(Scalar::between(0, 15)));
}

/// A loop of `rounds` rounds in which r2 moves by `by` from `fp + from` and is stored through.
fn beside(rounds: i32, from: i32, by: i32, narrow: bool) -> Access {
    let mut asm = Asm::new();
    let again = asm.label();
    asm.mov(1, 3 * rounds)
        .mov(2, R(10))
        .add(2, from)
        .bind(again)
        .store(MemSize::B, 2, 0, 1)
        .add(2, by);
    match narrow {
        true => asm.alu32(o::ADD, 1, -3),
        false => asm.add(1, -3),
    };
    asm.jump_if(o::JNE, 1, 0, again).mov(0, 0).exit();
    let (program, facts) = facts(&asm, &[]);
    let insts = program.insts().iter();
    let mut stores = insts
        .zip(0..)
        .filter(|(d, _)| matches!(d.inst, Inst::Store { .. }));
    let (_, store) = stores.next().expect("there is a store");
    let known = facts.inst(store).expect("it is reached");
    known.access.expect("it is an access")
}

#[test]
fn what_moves_beside_a_counter_is_bounded_by_it() {
    let proved = Access::Proved(Area::Stack);
    for narrow in [false, true] {
        assert_eq!(beside(64, -512, 8, narrow), proved);
        assert_eq!(beside(512, -1, -1, narrow), proved);
        assert_ne!(beside(65, -512, 8, narrow), proved);
        assert_ne!(beside(513, -1, -1, narrow), proved);
        // The counter leaps over its end.
        assert_ne!(beside(64, -512, 9, narrow), proved);
    }
}

#[test]
fn a_pointer_that_was_lost_does_not_move_any_more() {
    let mut asm = Asm::new();
    let (again, on) = (asm.label(), asm.label());
    packet(&mut asm);
    asm.store(MemSize::Dw, 10, -8, 0)
        .mov(9, R(7))
        .bind(again)
        .mov(1, R(6))
        .mov(2, -1)
        .call(HelperId::XDP_ADJUST_TAIL)
        .mov(3, 0)
        .jump_eq(0, 0, on)
        .mov(3, 1)
        .bind(on)
        // The old address, as a number.
        .mov(2, R(9))
        .store(MemSize::B, 10, -16, R(3))
        .load(MemSize::W, 9, 6, 0)
        .load(MemSize::Dw, 8, 10, -8)
        .alu(o::ADD, 9, R(8))
        .add(9, 1)
        .add(8, 1)
        .store(MemSize::Dw, 10, -8, R(8))
        .jump_if(o::JLT, 8, 16, again)
        .mov(0, 2)
        .exit();
    let (program, facts) = facts(&asm, &[]);
    let known = facts.inst(program.index_of(11).expect("there are so many"));
    let r9 = Reg::new(9).expect("r9 exists");
    assert_eq!(known.expect("it is reached").reg(r9), Value::TOP);
}

#[test]
fn a_packet_that_changes_in_the_loop_bounds_nothing() {
    for (helper, proved) in [(None, true), (Some(HelperId::XDP_ADJUST_TAIL), false)] {
        let mut asm = Asm::new();
        let (again, out) = (asm.label(), asm.label());
        packet(&mut asm);
        require(&mut asm, 7, 32, out);
        asm.store(MemSize::Dw, 10, -8, 0)
            .mov(9, R(7))
            .bind(again)
            .load(MemSize::B, 0, 9, 0);
        if let Some(helper) = helper {
            asm.mov(1, R(6)).mov(2, -1).call(helper);
        }
        asm.add(9, 1)
            .load(MemSize::Dw, 1, 10, -8)
            .add(1, 1)
            .store(MemSize::Dw, 10, -8, R(1))
            .jump_if(o::JLT, 1, 32, again);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(accesses(&program, &facts) == [PACKET], proved);
    }
}

#[test]
fn loops_that_are_seen_to_end() {
    // The step, the condition to go on, and whether the counter is written in another way too.
    for (step, cond, spoilt, ends) in [
        (2, o::JLT, false, true),
        (0, o::JLT, false, false),
        (2, o::JNE, false, true),
        (3, o::JNE, false, false),
        (2, o::JLT, true, false),
    ] {
        let mut asm = Asm::new();
        let (again, on) = (asm.label(), asm.label());
        asm.mov(1, 0).bind(again);
        if spoilt {
            asm.mov(2, R(1))
                .jump_eq(2, 7, on)
                .alu(o::AND, 1, 7)
                .bind(on);
        } else {
            asm.bind(on);
        }
        if step > 0 {
            asm.add(1, step);
        }
        asm.jump_if(cond, 1, 16, again).mov(0, 0).exit();
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(
            facts.unbounded_loops(&program).is_empty(),
            ends,
            "{step} {cond} {spoilt}"
        );
    }
}

//! Frames of functions that call each other.

use squalus_analysis::{Access, Area, Scalar, Value};
use squalus_isa::{HelperId, Inst, MemSize, Reg, opcode as o};
use squalus_runtime::asm::{Asm, R};

use crate::{CHECKED, PACKET, accesses, end, facts, packet, require};

#[test]
fn a_callee_that_gets_a_stack_pointer_may_write_there() {
    for (pass, known) in [(false, true), (true, false)] {
        let mut asm = Asm::new();
        let sub = asm.label();
        asm.store(MemSize::Dw, 10, -8, 5).mov(1, 0);
        if pass {
            asm.mov(1, R(10)).add(1, -8);
        }
        asm.call_local(sub)
            .load(MemSize::Dw, 0, 10, -8)
            .exit()
            .bind(sub)
            .mov(0, 0);
        if pass {
            asm.store(MemSize::Dw, 1, 0, 6);
        }
        asm.exit();
        let (program, facts) = facts(&asm, &[]);
        let exit = program.insts().iter().position(|d| d.inst == Inst::Exit);
        let exit = facts
            .inst(exit.expect("there is an exit"))
            .expect("it is reached");
        let five = Value::Scalar(Scalar::constant(5));
        assert_eq!(exit.reg(Reg::R0) == five, known);
    }
}

/// What a caller keeps in its frame is known where a pointer to it leads, with names and bounds.
#[test]
fn callees_know_the_frames_of_their_callers() {
    for (off, expected) in [(13, PACKET), (14, CHECKED)] {
        let mut asm = Asm::new();
        let (sub, out) = (asm.label(), asm.label());
        asm.load(MemSize::W, 2, 1, 0)
            .store(MemSize::Dw, 10, -16, R(2))
            .load(MemSize::W, 2, 1, 4)
            .store(MemSize::Dw, 10, -8, R(2))
            .mov(1, R(10))
            .add(1, -16)
            .call_local(sub)
            .exit()
            .bind(sub)
            .load(MemSize::Dw, 7, 1, 0)
            .load(MemSize::Dw, 8, 1, 8);
        require(&mut asm, 7, 14, out);
        asm.load(MemSize::B, 0, 7, off);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(accesses(&program, &facts), [expected]);
    }
}

/// A callee puts into its caller's frame the packet's start, or the address of its own frame, which is gone
/// when it returns.
#[test]
fn what_callees_leave_in_frames_is_known_but_for_their_own() {
    for (own, expected) in [(false, PACKET), (true, Access::Checked(Area::Any))] {
        let mut asm = Asm::new();
        let (sub, out) = (asm.label(), asm.label());
        packet(&mut asm);
        require(&mut asm, 7, 8, out);
        asm.mov(1, R(10))
            .add(1, -16)
            .mov(2, R(7))
            .call_local(sub)
            .load(MemSize::Dw, 3, 10, -16)
            .load(MemSize::Dw, 0, 3, 0);
        end(&mut asm, out);
        asm.bind(sub);
        if own {
            asm.mov(2, R(10)).add(2, -8);
        }
        asm.store(MemSize::Dw, 1, 0, R(2)).mov(0, 0).exit();
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(accesses(&program, &facts), [expected]);
    }
}

/// What two calls leave in the same place are two values: a comparison of one tells nothing of the other.
#[test]
fn what_each_call_leaves_is_its_own() {
    let mut asm = Asm::new();
    let (sub, near, out) = (asm.label(), asm.label(), asm.label());
    let call = |asm: &mut Asm| {
        asm.load(MemSize::B, 3, 7, 0)
            .mov(1, R(10))
            .add(1, -16)
            .mov(2, R(7))
            .call_local(sub)
            .load(MemSize::Dw, 1, 10, -16);
    };
    packet(&mut asm);
    require(&mut asm, 7, 1, out);
    call(&mut asm);
    asm.store(MemSize::Dw, 10, -24, R(1));
    require(&mut asm, 1, 8, out);
    asm.load(MemSize::Dw, 0, 1, 0);
    call(&mut asm);
    asm.load(MemSize::Dw, 0, 1, 0)
        .load(MemSize::Dw, 1, 10, -24)
        .load(MemSize::Dw, 0, 1, 0);
    end(&mut asm, out);
    asm.bind(sub)
        .jump_if(o::JNE, 3, 6, near)
        .add(2, 30)
        .bind(near)
        .store(MemSize::Dw, 1, 0, R(2))
        .mov(0, 0)
        .exit();
    let (program, facts) = facts(&asm, &[]);
    let [_, first, _, second, _] = accesses(&program, &facts)[..] else {
        panic!("five loads");
    };
    assert_eq!(second, CHECKED, "{first:?}");
}

/// A callee moves the packet: what its caller kept in its frame is stale.
#[test]
fn frames_of_callers_hold_no_stale_pointers() {
    for moves in [false, true] {
        let mut asm = Asm::new();
        let (sub, out) = (asm.label(), asm.label());
        packet(&mut asm);
        require(&mut asm, 7, 8, out);
        asm.store(MemSize::Dw, 10, -16, R(7))
            .mov(1, R(6))
            .mov(2, R(10))
            .add(2, -16)
            .call_local(sub);
        end(&mut asm, out);
        asm.bind(sub).mov(6, R(2));
        if moves {
            asm.mov(2, 0).call(HelperId::XDP_ADJUST_HEAD);
        }
        asm.load(MemSize::Dw, 3, 6, 0)
            .load(MemSize::Dw, 0, 3, 0)
            .exit();
        let (program, facts) = facts(&asm, &[]);
        let expected = if moves {
            Access::Checked(Area::Any)
        } else {
            PACKET
        };
        assert_eq!(accesses(&program, &facts), [expected]);
    }
}

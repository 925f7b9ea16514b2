//! What the analysis proves, and what it must not claim.

use std::sync::Arc;

use squalus_analysis::{Access, AnalysisError, Area, Facts, Scalar, Value, analyse};
use squalus_isa::{HelperId, Inst, MapDef, MapFlags, MapType, MemSize, Reg, opcode as o};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::LinkedProgram;
use squalus_runtime::asm::{Asm, Label, R};

fn hash(value_size: u32) -> MapDef {
    MapDef {
        name: "map".into(),
        kind: MapType::Hash,
        key_size: 4,
        value_size,
        max_entries: 4,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: Default::default(),
    }
}

fn link(asm: &Asm, defs: &[MapDef]) -> LinkedProgram {
    let env = MapEnv::with_seed(1, 7);
    let maps: Vec<Arc<Map>> = defs
        .iter()
        .map(|def| Map::new(def, &env).expect("the definition is valid"))
        .collect();
    LinkedProgram::new("test", &asm.finish(), maps.into(), Vec::new()).expect("the program links")
}

fn facts(asm: &Asm, defs: &[MapDef]) -> (LinkedProgram, Facts) {
    let program = link(asm, defs);
    let facts = analyse(&program).expect("the program can be right");
    (program, facts)
}

/// All memory accesses but those of the context and the stack, in order.
fn accesses(program: &LinkedProgram, facts: &Facts) -> Vec<Access> {
    (0..program.insts().len())
        .filter_map(|n| facts.inst(n)?.access)
        .filter(|access| !matches!(access, Access::Context(_) | Access::Proved(Area::Stack)))
        .collect()
}

/// r6 is the context, r7 the packet, r8 its end.
fn packet(asm: &mut Asm) {
    asm.mov(6, R(1))
        .load(MemSize::W, 7, 6, 0)
        .load(MemSize::W, 8, 6, 4);
}

/// Goes to `out` unless `bytes` bytes follow `pointer`.
fn require(asm: &mut Asm, pointer: u8, bytes: i32, out: Label) {
    asm.mov(9, R(pointer))
        .add(9, bytes)
        .jump_if(o::JGT, 9, R(8), out);
}

fn end(asm: &mut Asm, out: Label) {
    asm.bind(out).mov(0, 2).exit();
}

const PACKET: Access = Access::Proved(Area::Packet);
const CHECKED: Access = Access::Checked(Area::Packet);

#[test]
fn a_compared_length_proves_all_before_it() {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    require(&mut asm, 7, 14, out);
    asm.load(MemSize::H, 0, 7, 12)
        .load(MemSize::H, 0, 7, 13)
        .load(MemSize::B, 0, 7, -1);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(accesses(&program, &facts), [PACKET, CHECKED, CHECKED]);
}

#[test]
fn variable_offsets_are_proved_by_their_own_comparison() {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    require(&mut asm, 7, 34, out);
    // The header's length in words, at most 15.
    asm.load(MemSize::B, 1, 7, 14)
        .alu(o::AND, 1, 15)
        .alu(o::LSH, 1, 2)
        .mov(2, R(7))
        .add(2, R(1))
        .add(2, 14);
    require(&mut asm, 2, 8, out);
    asm.load(MemSize::W, 0, 2, 4)
        .load(MemSize::W, 0, 2, 5)
        .load(MemSize::B, 0, 2, -14);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(
        accesses(&program, &facts),
        [PACKET, PACKET, CHECKED, PACKET]
    );
}

#[test]
fn pointers_that_differ_by_path_keep_their_distance() {
    let mut asm = Asm::new();
    let (v6, on, out) = (asm.label(), asm.label(), asm.label());
    packet(&mut asm);
    require(&mut asm, 7, 14, out);
    asm.load(MemSize::H, 1, 7, 12)
        .mov(2, R(7))
        .mov(3, R(7))
        .jump_if(o::JNE, 1, 8, v6)
        .add(2, 34)
        .add(3, 42)
        .jump(on)
        .bind(v6)
        .add(2, 54)
        .add(3, 62)
        .bind(on)
        // r3 is r2 + 8 on both paths.
        .jump_if(o::JGT, 3, R(8), out)
        .load(MemSize::Dw, 0, 2, 0)
        .load(MemSize::Dw, 0, 2, 1);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(accesses(&program, &facts), [PACKET, PACKET, CHECKED]);
}

#[test]
fn bounds_survive_a_spill_but_not_an_adjustment() {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    require(&mut asm, 7, 20, out);
    asm.store(MemSize::Dw, 10, -8, R(7))
        .mov(7, 0)
        .load(MemSize::Dw, 7, 10, -8)
        .load(MemSize::W, 0, 7, 16)
        .mov(1, R(6))
        .mov(2, 0)
        .call(HelperId::XDP_ADJUST_HEAD)
        .load(MemSize::W, 0, 7, 16);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(
        accesses(&program, &facts),
        [PACKET, Access::Checked(Area::Any)]
    );
}

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
fn a_second_comparison_with_the_end_is_decided_by_the_first() {
    let mut asm = Asm::new();
    let (short, out) = (asm.label(), asm.label());
    packet(&mut asm);
    // r1 is the payload or null, as an inlined function returns it.
    asm.mov(3, R(7))
        .add(3, 14)
        .mov(1, 0)
        .jump_if(o::JGT, 3, R(8), short)
        .mov(1, R(7))
        .bind(short)
        .jump_if(o::JGT, 3, R(8), out)
        .load(MemSize::B, 0, 1, 13)
        .load(MemSize::B, 0, 1, 14);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(accesses(&program, &facts), [PACKET, CHECKED]);
}

#[test]
fn a_failed_comparison_bounds_the_packet_from_above() {
    // Whether a packet that ends before byte 14 can end at these.
    for (end_at, possible) in [(12, true), (13, true), (14, false)] {
        let mut asm = Asm::new();
        let (short, out) = (asm.label(), asm.label());
        packet(&mut asm);
        asm.mov(3, R(7))
            .mov(4, R(7))
            .add(3, 14)
            .add(4, end_at)
            .jump_if(o::JGT, 3, R(8), short)
            .jump(out)
            .bind(short)
            .jump_if(o::JGT, 4, R(8), out)
            .mov(0, 1);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[]);
        let insts = program.insts().iter().enumerate();
        let ones = insts.filter(|(_, d)| format!("{:?}", d.inst).contains("Imm(1)"));
        let reached: Vec<bool> = ones.map(|(n, _)| facts.inst(n).is_some()).collect();
        assert_eq!(reached, [possible], "{end_at}");
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

fn lookup(asm: &mut Asm, map: u32) {
    asm.store(MemSize::W, 10, -4, 1)
        .mov(2, R(10))
        .add(2, -4)
        .map(1, map)
        .call(HelperId::MAP_LOOKUP_ELEM);
}

#[test]
fn copies_of_a_pointer_are_null_together() {
    let mut asm = Asm::new();
    let out = asm.label();
    lookup(&mut asm, 0);
    asm.mov(6, R(0))
        .store(MemSize::Dw, 10, -16, R(0))
        .load(MemSize::B, 1, 6, 0)
        .jump_eq(0, 0, out)
        .load(MemSize::Dw, 1, 6, 0)
        .load(MemSize::Dw, 7, 10, -16)
        .load(MemSize::Dw, 1, 7, 8)
        .load(MemSize::Dw, 1, 7, 9);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[hash(16)]);
    let value = Access::Proved(Area::MapValue);
    assert_eq!(
        accesses(&program, &facts),
        [
            Access::Checked(Area::Any),
            value,
            value,
            Access::Checked(Area::MapValue)
        ]
    );
}

#[test]
fn one_of_two_maps_of_a_shape_is_known_by_it() {
    for (second, proved) in [(hash(16), true), (hash(8), false)] {
        let mut asm = Asm::new();
        let (other, on, out) = (asm.label(), asm.label(), asm.label());
        asm.call(HelperId::GET_PRANDOM_U32)
            .store(MemSize::W, 10, -4, 1)
            .jump_eq(0, 0, other)
            .map(1, 0)
            .jump(on)
            .bind(other)
            .map(1, 1)
            .bind(on)
            .mov(2, R(10))
            .add(2, -4)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, out)
            .load(MemSize::Dw, 1, 0, 8);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[hash(16), second]);
        let access = accesses(&program, &facts)[0];
        assert_eq!(access.is_proved(), proved, "{access:?}");
    }
}

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

#[test]
fn refusals_name_the_instruction() {
    let mut asm = Asm::new();
    asm.load(MemSize::Dw, 0, 1, 0).exit();
    let error: AnalysisError = analyse(&link(&asm, &[]))
        .err()
        .expect("it reads two fields at once");
    assert_eq!(
        error.to_string(),
        "program `test`, instruction 0: it reads 8 bytes at offset 0 of the context; \
         `struct xdp_md` has 4-byte fields at offsets 0 to 20"
    );
}

/// Pointers of the context are longer than what is read of them: a number of 32 bits with a sign is not what
/// the register would hold.
#[test]
fn pointers_of_the_context_have_no_sign() {
    for field in [0, 4, 8] {
        let mut asm = Asm::new();
        asm.load_signed(MemSize::W, 2, 1, field).mov(0, 0).exit();
        let error: AnalysisError = analyse(&link(&asm, &[]))
            .err()
            .expect("it extends the sign of a field");
        assert_eq!(
            error.to_string(),
            format!(
                "program `test`, instruction 0: it sign-extends what it reads at offset {field} of the \
                 context, which is a pointer"
            )
        );
    }
}

/// A pointer is set only where a number says so: whoever asks the number may use the pointer.
#[test]
fn paths_that_a_number_tells_apart_stay_apart() {
    for (asked, expected) in [(1, PACKET), (0, Access::Checked(Area::Any))] {
        let mut asm = Asm::new();
        let (on, out) = (asm.label(), asm.label());
        packet(&mut asm);
        require(&mut asm, 7, 34, out);
        asm.load(MemSize::B, 1, 7, 23)
            .mov(2, 0)
            .mov(3, 0)
            .jump_if(o::JNE, 1, 6, on)
            .mov(2, 1)
            .mov(3, R(7))
            .bind(on)
            .jump_if(o::JNE, 2, asked, out)
            .load(MemSize::B, 0, 3, 33);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(accesses(&program, &facts), [PACKET, expected]);
    }
}

/// The longer header was looked for where it is used, but only there.
#[test]
fn lengths_that_go_with_a_number_are_proved() {
    for (size, expected) in [(MemSize::W, PACKET), (MemSize::Dw, CHECKED)] {
        let mut asm = Asm::new();
        let (short, on, out) = (asm.label(), asm.label(), asm.label());
        packet(&mut asm);
        require(&mut asm, 7, 38, out);
        asm.load(MemSize::B, 1, 7, 14).jump_if(o::JNE, 1, 6, short);
        require(&mut asm, 7, 58, out);
        asm.mov(4, 54)
            .jump(on)
            .bind(short)
            .mov(4, 34)
            .bind(on)
            .mov(3, R(7))
            .add(3, R(4))
            .load(size, 0, 3, 0);
        end(&mut asm, out);
        let (program, facts) = facts(&asm, &[]);
        assert_eq!(accesses(&program, &facts), [PACKET, expected]);
    }
}

/// Where one path needs a check, it must allow what the other paths do.
#[test]
fn a_check_allows_the_areas_of_all_paths() {
    let mut asm = Asm::new();
    let (on, out) = (asm.label(), asm.label());
    packet(&mut asm);
    require(&mut asm, 7, 8, out);
    asm.load(MemSize::B, 1, 7, 0)
        .mov(2, R(7))
        .jump_if(o::JNE, 1, 6, on)
        .mov(2, R(10))
        .add(2, -16)
        .bind(on)
        .load(MemSize::Dw, 0, 2, 8);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    assert_eq!(
        accesses(&program, &facts),
        [PACKET, Access::Checked(Area::Any)]
    );
    assert!(facts.function(0).frame_escapes);
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

#[test]
fn checks_say_what_to_do() {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    asm.load(MemSize::H, 0, 7, 12)
        .store(MemSize::W, 10, -4, 1)
        .mov(2, R(10))
        .add(2, -4)
        .map(1, 0)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .load(MemSize::Dw, 1, 0, 0)
        .jump_eq(0, 0, out)
        .load(MemSize::Dw, 1, 0, 12);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[hash(16)]);
    let checks = facts.checks(&program);
    let reasons: Vec<&str> = checks.iter().map(|check| &*check.reason).collect();
    assert_eq!(
        reasons,
        [
            "the access may reach up to 14 bytes past data_end: compare data + 14 with data_end first",
            "r0 may be null: compare it with 0 first",
            "8 bytes at offset 12 of a value of `map`, which has 16: bound the offset with a comparison or `&`",
        ]
    );
    let r7 = Reg::new(7).expect("r7 exists");
    assert_eq!(checks[0].registers, [(r7, "data".to_owned())]);
    assert_eq!(
        checks[1].registers,
        [(Reg::R0, "value of map `map`, or null".to_owned())]
    );
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

#[test]
fn code_that_no_path_reaches_is_told() {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.mov(1, 1).jump_eq(1, 1, out).imm64(0, 1 << 40).mov(0, 1);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    let unreachable = facts.unreachable(&program);
    assert_eq!(unreachable, vec![std::ops::Range { start: 2, end: 5 }]);
}

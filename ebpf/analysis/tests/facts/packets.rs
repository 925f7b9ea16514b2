//! Bytes of the packet that comparisons with its end prove.

use squalus_analysis::{Access, Area};
use squalus_isa::{HelperId, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

use crate::{CHECKED, PACKET, accesses, end, facts, packet, require};

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
    assert_eq!(
        facts.function(0).lent,
        [u64::MAX; 8],
        "any byte may be used"
    );
}

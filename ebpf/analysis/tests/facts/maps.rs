//! Values of maps: null or not, one map or one of several.

use squalus_analysis::{Access, Area};
use squalus_isa::{HelperId, MemSize};
use squalus_runtime::asm::{Asm, R};

use crate::{accesses, end, facts, hash};

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

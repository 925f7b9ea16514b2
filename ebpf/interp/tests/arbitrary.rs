//! Any program the loader takes runs without a panic and ends: in a number or in a named trap.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use std::collections::BTreeMap;

use common::{Machine, map};
use squalus_isa::{MapType, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, Label, R};
use squalus_runtime::{Rng, TrapReason, protos};

struct Chaos {
    rng: Rng,
    code: Asm,
    places: Vec<Label>,
}

impl Chaos {
    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    fn program(mut self) -> Asm {
        let length = 4 + self.below(40);
        self.places = (0..=length).map(|_| self.code.label()).collect();
        for reg in 0..10 {
            match self.below(4) {
                0 if reg != 1 => {
                    self.code.mov(reg, R(10));
                }
                1 if reg != 1 => {
                    self.code.map(reg, 0);
                }
                2 => {}
                _ if reg != 1 => {
                    self.code.mov(reg, i32::from(reg));
                }
                _ => {}
            }
        }
        for at in 0..length {
            let here = self.places[at as usize];
            self.code.bind(here);
            self.instruction();
        }
        let last = self.places[length as usize];
        self.code.bind(last).mov(0, 2).exit();
        self.code
    }

    fn instruction(&mut self) {
        let (dst, src) = (self.below(10) as u8, self.below(11) as u8);
        let size = self.pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
        let off = self.pick(&[0i16, 0, 4, 8, 12, 20, 60, -4, -8, -16, -512, 511, i16::MIN]);
        let imm = self.pick(&[0, 1, -1, 4, 8, -8, 64, i32::MAX, i32::MIN]);
        match self.below(12) {
            0 | 1 => {
                self.code.load(size, dst, src, off);
            }
            2 => {
                self.code.store(size, src, off, R(dst));
            }
            3 => {
                self.code.store(size, src, off, imm);
            }
            4 => {
                let op = self.pick(&[o::ADD, o::SUB, o::MOV, o::AND, o::MUL, o::DIV, o::LSH]);
                self.code.alu(op, dst, R(src));
            }
            5 => {
                let op = self.pick(&[o::ADD, o::SUB, o::MOV]);
                self.code.alu(op, dst, imm);
            }
            6 => {
                let op = self.pick(&[o::ADD.into(), o::ATOMIC_XCHG, o::ATOMIC_CMPXCHG]);
                let size = self.pick(&[MemSize::W, MemSize::Dw]);
                self.code.atomic(size, op, src, off, dst);
            }
            7 => {
                let place = self.place();
                self.code.jump_if(o::JGT, dst, R(src), place);
            }
            8 => {
                let map = self.below(4);
                self.code.map(dst, map);
            }
            _ => self.helper(),
        }
    }

    fn place(&mut self) -> Label {
        let at = self.below(self.places.len() as u32);
        self.places[at as usize]
    }

    /// A helper with arguments that may just be right.
    fn helper(&mut self) {
        let protos = protos();
        let proto = &protos[self.below(protos.len() as u32) as usize];
        for reg in 1..=5 {
            match self.below(6) {
                0 => {
                    self.code.mov(reg, R(10)).add(reg, -16);
                }
                1 => {
                    self.code.mov(reg, 4);
                }
                2 => {
                    let map = self.below(4);
                    self.code.map(reg, map);
                }
                3 => {
                    self.code.mov(reg, R(6));
                }
                4 => {
                    self.code.map_value(reg, 1, 4);
                }
                _ => {}
            }
        }
        self.code.call(proto.id);
    }
}

#[test]
fn chaos_ends_in_a_number_or_a_trap() {
    let mut outer = map(MapType::ArrayOfMaps, 4, 4, 2);
    outer.inner = Some(Box::new(map(MapType::Array, 4, 4, 2)));
    let defs = [
        map(MapType::Hash, 4, 8, 4),
        map(MapType::Array, 4, 16, 2),
        outer,
        map(MapType::ProgArray, 4, 4, 2),
    ];
    let mut ends: BTreeMap<Option<TrapReason>, u32> = BTreeMap::new();
    for seed in 0..20_000 {
        let mut machine = Machine::new(&defs);
        machine.env.budget_per_run = 2000;
        machine.maps[3].set_program(0, Some(0)).unwrap();
        let mut chaos = Chaos {
            rng: Rng::seeded(seed),
            code: Asm::new(),
            places: Vec::new(),
        };
        // The context, kept where calls don't reach it.
        chaos.code.mov(6, R(1));
        machine.add(&chaos.program().finish());
        *ends.entry(machine.run().err()).or_default() += 1;
    }
    for reason in [
        None,
        Some(TrapReason::Packet),
        Some(TrapReason::Stack),
        Some(TrapReason::MapValue),
        Some(TrapReason::Context),
        Some(TrapReason::NotPointer),
        Some(TrapReason::Argument),
        Some(TrapReason::Budget),
    ] {
        assert!(
            ends.contains_key(&reason),
            "{reason:?} never happened: {ends:?}"
        );
    }
    assert_ne!(ends.get(&None), Some(&20_000));
}

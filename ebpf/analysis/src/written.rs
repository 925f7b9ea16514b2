//! Which maps a program may change.
//!
//! Where paths meet, a pointer to values of different maps is only known to lead to some map. Then the paths are
//! followed back to where it is known which, or where the pointer comes from elsewhere than another register.

use std::collections::HashSet;

use squalus_isa::{AluOp, CallTarget, Decoded, HelperId, Inst, MapFlags, Operand, Reg, Width};
use squalus_runtime::{LinkedProgram, Proto, proto};

use crate::calls::arg;
use crate::{Access, Area, Facts, InstFacts, MapRef, Shapes, Value};

impl Facts {
    /// For each of the program's maps, whether a run of it may change what the map holds: by a helper, by a store
    /// or an atomic operation in a value, or by a helper that writes through a pointer into a value. Atomic loads
    /// count, since they wait for others' stores.
    #[must_use]
    pub fn written_maps(&self, program: &LinkedProgram) -> Vec<bool> {
        let mut found = Written {
            facts: self,
            before: before(self),
            program,
            shapes: Shapes::new(program),
            maps: vec![false; program.maps().len()],
        };
        for (n, decoded) in program.insts().iter().enumerate() {
            if let Some(known) = self.inst(n) {
                found.instruction(n, known, decoded);
            }
        }
        found.maps
    }
}

/// For each block, the blocks that lead to it.
fn before(facts: &Facts) -> Vec<Vec<usize>> {
    let blocks = facts.cfg().blocks();
    let mut before = vec![Vec::new(); blocks.len()];
    for (n, block) in blocks.iter().enumerate() {
        for to in block.fall.into_iter().chain(block.jump) {
            before[to].push(n);
        }
    }
    before
}

struct Written<'a> {
    facts: &'a Facts,
    before: Vec<Vec<usize>>,
    program: &'a LinkedProgram,
    shapes: Shapes,
    maps: Vec<bool>,
}

impl Written<'_> {
    fn instruction(&mut self, n: usize, known: &InstFacts, decoded: &Decoded) {
        match decoded.inst {
            Inst::Store { base, .. } | Inst::Atomic { base, .. } => match known.access {
                Some(Access::Context(_)) => {}
                Some(Access::Proved(Area::MapValue)) => self.through(n, base),
                Some(Access::Proved(Area::Any) | Access::Checked(Area::MapValue | Area::Any))
                | None => self.all(),
                Some(Access::Proved(_) | Access::Checked(_)) => {}
            },
            Inst::Call(CallTarget::Helper(id)) => {
                if let Some(proto) = proto(id) {
                    self.helper(n, known, proto);
                }
            }
            _ => {}
        }
    }

    fn helper(&mut self, n: usize, known: &InstFacts, proto: &Proto) {
        if changes_map(proto.id) {
            match known.reg(Reg::R1) {
                Value::Map { map, .. } => self.map(map),
                _ => self.all(),
            }
        }
        for (at, kind) in proto.args.iter().enumerate() {
            if !kind.writes_through() {
                continue;
            }
            if known.unproved_args & 1 << at != 0 {
                self.all();
            } else {
                self.through(n, arg(at));
            }
        }
    }

    /// A write by instruction `n` through a register that is proved to be right.
    fn through(&mut self, n: usize, reg: Reg) {
        let mut pending = vec![(n, reg)];
        let mut seen = HashSet::new();
        while let Some((n, reg)) = pending.pop() {
            let Some(known) = self.facts.inst(n).filter(|_| seen.insert((n, reg))) else {
                continue;
            };
            match known.reg(reg) {
                Value::MapValue {
                    map: map @ MapRef::Values(_),
                    ..
                } => {
                    if !self.come_from(n, reg, &mut pending) {
                        self.map(map);
                    }
                }
                Value::MapValue { map, .. } => self.map(map),
                Value::Stack { .. } | Value::Packet { .. } | Value::Record { .. } => {}
                // Where a pointer may be null, it is a number.
                Value::Scalar(number) if number.as_constant() == Some(0) => {}
                _ => self.all(),
            }
        }
    }

    /// Adds where a register that instruction `n` finds comes from: registers that other instructions find. False if
    /// that is not all.
    fn come_from(&self, n: usize, reg: Reg, pending: &mut Vec<(usize, Reg)>) -> bool {
        let cfg = self.facts.cfg();
        let block = cfg.block_of(n);
        if n != cfg.blocks()[block].first {
            return self.left_by(n - 1, reg, pending);
        }
        if cfg.entry(cfg.blocks()[block].func) == block {
            return false;
        }
        let mut ends = self.before[block]
            .iter()
            .map(|&from| cfg.blocks()[from].end - 1);
        ends.all(|end| self.left_by(end, reg, pending))
    }

    /// As [`Written::come_from`], of what a register holds after an instruction.
    fn left_by(&self, n: usize, reg: Reg, pending: &mut Vec<(usize, Reg)>) -> bool {
        let from = match self.program.insts()[n].inst {
            Inst::Alu { dst, .. } if dst != reg => reg,
            Inst::Alu {
                width: Width::W64,
                op: AluOp::Mov,
                src: Operand::Reg(src),
                ..
            } => src,
            Inst::Alu {
                width: Width::W64,
                op: AluOp::Add | AluOp::Sub,
                src: Operand::Imm(_),
                ..
            } => reg,
            Inst::Load { dst, .. } | Inst::LoadImm { dst, .. } | Inst::End { dst, .. }
                if dst != reg =>
            {
                reg
            }
            Inst::Store { .. } | Inst::Jump { .. } | Inst::JumpIf { .. } | Inst::MayJump { .. } => {
                reg
            }
            Inst::Call(_) if reg.index() > 5 => reg,
            _ => return false,
        };
        pending.push((n, from));
        true
    }

    fn map(&mut self, map: MapRef) {
        for (n, written) in self.maps.iter_mut().enumerate() {
            *written |= self.shapes.may_be(map, n);
        }
    }

    /// Some map, but nobody knows which.
    fn all(&mut self) {
        for (written, map) in self.maps.iter_mut().zip(self.program.maps()) {
            *written |= !map.def().flags.contains(MapFlags::RDONLY_PROG);
        }
    }
}

const fn changes_map(id: HelperId) -> bool {
    matches!(
        id,
        HelperId::MAP_UPDATE_ELEM
            | HelperId::MAP_DELETE_ELEM
            | HelperId::MAP_PUSH_ELEM
            | HelperId::MAP_POP_ELEM
    )
}

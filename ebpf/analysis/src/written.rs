//! Which maps a program may change.

use squalus_isa::{CallTarget, Decoded, HelperId, Inst, MapFlags, Reg};
use squalus_runtime::{ArgKind, LinkedProgram, Proto, proto};

use crate::calls::arg;
use crate::{Access, Area, Facts, InstFacts, MapRef, Shapes, Value};

impl Facts {
    /// For each of the program's maps, whether a run of it may change what the map holds: by a helper, by a store
    /// or an atomic operation in a value, or by a helper that writes through a pointer into a value. Atomic loads
    /// count, since they wait for others' stores.
    #[must_use]
    pub fn written_maps(&self, program: &LinkedProgram) -> Vec<bool> {
        let mut found = Written {
            program,
            shapes: Shapes::new(program),
            maps: vec![false; program.maps().len()],
        };
        for (n, decoded) in program.insts().iter().enumerate() {
            if let Some(known) = self.inst(n) {
                found.instruction(known, decoded);
            }
        }
        found.maps
    }
}

struct Written<'a> {
    program: &'a LinkedProgram,
    shapes: Shapes,
    maps: Vec<bool>,
}

impl Written<'_> {
    fn instruction(&mut self, known: &InstFacts, decoded: &Decoded) {
        match decoded.inst {
            Inst::Store { base, .. } | Inst::Atomic { base, .. } => match known.access {
                Some(Access::Context(_)) => {}
                Some(Access::Proved(Area::MapValue)) => self.through(known.reg(base)),
                Some(Access::Proved(Area::Any) | Access::Checked(Area::MapValue | Area::Any))
                | None => self.all(),
                Some(Access::Proved(_) | Access::Checked(_)) => {}
            },
            Inst::Call(CallTarget::Helper(id)) => {
                if let Some(proto) = proto(id) {
                    self.helper(known, proto);
                }
            }
            _ => {}
        }
    }

    fn helper(&mut self, known: &InstFacts, proto: &Proto) {
        if changes_map(proto.id) {
            match known.reg(Reg::R1) {
                Value::Map { map, .. } => self.map(map),
                _ => self.all(),
            }
        }
        for (n, kind) in proto.args.iter().enumerate() {
            if !writes_through(*kind) {
                continue;
            }
            if known.unproved_args & 1 << n != 0 {
                self.all();
            } else {
                self.through(known.reg(arg(n)));
            }
        }
    }

    /// A write through a pointer that is proved to be right.
    fn through(&mut self, pointer: Value) {
        match pointer {
            Value::MapValue { map, .. } => self.map(map),
            Value::Stack { .. } | Value::Packet { .. } | Value::Record { .. } => {}
            _ => self.all(),
        }
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

/// Whether helpers write through such an argument. What a callback does with its context, its own stores say.
const fn writes_through(kind: ArgKind) -> bool {
    matches!(
        kind,
        ArgKind::MemWrite
            | ArgKind::MemUpdate
            | ArgKind::MapValueOut
            | ArgKind::MapValueUpdate
            | ArgKind::FixedOut { .. }
            | ArgKind::FixedUpdate { .. }
            | ArgKind::SpinLock
            | ArgKind::Timer
    )
}

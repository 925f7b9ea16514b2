//! Facts compared with what registers and stack slots really hold, instruction by instruction.

use squalus_analysis::{Access, Base, Facts, InstFacts, Interval, MapRef, Scalar, Value as Fact};
use squalus_isa::{Inst, Reg};
use squalus_runtime::{CtxField, STACK_SIZE, TrapReason};

use crate::machine::Machine;
use crate::value::{Kind, MapValue, Value};

/// What is false; nothing if all is true.
type Found = Result<(), String>;

impl Machine<'_> {
    /// Compares what is known before the current instruction with what is the case.
    pub fn check_facts(&self, facts: &Facts) -> Found {
        let known = facts
            .inst(self.at)
            .ok_or("execution is where no path leads")?;
        for n in 0..Reg::COUNT {
            let (value, fact) = (self.regs[n], known.regs[n]);
            if value.kind != Kind::Uninit && !self.is_true(&fact, value) {
                return Err(format!("r{n} holds {value:x?}, but {fact:?} was claimed"));
            }
        }
        self.check_index(known)?;
        let cfg = facts.cfg();
        let block = cfg.block_of(self.at);
        if cfg.blocks()[block].first == self.at {
            self.check_entry(facts, block)?;
        }
        Ok(())
    }

    /// Compares the stack frame and the length of the packet with what is known on entry of a block.
    fn check_entry(&self, facts: &Facts, block: usize) -> Found {
        let state = facts
            .entry(block)
            .ok_or("a block was entered that no path enters")?;
        let (packet, meta) = (
            self.limit(CtxField::DataEnd)
                .wrapping_sub(self.limit(CtxField::Data))
                .cast_signed(),
            self.limit(CtxField::Data)
                .wrapping_sub(self.limit(CtxField::DataMeta))
                .cast_signed(),
        );
        if packet < state.least_packet()
            || packet > state.most_packet()
            || meta < state.least_metadata()
        {
            return Err(format!("the packet has {packet} and {meta} bytes"));
        }
        for (n, fact) in state.slots().enumerate() {
            let value = self.stacks.slot(n);
            if !self.is_true(fact, value) {
                let off = n as i64 * 8 - STACK_SIZE as i64;
                return Err(format!(
                    "fp{off} holds {value:x?}, but {fact:?} was claimed"
                ));
            }
        }
        Ok(())
    }

    /// Compares the key of a lookup with what is known of it.
    fn check_index(&self, known: &InstFacts) -> Found {
        let Some(index) = known.index else {
            return Ok(());
        };
        let frame = self.stacks.frame_pointer().bits - STACK_SIZE as u64;
        let at = self.regs[Reg::R2.index()].bits.wrapping_sub(frame);
        let (slot, byte) = (at as usize / 8, at % 8);
        let key = self.stacks.slot(slot).bits >> (byte * 8);
        let next = self.stacks.slot((slot + 1).min(STACK_SIZE / 8 - 1)).bits;
        let key = match byte {
            0..=4 => key,
            _ => key | next << (64 - byte * 8),
        };
        match index.contains(key & 0xffff_ffff) {
            true => Ok(()),
            false => Err(format!("the key is {key:#x}, but {index:?} was claimed")),
        }
    }

    /// What a step did against the facts: a jump that cannot be, or a failed check of what was proved.
    pub fn check_step(
        &self,
        facts: &Facts,
        inst: &Inst,
        jumped: Option<bool>,
        failed: Option<TrapReason>,
    ) -> Found {
        let Some(known) = facts.inst(self.at) else {
            return Ok(());
        };
        if let (Some(jumped), Inst::JumpIf { .. } | Inst::MayJump { .. }) = (jumped, inst) {
            let possible = if jumped {
                known.can_jump
            } else {
                known.can_fall
            };
            if !possible {
                return Err(format!("a jump went where it cannot (taken: {jumped})"));
            }
        }
        match (known.access, failed) {
            (_, None | Some(TrapReason::Uninitialised)) => Ok(()),
            (Some(Access::Proved(_) | Access::Context(_)), Some(reason)) => Err(format!(
                "{:?} was claimed, but it failed: {reason:?}",
                known.access
            )),
            _ => Ok(()),
        }
    }

    fn is_true(&self, fact: &Fact, value: Value) -> bool {
        let near = |base: u64, off: Interval| {
            let off_is = value.bits.wrapping_sub(base).cast_signed();
            off.lo <= off_is && off_is <= off.hi
        };
        let is_null = value.bits == 0;
        match *fact {
            Fact::Scalar(scalar) => scalar == Scalar::TOP || scalar.contains(value.bits),
            Fact::Ctx(off) => value.kind == Kind::Ctx && near(self.ctx().bits, Interval::at(off)),
            Fact::Stack { off, .. } => match value.kind {
                Kind::Stack { call } => self.stacks.base(call).is_some_and(|base| near(base, off)),
                _ => false,
            },
            Fact::Packet { base, off, .. } => match (base, value.kind) {
                (Base::Data, Kind::Packet { epoch }) => {
                    epoch == self.epoch && near(self.limit(CtxField::Data), off)
                }
                (Base::Meta, Kind::Meta { epoch }) => {
                    epoch == self.epoch && near(self.limit(CtxField::DataMeta), off)
                }
                _ => false,
            },
            Fact::PacketEnd => {
                value.kind == Kind::PacketEnd && value.bits == self.limit(CtxField::DataEnd)
            }
            Fact::Map { map, null } => {
                null.is_some() && is_null || value.kind == Kind::Map && self.is_map(map, value.bits)
            }
            Fact::MapValue { map, off, null } => match value.kind {
                Kind::MapValue { base, value } => near(base, off) && self.is_value(map, value),
                _ => null.is_some() && is_null,
            },
            Fact::Function(func) => {
                let subs = self.programs[self.program].subprograms();
                let slot = subs[func as usize].start;
                value.kind == Kind::Function { slot }
            }
            Fact::MapKey { off, .. } => match value.kind {
                Kind::MapKey { base, .. } => near(base, off),
                _ => false,
            },
            Fact::Record { len, off, null } => match value.kind {
                Kind::Record { base, len: own, .. } => own >= len.into() && near(base, off),
                _ => null.is_some() && is_null,
            },
        }
    }

    fn limit(&self, field: CtxField) -> u64 {
        // SAFETY: as in `Machine::place`.
        unsafe { field.load(self.env) }
    }

    fn is_map(&self, map: MapRef, address: u64) -> bool {
        match map {
            MapRef::Direct(n) => {
                let known = &self.maps()[n as usize];
                std::sync::Arc::as_ptr(known).addr() as u64 == address
            }
            _ => true,
        }
    }

    fn is_value(&self, map: MapRef, value: MapValue) -> bool {
        match map {
            MapRef::Direct(n) => MapValue::of(self.maps()[n as usize].def()) == value,
            MapRef::Values(len) => value.len >= len && value.readable && value.writable,
            MapRef::Inner(_) | MapRef::Shaped(_) => true,
        }
    }
}

//! Accesses to stack, packet and map values.

use super::*;

impl Generator<'_, '_> {
    /// Memory with numbers: a base, an offset, and whether nothing is known of it.
    pub(super) fn place(&mut self, len: i16) -> (u8, i16, bool) {
        if self.bytes.one_in(64) {
            let off = self.bytes.number() as i16;
            return (self.bytes.below(11) as u8, off, true);
        }
        let within = |bytes: &mut Bytes<'_>, size: i16| {
            let off = bytes.below(usize::from((size - len).max(0).unsigned_abs()) + 1) as i16;
            // Aligned more often than not, at times a bit outside.
            match bytes.below(32) {
                0..20 => off & -len,
                20..31 => off,
                _ => off - len,
            }
        };
        if self.bytes.one_in(2)
            && let Some(base) = self.find(|kind| matches!(kind, Kind::Packet | Kind::Buffer(_)))
        {
            let size = match self.kind(base) {
                Kind::Buffer(size) => i16::from(size),
                _ => PACKET,
            };
            return (base, within(self.bytes, size), false);
        }
        let off = within(self.bytes, SCRATCH).max(0);
        (FP, SCRATCH_AT + off.min(SCRATCH - len), false)
    }

    pub(super) fn load(&mut self) {
        let (size, len) = self.size();
        if self.bytes.one_in(4) {
            return self.load_slot(size, len);
        }
        let (base, off, wild) = self.place(len);
        let dst = self.any();
        self.emit_load(size, dst, base, off);
        self.set(dst, if wild { Kind::Mixed } else { Kind::Number });
    }

    pub(super) fn emit_load(&mut self, size: MemSize, dst: u8, base: u8, off: i16) {
        if size != MemSize::Dw && self.bytes.one_in(4) {
            self.asm.load_signed(size, dst, base, off);
        } else {
            self.asm.load(size, dst, base, off);
        }
    }

    pub(super) fn load_slot(&mut self, size: MemSize, len: i16) {
        let off = self.slot_place(len);
        let numbers = self.touched(off, len).all(|kind| *kind == Kind::Number);
        let dst = self.any();
        self.emit_load(size, dst, FP, off);
        self.set(dst, if numbers { Kind::Number } else { Kind::Mixed });
    }

    /// A place among the slots.
    pub(super) fn slot_place(&mut self, len: i16) -> i16 {
        let off = -8 * SLOTS as i16 + self.bytes.below(8 * SLOTS - len as usize + 1) as i16;
        if self.bytes.one_in(3) {
            off
        } else {
            off & -len
        }
    }

    pub(super) fn touched(&mut self, off: i16, len: i16) -> impl Iterator<Item = &mut Kind> {
        let first = (off + 8 * SLOTS as i16) / 8;
        let last = (off + len - 1 + 8 * SLOTS as i16) / 8;
        self.state.slots[first as usize..=last as usize].iter_mut()
    }

    pub(super) fn store(&mut self) {
        let (size, len) = self.size();
        let src = self.operand();
        if self.bytes.one_in(3) {
            let off = self.slot_place(len);
            self.asm.store(size, FP, off, src);
            let whole = len == 8 && off % 8 == 0;
            self.touched(off, len).for_each(|kind| {
                // Parts of a pointer depend on where things are.
                *kind = match *kind {
                    Kind::Number => Kind::Number,
                    _ if whole => Kind::Number,
                    _ => Kind::Mixed,
                }
            });
            return;
        }
        let (base, off, wild) = self.place(len);
        self.asm.store(size, base, off, src);
        if wild {
            self.state.slots = [Kind::Mixed; SLOTS];
        }
    }

    pub(super) fn spill(&mut self) {
        let (slot, reg) = (self.bytes.below(SLOTS), self.any());
        if self.kind(reg) == Kind::Unset {
            return;
        }
        self.asm.store(MemSize::Dw, FP, slot_at(slot), R(reg));
        self.state.slots[slot] = self.kind(reg);
    }

    pub(super) fn fill(&mut self) {
        let (slot, reg) = (self.bytes.below(SLOTS), self.any());
        self.asm.load(MemSize::Dw, reg, FP, slot_at(slot));
        self.set(reg, self.state.slots[slot]);
    }

    pub(super) fn atomic(&mut self) {
        let fetch = if self.bytes.one_in(2) {
            o::ATOMIC_FETCH
        } else {
            0
        };
        let op = match self.bytes.below(6) {
            0 => i32::from(o::ADD) | fetch,
            1 => i32::from(o::OR) | fetch,
            2 => i32::from(o::AND) | fetch,
            3 => i32::from(o::XOR) | fetch,
            4 => o::ATOMIC_XCHG,
            _ => o::ATOMIC_CMPXCHG,
        };
        let (size, len) = self.bytes.pick(&[(MemSize::W, 4), (MemSize::Dw, 8)]);
        if op == o::ATOMIC_CMPXCHG && self.kind(0) != Kind::Number {
            let value = self.imm();
            self.asm.mov(0, value);
            self.set(0, Kind::Number);
        }
        let src = self.number();
        let (base, mut off, wild) = self.place(len);
        if !self.bytes.one_in(8) {
            off &= -len;
        }
        self.asm.atomic(size, op, base, off, src);
        if wild {
            self.state.slots = [Kind::Mixed; SLOTS];
            let changed = if op == o::ATOMIC_CMPXCHG { 0 } else { src };
            self.set(changed, Kind::Mixed);
        }
    }

    /// A packet pointer, or what the context says of the packet, at times with a check of its length.
    pub(super) fn packet(&mut self) {
        let reg = self.any();
        let (off, kind) = self.bytes.pick(&[
            (0, Kind::Packet),
            (0, Kind::Packet),
            (0, Kind::Packet),
            (4, Kind::End),
            (12, Kind::Number),
            (16, Kind::Number),
        ]);
        self.asm.load(MemSize::W, reg, CTX, off);
        self.set(reg, kind);
        if kind != Kind::Packet || !self.bytes.one_in(2) {
            return;
        }
        let (end, bound) = (self.any(), self.any());
        if end == bound || end == reg || bound == reg {
            return;
        }
        let len = self.bytes.below(48) as i32;
        self.asm
            .load(MemSize::W, end, CTX, 4)
            .mov(bound, R(reg))
            .add(bound, len);
        self.set(end, Kind::End);
        self.set(bound, Kind::Packet);
        let out = self.out;
        match self.bytes.below(4) {
            0 => self.asm.jump_if(o::JGT, bound, R(end), out),
            1 => self.asm.jump_if(o::JGE, bound, R(end), out),
            2 => self.asm.jump_if(o::JLT, end, R(bound), out),
            _ => self.asm.jump_if(o::JLE, end, R(bound), out),
        };
    }

    /// Moves a pointer by a number that is known to be small.
    pub(super) fn step_pointer(&mut self) {
        let Some(pointer) = self.find(|kind| matches!(kind, Kind::Packet | Kind::Buffer(_))) else {
            return self.constant();
        };
        let room = match self.kind(pointer) {
            Kind::Buffer(size) => size,
            _ => 16,
        };
        if self.bytes.one_in(2) {
            let step = (self.bytes.byte() % room.max(1)).min(room);
            self.asm.add(pointer, i32::from(step));
            if let Kind::Buffer(size) = self.kind(pointer) {
                self.set(pointer, Kind::Buffer(size - step));
            }
            return;
        }
        let by = self.number();
        let out = self.out;
        match self.bytes.below(4) {
            0 => self.asm.alu(o::AND, by, 7),
            1 => self.asm.alu32(o::AND, by, 15),
            2 => self.asm.alu(o::MOD, by, 9),
            _ => self.asm.jump_if(o::JGT, by, 8, out),
        };
        self.asm.add(pointer, R(by));
        if let Kind::Buffer(size) = self.kind(pointer) {
            self.set(pointer, Kind::Buffer(size.saturating_sub(15)));
        }
    }

    /// A number as index of the scratch memory, under a condition that bounds it.
    pub(super) fn index(&mut self) {
        let by = self.number();
        let dst = self.any();
        if dst == by {
            return;
        }
        let out = self.out;
        match self.bytes.below(5) {
            0 => self.asm.jump_if(o::JGT, by, 56, out),
            1 => self
                .asm
                .jump_if32(o::JGE, by, 57, out)
                .alu32(o::MOV, by, R(by)),
            2 => self
                .asm
                .jump_if(o::JSLT, by, 0, out)
                .jump_if(o::JSGT, by, 56, out),
            3 => self.asm.alu(o::RSH, by, 59),
            _ => self.asm.alu(o::AND, by, 0x38),
        };
        let (size, _) = self.size();
        self.asm.mov(dst, R(FP)).add(dst, R(by));
        if self.bytes.one_in(2) {
            self.asm.load(size, dst, dst, SCRATCH_AT);
            self.set(dst, Kind::Number);
        } else {
            self.asm.store(size, dst, SCRATCH_AT, R(by));
            self.set(dst, Kind::Mixed);
        }
    }
}

//! Helpers, subprograms, loops and tail calls.

use super::*;

impl Generator<'_, '_> {
    /// Puts a buffer's address in an argument register: of the scratch memory, or one that is at hand.
    pub(super) fn buffer_arg(&mut self, reg: u8, need: u8) {
        let at_hand = self.bytes.pick(&SOURCES);
        if self.bytes.one_in(3) && matches!(self.kind(at_hand), Kind::Buffer(size) if size >= need)
        {
            self.asm.mov(reg, R(at_hand));
            return;
        }
        if self.bytes.one_in(4) && self.kind(at_hand) == Kind::Packet {
            self.asm.mov(reg, R(at_hand));
            return;
        }
        let room = (SCRATCH as u8 - need) / 4 + 1;
        let off = 4 * self.bytes.below(usize::from(room)) as i32;
        self.asm
            .mov(reg, R(FP))
            .add(reg, i32::from(SCRATCH_AT) + off);
    }

    pub(super) fn number_arg(&mut self, reg: u8) {
        let at_hand = self.bytes.pick(&SOURCES);
        if self.kind(at_hand) == Kind::Number && self.bytes.one_in(2) {
            self.asm.mov(reg, R(at_hand));
        } else {
            let value = self.imm();
            self.asm.mov(reg, value);
        }
    }

    /// Writes a key that may well be there.
    pub(super) fn key(&mut self) {
        let key = self.bytes.pick(&[0, 1, 0, 1, 2, 3, 5, 32]);
        let off = SCRATCH_AT + 4 * self.bytes.below(4) as i16;
        self.asm.store(MemSize::W, FP, off, key);
    }

    pub(super) fn after_call(&mut self, result: Kind) {
        for reg in 1..=5 {
            self.set(reg, Kind::Unset);
        }
        self.set(0, result);
    }

    pub(super) fn lookup(&mut self) {
        if self.bytes.one_in(2) {
            self.key();
        }
        if self.bytes.one_in(5) {
            return self.lookup_inner();
        }
        let map = if self.bytes.one_in(8) {
            READ_ONLY
        } else {
            self.bytes.pick(&DATA)
        };
        let def = &maps()[map as usize];
        self.buffer_arg(2, def.key_size as u8);
        self.asm.map(1, map);
        if def.kind.is_per_cpu() && self.bytes.one_in(3) {
            let cpu = self.bytes.below(3) as i32;
            self.asm.mov(3, cpu).call(HelperId::MAP_LOOKUP_PERCPU_ELEM);
        } else {
            self.asm.call(HelperId::MAP_LOOKUP_ELEM);
        }
        self.after_call(Kind::Buffer(def.value_size as u8));
        self.check_null();
    }

    pub(super) fn lookup_inner(&mut self) {
        let outer = self.bytes.pick(&[ARRAY_OF_MAPS, HASH_OF_MAPS]);
        self.buffer_arg(2, 4);
        let out = self.out;
        self.asm
            .map(1, outer)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, out);
        self.after_call(Kind::Map(outer));
        if self.bytes.one_in(4) {
            return;
        }
        self.buffer_arg(2, 4);
        self.asm.mov(1, R(0)).call(HelperId::MAP_LOOKUP_ELEM);
        let size = if outer == ARRAY_OF_MAPS { 16 } else { 8 };
        self.after_call(Kind::Buffer(size));
        self.check_null();
    }

    /// `r0` came from a lookup.
    pub(super) fn check_null(&mut self) {
        let (out, on) = (self.out, self.asm.label());
        match self.bytes.below(12) {
            0..7 => self.asm.jump_eq(0, 0, out),
            7..11 => {
                self.asm.jump_if(o::JNE, 0, 0, on).map_value(0, ARRAY, 0);
                if let Kind::Buffer(size) = self.kind(0) {
                    self.set(0, Kind::Buffer(size.min(16)));
                }
                self.asm.bind(on)
            }
            // As it is: an access may trap.
            _ => &mut self.asm,
        };
    }

    pub(super) fn change_map(&mut self) {
        if self.bytes.one_in(2) {
            self.key();
        }
        let map = if self.bytes.one_in(16) {
            self.bytes.below(maps().len()) as u32
        } else {
            self.bytes.pick(&DATA)
        };
        let def = &maps()[map as usize];
        self.buffer_arg(2, def.key_size as u8);
        if self.bytes.one_in(3) {
            self.asm.map(1, map).call(HelperId::MAP_DELETE_ELEM);
        } else {
            self.buffer_arg(3, def.value_size as u8);
            let flags = self.bytes.pick(&[0, 0, 0, 1, 2, 3]);
            self.asm
                .mov(4, flags)
                .map(1, map)
                .call(HelperId::MAP_UPDATE_ELEM);
        }
        self.after_call(Kind::Number);
    }

    pub(super) fn helper(&mut self) {
        self.asm.mov(1, R(CTX));
        match self.bytes.below(12) {
            0 => self.csum_diff(),
            1 | 2 if self.may_move => {
                let (helper, by) = (
                    self.bytes.pick(&[
                        HelperId::XDP_ADJUST_HEAD,
                        HelperId::XDP_ADJUST_TAIL,
                        HelperId::XDP_ADJUST_META,
                    ]),
                    self.bytes.pick(&[-20, -8, -4, 4, 8, -1, 1, -300, 300, 0]),
                );
                self.asm.mov(2, by).call(helper);
                self.state.packet_moved();
            }
            3 | 4 => {
                let len = 1 + self.bytes.below(16) as u8;
                let off = self.bytes.below(48) as i32;
                let helper = self
                    .bytes
                    .pick(&[HelperId::XDP_LOAD_BYTES, HelperId::XDP_STORE_BYTES]);
                self.buffer_arg(3, len);
                self.asm.mov(2, off).mov(4, i32::from(len)).call(helper);
            }
            5 => {
                self.asm.call(HelperId::XDP_GET_BUFF_LEN);
            }
            6 => {
                self.asm.call(HelperId::GET_PRANDOM_U32);
            }
            7 => {
                self.asm.call(HelperId::GET_SMP_PROCESSOR_ID);
            }
            8 => {
                self.asm.call(HelperId::KTIME_GET_NS);
            }
            9 => {
                self.number_arg(1);
                self.number_arg(2);
                self.asm.call(HelperId::REDIRECT);
            }
            10 => {
                self.buffer_arg(1, 8);
                self.asm.mov(2, 8).call(HelperId::TRACE_PRINTK);
            }
            _ => {
                self.asm.call(HelperId::GET_NUMA_NODE_ID);
            }
        }
        self.after_call(Kind::Number);
    }

    pub(super) fn csum_diff(&mut self) {
        for reg in [1, 3] {
            let len = 4 * self.bytes.below(6) as u8;
            if self.bytes.one_in(3) {
                self.asm.mov(reg, 0).mov(reg + 1, 0);
            } else {
                self.buffer_arg(reg, len);
                self.asm.mov(reg + 1, i32::from(len));
            }
        }
        self.number_arg(5);
        self.asm.call(HelperId::CSUM_DIFF);
    }

    pub(super) fn call(&mut self) {
        let Some(callee) = self.callees.first().copied() else {
            return self.alu();
        };
        let callee = if self.bytes.one_in(2) {
            callee
        } else {
            let n = self.bytes.below(self.callees.len());
            self.callees[n]
        };
        self.number_arg(2);
        self.number_arg(4);
        self.asm
            .mov(1, R(CTX))
            .mov(3, R(FP))
            .add(3, i32::from(SCRATCH_AT))
            .call_local(callee);
        self.after_call(Kind::Number);
        if self.callees_move {
            self.state.packet_moved();
        }
    }

    /// A few operations, a few times. At the end all registers are what they were at the start.
    pub(super) fn loop_(&mut self) {
        if self.in_loop {
            return self.alu();
        }
        // Nothing jumps into a loop, or out of it but to the end.
        self.arrive(usize::MAX);
        let (rounds, length) = (1 + self.bytes.below(6), 1 + self.bytes.below(8));
        let head = self.asm.label();
        self.asm.mov(COUNTER, rounds as i32).bind(head);
        let before = self.state;
        self.in_loop = true;
        self.operations(length);
        self.in_loop = false;
        for reg in REGS {
            let kind = before.regs[usize::from(reg)];
            if kind != self.kind(reg) {
                self.remake(reg, kind);
            }
        }
        for (slot, kind) in before.slots.into_iter().enumerate() {
            if kind != self.state.slots[slot] && kind == Kind::Number {
                self.asm.store(MemSize::Dw, FP, slot_at(slot), 5);
                self.state.slots[slot] = kind;
            } else if kind != self.state.slots[slot] {
                self.state.slots[slot] = Kind::Mixed;
            }
        }
        self.asm.add(COUNTER, -1).jump_if(o::JNE, COUNTER, 0, head);
    }

    /// Makes a register what it has to be.
    pub(super) fn remake(&mut self, reg: u8, kind: Kind) {
        match kind {
            Kind::Unset | Kind::Mixed => {}
            Kind::Number => {
                self.asm.mov(reg, 9);
            }
            Kind::Ctx => {
                self.asm.mov(reg, R(CTX));
            }
            Kind::Packet => {
                self.asm.load(MemSize::W, reg, CTX, 0);
            }
            Kind::End => {
                self.asm.load(MemSize::W, reg, CTX, 4);
            }
            Kind::Buffer(_) => {
                self.asm.mov(reg, R(FP)).add(reg, i32::from(SCRATCH_AT));
            }
            Kind::Map(map) => {
                self.asm.map(reg, map);
            }
        }
        self.set(reg, kind);
    }

    pub(super) fn tail_call(&mut self) {
        let index = self.bytes.below(5) as i32;
        self.asm
            .mov(1, R(CTX))
            .map(2, PROGRAMS)
            .mov(3, index)
            .call(HelperId::TAIL_CALL);
        self.after_call(Kind::Unset);
    }
}

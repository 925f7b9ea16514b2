//! Queues, rings, redirects, text, locks and callbacks.

use super::*;

impl Generator<'_, '_> {
    /// Something that leaves a trace outside registers and ordinary maps.
    pub(super) fn effect(&mut self) {
        match self.bytes.below(12) {
            0 | 1 => self.queue(),
            2 => self.ring_output(),
            3 | 4 => self.ring_record(),
            5 => self.redirect(),
            6 => self.text_to_number(),
            7 => self.locked(),
            8 => self.event(),
            9 => self.ring_query(),
            10 => self.call_back_n_times(),
            _ => self.call_back_for_each(),
        }
    }

    fn queue(&mut self) {
        let map = self.bytes.pick(&[QUEUE, QUEUE, STACK, STACK, BLOOM]);
        self.buffer_arg(2, 8);
        self.asm.map(1, map);
        match self.bytes.below(4) {
            0 | 1 => {
                let flags = self.bytes.pick(&[0, 0, 2, 1]);
                self.asm.mov(3, flags).call(HelperId::MAP_PUSH_ELEM);
            }
            2 => {
                self.asm.call(HelperId::MAP_POP_ELEM);
            }
            _ => {
                self.asm.call(HelperId::MAP_PEEK_ELEM);
            }
        }
        self.after_call(Kind::Number);
    }

    fn ring_output(&mut self) {
        let len = 1 + self.bytes.below(24) as u8;
        let flags = self.bytes.pick(&[0, 1, 2, 3]);
        self.buffer_arg(2, len);
        self.asm
            .map(1, RING)
            .mov(3, i32::from(len))
            .mov(4, flags)
            .call(HelperId::RINGBUF_OUTPUT);
        self.after_call(Kind::Number);
    }

    fn ring_query(&mut self) {
        let what = self.bytes.below(5) as i32;
        self.asm
            .map(1, RING)
            .mov(2, what)
            .call(HelperId::RINGBUF_QUERY);
        self.after_call(Kind::Number);
    }

    /// Reserves, writes, and gives back; sometimes one of these is wrong or missing.
    fn ring_record(&mut self) {
        let len = self.bytes.pick(&[8u8, 16, 24, 40]);
        let full = self.asm.label();
        self.asm
            .map(1, RING)
            .mov(2, i32::from(len))
            .mov(3, 0)
            .call(HelperId::RINGBUF_RESERVE)
            .jump_eq(0, 0, full);
        self.after_call(Kind::Buffer(len));
        for at in (0..i16::from(len)).step_by(8) {
            let value = self.imm();
            self.asm.store(MemSize::Dw, 0, at, value);
        }
        for _ in 0..self.bytes.below(3) {
            let (size, bytes) = self.size();
            let off = self.bytes.below(usize::from(len) + 1) as i16 - bytes.min(1);
            let src = self.number();
            if src != 0 {
                self.asm.store(size, 0, off.max(0), R(src));
            }
        }
        if !self.bytes.one_in(32) {
            let flags = self.bytes.pick(&[0, 1, 2]);
            let back = self
                .bytes
                .pick(&[HelperId::RINGBUF_SUBMIT, HelperId::RINGBUF_DISCARD]);
            self.asm.mov(1, R(0)).mov(2, flags).call(back);
        }
        self.asm.bind(full).mov(0, 11);
        self.after_call(Kind::Number);
    }

    fn redirect(&mut self) {
        let map = self.bytes.pick(&[DEVICES, DEVICE_HASH, CPUS, SOCKETS]);
        let key = self.bytes.below(6) as i32;
        let flags = self.bytes.pick(&[0, 0, 1, 2, 3, 8, 24]);
        self.asm
            .map(1, map)
            .mov(2, key)
            .mov(3, flags)
            .call(HelperId::REDIRECT_MAP);
        self.after_call(Kind::Number);
    }

    fn text_to_number(&mut self) {
        let text = self.bytes.pick(&[
            u64::from_le_bytes(*b"-12345 x"),
            u64::from_le_bytes(*b"  0x1fg\0"),
            u64::from_le_bytes(*b"99999999"),
            u64::from_le_bytes(*b"+0777-1\0"),
        ]);
        let len = 1 + self.bytes.below(12) as i32;
        let base = self.bytes.pick(&[0, 8, 10, 16, 7]);
        let helper = self.bytes.pick(&[HelperId::STRTOL, HelperId::STRTOUL]);
        self.asm
            .imm64(1, text)
            .store(MemSize::Dw, FP, SCRATCH_AT, R(1));
        self.buffer_arg(4, 8);
        self.asm
            .mov(1, R(FP))
            .add(1, i32::from(SCRATCH_AT))
            .mov(2, len)
            .mov(3, base)
            .call(helper);
        self.after_call(Kind::Number);
    }

    /// Changes a value under its lock.
    fn locked(&mut self) {
        let out = self.out;
        self.key();
        self.buffer_arg(2, 4);
        self.asm
            .map(1, LOCKED)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, out)
            .mov(8, R(0))
            .mov(1, R(8))
            .call(HelperId::SPIN_LOCK);
        let value = self.imm();
        self.asm
            .load(MemSize::Dw, 7, 8, 8)
            .add(7, value)
            .store(MemSize::Dw, 8, 8, R(7));
        if !self.bytes.one_in(32) {
            self.asm.mov(1, R(8)).call(HelperId::SPIN_UNLOCK);
        }
        self.asm.add(8, 8).mov(0, 0);
        self.after_call(Kind::Number);
        self.set(7, Kind::Number);
        self.set(8, Kind::Buffer(8));
    }

    /// To a perf buffer that nobody opened.
    fn event(&mut self) {
        if self.in_callback {
            return self.alu();
        }
        let len = self.bytes.below(16) as u8;
        self.buffer_arg(4, len);
        let which = self.bytes.pick(&[0u64, 1, 0xffff_ffff, 7]);
        self.asm
            .mov(1, R(CTX))
            .map(2, EVENTS)
            .imm64(3, which)
            .mov(5, i32::from(len))
            .call(HelperId::PERF_EVENT_OUTPUT);
        self.after_call(Kind::Number);
    }

    /// The function of this kind that calls back here.
    fn callback(&mut self, kind: Callback) -> Label {
        if let Some((_, label)) = self.callbacks.iter().find(|(known, _)| *known == kind) {
            return *label;
        }
        let label = self.asm.label();
        self.callbacks.push((kind, label));
        label
    }

    fn call_back_n_times(&mut self) {
        if self.in_callback || self.in_loop {
            return self.alu();
        }
        let label = self.callback(Callback::Number);
        let times = self.bytes.pick(&[0, 1, 2, 3, 7, -1]);
        self.asm
            .mov(1, times)
            .function(2, label)
            .mov(3, R(FP))
            .add(3, i32::from(SCRATCH_AT))
            .mov(4, 0)
            .call(HelperId::LOOP);
        self.after_call(Kind::Number);
    }

    fn call_back_for_each(&mut self) {
        if self.in_callback || self.in_loop {
            return self.alu();
        }
        let label = self.callback(Callback::Element);
        let map = self.bytes.pick(&DATA);
        self.asm
            .map(1, map)
            .function(2, label)
            .mov(3, R(FP))
            .add(3, i32::from(SCRATCH_AT))
            .mov(4, 0)
            .call(HelperId::FOR_EACH_MAP_ELEM);
        self.after_call(Kind::Number);
    }

    /// A function that is called back, with a few operations on what it gets.
    pub(super) fn callback_body(&mut self, kind: Callback, at: Label) {
        self.out = self.asm.label();
        self.asm.bind(at);
        self.state = State {
            regs: [Kind::Unset; 11],
            slots: [Kind::Unset; SLOTS],
        };
        let arguments: &[Kind] = match kind {
            Callback::Number => &[Kind::Number, Kind::Buffer(SCRATCH as u8)],
            // Neither map, key nor value, which are of any map.
            Callback::Element => &[
                Kind::Mixed,
                Kind::Buffer(4),
                Kind::Buffer(4),
                Kind::Buffer(SCRATCH as u8),
            ],
        };
        self.state.regs[1..=arguments.len()].copy_from_slice(arguments);
        // Its own stack has numbers before it uses any.
        for slot in 0..SLOTS {
            self.asm.store(MemSize::Dw, FP, slot_at(slot), slot as i32);
            self.state.slots[slot] = Kind::Number;
        }
        for off in (SCRATCH_AT..SCRATCH_AT + SCRATCH).step_by(8) {
            self.asm.store(MemSize::Dw, FP, off, 3);
        }
        self.in_callback = true;
        let length = self.bytes.below(8);
        self.operations(length);
        self.in_callback = false;
        if self.kind(0) != Kind::Number {
            self.asm.mov(0, 0);
        }
        // Mostly it goes on; other answers than 0 and 1 are refused or end the run.
        if !self.bytes.one_in(16) {
            self.asm.alu(o::AND, 0, 1);
        }
        self.asm.exit().bind(self.out).mov(0, 1).exit();
    }
}

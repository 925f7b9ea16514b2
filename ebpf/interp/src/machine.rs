//! The loop: one instruction at a time, nothing trusted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use squalus_isa::{
    AluOp, AtomicOp, CallTarget, Decoded, ImmSource, Inst, MemSize, Operand, Reg, Width,
};
use squalus_maps::Map;
use squalus_runtime::{CtxField, Env, LinkedProgram, Trap, TrapReason, ctx_field};

use crate::Observed;
use crate::alu::{alu, compare, endian, sign_extend};
use crate::memory;
use crate::stack::{StackPlace, Stacks};
use crate::value::{Kind, MapValue, Value};

/// Addresses below this are null pointers with an offset.
const NULL_PAGE: u64 = 4096;

pub(crate) type Checked<T> = Result<T, TrapReason>;

/// What to do after an instruction.
pub(crate) enum Flow {
    /// Go on with the next one.
    Next,
    /// Go on at this slot.
    Jump(usize),
    /// Go on at the start of this program.
    Program(usize),
    /// Go on where a call left off.
    Return { program: usize, at: usize },
    /// The run is over.
    Done(u64),
}

pub(crate) struct Machine<'a> {
    pub programs: &'a [Arc<LinkedProgram>],
    pub env: &'a mut Env,
    pub stacks: &'a mut Stacks,
    pub regs: [Value; Reg::COUNT],
    /// How often the packet may have moved.
    pub epoch: u32,
    pub program: usize,
    /// Index of the current instruction.
    pub at: usize,
    observed: Observed<'a>,
}

/// Memory that a check allowed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub pointer: *mut u8,
    pub stack: Option<StackPlace>,
    atomics: bool,
}

/// Runs program `entry` on the environment's frame.
pub(crate) fn run(
    programs: &[Arc<LinkedProgram>],
    entry: usize,
    env: &mut Env,
    stacks: &mut Stacks,
    observed: Observed<'_>,
) -> Result<u64, Trap> {
    Machine::new(programs, entry, env, stacks, observed).run()
}

/// Calls a function of a program with a map, and the addresses of a key and a value of it.
pub(crate) fn call(
    programs: &[Arc<LinkedProgram>],
    (program, slot): (usize, usize),
    [map, key, value]: [u64; 3],
    env: &mut Env,
    stacks: &mut Stacks,
    observed: Observed<'_>,
) -> Result<u64, Trap> {
    let mut machine = Machine::new(programs, program, env, stacks, observed);
    machine.at = programs[program].index_of(slot).unwrap_or_default();
    let [map, key, value] = machine.element_args(map, key, value);
    machine.regs[1..4].copy_from_slice(&[map, key, value]);
    machine.run()
}

impl<'a> Machine<'a> {
    /// At the start of a program, with fresh stacks.
    fn new(
        programs: &'a [Arc<LinkedProgram>],
        program: usize,
        env: &'a mut Env,
        stacks: &'a mut Stacks,
        observed: Observed<'a>,
    ) -> Machine<'a> {
        stacks.reset();
        let mut machine = Machine {
            programs,
            env,
            stacks,
            regs: [Value::UNINIT; Reg::COUNT],
            epoch: 0,
            program,
            at: 0,
            observed,
        };
        machine.enter();
        machine
    }
}

impl Machine<'_> {
    /// The registers at a program's start.
    fn enter(&mut self) {
        self.regs = [Value::UNINIT; Reg::COUNT];
        self.regs[Reg::R1.index()] = self.ctx();
        self.regs[Reg::FP.index()] = self.stacks.frame_pointer();
    }

    /// The context pointer.
    pub fn ctx(&self) -> Value {
        Value::new(std::ptr::from_ref::<Env>(self.env).addr() as u64, Kind::Ctx)
    }

    fn run(mut self) -> Result<u64, Trap> {
        let programs = self.programs;
        loop {
            let decoded = programs
                .get(self.program)
                .and_then(|program| program.insts().get(self.at));
            let Some(decoded) = decoded else {
                return Err(self.trap(TrapReason::TailCall, 0));
            };
            let slot = decoded.slot;
            if self.env.budget == 0 {
                return Err(self.trap(TrapReason::Budget, slot));
            }
            self.env.budget -= 1;
            self.count_visit(slot);
            if !self.facts_hold(slot) {
                return Err(self.trap(TrapReason::Unsupported, slot));
            }
            let flow = self.step(&decoded.inst);
            if !self.step_was_claimed(decoded, &flow) {
                return Err(self.trap(TrapReason::Unsupported, slot));
            }
            let flow = flow.map_err(|reason| self.trap(reason, slot))?;
            match flow {
                Flow::Next => self.at += 1,
                Flow::Jump(target) => match programs[self.program].index_of(target) {
                    Some(at) => self.at = at,
                    None => return Err(self.trap(TrapReason::Unsupported, slot)),
                },
                Flow::Program(program) => {
                    self.program = program;
                    self.at = 0;
                    self.stacks.begin_program();
                    self.enter();
                }
                Flow::Return { program, at } => {
                    self.program = program;
                    self.at = at;
                }
                Flow::Done(value) => return Ok(value),
            }
        }
    }

    /// Whether the facts about the current instruction are true, or none are checked.
    fn facts_hold(&mut self, slot: usize) -> bool {
        let found = match self.observed.facts.get(self.program) {
            Some(facts) => self.check_facts(facts),
            None => return true,
        };
        self.note_fact(slot, found)
    }

    /// Whether what a step did agrees with the facts, or none are checked.
    fn step_was_claimed(&mut self, decoded: &Decoded, flow: &Checked<Flow>) -> bool {
        let Some(facts) = self.observed.facts.get(self.program) else {
            return true;
        };
        let jumped = match flow {
            Ok(flow) => Some(matches!(flow, Flow::Jump(_))),
            Err(_) => None,
        };
        let failed = flow.as_ref().err().copied();
        let found = self.check_step(facts, &decoded.inst, jumped, failed);
        self.note_fact(decoded.slot, found)
    }

    fn note_fact(&mut self, slot: usize, found: Result<(), String>) -> bool {
        if let Err(what) = &found {
            let program = self.programs[self.program].name();
            let told = format!("program `{program}`, instruction {slot}: {what}");
            self.observed.false_fact.get_or_insert(told);
        }
        found.is_ok()
    }

    fn count_visit(&self, slot: usize) {
        /// So far apart are the counters of one slot in two programs.
        const PROGRAM: usize = 4099;
        if let Some(visits) = self.observed.visits {
            let counter = &visits[(self.program * PROGRAM + slot) % visits.len()];
            counter.store(counter.load(Relaxed).saturating_add(1), Relaxed);
        }
    }

    fn trap(&self, reason: TrapReason, slot: usize) -> Trap {
        Trap {
            reason,
            program: self.program,
            slot,
            registers: self.regs.map(|value| value.bits),
        }
    }

    fn step(&mut self, inst: &Inst) -> Checked<Flow> {
        match *inst {
            Inst::Alu {
                width,
                op,
                dst,
                src,
            } => self.alu(width, op, dst, src)?,
            Inst::End { kind, bits, dst } => {
                let value = self.read(dst)?;
                self.write(dst, Value::scalar(endian(kind, bits, value.bits)));
            }
            Inst::LoadImm { dst, imm } => {
                let value = self.immediate(imm)?;
                self.write(dst, value);
            }
            Inst::Load {
                size,
                signed,
                dst,
                base,
                off,
            } => {
                let value = self.load(size, signed, base, off)?;
                self.write(dst, value);
            }
            Inst::Store {
                size,
                base,
                off,
                src,
            } => self.store(size, base, off, src)?,
            Inst::Atomic {
                size,
                op,
                fetch,
                base,
                off,
                src,
            } => self.atomic(size, op, fetch, (base, off), src)?,
            Inst::Jump { target } => return Ok(Flow::Jump(target)),
            Inst::MayJump { target } if self.env.is_budget_low() => {
                return Ok(Flow::Jump(target));
            }
            Inst::MayJump { .. } => {}
            Inst::JumpIf {
                width,
                cond,
                dst,
                src,
                target,
            } => {
                let (a, b) = (self.read(dst)?, self.operand(src)?);
                if compare(cond, width, a.bits, b.bits) {
                    return Ok(Flow::Jump(target));
                }
            }
            Inst::Call(CallTarget::Helper(id)) => return self.helper(id),
            Inst::Call(CallTarget::Local(target)) => return self.call(target),
            Inst::Call(CallTarget::Kfunc(_)) => return Err(TrapReason::Unsupported),
            Inst::Exit => return self.exit(),
        }
        Ok(Flow::Next)
    }

    pub fn read(&self, reg: Reg) -> Checked<Value> {
        let value = self.regs[reg.index()];
        if value.kind == Kind::Uninit {
            return Err(TrapReason::Uninitialised);
        }
        Ok(value)
    }

    pub fn write(&mut self, reg: Reg, value: Value) {
        self.regs[reg.index()] = value;
    }

    fn operand(&self, operand: Operand) -> Checked<Value> {
        match operand {
            Operand::Reg(reg) => self.read(reg),
            Operand::Imm(imm) => Ok(Value::scalar(i64::from(imm).cast_unsigned())),
        }
    }

    fn alu(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) -> Checked<()> {
        let a = match op {
            AluOp::Mov | AluOp::MovSx(_) => Value::scalar(0),
            _ => self.read(dst)?,
        };
        let b = match op {
            AluOp::Neg => Value::scalar(0),
            _ => self.operand(src)?,
        };
        let kind = match (width, op) {
            (Width::W64, AluOp::Mov) => b.kind,
            (Width::W64, AluOp::Add) => a.sum_kind(b),
            (Width::W64, AluOp::Sub) => a.difference_kind(b),
            _ => Kind::Scalar,
        };
        self.write(dst, Value::new(alu(op, width, a.bits, b.bits), kind));
        Ok(())
    }

    /// The running program's maps.
    pub fn maps(&self) -> &[Arc<Map>] {
        self.programs[self.program].maps()
    }

    fn immediate(&self, imm: ImmSource) -> Checked<Value> {
        let maps = self.maps();
        match imm {
            ImmSource::Value(value) => Ok(Value::scalar(value)),
            ImmSource::Func(slot) => {
                let address = squalus_runtime::function_address(slot);
                Ok(Value::new(address, Kind::Function { slot }))
            }
            ImmSource::Map(index) => {
                let map = maps.get(index as usize).ok_or(TrapReason::Unsupported)?;
                let address = Arc::as_ptr(map).expose_provenance() as u64;
                Ok(Value::new(address, Kind::Map))
            }
            ImmSource::MapValue { map, offset } => {
                let map = maps.get(map as usize).ok_or(TrapReason::Unsupported)?;
                let array = map.array_base().ok_or(TrapReason::Unsupported)?;
                let base = array.base as u64;
                let value = MapValue::of(map.def());
                let kind = Kind::MapValue { base, value };
                Ok(Value::new(base + u64::from(offset), kind))
            }
        }
    }

    fn load(&self, size: MemSize, signed: bool, base: Reg, off: i16) -> Checked<Value> {
        let base = self.read(base)?;
        if base.kind == Kind::Ctx {
            return self.load_ctx(base, size, signed, off);
        }
        let place = self.place(base, off.into(), size.bytes() as usize, false)?;
        // SAFETY: `place` checked that the bytes are inside live memory of this run; map values are used
        // atomically by everyone.
        let bits = unsafe { memory::load(place.pointer, size) };
        if signed {
            let bits = sign_extend(bits, size.bytes() as u8 * 8);
            return Ok(Value::scalar(bits));
        }
        let kind = match place.stack {
            Some(stack) if size == MemSize::Dw => self.stacks.tag(stack),
            _ => Kind::Scalar,
        };
        Ok(Value::new(bits, kind))
    }

    fn load_ctx(&self, base: Value, size: MemSize, signed: bool, off: i16) -> Checked<Value> {
        let at = base.bits.wrapping_sub(self.ctx().bits).cast_signed();
        let field = ctx_field(at.wrapping_add(off.into()), size).ok_or(TrapReason::Context)?;
        if signed {
            if field.is_pointer() {
                return Err(TrapReason::Context);
            }
            // SAFETY: as in `place`.
            let value = unsafe { field.load(self.env) };
            return Ok(Value::scalar(sign_extend(value, 32)));
        }
        let epoch = self.epoch;
        let kind = match field {
            CtxField::Data => Kind::Packet { epoch },
            CtxField::DataMeta => Kind::Meta { epoch },
            CtxField::DataEnd => Kind::PacketEnd,
            _ => Kind::Scalar,
        };
        // SAFETY: as in `place`.
        Ok(Value::new(unsafe { field.load(self.env) }, kind))
    }

    fn store(&mut self, size: MemSize, base: Reg, off: i16, src: Operand) -> Checked<()> {
        let (base, value) = (self.read(base)?, self.operand(src)?);
        let len = size.bytes() as usize;
        let place = self.place(base, off.into(), len, true)?;
        // SAFETY: `place` checked that the bytes are inside live, writable memory of this run.
        unsafe { memory::store(place.pointer, size, value.bits) };
        if let Some(stack) = place.stack {
            self.stacks.mark(stack, len, value.kind);
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        size: MemSize,
        op: AtomicOp,
        fetch: bool,
        (base, off): (Reg, i16),
        src: Reg,
    ) -> Checked<()> {
        if op == AtomicOp::LoadAcquire {
            return self.load_acquire(size, (base, off), src);
        }
        let (base, value) = (self.read(base)?, self.read(src)?);
        let expected = match op {
            AtomicOp::CmpXchg => self.read(Reg::R0)?.bits,
            _ => 0,
        };
        let len = size.bytes() as usize;
        self.place(base, off.into(), len, false)?;
        let place = self.place(base, off.into(), len, true)?;
        if !place.atomics {
            return Err(TrapReason::AtomicPlace);
        }
        if !place.pointer.addr().is_multiple_of(len) {
            return Err(TrapReason::Misaligned);
        }
        if op == AtomicOp::StoreRelease {
            // SAFETY: `place` checked that the bytes are inside live, writable memory of this run.
            unsafe { memory::store_release(place.pointer, size, value.bits) };
            if let Some(stack) = place.stack {
                self.stacks.mark(stack, len, value.kind);
            }
            return Ok(());
        }
        // SAFETY: `place` checked the bounds, the lines above the alignment; decoding allows W and Dw only.
        let old = unsafe {
            match size {
                MemSize::Dw => memory::atomic64(place.pointer, op, value.bits, expected),
                _ => memory::atomic32(place.pointer, op, value.bits as u32, expected as u32).into(),
            }
        };
        if let Some(stack) = place.stack {
            self.stacks.mark(stack, len, Kind::Scalar);
        }
        if fetch {
            let to = if op == AtomicOp::CmpXchg {
                Reg::R0
            } else {
                src
            };
            self.write(to, Value::scalar(old));
        }
        Ok(())
    }

    fn load_acquire(&mut self, size: MemSize, (base, off): (Reg, i16), dst: Reg) -> Checked<()> {
        let (base, len) = (self.read(base)?, size.bytes() as usize);
        let place = self.place(base, off.into(), len, false)?;
        if !place.atomics {
            return Err(TrapReason::AtomicPlace);
        }
        if !place.pointer.addr().is_multiple_of(len) {
            return Err(TrapReason::Misaligned);
        }
        // SAFETY: `place` checked that the bytes are inside live memory of this run.
        let bits = unsafe { memory::load_acquire(place.pointer, size) };
        let kind = match place.stack {
            Some(stack) if size == MemSize::Dw => self.stacks.tag(stack),
            _ => Kind::Scalar,
        };
        self.write(dst, Value::new(bits, kind));
        Ok(())
    }

    /// Checks an access of `len` bytes at `base + off`.
    pub fn place(&self, base: Value, off: i64, len: usize, write: bool) -> Checked<Place> {
        let address = base.bits.wrapping_add(off.cast_unsigned());
        // SAFETY: the run's frame is live, as the caller of `Interp::run` promised; no helper is at work.
        let frame = unsafe { self.env.frame() };
        let within = |first: u64, end: u64| {
            address >= first && address <= end && end - address >= len as u64
        };
        let plain = |atomics| Place {
            pointer: std::ptr::with_exposed_provenance_mut(address as usize),
            stack: None,
            atomics,
        };
        let [meta, data, end] = [frame.data_meta(), frame.data(), frame.data_end()]
            .map(|pointer| pointer.expose_provenance() as u64);
        match base.kind {
            Kind::Packet { epoch } | Kind::Meta { epoch } if epoch != self.epoch => {
                Err(TrapReason::StalePacket)
            }
            Kind::Packet { .. } if within(data, end) => Ok(plain(false)),
            Kind::Meta { .. } if within(meta, data) => Ok(plain(false)),
            Kind::Packet { .. } | Kind::Meta { .. } => Err(TrapReason::Packet),
            Kind::Stack { call } => {
                let stack = self.stacks.place(call, address, len);
                let stack = stack.ok_or(TrapReason::Stack)?;
                Ok(Place {
                    pointer: self.stacks.pointer(stack),
                    stack: Some(stack),
                    atomics: true,
                })
            }
            Kind::MapValue { base, value } => {
                if !within(base, base + u64::from(value.len)) {
                    Err(TrapReason::MapValue)
                } else if write && !value.writable || !write && !value.readable {
                    Err(TrapReason::ReadOnly)
                } else if value.is_special(address - base, len) {
                    Err(TrapReason::Field)
                } else {
                    Ok(plain(true))
                }
            }
            Kind::MapKey { base, len } => {
                if !within(base, base + u64::from(len)) {
                    Err(TrapReason::MapValue)
                } else if write {
                    Err(TrapReason::ReadOnly)
                } else {
                    Ok(plain(false))
                }
            }
            Kind::Record { base, len, id } => {
                let live = self.env.held.record(base).is_some_and(|r| r.id == id);
                match (live, within(base, base + len)) {
                    (true, true) => Ok(plain(true)),
                    (true, false) => Err(TrapReason::Record),
                    (false, _) => Err(TrapReason::NotPointer),
                }
            }
            Kind::Ctx => Err(TrapReason::Context),
            Kind::Uninit => Err(TrapReason::Uninitialised),
            Kind::Scalar if base.bits < NULL_PAGE => Err(TrapReason::NullPointer),
            Kind::Scalar | Kind::PacketEnd | Kind::Map | Kind::Function { .. } => {
                Err(TrapReason::NotPointer)
            }
        }
    }
}

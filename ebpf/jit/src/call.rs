//! Calls of helpers and subprograms. Small helpers become a few instructions.

use cranelift_codegen::ir::{
    InstBuilder, StackSlotData, StackSlotKind, Value as Ir,
    condcodes::IntCC,
    types::{I8, I32, I64},
};
use squalus_analysis::{FuncId, InstFacts, MapRef, Value};
use squalus_isa::{CallTarget, HelperId, MapType, Reg};
use squalus_maps::ArrayBase;
use squalus_runtime::{
    Env, HelperFn, MAX_CALL_FRAMES, Proto, RetKind, TrapReason, helpers, proto, protos,
};

use crate::checks;
use crate::run::{Outcome, RunState, nested_tail_call};
use crate::translate::{Region, Translator};

impl Translator<'_, '_> {
    pub(crate) fn call(&mut self, known: &InstFacts, target: CallTarget, slot: usize) {
        match target {
            CallTarget::Helper(id) => self.helper(known, id, slot),
            CallTarget::Local(target) => self.local_call(known, target, slot),
            // Linking refused it.
            CallTarget::Kfunc(_) => {}
        }
    }

    fn helper(&mut self, known: &InstFacts, id: HelperId, slot: usize) {
        let Some(proto) = proto(id) else {
            // A call that CO-RE could not resolve: the analysis ends here, and so does the code.
            return;
        };
        if self.input.facts.takes_locks() && id != HelperId::SPIN_UNLOCK {
            let lock = self.load_env(I64, Env::OFFSET_LOCK);
            self.trap_if(lock, TrapReason::SpinLock, slot);
        }
        if known.unproved_args != 0 {
            self.check_args(known, proto, slot);
        }
        if proto.ret == RetKind::TailCall {
            return self.tail_call(known);
        }
        if let Some(over) = proto.iterates() {
            return self.iterate(known, over, slot);
        }
        let result = match self.inline(known, proto) {
            Some(result) => result,
            None if id == HelperId::TIMER_SET_CALLBACK => self.set_timer_callback(known, proto),
            None => self.call_helper(known, proto.function, proto.args.len()),
        };
        if proto.may_trap {
            let reason = self.load_env(I32, Env::OFFSET_TRAP);
            let reason = self.b.ins().uextend(I64, reason);
            self.trap_with(reason, reason, slot);
        }
        self.set(Reg::R0, result);
    }

    fn args(&mut self, known: &InstFacts, count: usize) -> [Ir; 6] {
        let mut args = [self.env; 6];
        for (n, arg) in args.iter_mut().enumerate().skip(1) {
            *arg = if n <= count {
                self.reg(known, arg_reg(n))
            } else {
                self.b.ins().iconst(I64, 0)
            };
        }
        args
    }

    fn call_helper(&mut self, known: &InstFacts, function: HelperFn, count: usize) -> Ir {
        let args = self.args(known, count);
        self.call_native(function as usize, &args, 1)[0]
    }

    /// The helper learns what this program is known by.
    fn set_timer_callback(&mut self, known: &InstFacts, proto: &Proto) -> Ir {
        let mut args = self.args(known, 2);
        args[3] = self.context_address();
        self.call_native(proto.function as usize, &args, 1)[0]
    }

    /// Has the arguments checked that are not proved.
    fn check_args(&mut self, known: &InstFacts, proto: &'static Proto, slot: usize) {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, 40, 3);
        let place = self.b.create_sized_stack_slot(data);
        let place = self.b.ins().stack_addr(I64, place, 0);
        let args = self.args(known, 5);
        let flags = self.flags(Region::Env);
        for (n, arg) in args.into_iter().skip(1).enumerate() {
            self.b.ins().store(flags, arg, place, n as i32 * 8);
        }
        let number = protos().iter().position(|p| p.id == proto.id);
        let number = number.unwrap_or_default() as i64;
        let number = self.b.ins().iconst(I64, number);
        let mask = self.b.ins().iconst(I64, i64::from(known.unproved_args));
        let context = self.context_address();
        let check = checks::check_args as unsafe extern "C" fn(_, _, _, _, _) -> _;
        let args = [self.env, place, mask, number, context];
        let reason = self.call_native(check as usize, &args, 1)[0];
        self.trap_with(reason, reason, slot);
    }

    /// The helper as instructions, if it is small enough.
    fn inline(&mut self, known: &InstFacts, proto: &Proto) -> Option<Ir> {
        if known.unproved_args != 0 {
            return None;
        }
        let flags = self.flags(Region::Env);
        Some(match proto.id {
            HelperId::GET_SMP_PROCESSOR_ID => {
                let at = Env::OFFSET_CPU as i32;
                self.b.ins().uload32(flags, self.env, at)
            }
            HelperId::GET_NUMA_NODE_ID => {
                let at = Env::OFFSET_NUMA_NODE as i32;
                self.b.ins().uload32(flags, self.env, at)
            }
            HelperId::XDP_GET_BUFF_LEN => {
                let data = self.load_env(I64, Env::OFFSET_DATA);
                let end = self.load_env(I64, Env::OFFSET_DATA_END);
                let linear = self.b.ins().isub(end, data);
                let rest = self.load_env(I64, Env::OFFSET_REST);
                self.b.ins().iadd(linear, rest)
            }
            HelperId::MAP_LOOKUP_ELEM => {
                let Value::Map {
                    map: MapRef::Direct(map),
                    null: None,
                } = known.reg(Reg::R1)
                else {
                    return None;
                };
                let map = &self.input.context.maps[map as usize];
                let (array, copies, kind) = (map.array_base()?, map.copies(), map.def().kind);
                self.array_lookup(known, array, copies, kind)
            }
            _ => return None,
        })
    }

    /// An array's element is at a computed address; a map of maps holds the inner map's address there.
    fn array_lookup(
        &mut self,
        known: &InstFacts,
        array: ArrayBase,
        copies: u32,
        kind: MapType,
    ) -> Ir {
        let entries = u64::from(array.entries);
        let facts = known.index.filter(|_| !self.input.check_facts);
        let index = match facts.and_then(|index| index.as_constant()) {
            Some(index) => self.b.ins().iconst(I64, index.cast_signed()),
            None => self.load_index(known),
        };
        let base = self.b.ins().iconst(I64, array.base as i64);
        let offset = self.b.ins().imul_imm_s(index, array.stride as i64);
        let mut address = self.b.ins().iadd(base, offset);
        if copies > 1 {
            let plane = self.cpu_offset(copies, array.cpu_stride);
            address = self.b.ins().iadd(address, plane);
        }
        let inside = match facts {
            Some(index) if index.umax < entries => self.b.ins().iconst(I8, 1),
            _ => {
                let below = IntCC::UnsignedLessThan;
                self.b.ins().icmp_imm_s(below, index, entries.cast_signed())
            }
        };
        if kind.is_map_in_map() {
            return self.load_if(inside, address);
        }
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().select(inside, address, zero)
    }

    fn load_index(&mut self, known: &InstFacts) -> Ir {
        let key = self.reg(known, Reg::R2);
        let flags = match known.reg(Reg::R2) {
            Value::Stack { .. } => self.flags(Region::Stack),
            Value::Packet { .. } => self.flags(Region::Packet),
            Value::MapKey { .. } | Value::Record { .. } => self.flags(Region::Lent),
            _ => self.flags(Region::MapValue),
        };
        self.b.ins().uload32(flags, key, 0)
    }

    /// The distance of this CPU's values from CPU 0's. A CPU the map has no values for gets the first.
    fn cpu_offset(&mut self, copies: u32, stride: usize) -> Ir {
        let flags = self.flags(Region::Env);
        let at = Env::OFFSET_CPU as i32;
        let cpu = self.b.ins().uload32(flags, self.env, at);
        let has = self
            .b
            .ins()
            .icmp_imm_s(IntCC::UnsignedLessThan, cpu, i64::from(copies));
        let zero = self.b.ins().iconst(I64, 0);
        let cpu = self.b.ins().select(has, cpu, zero);
        self.b.ins().imul_imm_s(cpu, stride as i64)
    }

    /// The word at `address`, or 0 if `condition` is false.
    fn load_if(&mut self, condition: Ir, address: Ir) -> Ir {
        let (load, on) = (self.b.create_block(), self.b.create_block());
        let result = self.b.append_block_param(on, I64);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().brif(condition, load, &[], on, &[zero.into()]);
        self.b.switch_to_block(load);
        // The control plane may replace the inner map at any time; the order of what is reached through
        // it matters.
        let flags = self.flags(Region::MapValue).with_aligned();
        let word = self.b.ins().atomic_load(I64, flags, address);
        self.b.ins().jump(on, &[word.into()]);
        self.b.switch_to_block(on);
        result
    }

    fn tail_call(&mut self, known: &InstFacts) {
        let taken = self.call_helper(known, helpers::resolve_tail_call, 3);
        let (replace, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(taken, replace, &[], on, &[]);
        self.b.switch_to_block(replace);
        if self.input.func == 0 {
            let zero = self.b.ins().iconst(I64, 0);
            self.return_(zero, Outcome::TAIL_CALL);
        } else {
            let nested = nested_tail_call as unsafe extern "C" fn(_) -> _;
            let results = self.call_native(nested as usize, &[self.env], 2);
            self.b.ins().return_(&results);
        }
        self.b.switch_to_block(on);
        let zero = self.b.ins().iconst(I64, 0);
        self.set(Reg::R0, zero);
    }

    fn local_call(&mut self, known: &InstFacts, target: usize, slot: usize) {
        let subs = self.input.program.subprograms();
        let callee = subs.partition_point(|sub| sub.start <= target) - 1;
        if callee == 0 {
            // The program calling itself, which the kernel never lets happen.
            self.trap_always(TrapReason::CallDepth, slot);
            let never = self.b.create_block();
            return self.b.switch_to_block(never);
        }
        self.charge(slot);
        self.open_frame(slot);
        let args = self.args(known, 5);
        let callee = self.function(callee as FuncId);
        let call = self.b.ins().call(callee, &args);
        let (value, status) = (self.b.inst_results(call)[0], self.b.inst_results(call)[1]);
        self.leave_if(status);
        self.close_frame();
        self.set(Reg::R0, value);
    }

    /// Notes one more call; the run ends if there are too many. Returns the number of the new frame.
    pub(crate) fn open_frame(&mut self, slot: usize) -> Ir {
        let flags = self.flags(Region::Env);
        let state = self.load_env(I64, Env::OFFSET_SCRATCH);
        let at = RunState::OFFSET_DEPTH;
        let depth = self.b.ins().load(I64, flags, state, at);
        let full = self.b.ins().icmp_imm_s(
            IntCC::UnsignedGreaterThanOrEqual,
            depth,
            MAX_CALL_FRAMES as i64 - 1,
        );
        self.trap_if(full, TrapReason::CallDepth, slot);
        let inner = self.b.ins().iadd_imm_s(depth, 1);
        self.b.ins().store(flags, inner, state, at);
        let zero = self.b.ins().iconst(I64, 0);
        let offset = self.b.ins().ishl_imm_u(inner, 3);
        let place = self.b.ins().iadd(state, offset);
        let frames = RunState::OFFSET_FRAMES;
        self.b.ins().store(flags, zero, place, frames);
        inner
    }

    /// Notes that a call returned.
    pub(crate) fn close_frame(&mut self) {
        let (flags, at) = (self.flags(Region::Env), RunState::OFFSET_DEPTH);
        let state = self.load_env(I64, Env::OFFSET_SCRATCH);
        let inner = self.b.ins().load(I64, flags, state, at);
        let depth = self.b.ins().iadd_imm_s(inner, -1);
        self.b.ins().store(flags, depth, state, at);
    }

    /// Passes on that the run was ended in a callee.
    pub(crate) fn leave_if(&mut self, status: Ir) {
        let (leave, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(leave);
        self.b.ins().brif(status, leave, &[], on, &[]);
        self.b.switch_to_block(leave);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().return_(&[zero, status]);
        self.b.switch_to_block(on);
    }
}

/// The register of helper argument `n`, from 1.
fn arg_reg(n: usize) -> Reg {
    Reg::new(n as u8).expect("arguments are in r1 to r5")
}

//! Helpers that call subprograms back: a loop in the code around a direct call.

use cranelift_codegen::ir::{
    Block, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value as Ir, condcodes::IntCC,
    types::I64,
};
use squalus_analysis::{FuncId, InstFacts, Value};
use squalus_isa::{Errno, Reg};
use squalus_maps::Map;
use squalus_runtime::{Env, Iterates, MAX_LOOPS, TrapReason, Walk, function_address};

use crate::translate::{Region, Translator};

/// A loop of rounds under construction.
struct Rounds {
    /// Where each round begins; its parameter is how many there were.
    head: Block,
    /// Where the loop ends; its parameter is the helper's result.
    done: Block,
    slot: usize,
}

impl Translator<'_, '_> {
    pub(crate) fn iterate(&mut self, known: &InstFacts, over: Iterates, slot: usize) {
        let (head, done, out) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.append_block_param(head, I64);
        self.b.append_block_param(done, I64);
        let result = self.b.append_block_param(out, I64);
        let rounds = Rounds { head, done, slot };
        match over {
            Iterates::Numbers => self.numbers(known, &rounds, out),
            Iterates::Elements => self.elements(known, &rounds, out),
        }
        self.b.switch_to_block(done);
        self.close_frame();
        let begun = self.b.block_params(done)[0];
        self.b.ins().jump(out, &[begun.into()]);
        self.b.switch_to_block(out);
        self.set(Reg::R0, result);
    }

    /// `bpf_loop`.
    fn numbers(&mut self, known: &InstFacts, rounds: &Rounds, out: Block) {
        let count = self.reg(known, Reg::R1);
        let count = self.b.ins().band_imm_u(count, i64::from(u32::MAX));
        let flags = self.reg(known, Reg::R4);
        self.give_up_if(IntCC::NotEqual, flags, 0, Errno::EINVAL, out);
        let most = i64::from(MAX_LOOPS);
        self.give_up_if(IntCC::UnsignedGreaterThan, count, most, Errno::E2BIG, out);
        let context = self.reg(known, Reg::R3);
        self.open_frame(rounds.slot);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().jump(rounds.head, &[zero.into()]);
        self.b.switch_to_block(rounds.head);
        let number = self.b.block_params(rounds.head)[0];
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, number, count);
        let body = self.b.create_block();
        self.b
            .ins()
            .brif(more, body, &[], rounds.done, &[number.into()]);
        self.b.switch_to_block(body);
        self.round(known, rounds, number, [number, context, zero, zero, zero]);
    }

    /// `bpf_for_each_map_elem`.
    fn elements(&mut self, known: &InstFacts, rounds: &Rounds, out: Block) {
        let (map, context) = (self.reg(known, Reg::R1), self.reg(known, Reg::R3));
        let flags = self.reg(known, Reg::R4);
        let walk = self.walk();
        let place = self.b.ins().stack_addr(I64, walk, 0);
        let begin = begin_walk as unsafe extern "C" fn(_, _, _) -> _;
        let error = self.call_native(begin as usize, &[map, flags, place], 1)[0];
        let go = self.b.create_block();
        self.b.ins().brif(error, out, &[error.into()], go, &[]);
        self.b.switch_to_block(go);
        let frame = self.open_frame(rounds.slot);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().jump(rounds.head, &[zero.into()]);
        self.b.switch_to_block(rounds.head);
        let begun = self.b.block_params(rounds.head)[0];
        let next = next_element as unsafe extern "C" fn(_, _, _, _) -> _;
        let more = self.call_native(next as usize, &[self.env, map, place, frame], 1)[0];
        let body = self.b.create_block();
        self.b
            .ins()
            .brif(more, body, &[], rounds.done, &[begun.into()]);
        self.b.switch_to_block(body);
        let [key, value] = [Walk::OFFSET_KEY, Walk::OFFSET_VALUE].map(|offset| {
            let flags = self.flags(Region::Env);
            self.b.ins().load(I64, flags, place, offset as i32)
        });
        self.round(known, rounds, begun, [map, key, value, context, zero]);
    }

    /// One round: calls the callback; if it returns 0 the next round begins.
    fn round(&mut self, known: &InstFacts, rounds: &Rounds, number: Ir, args: [Ir; 5]) {
        self.charge(rounds.slot);
        let result = self.call_back(known, args, rounds.slot);
        let begun = self.b.ins().iadd_imm_s(number, 1);
        let (head, done) = (rounds.head, rounds.done);
        self.b
            .ins()
            .brif(result, done, &[begun.into()], head, &[begun.into()]);
    }

    /// Calls the function whose address the helper was given.
    fn call_back(&mut self, known: &InstFacts, args: [Ir; 5], slot: usize) -> Ir {
        let facts = self.input.facts;
        let callbacks = facts.cfg().callbacks(self.input.func);
        if let Value::Function(callback) = known.reg(Reg::R2)
            && callbacks.contains(&callback)
        {
            return self.call_function(callback, args, slot);
        }
        let on = self.b.create_block();
        let result = self.b.append_block_param(on, I64);
        let address = self.reg(known, Reg::R2);
        for &callback in callbacks {
            let start = self.input.program.subprograms()[callback as usize].start;
            let is = function_address(start).cast_signed();
            let is = self.b.ins().icmp_imm_s(IntCC::Equal, address, is);
            let (this, other) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(is, this, &[], other, &[]);
            self.b.switch_to_block(this);
            let value = self.call_function(callback, args, slot);
            self.b.ins().jump(on, &[value.into()]);
            self.b.switch_to_block(other);
        }
        self.trap_always(TrapReason::Argument, slot);
        self.b.switch_to_block(on);
        result
    }

    fn call_function(&mut self, callback: FuncId, args: [Ir; 5], slot: usize) -> Ir {
        let [a, b, c, d, e] = args;
        let function = self.function(callback);
        let call = self.b.ins().call(function, &[self.env, a, b, c, d, e]);
        let (value, status) = (self.b.inst_results(call)[0], self.b.inst_results(call)[1]);
        self.leave_if(status);
        if self.input.facts.function(callback).returns_pointer {
            let always = self.b.ins().iconst(I64, 1);
            self.trap_if(always, TrapReason::Return, slot);
        }
        value
    }

    /// Makes `errno` the helper's result if a comparison holds.
    fn give_up_if(&mut self, code: IntCC, value: Ir, bound: i64, errno: Errno, out: Block) {
        let is = self.b.ins().icmp_imm_s(code, value, bound);
        let error = self.b.ins().iconst(I64, errno.as_return().cast_signed());
        let on = self.b.create_block();
        self.b.ins().brif(is, out, &[error.into()], on, &[]);
        self.b.switch_to_block(on);
    }

    fn walk(&mut self) -> StackSlot {
        let size = size_of::<Walk>() as u32;
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, size, 3);
        self.b.create_sized_stack_slot(data)
    }
}

/// Begins a walk over a map: 0, or what the helper returns.
///
/// # Safety
/// Called by compiled code with the address of a map that it checked, and of room for a walk.
unsafe extern "C" fn begin_walk(map: *const Map, flags: u64, walk: *mut Walk) -> u64 {
    // SAFETY: the caller's.
    match Walk::new(unsafe { &*map }, flags) {
        Ok(begun) => {
            // SAFETY: the caller's.
            unsafe { walk.write(begun) };
            0
        }
        Err(errno) => errno.as_return(),
    }
}

/// Goes to the next element of a walk: 1, or 0 if there is none.
///
/// # Safety
/// As [`begin_walk`], which began the walk; `env` is the running environment.
unsafe extern "C" fn next_element(
    env: *mut Env,
    map: *const Map,
    walk: *mut Walk,
    frame: u64,
) -> u64 {
    // SAFETY: the caller's; nobody else uses environment and walk while compiled code waits.
    let (env, map, walk) = unsafe { (&mut *env, &*map, &mut *walk) };
    walk.next(map, env, frame as usize).into()
}

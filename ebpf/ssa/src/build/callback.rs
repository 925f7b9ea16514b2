//! Helpers that call subprograms back: a loop in the code around a direct call.

use squalus_analysis::{FuncId, InstFacts, Value as Known};
use squalus_isa::{Errno, Reg};
use squalus_runtime::{Iterates, MAX_LOOPS, TrapReason, Walk, function_address};

use super::Builder;
use super::emit::target;
use crate::ir::{Block, Cmp, Effect, Fixed, Op, Region, Target, Terminator, Ty, Value};

/// A loop of rounds under construction.
#[derive(Clone, Copy)]
struct Rounds {
    /// Where each round begins; its parameter is how many there were.
    head: Block,
    /// Where the loop ends; its parameter is the helper's result.
    done: Block,
}

impl Builder<'_> {
    pub(super) fn iterate(&mut self, known: &InstFacts, over: Iterates) {
        let rounds = Rounds {
            head: self.block_with_param(),
            done: self.block_with_param(),
        };
        let out = self.block_with_param();
        match over {
            Iterates::Numbers => self.numbers(known, rounds, out),
            Iterates::Elements => self.elements(known, rounds, out),
        }
        self.emit.block = rounds.done;
        self.close_frame();
        let begun = self.param_of(rounds.done);
        self.jump_with(out, begun);
        self.emit.block = out;
        let result = self.param_of(out);
        self.set(Reg::R0, result);
    }

    fn block_with_param(&mut self) -> Block {
        let block = self.emit.function.make_block();
        let param = self.emit.function.make(Op::Param, Ty::I64, self.emit.slot);
        self.emit.function.block_mut(block).params.push(param);
        block
    }

    fn param_of(&self, block: Block) -> Value {
        self.emit.function.block(block).params[0]
    }

    /// `bpf_loop`.
    fn numbers(&mut self, known: &InstFacts, rounds: Rounds, out: Block) {
        let count = self.reg(known, Reg::R1);
        let count = self.emit.resize(count, Ty::I32);
        let count = self.emit.resize(count, Ty::I64);
        let flags = self.reg(known, Reg::R4);
        self.give_up_if(Cmp::Ne, flags, 0, Errno::EINVAL, out);
        self.give_up_if(Cmp::UGt, count, MAX_LOOPS.into(), Errno::E2BIG, out);
        let context = self.reg(known, Reg::R3);
        self.open_frame();
        let zero = self.emit.number(Ty::I64, 0);
        self.next_if(zero, count, rounds);
        self.emit.block = rounds.head;
        let number = self.param_of(rounds.head);
        let args = vec![number, context, zero, zero, zero];
        if let Some(begun) = self.round(known, rounds, number, args) {
            self.next_if(begun, count, rounds);
        }
    }

    /// Begins the next round if fewer than `count` have begun, else goes to the end of the loop.
    fn next_if(&mut self, begun: Value, count: Value, rounds: Rounds) {
        let condition = self.emit.cmp(Cmp::ULt, begun, count);
        let [then, other] = [rounds.head, rounds.done].map(|block| Target {
            block,
            args: vec![begun],
        });
        self.emit.end(Terminator::Branch {
            condition,
            then,
            other,
        });
    }

    /// `bpf_for_each_map_elem`.
    fn elements(&mut self, known: &InstFacts, rounds: Rounds, out: Block) {
        let (map, context) = (self.reg(known, Reg::R1), self.reg(known, Reg::R3));
        let flags = self.reg(known, Reg::R4);
        self.emit.function.temps.push(size_of::<Walk>() as u32);
        let temp = self.emit.function.temps.len() as u32 - 1;
        let place = self.emit.function.fixed(Fixed::Temp(temp));
        let effect = Effect {
            reads: vec![Region::MapIndex],
            writes: vec![Region::Temp(temp)],
            pure: false,
        };
        let begin = ("begin_walk", self.input.support.begin_walk);
        let error = self.emit.native(begin, vec![map, flags, place], effect);
        let go = self.emit.function.make_block();
        let mut fail = target(out);
        fail.args.push(error);
        self.emit.end(Terminator::Branch {
            condition: error,
            then: fail,
            other: target(go),
        });
        self.emit.block = go;
        let frame = self.open_frame();
        let zero = self.emit.number(Ty::I64, 0);
        self.jump_with(rounds.head, zero);
        self.emit.block = rounds.head;
        let begun = self.param_of(rounds.head);
        let effect = Effect {
            reads: vec![Region::MapIndex, Region::Env, Region::Temp(temp)],
            writes: vec![Region::Temp(temp), Region::Lent, Region::Env],
            pure: false,
        };
        let next = ("next_element", self.input.support.next_element);
        let more = self.emit.native(next, vec![map, place, frame], effect);
        self.body_if(more, rounds, begun);
        let key = self
            .emit
            .load(Ty::I64, Region::Temp(temp), place, Walk::OFFSET_KEY as i32);
        let value = self.emit.load(
            Ty::I64,
            Region::Temp(temp),
            place,
            Walk::OFFSET_VALUE as i32,
        );
        let args = vec![map, key, value, context, zero];
        if let Some(begun) = self.round(known, rounds, begun, args) {
            self.jump_with(rounds.head, begun);
        }
    }

    /// Goes on in a new block if there is more, else to the end of the loop.
    fn body_if(&mut self, more: Value, rounds: Rounds, begun: Value) {
        let body = self.emit.function.make_block();
        let mut done = target(rounds.done);
        done.args.push(begun);
        self.emit.end(Terminator::Branch {
            condition: more,
            then: target(body),
            other: done,
        });
        self.emit.block = body;
    }

    /// One round: calls the callback, and goes on in a new block if that returns 0 as it may. Gives how many rounds
    /// have begun.
    fn round(
        &mut self,
        known: &InstFacts,
        rounds: Rounds,
        number: Value,
        args: Vec<Value>,
    ) -> Option<Value> {
        self.emit.charge();
        let result = self.call_back(known, args);
        if self.emit.function.block(self.emit.block).end.is_some() {
            return None;
        }
        let begun = self.emit.moved(number, 1);
        let on = self.emit.function.make_block();
        let mut done = target(rounds.done);
        done.args.push(begun);
        self.emit.end(Terminator::Branch {
            condition: result,
            then: done,
            other: target(on),
        });
        self.emit.block = on;
        Some(begun)
    }

    /// Calls the function whose address the helper was given.
    fn call_back(&mut self, known: &InstFacts, args: Vec<Value>) -> Value {
        let facts = self.input.facts;
        let callbacks = facts.cfg().callbacks(self.func);
        if let Known::Function(callback) = known.reg(Reg::R2)
            && callbacks.contains(&callback)
        {
            return self.call_function(callback, args);
        }
        let on = self.block_with_param();
        let address = self.reg(known, Reg::R2);
        for &callback in callbacks {
            let start = self.input.program.subprograms()[callback as usize].start;
            let is = self
                .emit
                .cmp_with(Cmp::Eq, address, function_address(start));
            let (this, other) = (
                self.emit.function.make_block(),
                self.emit.function.make_block(),
            );
            self.emit.end(Terminator::Branch {
                condition: is,
                then: target(this),
                other: target(other),
            });
            self.emit.block = this;
            let value = self.call_function(callback, args.clone());
            if self.emit.function.block(self.emit.block).end.is_none() {
                self.jump_with(on, value);
            }
            self.emit.block = other;
        }
        self.emit.trap(TrapReason::Argument);
        self.emit.block = on;
        self.param_of(on)
    }

    fn call_function(&mut self, func: FuncId, args: Vec<Value>) -> Value {
        let paid = true;
        let value = self.emit.ins(Op::Local { func, args, paid }, Ty::I64);
        if self.input.facts.function(func).returns_pointer {
            let always = self.emit.number(Ty::I8, 1);
            self.emit.trap_if(always, TrapReason::Return);
        }
        value
    }

    /// Makes `errno` the helper's result if a comparison holds.
    fn give_up_if(&mut self, op: Cmp, value: Value, bound: u64, errno: Errno, out: Block) {
        let is = self.emit.cmp_with(op, value, bound);
        let error = self.emit.number(Ty::I64, errno.as_return());
        let on = self.emit.function.make_block();
        let mut fail = target(out);
        fail.args.push(error);
        self.emit.end(Terminator::Branch {
            condition: is,
            then: fail,
            other: target(on),
        });
        self.emit.block = on;
    }
}

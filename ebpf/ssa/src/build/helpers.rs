//! Small helpers as instructions in place of calls.
//!
//! They do what their functions in [`squalus_runtime::helpers`] do. Where only the common case is worth
//! instructions, the other cases call the function, which begins again.

use squalus_analysis::InstFacts;
use squalus_isa::{HelperId, Reg, Verdict};
use squalus_runtime::{Env, MIN_FRAME, Proto, RESERVED_HEAD, Redirect, Rng};

use super::Builder;
use super::emit::target;
use crate::ir::{BinOp, Cmp, Op, Region, Terminator, Ty, UnOp, Value};

/// Up to so many bytes are summed in line.
const MOST_SUMMED: u64 = 64;

impl Builder<'_> {
    /// What the helper returns, if it is done in line.
    pub(super) fn small_helper(
        &mut self,
        known: &InstFacts,
        proto: &'static Proto,
    ) -> Option<Value> {
        Some(match proto.id {
            HelperId::GET_SMP_PROCESSOR_ID => self.env_number(Env::OFFSET_CPU),
            HelperId::GET_NUMA_NODE_ID => self.env_number(Env::OFFSET_NUMA_NODE),
            HelperId::XDP_GET_BUFF_LEN => self.frame_len(),
            HelperId::XDP_ADJUST_HEAD => self.adjust_head(known, proto),
            HelperId::XDP_ADJUST_TAIL => self.adjust_tail(known, proto),
            HelperId::KTIME_GET_NS => self.time(known, proto),
            HelperId::GET_PRANDOM_U32 => self.random(),
            HelperId::CSUM_DIFF => return self.checksum(known),
            HelperId::REDIRECT => return self.redirect(known),
            _ => return None,
        })
    }

    fn env_number(&mut self, offset: usize) -> Value {
        let number = self.emit.load_env(Ty::I32, offset);
        self.emit.resize(number, Ty::I64)
    }

    fn frame_len(&mut self) -> Value {
        let data = self.emit.load_env(Ty::I64, Env::OFFSET_DATA);
        let end = self.emit.load_env(Ty::I64, Env::OFFSET_DATA_END);
        let linear = self.emit.bin(BinOp::Sub, end, data);
        let rest = self.emit.load_env(Ty::I64, Env::OFFSET_REST);
        self.emit.bin(BinOp::Add, linear, rest)
    }

    /// Without metadata, and if the new start is in bounds, two stores.
    fn adjust_head(&mut self, known: &InstFacts, proto: &'static Proto) -> Value {
        let offset = self.offset(known);
        let data = self.emit.load_env(Ty::I64, Env::OFFSET_DATA);
        let meta = self.emit.load_env(Ty::I64, Env::OFFSET_DATA_META);
        let none = self.emit.cmp(Cmp::Eq, meta, data);
        let new = self.emit.bin(BinOp::Add, data, offset);
        let start = self.emit.load_env(Ty::I64, Env::OFFSET_HARD_START);
        let first = self.emit.moved(start, RESERVED_HEAD as i64);
        let room = self.emit.cmp(Cmp::UGe, new, first);
        let mut fits = self.emit.bin(BinOp::And, none, room);
        // A packet that grows stays long enough.
        if !self.is_constant(offset, |offset| offset <= 0) {
            let end = self.emit.load_env(Ty::I64, Env::OFFSET_DATA_END);
            let last = self.emit.moved(end, -(MIN_FRAME as i64));
            let long = self.emit.cmp(Cmp::ULe, new, last);
            fits = self.emit.bin(BinOp::And, fits, long);
        }
        let quick = |this: &mut Self| {
            this.store_env(Env::OFFSET_DATA, new);
            this.store_env(Env::OFFSET_DATA_META, new);
            this.emit.number(Ty::I64, 0)
        };
        self.either(fits, quick, |this| this.call_helper(known, proto))
    }

    /// Without fragments, a packet that gets shorter.
    fn adjust_tail(&mut self, known: &InstFacts, proto: &'static Proto) -> Value {
        let offset = self.offset(known);
        let end = self.emit.load_env(Ty::I64, Env::OFFSET_DATA_END);
        let new = self.emit.bin(BinOp::Add, end, offset);
        let rest = self.emit.load_env(Ty::I64, Env::OFFSET_REST);
        let whole = self.emit.cmp_with(Cmp::Eq, rest, 0);
        let shorter = self.emit.cmp(Cmp::ULe, new, end);
        let fits = self.emit.bin(BinOp::And, whole, shorter);
        let data = self.emit.load_env(Ty::I64, Env::OFFSET_DATA);
        let first = self.emit.moved(data, MIN_FRAME as i64);
        let long = self.emit.cmp(Cmp::UGe, new, first);
        let fits = self.emit.bin(BinOp::And, fits, long);
        let quick = |this: &mut Self| {
            this.store_env(Env::OFFSET_DATA_END, new);
            this.emit.number(Ty::I64, 0)
        };
        self.either(fits, quick, |this| this.call_helper(known, proto))
    }

    /// The burst's time, if it is known.
    fn time(&mut self, known: &InstFacts, proto: &'static Proto) -> Value {
        let time = self.emit.load_env(Ty::I64, Env::OFFSET_BURST_TIME);
        let is = self.emit.cmp_with(Cmp::Ne, time, 0);
        self.either(is, |_| time, |this| this.call_helper(known, proto))
    }

    /// Without flags, two stores.
    fn redirect(&mut self, known: &InstFacts) -> Option<Value> {
        let flags = self.reg(known, Reg::R2);
        (self.emit.function.constant(flags)? == 0).then_some(())?;
        let ifindex = self.reg(known, Reg::R1);
        let ifindex = self.emit.resize(ifindex, Ty::I32);
        let kind = self.emit.number(Ty::I32, Redirect::INTERFACE.into());
        self.store_env(Env::OFFSET_REDIRECT, kind);
        self.store_env(Env::OFFSET_REDIRECT + Redirect::OFFSET_IFINDEX, ifindex);
        Some(self.emit.number(Ty::I64, Verdict::Redirect as u64))
    }

    /// As [`Rng::next_u32`].
    fn random(&mut self) -> Value {
        let state = self.emit.load_env(Ty::I64, Env::OFFSET_RNG);
        let state = self.emit.bin_with(BinOp::Add, state, Rng::STEP);
        self.store_env(Env::OFFSET_RNG, state);
        let mut z = state;
        for (shift, factor) in Rng::MIX {
            let shifted = self.emit.bin_with(BinOp::LShr, z, shift.into());
            let mixed = self.emit.bin(BinOp::Xor, z, shifted);
            z = self.emit.bin_with(BinOp::Mul, mixed, factor);
        }
        let shifted = self.emit.bin_with(BinOp::LShr, z, 31);
        let z = self.emit.bin(BinOp::Xor, z, shifted);
        self.emit.bin_with(BinOp::LShr, z, 32)
    }

    /// As [`squalus_runtime::csum_diff`], of a few whole words.
    fn checksum(&mut self, known: &InstFacts) -> Option<Value> {
        let [from, to] = [1, 3].map(|n| {
            let len = self.reg(known, super::cells::arg(n));
            let len = self.emit.function.constant(len)?;
            (len <= MOST_SUMMED && len.is_multiple_of(4)).then_some(len as i32)
        });
        let (from, to) = (from?, to?);
        let seed = self.reg(known, Reg::R5);
        let seed = self.emit.bin_with(BinOp::And, seed, Ty::I32.mask());
        let not = |this: &mut Self, sum| this.emit.bin_with(BinOp::Xor, sum, Ty::I32.mask());
        let sum = match (from, to) {
            (0, 0) => seed,
            (0, to) => {
                let sum = self.sum(known, 2, to, seed);
                self.folded(sum)
            }
            (from, 0) => {
                let seed = not(self, seed);
                let sum = self.sum(known, 0, from, seed);
                let sum = self.folded(sum);
                not(self, sum)
            }
            (from, to) => {
                let zero = self.emit.number(Ty::I64, 0);
                let old = self.sum(known, 0, from, zero);
                let old = self.folded(old);
                let old = not(self, old);
                let seed = self.emit.bin(BinOp::Add, seed, old);
                let sum = self.sum(known, 2, to, seed);
                self.folded(sum)
            }
        };
        let sum = self.emit.resize(sum, Ty::I32);
        let sum = self.halves(sum, 16);
        Some(self.emit.resize(sum, Ty::I64))
    }

    /// `sum` and the words of argument `n`'s `len` bytes, added: less than 38 bits, so that nothing is lost.
    fn sum(&mut self, known: &InstFacts, n: usize, len: i32, mut sum: Value) -> Value {
        for at in (0..len).step_by(4) {
            let word = self.argument_word(known, n, at..at + 4);
            sum = self.emit.bin(BinOp::Add, sum, word);
        }
        sum
    }

    /// The ones' complement sum of the two halves of 64 bits. It is 0 only for 0.
    fn folded(&mut self, sum: Value) -> Value {
        self.halves(sum, 32)
    }

    /// The sum of a value's halves of `bits` bits, the carry added to it: added crosswise, the lower halves' carry goes
    /// to the upper ones.
    fn halves(&mut self, value: Value, bits: u64) -> Value {
        let turned = self.emit.bin_with(BinOp::RotL, value, bits);
        let sum = self.emit.bin(BinOp::Add, value, turned);
        self.emit.bin_with(BinOp::LShr, sum, bits)
    }

    /// The second argument, an `int`.
    fn offset(&mut self, known: &InstFacts) -> Value {
        let offset = self.reg(known, Reg::R2);
        if let Some(number) = self.emit.function.constant(offset) {
            let number = i64::from(number as i32);
            return self.emit.number(Ty::I64, number.cast_unsigned());
        }
        let offset = self.emit.resize(offset, Ty::I32);
        self.emit.ins(Op::Un(UnOp::SignExtend, offset), Ty::I64)
    }

    fn is_constant(&self, value: Value, is: impl Fn(i64) -> bool) -> bool {
        let number = self.emit.function.constant(value);
        number.is_some_and(|number| is(number.cast_signed()))
    }

    fn store_env(&mut self, offset: usize, value: Value) {
        let env = self.emit.env;
        self.emit.store(Region::Env, env, offset as i32, value);
    }

    /// A value made in one of two ways, the second one rarely.
    fn either(
        &mut self,
        condition: Value,
        often: impl FnOnce(&mut Self) -> Value,
        rarely: impl FnOnce(&mut Self) -> Value,
    ) -> Value {
        let [then, other, on] = [(); 3].map(|()| self.emit.function.make_block());
        let result = self.emit.function.make(Op::Param, Ty::I64, self.emit.slot);
        self.emit.function.block_mut(on).params.push(result);
        self.emit.function.block_mut(other).cold = true;
        self.emit.end(Terminator::Branch {
            condition,
            then: target(then),
            other: target(other),
        });
        self.emit.block = then;
        let value = often(self);
        self.jump_with(on, value);
        self.emit.block = other;
        let value = rarely(self);
        self.jump_with(on, value);
        self.emit.block = on;
        result
    }
}

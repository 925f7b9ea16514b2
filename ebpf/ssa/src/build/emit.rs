//! Instructions appended to the block under construction.

use squalus_analysis::FuncId;
use squalus_runtime::{Env, TrapReason};

use crate::ir::{
    BinOp, Block, Cmp, Effect, Fixed, Function, Op, Order, Reason, Region, Target, Terminator, Ty,
    UnOp, Value,
};

/// Where instructions go.
#[derive(Debug)]
pub(crate) struct Emitter {
    pub(crate) function: Function,
    /// The block under construction.
    pub(crate) block: Block,
    /// Slot of the eBPF instruction that is being translated.
    pub(crate) slot: u32,
    /// The environment's address.
    pub(crate) env: Value,
}

impl Emitter {
    pub(crate) fn new(id: FuncId) -> Emitter {
        let mut function = Function::new(id);
        let env = function.fixed(Fixed::Env);
        Emitter {
            function,
            block: Function::ENTRY,
            slot: 0,
            env,
        }
    }

    /// Goes on at the end of a block that is open.
    pub(crate) fn at(mut function: Function, block: Block, slot: u32) -> Emitter {
        let env = function.fixed(Fixed::Env);
        Emitter {
            function,
            block,
            slot,
            env,
        }
    }

    pub(crate) fn ins(&mut self, op: Op, ty: Ty) -> Value {
        let value = self.function.make(op, ty, self.slot);
        self.function.block_mut(self.block).insts.push(value);
        value
    }

    pub(crate) fn end(&mut self, end: Terminator) {
        let block = self.function.block_mut(self.block);
        debug_assert!(block.end.is_none());
        block.end = Some(end);
        block.end_slot = self.slot;
    }

    pub(crate) fn number(&mut self, ty: Ty, number: u64) -> Value {
        self.function.number(ty, number)
    }

    pub(crate) fn bin(&mut self, op: BinOp, a: Value, b: Value) -> Value {
        let ty = self.function.ty(a);
        self.ins(Op::Bin(op, a, b), ty)
    }

    pub(crate) fn bin_with(&mut self, op: BinOp, a: Value, b: u64) -> Value {
        let b = self.number(self.function.ty(a), b);
        self.bin(op, a, b)
    }

    /// `base + by`, as 64 bits.
    pub(crate) fn moved(&mut self, base: Value, by: i64) -> Value {
        if by == 0 {
            return base;
        }
        self.bin_with(BinOp::Add, base, by.cast_unsigned())
    }

    pub(crate) fn cmp(&mut self, op: Cmp, a: Value, b: Value) -> Value {
        self.ins(Op::Cmp(op, a, b), Ty::I8)
    }

    pub(crate) fn cmp_with(&mut self, op: Cmp, a: Value, b: u64) -> Value {
        let b = self.number(self.function.ty(a), b);
        self.cmp(op, a, b)
    }

    pub(crate) fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        let ty = self.function.ty(a);
        self.ins(Op::Select(condition, a, b), ty)
    }

    pub(crate) fn un(&mut self, op: UnOp, a: Value) -> Value {
        let ty = self.function.ty(a);
        self.ins(Op::Un(op, a), ty)
    }

    /// The value in another width, cut off or filled up with zeros.
    pub(crate) fn resize(&mut self, value: Value, ty: Ty) -> Value {
        self.convert(value, ty, UnOp::ZeroExtend)
    }

    pub(crate) fn resize_signed(&mut self, value: Value, ty: Ty) -> Value {
        self.convert(value, ty, UnOp::SignExtend)
    }

    fn convert(&mut self, value: Value, ty: Ty, widen: UnOp) -> Value {
        let from = self.function.ty(value);
        match from.cmp(&ty) {
            std::cmp::Ordering::Equal => value,
            std::cmp::Ordering::Less => self.ins(Op::Un(widen, value), ty),
            std::cmp::Ordering::Greater => self.ins(Op::Un(UnOp::Truncate, value), ty),
        }
    }

    pub(crate) fn load(&mut self, ty: Ty, region: Region, base: Value, off: i32) -> Value {
        let order = Order::Plain;
        self.ins(
            Op::Load {
                region,
                base,
                off,
                order,
            },
            ty,
        )
    }

    pub(crate) fn store(&mut self, region: Region, base: Value, off: i32, value: Value) {
        let op = Op::Store {
            region,
            base,
            off,
            value,
        };
        self.ins(op, Ty::I64);
    }

    pub(crate) fn load_env(&mut self, ty: Ty, offset: usize) -> Value {
        self.load(ty, Region::Env, self.env, offset as i32)
    }

    pub(crate) fn native(
        &mut self,
        (name, function): (&'static str, usize),
        args: Vec<Value>,
        effect: Effect,
    ) -> Value {
        let op = Op::Native {
            function,
            name,
            args,
            effect,
        };
        self.ins(op, Ty::I64)
    }

    /// Ends the run if `condition` is not zero.
    pub(crate) fn trap_if(&mut self, condition: Value, reason: TrapReason) {
        let (reason, slot) = (Reason::Known(reason), self.slot);
        let op = Op::TrapIf {
            condition,
            reason,
            slot,
        };
        self.ins(op, Ty::I64);
    }

    /// Ends the run if `reason`, the number of a reason, is not zero.
    pub(crate) fn trap_by(&mut self, reason: Value) {
        let op = Op::TrapIf {
            condition: reason,
            reason: Reason::Condition,
            slot: self.slot,
        };
        self.ins(op, Ty::I64);
    }

    pub(crate) fn trap(&mut self, reason: TrapReason) {
        self.end(Terminator::Trap(reason, self.slot));
    }

    /// Pays for a loop or call, and traps when nothing is left.
    pub(crate) fn charge(&mut self) {
        let left = self.load_env(Ty::I64, Env::OFFSET_BUDGET);
        let none = self.cmp_with(Cmp::Eq, left, 0);
        self.trap_if(none, TrapReason::Budget);
        let left = self.moved(left, -1);
        self.store(Region::Env, self.env, Env::OFFSET_BUDGET as i32, left);
    }
}

pub(crate) fn target(block: Block) -> Target {
    Target {
        block,
        args: Vec::new(),
    }
}

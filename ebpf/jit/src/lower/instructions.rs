//! What instructions within a block become.

use std::collections::HashSet;

use cranelift_codegen::ir::{
    AtomicRmwOp, Endianness, InstBuilder, MemFlagsData, Type, Value as Ir,
    condcodes::IntCC,
    types::{I8, I16, I32, I32X4, I64, I64X2, I128},
};
use squalus_isa::AtomicOp;
use squalus_runtime::Env;
use squalus_ssa::ir::{BinOp, Cmp, Fixed, Function, Op, Order, Region, Ty, UnOp, Value};

use super::Lowering;

/// Whether a load needs no care here: x86 keeps loads in order, and the code generator moves none past an
/// acquire.
fn plain(order: Order) -> bool {
    order == Order::Plain || order == Order::InTurn && cfg!(target_arch = "x86_64")
}

impl Lowering<'_, '_> {
    pub(super) fn inst(&mut self, inst: Value) -> Option<Ir> {
        let data = self.function.value(inst);
        let width = ty(data.ty);
        Some(match &data.op {
            Op::Bin(op, a, b) => self.bin(*op, *a, *b),
            Op::Un(UnOp::ZeroExtend, a) if let Some(&wide) = self.wide.get(a) => match data.ty {
                Ty::I64 => wide,
                _ => self.b.ins().ireduce(width, wide),
            },
            Op::Un(UnOp::Truncate, a) => self.low(*a, width),
            Op::Un(UnOp::Pair, a) if let Some(&pair) = self.pairs.get(a) => pair,
            Op::Un(op, a) => self.un(*op, *a, width),
            Op::Cmp(op, a, b) => {
                let (a, b) = (self.value(*a), self.value(*b));
                self.b.ins().icmp(code(*op), a, b)
            }
            Op::Select(c, a, b) => {
                let (c, a, b) = (self.value(*c), self.value(*a), self.value(*b));
                self.b.ins().select(c, a, b)
            }
            Op::Load { .. } => return self.load(inst),
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let (base, off) = self.place(*base, *off);
                let value = self.value(*value);
                let flags = self.regions.flags(*region);
                self.b.ins().store(flags, value, base, off);
                return None;
            }
            Op::Atomic { .. } => return self.atomic(&data.op, width),
            Op::Lookup { map, key, .. } => {
                let map = self.value(*map);
                self.lookup(map, key)
            }
            Op::Native { function, args, .. } => {
                let args: Vec<Ir> = args.iter().map(|&arg| self.value(arg)).collect();
                let args: Vec<Ir> = [self.env].into_iter().chain(args).collect();
                self.call_native(*function, &args, 1)[0]
            }
            Op::Local { func, args, .. } => self.local(*func, args),
            Op::TailCall(context, map, index) => {
                self.tail_call([*context, *map, *index]);
                return None;
            }
            Op::TrapIf {
                condition,
                reason,
                slot,
            } => {
                self.trap_if(*condition, *reason, *slot);
                return None;
            }
            Op::Fixed(_) | Op::Param => unreachable!("these stand in no block"),
        })
    }

    /// An operation of one operand, which gives this type.
    fn un(&mut self, op: UnOp, a: Value, width: Type) -> Ir {
        let a = self.value(a);
        let ins = self.b.ins();
        match op {
            UnOp::Neg => ins.ineg(a),
            UnOp::Not => ins.bnot(a),
            UnOp::ByteSwap => ins.bswap(a),
            UnOp::TrailingZeros => ins.ctz(a),
            UnOp::LeadingZeros => ins.clz(a),
            UnOp::PopCount => ins.popcnt(a),
            UnOp::ZeroExtend => ins.uextend(width, a),
            UnOp::SignExtend => ins.sextend(width, a),
            UnOp::Truncate => unreachable!("it has its own way"),
            UnOp::Pair => {
                let numbers = ins.scalar_to_vector(I64X2, a);
                let flags = MemFlagsData::new().with_endianness(Endianness::Little);
                let halves = self.b.ins().bitcast(I32X4, flags, numbers);
                self.b.ins().uwiden_low(halves)
            }
            UnOp::Sum => {
                let low = ins.extractlane(a, 0);
                let high = self.b.ins().extractlane(a, 1);
                self.b.ins().iadd(low, high)
            }
        }
    }

    /// A load; `None` if only the pair that it becomes is used.
    fn load(&mut self, inst: Value) -> Option<Ir> {
        let data = self.function.value(inst);
        let Op::Load {
            region,
            base,
            off,
            order,
        } = data.op
        else {
            unreachable!("it was asked for a load");
        };
        let (base, off) = self.place(base, off);
        let flags = self.regions.flags(region);
        Some(if !plain(order) {
            let address = self.b.ins().iadd_imm_s(base, i64::from(off));
            let flags = flags.with_aligned();
            self.b.ins().atomic_load(ty(data.ty), flags, address)
        } else if self.paired.contains(&inst) {
            let pair = self.b.ins().uload32x2(flags, base, off);
            self.pairs.insert(inst, pair);
            return None;
        } else if self.extended.contains(&inst) {
            let wide = match data.ty {
                Ty::I8 => self.b.ins().uload8(I64, flags, base, off),
                Ty::I16 => self.b.ins().uload16(I64, flags, base, off),
                _ => self.b.ins().uload32(flags, base, off),
            };
            self.wide.insert(inst, wide);
            self.b.ins().ireduce(ty(data.ty), wide)
        } else {
            self.b.ins().load(ty(data.ty), flags, base, off)
        })
    }

    /// Where an access goes. What stands behind the environment, for SSA, is its frame.
    fn place(&mut self, base: Value, off: i32) -> (Ir, i32) {
        let frame = Env::FRAME as i32;
        let is_env = self.function.value(base).op == Op::Fixed(Fixed::Env);
        if !is_env || off < frame {
            return (self.address(base), off);
        }
        let bounds = self.bounds.unwrap_or_else(|| {
            let flags = self.regions.flags(Region::Env);
            let at = Env::OFFSET_FRAME as i32;
            self.b.ins().load(I64, flags, self.env, at)
        });
        (bounds, off - frame)
    }

    fn bin(&mut self, op: BinOp, x: Value, y: Value) -> Ir {
        let a = self.value(x);
        // What is added to a large number is an address.
        let b = match op {
            BinOp::Add => self.address(y),
            _ => self.value(y),
        };
        let divisor = self.function.constant(y);
        if op == BinOp::And
            && let Some(part) = divisor.and_then(part)
        {
            // A move clears the other bits; the mask would be longer, or even come from memory.
            let width = self.b.func.dfg.value_type(a);
            let low = self.low(x, part);
            return self.b.ins().uextend(width, low);
        }
        let ins = self.b.ins();
        match op {
            BinOp::Add => ins.iadd(a, b),
            BinOp::Sub => ins.isub(a, b),
            BinOp::Mul => ins.imul(a, b),
            BinOp::MulHigh => ins.umulhi(a, b),
            BinOp::MulFold => self.multiply_fold(a, b),
            BinOp::And => ins.band(a, b),
            BinOp::Or => ins.bor(a, b),
            BinOp::Xor => ins.bxor(a, b),
            // Cranelift's shifts take their amount modulo the width, as eBPF's do.
            BinOp::Shl => ins.ishl(a, b),
            BinOp::LShr => ins.ushr(a, b),
            BinOp::AShr => ins.sshr(a, b),
            BinOp::RotL => ins.rotl(a, b),
            BinOp::UDiv if divisor.is_some_and(|d| d != 0) => ins.udiv(a, b),
            BinOp::URem if divisor.is_some_and(|d| d != 0) => ins.urem(a, b),
            BinOp::UDiv | BinOp::URem => self.divide(op == BinOp::URem, a, b),
            BinOp::SDiv | BinOp::SRem => self.divide_signed(op == BinOp::SRem, a, b),
        }
    }

    /// The lower part of a value. The code generator would do what the value comes from once more in the narrower
    /// width, if it saw it, even if the value itself is wanted too.
    fn low(&mut self, value: Value, width: Type) -> Ir {
        let mut made = self.value(value);
        let again = matches!(
            self.function.value(value).op,
            Op::Bin(
                BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor,
                ..
            ) | Op::Un(UnOp::Neg | UnOp::Not, _)
        );
        if again && (self.whole[value.0 as usize] || width != I32) {
            let own = self.b.func.dfg.value_type(made);
            made = self.b.ins().bitcast(own, MemFlagsData::new(), made);
        }
        self.b.ins().ireduce(width, made)
    }

    /// Both halves of a product, from one multiplication where there is one that gives both.
    fn multiply_fold(&mut self, a: Ir, b: Ir) -> Ir {
        let (low, high) = if cfg!(target_arch = "x86_64") {
            let a = self.b.ins().uextend(I128, a);
            let b = self.b.ins().uextend(I128, b);
            let product = self.b.ins().imul(a, b);
            self.b.ins().isplit(product)
        } else {
            let low = self.b.ins().imul(a, b);
            (low, self.b.ins().umulhi(a, b))
        };
        self.b.ins().bxor(low, high)
    }

    /// `x / 0` is 0, `x % 0` is `x`.
    fn divide(&mut self, rest: bool, a: Ir, b: Ir) -> Ir {
        let width = self.b.func.dfg.value_type(a);
        let by_zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let one = self.b.ins().iconst(width, 1);
        let divisor = self.b.ins().select(by_zero, one, b);
        if rest {
            let result = self.b.ins().urem(a, divisor);
            self.b.ins().select(by_zero, a, result)
        } else {
            let result = self.b.ins().udiv(a, divisor);
            self.b.ins().select(by_zero, b, result)
        }
    }

    /// As [`Lowering::divide`]; the least number divided by -1 is itself, with rest 0.
    fn divide_signed(&mut self, rest: bool, a: Ir, b: Ir) -> Ir {
        let width = self.b.func.dfg.value_type(a);
        // 0 and -1 need care: they are the two values with `b + 1 <= 1`, unsigned.
        let next = self.b.ins().iadd_imm_s(b, 1);
        let special = self
            .b
            .ins()
            .icmp_imm_s(IntCC::UnsignedLessThanOrEqual, next, 1);
        let one = self.b.ins().iconst(width, 1);
        let divisor = self.b.ins().select(special, one, b);
        if rest {
            // By zero the dividend remains, by -1 nothing.
            let result = self.b.ins().srem(a, divisor);
            let by_zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
            self.b.ins().select(by_zero, a, result)
        } else {
            // `a * b` is 0 for 0 and `-a` for -1.
            let result = self.b.ins().sdiv(a, divisor);
            let product = self.b.ins().imul(a, b);
            self.b.ins().select(special, product, result)
        }
    }

    fn atomic(&mut self, op: &Op, width: Type) -> Option<Ir> {
        let Op::Atomic {
            op,
            region,
            address,
            value,
            expected,
        } = op
        else {
            unreachable!("called for atomic operations");
        };
        let flags = self.regions.flags(*region).with_aligned();
        let (address, value) = (self.value(*address), self.value(*value));
        let op = match op {
            AtomicOp::Add => AtomicRmwOp::Add,
            AtomicOp::Or => AtomicRmwOp::Or,
            AtomicOp::And => AtomicRmwOp::And,
            AtomicOp::Xor => AtomicRmwOp::Xor,
            AtomicOp::Xchg => AtomicRmwOp::Xchg,
            AtomicOp::StoreRelease => {
                self.b.ins().atomic_store(flags, value, address);
                return None;
            }
            AtomicOp::LoadAcquire => unreachable!("it is an ordered load"),
            AtomicOp::CmpXchg => {
                let expected = expected.expect("a compare-and-exchange compares");
                let expected = self.value(expected);
                return Some(self.b.ins().atomic_cas(flags, address, expected, value));
            }
        };
        Some(self.b.ins().atomic_rmw(width, flags, op, address, value))
    }
}

/// Values that some instruction extends with zeros.
pub(super) fn extended(function: &Function) -> HashSet<Value> {
    let blocks = function.reverse_postorder().into_iter();
    let insts = blocks.flat_map(|block| &function.block(block).insts);
    insts
        .filter_map(|inst| match function.value(*inst).op {
            Op::Un(UnOp::ZeroExtend, a) => Some(a),
            _ => None,
        })
        .collect()
}

/// For each value, whether somebody wants more of it than its lower part.
pub(super) fn whole(function: &Function) -> Vec<bool> {
    let mut whole = vec![false; function.values.len()];
    for block in function.reverse_postorder() {
        let data = function.block(block);
        for &inst in &data.insts {
            let op = &function.value(inst).op;
            let partly = match *op {
                Op::Un(UnOp::Truncate, _) => true,
                Op::Bin(BinOp::And, _, mask) => function.constant(mask).and_then(part).is_some(),
                _ => false,
            };
            op.uses(|value| whole[value.0 as usize] |= !partly);
        }
        let end = data.end.iter();
        end.for_each(|end| end.uses(|value| whole[value.0 as usize] = true));
    }
    whole
}

/// The width of the lower part that a mask leaves.
fn part(mask: u64) -> Option<Type> {
    match mask {
        0xff => Some(I8),
        0xffff => Some(I16),
        0xffff_ffff => Some(I32),
        _ => None,
    }
}

/// Loads whose values are used as pairs only.
pub(super) fn paired(function: &Function) -> HashSet<Value> {
    let is_pair = |op: &Op| matches!(op, Op::Un(UnOp::Pair, _));
    if !function.values.iter().any(|value| is_pair(&value.op)) {
        return HashSet::new();
    }
    let (mut paired, mut others) = (HashSet::new(), HashSet::new());
    for block in function.reverse_postorder() {
        let data = function.block(block);
        for &inst in &data.insts {
            match &function.value(inst).op {
                Op::Un(UnOp::Pair, a) => {
                    paired.insert(*a);
                }
                op => op.uses(|used| {
                    others.insert(used);
                }),
            }
        }
        data.end.iter().for_each(|end| {
            end.uses(|used| {
                others.insert(used);
            });
        });
    }
    paired.retain(|value| !others.contains(value));
    paired
}

pub(super) fn ty(width: Ty) -> Type {
    match width {
        Ty::I8 => I8,
        Ty::I16 => I16,
        Ty::I32 => I32,
        Ty::I64 => I64,
        Ty::V128 => I64X2,
    }
}

pub(super) fn code(op: Cmp) -> IntCC {
    match op {
        Cmp::Eq => IntCC::Equal,
        Cmp::Ne => IntCC::NotEqual,
        Cmp::ULt => IntCC::UnsignedLessThan,
        Cmp::ULe => IntCC::UnsignedLessThanOrEqual,
        Cmp::UGt => IntCC::UnsignedGreaterThan,
        Cmp::UGe => IntCC::UnsignedGreaterThanOrEqual,
        Cmp::SLt => IntCC::SignedLessThan,
        Cmp::SLe => IntCC::SignedLessThanOrEqual,
        Cmp::SGt => IntCC::SignedGreaterThan,
        Cmp::SGe => IntCC::SignedGreaterThanOrEqual,
    }
}

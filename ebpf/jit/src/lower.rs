//! SSA to Cranelift's intermediate code.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::CondCode as _;
use cranelift_codegen::ir::{
    self, AbiParam, AliasRegion, AliasRegionData, AtomicRmwOp, BlockArg, ExtFuncData, ExternalName,
    FuncRef, GlobalValueData, InstBuilder, MemFlagsData, SigRef, Signature, SourceLoc, StackSlot,
    StackSlotData, StackSlotKind, Type, UserExternalName, UserFuncName, Value as Ir,
    condcodes::IntCC,
    types::{I8, I16, I32, I64, I128},
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use squalus_analysis::FuncId;
use squalus_isa::AtomicOp;
use squalus_runtime::{Env, STACK_SIZE};
use squalus_ssa::ir::{
    BinOp, Block, Cmp, Fixed, Function, Op, Order, Reason, Region, Target, Terminator, Ty, UnOp,
    Value,
};

use crate::backend::Module;
use crate::run::Outcome;

/// Whether a load needs no care here: x86 keeps loads in order, and the code generator moves none past an
/// acquire.
fn plain(order: Order) -> bool {
    order == Order::Plain || order == Order::InTurn && cfg!(target_arch = "x86_64")
}

/// What code comes from that ends runs after failed checks.
pub(crate) const NO_SLOT: u32 = u32::MAX - 1;

/// Names of symbols that stand for addresses begin with this plus the upper half of the address, and go on
/// with the lower one.
pub(crate) const ADDRESS: u32 = 1 << 31;
/// Numbers that are taken for addresses: those too large for an instruction, and not larger than user space.
const ADDRESSES: std::ops::Range<u64> = 1 << 32..1 << 47;

/// A function under construction.
struct Lowering<'a, 'b> {
    function: &'a Function,
    module: &'a Module<'a>,
    b: FunctionBuilder<'b>,
    env: Ir,
    values: Vec<Option<Ir>>,
    /// Numbers and addresses made in the current block.
    fixed: HashMap<Value, Ir>,
    /// Addresses made in the current block.
    addresses: HashMap<Value, Ir>,
    /// Values that are also used with zeros above them.
    extended: HashSet<Value>,
    /// Loads of these, with the zeros.
    wide: HashMap<Value, Ir>,
    blocks: Vec<Option<ir::Block>>,
    trap: Option<ir::Block>,
    frame: Option<StackSlot>,
    temps: Vec<StackSlot>,
    regions: Regions,
    calling: CallConv,
    signatures: Vec<(usize, usize, SigRef)>,
    functions: Vec<(FuncId, FuncRef)>,
}

/// Translates a function.
pub(crate) fn lower(
    function: &Function,
    module: &Module<'_>,
    isa: &dyn TargetIsa,
    builder: &mut FunctionBuilderContext,
) -> ir::Function {
    let calling = isa.default_call_conv();
    let mut lowered = ir::Function::with_name_signature(
        UserFuncName::user(0, function.id),
        signature(calling, 1 + function.params, 2),
    );
    let mut b = FunctionBuilder::new(&mut lowered, builder);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let env = b.block_params(entry)[0];
    let mut lowering = Lowering {
        function,
        module,
        env,
        values: vec![None; function.values.len()],
        fixed: HashMap::new(),
        addresses: HashMap::new(),
        extended: extended(function),
        wide: HashMap::new(),
        blocks: vec![None; function.blocks.len()],
        trap: None,
        frame: None,
        temps: Vec::new(),
        regions: Regions::new(function, &mut b),
        calling,
        signatures: Vec::new(),
        functions: Vec::new(),
        b,
    };
    lowering.body(entry);
    lowering.b.seal_all_blocks();
    lowering.b.finalize(isa.frontend_config());
    lowered
}

fn signature(calling: CallConv, params: usize, returns: usize) -> Signature {
    let mut signature = Signature::new(calling);
    signature.params = vec![AbiParam::new(I64); params];
    signature.returns = vec![AbiParam::new(I64); returns];
    signature
}

/// Kinds of memory that the code generator may take for separate.
struct Regions {
    known: Vec<(Region, AliasRegion)>,
    /// Whether some access can be anywhere.
    anywhere: bool,
    /// Whether some value's map is not known.
    any_map: bool,
}

impl Regions {
    fn new(function: &Function, b: &mut FunctionBuilder<'_>) -> Regions {
        let mut regions = Regions {
            known: Vec::new(),
            anywhere: false,
            any_map: false,
        };
        let mut used = Vec::new();
        for block in function.reverse_postorder() {
            for &inst in &function.block(block).insts {
                let (Op::Load { region, .. }
                | Op::Store { region, .. }
                | Op::Atomic { region, .. }) = function.value(inst).op
                else {
                    continue;
                };
                regions.anywhere |= region == Region::Any;
                regions.any_map |= region == Region::MapValue(None);
                used.push(region);
            }
        }
        for region in used {
            let Some(region) = regions.merged(region) else {
                continue;
            };
            if !regions.known.iter().any(|(known, _)| *known == region) {
                let data = AliasRegionData {
                    user_id: regions.known.len() as u32,
                    description: region.to_string().into(),
                };
                let alias = b.func.dfg.alias_regions.insert(data);
                regions.known.push((region, alias));
            }
        }
        regions
    }

    /// The region as far as it is told apart from others.
    fn merged(&self, region: Region) -> Option<Region> {
        match region {
            Region::Env | Region::Temp(_) | Region::MapIndex | Region::Counts => Some(region),
            _ if self.anywhere => None,
            Region::MapValue(_) if self.any_map => Some(Region::MapValue(None)),
            other => Some(other),
        }
    }

    /// Flags of an access that cannot fault.
    fn flags(&self, region: Region) -> MemFlagsData {
        let merged = self.merged(region);
        let alias = self.known.iter().find(|(known, _)| Some(*known) == merged);
        MemFlagsData::new()
            .with_notrap()
            .with_alias_region(alias.map(|(_, alias)| *alias))
    }
}

impl Lowering<'_, '_> {
    fn body(&mut self, entry: ir::Block) {
        self.slots();
        let order = self.function.reverse_postorder();
        for &block in &order {
            let made = if block == Function::ENTRY {
                entry
            } else {
                self.b.create_block()
            };
            self.blocks[block.0 as usize] = Some(made);
            let data = self.function.block(block);
            for (n, &param) in data.params.iter().enumerate() {
                let value = if block == Function::ENTRY {
                    self.b.block_params(entry)[1 + n]
                } else {
                    self.b.append_block_param(made, ty(self.function.ty(param)))
                };
                self.values[param.0 as usize] = Some(value);
            }
            if data.cold {
                self.b.set_cold_block(made);
            }
        }
        for &block in &order {
            self.switch(self.block(block));
            self.block_body(block);
        }
        if let Some(trap) = self.trap {
            self.mark(NO_SLOT);
            self.trap_block(trap);
        }
    }

    fn slots(&mut self) {
        if self.function.frame {
            let data = StackSlotData::new(StackSlotKind::ExplicitSlot, STACK_SIZE as u32, 4);
            self.frame = Some(self.b.create_sized_stack_slot(data));
        }
        for &size in &self.function.temps {
            let data = StackSlotData::new(StackSlotKind::ExplicitSlot, size, 3);
            let slot = self.b.create_sized_stack_slot(data);
            self.temps.push(slot);
        }
    }

    fn switch(&mut self, block: ir::Block) {
        self.b.switch_to_block(block);
        self.fixed.clear();
        self.addresses.clear();
    }

    fn block(&self, block: Block) -> ir::Block {
        self.blocks[block.0 as usize].expect("edges lead to reachable blocks")
    }

    fn block_body(&mut self, block: Block) {
        let data = self.function.block(block);
        for &inst in &data.insts {
            self.mark(self.function.value(inst).slot);
            let made = self.inst(inst);
            self.values[inst.0 as usize] = made;
        }
        self.mark(data.end_slot);
        match &data.end {
            Some(end) => self.end(end),
            None => unreachable!("finished functions have finished blocks"),
        }
    }

    /// Says what the code that follows comes from.
    fn mark(&mut self, slot: u32) {
        if self.module.keep_text {
            self.b.set_srcloc(SourceLoc::new(slot));
        }
    }

    fn end(&mut self, end: &Terminator) {
        match end {
            Terminator::Jump(target) => {
                let (block, args) = self.target(target);
                self.b.ins().jump(block, &args);
            }
            Terminator::Branch {
                condition,
                then,
                other,
            } => {
                let cold = |target: &Target| self.function.block(target.block).cold;
                // Blocks come in the order of the second targets first, and registers are given out in this
                // order too: what is hot goes before what is cold.
                let swap = cold(other) && !cold(then);
                let condition = if swap {
                    self.opposite(*condition)
                } else {
                    self.value(*condition)
                };
                let (then, other) = if swap { (other, then) } else { (then, other) };
                let (then, then_args) = self.target(then);
                let (other, other_args) = self.target(other);
                self.b
                    .ins()
                    .brif(condition, then, &then_args, other, &other_args);
            }
            Terminator::Return(value) => {
                let value = self.value(*value);
                self.return_(value, Outcome::DONE);
            }
            Terminator::Trap(reason, slot) => {
                let reason = self.b.ins().iconst(I64, *reason as i64);
                let slot = self.b.ins().iconst(I64, i64::from(*slot));
                let trap = self.trap_target();
                self.b.ins().jump(trap, &[reason.into(), slot.into()]);
            }
        }
    }

    /// Not 0 if a condition is 0.
    fn opposite(&mut self, condition: Value) -> Ir {
        if let Op::Cmp(op, a, b) = self.function.value(condition).op {
            let (a, b) = (self.value(a), self.value(b));
            return self.b.ins().icmp(code(op).complement(), a, b);
        }
        let condition = self.value(condition);
        self.b.ins().icmp_imm_s(IntCC::Equal, condition, 0)
    }

    fn target(&mut self, target: &Target) -> (ir::Block, Vec<BlockArg>) {
        let args = target
            .args
            .iter()
            .map(|&arg| BlockArg::Value(self.value(arg)));
        let args = args.collect();
        (self.block(target.block), args)
    }

    /// A value where it is used.
    fn value(&mut self, value: Value) -> Ir {
        if let Some(made) = self.values[value.0 as usize] {
            return made;
        }
        if let Some(&made) = self.fixed.get(&value) {
            return made;
        }
        let Op::Fixed(fixed) = self.function.value(value).op else {
            unreachable!("values are defined before they are used");
        };
        let made = match fixed {
            Fixed::Number(width, number) => {
                let shift = 64 - width.bits();
                let signed = (number << shift).cast_signed() >> shift;
                self.b.ins().iconst(ty(width), signed)
            }
            Fixed::Env => return self.env,
            Fixed::Frame(off) => {
                let frame = self.frame.expect("a frame that is used has a place");
                self.b.ins().stack_addr(I64, frame, off)
            }
            Fixed::Temp(n) => self.b.ins().stack_addr(I64, self.temps[n as usize], 0),
            Fixed::Map(map) => {
                let map = self.module.maps[map as usize];
                self.b.ins().iconst(I64, map as i64)
            }
        };
        self.fixed.insert(value, made);
        made
    }

    /// A value that is used as an address, or as a part of one. The code generator makes a large number anew for each access, and
    /// leaves some behind that nobody uses; the address of a symbol it makes once a block.
    fn address(&mut self, value: Value) -> Ir {
        let number = match self.function.constant(value) {
            Some(number) if ADDRESSES.contains(&number) && cfg!(target_arch = "x86_64") => number,
            _ => return self.value(value),
        };
        if let Some(&made) = self.addresses.get(&value) {
            return made;
        }
        let name = UserExternalName::new(ADDRESS + (number >> 32) as u32, number as u32);
        let name = self.b.func.declare_imported_user_function(name);
        let symbol = self.b.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(name),
            offset: 0.into(),
            colocated: false,
            tls: false,
        });
        let made = self.b.ins().symbol_value(I64, symbol);
        self.addresses.insert(value, made);
        made
    }

    fn inst(&mut self, inst: Value) -> Option<Ir> {
        let data = self.function.value(inst);
        let width = ty(data.ty);
        Some(match &data.op {
            Op::Bin(op, a, b) => self.bin(*op, *a, *b),
            Op::Un(UnOp::ZeroExtend, a) if let Some(&wide) = self.wide.get(a) => match data.ty {
                Ty::I64 => wide,
                _ => self.b.ins().ireduce(width, wide),
            },
            Op::Un(op, a) => {
                let a = self.value(*a);
                let ins = self.b.ins();
                match op {
                    UnOp::Neg => ins.ineg(a),
                    UnOp::Not => ins.bnot(a),
                    UnOp::ByteSwap => ins.bswap(a),
                    UnOp::TrailingZeros => ins.ctz(a),
                    UnOp::ZeroExtend => ins.uextend(width, a),
                    UnOp::SignExtend => ins.sextend(width, a),
                    UnOp::Truncate => ins.ireduce(width, a),
                }
            }
            Op::Cmp(op, a, b) => {
                let (a, b) = (self.value(*a), self.value(*b));
                self.b.ins().icmp(code(*op), a, b)
            }
            Op::Select(c, a, b) => {
                let (c, a, b) = (self.value(*c), self.value(*a), self.value(*b));
                self.b.ins().select(c, a, b)
            }
            Op::Load {
                region,
                base,
                off,
                order,
            } => {
                let base = self.address(*base);
                let flags = self.regions.flags(*region);
                if !plain(*order) {
                    let address = self.b.ins().iadd_imm_s(base, i64::from(*off));
                    let flags = flags.with_aligned();
                    self.b.ins().atomic_load(width, flags, address)
                } else if self.extended.contains(&inst) {
                    let wide = match data.ty {
                        Ty::I8 => self.b.ins().uload8(I64, flags, base, *off),
                        Ty::I16 => self.b.ins().uload16(I64, flags, base, *off),
                        _ => self.b.ins().uload32(flags, base, *off),
                    };
                    self.wide.insert(inst, wide);
                    self.b.ins().ireduce(width, wide)
                } else {
                    self.b.ins().load(width, flags, base, *off)
                }
            }
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let (base, value) = (self.address(*base), self.value(*value));
                let flags = self.regions.flags(*region);
                self.b.ins().store(flags, value, base, *off);
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
            Op::Local { func, args } => self.local(*func, args),
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

    fn bin(&mut self, op: BinOp, x: Value, y: Value) -> Ir {
        let a = self.value(x);
        // What is added to a large number is an address.
        let b = match op {
            BinOp::Add => self.address(y),
            _ => self.value(y),
        };
        let divisor = self.function.constant(y);
        if op == BinOp::And && divisor == Some(0xffff_ffff) {
            // Moving 32 bits clears the others; the mask would have to come from memory.
            let low = self.b.ins().ireduce(I32, a);
            return self.b.ins().uextend(I64, low);
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

    /// A lookup out of line, with a copy of the key.
    fn lookup(&mut self, map: Ir, key: &[Value]) -> Ir {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, key.len().max(1) as u32 * 8, 3);
        let slot = self.b.create_sized_stack_slot(data);
        for (n, &word) in key.iter().enumerate() {
            let word = self.value(word);
            let place = self.b.ins().stack_addr(I64, slot, n as i32 * 8);
            self.b
                .ins()
                .store(MemFlagsData::new().with_notrap(), word, place, 0);
        }
        let place = self.b.ins().stack_addr(I64, slot, 0);
        let zero = self.b.ins().iconst(I64, 0);
        let args = [self.env, map, place, zero, zero, zero];
        self.call_native(self.module.calls.lookup, &args, 1)[0]
    }

    fn local(&mut self, func: FuncId, args: &[Value]) -> Ir {
        let args: Vec<Ir> = args.iter().map(|&arg| self.value(arg)).collect();
        let args: Vec<Ir> = [self.env].into_iter().chain(args).collect();
        let callee = self.callee(func);
        let call = self.b.ins().call(callee, &args);
        let (value, status) = (self.b.inst_results(call)[0], self.b.inst_results(call)[1]);
        self.leave_if(status);
        value
    }

    /// Passes on that the run was ended in a callee.
    fn leave_if(&mut self, status: Ir) {
        let (leave, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(leave);
        self.b.ins().brif(status, leave, &[], on, &[]);
        self.switch(leave);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().return_(&[zero, status]);
        self.switch(on);
    }

    fn tail_call(&mut self, args: [Value; 3]) {
        let [context, map, index] = args.map(|arg| self.value(arg));
        let zero = self.b.ins().iconst(I64, 0);
        let args = [self.env, context, map, index, zero, zero];
        let resolve = self.module.calls.resolve_tail_call;
        let taken = self.call_native(resolve, &args, 1)[0];
        let (replace, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(taken, replace, &[], on, &[]);
        self.switch(replace);
        if self.function.id == 0 {
            let zero = self.b.ins().iconst(I64, 0);
            self.return_(zero, Outcome::TAIL_CALL);
        } else {
            let nested = self.module.calls.nested_tail_call;
            let results = self.call_native(nested, &[self.env], 2);
            self.b.ins().return_(&results);
        }
        self.switch(on);
    }

    fn return_(&mut self, value: Ir, status: u64) {
        let status = self.b.ins().iconst(I64, status.cast_signed());
        self.b.ins().return_(&[value, status]);
    }

    fn trap_if(&mut self, condition: Value, reason: Reason, slot: u32) {
        let condition = self.value(condition);
        let reason = match reason {
            Reason::Known(reason) => self.b.ins().iconst(I64, reason as i64),
            Reason::Condition => condition,
        };
        let slot = self.b.ins().iconst(I64, i64::from(slot));
        let (trap, on) = (self.trap_target(), self.b.create_block());
        let args = [BlockArg::Value(reason), BlockArg::Value(slot)];
        self.b.ins().brif(condition, trap, &args, on, &[]);
        // Values made for this block are good in the next one, which it dominates.
        self.b.switch_to_block(on);
    }

    fn trap_target(&mut self) -> ir::Block {
        if let Some(trap) = self.trap {
            return trap;
        }
        let trap = self.b.create_block();
        self.b.append_block_param(trap, I64);
        self.b.append_block_param(trap, I64);
        self.b.set_cold_block(trap);
        self.trap = Some(trap);
        trap
    }

    fn trap_block(&mut self, trap: ir::Block) {
        self.switch(trap);
        let flags = self.regions.flags(Region::Env);
        let params = [Env::OFFSET_TRAP, Env::OFFSET_TRAP_SLOT];
        for (n, offset) in params.into_iter().enumerate() {
            let value = self.b.block_params(trap)[n];
            let word = self.b.ins().ireduce(I32, value);
            self.b.ins().store(flags, word, self.env, offset as i32);
        }
        let zero = self.b.ins().iconst(I64, 0);
        self.return_(zero, Outcome::TRAPPED);
    }

    /// Calls a function of ours at a fixed address.
    fn call_native(&mut self, function: usize, args: &[Ir], returns: usize) -> Vec<Ir> {
        let signature = self.signature(args.len(), returns);
        let target = self.b.ins().iconst(I64, function as i64);
        let call = self.b.ins().call_indirect(signature, target, args);
        self.b.inst_results(call).to_vec()
    }

    fn signature(&mut self, params: usize, returns: usize) -> SigRef {
        let known = self.signatures.iter();
        let mut known = known.filter(|(p, r, _)| *p == params && *r == returns);
        if let Some((_, _, signature)) = known.next() {
            return *signature;
        }
        let new = signature(self.calling, params, returns);
        let new = self.b.import_signature(new);
        self.signatures.push((params, returns, new));
        new
    }

    /// The native function of a subprogram (not of the program itself).
    fn callee(&mut self, func: FuncId) -> FuncRef {
        if let Some((_, function)) = self.functions.iter().find(|(known, _)| *known == func) {
            return *function;
        }
        let signature = self.signature(6, 2);
        let name = UserExternalName::new(0, func);
        let name = self.b.func.declare_imported_user_function(name);
        let function = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        self.functions.push((func, function));
        function
    }
}

/// Values that some instruction extends with zeros.
fn extended(function: &Function) -> HashSet<Value> {
    let ops = function.values.iter().map(|value| &value.op);
    ops.filter_map(|op| match *op {
        Op::Un(UnOp::ZeroExtend, a) => Some(a),
        _ => None,
    })
    .collect()
}

fn ty(width: Ty) -> Type {
    match width {
        Ty::I8 => I8,
        Ty::I16 => I16,
        Ty::I32 => I32,
        Ty::I64 => I64,
    }
}

fn code(op: Cmp) -> IntCC {
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

//! SSA to Cranelift's intermediate code: functions, blocks and what lies between them. What single
//! instructions become is in `instructions`, calls are in `calls`, how runs end in `leave`.

mod calls;
mod instructions;
mod leave;
mod regions;

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::{
    self, AbiParam, BlockArg, BlockCall, ExternalName, FuncRef, GlobalValueData, InstBuilder,
    JumpTableData, SigRef, Signature, SourceLoc, StackSlot, StackSlotData, StackSlotKind,
    UserExternalName, UserFuncName, Value as Ir,
    condcodes::{CondCode as _, IntCC},
    types::{I64, I64X2},
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use squalus_analysis::FuncId;
use squalus_ssa::ir::{Block, FRAME_STRIDE, Fixed, Function, Op, Target, Terminator, Ty, Value};

use crate::backend::Module;
use crate::run::Outcome;
use instructions::{code, extended, paired, ty, whole};
use regions::Regions;

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
    /// The address of the environment's frame, if it is a parameter.
    bounds: Option<Ir>,
    values: Vec<Option<Ir>>,
    /// Numbers and addresses made in the current block.
    fixed: HashMap<Value, Ir>,
    /// Addresses made in the current block.
    addresses: HashMap<Value, Ir>,
    /// Values that are also used with zeros above them.
    extended: HashSet<Value>,
    /// For each value, whether somebody wants more of it than its lower part.
    whole: Vec<bool>,
    /// Loads of these, with the zeros.
    wide: HashMap<Value, Ir>,
    /// Loads that are used as pairs only.
    paired: HashSet<Value>,
    /// These, as pairs.
    pairs: HashMap<Value, Ir>,
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
        signature(calling, 1 + function.params.max(1), 2),
    );
    let mut b = FunctionBuilder::new(&mut lowered, builder);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let env = b.block_params(entry)[0];
    let bounds = (function.params == 0).then(|| b.block_params(entry)[1]);
    let mut lowering = Lowering {
        function,
        module,
        env,
        bounds,
        values: vec![None; function.values.len()],
        fixed: HashMap::new(),
        addresses: HashMap::new(),
        extended: extended(function),
        whole: whole(function),
        wide: HashMap::new(),
        paired: paired(function),
        pairs: HashMap::new(),
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

    /// The place of the stack frames that are memory.
    fn frame(&mut self) -> StackSlot {
        *self.frame.get_or_insert_with(|| {
            let size = self.function.frames * FRAME_STRIDE as u32;
            let data = StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4);
            self.b.create_sized_stack_slot(data)
        })
    }

    fn slots(&mut self) {
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
            Terminator::Switch {
                value,
                targets,
                rest,
            } => {
                let value = self.value(*value);
                let targets: Vec<BlockCall> = targets.iter().map(|to| self.edge(to)).collect();
                let rest = self.edge(rest);
                let table = JumpTableData::new(rest, &targets);
                let table = self.b.create_jump_table(table);
                self.b.ins().br_table(value, table);
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

    /// Where an entry of a table leads.
    fn edge(&mut self, target: &Target) -> BlockCall {
        let (block, args) = self.target(target);
        BlockCall::new(block, args, &mut self.b.func.dfg.value_lists)
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
            Fixed::Number(Ty::V128, number) => {
                let bytes: Vec<u8> = [number.to_le_bytes(); 2].concat();
                let bytes = self.b.func.dfg.constants.insert(bytes.into());
                self.b.ins().vconst(I64X2, bytes)
            }
            Fixed::Number(width, number) => {
                let shift = 64 - width.bits();
                let signed = (number << shift).cast_signed() >> shift;
                self.b.ins().iconst(ty(width), signed)
            }
            Fixed::Env => return self.env,
            Fixed::Frame(off) => {
                let frame = self.frame();
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
}

//! One eBPF function to one Cranelift function.

use cranelift_codegen::ir::{
    AbiParam, AliasRegion, AliasRegionData, Block, BlockArg, ExtFuncData, ExternalName, FuncRef,
    Function, InstBuilder, MemFlagsData, SigRef, Signature, StackSlot, StackSlotData,
    StackSlotKind, Type, UserExternalName, UserFuncName, Value as Ir,
    condcodes::IntCC,
    types::{I32, I64},
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use squalus_analysis::{Access, Area, Facts, FuncId, InstFacts, MapRef, Value};
use squalus_isa::{Decoded, Inst, Operand, Reg};
use squalus_runtime::{Env, LinkedProgram, STACK_SIZE, TrapReason};

use crate::checks::Context;
use crate::run::{Outcome, RunState};
use crate::stack::{self, Cell};

/// What a function is made from.
pub(crate) struct Input<'a> {
    pub(crate) program: &'a LinkedProgram,
    pub(crate) facts: &'a Facts,
    pub(crate) func: FuncId,
    pub(crate) context: &'a Context,
    pub(crate) check_facts: bool,
}

/// Kinds of memory that cannot overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    Env,
    Stack,
    Packet,
    MapValue,
    Lent,
}

impl Region {
    const ALL: [Region; 5] = [
        Region::Env,
        Region::Stack,
        Region::Packet,
        Region::MapValue,
        Region::Lent,
    ];
}

/// A function under construction.
pub(crate) struct Translator<'a, 'b> {
    pub(crate) input: &'a Input<'a>,
    pub(crate) b: FunctionBuilder<'b>,
    pub(crate) env: Ir,
    regs: [Variable; Reg::COUNT],
    pub(crate) cells: Vec<(Cell, Variable)>,
    blocks: Vec<Option<Block>>,
    trap: Option<Block>,
    frame: Option<StackSlot>,
    regions: [Option<AliasRegion>; Region::ALL.len()],
    calling: CallConv,
    signatures: Vec<(usize, usize, SigRef)>,
    functions: Vec<(FuncId, FuncRef)>,
}

/// Translates a function.
pub(crate) fn function(
    input: &Input<'_>,
    isa: &dyn TargetIsa,
    builder: &mut FunctionBuilderContext,
) -> Function {
    let calling = isa.default_call_conv();
    let params = if input.func == 0 { 1 } else { 6 };
    let mut function = Function::with_name_signature(
        UserFuncName::user(0, input.func),
        signature(calling, params, 2),
    );
    let mut b = FunctionBuilder::new(&mut function, builder);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let env = b.block_params(entry)[0];
    let regs = std::array::from_fn(|_| b.declare_var(I64));
    let mut translator = Translator {
        input,
        env,
        regs,
        cells: Vec::new(),
        blocks: Vec::new(),
        trap: None,
        frame: None,
        regions: regions(&mut b, input.facts),
        calling,
        signatures: Vec::new(),
        functions: Vec::new(),
        b,
    };
    translator.prologue(entry);
    translator.body();
    translator.b.seal_all_blocks();
    translator.b.finalize(isa.frontend_config());
    function
}

fn signature(calling: CallConv, params: usize, returns: usize) -> Signature {
    let mut signature = Signature::new(calling);
    signature.params = vec![AbiParam::new(I64); params];
    signature.returns = vec![AbiParam::new(I64); returns];
    signature
}

/// Alias regions. If some access can be anywhere, only the environment, which no access reaches, has one.
fn regions(b: &mut FunctionBuilder<'_>, facts: &Facts) -> [Option<AliasRegion>; Region::ALL.len()] {
    let anywhere = facts
        .reachable()
        .any(|inst| inst.access == Some(Access::Checked(Area::Any)));
    Region::ALL.map(|region| {
        if anywhere && region != Region::Env {
            return None;
        }
        Some(b.func.dfg.alias_regions.insert(AliasRegionData {
            user_id: region as u32,
            description: format!("{region:?}").into(),
        }))
    })
}

impl Translator<'_, '_> {
    fn prologue(&mut self, entry: Block) {
        let zero = self.b.ins().iconst(I64, 0);
        for reg in self.regs {
            self.b.def_var(reg, zero);
        }
        if self.input.func == 0 {
            self.b.def_var(self.regs[1], self.env);
        } else {
            for n in 1..=5 {
                let value = self.b.block_params(entry)[n];
                self.b.def_var(self.regs[n], value);
            }
        }
        for cell in stack::cells(self.input.program, self.input.facts, self.input.func) {
            let variable = self.b.declare_var(I64);
            self.b.def_var(variable, zero);
            self.cells.push((cell, variable));
        }
        if self.input.check_facts {
            let frame = self.frame();
            let end = self.b.ins().stack_addr(I64, frame, STACK_SIZE as i32);
            self.b.def_var(self.regs[Reg::FP.index()], end);
        }
        self.zero_frame();
        if self.input.facts.checks_stack() {
            self.register_frame();
        }
    }

    /// Zeroes the bytes of the frame that may be read before they are written.
    fn zero_frame(&mut self) {
        let read = self.input.facts.function(self.input.func).read_unwritten;
        let is_read = |byte: usize| read[byte / 64] & 1 << (byte % 64) != 0;
        let in_cell = |byte: usize| {
            let holds = |(cell, _): &(Cell, Variable)| {
                let end = cell.off + i64::from(cell.size.bytes());
                (cell.off..end).contains(&(byte as i64))
            };
            self.cells.iter().any(holds)
        };
        let slots: Vec<i32> = (0..STACK_SIZE)
            .step_by(8)
            .filter(|&slot| (slot..slot + 8).any(|byte| is_read(byte) && !in_cell(byte)))
            .map(|slot| slot as i32)
            .collect();
        if slots.is_empty() {
            return;
        }
        let frame = self.frame();
        let zero = self.b.ins().iconst(I64, 0);
        let flags = self.flags(Region::Stack);
        for slot in slots {
            let address = self.b.ins().stack_addr(I64, frame, slot);
            self.b.ins().store(flags, zero, address, 0);
        }
    }

    /// Tells the checks where this function's frame is.
    fn register_frame(&mut self) {
        let frame = self.frame();
        let address = self.b.ins().stack_addr(I64, frame, 0);
        let state = self.load_env(I64, Env::OFFSET_SCRATCH);
        let flags = self.flags(Region::Env);
        let depth = self.b.ins().load(I64, flags, state, RunState::OFFSET_DEPTH);
        let offset = self.b.ins().ishl_imm_u(depth, 3);
        let place = self.b.ins().iadd(state, offset);
        self.b
            .ins()
            .store(flags, address, place, RunState::OFFSET_FRAMES);
    }

    fn body(&mut self) {
        let facts = self.input.facts;
        let blocks = facts.cfg().blocks();
        self.blocks = (0..blocks.len())
            .map(|n| {
                let used = blocks[n].func == self.input.func && facts.entry(n).is_some();
                used.then(|| self.b.create_block())
            })
            .collect();
        let first = facts.cfg().entry(self.input.func);
        let first = self.block(first);
        self.b.ins().jump(first, &[]);
        for n in 0..blocks.len() {
            if let Some(block) = self.blocks[n] {
                self.b.switch_to_block(block);
                self.block_body(n);
            }
        }
        if let Some(trap) = self.trap {
            self.trap_block(trap);
        }
    }

    fn block_body(&mut self, number: usize) {
        let facts = self.input.facts;
        let block = &facts.cfg().blocks()[number];
        for n in block.first..block.end {
            let decoded = self.input.program.insts()[n];
            let Some(known) = facts.inst(n) else {
                // The analysis found that execution does not come here.
                return self.trap_always(TrapReason::Unsupported, decoded.slot);
            };
            if self.input.check_facts {
                self.check_facts(known, decoded.slot);
            }
            match decoded.inst {
                Inst::Jump { .. } => return self.go(number, block.jump, decoded.slot),
                Inst::JumpIf { .. } | Inst::MayJump { .. } => {
                    return self.branch(number, known, &decoded);
                }
                Inst::Exit => return self.exit(known, decoded.slot),
                _ => {
                    self.instruction(n, known, &decoded);
                    if !known.can_fall {
                        return self.trap_always(TrapReason::Unsupported, decoded.slot);
                    }
                }
            }
        }
        let last = self.input.program.insts()[block.end - 1].slot;
        self.go(number, block.fall, last);
    }

    fn instruction(&mut self, n: usize, known: &InstFacts, decoded: &Decoded) {
        match decoded.inst {
            Inst::Alu {
                width,
                op,
                dst,
                src,
            } => self.alu(known, (width, op), dst, src),
            Inst::End { kind, bits, dst } => self.endian(known, kind, bits, dst),
            Inst::LoadImm { dst, imm } => {
                let value = self.immediate(imm);
                self.set(dst, value);
            }
            Inst::Load { .. } | Inst::Store { .. } | Inst::Atomic { .. } => {
                self.memory(n, known, decoded);
            }
            Inst::Call(target) => self.call(known, target, decoded.slot),
            Inst::Jump { .. } | Inst::JumpIf { .. } | Inst::MayJump { .. } | Inst::Exit => {}
        }
    }

    /// Goes on with another block; around a loop that costs a piece of the budget.
    fn go(&mut self, from: usize, to: Option<usize>, slot: usize) {
        let Some(to) = to else {
            return self.trap_always(TrapReason::Unsupported, slot);
        };
        if self.input.facts.cfg().is_back_edge(from, to) {
            self.charge(slot);
        }
        let to = self.block(to);
        self.b.ins().jump(to, &[]);
    }

    fn branch(&mut self, from: usize, known: &InstFacts, decoded: &Decoded) {
        let block = &self.input.facts.cfg().blocks()[from];
        match (known.can_jump, known.can_fall) {
            _ if self.input.check_facts && known.can_jump != known.can_fall => {
                let condition = self.condition(known, &decoded.inst);
                let wrong = self.b.ins().icmp_imm_s(
                    if known.can_jump {
                        IntCC::Equal
                    } else {
                        IntCC::NotEqual
                    },
                    condition,
                    0,
                );
                self.trap_if(wrong, TrapReason::Unsupported, decoded.slot);
                let to = if known.can_jump {
                    block.jump
                } else {
                    block.fall
                };
                return self.go(from, to, decoded.slot);
            }
            (true, false) => return self.go(from, block.jump, decoded.slot),
            (false, true) => return self.go(from, block.fall, decoded.slot),
            (false, false) => return self.trap_always(TrapReason::Unsupported, decoded.slot),
            (true, true) => {}
        }
        let (Some(jump), Some(fall)) = (block.jump, block.fall) else {
            return self.trap_always(TrapReason::Unsupported, decoded.slot);
        };
        let condition = self.condition(known, &decoded.inst);
        let (then, or) = (self.way(from, jump), self.way(from, fall));
        self.b.ins().brif(condition, then, &[], or, &[]);
        for (way, to) in [(then, jump), (or, fall)] {
            if way != self.block(to) {
                self.b.switch_to_block(way);
                self.go(from, Some(to), decoded.slot);
            }
        }
    }

    /// The block a branch goes to: the target itself, or for a loop one of its own that pays first.
    fn way(&mut self, from: usize, to: usize) -> Block {
        if self.input.facts.cfg().is_back_edge(from, to) {
            self.b.create_block()
        } else {
            self.block(to)
        }
    }

    fn exit(&mut self, known: &InstFacts, slot: usize) {
        let returned = known.reg(Reg::R0);
        if self.input.func == 0 && !matches!(returned, Value::Scalar(_)) {
            return self.trap_always(TrapReason::Return, slot);
        }
        let value = self.reg(known, Reg::R0);
        self.return_(value, Outcome::DONE);
    }

    pub(crate) fn return_(&mut self, value: Ir, status: u64) {
        let status = self.b.ins().iconst(I64, status.cast_signed());
        self.b.ins().return_(&[value, status]);
    }

    /// The block of the analysis' block with this number.
    fn block(&self, number: usize) -> Block {
        self.blocks[number].expect("edges lead to reachable blocks of the same function")
    }

    /// Pays for a loop or call, and traps when nothing is left.
    pub(crate) fn charge(&mut self, slot: usize) {
        let left = self.load_env(I64, Env::OFFSET_BUDGET);
        let none = self.b.ins().icmp_imm_s(IntCC::Equal, left, 0);
        self.trap_if(none, TrapReason::Budget, slot);
        let left = self.b.ins().iadd_imm_s(left, -1);
        let flags = self.flags(Region::Env);
        let at = Env::OFFSET_BUDGET as i32;
        self.b.ins().store(flags, left, self.env, at);
    }

    /// Ends the run if `condition` is not zero.
    pub(crate) fn trap_if(&mut self, condition: Ir, reason: TrapReason, slot: usize) {
        let reason = self.b.ins().iconst(I64, reason as i64);
        self.trap_with(condition, reason, slot);
    }

    /// Ends the run for `reason`, a number, if `condition` is not zero.
    pub(crate) fn trap_with(&mut self, condition: Ir, reason: Ir, slot: usize) {
        let on = self.b.create_block();
        let trap = self.trap_target();
        let slot = self.b.ins().iconst(I64, slot as i64);
        let args = [BlockArg::Value(reason), BlockArg::Value(slot)];
        self.b.ins().brif(condition, trap, &args, on, &[]);
        self.b.switch_to_block(on);
    }

    pub(crate) fn trap_always(&mut self, reason: TrapReason, slot: usize) {
        let trap = self.trap_target();
        let reason = self.b.ins().iconst(I64, reason as i64);
        let slot = self.b.ins().iconst(I64, slot as i64);
        let args = [BlockArg::Value(reason), BlockArg::Value(slot)];
        self.b.ins().jump(trap, &args);
    }

    fn trap_target(&mut self) -> Block {
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

    fn trap_block(&mut self, trap: Block) {
        self.b.switch_to_block(trap);
        let flags = self.flags(Region::Env);
        let params = [Env::OFFSET_TRAP, Env::OFFSET_TRAP_SLOT];
        for (n, offset) in params.into_iter().enumerate() {
            let value = self.b.block_params(trap)[n];
            let word = self.b.ins().ireduce(I32, value);
            self.b.ins().store(flags, word, self.env, offset as i32);
        }
        let zero = self.b.ins().iconst(I64, 0);
        self.return_(zero, Outcome::TRAPPED);
    }

    /// What a register holds, as an immediate or address if that is known.
    pub(crate) fn reg(&mut self, known: &InstFacts, reg: Reg) -> Ir {
        if self.input.check_facts {
            return self.raw_reg(reg);
        }
        match known.reg(reg) {
            Value::Scalar(scalar) => {
                if let Some(constant) = scalar.as_constant() {
                    return self.b.ins().iconst(I64, constant.cast_signed());
                }
            }
            Value::Ctx(off) => return self.b.ins().iadd_imm_s(self.env, off),
            value @ Value::Stack { .. } => {
                // Addresses beside the frame may be computed, but the code generator knows none of them.
                if let Some(off) = stack::own_offset(value, self.input.func)
                    && (0..=STACK_SIZE as i64).contains(&off)
                {
                    let frame = self.frame();
                    return self.b.ins().stack_addr(I64, frame, off as i32);
                }
            }
            Value::Map {
                map: MapRef::Direct(map),
                null: None,
            } => return self.map_address(map),
            _ => {}
        }
        self.raw_reg(reg)
    }

    /// What a register holds.
    pub(crate) fn raw_reg(&mut self, reg: Reg) -> Ir {
        self.b.use_var(self.regs[reg.index()])
    }

    pub(crate) fn set(&mut self, reg: Reg, value: Ir) {
        self.b.def_var(self.regs[reg.index()], value);
    }

    pub(crate) fn operand(&mut self, known: &InstFacts, operand: Operand) -> Ir {
        match operand {
            Operand::Reg(reg) => self.reg(known, reg),
            Operand::Imm(imm) => self.b.ins().iconst(I64, i64::from(imm)),
        }
    }

    /// The memory of the function's frame.
    pub(crate) fn frame(&mut self) -> StackSlot {
        if let Some(frame) = self.frame {
            return frame;
        }
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, STACK_SIZE as u32, 4);
        let frame = self.b.create_sized_stack_slot(data);
        self.frame = Some(frame);
        frame
    }

    /// Flags of an access that cannot fault, to memory of one kind.
    pub(crate) fn flags(&self, region: Region) -> MemFlagsData {
        MemFlagsData::new()
            .with_notrap()
            .with_alias_region(self.regions[region as usize])
    }

    pub(crate) fn load_env(&mut self, ty: Type, offset: usize) -> Ir {
        let flags = self.flags(Region::Env);
        self.b.ins().load(ty, flags, self.env, offset as i32)
    }

    /// Calls a function of ours at a fixed address.
    pub(crate) fn call_native(&mut self, function: usize, args: &[Ir], returns: usize) -> Vec<Ir> {
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
    pub(crate) fn function(&mut self, func: FuncId) -> FuncRef {
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

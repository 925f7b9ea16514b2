//! Functions become parts of those that call them.
//!
//! A call costs more than many a function does: registers are saved and restored, what is in memory must be there,
//! and what callers know of arguments is lost. So small functions, those that are called in one place, and those
//! that a loop or hot code calls become parts of their callers, callees first. What nobody calls any more is left
//! out.
//!
//! *Limits.* Code must not explode: a program becomes at most twice as large, and no function larger than
//! [`LARGEST`]. A function that can call itself stays one, and so does one with tail calls, which replace it alone.
//!
//! *Frames.* A part has its stack frame behind its caller's. Parts of one function that run one after the other
//! share the place.
//!
//! *Budget.* Calls that stay are charged to the run's budget, others are not: between two charges no more is run
//! than there is code.

use squalus_analysis::{Facts, FuncId};

use crate::build::{Emitter, target};
use crate::ir::{
    Block, Effect, FRAME_STRIDE, Fixed, Function, Op, Region, Target, Terminator, Value,
};
use crate::passes::Aliases;

/// A function of so many instructions becomes a part of others, however many they are and wherever they call it.
const SMALL: usize = 16;
/// A function of so many does so where it is not called from cold code.
const MEDIUM: usize = 60;
/// A function of so many does so in hot code and in loops of helpers.
const HOT: usize = 250;
/// No function becomes larger than this.
const LARGEST: usize = 4000;
/// Programs may become twice as large and by this.
const GROWTH: usize = 256;

/// Makes functions of a program, numbered as the program numbers them, parts of others if that is `wanted`.
/// `hot` says that what is not hot is marked as cold. Calls that stay are charged to the budget.
pub fn inline(functions: &mut [Option<Function>], facts: &Facts, wanted: bool, hot: bool) {
    if wanted {
        let mut inliner = Inliner::new(functions, facts, hot);
        for func in callees_first(functions, facts) {
            inliner.callers(functions, func);
        }
        drop_uncalled(functions, facts);
    }
    functions.iter_mut().flatten().for_each(charge_calls);
}

/// A call of another function.
#[derive(Clone, Copy)]
struct Call {
    /// Place among the block's instructions.
    at: usize,
    callee: FuncId,
    /// Whether it is in a loop of a helper.
    in_loop: bool,
}

/// The next call in a block from a place on.
fn next_call(function: &Function, block: Block, from: usize) -> Option<Call> {
    let insts = function.block(block).insts.iter().enumerate().skip(from);
    let mut calls = insts.filter_map(|(at, &inst)| match function.value(inst).op {
        Op::Local { func, paid, .. } => Some(Call {
            at,
            callee: func,
            in_loop: paid,
        }),
        _ => None,
    });
    calls.next()
}

/// The functions that a function calls, once for each call.
fn calls(function: &Function) -> Vec<FuncId> {
    let mut calls = Vec::new();
    for block in function.reverse_postorder() {
        let mut from = 0;
        while let Some(call) = next_call(function, block, from) {
            calls.push(call.callee);
            from = call.at + 1;
        }
    }
    calls
}

/// The functions, each after those it calls, recursion aside.
fn callees_first(functions: &[Option<Function>], facts: &Facts) -> Vec<FuncId> {
    let mut order = Vec::new();
    let mut seen = vec![false; functions.len()];
    // An explicit stack: chains of calls in hostile programs can be as long as the program.
    let mut pending: Vec<(FuncId, bool)> = (0..functions.len() as FuncId)
        .rev()
        .map(|func| (func, false))
        .collect();
    while let Some((func, left)) = pending.pop() {
        if left {
            order.push(func);
        } else if functions[func as usize].is_some()
            && !std::mem::replace(&mut seen[func as usize], true)
        {
            pending.push((func, true));
            let callees = facts.cfg().callees(func).iter();
            pending.extend(callees.map(|&callee| (callee, false)));
        }
    }
    order
}

struct Inliner {
    /// How many instructions each function has.
    sizes: Vec<usize>,
    /// In how many places each function is called in the bytecode.
    places: Vec<usize>,
    /// Functions that stay.
    fixed: Vec<bool>,
    /// Functions that must be there even if nobody calls them.
    kept: Vec<bool>,
    /// By how many instructions the program may still grow.
    growth: usize,
    hot: bool,
}

impl Inliner {
    fn new(functions: &[Option<Function>], facts: &Facts, hot: bool) -> Inliner {
        let size = |function: &Option<Function>| function.as_ref().map_or(0, size);
        let sizes: Vec<usize> = functions.iter().map(size).collect();
        let mut places = vec![0; functions.len()];
        for callee in functions.iter().flatten().flat_map(calls) {
            places[callee as usize] += 1;
        }
        let fixed = |(n, function): (usize, &Option<Function>)| {
            let recursive = facts.cfg().is_recursive(n as FuncId);
            n == 0 || recursive || function.as_ref().is_none_or(has_tail_call)
        };
        let mut kept = vec![false; functions.len()];
        for &func in facts.timer_callbacks() {
            kept[func as usize] = true;
        }
        Inliner {
            growth: sizes.iter().sum::<usize>() + GROWTH,
            sizes,
            places,
            fixed: functions.iter().enumerate().map(fixed).collect(),
            kept,
            hot,
        }
    }

    /// Makes what a function calls a part of it, as far as that is good.
    fn callers(&mut self, functions: &mut [Option<Function>], func: FuncId) {
        let Some(mut function) = functions[func as usize].take() else {
            return;
        };
        let own = function.frames;
        let mut changed = false;
        let mut pending = function.reverse_postorder();
        pending.reverse();
        while let Some(block) = pending.pop() {
            let mut from = 0;
            while let Some(call) = next_call(&function, block, from) {
                from = call.at + 1;
                let cold = function.block(block).cold;
                let Some(callee) = &functions[call.callee as usize] else {
                    continue;
                };
                if self.is_good(func, call, cold) {
                    let rest = splice(&mut function, (block, call.at), callee, own);
                    pending.push(rest);
                    changed = true;
                    break;
                }
            }
        }
        if changed {
            straighten(&mut function);
        }
        functions[func as usize] = Some(function);
    }

    /// Whether a call is to be replaced by what it calls; if so that is taken from what the program may grow by.
    fn is_good(&mut self, caller: FuncId, call: Call, cold: bool) -> bool {
        let callee = call.callee as usize;
        let size = self.sizes[callee];
        let only = self.places[callee] == 1 && !self.kept[callee];
        let most = match (cold, self.hot || call.in_loop) {
            _ if only => LARGEST,
            (true, _) => SMALL,
            (false, true) => HOT,
            (false, false) => MEDIUM,
        };
        let whole = self.sizes[caller as usize] + size;
        let price = if only { 0 } else { size };
        if self.fixed[callee] || size > most || whole > LARGEST || price > self.growth {
            return false;
        }
        self.growth -= price;
        self.sizes[caller as usize] = whole;
        true
    }
}

/// How many instructions a function has, ends of blocks and the price of calls included.
fn size(function: &Function) -> usize {
    const CHARGE: usize = 5;
    let unpaid = |inst: &&Value| matches!(function.value(**inst).op, Op::Local { paid: false, .. });
    let blocks = function.reverse_postorder();
    let sizes = blocks.iter().map(|&block| {
        let insts = &function.block(block).insts;
        1 + insts.len() + CHARGE * insts.iter().filter(unpaid).count()
    });
    sizes.sum()
}

fn has_tail_call(function: &Function) -> bool {
    let blocks = function.reverse_postorder();
    let mut insts = blocks.iter().flat_map(|&b| &function.block(b).insts);
    insts.any(|&inst| matches!(function.value(inst).op, Op::TailCall(..)))
}

/// Puts a function in place of the call at a place in a block; its frames go behind the first `own` of the caller.
/// Returns the block in which what came after the call is now.
fn splice(caller: &mut Function, at: (Block, usize), callee: &Function, own: u32) -> Block {
    let (block, at) = at;
    let rest = caller.make_block();
    let data = caller.block_mut(block);
    let cold = data.cold;
    let call = data.insts[at];
    let after = data.insts.split_off(at + 1);
    data.insts.pop();
    let (end, end_slot) = (data.end.take(), data.end_slot);
    let data = caller.block_mut(rest);
    data.insts = after;
    (data.end, data.end_slot, data.cold) = (end, end_slot, cold);
    data.params = vec![call];
    let slot = caller.value(call).slot;
    let op = std::mem::replace(&mut caller.values[call.0 as usize].op, Op::Param);
    let Op::Local { args, .. } = op else {
        unreachable!("a call is spliced");
    };
    let entry = Part::new(caller, callee, own, rest).copy(&args, cold);
    let data = caller.block_mut(block);
    data.end = Some(Terminator::Jump(target(entry)));
    data.end_slot = slot;
    rest
}

/// A copy of a function in another one.
struct Part<'a> {
    caller: &'a mut Function,
    callee: &'a Function,
    /// Where it goes on when it returns.
    rest: Block,
    /// Where the frames of the copy begin.
    frames: i32,
    /// Number of the copy's first temporary.
    temps: u32,
    values: Vec<Option<Value>>,
    blocks: Vec<Option<Block>>,
}

impl<'a> Part<'a> {
    fn new(caller: &'a mut Function, callee: &'a Function, own: u32, rest: Block) -> Part<'a> {
        let temps = caller.temps.len() as u32;
        caller.temps.extend(&callee.temps);
        caller.frames = caller.frames.max(own + callee.frames);
        Part {
            callee,
            rest,
            frames: own as i32 * FRAME_STRIDE,
            temps,
            values: vec![None; callee.values.len()],
            blocks: vec![None; callee.blocks.len()],
            caller,
        }
    }

    /// Makes the copy, and returns its first block.
    fn copy(mut self, args: &[Value], cold: bool) -> Block {
        let order = self.callee.reverse_postorder();
        for &block in &order {
            let copy = self.caller.make_block();
            let data = self.callee.block(block);
            self.caller.block_mut(copy).cold = cold || data.cold;
            self.blocks[block.0 as usize] = Some(copy);
            for (n, &param) in data.params.iter().enumerate() {
                let value = match block {
                    Function::ENTRY => args[n],
                    _ => self.param(copy, param),
                };
                self.values[param.0 as usize] = Some(value);
            }
        }
        for &block in &order {
            self.block(block);
        }
        self.to(Function::ENTRY)
    }

    fn param(&mut self, copy: Block, param: Value) -> Value {
        let data = self.callee.value(param);
        let value = self.caller.make(Op::Param, data.ty, data.slot);
        self.caller.block_mut(copy).params.push(value);
        value
    }

    fn to(&self, block: Block) -> Block {
        self.blocks[block.0 as usize].expect("edges lead to reachable blocks")
    }

    fn block(&mut self, block: Block) {
        let data = self.callee.block(block);
        let copy = self.to(block);
        for &inst in &data.insts {
            let value = self.inst(inst);
            self.values[inst.0 as usize] = Some(value);
            self.caller.block_mut(copy).insts.push(value);
        }
        let end = data.end.as_ref().map(|end| self.end(end));
        let made = self.caller.block_mut(copy);
        (made.end, made.end_slot) = (end, data.end_slot);
    }

    fn inst(&mut self, inst: Value) -> Value {
        let data = self.callee.value(inst);
        let mut op = data.op.clone();
        op.map_uses(|value| self.value(value));
        match &mut op {
            Op::Load { region, .. } | Op::Store { region, .. } | Op::Atomic { region, .. } => {
                *region = self.region(*region);
            }
            Op::Native { effect, .. } => *effect = self.effect(effect),
            _ => {}
        }
        self.caller.make(op, data.ty, data.slot)
    }

    fn value(&mut self, value: Value) -> Value {
        if let Some(copy) = self.values[value.0 as usize] {
            return copy;
        }
        let Op::Fixed(fixed) = self.callee.value(value).op else {
            unreachable!("values are defined before they are used");
        };
        let copy = self.caller.fixed(match fixed {
            Fixed::Frame(off) => Fixed::Frame(self.frames + off),
            Fixed::Temp(n) => Fixed::Temp(self.temps + n),
            same => same,
        });
        self.values[value.0 as usize] = Some(copy);
        copy
    }

    fn region(&self, region: Region) -> Region {
        match region {
            Region::Temp(n) => Region::Temp(self.temps + n),
            same => same,
        }
    }

    fn effect(&self, effect: &Effect) -> Effect {
        let all = |regions: &[Region]| regions.iter().map(|region| self.region(*region)).collect();
        Effect {
            reads: all(&effect.reads),
            writes: all(&effect.writes),
            pure: effect.pure,
        }
    }

    fn end(&mut self, end: &Terminator) -> Terminator {
        if let Terminator::Return(value) = end {
            let args = vec![self.value(*value)];
            let block = self.rest;
            return Terminator::Jump(Target { block, args });
        }
        let mut end = end.clone();
        end.map_uses(|value| self.value(value));
        for target in end.targets_mut() {
            target.block = self.to(target.block);
        }
        end
    }
}

/// Makes blocks that always follow one another one block, as far as they are equally rare.
fn straighten(function: &mut Function) {
    let mut edges = vec![0_usize; function.blocks.len()];
    let order = function.reverse_postorder();
    for &block in &order {
        let targets = function.block(block).end.iter().flat_map(|e| e.targets());
        targets.for_each(|target| edges[target.block.0 as usize] += 1);
    }
    let mut aliases = Aliases::new(function);
    let mut gone = vec![false; function.blocks.len()];
    for &block in &order {
        while !gone[block.0 as usize] {
            let data = function.block(block);
            let Some(Terminator::Jump(next)) = &data.end else {
                break;
            };
            let only = edges[next.block.0 as usize] == 1 && next.block != block;
            if !only || function.block(next.block).cold != data.cold {
                break;
            }
            let next = next.clone();
            gone[next.block.0 as usize] = true;
            let follows = std::mem::take(function.block_mut(next.block));
            for (param, arg) in follows.params.into_iter().zip(next.args) {
                aliases.set(param, arg);
            }
            let data = function.block_mut(block);
            data.insts.extend(follows.insts);
            (data.end, data.end_slot) = (follows.end, follows.end_slot);
        }
    }
    aliases.apply(function);
}

/// Leaves out functions that nobody calls.
fn drop_uncalled(functions: &mut [Option<Function>], facts: &Facts) {
    let mut called = vec![false; functions.len()];
    let mut pending = vec![0];
    pending.extend(facts.timer_callbacks());
    while let Some(func) = pending.pop() {
        if let Some(function) = &functions[func as usize]
            && !std::mem::replace(&mut called[func as usize], true)
        {
            pending.extend(calls(function));
        }
    }
    for (function, called) in functions.iter_mut().zip(called) {
        function.take_if(|_| !called);
    }
}

/// Has each call that is not paid for take its price from the budget.
fn charge_calls(function: &mut Function) {
    let taken = std::mem::replace(function, Function::new(function.id));
    let mut emit = Emitter::at(taken, Function::ENTRY, 0);
    for block in emit.function.reverse_postorder() {
        let is_unpaid =
            |inst: &Value| matches!(emit.function.value(*inst).op, Op::Local { paid: false, .. });
        if !emit.function.block(block).insts.iter().any(is_unpaid) {
            continue;
        }
        emit.block = block;
        for inst in std::mem::take(&mut emit.function.block_mut(block).insts) {
            emit.slot = emit.function.value(inst).slot;
            if let Op::Local { paid, .. } = &mut emit.function.values[inst.0 as usize].op
                && !std::mem::replace(paid, true)
            {
                emit.charge();
            }
            emit.function.block_mut(block).insts.push(inst);
        }
    }
    *function = emit.function;
}

//! Stack frames that are memory become values.
//!
//! When the code is built, bytes of a frame that other functions use stay memory. Once these functions are parts of
//! the code, and their pointers numbers, most of such frames are only used at known addresses, as any other. Then
//! their bytes become *cells*, as in `build`: values, and parameters of blocks where paths meet.
//!
//! A frame whose address is used for anything but loads, stores and addition of numbers stays as it is. Nobody else
//! can have an address in a frame then: who computes one begins with that of the frame.

use std::collections::BTreeMap;
use std::ops::Range;

use super::fold::offset;
use super::params;
use super::rewrite::{Aliases, predecessors};
use crate::build::Cells;
use crate::ir::{
    BinOp, Block, FRAME_STRIDE, Fixed, Function, Op, Order, Terminator, Ty, UnOp, Value,
};

/// Of larger products of blocks where paths meet and cells nothing is promoted: it would take too long.
const MOST: usize = 50_000;

/// Goes over the whole function. Says whether it found anything.
pub(super) fn run(function: &mut Function) -> bool {
    if function.frames == 0 {
        return false;
    }
    let frames = Frames::of(function);
    if frames.cells.is_empty() {
        return false;
    }
    let before = predecessors(function);
    let meets: Vec<bool> = before.iter().map(|from| from.len() > 1).collect();
    let joins = meets.iter().filter(|meets| **meets).count();
    if joins * frames.cells.len() > MOST {
        return false;
    }
    let live = frames.live(function);
    Promotion::new(function, &frames, &live, &meets).run(function, &before);
    params::run(function);
    true
}

/// Bytes of the frames that become a value.
#[derive(Clone, Copy, Debug)]
struct Cell {
    off: i32,
    ty: Ty,
}

/// A load or store of bytes of the frames at a known address.
struct Access {
    bytes: Range<i32>,
    /// What is stored.
    stored: Option<Value>,
}

/// The cells of all frames, by offset.
struct Frames {
    cells: Vec<Cell>,
}

impl Frames {
    /// Finds what is only loaded and stored, and cuts it.
    fn of(function: &Function) -> Frames {
        let mut frames: BTreeMap<i32, Option<Vec<Range<i32>>>> = BTreeMap::new();
        let mut escape = |function: &Function, value: Value| {
            if let Some((frame, _)) = place(function, value) {
                frames.insert(frame, None);
            }
        };
        let mut accesses = Vec::new();
        for block in function.reverse_postorder() {
            let data = function.block(block);
            for &inst in &data.insts {
                let op = &function.value(inst).op;
                match (access(function, inst), op) {
                    (Some(access), _) => {
                        let (frame, _) = place(function, base(op)).unwrap_or_default();
                        access.stored.iter().for_each(|&v| escape(function, v));
                        match within(frame, &access.bytes) {
                            true => accesses.push((frame, access.bytes)),
                            false => escape(function, base(op)),
                        }
                    }
                    // A part of an address, whose own uses count.
                    (None, Op::Bin(BinOp::Add, _, by)) if function.constant(*by).is_some() => {}
                    (None, op) => op.uses(|value| escape(function, value)),
                }
            }
            if let Some(end) = &data.end {
                end.uses(|value| escape(function, value));
            }
        }
        for (frame, bytes) in accesses {
            let start = frame * FRAME_STRIDE;
            if let Some(uses) = frames.entry(frame).or_insert_with(|| Some(Vec::new())) {
                uses.push(bytes.start - start..bytes.end - start);
            }
        }
        let mut cells = Vec::new();
        for (frame, uses) in frames {
            let of = Cells::of(uses.unwrap_or_default());
            cells.extend(of.all().iter().map(|cell| Cell {
                off: frame * FRAME_STRIDE + cell.off,
                ty: cell.ty,
            }));
        }
        Frames { cells }
    }

    /// The numbers of the cells that an access uses; it takes whole cells or none.
    fn used(&self, access: &Access) -> Range<usize> {
        let number = |at: i32| self.cells.partition_point(|cell| cell.off < at);
        number(access.bytes.start)..number(access.bytes.end)
    }

    /// For each block, the cells that are read after its start before they are written.
    fn live(&self, function: &Function) -> Vec<Vec<bool>> {
        let mut order = function.reverse_postorder();
        order.reverse();
        let mut live = vec![Vec::new(); function.blocks.len()];
        for &block in &order {
            live[block.0 as usize] = vec![false; self.cells.len()];
        }
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for &block in &order {
                let mut set = vec![false; self.cells.len()];
                let data = function.block(block);
                for target in data.end.iter().flat_map(Terminator::targets) {
                    let next = live[target.block.0 as usize].iter();
                    set.iter_mut().zip(next).for_each(|(a, b)| *a |= b);
                }
                for &inst in data.insts.iter().rev() {
                    if let Some(access) = access(function, inst) {
                        set[self.used(&access)].fill(access.stored.is_none());
                    }
                }
                changed |= live[block.0 as usize] != set;
                live[block.0 as usize] = set;
            }
        }
        live
    }
}

/// The frame of an address and the distance from the first frame, if it is known.
fn place(function: &Function, address: Value) -> Option<(i32, i64)> {
    let (base, distance) = offset(function, address);
    match function.value(base).op {
        Op::Fixed(Fixed::Frame(off)) => {
            let at = distance.cast_signed().wrapping_add(off.into());
            Some((off / FRAME_STRIDE, at))
        }
        _ => None,
    }
}

fn base(op: &Op) -> Value {
    match op {
        Op::Load { base, .. } | Op::Store { base, .. } => *base,
        _ => unreachable!("accesses have bases"),
    }
}

/// Whether bytes are in a frame.
fn within(frame: i32, bytes: &Range<i32>) -> bool {
    let start = frame * FRAME_STRIDE;
    bytes.start >= start && bytes.end <= start + squalus_runtime::STACK_SIZE as i32
}

/// The bytes that an ordinary load or store uses, if it is one of frames and its address is known.
fn access(function: &Function, inst: Value) -> Option<Access> {
    let (base, off, ty, stored) = match function.value(inst).op {
        Op::Load {
            base,
            off,
            order: Order::Plain,
            ..
        } => (base, off, function.ty(inst), None),
        Op::Store {
            base, off, value, ..
        } => (base, off, function.ty(value), Some(value)),
        _ => return None,
    };
    let (_, at) = place(function, base)?;
    let start = i32::try_from(at.checked_add(off.into())?).ok()?;
    let bytes = start..start.checked_add(ty.bytes() as i32)?;
    Some(Access { bytes, stored })
}

struct Promotion<'a> {
    frames: &'a Frames,
    live: &'a [Vec<bool>],
    /// Blocks that several edges lead to.
    meets: &'a [bool],
    aliases: Aliases,
    /// What cells hold at the end of blocks; at the beginning of those with parameters for them until they are done.
    known: Vec<Option<Vec<Value>>>,
    out: Vec<Value>,
}

impl<'a> Promotion<'a> {
    fn new(
        function: &mut Function,
        frames: &'a Frames,
        live: &'a [Vec<bool>],
        meets: &'a [bool],
    ) -> Promotion<'a> {
        Promotion {
            frames,
            live,
            meets,
            aliases: Aliases::new(function),
            known: vec![None; function.blocks.len()],
            out: Vec::new(),
        }
    }

    fn run(mut self, function: &mut Function, before: &[Vec<Block>]) {
        for block in function.reverse_postorder() {
            let mut held = match *before[block.0 as usize] {
                [from] => self.known[from.0 as usize].clone(),
                _ => None,
            }
            .unwrap_or_else(|| self.nothing(function));
            if self.meets[block.0 as usize] {
                self.make_params(function, block, &mut held);
            }
            self.block(function, block, &mut held);
            self.pass_on(function, block, &held);
            self.known[block.0 as usize] = Some(held);
        }
        self.aliases.apply(function);
    }

    /// What cells hold that nobody wrote: zeros, as anything would do.
    fn nothing(&self, function: &mut Function) -> Vec<Value> {
        let cells = self.frames.cells.iter();
        cells.map(|cell| function.number(cell.ty, 0)).collect()
    }

    fn make_params(&self, function: &mut Function, block: Block, held: &mut [Value]) {
        let slot = match function.block(block).insts.first() {
            Some(&first) => function.value(first).slot,
            None => function.block(block).end_slot,
        };
        for (n, cell) in self.frames.cells.iter().enumerate() {
            if self.live[block.0 as usize][n] {
                held[n] = function.make(Op::Param, cell.ty, slot);
                function.block_mut(block).params.push(held[n]);
            }
        }
    }

    fn block(&mut self, function: &mut Function, block: Block, held: &mut [Value]) {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        self.out = Vec::with_capacity(insts.len());
        for inst in insts {
            let access = access(function, inst);
            let used = access.as_ref().map(|access| self.frames.used(access));
            match (access, used) {
                (Some(access), Some(cells)) if !cells.is_empty() => match access.stored {
                    Some(value) => self.split(function, cells, value, held, inst),
                    None => {
                        let value = self.join(function, cells, held, inst);
                        self.aliases.set(inst, value);
                    }
                },
                _ => self.out.push(inst),
            }
        }
        function.block_mut(block).insts = std::mem::take(&mut self.out);
    }

    /// Puts what is in cells together.
    fn join(
        &mut self,
        function: &mut Function,
        cells: Range<usize>,
        held: &[Value],
        inst: Value,
    ) -> Value {
        let (ty, slot) = (function.ty(inst), function.value(inst).slot);
        let (start, mut joined) = (self.frames.cells[cells.start].off, None);
        for n in cells {
            let cell = self.frames.cells[n];
            let mut part = held[n];
            if cell.ty < ty {
                part = self.make(function, Op::Un(UnOp::ZeroExtend, part), ty, slot);
            }
            if cell.off > start {
                let by = function.number(ty, (cell.off - start) as u64 * 8);
                part = self.make(function, Op::Bin(BinOp::Shl, part, by), ty, slot);
            }
            joined = Some(match joined {
                None => part,
                Some(low) => self.make(function, Op::Bin(BinOp::Or, low, part), ty, slot),
            });
        }
        joined.expect("an access uses bytes")
    }

    /// Makes cells hold a value's parts.
    fn split(
        &mut self,
        function: &mut Function,
        cells: Range<usize>,
        value: Value,
        held: &mut [Value],
        inst: Value,
    ) {
        let (ty, slot) = (function.ty(value), function.value(inst).slot);
        let start = self.frames.cells[cells.start].off;
        for n in cells {
            let cell = self.frames.cells[n];
            let mut part = value;
            if cell.off > start {
                let by = function.number(ty, (cell.off - start) as u64 * 8);
                part = self.make(function, Op::Bin(BinOp::LShr, part, by), ty, slot);
            }
            if cell.ty < ty {
                part = self.make(function, Op::Un(UnOp::Truncate, part), cell.ty, slot);
            }
            held[n] = part;
        }
    }

    fn make(&mut self, function: &mut Function, op: Op, ty: Ty, slot: u32) -> Value {
        let value = function.make(op, ty, slot);
        self.out.push(value);
        value
    }

    /// Gives the blocks that a block leads to what cells hold, as far as they have parameters for them.
    fn pass_on(&self, function: &mut Function, block: Block, held: &[Value]) {
        let Some(end) = &mut function.block_mut(block).end else {
            return;
        };
        for target in end.targets_mut() {
            let to = target.block.0 as usize;
            if self.meets[to] {
                let live = held.iter().zip(&self.live[to]);
                target
                    .args
                    .extend(live.filter(|(_, l)| **l).map(|(v, _)| *v));
            }
        }
    }
}

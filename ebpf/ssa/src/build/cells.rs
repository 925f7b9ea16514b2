//! Which bytes of a function's stack frame become values.
//!
//! Most of a frame is registers that the compiler spilled because eBPF has so few, and keys and values on
//! their way to helpers. Bytes that only their own function uses, at known addresses, become *cells*: the smallest
//! pieces such that every use takes whole cells. A load of several cells puts them together, a store takes its value
//! apart, and a helper gets a copy. The rest stays memory.

use std::ops::Range;

use squalus_analysis::{Access, Area, Facts, FuncId, InstFacts, Value};
use squalus_isa::{CallTarget, Inst, Reg};
use squalus_runtime::{LinkedProgram, Proto, STACK_SIZE, proto};

use crate::ir::Ty;

/// Bytes of a frame that become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Offset from the lowest byte of the frame.
    pub(crate) off: i32,
    /// Width.
    pub(crate) ty: Ty,
}

impl Cell {
    pub(crate) fn end(self) -> i32 {
        self.off + self.ty.bytes() as i32
    }
}

/// The cells of a frame, by offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    cells: Vec<Cell>,
}

impl Cells {
    /// The cells of `func`'s frame.
    pub(crate) fn find(program: &LinkedProgram, facts: &Facts, func: FuncId) -> Cells {
        if facts.checks_stack() {
            return Cells::default();
        }
        let mut plan = Plan::new();
        for (n, byte) in plan.memory.iter_mut().enumerate() {
            *byte = facts.function(func).lent[n / 64] & 1 << (n % 64) != 0;
        }
        for block in facts.cfg().blocks().iter().filter(|b| b.func == func) {
            for n in block.first..block.end {
                if let Some(known) = facts.inst(n) {
                    plan.note(known, &program.insts()[n].inst, func);
                }
            }
        }
        plan.cells()
    }

    /// The cells of a frame of which these bytes are used, each at once, and all may be values.
    pub(crate) fn of(uses: impl IntoIterator<Item = Range<i32>>) -> Cells {
        let mut plan = Plan::new();
        uses.into_iter().for_each(|bytes| plan.cell(bytes));
        plan.cells()
    }

    pub(crate) fn all(&self) -> &[Cell] {
        &self.cells
    }

    /// The numbers of the cells in these bytes, if there are any; a use takes all or none of its bytes.
    pub(crate) fn within(&self, bytes: Range<i32>) -> Range<usize> {
        let first = self.cells.partition_point(|cell| cell.off < bytes.start);
        let end = self.cells.partition_point(|cell| cell.off < bytes.end);
        first..end.max(first)
    }
}

/// The bytes of the own frame that a load or store uses, if its address is known.
pub(crate) fn accessed(known: &InstFacts, inst: &Inst, func: FuncId) -> Option<Range<i32>> {
    let (size, base, off) = match *inst {
        Inst::Load {
            size, base, off, ..
        }
        | Inst::Store {
            size, base, off, ..
        } => (size, base, off),
        _ => return None,
    };
    if known.access != Some(Access::Proved(Area::Stack)) {
        return None;
    }
    let at = own_offset(known.reg(base), func)? + i32::from(off);
    Some(at..at + size.bytes() as i32)
}

/// The bytes of the own frame that argument `n` of a helper names, if their place is known (of their number
/// the most there can be).
pub(crate) fn argument(known: &InstFacts, n: usize, func: FuncId) -> Option<Range<i32>> {
    let at = own_offset(known.reg(arg(n)), func)?;
    let mut named = known.frame.into_iter().flatten();
    let bytes = named.find(|bytes| bytes.lo == i64::from(at))?;
    (known.unproved_args == 0).then_some(at..bytes.hi as i32 + 1)
}

/// The offset of a pointer in the function's own frame, if it is one and known.
pub(crate) fn own_offset(value: Value, func: FuncId) -> Option<i32> {
    match value {
        Value::Stack { func: owner, off } if owner == func => {
            i32::try_from(off.as_constant()?).ok()
        }
        _ => None,
    }
}

/// The register of argument `n`, from 0.
pub(crate) fn arg(n: usize) -> Reg {
    Reg::new(n as u8 + 1).expect("arguments are in r1 to r5")
}

/// What the uses of a frame want.
struct Plan {
    /// Whether a byte must be memory.
    memory: [bool; STACK_SIZE],
    /// Bytes that are used at once, at a known address.
    uses: Vec<Range<usize>>,
}

impl Plan {
    fn new() -> Plan {
        Plan {
            memory: [false; STACK_SIZE],
            uses: Vec::new(),
        }
    }

    fn note(&mut self, known: &InstFacts, inst: &Inst, func: FuncId) {
        if let Some(bytes) = accessed(known, inst, func) {
            return self.cell(bytes);
        }
        if let Inst::Call(CallTarget::Helper(id)) = *inst
            && let Some(proto) = proto(id)
        {
            return self.call(known, proto, func);
        }
        for bytes in known.frame.into_iter().flatten() {
            self.keep(bytes.lo as i32..bytes.hi as i32 + 1);
        }
    }

    /// Ranges of a helper's arguments that are known become copies; others stay memory.
    fn call(&mut self, known: &InstFacts, proto: &Proto, func: FuncId) {
        let arguments = (0..proto.args.len()).filter_map(|n| argument(known, n, func));
        let copied: Vec<Range<i32>> = arguments.collect();
        let overlap =
            copied.len() > 1 && copied[0].start < copied[1].end && copied[1].start < copied[0].end;
        for bytes in known.frame.into_iter().flatten() {
            let bytes = bytes.lo as i32..bytes.hi as i32 + 1;
            if copied.contains(&bytes) && !overlap {
                self.cell(bytes);
            } else {
                self.keep(bytes);
            }
        }
    }

    fn cell(&mut self, bytes: Range<i32>) {
        let bytes = bytes.start as usize..bytes.end as usize;
        if !self.uses.contains(&bytes) {
            self.uses.push(bytes);
        }
    }

    fn keep(&mut self, bytes: Range<i32>) {
        let range = bytes.start.max(0) as usize..bytes.end.clamp(0, STACK_SIZE as i32) as usize;
        self.memory[range].fill(true);
    }

    /// Cuts what is used, and not memory, where any use begins or ends.
    fn cells(mut self) -> Cells {
        self.spread_memory();
        let mut edge = [false; STACK_SIZE + 1];
        let mut used = [false; STACK_SIZE];
        for bytes in self.uses.iter().filter(|bytes| !self.memory[bytes.start]) {
            edge[bytes.start] = true;
            edge[bytes.end] = true;
            used[bytes.clone()].fill(true);
        }
        let mut cells = Vec::new();
        let mut at = 0;
        while at < STACK_SIZE {
            let start = at;
            at += 1;
            if used[start] {
                while !edge[at] {
                    at += 1;
                }
                cut(&mut cells, start as i32, at as i32);
            }
        }
        Cells { cells }
    }

    /// A use takes cells only or memory only.
    fn spread_memory(&mut self) {
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for bytes in &self.uses {
                let memory = &mut self.memory[bytes.clone()];
                if memory.contains(&true) && memory.contains(&false) {
                    memory.fill(true);
                    changed = true;
                }
            }
        }
    }
}

/// Cuts bytes into aligned words and smaller pieces.
fn cut(cells: &mut Vec<Cell>, mut at: i32, end: i32) {
    while at < end {
        let mut fits = [Ty::I64, Ty::I32, Ty::I16].into_iter().filter(|ty| {
            let size = ty.bytes() as i32;
            size <= end - at && at % size == 0
        });
        let ty = fits.next().unwrap_or(Ty::I8);
        cells.push(Cell { off: at, ty });
        at += ty.bytes() as i32;
    }
}

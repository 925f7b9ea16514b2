//! Which bytes of a function's stack frame need memory.
//!
//! Most of a frame is registers that the compiler spilled because eBPF has so few. A range of bytes that
//! is only ever loaded and stored as a whole, by instructions whose address is known, becomes a variable
//! like a register. The rest stays memory.

use squalus_analysis::{Access, Area, Facts, FuncId, Value};
use squalus_isa::{Inst, MemSize};
use squalus_runtime::{LinkedProgram, STACK_SIZE};

/// A range of bytes of a frame that becomes a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Offset from the lowest byte of the frame.
    pub(crate) off: i64,
    /// Size of all its accesses.
    pub(crate) size: MemSize,
}

impl Cell {
    fn bytes(self) -> std::ops::Range<i64> {
        self.off..self.off + i64::from(self.size.bytes())
    }

    fn overlaps(self, other: Cell) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        a.start < b.end && b.start < a.end
    }
}

/// The cells of `func`'s frame.
pub(crate) fn cells(program: &LinkedProgram, facts: &Facts, func: FuncId) -> Vec<Cell> {
    if facts.checks_stack() || facts.function(func).frame_escapes {
        return Vec::new();
    }
    let mut cells: Vec<Cell> = Vec::new();
    let mut memory = [false; STACK_SIZE];
    for block in facts.cfg().blocks().iter().filter(|b| b.func == func) {
        for n in block.first..block.end {
            let Some(inst) = facts.inst(n) else { continue };
            let decoded = &program.insts()[n].inst;
            if let Some(cell) = cell_of(facts, n, decoded, func) {
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
                continue;
            }
            for bytes in inst.frame.into_iter().flatten() {
                for byte in bytes.lo.max(0)..=bytes.hi.min(STACK_SIZE as i64 - 1) {
                    memory[byte as usize] = true;
                }
            }
        }
    }
    let alone = |cell: &Cell| {
        let others = cells.iter().filter(|other| *other != cell);
        !cell.bytes().any(|byte| memory[byte as usize])
            && others.into_iter().all(|other| !cell.overlaps(*other))
    };
    cells.iter().copied().filter(alone).collect()
}

/// The cell a load or store uses, if its address in the function's own frame is known.
pub(crate) fn cell_of(facts: &Facts, n: usize, inst: &Inst, func: FuncId) -> Option<Cell> {
    let (size, base, off) = match *inst {
        Inst::Load {
            size, base, off, ..
        }
        | Inst::Store {
            size, base, off, ..
        } => (size, base, off),
        _ => return None,
    };
    let known = facts.inst(n)?;
    if known.access != Some(Access::Proved(Area::Stack)) {
        return None;
    }
    let at = own_offset(known.reg(base), func)?;
    Some(Cell {
        off: at + i64::from(off),
        size,
    })
}

/// The offset of a pointer in the function's own frame, if it is one and known.
pub(crate) fn own_offset(value: Value, func: FuncId) -> Option<i64> {
    match value {
        Value::Stack { func: owner, off } if owner == func => off.as_constant(),
        _ => None,
    }
}

//! What the analysis hands on: facts about every instruction.

use std::fmt::Write;

use squalus_isa::{Reg, format_inst};
use squalus_runtime::{CtxField, LinkError, LinkedProgram};

use crate::value::Joining;
use crate::{Cfg, FuncId, Interval, Name, Scalar, State, Value};

/// Where a run-time check must find an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// In the packet or its metadata.
    Packet,
    /// In one value of one of the program's maps.
    MapValue,
    /// In a stack frame of this run.
    Stack,
    /// In a key that a callback was lent.
    Key,
    /// In a record that is reserved in a ring buffer.
    Record,
    /// In any of these.
    Any,
}

/// How an instruction's access to memory is known to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It reads a field of the context.
    Context(CtxField),
    /// Proved: in bounds (and, of atomic operations, aligned and in a place that allows them).
    Proved(Area),
    /// Not proved: to be checked when it happens, and the run ended if it is not in this area.
    Checked(Area),
}

impl Access {
    /// Whether no check is needed.
    #[must_use]
    pub const fn is_proved(self) -> bool {
        !matches!(self, Access::Checked(_))
    }

    /// What holds of an access that is allowed in one of two ways.
    pub(crate) fn or(self, other: Access) -> Access {
        match (self, other) {
            _ if self == other => self,
            (Access::Proved(a) | Access::Checked(a), Access::Proved(b) | Access::Checked(b))
                if a == b =>
            {
                Access::Checked(a)
            }
            _ => Access::Checked(Area::Any),
        }
    }
}

/// What is known whenever execution reaches an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstFacts {
    /// The registers, before it.
    pub regs: [Value; Reg::COUNT],
    /// Its memory access, if it makes one itself.
    pub access: Option<Access>,
    /// Of an access to the packet, how many bytes at least lie between its first byte and the end of the
    /// packet (negative if it may be behind the end).
    pub room: Option<i64>,
    /// Bytes of its own function's frame that it may touch, both ends included. Checked accesses, and
    /// what a called subprogram does, are not counted.
    pub frame: [Option<Interval>; 2],
    /// Of a helper call, which arguments must be checked: bit 0 for `r1` and so on.
    pub unproved_args: u8,
    /// Of a lookup, the first four bytes of its key as a number, if they are on the function's stack.
    pub index: Option<Scalar>,
    /// Whether a jump can be taken.
    pub can_jump: bool,
    /// Whether execution can go on with the next instruction.
    pub can_fall: bool,
}

impl InstFacts {
    /// What is known of a register.
    #[must_use]
    pub const fn reg(&self, reg: Reg) -> Value {
        self.regs[reg.index()]
    }

    /// Adds what holds at the same instruction, at `slot`, on another path.
    pub(crate) fn join(&mut self, other: &InstFacts, slot: u32, how: &Joining<'_>) {
        for (n, (own, other)) in self.regs.iter_mut().zip(&other.regs).enumerate() {
            let at = Name::Met {
                block: slot,
                at: n as u16,
            };
            *own = own.join(other, at, how);
        }
        self.access = match (self.access, other.access) {
            (Some(a), Some(b)) => Some(a.or(b)),
            (a, b) => a.or(b),
        };
        self.room = match (self.room, other.room) {
            (Some(a), Some(b)) => Some(a.min(b)),
            _ => None,
        };
        for (own, other) in self.frame.iter_mut().zip(other.frame) {
            *own = match (*own, other) {
                (Some(a), Some(b)) => Some(a.hull(b)),
                (a, b) => a.or(b),
            };
        }
        self.unproved_args |= other.unproved_args;
        self.index = match (self.index, other.index) {
            (Some(a), Some(b)) => Some(a.join(&b)),
            _ => None,
        };
        self.can_jump |= other.can_jump;
        self.can_fall |= other.can_fall;
    }
}

/// What is known of a function as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Bytes of its frame, a bit each, that may be read before the function wrote them: they must be
    /// zeroed when it is entered.
    pub read_unwritten: [u64; 8],
    /// Bytes of its frame, a bit each, that something else than what [`InstFacts::frame`] names may use: other
    /// functions, checked accesses, helpers that follow pointers.
    pub lent: [u64; 8],
    /// Whether what it returns is never a number.
    pub returns_pointer: bool,
}

/// How many accesses are proved, and how many are left to run-time checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Loads, stores and atomic operations that need no check.
    pub proved: usize,
    /// Those that are checked.
    pub checked: usize,
    /// Helper calls whose arguments need no check.
    pub proved_calls: usize,
    /// Helper calls with arguments that are checked.
    pub checked_calls: usize,
    /// Instructions that can be reached.
    pub reachable: usize,
}

/// Facts about a program. Every one of them holds in every execution.
#[derive(Clone)]
pub struct Facts {
    pub(crate) cfg: Cfg,
    pub(crate) insts: Vec<Option<Box<InstFacts>>>,
    pub(crate) entries: Vec<Option<State>>,
    pub(crate) functions: Vec<FunctionFacts>,
    pub(crate) takes_locks: bool,
    pub(crate) timer_callbacks: Vec<FuncId>,
}

impl Facts {
    /// The blocks of the program.
    #[must_use]
    pub fn cfg(&self) -> &Cfg {
        &self.cfg
    }

    /// Facts about the instruction with this index; `None` if execution never reaches it.
    #[must_use]
    pub fn inst(&self, index: usize) -> Option<&InstFacts> {
        self.insts.get(index)?.as_deref()
    }

    /// Facts about all instructions that can be reached.
    pub fn reachable(&self) -> impl Iterator<Item = &InstFacts> {
        self.insts.iter().flatten().map(|facts| &**facts)
    }

    /// What is known on entry of a block, the stack included; `None` if it is never reached.
    #[must_use]
    pub fn entry(&self, block: usize) -> Option<&State> {
        self.entries.get(block)?.as_ref()
    }

    /// The first call of a helper or kernel function that the runtime has not and execution may reach.
    ///
    /// # Errors
    /// Which, and where.
    pub fn supported(&self, program: &LinkedProgram) -> Result<(), LinkError> {
        let reached = self.insts.iter().enumerate();
        let mut reached = reached.filter(|(_, facts)| facts.is_some());
        reached.try_for_each(|(n, _)| program.unsupported(n))
    }

    /// Facts about a function.
    #[must_use]
    pub fn function(&self, func: FuncId) -> &FunctionFacts {
        &self.functions[func as usize]
    }

    /// Whether some check at run time may look for an address in the stack frames of the run.
    #[must_use]
    pub fn checks_stack(&self) -> bool {
        self.reachable().any(|facts| {
            facts.unproved_args != 0
                || matches!(facts.access, Some(Access::Checked(Area::Any | Area::Stack)))
        })
    }

    /// Whether the program may take spin locks.
    #[must_use]
    pub const fn takes_locks(&self) -> bool {
        self.takes_locks
    }

    /// The functions that timers may call: with a map, a key and a value, in a run of their own.
    #[must_use]
    pub fn timer_callbacks(&self) -> &[FuncId] {
        &self.timer_callbacks
    }

    /// How much is proved.
    #[must_use]
    pub fn counts(&self, program: &LinkedProgram) -> Counts {
        let mut counts = Counts::default();
        for (facts, decoded) in self.insts.iter().zip(program.insts()) {
            let Some(facts) = facts else { continue };
            counts.reachable += 1;
            match facts.access {
                Some(access) if access.is_proved() => counts.proved += 1,
                Some(_) => counts.checked += 1,
                None => {}
            }
            let squalus_isa::Inst::Call(squalus_isa::CallTarget::Helper(_)) = decoded.inst else {
                continue;
            };
            if facts.unproved_args == 0 {
                counts.proved_calls += 1;
            } else {
                counts.checked_calls += 1;
            }
        }
        counts
    }

    /// The program with its facts as text, one instruction a line.
    #[must_use]
    pub fn annotate(&self, program: &LinkedProgram) -> String {
        let mut out = String::new();
        for (n, decoded) in program.insts().iter().enumerate() {
            let text = format_inst(&decoded.inst);
            let _ = write!(out, "{:5}: {text}", decoded.slot);
            let Some(facts) = self.inst(n) else {
                out.push_str("  ; never reached\n");
                continue;
            };
            if let Some(access) = facts.access {
                let _ = write!(out, "  ; {access:?}");
            }
            if facts.unproved_args != 0 {
                let _ = write!(out, "  ; unproved arguments {:#b}", facts.unproved_args);
            }
            for (reg, value) in facts.regs.iter().enumerate() {
                if *value != Value::TOP && text.contains(&format!("r{reg}")) {
                    let _ = write!(out, "  r{reg}={value:?}");
                }
            }
            out.push('\n');
        }
        out
    }
}

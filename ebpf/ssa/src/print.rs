//! The code as text, for people and for tests.

use std::fmt::{self, Display, Formatter};

use squalus_runtime::Env;

use crate::ir::{Block, Fixed, Function, Op, Order, Reason, Region, Target, Terminator, Ty, Value};

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Block {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Ty {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Ty::V128 => f.write_str("i64x2"),
            _ => write!(f, "i{}", self.bits()),
        }
    }
}

impl Display for Region {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Region::Env => f.write_str("env"),
            Region::Frame => f.write_str("frame"),
            Region::Temp(n) => write!(f, "temp{n}"),
            Region::Packet => f.write_str("packet"),
            Region::Lent => f.write_str("lent"),
            Region::MapValue(Some(map)) => write!(f, "value{map}"),
            Region::MapValue(None) => f.write_str("value"),
            Region::MapIndex => f.write_str("index"),
            Region::Counts => f.write_str("counts"),
            Region::Any => f.write_str("any"),
        }
    }
}

impl Display for Fixed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Fixed::Number(_, number) if number < 4096 => write!(f, "{number}"),
            Fixed::Number(Ty::I64, number) if number > u64::MAX - 4096 => {
                write!(f, "{}", number.cast_signed())
            }
            Fixed::Number(_, number) => write!(f, "{number:#x}"),
            Fixed::Env => f.write_str("env"),
            Fixed::Frame(off) => write!(f, "frame+{off}"),
            Fixed::Temp(n) => write!(f, "temp{n}"),
            Fixed::Map(map) => write!(f, "map{map}"),
        }
    }
}

/// A value as it is written where it is used.
struct Use<'a>(&'a Function, Value);

impl Display for Use<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0.value(self.1).op {
            Op::Fixed(fixed) => Display::fmt(fixed, f),
            _ => Display::fmt(&self.1, f),
        }
    }
}

struct List<'a>(&'a Function, &'a [Value]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, &value) in self.1.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Use(self.0, value))?;
        }
        Ok(())
    }
}

/// The name of a word of the environment.
fn env_word(off: i32) -> Option<&'static str> {
    const NAMES: [(usize, &str); 17] = [
        (Env::OFFSET_DATA, "data"),
        (Env::OFFSET_DATA_END, "data_end"),
        (Env::OFFSET_DATA_META, "data_meta"),
        (Env::OFFSET_REST, "rest"),
        (Env::OFFSET_HARD_START, "hard_start"),
        (Env::OFFSET_INGRESS_IFINDEX, "ingress_ifindex"),
        (Env::OFFSET_RX_QUEUE_INDEX, "rx_queue_index"),
        (Env::OFFSET_EGRESS_IFINDEX, "egress_ifindex"),
        (Env::OFFSET_CPU, "cpu"),
        (Env::OFFSET_NUMA_NODE, "numa_node"),
        (Env::OFFSET_TAIL_CALLS, "tail_calls"),
        (Env::OFFSET_NEXT_PROGRAM, "next_program"),
        (Env::OFFSET_BUDGET, "budget"),
        (Env::OFFSET_BUDGET_PER_RUN, "budget_per_run"),
        (Env::OFFSET_SCRATCH, "scratch"),
        (Env::OFFSET_BURST_TIME, "burst_time"),
        (Env::OFFSET_RNG, "rng"),
    ];
    let name = NAMES
        .iter()
        .find(|(offset, _)| usize::try_from(off) == Ok(*offset));
    name.map(|(_, name)| *name)
}

/// A place in memory.
struct At<'a>(&'a Function, Region, Value, i32);

impl Display for At<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let At(function, region, base, off) = *self;
        let is_env = matches!(function.value(base).op, Op::Fixed(Fixed::Env));
        if is_env && let Some(name) = env_word(off) {
            return write!(f, "env.{name}");
        }
        write!(f, "{region}[{}", Use(function, base))?;
        match off {
            0 => f.write_str("]"),
            1.. => write!(f, "+{off}]"),
            _ => write!(f, "{off}]"),
        }
    }
}

struct To<'a>(&'a Function, &'a Target);

impl Display for To<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.1.block)?;
        if self.1.args.is_empty() {
            return Ok(());
        }
        write!(f, "({})", List(self.0, &self.1.args))
    }
}

fn lower(name: impl fmt::Debug) -> String {
    format!("{name:?}").to_lowercase()
}

struct Instruction<'a>(&'a Function, &'a Op);

impl Display for Instruction<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let function = self.0;
        let of = |value: &Value| Use(function, *value);
        match self.1 {
            Op::Fixed(fixed) => Display::fmt(fixed, f),
            Op::Param => f.write_str("param"),
            Op::Bin(op, a, b) => write!(f, "{} {}, {}", lower(op), of(a), of(b)),
            Op::Un(op, a) => write!(f, "{} {}", lower(op), of(a)),
            Op::Cmp(op, a, b) => write!(f, "{} {}, {}", lower(op), of(a), of(b)),
            Op::Select(c, a, b) => write!(f, "select {}, {}, {}", of(c), of(a), of(b)),
            Op::Load {
                region,
                base,
                off,
                order,
            } => {
                let order = match order {
                    Order::Plain => "",
                    Order::Acquire => ".acquire",
                    Order::InTurn => ".in_turn",
                };
                write!(f, "load{order} {}", At(function, *region, *base, *off))
            }
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let ty = function.ty(*value);
                write!(
                    f,
                    "store.{ty} {}, {}",
                    At(function, *region, *base, *off),
                    of(value)
                )
            }
            Op::Atomic {
                op,
                region,
                address,
                value,
                expected,
            } => {
                let at = At(function, *region, *address, 0);
                write!(f, "atomic.{} {at}, {}", lower(op), of(value))?;
                match expected {
                    Some(expected) => write!(f, ", {}", of(expected)),
                    None => Ok(()),
                }
            }
            Op::Lookup { map, key, .. } => write!(f, "lookup {}[{}]", of(map), List(function, key)),
            Op::Native { name, args, .. } => write!(f, "call {name}({})", List(function, args)),
            Op::Local { func, args, .. } => {
                write!(f, "call function{func}({})", List(function, args))
            }
            Op::TailCall(_, map, index) => write!(f, "tail_call {}, {}", of(map), of(index)),
            Op::TrapIf {
                condition,
                reason,
                slot,
            } => match reason {
                Reason::Known(reason) => {
                    write!(f, "trap {reason:?} at {slot} if {}", of(condition))
                }
                Reason::Condition => write!(f, "trap by {} at {slot}", of(condition)),
            },
        }
    }
}

struct End<'a>(&'a Function, &'a Terminator);

impl Display for End<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let function = self.0;
        match self.1 {
            Terminator::Jump(target) => write!(f, "jump {}", To(function, target)),
            Terminator::Branch {
                condition,
                then,
                other,
            } => {
                let condition = Use(function, *condition);
                write!(
                    f,
                    "branch {condition}, {}, {}",
                    To(function, then),
                    To(function, other)
                )
            }
            Terminator::Switch {
                value,
                targets,
                rest,
            } => {
                write!(f, "switch {}", Use(function, *value))?;
                for target in targets {
                    write!(f, ", {}", To(function, target))?;
                }
                write!(f, ", else {}", To(function, rest))
            }
            Terminator::Return(value) => write!(f, "return {}", Use(function, *value)),
            Terminator::Trap(reason, slot) => write!(f, "trap {reason:?} at {slot}"),
        }
    }
}

/// A function's code with notes before what comes from other eBPF instructions than what is before it.
pub struct Noted<'a> {
    function: &'a Function,
    note: &'a dyn Fn(u32) -> Option<String>,
}

impl Function {
    /// The code with notes: what `note` says of an eBPF instruction's slot, where it is something new.
    #[must_use]
    pub fn noted<'a>(&'a self, note: &'a dyn Fn(u32) -> Option<String>) -> Noted<'a> {
        Noted {
            function: self,
            note,
        }
    }
}

impl Display for Noted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let function = self.function;
        writeln!(f, "function{}:", function.id)?;
        for block in function.reverse_postorder() {
            let mut last = None;
            let mut note = |f: &mut Formatter<'_>, slot| {
                let note = (self.note)(slot).filter(|note| last.as_ref() != Some(note));
                if let Some(note) = note {
                    writeln!(f, "    ; {note}")?;
                    last = Some(note);
                }
                Ok(())
            };
            function.print_block(f, block, &mut note)?;
        }
        Ok(())
    }
}

type Note<'a> = &'a mut dyn FnMut(&mut Formatter<'_>, u32) -> fmt::Result;

impl Function {
    fn print_block(&self, f: &mut Formatter<'_>, block: Block, note: Note<'_>) -> fmt::Result {
        let data = self.block(block);
        write!(f, "{block}")?;
        for (n, &param) in data.params.iter().enumerate() {
            write!(
                f,
                "{}{param}: {}",
                if n == 0 { "(" } else { ", " },
                self.ty(param)
            )?;
        }
        f.write_str(if data.params.is_empty() { "" } else { ")" })?;
        f.write_str(if data.cold { ":  ; cold\n" } else { ":\n" })?;
        for &inst in &data.insts {
            let value = self.value(inst);
            note(f, value.slot)?;
            let text = Instruction(self, &value.op);
            if matches!(value.op, Op::Store { .. } | Op::TrapIf { .. }) {
                writeln!(f, "    {text}")?;
            } else {
                writeln!(f, "    {inst}: {} = {text}", value.ty)?;
            }
        }
        note(f, data.end_slot)?;
        match &data.end {
            Some(end) => writeln!(f, "    {}", End(self, end)),
            None => writeln!(f, "    (open)"),
        }
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.noted(&|_| None), f)
    }
}

//! Facts in words: what will be checked at run time, and why it could not be proved.

use squalus_isa::{CallTarget, Inst, MapFlags, Operand, Reg, format_inst};
use squalus_runtime::{ArgKind, ArgLen, ArgMemory, LinkedProgram, STACK_SIZE, proto};

use crate::value::Base;
use crate::{Access, Facts, InstFacts, Interval, MapRef, Scalar, Value};

/// A check that will be made at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Slot of the instruction.
    pub slot: usize,
    /// The instruction.
    pub instruction: String,
    /// The registers that it uses, and what they can hold.
    pub registers: Vec<(Reg, String)>,
    /// What could not be proved, and what would help.
    pub reason: String,
}

impl Facts {
    /// The checks that are left to run time, in the order of the instructions.
    #[must_use]
    pub fn checks(&self, program: &LinkedProgram) -> Vec<Check> {
        let all = program.insts().iter().enumerate();
        let found = all.filter_map(|(n, decoded)| {
            let known = self.inst(n)?;
            let (reason, used) = unproved(program, &decoded.inst, known)?;
            let describe = |reg: Reg| (reg, describe(program, &known.reg(reg)));
            Some(Check {
                slot: decoded.slot,
                instruction: format_inst(&decoded.inst),
                registers: used.into_iter().map(describe).collect(),
                reason,
            })
        });
        found.collect()
    }

    /// Slots of instructions that no execution reaches, as ranges from the first to behind the last.
    #[must_use]
    pub fn unreachable(&self, program: &LinkedProgram) -> Vec<std::ops::Range<usize>> {
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        let insts = program.insts();
        for (n, decoded) in insts.iter().enumerate() {
            if self.inst(n).is_some() {
                continue;
            }
            let end = insts.get(n + 1).map_or(decoded.slot + 1, |next| next.slot);
            match ranges.last_mut() {
                Some(last) if last.end == decoded.slot => last.end = end,
                _ => ranges.push(decoded.slot..end),
            }
        }
        ranges
    }
}

/// Why an instruction must be checked, and the registers that matter.
fn unproved(program: &LinkedProgram, inst: &Inst, known: &InstFacts) -> Option<(String, Vec<Reg>)> {
    if let Some(Access::Checked(_)) = known.access {
        let (base, off, size, write, atomic, other) = match *inst {
            Inst::Load {
                size, base, off, ..
            } => (base, off, size, false, false, None),
            Inst::Store {
                size,
                base,
                off,
                src,
            } => (base, off, size, true, false, register(src)),
            Inst::Atomic {
                size,
                base,
                off,
                src,
                ..
            } => (base, off, size, true, true, Some(src)),
            _ => return None,
        };
        let wanted = Wanted {
            name: format!("{base:?}"),
            off: off.into(),
            size: size.bytes().into(),
            write,
            atomic,
            room: known.room,
        };
        let reason = wanted.reason(program, &known.reg(base));
        return Some((reason, std::iter::once(base).chain(other).collect()));
    }
    let Inst::Call(CallTarget::Helper(id)) = *inst else {
        return None;
    };
    let args = proto(id)?.args.iter().enumerate();
    let unproved = args.filter(|(n, _)| known.unproved_args & (1 << n) != 0);
    let (reasons, regs): (Vec<String>, Vec<Reg>) = unproved
        .filter_map(|(n, kind)| {
            let reg = Reg::new(n as u8 + 1)?;
            Some((argument(program, known, reg, *kind), reg))
        })
        .unzip();
    (!regs.is_empty()).then(|| (reasons.join("; "), regs))
}

fn register(operand: Operand) -> Option<Reg> {
    match operand {
        Operand::Reg(reg) => Some(reg),
        Operand::Imm(_) => None,
    }
}

/// Why an argument of a helper must be checked.
fn argument(program: &LinkedProgram, known: &InstFacts, reg: Reg, kind: ArgKind) -> String {
    let value = known.reg(reg);
    let number = reg.index();
    let wants = match kind {
        ArgKind::Ctx => "must be the context",
        ArgKind::ConstMapPtr => "must be a map that this helper can use",
        ArgKind::Size { zero: false } => {
            return format!("argument {number} ({reg:?}) may be 0: test that it is more");
        }
        ArgKind::Timer => "must be the timer of a map value",
        ArgKind::SpinLock => "must be the spin lock of a map value",
        ArgKind::RingRecord => "must be what the reservation in a ring buffer gave",
        ArgKind::ConstStr => "must be a string in .rodata",
        _ => "must be memory of the size that the helper uses",
    };
    let next = Reg::new(reg.index() as u8 + 1).map(|next| known.reg(next).scalar());
    let sized = matches!(
        kind,
        ArgKind::Memory(ArgMemory {
            len: ArgLen::Next,
            ..
        })
    );
    let mut reason = format!("argument {number} ({reg:?}) {wants}");
    match (sized.then_some(next).flatten(), value) {
        (Some(size), _) if size.umax > u64::from(u32::MAX) => {
            reason += "; its size has no upper bound: compare it with a constant first";
        }
        (_, value) if value.null_name().is_some() => {
            reason += "; it may be null: compare it with 0 first";
        }
        (Some(size), Value::Packet { .. }) => {
            reason += &format!(
                "; up to {} bytes from {} on may reach past data_end",
                size.umax,
                describe(program, &value)
            );
        }
        (size, value) => {
            reason += &format!("; it is {}", describe(program, &value));
            if let Some(size) = size.filter(|_| value.is_present() || is_stack(&value)) {
                reason += &format!(", and the size is {}", number_text(&size));
            }
        }
    }
    reason
}

const fn is_stack(value: &Value) -> bool {
    matches!(value, Value::Stack { .. })
}

/// An access that was not proved.
struct Wanted {
    name: String,
    off: i64,
    size: i64,
    write: bool,
    atomic: bool,
    room: Option<i64>,
}

impl Wanted {
    fn reason(&self, program: &LinkedProgram, pointer: &Value) -> String {
        let name = &self.name;
        match *pointer {
            Value::Packet { base, off, .. } => self.packet(base, off),
            Value::PacketEnd => {
                format!("{name} is data_end, behind which nothing belongs to the packet")
            }
            _ if pointer.null_name().is_some() => {
                format!("{name} may be null: compare it with 0 first")
            }
            Value::MapValue { map, off, .. } => self.map_value(program, map, off),
            Value::Stack { off, .. } => self.bounded("the stack frame", off, STACK_SIZE as i64),
            Value::Record { len, off, .. } => self.bounded("the record", off, len.into()),
            Value::MapKey { .. } if self.write => format!("{name} is a key, which is read-only"),
            Value::MapKey { .. } => format!("{name} may be outside the key"),
            Value::Map { .. } => format!("{name} is a map, not a value of one: look one up"),
            Value::Function(_) => format!("{name} is a function"),
            Value::Scalar(scalar) if scalar.as_constant() == Some(0) => {
                format!("{name} is null on every path that is known to lead here")
            }
            Value::Scalar(scalar) if scalar != Scalar::TOP => {
                format!("{name} is a number, not a pointer")
            }
            _ => format!(
                "{name} is not known to be one kind of pointer on every path: paths that leave it null or \
                 unset, or what it was loaded from, could not be told apart"
            ),
        }
    }

    fn packet(&self, base: Base, off: Interval) -> String {
        let (name, last) = (&self.name, self.off + self.size);
        let (start, end) = match base {
            Base::Data => ("data", "data_end"),
            Base::Meta => ("data_meta", "data"),
        };
        if self.atomic {
            return format!("{name} points into the packet, where nothing is atomic");
        }
        if off.lo + self.off < 0 {
            return format!(
                "{name} may point before {start}: its offset must be known not to be negative"
            );
        }
        let bound = match off.as_constant() {
            Some(off) => format!("{start} + {}", off + last),
            None => format!("{name} + {last}"),
        };
        match self.room {
            Some(room) if room > -(1 << 20) && room < self.size => format!(
                "the access may reach up to {} bytes past {end}: compare {bound} with {end} first",
                self.size - room
            ),
            _ => format!("the access may reach past {end}: compare {bound} with {end} first"),
        }
    }

    fn map_value(&self, program: &LinkedProgram, map: MapRef, off: Interval) -> String {
        let MapRef::Direct(index) = map else {
            return format!("{} may be outside the map's value", self.name);
        };
        let Some(def) = program.maps().get(index as usize).map(|map| map.def()) else {
            return "the map is not known".to_owned();
        };
        let forbidden = match self.write {
            true => MapFlags::RDONLY_PROG,
            false => MapFlags::WRONLY_PROG,
        };
        if def.flags.contains(forbidden) {
            let what = if self.write { "write" } else { "read" };
            return format!("programs may not {what} values of map `{}`", def.name);
        }
        let place = format!("a value of `{}`", def.name);
        self.bounded(&place, off, def.value_size.into())
    }

    fn bounded(&self, place: &str, off: Interval, len: i64) -> String {
        let (first, last) = (off.lo + self.off, off.hi + self.off);
        if first >= 0 && last + self.size <= len {
            let why = if self.atomic {
                "may not be aligned for an atomic operation"
            } else {
                "may touch a lock or a timer"
            };
            return format!("{} {why}", self.name);
        }
        let range = range_text(Interval {
            lo: first,
            hi: last,
        });
        format!(
            "{} bytes at offset {range} of {place}, which has {len}: bound the offset with a comparison or `&`",
            self.size
        )
    }
}

/// A value in words.
#[must_use]
pub fn describe(program: &LinkedProgram, value: &Value) -> String {
    let null = if value.null_name().is_some() {
        ", or null"
    } else {
        ""
    };
    match *value {
        Value::Scalar(scalar) => number_text(&scalar),
        Value::Ctx(0) => "the context".to_owned(),
        Value::Ctx(off) => format!("the context{}", plus(Interval::at(off))),
        Value::Stack { func, off } => {
            let top = Interval::at(-(STACK_SIZE as i64));
            let off = off.shift(top).unwrap_or(off);
            let frame = match func {
                0 => "fp".to_owned(),
                func => format!("fp of function {func}"),
            };
            format!("{frame}{}", plus(off))
        }
        Value::Packet { base, off, .. } => match base {
            Base::Data => format!("data{}", plus(off)),
            Base::Meta => format!("data_meta{}", plus(off)),
        },
        Value::PacketEnd => "data_end".to_owned(),
        Value::Map { map, .. } => format!("{}{null}", map_text(program, map)),
        Value::MapValue { map, off, .. } => {
            format!("value of {}{}{null}", map_text(program, map), plus(off))
        }
        Value::MapKey { map, off } => format!("key of {}{}", map_text(program, map), plus(off)),
        Value::Record { len, off, .. } => format!("record of {len} bytes{}{null}", plus(off)),
        Value::Function(func) => format!("function {func}"),
    }
}

fn map_text(program: &LinkedProgram, map: MapRef) -> String {
    let name = |index: u32| {
        let map = program.maps().get(index as usize);
        map.map_or("?", |map| map.def().name.as_str())
    };
    match map {
        MapRef::Direct(index) => format!("map `{}`", name(index)),
        MapRef::Inner(index) => format!("a map in `{}`", name(index)),
        MapRef::Shaped(_) | MapRef::Values(_) => "one of several maps".to_owned(),
    }
}

fn number_text(scalar: &Scalar) -> String {
    if *scalar == Scalar::TOP {
        return "anything".to_owned();
    }
    if let Some(value) = scalar.as_constant() {
        return value.cast_signed().to_string();
    }
    if scalar.smin < 0 && scalar.umax > i64::MAX.cast_unsigned() {
        return format!("{} to {}", scalar.smin, scalar.smax);
    }
    format!("{} to {}", scalar.umin, scalar.umax)
}

/// Offsets behind the name of what they are relative to.
fn plus(off: Interval) -> String {
    match off.as_constant() {
        Some(0) => String::new(),
        Some(off) if off < 0 => format!(" - {}", off.unsigned_abs()),
        Some(off) => format!(" + {off}"),
        None => format!(" + ({})", range_text(off)),
    }
}

fn range_text(off: Interval) -> String {
    match off.as_constant() {
        Some(off) => off.to_string(),
        None => format!("{} to {}", off.lo, off.hi),
    }
}

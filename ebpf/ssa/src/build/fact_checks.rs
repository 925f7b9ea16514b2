//! Code that compares facts with what registers really hold.

use squalus_analysis::{Base, InstFacts, Interval, Scalar, Value as Known};
use squalus_isa::Reg;
use squalus_runtime::{Env, TrapReason, function_address};

use super::Builder;
use crate::ir::{BinOp, Cmp, Fixed, Ty, Value};

impl Builder<'_> {
    /// Ends the run if a fact about a register is false.
    pub(super) fn check_facts(&mut self, known: &InstFacts) {
        for n in 0..Reg::COUNT {
            let Some(reg) = Reg::new(n as u8) else {
                continue;
            };
            let value = self.vars[n];
            match known.reg(reg) {
                Known::Scalar(scalar) => self.check_scalar(value, &scalar),
                Known::Ctx(off) => self.check_offset(value, self.emit.env, Interval::at(off)),
                Known::Stack { func, off } if func == self.func => {
                    self.emit.function.frames = 1;
                    let base = self.emit.function.fixed(Fixed::Frame(0));
                    self.check_offset(value, base, off);
                }
                Known::Packet { base, off, .. } => {
                    let base = match base {
                        Base::Data => Env::OFFSET_DATA,
                        Base::Meta => Env::OFFSET_DATA_META,
                    };
                    let base = self.emit.load_env(Ty::I64, base);
                    self.check_offset(value, base, off);
                }
                Known::PacketEnd => {
                    let end = self.emit.load_env(Ty::I64, Env::OFFSET_DATA_END);
                    self.check_offset(value, end, Interval::at(0));
                }
                pointer @ (Known::Map { .. }
                | Known::MapValue { .. }
                | Known::MapKey { .. }
                | Known::Record { .. }) => {
                    if pointer.null_name().is_none() {
                        self.wrong_if(Cmp::Eq, value, 0);
                    }
                }
                Known::Function(func) => {
                    let start = self.input.program.subprograms()[func as usize].start;
                    self.wrong_if(Cmp::Ne, value, function_address(start));
                }
                Known::Stack { .. } => {}
            }
        }
    }

    /// Ends the run if a branch goes where the facts say it cannot.
    pub(super) fn check_way(&mut self, condition: Value, jumps: bool) {
        let wrong = if jumps { Cmp::Eq } else { Cmp::Ne };
        self.wrong_if(wrong, condition, 0);
    }

    fn check_scalar(&mut self, value: Value, scalar: &Scalar) {
        if *scalar == Scalar::TOP {
            return;
        }
        let bits = self.emit.bin_with(BinOp::And, value, !scalar.mask);
        self.wrong_if(Cmp::Ne, bits, scalar.value);
        self.wrong_if(Cmp::ULt, value, scalar.umin);
        self.wrong_if(Cmp::UGt, value, scalar.umax);
        self.wrong_if(Cmp::SLt, value, scalar.smin.cast_unsigned());
        self.wrong_if(Cmp::SGt, value, scalar.smax.cast_unsigned());
    }

    fn check_offset(&mut self, value: Value, base: Value, off: Interval) {
        let offset = self.emit.bin(BinOp::Sub, value, base);
        self.wrong_if(Cmp::SLt, offset, off.lo.cast_unsigned());
        self.wrong_if(Cmp::SGt, offset, off.hi.cast_unsigned());
    }

    fn wrong_if(&mut self, op: Cmp, value: Value, bound: u64) {
        let wrong = self.emit.cmp_with(op, value, bound);
        self.emit.trap_if(wrong, TrapReason::Unsupported);
    }
}

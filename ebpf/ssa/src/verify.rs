//! Whether a function is well formed: run between passes by every test.

use crate::dominators::Dominators;
use crate::ir::{BinOp, Block, Function, Op, Order, Target, Terminator, Ty, UnOp, Value};

/// What is wrong with a function: a fault of the pass that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The value or block concerned, and what of it.
    pub what: String,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Malformed {}

/// Checks widths, that every block ends, that targets get all parameters, and that every value is defined
/// before it is used on every path.
///
/// # Errors
/// The first fault.
pub fn verify(function: &Function) -> Result<(), Malformed> {
    let dominators = Dominators::new(function);
    let mut home = vec![None; function.values.len()];
    for &block in dominators.order() {
        let data = function.block(block);
        let params = data.params.iter().map(|&value| (value, 0));
        let insts = data
            .insts
            .iter()
            .enumerate()
            .map(|(n, &value)| (value, n + 1));
        for (value, place) in params.chain(insts) {
            require(home[value.0 as usize].is_none(), || {
                format!("{value} is defined twice")
            })?;
            home[value.0 as usize] = Some((block, place));
        }
    }
    let checker = Checker {
        function,
        dominators: &dominators,
        home,
    };
    dominators
        .order()
        .iter()
        .try_for_each(|&block| checker.block(block))
}

fn require(condition: bool, what: impl FnOnce() -> String) -> Result<(), Malformed> {
    if condition {
        Ok(())
    } else {
        Err(Malformed { what: what() })
    }
}

struct Checker<'a> {
    function: &'a Function,
    dominators: &'a Dominators,
    home: Vec<Option<(Block, usize)>>,
}

impl Checker<'_> {
    fn block(&self, block: Block) -> Result<(), Malformed> {
        let data = self.function.block(block);
        for (n, &inst) in data.insts.iter().enumerate() {
            let mut result = Ok(());
            self.function.value(inst).op.uses(|used| {
                if result.is_ok() {
                    result = self.defined(used, block, n + 1, inst);
                }
            });
            result?;
            self.widths(inst)?;
        }
        let end = data.end.as_ref().ok_or_else(|| Malformed {
            what: format!("{block} does not end"),
        })?;
        let mut result = Ok(());
        end.uses(|used| {
            if result.is_ok() {
                result = self.defined(used, block, usize::MAX, used);
            }
        });
        result?;
        end.targets()
            .try_for_each(|target| self.target(block, target))?;
        match end {
            Terminator::Return(value) => self.is(*value, Ty::I64),
            Terminator::Switch { value, .. } => self.is(*value, Ty::I32),
            _ => Ok(()),
        }
    }

    fn defined(&self, used: Value, block: Block, place: usize, by: Value) -> Result<(), Malformed> {
        if matches!(self.function.value(used).op, Op::Fixed(_)) {
            return Ok(());
        }
        let ok = match self.home[used.0 as usize] {
            None => false,
            Some((home, at)) if home == block => at < place,
            Some((home, _)) => self.dominators.dominates(home, block),
        };
        require(ok, || {
            format!("{used} is not defined where {by} in {block} uses it")
        })
    }

    fn target(&self, block: Block, target: &Target) -> Result<(), Malformed> {
        let params = &self.function.block(target.block).params;
        require(params.len() == target.args.len(), || {
            format!(
                "{block} gives {} parameters to {}",
                target.args.len(),
                target.block
            )
        })?;
        let pairs = params.iter().zip(&target.args);
        pairs
            .into_iter()
            .try_for_each(|(&param, &arg)| self.is(arg, self.function.ty(param)))
    }

    fn is(&self, value: Value, ty: Ty) -> Result<(), Malformed> {
        require(self.function.ty(value) == ty, || {
            format!("{value} should be {ty}")
        })
    }

    fn widths(&self, inst: Value) -> Result<(), Malformed> {
        let data = self.function.value(inst);
        let ty = |value: Value| self.function.ty(value);
        let gives_two = match data.op {
            Op::Bin(op, ..) => op == BinOp::Add,
            Op::Un(op, _) => op == UnOp::Pair,
            Op::Load { order, .. } => order == Order::Plain,
            Op::Cmp(..) | Op::Select(..) | Op::Atomic { .. } => false,
            // The others give 64 bits, or nothing.
            _ => true,
        };
        require(gives_two || data.ty != Ty::V128, || {
            format!("{inst} cannot give two numbers")
        })?;
        match &data.op {
            Op::Bin(op, a, b) => {
                let shift = matches!(op, BinOp::Shl | BinOp::LShr | BinOp::AShr | BinOp::RotL);
                self.is(*a, data.ty)?;
                require(shift || ty(*b) == data.ty, || {
                    format!("{inst} mixes widths")
                })
            }
            Op::Un(UnOp::ZeroExtend | UnOp::SignExtend, a) => {
                require(ty(*a) < data.ty, || format!("{inst} does not widen"))
            }
            Op::Un(UnOp::Truncate, a) => {
                require(ty(*a) > data.ty, || format!("{inst} does not narrow"))
            }
            Op::Un(UnOp::Pair, a) => {
                self.is(*a, Ty::I64)?;
                self.is(inst, Ty::V128)
            }
            Op::Un(UnOp::Sum, a) => {
                self.is(*a, Ty::V128)?;
                self.is(inst, Ty::I64)
            }
            Op::Un(_, a) => self.is(*a, data.ty),
            Op::Cmp(_, a, b) => require(ty(*a) == ty(*b) && data.ty == Ty::I8, || {
                format!("{inst} mixes widths")
            }),
            Op::Select(_, a, b) => {
                self.is(*a, data.ty)?;
                self.is(*b, data.ty)
            }
            Op::Fixed(_) => require(false, || format!("{inst} is in a block")),
            Op::Load { base: a, .. }
            | Op::Store { base: a, .. }
            | Op::Atomic { address: a, .. } => self.is(*a, Ty::I64),
            Op::Lookup { key, .. } => key.iter().try_for_each(|&word| self.is(word, Ty::I64)),
            Op::Native { args, .. } | Op::Local { args, .. } => {
                args.iter().try_for_each(|&arg| self.is(arg, Ty::I64))
            }
            _ => Ok(()),
        }
    }
}

//! Loops: what the environment holds is loaded before them, and what they change of it is a value in them.
//!
//! Every round of a loop takes a piece of the run's budget from the environment. In memory, each round waits for the
//! store of the round before; in a register, it costs next to nothing. So the parts of the environment that a loop
//! loads and stores at fixed places become block parameters in it: loaded in a block before its head, stored on each
//! edge that leaves it. Inner loops come first: what they load before and store after is then the outer one's.
//!
//! Only loops in which nobody else can touch the environment are changed: no calls of the program's functions, of
//! helpers that may write there, and no tail calls. A run that is ended inside a loop leaves there what was there
//! before the loop; nobody looks at it before the next run has set it anew.

use super::loops::{Loop, loops};
use super::params;
use super::rewrite::{Aliases, predecessors};
use super::rounds;
use crate::dominators::Dominators;
use crate::ir::{
    Block, BlockData, Fixed, Function, Op, Order, Region, Target, Terminator, Ty, Value,
};

/// Loops with more blocks stay as they are: a round takes long, and what is live in all of so large a loop takes the
/// code generator's register allocator minutes.
const MOST_BLOCKS: usize = 200;

/// Goes over all loops.
pub(super) fn run(function: &mut Function) {
    let mut loops = loops(function);
    if loops.is_empty() {
        return;
    }
    let env = function.fixed(Fixed::Env);
    for n in 0..loops.len() {
        let (dominators, before) = (Dominators::new(function), predecessors(function));
        let mut added = rounds::run(function, &dominators, &before, &loops[n]);
        let small = loops[n].blocks.len() <= MOST_BLOCKS;
        if let Some(places) = Places::of(function, env, &loops[n]).filter(|_| small) {
            added.extend(Hoist::new(function, env, &loops[n], places).run());
        }
        // The new blocks belong to the loops around that have what they lead to, which may be new too.
        let head = loops[n].head;
        for around in loops[n + 1..].iter_mut().filter(|around| around.has(head)) {
            for &(block, to) in &added {
                if around.has(to) {
                    around.blocks.push(block);
                }
            }
        }
    }
    params::run(function);
}

/// A place in the environment.
type Place = (i32, Ty);

/// The places in the environment that a loop uses and that can be values in it.
struct Places {
    /// Those that are only loaded.
    loaded: Vec<Place>,
    /// Those that are stored.
    stored: Vec<Place>,
}

impl Places {
    /// None if there are none, or somebody else may touch the environment.
    fn of(function: &Function, env: Value, of: &Loop) -> Option<Places> {
        let (mut loaded, mut stored) = (Vec::new(), Vec::new());
        let add = |to: &mut Vec<Place>, place| {
            if !to.contains(&place) {
                to.push(place);
            }
        };
        for &inst in of.blocks.iter().flat_map(|&b| &function.block(b).insts) {
            let data = function.value(inst);
            match &data.op {
                Op::Load {
                    region: Region::Env,
                    base,
                    off,
                    order,
                } => {
                    if *base != env || *order != Order::Plain {
                        return None;
                    }
                    add(&mut loaded, (*off, data.ty));
                }
                Op::Store {
                    region: Region::Env,
                    base,
                    off,
                    value,
                } => {
                    if *base != env {
                        return None;
                    }
                    add(&mut stored, (*off, function.ty(*value)));
                }
                Op::Atomic {
                    region: Region::Env,
                    ..
                }
                | Op::Local { .. }
                | Op::TailCall(..) => {
                    return None;
                }
                Op::Native { effect, .. } if effect.writes.contains(&Region::Env) => return None,
                _ => {}
            }
        }
        loaded.retain(|place| !stored.contains(place));
        let places = [&loaded[..], &stored].concat();
        let overlap =
            |&(a, x): &Place, &(b, y): &Place| a < b + y.bytes() as i32 && b < a + x.bytes() as i32;
        let mut pairs = places
            .iter()
            .enumerate()
            .flat_map(|(n, a)| places[n + 1..].iter().map(move |b| (a, b)));
        (!places.is_empty() && !pairs.any(|(a, b)| overlap(a, b)))
            .then_some(Places { loaded, stored })
    }
}

/// A loop that is being changed.
struct Hoist<'a> {
    function: &'a mut Function,
    env: Value,
    of: &'a Loop,
    places: Places,
    aliases: Aliases,
    /// For each block of the loop, what the stored places hold at its end.
    at_end: Vec<Option<Vec<Value>>>,
    /// The new blocks, and where they lead.
    added: Vec<(Block, Block)>,
}

impl<'a> Hoist<'a> {
    fn new(function: &'a mut Function, env: Value, of: &'a Loop, places: Places) -> Hoist<'a> {
        Hoist {
            aliases: Aliases::new(function),
            at_end: vec![None; function.blocks.len()],
            added: Vec::new(),
            function,
            env,
            of,
            places,
        }
    }

    fn run(mut self) -> Vec<(Block, Block)> {
        let before = predecessors(self.function);
        let order = self.function.reverse_postorder();
        let (loaded, initial) = self.enter(&before);
        let order: Vec<Block> = order
            .into_iter()
            .filter(|&block| self.of.has(block))
            .collect();
        let meets = |block: Block| block == self.of.head || before[block.0 as usize].len() > 1;
        for &block in &order {
            let now = match meets(block) {
                true => self.params(block),
                false => self.at_end[before[block.0 as usize][0].0 as usize]
                    .clone()
                    .expect("all that leads to a block of the loop is in the loop"),
            };
            let end = self.block(block, &loaded, now);
            self.at_end[block.0 as usize] = Some(end);
        }
        let entry = self.added[0].0;
        self.at_end.resize(self.function.blocks.len(), None);
        self.at_end[entry.0 as usize] = Some(initial);
        for block in [entry].into_iter().chain(order) {
            self.leave(block, &meets);
        }
        self.aliases.apply(self.function);
        self.added
    }

    /// Makes a block before the loop's head that loads what the loop uses: what is only loaded, then what is stored.
    fn enter(&mut self, before: &[Vec<Block>]) -> (Vec<Value>, Vec<Value>) {
        let (function, head) = (&mut *self.function, self.of.head);
        let block = function.make_block();
        let old = function.block(head).params.clone();
        let slot = function.block(head).end_slot;
        let params: Vec<Value> = old
            .iter()
            .map(|&p| {
                let (ty, slot) = (function.ty(p), function.value(p).slot);
                function.make(Op::Param, ty, slot)
            })
            .collect();
        let mut insts = Vec::new();
        let mut load = |function: &mut Function, &(off, ty): &Place| {
            let (region, base, order) = (Region::Env, self.env, Order::Plain);
            let value = function.make(
                Op::Load {
                    region,
                    base,
                    off,
                    order,
                },
                ty,
                slot,
            );
            insts.push(value);
            value
        };
        let loaded = self
            .places
            .loaded
            .iter()
            .map(|place| load(function, place))
            .collect();
        let stored = self
            .places
            .stored
            .iter()
            .map(|place| load(function, place))
            .collect();
        *function.block_mut(block) = BlockData {
            end: Some(Terminator::Jump(Target {
                block: head,
                args: params.clone(),
            })),
            end_slot: slot,
            cold: function.block(head).cold,
            params,
            insts,
        };
        for &from in before[head.0 as usize]
            .iter()
            .filter(|&&from| !self.of.has(from))
        {
            let end = function.block_mut(from).end.iter_mut();
            let targets = end.flat_map(Terminator::targets_mut);
            targets
                .filter(|target| target.block == head)
                .for_each(|target| target.block = block);
        }
        self.added.push((block, head));
        (loaded, stored)
    }

    /// Parameters for the stored places.
    fn params(&mut self, block: Block) -> Vec<Value> {
        let slot = self.function.block(block).end_slot;
        let new = self
            .places
            .stored
            .iter()
            .map(|&(_, ty)| self.function.make(Op::Param, ty, slot));
        let new: Vec<Value> = new.collect();
        self.function.block_mut(block).params.extend(&new);
        new
    }

    /// Takes loads and stores of the places out of a block; returns what the stored ones hold at its end.
    fn block(&mut self, block: Block, loaded: &[Value], mut now: Vec<Value>) -> Vec<Value> {
        let mut insts = std::mem::take(&mut self.function.block_mut(block).insts);
        insts.retain(|&inst| {
            let data = self.function.value(inst);
            match data.op {
                Op::Load {
                    region: Region::Env,
                    off,
                    ..
                } => {
                    let place = (off, data.ty);
                    let value = match self.places.stored.iter().position(|p| *p == place) {
                        Some(n) => now[n],
                        None => loaded[position(&self.places.loaded, place)],
                    };
                    self.aliases.set(inst, value);
                    false
                }
                Op::Store {
                    region: Region::Env,
                    off,
                    value,
                    ..
                } => {
                    let place = (off, self.function.ty(value));
                    now[position(&self.places.stored, place)] = value;
                    false
                }
                _ => true,
            }
        });
        self.function.block_mut(block).insts = insts;
        now
    }

    /// Passes on what the stored places hold, or stores it where the loop is left.
    fn leave(&mut self, block: Block, meets: &impl Fn(Block) -> bool) {
        let values = self.at_end[block.0 as usize]
            .clone()
            .expect("all blocks of the loop were visited");
        let Some(mut end) = self.function.block_mut(block).end.take() else {
            return;
        };
        let slot = self.function.block(block).end_slot;
        for target in end.targets_mut() {
            if self.of.has(target.block) {
                if meets(target.block) {
                    target.args.extend(&values);
                }
            } else if !values.is_empty() && !self.function.ends_run(target.block) {
                self.store(target, &values, slot);
            }
        }
        self.function.block_mut(block).end = Some(end);
    }

    /// Puts a block that stores what the places hold on an edge.
    fn store(&mut self, edge: &mut Target, values: &[Value], slot: u32) {
        let block = self.function.make_block();
        let insts = self
            .places
            .stored
            .iter()
            .zip(values)
            .map(|(&(off, ty), &value)| {
                let (region, base) = (Region::Env, self.env);
                self.function.make(
                    Op::Store {
                        region,
                        base,
                        off,
                        value,
                    },
                    ty,
                    slot,
                )
            });
        let insts = insts.collect();
        let to = edge.block;
        let old = std::mem::replace(
            edge,
            Target {
                block,
                args: Vec::new(),
            },
        );
        *self.function.block_mut(block) = BlockData {
            params: Vec::new(),
            insts,
            end: Some(Terminator::Jump(old)),
            end_slot: slot,
            cold: self.function.block(to).cold,
        };
        self.added.push((block, to));
    }
}

fn position(places: &[Place], place: Place) -> usize {
    let found = places.iter().position(|known| *known == place);
    found.expect("all places that the loop uses are known")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::build::{Emitter, target};
    use crate::ir::Cmp;

    /// A loop in a loop that both take from the budget until a number is 0.
    fn nest() -> Function {
        let mut emit = Emitter::new(0);
        let [outer, inner, latch, again, out] = [(); 5].map(|()| emit.function.make_block());
        emit.end(Terminator::Jump(target(outer)));
        emit.block = outer;
        emit.end(Terminator::Jump(target(inner)));
        for (head, back, rest) in [(inner, again, latch), (latch, latch, out)] {
            emit.block = head;
            let number = emit.load(Ty::I64, Region::Packet, emit.env, 0);
            let condition = emit.cmp_with(Cmp::Ne, number, 0);
            if back == latch {
                let way = emit.function.make_block();
                emit.end(Terminator::Branch {
                    condition,
                    then: target(way),
                    other: target(rest),
                });
                emit.block = way;
                emit.charge();
                emit.end(Terminator::Jump(target(outer)));
            } else {
                emit.end(Terminator::Branch {
                    condition,
                    then: target(back),
                    other: target(rest),
                });
                emit.block = back;
                emit.charge();
                emit.end(Terminator::Jump(target(inner)));
            }
        }
        emit.block = out;
        let zero = emit.number(Ty::I64, 0);
        emit.end(Terminator::Return(zero));
        emit.function
    }

    fn touches(function: &Function, block: Block) -> usize {
        let insts = function.block(block).insts.iter();
        insts
            .filter(|&&inst| {
                matches!(
                    function.value(inst).op,
                    Op::Load {
                        region: Region::Env,
                        ..
                    } | Op::Store {
                        region: Region::Env,
                        ..
                    }
                )
            })
            .count()
    }

    #[test]
    fn loops_don_t_touch_the_environment() {
        let mut function = nest();
        run(&mut function);
        crate::verify(&function).unwrap();
        let loops = loops(&function);
        assert_eq!(loops.len(), 2);
        for of in &loops {
            assert!(
                of.blocks
                    .iter()
                    .all(|&block| touches(&function, block) == 0),
                "{function}"
            );
        }
        let all: usize = function
            .reverse_postorder()
            .iter()
            .map(|&block| touches(&function, block))
            .sum();
        assert_eq!(all, 2, "one load before and one store after: {function}");
    }

    #[test]
    fn who_may_touch_the_environment_keeps_it_in_memory() {
        let mut function = nest();
        let latch = loops(&function).remove(0).blocks[1];
        let call = function.make(
            Op::Local {
                func: 1,
                args: Vec::new(),
                paid: true,
            },
            Ty::I64,
            0,
        );
        function.block_mut(latch).insts.push(call);
        let before = function.to_string();
        run(&mut function);
        assert_eq!(function.to_string(), before);
    }
}

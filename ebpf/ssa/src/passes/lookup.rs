//! Lookups in hashes in line.
//!
//! What stands in the code are the common cases: the key is at home, in the first way with its tag, or no way
//! has the tag and nothing that belongs here lives elsewhere, so that the key is absent. Everything else (a key
//! away from home, a set that changes meanwhile) goes out of line and begins again. See
//! `squalus_maps::HashLayout` for what a set and a slot are, and `squalus_maps`' `set` module for why reading
//! the sequence number before and after is enough.
//!
//! Where the map is known, its addresses, strides and secrets are numbers in the code; else they are loaded
//! from the map, but for what all maps of the shape have in common.

use std::mem::offset_of;
use std::sync::Arc;

use squalus_isa::MapType;
use squalus_maps::{HashLayout, Map};
use squalus_runtime::Env;

use crate::build::Emitter;
use crate::ir::{
    BinOp, Block, BlockData, Cmp, Effect, Fixed, Function, HashShape, Op, Order, Region, Target,
    Terminator, Ty, UnOp, Value,
};

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Goes over all blocks.
pub(super) fn run(function: &mut Function, maps: &[Arc<Map>]) {
    for block in function.reverse_postorder() {
        let mut rest = block;
        while let Some(at) = lookup_in(function, rest) {
            rest = expand(function, rest, at, maps);
        }
    }
}

/// The first lookup of a block that is worth it.
fn lookup_in(function: &Function, block: Block) -> Option<usize> {
    let data = function.block(block);
    let is_lookup = |inst: &Value| matches!(function.value(*inst).op, Op::Lookup { .. });
    let first = data.insts.iter().position(is_lookup);
    first.filter(|_| !data.cold)
}

/// Puts the code of a lookup in its place. Returns the block with what came after it.
fn expand(function: &mut Function, block: Block, at: usize, maps: &[Arc<Map>]) -> Block {
    let mut data = std::mem::take(function.block_mut(block));
    let after = data.insts.split_off(at + 1);
    let lookup = data.insts.pop().expect("the lookup is there");
    let rest = function.make_block();
    *function.block_mut(rest) = BlockData {
        params: vec![lookup],
        insts: after,
        end: data.end.take(),
        end_slot: data.end_slot,
        cold: data.cold,
    };
    *function.block_mut(block) = data;
    let slot = function.value(lookup).slot;
    let op = std::mem::replace(&mut function.values[lookup.0 as usize].op, Op::Param);
    let Op::Lookup { map, shape, key } = op else {
        unreachable!("only lookups are expanded");
    };
    let direct = match function.value(map).op {
        Op::Fixed(Fixed::Map(index)) => Some(&maps[index as usize]),
        _ => None,
    };
    let known = direct.and_then(|map| map.hash_layout());
    let kind = direct.map(|map| map.def().kind).or(shape.kind);
    let mut emit = Emitter::at(std::mem::replace(function, Function::new(0)), block, slot);
    let mut code = Inline {
        emit: &mut emit,
        map,
        known,
        shape: HashShape { kind, ..shape },
        slow: Block(0),
        absent: Block(0),
    };
    code.slow = code.emit.function.make_block();
    code.emit.function.block_mut(code.slow).cold = true;
    code.absent = code.emit.function.make_block();
    let (set, seq, found) = code.search(&key);
    code.finish(rest, found);
    code.none(rest, set, seq);
    code.out_of_line(rest, &key);
    *function = emit.function;
    rest
}

struct Inline<'a> {
    emit: &'a mut Emitter,
    map: Value,
    /// The map's layout, if it is known which map it is.
    known: Option<&'a HashLayout>,
    shape: HashShape,
    /// Where what is not in line is done.
    slow: Block,
    /// Where no way of the home has the tag.
    absent: Block,
}

/// A field of a layout, as a value.
macro_rules! layout {
    ($code:ident, $field:ident) => {
        $code.layout(|layout| layout.$field, offset_of!(HashLayout, $field))
    };
}

/// A way of a set.
struct Way {
    number: Value,
    slot: Value,
}

/// A slot, by its number and its address.
struct Slot {
    number: Value,
    address: Value,
}

impl Inline<'_> {
    /// A number of the map's layout.
    fn layout(&mut self, of: impl Fn(&HashLayout) -> u64, offset: usize) -> Value {
        if let Some(known) = self.known {
            return self.emit.number(Ty::I64, of(known));
        }
        let at = (Map::OFFSET_LAYOUT + offset) as i32;
        self.emit.load(Ty::I64, Region::MapIndex, self.map, at)
    }

    /// The address of the key's home, its sequence number, and the value's address if the key is there.
    fn search(&mut self, key: &[Value]) -> (Value, Value, Value) {
        let hash = self.hash(key);
        let set = self.set(hash);
        let seq = self.acquire(Ty::I32, set, HashLayout::SEQ);
        let way = self.way(set, hash);
        let slot = self.slot(way.slot);
        for (n, &word) in key.iter().enumerate() {
            let stored = self.in_turn(Ty::I64, slot.address, n * 8);
            let differs = self.emit.cmp(Cmp::Ne, word, stored);
            self.branch_away(differs, self.slow);
        }
        self.still(set, seq);
        self.stamp(set, &way);
        let value = self.value(&slot);
        (set, seq, value)
    }

    /// Goes out of line if the set was changed since `seq` was read.
    fn still(&mut self, set: Value, seq: Value) {
        let now = self.acquire(Ty::I32, set, HashLayout::SEQ);
        let changed = self.emit.cmp(Cmp::Ne, now, seq);
        self.branch_away(changed, self.slow);
    }

    /// No way has the tag: the key is absent, unless entries of this set live elsewhere.
    fn none(&mut self, rest: Block, set: Value, seq: Value) {
        self.emit.block = self.absent;
        let away = self.in_turn(Ty::I32, set, HashLayout::DISPLACED);
        let away = self.emit.cmp_with(Cmp::Ne, away, 0);
        self.branch_away(away, self.slow);
        self.still(set, seq);
        let zero = self.emit.number(Ty::I64, 0);
        self.finish(rest, zero);
    }

    fn slot(&mut self, number: Value) -> Slot {
        let number = self.emit.resize(number, Ty::I64);
        let stride = match self.shape.kind {
            Some(kind) if self.known.is_none() => {
                let value_size = if kind.is_per_cpu() {
                    0
                } else {
                    self.shape.value_size
                };
                let stride = HashLayout::stride(self.shape.key_size as usize, value_size as usize);
                self.emit.number(Ty::I64, stride as u64)
            }
            _ => layout!(self, stride),
        };
        let offset = self.emit.bin(BinOp::Mul, number, stride);
        let slots = layout!(self, slots);
        let address = self.emit.bin(BinOp::Add, offset, slots);
        Slot { number, address }
    }

    /// A secret of the hash.
    fn secret(&mut self, n: usize) -> Value {
        let offset = offset_of!(HashLayout, secrets) + n * 8;
        self.layout(|layout| layout.secrets[n], offset)
    }

    fn masked(&mut self, word: Value, place: usize) -> Value {
        let mask = self.secret(place);
        self.emit.bin(BinOp::Xor, word, mask)
    }

    /// As `squalus_maps::key::Hasher::hash`.
    fn hash(&mut self, key: &[Value]) -> Value {
        let last = self.secret(HashLayout::MASKS);
        let zero = self.emit.number(Ty::I64, 0);
        let mut hash = zero;
        for (n, pair) in key.chunks(2).enumerate() {
            let place = 2 * n % HashLayout::MASKS;
            if place == 0 && n != 0 {
                hash = self.emit.bin(BinOp::MulFold, hash, last);
            }
            let first = self.masked(pair[0], place);
            let second = self.masked(*pair.get(1).unwrap_or(&zero), place + 1);
            let pair = self.emit.bin(BinOp::MulFold, first, second);
            hash = self.emit.bin(BinOp::Xor, hash, pair);
        }
        self.emit.bin(BinOp::MulFold, hash, last)
    }

    /// The address of a key's home.
    fn set(&mut self, hash: Value) -> Value {
        let count = layout!(self, set_count);
        let number = self.emit.bin(BinOp::MulHigh, hash, count);
        let offset = self
            .emit
            .bin_with(BinOp::Mul, number, HashLayout::SET as u64);
        let sets = layout!(self, sets);
        self.emit.bin(BinOp::Add, offset, sets)
    }

    /// The first way that has the key's tag.
    fn way(&mut self, set: Value, hash: Value) -> Way {
        let tag = self.emit.bin_with(BinOp::And, hash, 0xff);
        let tag = self.emit.bin_with(BinOp::Or, tag, 1);
        let pattern = self.emit.bin_with(BinOp::Mul, tag, ONES);
        let tags = self.in_turn(Ty::I64, set, HashLayout::TAGS);
        let word = self.emit.bin(BinOp::Xor, pattern, tags);
        // The top bit of each byte that is zero, and of some above the lowest such byte.
        let less = self.emit.bin_with(BinOp::Sub, word, ONES);
        let not = self.emit.un(UnOp::Not, word);
        let both = self.emit.bin(BinOp::And, less, not);
        let hits = self.emit.bin_with(BinOp::And, both, TOPS);
        let none = self.emit.cmp_with(Cmp::Eq, hits, 0);
        self.branch_away(none, self.absent);
        let bit = self.emit.un(UnOp::TrailingZeros, hits);
        let number = self.emit.bin_with(BinOp::LShr, bit, 3);
        let by_four = self.emit.bin_with(BinOp::Shl, number, 2);
        let place = self.emit.bin(BinOp::Add, set, by_four);
        let slot = self.in_turn(Ty::I32, place, HashLayout::SLOTS);
        Way { number, slot }
    }

    /// In LRU maps, notes that the way was used, if that is news.
    fn stamp(&mut self, set: Value, way: &Way) {
        let kind = self.shape.kind;
        if matches!(kind, Some(MapType::Hash | MapType::PerCpuHash)) {
            return;
        }
        let clock = layout!(self, now);
        let now = self.emit.load(Ty::I8, Region::MapIndex, clock, 0);
        let place = self.emit.bin(BinOp::Add, set, way.number);
        let stamps = HashLayout::STAMPS as i32;
        let stamp = self.emit.load(Ty::I8, Region::MapIndex, place, stamps);
        let news = self.emit.cmp(Cmp::Ne, now, stamp);
        let (write, on) = (
            self.emit.function.make_block(),
            self.emit.function.make_block(),
        );
        self.emit.function.block_mut(write).cold = true;
        self.branch(news, write, on);
        self.emit.block = write;
        self.emit.store(Region::MapIndex, place, stamps, now);
        self.emit.end(Terminator::Jump(to(on, Vec::new())));
        self.emit.block = on;
    }

    fn value(&mut self, slot: &Slot) -> Value {
        if self.shape.kind.is_some_and(|kind| !kind.is_per_cpu()) {
            let key = self.shape.key_size.next_multiple_of(8);
            return self.emit.moved(slot.address, key.into());
        }
        let stride = layout!(self, value_stride);
        let offset = self.emit.bin(BinOp::Mul, slot.number, stride);
        let values = layout!(self, values);
        let value = self.emit.bin(BinOp::Add, offset, values);
        if self.known.is_some_and(|layout| layout.copies == 1) {
            return value;
        }
        let cpu = self.emit.load_env(Ty::I32, Env::OFFSET_CPU);
        let cpu = self.emit.resize(cpu, Ty::I64);
        let copies = layout!(self, copies);
        let has = self.emit.cmp(Cmp::ULt, cpu, copies);
        let zero = self.emit.number(Ty::I64, 0);
        let cpu = self.emit.select(has, cpu, zero);
        let plane = layout!(self, plane);
        let plane = self.emit.bin(BinOp::Mul, cpu, plane);
        self.emit.bin(BinOp::Add, value, plane)
    }

    fn acquire(&mut self, ty: Ty, base: Value, off: usize) -> Value {
        self.ordered(ty, base, off, Order::Acquire)
    }

    fn in_turn(&mut self, ty: Ty, base: Value, off: usize) -> Value {
        self.ordered(ty, base, off, Order::InTurn)
    }

    fn ordered(&mut self, ty: Ty, base: Value, off: usize, order: Order) -> Value {
        let op = Op::Load {
            region: Region::MapIndex,
            base,
            off: off as i32,
            order,
        };
        self.emit.ins(op, ty)
    }

    fn branch_away(&mut self, condition: Value, away: Block) {
        let on = self.emit.function.make_block();
        self.branch(condition, away, on);
        self.emit.block = on;
    }

    fn branch(&mut self, condition: Value, then: Block, other: Block) {
        self.emit.end(Terminator::Branch {
            condition,
            then: to(then, Vec::new()),
            other: to(other, Vec::new()),
        });
    }

    fn finish(&mut self, rest: Block, found: Value) {
        self.emit.end(Terminator::Jump(to(rest, vec![found])));
    }

    /// The whole lookup by the map's own function, with a copy of the key.
    fn out_of_line(&mut self, rest: Block, key: &[Value]) {
        self.emit.block = self.slow;
        self.emit.function.temps.push(key.len() as u32 * 8);
        let temp = self.emit.function.temps.len() as u32 - 1;
        let place = self.emit.function.fixed(Fixed::Temp(temp));
        for (n, &word) in key.iter().enumerate() {
            self.emit
                .store(Region::Temp(temp), place, n as i32 * 8, word);
        }
        let map = self.map;
        let zero = self.emit.number(Ty::I64, 0);
        let effect = Effect {
            reads: vec![Region::MapIndex, Region::Temp(temp), Region::Env],
            writes: vec![Region::MapIndex],
            pure: false,
        };
        let function: squalus_runtime::HelperFn = squalus_runtime::helpers::map_lookup_elem;
        let function = ("map_lookup_elem", function as usize);
        let found = self
            .emit
            .native(function, vec![map, place, zero, zero, zero], effect);
        self.finish(rest, found);
    }
}

fn to(block: Block, args: Vec<Value>) -> Target {
    Target { block, args }
}

//! Lookups in hashes in line.
//!
//! What stands in the code is the common case: the key is at home, in the first way with its tag. Everything
//! else (an absent key, a key away from home, a set that changes meanwhile) goes out of line and begins again.
//! See `squalus_maps::HashLayout` for what a set and a slot are, and `squalus_maps`' `set` module for why
//! reading the sequence number before and after is enough.

use std::mem::offset_of;
use std::sync::Arc;

use squalus_maps::{HashLayout, Map};
use squalus_runtime::Env;

use crate::build::Emitter;
use crate::ir::{
    BinOp, Block, BlockData, Cmp, Effect, Fixed, Function, Op, Order, Region, Target, Terminator,
    Ty, UnOp, Value,
};

const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

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
        cold: data.cold,
    };
    *function.block_mut(block) = data;
    let slot = function.value(lookup).slot;
    let op = std::mem::replace(&mut function.values[lookup.0 as usize].op, Op::Param);
        end_slot: data.end_slot,
    let Op::Lookup { map, key } = op else {
        unreachable!("only lookups are expanded");
    };
    let known = match function.value(map).op {
        Op::Fixed(Fixed::Map(index)) => maps[index as usize].hash_layout(),
        _ => None,
    };
    let mut emit = Emitter::at(std::mem::replace(function, Function::new(0)), block, slot);
    let mut code = Inline {
        emit: &mut emit,
        map,
        known,
        slow: Block(0),
    };
    code.slow = code.emit.function.make_block();
    code.emit.function.block_mut(code.slow).cold = true;
    let found = code.search(&key);
    code.finish(rest, found);
    code.out_of_line(rest, &key);
    *function = emit.function;
    rest
}

struct Inline<'a> {
    emit: &'a mut Emitter,
    map: Value,
    /// The map's layout, if it is known which map it is.
    known: Option<&'a HashLayout>,
    /// Where what is not in line is done.
    slow: Block,
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

impl Inline<'_> {
    /// A number of the map's layout.
    fn layout(&mut self, of: impl Fn(&HashLayout) -> u64, offset: usize) -> Value {
        if let Some(known) = self.known {
            return self.emit.number(Ty::I64, of(known));
        }
        let at = (Map::OFFSET_LAYOUT + offset) as i32;
        self.emit.load(Ty::I64, Region::MapIndex, self.map, at)
    }

    /// The value's address, if the key is at home.
    fn search(&mut self, key: &[Value]) -> Value {
        let hash = self.hash(key);
        let set = self.set(hash);
        let seq = self.acquire(Ty::I32, set, HashLayout::SEQ);
        let way = self.way(set, hash);
        let slot = self.emit.resize(way.slot, Ty::I64);
        let differs = self.differs(slot, key);
        let now = self.acquire(Ty::I32, set, HashLayout::SEQ);
        let changed = self.emit.cmp(Cmp::Ne, now, seq);
        self.slow_if(differs);
        self.slow_if(changed);
        self.stamp(set, &way);
        self.value(slot)
    }

    /// Whether a slot holds another key.
    fn differs(&mut self, slot: Value, key: &[Value]) -> Value {
        let stride = layout!(self, stride);
        let entry = self.emit.bin(BinOp::Mul, slot, stride);
        let slots = layout!(self, slots);
        let entry = self.emit.bin(BinOp::Add, entry, slots);
        let mut differs = self.emit.number(Ty::I64, 0);
        for (n, &word) in key.iter().enumerate() {
            let stored = self.acquire(Ty::I64, entry, n * 8);
            let here = self.emit.bin(BinOp::Xor, stored, word);
            differs = self.emit.bin(BinOp::Or, differs, here);
        }
        self.emit.cmp_with(Cmp::Ne, differs, 0)
    }

    /// As `squalus_maps::key::Hasher::hash`.
    fn hash(&mut self, key: &[Value]) -> Value {
        let [c0, c1, c2] = HashLayout::CONSTANTS;
        let secret = layout!(self, mask);
        let mut mask = secret;
        let mut hash = layout!(self, last);
        for pair in key.chunks(2) {
            let first = self.emit.bin(BinOp::Xor, pair[0], mask);
            let second = self.emit.bin_with(BinOp::Add, mask, c1);
            let second = match pair.get(1) {
                Some(&word) => self.emit.bin(BinOp::Xor, word, second),
                None => second,
            };
            let folded = self.fold(first, second);
            hash = self.emit.bin_with(BinOp::RotL, hash, 23);
            hash = self.emit.bin(BinOp::Xor, hash, folded);
            mask = self.emit.bin_with(BinOp::Add, mask, c2);
        }
        let hash = self.emit.bin(BinOp::Xor, hash, secret);
        let c0 = self.emit.number(Ty::I64, c0);
        self.fold(hash, c0)
    }

    /// Both halves of the product, put together.
    fn fold(&mut self, a: Value, b: Value) -> Value {
        let low = self.emit.bin(BinOp::Mul, a, b);
        let high = self.emit.bin(BinOp::MulHigh, a, b);
        self.emit.bin(BinOp::Xor, low, high)
    }

    /// The address of a key's home.
    fn set(&mut self, hash: Value) -> Value {
        let high = self.emit.bin_with(BinOp::LShr, hash, 32);
        let count = layout!(self, set_count);
        let number = self.emit.bin(BinOp::Mul, high, count);
        let number = self.emit.bin_with(BinOp::LShr, number, 32);
        let offset = self
            .emit
            .bin_with(BinOp::Mul, number, HashLayout::SET as u64);
        let sets = layout!(self, sets);
        self.emit.bin(BinOp::Add, offset, sets)
    }

    /// The first way that has the key's tag.
    fn way(&mut self, set: Value, hash: Value) -> Way {
        let low = self.emit.resize(hash, Ty::I8);
        let none = self.emit.cmp_with(Cmp::Eq, low, 0);
        let tag = self.emit.bin(BinOp::Or, low, none);
        let tag = self.emit.resize(tag, Ty::I64);
        let pattern = self.emit.bin_with(BinOp::Mul, tag, ONES);
        let tags = self.acquire(Ty::I64, set, HashLayout::TAGS);
        let word = self.emit.bin(BinOp::Xor, tags, pattern);
        // The top bit of each byte that is zero.
        let low = self.emit.bin_with(BinOp::And, word, LOW);
        let sum = self.emit.bin_with(BinOp::Add, low, LOW);
        let any = self.emit.bin(BinOp::Or, sum, word);
        let any = self.emit.bin_with(BinOp::Or, any, LOW);
        let hits = self.emit.un(UnOp::Not, any);
        let none = self.emit.cmp_with(Cmp::Eq, hits, 0);
        self.slow_if(none);
        let bit = self.emit.un(UnOp::TrailingZeros, hits);
        let number = self.emit.bin_with(BinOp::LShr, bit, 3);
        let by_four = self.emit.bin_with(BinOp::Shl, number, 2);
        let place = self.emit.bin(BinOp::Add, set, by_four);
        let slot = self.acquire(Ty::I32, place, HashLayout::SLOTS);
        let slot = self.emit.bin_with(BinOp::And, slot, 0x7fff_ffff);
        Way { number, slot }
    }

    /// In LRU maps, notes that the way was used, if that is news.
    fn stamp(&mut self, set: Value, way: &Way) {
        let clock = layout!(self, now);
        let now = self.emit.load(Ty::I8, Region::MapIndex, clock, 0);
        let place = self.emit.bin(BinOp::Add, set, way.number);
        let stamps = HashLayout::STAMPS as i32;
        let stamp = self.emit.load(Ty::I8, Region::MapIndex, place, stamps);
        let news = self.emit.cmp(Cmp::Ne, stamp, now);
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

    fn value(&mut self, slot: Value) -> Value {
        let stride = layout!(self, value_stride);
        let offset = self.emit.bin(BinOp::Mul, slot, stride);
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
        let op = Op::Load {
            region: Region::MapIndex,
            base,
            off: off as i32,
            order: Order::Acquire,
        };
        self.emit.ins(op, ty)
    }

    fn slow_if(&mut self, condition: Value) {
        let on = self.emit.function.make_block();
        self.branch(condition, self.slow, on);
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

//! What maps hold becomes part of the code.
//!
//! The machine names maps that no program of it writes, and sees to it that nobody else changes them while the
//! code is in use. So their contents are constants, as long as the code lives:
//!
//! - A lookup in a hash of a few elements compares the key with each of them. In one of no elements it finds
//!   nothing.
//! - A reference in an array of maps is the inner map's address, and what that map is like is known.
//! - The number of the CPU is that of the machine's only one.
//! - A load from a value that is known, or from some value of a map whose values all agree there, is a number. Where
//!   they differ, what is computed from it may still be one: no VIP has a flag, though they have different ones.
//!
//! For the last, the pass follows pointers: through additions, choices and block parameters, to one of a few
//! addresses or to any value of a map, in each case at a known offset. Null is left out: nothing is ever loaded
//! through it.

use std::collections::HashMap;
use std::sync::Arc;

use squalus_isa::MapType;
use squalus_maps::Map;
use squalus_runtime::Env;

use super::fold::{calculate, compare, known_zero};
use super::rewrite::{Aliases, edges, predecessors};
use crate::ir::{BinOp, Block, Cmp, Fixed, Function, Op, Order, Region, Ty, UnOp, Value};
use crate::support::Constants;

/// Hashes of more elements are searched: comparisons would take longer.
const MOST_COMPARED: usize = 8;
/// Maps of more elements are not asked whether all agree.
const MOST_ASKED: usize = 1 << 14;
/// Pointers to one of more places are not followed.
const MOST_PLACES: usize = 64;
/// What can be one of more numbers is taken to be any.
const MOST_NUMBERS: usize = 8;
/// How many operations after a load are looked at.
const MOST_DEEP: u32 = 6;

/// The maps whose contents are constants.
pub(super) struct Special<'a> {
    maps: &'a [Arc<Map>],
    constant: Constants,
    /// Inner maps whose addresses were put into the code.
    inner: Vec<Arc<Map>>,
    /// Where the values of maps begin, as far as that was asked.
    values: HashMap<usize, Option<Vec<usize>>>,
    /// What lies at places, as far as that was asked.
    contents: HashMap<(Place, Ty), Option<Vec<u64>>>,
}

impl<'a> Special<'a> {
    pub(super) fn new(maps: &'a [Arc<Map>], constant: Constants) -> Special<'a> {
        Special {
            maps,
            constant,
            inner: Vec::new(),
            values: HashMap::new(),
            contents: HashMap::new(),
        }
    }

    /// Goes over all blocks.
    pub(super) fn run(&mut self, function: &mut Function) {
        self.lookups(function);
        self.loads(function);
    }

    /// Lookups in small hashes become comparisons.
    fn lookups(&self, function: &mut Function) {
        let mut aliases = Aliases::new(function);
        // Of what comparisons give: whether it is not null.
        let mut present = HashMap::new();
        for block in function.reverse_postorder() {
            let insts = std::mem::take(&mut function.block_mut(block).insts);
            let mut out = Vec::with_capacity(insts.len());
            for inst in insts {
                let mut op = function.value(inst).op.clone();
                op.map_uses(|value| aliases.resolve(value));
                if let Some(found) = self.lookup(function, &mut out, inst, &op) {
                    present.insert(found.value, found.present);
                    aliases.set(inst, found.value);
                    continue;
                }
                function.values[inst.0 as usize].op =
                    not_null(function, &op, &present).unwrap_or(op);
                out.push(inst);
            }
            function.block_mut(block).insts = out;
        }
        aliases.apply(function);
    }

    /// Loads of what is known become numbers.
    fn loads(&mut self, function: &mut Function) {
        let mut places = Places::new(function);
        let mut aliases = Aliases::new(function);
        for block in function.reverse_postorder() {
            for at in 0..function.block(block).insts.len() {
                let inst = function.block(block).insts[at];
                let numbers = self.numbers(function, &mut places, inst, 0);
                if let Some([number]) = numbers.as_deref() {
                    let number = function.number(function.ty(inst), *number);
                    aliases.set(inst, number);
                }
            }
        }
        aliases.apply(function);
    }

    fn map(&self, index: u32) -> Option<&'a Arc<Map>> {
        let map = self.maps.get(index as usize)?;
        self.constant.maps.has(index as usize).then_some(map)
    }

    fn constant_maps(&self) -> impl Iterator<Item = (usize, &'a Arc<Map>)> + use<'a> {
        let constant = self.constant.maps;
        let maps = self.maps.iter().enumerate();
        maps.filter(move |(n, _)| constant.has(*n))
    }

    /// A lookup as comparisons, if it is one in a hash of few elements.
    fn lookup(
        &self,
        function: &mut Function,
        out: &mut Vec<Value>,
        inst: Value,
        op: &Op,
    ) -> Option<Found> {
        let Op::Lookup { map, ref key, .. } = *op else {
            return None;
        };
        let Op::Fixed(Fixed::Map(index)) = function.value(map).op else {
            return None;
        };
        let entries = self.map(index)?.hash_entries(MOST_COMPARED)?;
        let slot = function.value(inst).slot;
        let mut compare = Compare {
            function,
            out,
            slot,
        };
        let mut found = Found {
            value: compare.function.number(Ty::I64, 0),
            present: compare.function.number(Ty::I8, 0),
        };
        for (stored, address) in entries {
            if let Some(equal) = compare.equal(key, &stored) {
                found = compare.add(found, equal, address);
            }
        }
        Some(found)
    }

    /// The numbers that a value can be: few ones, of which each is there once.
    fn numbers(
        &mut self,
        function: &Function,
        places: &mut Places,
        value: Value,
        depth: u32,
    ) -> Option<Vec<u64>> {
        if depth == MOST_DEEP {
            return None;
        }
        let of = |this: &mut Self, places: &mut Places, value| {
            this.numbers(function, places, value, depth + 1)
        };
        let ty = function.ty(value);
        let mut numbers = match function.value(value).op {
            Op::Load { .. } => return self.load(function, places, value),
            Op::Bin(op, a, b) => {
                let b = function.constant(b)?;
                let numbers = of(self, places, a)?.into_iter();
                numbers.map(|a| calculate(op, ty, a, b)).collect()
            }
            Op::Cmp(op, a, b) => {
                let (ty, b) = (function.ty(a), function.constant(b)?);
                let numbers = of(self, places, a)?.into_iter();
                numbers.map(|a| compare(op, ty, a, b).into()).collect()
            }
            Op::Un(UnOp::ZeroExtend | UnOp::Truncate, a) => {
                let numbers = of(self, places, a)?.into_iter();
                numbers.map(|a| a & ty.mask()).collect::<Vec<u64>>()
            }
            _ => return None,
        };
        numbers.sort_unstable();
        numbers.dedup();
        Some(numbers)
    }

    /// The numbers that a load can give.
    fn load(&mut self, function: &Function, places: &mut Places, inst: Value) -> Option<Vec<u64>> {
        let Op::Load {
            region,
            base,
            off,
            order,
        } = function.value(inst).op
        else {
            return None;
        };
        let ty = function.ty(inst);
        match (region, order) {
            (Region::Env, Order::Plain) => {
                let is_cpu = off as usize == Env::OFFSET_CPU && ty == Ty::I32;
                let env = Op::Fixed(Fixed::Env);
                let cpu = self.constant.cpu.filter(|_| function.value(base).op == env);
                cpu.filter(|_| is_cpu).map(|cpu| vec![cpu.into()])
            }
            (Region::MapIndex, _) => {
                let address = function.constant(base)?.wrapping_add_signed(off.into());
                self.reference(address as usize, ty).map(|word| vec![word])
            }
            (Region::MapValue(_) | Region::Any, Order::Plain) => {
                let place = places.of(function, self, base)?;
                let asked = (place.moved(off.into()), ty);
                if let Some(known) = self.contents.get(&asked) {
                    return known.clone();
                }
                let found = self.contents(&asked.0, ty);
                self.contents.insert(asked, found.clone());
                found
            }
            _ => None,
        }
    }

    /// What an array of maps, or an inner map's own description, has at an address.
    fn reference(&mut self, address: usize, ty: Ty) -> Option<u64> {
        if ty != Ty::I64 {
            return None;
        }
        for (_, map) in self.constant_maps() {
            let array = map.array_base().filter(|_| map.def().kind.is_map_in_map());
            let Some(array) = array else { continue };
            let len = array.stride * array.entries as usize;
            if !(array.base..array.base + len).contains(&address) {
                continue;
            }
            let Some(inner) = map.inner_at(address) else {
                return Some(0);
            };
            let number = Arc::as_ptr(&inner).expose_provenance() as u64;
            self.inner.push(inner);
            return Some(number);
        }
        self.inner.iter().find_map(|inner| {
            let start = Arc::as_ptr(inner).addr() + Map::OFFSET_LAYOUT;
            inner.layout_word(address.checked_sub(start)?)
        })
    }

    /// The numbers that lie at a place.
    fn contents(&mut self, place: &Place, ty: Ty) -> Option<Vec<u64>> {
        let len = ty.bytes() as usize;
        let mut maps: Vec<&Arc<Map>> = match place {
            Place::OneOf(_) => self.constant_maps().map(|(_, map)| map).collect(),
            Place::AnyOf(map, _) => vec![&self.maps[*map]],
        };
        let (addresses, off) = match place {
            Place::OneOf(addresses) => (&**addresses, 0),
            Place::AnyOf(map, off) => (self.values_of(*map)?, *off),
        };
        let mut numbers = Vec::new();
        for address in addresses {
            let address = address.wrapping_add(off as usize);
            let found = maps.iter().position(|map| map.contains(address, len))?;
            // Most often the next address is in the same map.
            maps.swap(0, found);
            let number = maps[0].peek_value(address, len)?;
            if !numbers.contains(&number) {
                numbers.push(number);
            }
            if numbers.len() > MOST_NUMBERS {
                return None;
            }
        }
        (!numbers.is_empty()).then_some(numbers)
    }

    fn values_of(&mut self, map: usize) -> Option<&[usize]> {
        let values = self.values.entry(map);
        let values = values.or_insert_with(|| self.maps[map].value_addresses(MOST_ASKED));
        values.as_deref()
    }
}

/// What a lookup gives, and whether that is not null.
#[derive(Clone, Copy)]
struct Found {
    value: Value,
    present: Value,
}

/// A comparison of a lookup's result with null as one of whether a key was equal.
fn not_null(function: &mut Function, op: &Op, present: &HashMap<Value, Value>) -> Option<Op> {
    let Op::Cmp(cmp @ (Cmp::Eq | Cmp::Ne), a, b) = *op else {
        return None;
    };
    let is_null = |value| function.constant(value) == Some(0);
    let found = match (is_null(a), is_null(b)) {
        (false, true) => *present.get(&a)?,
        (true, false) => *present.get(&b)?,
        _ => return None,
    };
    let zero = function.number(Ty::I8, 0);
    Some(Op::Cmp(cmp, found, zero))
}

/// Code that compares keys.
struct Compare<'a> {
    function: &'a mut Function,
    out: &'a mut Vec<Value>,
    slot: u32,
}

impl Compare<'_> {
    fn ins(&mut self, op: Op, ty: Ty) -> Value {
        let value = self.function.make(op, ty, self.slot);
        self.out.push(value);
        value
    }

    /// Whether a key is a stored one; `None` if it cannot be.
    fn equal(&mut self, key: &[Value], stored: &[u64]) -> Option<Value> {
        let cannot = |(&word, &stored): (&Value, &u64)| {
            let differs = self
                .function
                .constant(word)
                .is_some_and(|word| word != stored);
            differs || known_zero(self.function, word, 0) & stored != 0
        };
        if key.iter().zip(stored).any(cannot) {
            return None;
        }
        let mut difference = None;
        for (&word, &stored) in key.iter().zip(stored) {
            if self.function.constant(word).is_some() {
                continue;
            }
            let stored = self.function.number(Ty::I64, stored);
            let here = self.ins(Op::Bin(BinOp::Xor, word, stored), Ty::I64);
            difference = Some(match difference {
                None => here,
                Some(before) => self.ins(Op::Bin(BinOp::Or, before, here), Ty::I64),
            });
        }
        let Some(difference) = difference else {
            return Some(self.function.number(Ty::I8, 1));
        };
        let zero = self.function.number(Ty::I64, 0);
        Some(self.ins(Op::Cmp(Cmp::Eq, difference, zero), Ty::I8))
    }

    /// One element more.
    fn add(&mut self, found: Found, equal: Value, address: usize) -> Found {
        let address = self.function.number(Ty::I64, address as u64);
        Found {
            value: self.ins(Op::Select(equal, address, found.value), Ty::I64),
            present: self.ins(Op::Bin(BinOp::Or, equal, found.present), Ty::I8),
        }
    }
}

/// Where a pointer that is not null leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// To one of these addresses.
    OneOf(Vec<usize>),
    /// To a value of the map with this number, so far from the value's first byte.
    AnyOf(usize, u64),
}

impl Place {
    const NULL: Place = Place::OneOf(Vec::new());

    fn moved(self, by: i64) -> Place {
        match self {
            Place::OneOf(mut addresses) => {
                for address in &mut addresses {
                    *address = address.wrapping_add_signed(by as isize);
                }
                Place::OneOf(addresses)
            }
            Place::AnyOf(map, off) => Place::AnyOf(map, off.wrapping_add_signed(by)),
        }
    }

    fn or(self, other: Place) -> Option<Place> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Place::OneOf(none), place) | (place, Place::OneOf(none)) if none.is_empty() => {
                Some(place)
            }
            (Place::OneOf(mut a), Place::OneOf(b)) => {
                a.extend(b);
                a.sort_unstable();
                a.dedup();
                (a.len() <= MOST_PLACES).then_some(Place::OneOf(a))
            }
            _ => None,
        }
    }
}

/// Where the pointers of a function lead.
struct Places {
    known: HashMap<Value, Option<Place>>,
    /// Whose parameter a value is, and which.
    params: HashMap<Value, (Block, usize)>,
    before: Vec<Vec<Block>>,
    /// Whether what is loaded from a map's value is proved to be of that map.
    proved: bool,
}

impl Places {
    fn new(function: &Function) -> Places {
        let mut params = HashMap::new();
        let mut proved = true;
        for block in function.reverse_postorder() {
            let data = function.block(block);
            for (n, &param) in data.params.iter().enumerate() {
                if block != Function::ENTRY {
                    params.insert(param, (block, n));
                }
            }
            proved &= !data.insts.iter().any(|&inst| {
                matches!(function.value(inst).op, Op::Native { name, .. } if name == "check")
            });
        }
        Places {
            known: HashMap::new(),
            params,
            before: predecessors(function),
            proved,
        }
    }

    fn of(&mut self, function: &Function, special: &Special<'_>, value: Value) -> Option<Place> {
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        // What is asked for while it is found out goes around a loop.
        self.known.insert(value, None);
        let place = self.find(function, special, value);
        self.known.insert(value, place.clone());
        place
    }

    fn find(&mut self, function: &Function, special: &Special<'_>, value: Value) -> Option<Place> {
        match function.value(value).op {
            Op::Fixed(Fixed::Number(Ty::I64, 0)) => Some(Place::NULL),
            Op::Fixed(Fixed::Number(Ty::I64, number)) => {
                let mut maps = special.constant_maps();
                let inside = maps.any(|(_, map)| map.contains(number as usize, 1));
                inside.then(|| Place::OneOf(vec![number as usize]))
            }
            Op::Bin(BinOp::Add, base, by) => {
                let by = function.constant(by)?;
                self.element(function, special, base, by).or_else(|| {
                    let place = self.of(function, special, base)?;
                    (place != Place::NULL).then(|| place.moved(by.cast_signed()))
                })
            }
            Op::Select(_, a, b) => {
                let place = self.of(function, special, a)?;
                place.or(self.of(function, special, b)?)
            }
            Op::Lookup { map, .. } => match function.value(map).op {
                Op::Fixed(Fixed::Map(index)) => {
                    special.map(index)?;
                    Some(Place::AnyOf(index as usize, 0))
                }
                _ => None,
            },
            Op::Param => self.param(function, special, value),
            _ => None,
        }
    }

    fn param(&mut self, function: &Function, special: &Special<'_>, value: Value) -> Option<Place> {
        let (block, n) = *self.params.get(&value)?;
        let before = self.before[block.0 as usize].clone();
        let mut place = Place::NULL;
        for from in before {
            for target in edges(function, from, block) {
                place = place.or(self.of(function, special, target.args[n])?)?;
            }
        }
        Some(place)
    }

    /// An element of an array: a number that is not too large times what elements take, plus an address.
    fn element(
        &self,
        function: &Function,
        special: &Special<'_>,
        offset: Value,
        address: u64,
    ) -> Option<Place> {
        let (index, size) = match function.value(offset).op {
            Op::Bin(BinOp::Mul, index, by) => (index, function.constant(by)?),
            Op::Bin(BinOp::Shl, index, by) => {
                (index, 1_u64.checked_shl(function.constant(by)? as u32)?)
            }
            _ => return None,
        };
        let small = known_zero(function, index, 0) >> 32 == u64::from(u32::MAX);
        if !self.proved || !small || size > u64::from(u32::MAX) {
            return None;
        }
        let mut maps = special.constant_maps();
        maps.find_map(|(n, map)| {
            let array = map
                .array_base()
                .filter(|_| map.def().kind == MapType::Array)?;
            let from_start = address.checked_sub(array.base as u64)?;
            let (len, stride) = (array.stride * array.entries as usize, array.stride as u64);
            let inside = from_start < len as u64 && size.is_multiple_of(stride);
            inside.then(|| Place::AnyOf(n, from_start % stride))
        })
    }
}

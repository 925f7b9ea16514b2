//! What is known at one place of the program: registers, the function's stack frame, and how far the
//! packet is known to reach.
//!
//! **Packet bounds.** A comparison of a pointer with the packet's end proves that so many bytes follow
//! the packet's start. If the pointer is at a variable offset, it proves the same of the *named* pointer
//! it was made from ([`Name`]), and so of every other pointer made from that one by a constant distance.
//! Where paths meet with pointers at different offsets, the pointers that kept their distance to each
//! other on all paths get a common name, so that a check of one still tells about the others.
//!
//! **Stack.** A frame is 64 slots of eight bytes. Frames start zeroed, so that a slot always has a value.
//! A function also knows the frames of its callers, as far as no function on the way can have several: a
//! pointer that it was given leads there. What it did to them goes back with its result.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use squalus_isa::Reg;
use squalus_runtime::STACK_SIZE;

use crate::value::{Base, Joining};
use crate::{FuncId, Interval, Name, Scalar, Value};

const SLOTS: usize = STACK_SIZE / 8;
const PLACES: usize = Reg::COUNT + SLOTS;
/// No packet is as long.
const MAX_PACKET: i64 = 1 << 32;

/// The frame of a caller.
#[derive(Clone, PartialEq, Eq)]
struct Outer {
    func: FuncId,
    slots: Arc<[Value; SLOTS]>,
}

impl Outer {
    /// Whether one of the frames is the same function's, and its contents are in this one's too.
    fn includes_one_of(&self, frames: &[Outer]) -> bool {
        let other = frames.iter().find(|other| other.func == self.func);
        other.is_some_and(|other| {
            let mut slots = self.slots.iter().zip(&*other.slots);
            Arc::ptr_eq(&self.slots, &other.slots) || slots.all(|(own, other)| own.includes(other))
        })
    }

    /// Changes what passes a test.
    fn change(&mut self, test: impl Fn(&Value) -> bool, change: impl Fn(Value) -> Value) {
        if self.slots.iter().any(&test) {
            let slots = Arc::make_mut(&mut self.slots).iter_mut();
            slots
                .filter(|slot| test(slot))
                .for_each(|slot| *slot = change(*slot));
        }
    }
}

/// A set of machine states: everything that can be the case at one place of the program.
///
/// Registers and stack slots together are *places*: 0 to 10 the registers, then the slots from the
/// lowest address on.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    places: [Value; PLACES],
    /// Frames of callers, as far as they are known; the outermost first.
    outer: Vec<Outer>,
    /// Bytes of the frame that have been written, a bit each.
    written: [u64; SLOTS / 8],
    /// The packet has at least this many bytes.
    packet: i64,
    /// The metadata has at least this many bytes.
    meta: i64,
    /// How many bytes at least follow a named pointer, by name.
    rooms: Vec<(Name, i64)>,
}

impl State {
    /// The state on entry of `func`: only `r1` and the frame pointer are known.
    #[must_use]
    pub fn entry(func: FuncId, r1: Value) -> State {
        let mut places = [Value::constant(0); PLACES];
        places[..Reg::COUNT].fill(Value::TOP);
        places[Reg::R1.index()] = r1;
        places[Reg::FP.index()] = Value::Stack {
            func,
            off: Interval::at(STACK_SIZE as i64),
        };
        State {
            places,
            outer: Vec::new(),
            written: [0; SLOTS / 8],
            packet: 0,
            meta: 0,
            rooms: Vec::new(),
        }
    }

    /// The state on entry of `func` called from here. With `caller`, it knows that function's frame and those
    /// of its callers; otherwise these and all names stay behind.
    #[must_use]
    pub fn callee(&self, func: FuncId, caller: Option<FuncId>) -> State {
        let mut callee = State::entry(func, Value::TOP);
        (callee.packet, callee.meta) = (self.packet, self.meta);
        let args = Reg::R1.index()..=Reg::R5.index();
        let Some(caller) = caller else {
            for arg in args {
                callee.places[arg] = self.places[arg].renamed(None);
            }
            return callee;
        };
        callee.places[args.clone()].copy_from_slice(&self.places[args]);
        callee.outer.clone_from(&self.outer);
        callee.outer.push(Outer {
            func: caller,
            slots: Arc::new(std::array::from_fn(|slot| self.places[Reg::COUNT + slot])),
        });
        callee.rooms.clone_from(&self.rooms);
        callee
    }

    /// Only what a caller of `func` learns: the result in `r0`, how far the packet reaches, and what the frames
    /// of callers hold.
    #[must_use]
    pub fn only_result(&self, func: FuncId, result: Value) -> State {
        let mut places = [Value::TOP; PLACES];
        places[Reg::R0.index()] = result;
        let mut outer = self.outer.clone();
        for frame in &mut outer {
            // Names are another matter for each caller, and the function's own frame is gone.
            frame.change(
                |_| true,
                |value| match value {
                    Value::Stack { func: owner, .. } if owner == func => Value::TOP,
                    value => value.renamed(None),
                },
            );
        }
        State {
            places,
            outer,
            written: [0; SLOTS / 8],
            packet: self.packet,
            meta: self.meta,
            rooms: Vec::new(),
        }
    }

    /// A register.
    #[must_use]
    pub fn reg(&self, reg: Reg) -> Value {
        self.places[reg.index()]
    }

    /// All registers.
    #[must_use]
    pub fn regs(&self) -> [Value; Reg::COUNT] {
        std::array::from_fn(|n| self.places[n])
    }

    /// The eight-byte slots of the frame, from its lowest address on.
    #[must_use]
    pub fn slots(&self) -> &[Value] {
        &self.places[Reg::COUNT..]
    }

    /// The packet has at least so many bytes.
    #[must_use]
    pub const fn least_packet(&self) -> i64 {
        self.packet
    }

    /// The metadata has at least so many bytes.
    #[must_use]
    pub const fn least_metadata(&self) -> i64 {
        self.meta
    }

    /// Sets a register.
    pub fn set_reg(&mut self, reg: Reg, value: Value) {
        self.places[reg.index()] = value;
    }

    /// Changes all places that pass a test, in the frames of callers too.
    fn change(&mut self, test: impl Fn(&Value) -> bool, change: impl Fn(Value) -> Value) {
        let places = self.places.iter_mut();
        places
            .filter(|place| test(place))
            .for_each(|place| *place = change(*place));
        for frame in &mut self.outer {
            frame.change(&test, &change);
        }
    }

    fn is_held(&self, name: Name) -> bool {
        let frames = self.outer.iter().flat_map(|frame| frame.slots.iter());
        let mut places = self.places.iter().chain(frames);
        places.any(|place| place.has_name(name))
    }

    /// Takes a name from all that hold it, because it is about to be given anew.
    pub fn retire(&mut self, name: Name) {
        self.change(|place| place.has_name(name), |place| place.renamed(None));
        self.rooms.retain(|(held, _)| *held != name);
    }

    /// Makes all packet pointers stale: the packet moved.
    pub fn packet_moved(&mut self) {
        self.change(Value::is_packet, |_| Value::TOP);
        (self.packet, self.meta) = (0, 0);
        self.rooms.clear();
    }

    /// Forgets all pointers into ring buffer records: one of them was given back.
    pub fn records_released(&mut self) {
        let is_record = |place: &Value| matches!(place, Value::Record { .. });
        self.change(is_record, |_| Value::TOP);
    }

    /// After a call that did not move the packet: the callee's bounds hold too.
    pub fn learn_bounds_of(&mut self, callee: &State) {
        self.packet = self.packet.max(callee.packet);
        self.meta = self.meta.max(callee.meta);
    }

    fn room_of(&self, name: Name) -> Option<i64> {
        let found = self.rooms.binary_search_by_key(&name, |(held, _)| *held);
        found.ok().map(|n| self.rooms[n].1)
    }

    fn set_room(&mut self, name: Name, room: i64) {
        match self.rooms.binary_search_by_key(&name, |(held, _)| *held) {
            Ok(n) => self.rooms[n].1 = room,
            Err(n) => self.rooms.insert(n, (name, room)),
        }
    }

    /// How many bytes at least lie between a packet pointer and the end of its area (negative if the
    /// pointer may be behind the end).
    #[must_use]
    pub fn room(&self, pointer: &Value) -> Option<i64> {
        match *pointer {
            Value::Packet {
                base: Base::Data,
                off,
                name,
            } => {
                let named = name.and_then(|(name, delta)| Some(self.room_of(name)? - delta));
                Some(named.unwrap_or(i64::MIN).max(self.packet - off.hi))
            }
            Value::Packet {
                base: Base::Meta,
                off,
                ..
            } => Some(self.meta - off.hi),
            _ => None,
        }
    }

    /// Whether `size` bytes at a packet pointer are inside the packet (or metadata).
    #[must_use]
    pub fn packet_holds(&self, pointer: &Value, size: i64) -> bool {
        matches!(pointer, Value::Packet { off, .. } if off.lo >= 0)
            && self.room(pointer).is_some_and(|room| room >= size)
    }

    /// Learns that at least `room` bytes lie between a packet pointer and the end of its area.
    pub fn learn_room(&mut self, pointer: &Value, room: i64) {
        let Value::Packet { base, off, name } = *pointer else {
            return;
        };
        if base == Base::Meta {
            self.meta = self.meta.max(off.lo + room);
            return;
        }
        self.packet = self.packet.max(off.lo + room);
        let Some((name, delta)) = name else { return };
        let room = room + delta;
        let known = self.room_of(name).unwrap_or(i64::MIN);
        self.set_room(name, known.max(room));
        let limit = MAX_PACKET - room;
        self.change(
            |place| place.has_name(name),
            |place| match place {
                Value::Packet {
                    base,
                    off,
                    name: Some((name, delta)),
                } => Value::Packet {
                    base,
                    off: Interval {
                        lo: off.lo,
                        hi: off.hi.min(limit + delta).max(off.lo),
                    },
                    name: Some((name, delta)),
                },
                other => other,
            },
        );
    }

    /// Moves a pointer by a distance. If that varies, the result is named `fresh`, after all that held
    /// that name lost it, and the packet reaches as far behind it as it did, less the distance.
    #[must_use]
    pub fn moved(&mut self, pointer: Value, by: Interval, fresh: Name) -> Value {
        if by.as_constant().is_some() {
            return pointer.moved(by, fresh);
        }
        let room = self.room(&pointer);
        self.retire(fresh);
        let moved = pointer.moved(by, fresh);
        if let (Some(room), true) = (room, moved.has_name(fresh)) {
            self.set_room(fresh, room - by.hi);
        }
        moved
    }

    /// Decides whether pointers named `name` are null.
    pub fn learn_null(&mut self, name: Name, is_null: bool) {
        self.change(
            |place| place.null_name() == Some(name),
            |place| {
                if is_null {
                    Value::constant(0)
                } else {
                    place.with_null(None)
                }
            },
        );
    }

    /// Reads `size` bytes at `off` of the frame, which must be inside it.
    #[must_use]
    pub fn load(&self, off: i64, size: u32) -> Value {
        load(self.slots(), off, size)
    }

    /// Reads `size` bytes at `off` of a caller's frame, if it is known.
    #[must_use]
    pub fn load_outer(&self, owner: FuncId, off: i64, size: u32) -> Option<Value> {
        let frame = self.outer.iter().find(|frame| frame.func == owner)?;
        Some(load(&*frame.slots, off, size))
    }

    /// Writes `size` bytes at `off` of the frame, which must be inside it.
    pub fn store(&mut self, off: i64, size: u32, value: Value) {
        self.mark_written(off as usize, size as usize);
        store(&mut self.places[Reg::COUNT..], off, size, value);
    }

    fn frame_mut(&mut self, owner: FuncId) -> Option<&mut [Value]> {
        let mut frames = self.outer.iter_mut();
        let frame = frames.find(|frame| frame.func == owner)?;
        Some(&mut *Arc::make_mut(&mut frame.slots))
    }

    /// Writes `size` bytes at `off` of a caller's frame, if it is known.
    pub fn store_outer(&mut self, owner: FuncId, off: i64, size: u32, value: Value) {
        if let Some(slots) = self.frame_mut(owner) {
            store(slots, off, size, value);
        }
    }

    /// Forgets bytes of a caller's frame, if it is known.
    pub fn forget_outer(&mut self, owner: FuncId, bytes: Interval) {
        if let Some(slots) = self.frame_mut(owner) {
            forget(slots, bytes);
        }
    }

    /// Takes bytes of the frame of `owner`, which is `func` that this is a state of or one of its callers, from
    /// the state in which a called function returned.
    pub(crate) fn take_frame(
        &mut self,
        func: FuncId,
        owner: FuncId,
        bytes: Interval,
        exit: Option<&State>,
    ) {
        let known = exit.and_then(|exit| exit.outer.iter().find(|frame| frame.func == owner));
        let slots = if owner == func {
            Some(&mut self.places[Reg::COUNT..])
        } else {
            self.frame_mut(owner)
        };
        let Some(slots) = slots else { return };
        for slot in slots_of(bytes) {
            // Where the function's returns met, names were made that mean another value after each call.
            slots[slot] = known.map_or(Value::TOP, |frame| frame.slots[slot].renamed(None));
        }
    }

    /// Forgets the bytes from `bytes.lo` to `bytes.hi`, both included, as far as they are in the frame.
    pub fn forget(&mut self, bytes: Interval) {
        forget(&mut self.places[Reg::COUNT..], bytes);
    }

    /// Forgets the whole frame, and those of callers.
    pub fn forget_frames(&mut self) {
        self.places[Reg::COUNT..].fill(Value::TOP);
        self.outer.clear();
    }

    fn mark_written(&mut self, off: usize, size: usize) {
        for byte in off..(off + size).min(STACK_SIZE) {
            self.written[byte / 64] |= 1 << (byte % 64);
        }
    }

    /// Which bytes of the frame may not have been written, a bit each.
    #[must_use]
    pub fn unwritten(&self) -> [u64; SLOTS / 8] {
        self.written.map(|bits| !bits)
    }

    /// Forgets the registers that are not in the set, and what is known of names that nobody holds.
    pub(crate) fn keep(&mut self, regs: u16) {
        for (n, place) in self.places[..Reg::COUNT].iter_mut().enumerate() {
            if regs & (1 << n) == 0 {
                *place = Value::TOP;
            }
        }
        let mut rooms = std::mem::take(&mut self.rooms);
        rooms.retain(|(name, _)| self.is_held(*name));
        self.rooms = rooms;
    }

    /// Stands for the kinds of values in registers and stack slots, and for the numbers that are known: states
    /// of different kinds are better not joined.
    pub(crate) fn kind(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        for (n, place) in self.places.iter().enumerate() {
            std::mem::discriminant(place).hash(&mut hasher);
            place.null_name().is_some().hash(&mut hasher);
            if n < Reg::COUNT {
                place.scalar().as_constant().hash(&mut hasher);
            }
        }
        for slot in self.outer.iter().flat_map(|frame| frame.slots.iter()) {
            std::mem::discriminant(slot).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether every machine state in `other` is known to be in this one too.
    pub(crate) fn includes(&self, other: &State) -> bool {
        let bits = self.written.iter().zip(&other.written);
        let mut places = self.places.iter().zip(&other.places);
        places.all(|(own, other)| own.includes(other))
            && self
                .outer
                .iter()
                .all(|frame| frame.includes_one_of(&other.outer))
            && self.packet <= other.packet
            && self.meta <= other.meta
            && bits.into_iter().all(|(own, other)| own & !other == 0)
            && self
                .rooms
                .iter()
                .all(|&(name, room)| other.room_of(name).is_some_and(|known| known >= room))
    }

    /// Extends this state by what `other` allows, on entry of `block`; tells whether anything changed.
    pub(crate) fn join(&mut self, other: &State, block: u32, how: Joining<'_>) -> bool {
        let mut join = Join {
            old: self,
            new: other,
            block,
            how,
            groups: Vec::new(),
        };
        let places = std::array::from_fn(|at| join.place(at, self.places[at], other.places[at]));
        let outer = join.outer();
        let rooms = join.rooms();
        let lower = |old: i64, new: i64| match how.steps {
            Some(_) if new < old => step_down(new).unwrap_or(0),
            _ => old.min(new),
        };
        let mut joined = State {
            places,
            outer,
            written: std::array::from_fn(|n| self.written[n] & other.written[n]),
            packet: lower(self.packet, other.packet),
            meta: lower(self.meta, other.meta),
            rooms,
        };
        let mut rooms = std::mem::take(&mut joined.rooms);
        rooms.retain(|(name, _)| joined.is_held(*name));
        joined.rooms = rooms;
        let changed = joined != *self;
        *self = joined;
        changed
    }
}

/// The next length that widening stops at, from `len` down.
fn step_down(len: i64) -> Option<i64> {
    const STEPS: [i64; 10] = [40, 32, 20, 14, 8, 6, 4, 2, 1, 0];
    STEPS.into_iter().find(|&step| step <= len)
}

/// Reads `size` bytes at `off` of a frame, which must be inside it.
fn load(slots: &[Value], off: i64, size: u32) -> Value {
    let (slot, byte) = (off as usize / 8, (off as usize % 8) as u32);
    match slots[slot] {
        value if size == 8 && byte == 0 => value,
        Value::Scalar(whole) if byte + size <= 8 => {
            Value::Scalar(whole.shifted_right(byte * 8).truncate(size * 8))
        }
        _ => Value::Scalar(Scalar::of_bytes(size)),
    }
}

/// Writes `size` bytes at `off` of a frame, which must be inside it.
fn store(slots: &mut [Value], off: i64, size: u32, value: Value) {
    let (slot, byte) = (off as usize / 8, (off as usize % 8) as u32);
    if size == 8 && byte == 0 {
        slots[slot] = value;
    } else if byte + size <= 8 {
        let whole = slots[slot].scalar();
        slots[slot] = Value::Scalar(whole.with_bytes(byte, size, &value.scalar()));
    } else {
        let hi = off + i64::from(size) - 1;
        forget(slots, Interval { lo: off, hi });
    }
}

/// Forgets the bytes from `bytes.lo` to `bytes.hi`, both included, as far as they are in the frame.
fn forget(slots: &mut [Value], bytes: Interval) {
    slots[slots_of(bytes)].fill(Value::TOP);
}

/// The slots that some bytes are in, as far as they are in the frame.
fn slots_of(bytes: Interval) -> std::ops::Range<usize> {
    let first = bytes.lo.clamp(0, STACK_SIZE as i64) / 8;
    let after = bytes.hi.clamp(-1, STACK_SIZE as i64 - 1).div_euclid(8) + 1;
    first as usize..(after as usize).max(first as usize)
}

/// Two states on their way to becoming one.
struct Join<'a> {
    old: &'a State,
    new: &'a State,
    block: u32,
    how: Joining<'a>,
    groups: Vec<Group>,
}

/// Packet pointers that have the same distances to each other in both states.
struct Group {
    key: (Option<Name>, Option<Name>, i64),
    name: Name,
    /// Distance of the group's first member from the old name.
    delta: i64,
    room: i64,
}

impl Join<'_> {
    /// The frames that both know.
    fn outer(&mut self) -> Vec<Outer> {
        let (old, new) = (self.old, self.new);
        let mut outer = Vec::new();
        for frame in &old.outer {
            let Some(other) = new.outer.iter().find(|other| other.func == frame.func) else {
                continue;
            };
            let first = PLACES + outer.len() * SLOTS;
            let slot = |n: usize| self.place(first + n, frame.slots[n], other.slots[n]);
            outer.push(Outer {
                func: frame.func,
                slots: Arc::new(std::array::from_fn(slot)),
            });
        }
        outer
    }

    fn place(&mut self, at: usize, old: Value, new: Value) -> Value {
        let here = Name::Met {
            block: self.block,
            at: at as u16,
        };
        let joined = old.join(&new, here, &self.how);
        let Value::Packet {
            base: Base::Data,
            off,
            ..
        } = joined
        else {
            return joined;
        };
        if old == new && !self.named_here(&old) {
            return joined;
        }
        let name = self.group(&old, &new, here);
        Value::Packet {
            base: Base::Data,
            off,
            name: Some(name),
        }
    }

    fn named_here(&self, value: &Value) -> bool {
        matches!(value, Value::Packet { name: Some((Name::Met { block, .. }, _)), .. }
            if *block == self.block)
    }

    /// The name and distance a pair of packet pointers gets.
    fn group(&mut self, old: &Value, new: &Value, here: Name) -> (Name, i64) {
        let room = self
            .old
            .room(old)
            .min(self.new.room(new))
            .unwrap_or(i64::MIN);
        let (Some((old_name, old_delta)), Some((new_name, new_delta))) = (anchor(old), anchor(new))
        else {
            // A key that nobody else can have: the name itself on both sides.
            self.groups.push(Group {
                key: (Some(here), Some(here), i64::MIN),
                name: here,
                delta: 0,
                room,
            });
            return (here, 0);
        };
        let key = (old_name, new_name, new_delta - old_delta);
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == key) {
            let delta = old_delta - group.delta;
            group.room = group.room.max(room.saturating_add(delta));
            return (group.name, delta);
        }
        self.groups.push(Group {
            key,
            name: here,
            delta: old_delta,
            room,
        });
        (here, 0)
    }

    fn rooms(&self) -> Vec<(Name, i64)> {
        let here = |name: &Name| matches!(name, Name::Met { block, .. } if *block == self.block);
        let kept = self.old.rooms.iter().filter(|(name, _)| !here(name));
        let kept = kept.filter_map(|&(name, room)| Some((name, room, self.new.room_of(name)?)));
        let mut rooms: Vec<_> = kept
            .map(|(name, old, new)| (name, old, old.min(new)))
            .chain(self.groups.iter().map(|group| {
                let old = self.old.room_of(group.name).unwrap_or(i64::MAX);
                (group.name, old, group.room)
            }))
            .filter_map(|(name, old, joined)| {
                let still = self.how.steps.is_none() || joined >= old || old == i64::MAX;
                let room = if still {
                    Some(joined)
                } else {
                    step_down(joined)
                };
                Some((name, room?))
            })
            .collect();
        rooms.sort_unstable();
        rooms
    }
}

/// The fixed point a packet pointer has a constant distance from: a name, or the packet's start.
fn anchor(pointer: &Value) -> Option<(Option<Name>, i64)> {
    match *pointer {
        Value::Packet {
            name: Some((name, delta)),
            ..
        } => Some((Some(name), delta)),
        Value::Packet {
            name: None, off, ..
        } => off.as_constant().map(|off| (None, off)),
        _ => None,
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = Value::TOP;
        for (n, place) in self.places.iter().enumerate() {
            if n < Reg::COUNT {
                if *place != unknown {
                    write!(f, "r{n}={place:?} ")?;
                }
            } else if *place != unknown && *place != Value::constant(0) {
                let off = (n - Reg::COUNT) as i64 * 8 - STACK_SIZE as i64;
                write!(f, "fp{off}={place:?} ")?;
            }
        }
        write!(f, "packet>={}", self.packet)?;
        for (name, room) in &self.rooms {
            write!(f, " {name:?}>={room}")?;
        }
        Ok(())
    }
}

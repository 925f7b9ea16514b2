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

use squalus_isa::{Operand, Reg};
use squalus_runtime::STACK_SIZE;

use crate::frame::{Frame, SLOTS, slots_of};
use crate::join::Join;
use crate::motion::{Line, Motion};
use crate::value::{Base, Joining};
use crate::{FuncId, Interval, Name, Value};

pub(crate) const PLACES: usize = Reg::COUNT + SLOTS;
/// No packet is as long.
const MAX_PACKET: i64 = 1 << 32;

/// The frame of a caller.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) func: FuncId,
    pub(crate) frame: Frame,
}

impl Outer {
    /// Whether one of the frames is the same function's, and its contents are in this one's too.
    fn includes_one_of(&self, frames: &[Outer]) -> bool {
        let other = frames.iter().find(|other| other.func == self.func);
        other.is_some_and(|other| self.frame.includes(&other.frame))
    }
}

/// A set of machine states: everything that can be the case at one place of the program.
///
/// Registers and stack slots together are *places*: 0 to 10 the registers, then the slots from the
/// lowest address on.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) regs: [Value; Reg::COUNT],
    pub(crate) frame: Frame,
    /// Frames of callers, as far as they are known; the outermost first.
    pub(crate) outer: Vec<Outer>,
    /// Bytes of the frame that have been written, a bit each.
    pub(crate) written: [u64; SLOTS / 8],
    /// The packet has at least this many bytes.
    pub(crate) packet: i64,
    /// The packet has at most this many bytes.
    pub(crate) longest: i64,
    /// The metadata has at least this many bytes.
    pub(crate) meta: i64,
    /// How many bytes at least follow a named pointer, by name.
    pub(crate) rooms: Vec<(Name, i64)>,
    /// How places move in the loops around.
    pub(crate) motion: Motion,
}

impl State {
    /// The state on entry of `func`: only `r1` and the frame pointer are known.
    #[must_use]
    pub fn entry(func: FuncId, r1: Value) -> State {
        let mut regs = [Value::TOP; Reg::COUNT];
        regs[Reg::R1.index()] = r1;
        regs[Reg::FP.index()] = Value::Stack {
            func,
            off: Interval::at(STACK_SIZE as i64),
        };
        State {
            regs,
            frame: Frame::zeroed(),
            outer: Vec::new(),
            written: [0; SLOTS / 8],
            packet: 0,
            longest: MAX_PACKET,
            meta: 0,
            rooms: Vec::new(),
            motion: Motion::default(),
        }
    }

    /// The state on entry of `func` called from here. With `caller`, it knows that function's frame and those
    /// of its callers; otherwise these and all names stay behind.
    #[must_use]
    pub fn callee(&self, func: FuncId, caller: Option<FuncId>) -> State {
        let mut callee = State::entry(func, Value::TOP);
        (callee.packet, callee.longest, callee.meta) = (self.packet, self.longest, self.meta);
        let args = Reg::R1.index()..=Reg::R5.index();
        let Some(caller) = caller else {
            for arg in args {
                callee.regs[arg] = self.regs[arg].renamed(None);
            }
            return callee;
        };
        callee.regs[args.clone()].copy_from_slice(&self.regs[args]);
        callee.outer.clone_from(&self.outer);
        callee.outer.push(Outer {
            func: caller,
            frame: self.frame.clone(),
        });
        callee.rooms.clone_from(&self.rooms);
        callee
    }

    /// Only what a caller of `func` learns: the result in `r0`, how far the packet reaches, and what the frames
    /// of callers hold.
    #[must_use]
    pub fn only_result(&self, func: FuncId, result: Value) -> State {
        let mut regs = [Value::TOP; Reg::COUNT];
        regs[Reg::R0.index()] = result;
        let mut outer = self.outer.clone();
        for frame in &mut outer {
            // Names are another matter for each caller, and the function's own frame is gone.
            frame.frame.change(
                |value| !matches!(value, Value::Scalar(_)),
                |value| match value {
                    Value::Stack { func: owner, .. } if owner == func => Value::TOP,
                    value => value.renamed(None),
                },
            );
        }
        State {
            regs,
            frame: Frame::unknown(),
            outer,
            written: [0; SLOTS / 8],
            packet: self.packet,
            longest: self.longest,
            meta: self.meta,
            rooms: Vec::new(),
            motion: Motion::default(),
        }
    }

    /// A register.
    #[must_use]
    pub fn reg(&self, reg: Reg) -> Value {
        self.regs[reg.index()]
    }

    /// What an operand is known to hold.
    #[must_use]
    pub(crate) fn operand(&self, operand: Operand) -> Value {
        match operand {
            Operand::Reg(reg) => self.reg(reg),
            Operand::Imm(imm) => Value::constant(i64::from(imm).cast_unsigned()),
        }
    }

    /// All registers.
    #[must_use]
    pub fn regs(&self) -> [Value; Reg::COUNT] {
        self.regs
    }

    /// The eight-byte slots of the frame, from its lowest address on.
    pub fn slots(&self) -> impl Iterator<Item = &Value> {
        self.frame.slots()
    }

    /// A register or slot.
    pub(crate) fn place(&self, at: usize) -> Value {
        match at.checked_sub(Reg::COUNT) {
            None => self.regs[at],
            Some(slot) => self.frame.slot(slot),
        }
    }

    /// Replaces what a register or slot is known to hold by more that is known of it.
    pub(crate) fn set_place(&mut self, at: usize, value: Value) {
        match at.checked_sub(Reg::COUNT) {
            None => self.regs[at] = value,
            Some(slot) => self.frame.set(slot, value),
        }
    }

    /// Where the number in a place lies, or the pointer.
    pub(crate) fn extent(&self, at: usize) -> Option<Interval> {
        self.place(at).extent()
    }

    /// The packet has at least so many bytes.
    #[must_use]
    pub const fn least_packet(&self) -> i64 {
        self.packet
    }

    /// The packet has at most so many bytes.
    #[must_use]
    pub const fn most_packet(&self) -> i64 {
        self.longest
    }

    /// How often at most control came back to the loop with this head (the slot of its first instruction) since it
    /// entered it, if that is known.
    #[must_use]
    pub fn most_rounds(&self, head: u32) -> Option<i64> {
        self.motion.most_rounds(head)
    }

    /// The metadata has at least so many bytes.
    #[must_use]
    pub const fn least_metadata(&self) -> i64 {
        self.meta
    }

    /// Sets a register.
    pub fn set_reg(&mut self, reg: Reg, value: Value) {
        self.set_moving(reg, value, None);
    }

    /// Sets a register to what moves so in the loops around.
    pub(crate) fn set_moving(&mut self, reg: Reg, value: Value, line: Option<Line>) {
        self.regs[reg.index()] = value;
        self.motion.set(reg.index(), line);
    }

    /// Learns that the number in a register is in a set: that may bound the rounds of a loop, and other numbers.
    /// False if it cannot be.
    #[must_use]
    pub(crate) fn learn_reg(&mut self, reg: Reg, value: Value) -> bool {
        self.regs[reg.index()] = value;
        let Some(range) = value.extent() else {
            return true;
        };
        match self.motion.learn(reg.index(), range) {
            None => false,
            Some(false) => true,
            Some(true) => self.bound_by_rounds(),
        }
    }

    /// Bounds what moves in loops by how often they were gone round; false if something cannot be there.
    pub(crate) fn bound_by_rounds(&mut self) -> bool {
        for at in self.motion.places() {
            let Some(range) = self
                .motion
                .line(at)
                .and_then(|line| self.motion.range(&line))
            else {
                continue;
            };
            match self.place(at).within(range) {
                Some(value) => self.set_place(at, value),
                None => return false,
            }
        }
        true
    }

    /// Changes all places that pass a test, in the frames of callers too. What is set to another kind of value
    /// is not known to move.
    fn change(&mut self, test: impl Fn(&Value) -> bool, change: impl Fn(Value) -> Value) {
        let kind = std::mem::discriminant::<Value>;
        let moving: Vec<_> = self
            .motion
            .places()
            .map(|at| (at, kind(&self.place(at))))
            .collect();
        let regs = self.regs.iter_mut();
        regs.filter(|place| test(place))
            .for_each(|place| *place = change(*place));
        self.frame.change(&test, &change);
        for outer in &mut self.outer {
            outer.frame.change(&test, &change);
        }
        for (at, before) in moving {
            if kind(&self.place(at)) != before {
                self.motion.set(at, None);
            }
        }
    }

    fn is_held(&self, name: Name) -> bool {
        let frames = self.outer.iter().flat_map(|outer| outer.frame.notable());
        let slots = self.frame.notable().chain(frames).map(|(_, slot)| slot);
        let mut places = self.regs.iter().chain(slots);
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
        (self.packet, self.longest, self.meta) = (0, MAX_PACKET, 0);
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
        self.longest = self.longest.min(callee.longest);
        self.meta = self.meta.max(callee.meta);
    }

    pub(crate) fn room_of(&self, name: Name) -> Option<i64> {
        let found = self.rooms.binary_search_by_key(&name, |(held, _)| *held);
        found.ok().map(|n| self.rooms[n].1)
    }

    pub(crate) fn set_room(&mut self, name: Name, room: i64) {
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

    /// Learns that at most `room` bytes lie between a packet pointer and the end of the packet.
    pub(crate) fn learn_end(&mut self, pointer: &Value, room: i64) {
        if let Value::Packet {
            base: Base::Data,
            off,
            ..
        } = *pointer
        {
            self.longest = self.longest.min(off.hi + room);
        }
    }

    /// Whether what is known of the packet's length leaves one that is possible.
    #[must_use]
    pub(crate) const fn is_possible(&self) -> bool {
        self.packet <= self.longest
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
        self.frame.load(off, size)
    }

    /// How a slot of eight bytes moves.
    pub(crate) fn slot_line(&self, off: i64, size: u32) -> Option<Line> {
        let at = Reg::COUNT + off as usize / 8;
        (size == 8 && off % 8 == 0)
            .then(|| self.motion.line(at))
            .flatten()
    }

    /// Reads `size` bytes at `off` of a caller's frame, if it is known.
    #[must_use]
    pub fn load_outer(&self, owner: FuncId, off: i64, size: u32) -> Option<Value> {
        let outer = self.outer.iter().find(|outer| outer.func == owner)?;
        Some(outer.frame.load(off, size))
    }

    /// Writes `size` bytes at `off` of the frame, which must be inside it.
    pub fn store(&mut self, off: i64, size: u32, value: Value) {
        self.mark_written(off as usize, size as usize);
        self.frame.store(off, size, value);
        let hi = off + i64::from(size) - 1;
        self.stop_slots(Interval { lo: off, hi });
    }

    /// Notes how the slot moves that was written last, if it is a whole one.
    pub(crate) fn set_slot_line(&mut self, off: i64, size: u32, line: Option<Line>) {
        if size == 8 && off % 8 == 0 {
            self.motion.set(Reg::COUNT + off as usize / 8, line);
        }
    }

    /// Forgets how slots move.
    fn stop_slots(&mut self, bytes: Interval) {
        let slots = slots_of(bytes);
        self.motion.forget(|at| {
            at.checked_sub(Reg::COUNT)
                .is_some_and(|slot| slots.contains(&slot))
        });
    }

    fn frame_mut(&mut self, owner: FuncId) -> Option<&mut Frame> {
        let mut frames = self.outer.iter_mut();
        Some(&mut frames.find(|outer| outer.func == owner)?.frame)
    }

    /// Writes `size` bytes at `off` of a caller's frame, if it is known.
    pub fn store_outer(&mut self, owner: FuncId, off: i64, size: u32, value: Value) {
        if let Some(frame) = self.frame_mut(owner) {
            frame.store(off, size, value);
        }
    }

    /// Forgets bytes of a caller's frame, if it is known.
    pub fn forget_outer(&mut self, owner: FuncId, bytes: Interval) {
        if let Some(frame) = self.frame_mut(owner) {
            frame.forget(bytes);
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
        let known = exit.and_then(|exit| exit.outer.iter().find(|outer| outer.func == owner));
        if owner == func {
            self.stop_slots(bytes);
        }
        let frame = match owner == func {
            true => Some(&mut self.frame),
            false => self.frame_mut(owner),
        };
        let Some(frame) = frame else { return };
        for slot in slots_of(bytes) {
            // Where the function's returns met, names were made that mean another value after each call.
            let value = known.map(|outer| outer.frame.slot(slot).renamed(None));
            frame.set(slot, value.unwrap_or(Value::TOP));
        }
    }

    /// Forgets the bytes from `bytes.lo` to `bytes.hi`, both included, as far as they are in the frame.
    pub fn forget(&mut self, bytes: Interval) {
        self.frame.forget(bytes);
        self.stop_slots(bytes);
    }

    /// Forgets the whole frame, and those of callers.
    pub fn forget_frames(&mut self) {
        self.frame = Frame::unknown();
        self.outer.clear();
        self.motion.forget(|at| at >= Reg::COUNT);
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
        for (n, place) in self.regs.iter_mut().enumerate() {
            if regs & (1 << n) == 0 {
                *place = Value::TOP;
            }
        }
        self.motion
            .forget(|at| at < Reg::COUNT && regs & (1 << at) == 0);
        self.drop_rooms();
    }

    /// Forgets the pointers in slots that are not in the set.
    pub(crate) fn keep_pointers(&mut self, slots: u64) {
        let dead = self.frame.notable();
        let dead = dead.filter(|(slot, value)| value.kind() != 0 && slots & 1 << slot == 0);
        let dead: Vec<usize> = dead.map(|(slot, _)| slot).collect();
        for slot in dead {
            self.frame.set(slot, Value::TOP);
            self.motion.set(Reg::COUNT + slot, None);
        }
    }

    /// Forgets what is known of names that nobody holds.
    pub(crate) fn drop_rooms(&mut self) {
        if self.rooms.is_empty() {
            return;
        }
        let mut rooms = std::mem::take(&mut self.rooms);
        rooms.retain(|(name, _)| self.is_held(*name));
        self.rooms = rooms;
    }

    /// Stands for the kinds of values in registers and stack slots, and for how long the packet is: states of
    /// different kinds are better not joined. With `numbers`, known numbers in registers are such kinds too; in
    /// a loop, which counts, neither are they nor is the packet's length.
    pub(crate) fn kind(&self, numbers: bool, in_loop: bool) -> u64 {
        let mut hasher = Hasher(0);
        for place in &self.regs {
            hasher.add(place.kind());
            if numbers && let Some(number) = place.scalar().as_constant() {
                hasher.add(number);
            }
        }
        let outer = self.outer.iter().map(|outer| &outer.frame);
        for (n, frame) in std::iter::once(&self.frame).chain(outer).enumerate() {
            let pointers = frame.notable().filter(|(_, value)| value.kind() != 0);
            pointers.for_each(|(slot, value)| {
                hasher.add((n * SLOTS + slot) as u64 | value.kind() << 32)
            });
        }
        if !in_loop {
            hasher.add(self.packet.cast_unsigned());
        }
        hasher.0
    }

    /// Whether every machine state in `other` is known to be in this one too.
    pub(crate) fn includes(&self, other: &State) -> bool {
        let bits = self.written.iter().zip(&other.written);
        let mut regs = self.regs.iter().zip(&other.regs);
        regs.all(|(own, other)| own.includes(other))
            && self.frame.includes(&other.frame)
            && self
                .outer
                .iter()
                .all(|frame| frame.includes_one_of(&other.outer))
            && self.packet <= other.packet
            && self.longest >= other.longest
            && self.motion.includes(&other.motion, |at| other.extent(at))
            && self.meta <= other.meta
            && bits.into_iter().all(|(own, other)| own & !other == 0)
            && self
                .rooms
                .iter()
                .all(|&(name, room)| other.room_of(name).is_some_and(|known| known >= room))
    }

    /// Extends this state by what `other` allows, on entry of `block`; tells whether anything changed.
    pub(crate) fn join(&mut self, other: &State, block: u32, how: Joining<'_>) -> bool {
        let joined = Join::new(self, other, block, how).finish();
        let changed = joined != *self;
        *self = joined;
        changed
    }
}

/// The fixed point a packet pointer has a constant distance from: a name, or the packet's start.
pub(crate) fn anchor(pointer: &Value) -> Option<(Option<Name>, i64)> {
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

/// A quick hash of few numbers.
struct Hasher(u64);

impl Hasher {
    fn add(&mut self, number: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(ODD);
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = Value::TOP;
        for (n, place) in self.regs.iter().chain(self.frame.slots()).enumerate() {
            if n < Reg::COUNT {
                if *place != unknown {
                    write!(f, "r{n}={place:?} ")?;
                }
            } else if *place != unknown && *place != Value::constant(0) {
                let off = (n - Reg::COUNT) as i64 * 8 - STACK_SIZE as i64;
                write!(f, "fp{off}={place:?} ")?;
            }
        }
        write!(f, "{:?} packet>={}", self.motion, self.packet)?;
        for (name, room) in &self.rooms {
            write!(f, " {name:?}>={room}")?;
        }
        Ok(())
    }
}

//! Two states on their way to becoming one.

use squalus_isa::Reg;

use crate::frame::SLOTS;
use crate::motion::{Grows, Meeting};
use crate::state::{Outer, PLACES, anchor};
use crate::value::{Base, Joining};
use crate::{Interval, Name, Scalar, State, Value};

/// Two states that meet on entry of a block.
pub(crate) struct Join<'a> {
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

impl<'a> Join<'a> {
    pub(crate) fn new(old: &'a State, new: &'a State, block: u32, how: Joining<'a>) -> Join<'a> {
        Join {
            old,
            new,
            block,
            how,
            groups: Vec::new(),
        }
    }

    /// The state that holds in both.
    pub(crate) fn finish(mut self) -> State {
        let (old, new) = (self.old, self.new);
        let regs = std::array::from_fn(|n| self.place(n, old.regs[n], new.regs[n]));
        let block = self.block;
        let frame = old.frame.join(
            &new.frame,
            |value| named_at(block, value),
            |slot, a, b| self.place(Reg::COUNT + slot, a, b),
        );
        let outer = self.outer();
        let rooms = self.rooms();
        let lower = |old: i64, new: i64| match self.how.steps {
            Some(_) if new < old => step_down(new).unwrap_or(0),
            _ => old.min(new),
        };
        let longest = match self.how.steps {
            Some(_) if new.longest > old.longest => i64::MAX,
            _ => old.longest.max(new.longest),
        };
        let mut joined = State {
            regs,
            frame,
            outer,
            written: std::array::from_fn(|n| old.written[n] & new.written[n]),
            packet: lower(old.packet, new.packet),
            longest,
            meta: lower(old.meta, new.meta),
            rooms,
            motion: Default::default(),
        };
        self.set_motion(&mut joined);
        self.raise_rooms(&mut joined);
        joined.drop_rooms();
        joined
    }

    /// What is named here has at least the room that follows from where it is.
    fn raise_rooms(&self, joined: &mut State) {
        for group in &self.groups {
            let Some(at) = (match group.name {
                Name::Met { at, .. } => Some(usize::from(at)).filter(|&at| at < PLACES),
                Name::Made(_) => None,
            }) else {
                continue;
            };
            if let Value::Packet { off, .. } = joined.place(at) {
                let room = joined.packet - off.hi;
                let known = joined.room_of(group.name).unwrap_or(i64::MIN);
                if room > known {
                    joined.set_room(group.name, room);
                }
            }
        }
    }

    /// Finds out how places move, and bounds them by that.
    fn set_motion(&self, joined: &mut State) {
        let (old, new) = (self.old, self.new);
        let widen = self.how.steps.is_some();
        let head = self.how.around.map(|_| self.block);
        let meeting = Meeting::new(&old.motion, &new.motion, head, !widen);
        if meeting.is_still() {
            return;
        }
        let mut motion = meeting.rounds();
        let mut add = |at: usize, old: Value, new: Value, joined: Value| {
            let kind = std::mem::discriminant::<Value>;
            if kind(&old) == kind(&joined) && kind(&new) == kind(&joined) {
                let grows = match self.how(at).steps {
                    _ if self.how.all => Grows::Never,
                    Some(_) => Grows::ByTerms,
                    None => Grows::Freely,
                };
                let line = meeting.line(at, old.extent(), new.extent(), grows);
                motion.set(at, line.filter(|line| motion.knows(line)));
            }
        };
        for at in 0..Reg::COUNT {
            add(at, old.regs[at], new.regs[at], joined.regs[at]);
        }
        for slot in moving_slots(&meeting, old, new) {
            let (a, b) = (old.frame.slot(slot), new.frame.slot(slot));
            add(Reg::COUNT + slot, a, b, joined.frame.slot(slot));
        }
        if widen && let Some(around) = self.how.around {
            let of = |reg: Reg| joined.regs[reg.index()].extent();
            let tests: &[_] = if self.how.all { &[] } else { &around.tests };
            motion.widen(&old.motion, self.block, tests, of);
        }
        for at in motion.places() {
            if let Some(range) = motion.line(at).and_then(|line| motion.range(&line)) {
                let value = self.moving(joined, at, range);
                match value {
                    Some(value) => joined.set_place(at, value),
                    None => motion.set(at, None),
                }
            }
        }
        joined.motion = motion;
    }

    /// What is known of a place that moves, which lies in a range.
    fn moving(&self, joined: &State, at: usize, range: Interval) -> Option<Value> {
        let value = joined.place(at);
        if self.how.steps.is_none() {
            return value.within(range);
        }
        // Where bounds are widened, the range is what they are widened to, as far as it has ends.
        let wide = value.extent()?;
        let range = Interval {
            lo: if range.lo == i64::MIN {
                wide.lo
            } else {
                range.lo
            },
            hi: if range.hi == i64::MAX {
                wide.hi
            } else {
                range.hi
            },
        };
        match value {
            Value::Scalar(wide) => {
                let bits = Scalar {
                    value: wide.value,
                    mask: wide.mask,
                    ..Scalar::TOP
                };
                let all = Value::Scalar(bits.sync().unwrap_or(Scalar::TOP)).within(range);
                all.or(Some(value))
            }
            pointer => pointer.anywhere_in(range),
        }
    }

    /// The frames that both know.
    fn outer(&mut self) -> Vec<Outer> {
        let (old, new) = (self.old, self.new);
        let mut outer = Vec::new();
        let block = self.block;
        for own in &old.outer {
            let Some(other) = new.outer.iter().find(|other| other.func == own.func) else {
                continue;
            };
            let first = PLACES + outer.len() * SLOTS;
            let frame = own.frame.join(
                &other.frame,
                |value| named_at(block, value),
                |slot, a, b| self.place(first + slot, a, b),
            );
            outer.push(Outer {
                func: own.func,
                frame,
            });
        }
        outer
    }

    /// How a place is joined: what a loop does not write grows by what is around the loop, where it is widened.
    fn how(&self, at: usize) -> Joining<'a> {
        let Some(around) = self.how.around.filter(|_| !self.how.all) else {
            return self.how;
        };
        let written = match at {
            ..Reg::COUNT => around.writes & 1 << at != 0,
            Reg::COUNT..PLACES => around.writes_slots & 1 << (at - Reg::COUNT) != 0,
            _ => true,
        };
        Joining {
            steps: self.how.steps.filter(|_| written),
            ..self.how
        }
    }

    fn place(&mut self, at: usize, old: Value, new: Value) -> Value {
        let here = Name::Met {
            block: self.block,
            at: at as u16,
        };
        if old == new && !named_at(self.block, &old) {
            return old;
        }
        let joined = old.join(&new, here, &self.how(at));
        let Value::Packet {
            base: Base::Data,
            off,
            ..
        } = joined
        else {
            return joined;
        };
        let name = self.group(&old, &new, here);
        Value::Packet {
            base: Base::Data,
            off,
            name: Some(name),
        }
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

/// Whether a value is named where paths meet at a block.
fn named_at(at: u32, value: &Value) -> bool {
    matches!(value, Value::Packet { name: Some((Name::Met { block, .. }, _)), .. } if *block == at)
}

/// The slots that move or may be found to.
fn moving_slots(meeting: &Meeting<'_>, old: &State, new: &State) -> Vec<usize> {
    let known = meeting.old.places().chain(meeting.new.places());
    let known = known.filter_map(|at| at.checked_sub(Reg::COUNT));
    let mut slots: Vec<usize> = match meeting.between {
        Some(_) => known.chain(old.frame.differing(&new.frame)).collect(),
        None => known.collect(),
    };
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// The next length that widening stops at, from `len` down.
fn step_down(len: i64) -> Option<i64> {
    const STEPS: [i64; 10] = [40, 32, 20, 14, 8, 6, 4, 2, 1, 0];
    STEPS.into_iter().find(|&step| step <= len)
}

//! The states on entry of a block.
//!
//! What one place holds often depends on another: a pointer is set only where a number says so, a packet
//! is long only where its version is six. One state cannot say that. So a block keeps the states of
//! different paths apart, as long as they are few; what comes after is joined into one more state, which is
//! widened, so that every analysis ends.
//!
//! Most programs are proved by keeping apart only states with other kinds of values, or another known length of
//! the packet; the rest is tried if something is left to be checked.

use crate::State;
use crate::value::Joining;

/// How far an analysis keeps paths apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// So many states a block keeps as they come.
    pub(crate) apart: usize,
    /// Into so many states the others are joined, by what kinds of values the registers hold.
    pub(crate) kinds: usize,
    /// Whether known numbers in registers are such kinds too, and whether pointers are kept that nothing seems to
    /// use any more.
    pub(crate) thorough: bool,
    /// So many states all blocks may have more than one each.
    pub(crate) all: usize,
}

impl Limits {
    /// From fast to thorough.
    pub(crate) const LEVELS: [Limits; 3] = [
        Limits {
            apart: 0,
            kinds: 8,
            thorough: false,
            all: 8_000,
        },
        Limits {
            apart: 6,
            kinds: 12,
            thorough: true,
            all: 8_000,
        },
        Limits {
            apart: 80,
            kinds: 40,
            thorough: true,
            all: 16_000,
        },
    ];
}

/// The states on entry of one block. Execution is in one of them at least.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    states: Vec<State>,
    /// Which of them are joined from others, and how often they changed: by kind, or of any kind.
    joined: Vec<(Option<u64>, usize, u32)>,
}

impl Paths {
    /// The states.
    pub(crate) fn states(&self) -> &[State] {
        &self.states
    }

    /// Adds what `state` allows, on entry of `block`. Gives the number of the state that changed, if one did.
    /// `how` says how to join after so many changes.
    pub(crate) fn add<'a>(
        &mut self,
        state: State,
        block: u32,
        limits: &mut Limits,
        in_loop: bool,
        how: impl Fn(u32) -> Joining<'a>,
    ) -> Option<usize> {
        if self.states.iter().any(|known| known.includes(&state)) {
            return None;
        }
        if self.joined.is_empty() && self.states.len() < limits.apart && limits.all > 0 {
            limits.all -= 1;
            return Some(self.push(state));
        }
        let kind = state.kind(limits.thorough, in_loop);
        let place = self
            .joined
            .iter()
            .position(|(known, ..)| *known == Some(kind));
        let any = self.joined.iter().position(|(known, ..)| known.is_none());
        if let Some(place) = place.or(any) {
            let (_, number, joins) = &mut self.joined[place];
            let changed = self.states[*number].join(&state, block, how(*joins));
            *joins += u32::from(changed);
            return changed.then_some(*number);
        }
        let room = self.joined.len() < limits.kinds && limits.all > 0;
        limits.all -= usize::from(room);
        let number = self.push(state);
        self.joined.push((room.then_some(kind), number, 0));
        Some(number)
    }

    fn push(&mut self, state: State) -> usize {
        self.states.push(state);
        self.states.len() - 1
    }

    /// One state that holds whichever path was taken.
    pub(crate) fn all(&self, block: u32, how: Joining<'_>) -> Option<State> {
        let (first, others) = self.states.split_first()?;
        let mut all = first.clone();
        for other in others {
            all.join(other, block, how);
        }
        Some(all)
    }
}

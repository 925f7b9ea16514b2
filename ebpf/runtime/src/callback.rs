//! Callbacks: subprograms whose address a program gives to a helper, which calls them again and again.
//!
//! The engines run such a loop themselves, so that no helper ever enters a program: this module says how
//! often, and with what.

use std::sync::atomic::AtomicU64;

use squalus_isa::{Errno, HelperId};
use squalus_maps::{Cursor, Map};

use crate::{Env, MAX_OPEN_FRAMES, Proto};

/// Most iterations of one `bpf_loop` (`BPF_MAX_LOOPS`).
pub const MAX_LOOPS: u32 = 1 << 23;

/// What a register holds that has the address of a subprogram: no address of anything, and like none.
const FUNCTIONS: u64 = 0xffff_ffff_c000_0000;

/// The number that stands for the address of the subprogram at `slot`.
#[must_use]
pub const fn function_address(slot: usize) -> u64 {
    FUNCTIONS + slot as u64 * 8
}

/// The slot that [`function_address`] made a number of.
pub(crate) const fn function_slot(address: u64) -> usize {
    (address.wrapping_sub(FUNCTIONS) / 8) as usize
}

/// What a helper calls its callback with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iterates {
    /// `r1` the number of the round from 0, `r2` the context (`bpf_loop`).
    Numbers,
    /// `r1` the map, `r2` a key, `r3` its value, `r4` the context (`bpf_for_each_map_elem`).
    Elements,
}

impl Proto {
    /// What the helper iterates over, if it does. The callback is in `r2`, its context in `r3`, flags in
    /// `r4`; `r1` is the number of rounds or the map.
    #[must_use]
    pub const fn iterates(&self) -> Option<Iterates> {
        match self.id {
            HelperId::LOOP => Some(Iterates::Numbers),
            HelperId::FOR_EACH_MAP_ELEM => Some(Iterates::Elements),
            _ => None,
        }
    }
}

/// How many rounds a `bpf_loop` makes at most, given its first and fourth argument.
///
/// # Errors
/// What the helper returns instead: `EINVAL` if there are flags, `E2BIG` if there are too many rounds.
pub const fn loop_rounds(rounds: u64, flags: u64) -> Result<u32, Errno> {
    let rounds = rounds as u32;
    if flags != 0 {
        Err(Errno::EINVAL)
    } else if rounds > MAX_LOOPS {
        Err(Errno::E2BIG)
    } else {
        Ok(rounds)
    }
}

/// So many entries of a map, as a shift, cost a walk over all of them as much as one round.
const ENTRIES_PER_STEP_SHIFT: u32 = 6;

/// Longest key of a map that `bpf_for_each_map_elem` goes over; the kernel knows no such limit.
pub const MAX_LENT_KEY: usize = 512;

/// Room for the keys that callbacks get, one for each call frame. Programs read them by address.
#[derive(Debug)]
pub struct LentKeys {
    keys: Box<[[AtomicU64; MAX_LENT_KEY / 8]]>,
    lens: Box<[u32]>,
}

impl LentKeys {
    pub(crate) fn new() -> LentKeys {
        LentKeys {
            keys: (0..MAX_OPEN_FRAMES)
                .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
            lens: vec![0; MAX_OPEN_FRAMES].into(),
        }
    }

    /// Lends the key of the element with this value to the program's own call frame; `None` if the value is
    /// none of the map's.
    pub(crate) fn lend_key_of(&mut self, map: &Map, value: u64) -> Option<u64> {
        let len = map.def().key_size;
        if len as usize > MAX_LENT_KEY {
            return None;
        }
        let key = self.keys[0].as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the buffer is as long as the longest key; it is made of atomics, so it may be written
        // through a shared reference.
        let found = unsafe { map.key_of(value as usize, key) };
        self.lens[0] = if found { len } else { 0 };
        found.then(|| key.expose_provenance() as u64)
    }

    /// Whether `len` bytes at `address` are of a key that one of the first `frames` call frames was lent.
    #[must_use]
    pub fn holds(&self, address: u64, len: u64, frames: usize) -> bool {
        let lent = self.keys.iter().zip(&self.lens).take(frames);
        lent.into_iter().any(|(key, &size)| {
            let off = address.wrapping_sub(key.as_ptr().addr() as u64);
            off <= size.into() && u64::from(size) - off >= len
        })
    }
}

/// A walk over the elements of a map, for the callback in one call frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Address of the current element's key.
    pub key: u64,
    /// Address of its value.
    pub value: u64,
    cursor: Cursor,
}

impl Walk {
    /// Offset of [`Walk::key`], for generated code.
    pub const OFFSET_KEY: usize = std::mem::offset_of!(Walk, key);
    /// Offset of [`Walk::value`].
    pub const OFFSET_VALUE: usize = std::mem::offset_of!(Walk, value);

    /// A walk before its first element, given the map and flags of `bpf_for_each_map_elem`.
    ///
    /// # Errors
    /// What the helper returns instead: `EINVAL` if there are flags, `ENOTSUPP` if keys are longer than
    /// [`MAX_LENT_KEY`].
    pub fn new(map: &Map, flags: u64) -> Result<Walk, Errno> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        if map.def().key_size as usize > MAX_LENT_KEY {
            return Err(Errno::ENOTSUPP);
        }
        Ok(Walk::default())
    }

    /// Goes to the next element; false if there is none, and then no key is lent any more. `frame` is the
    /// number of the callback's call frame, the program's own being 0.
    pub fn next(&mut self, map: &Map, env: &mut Env, frame: usize) -> bool {
        let (keys, cpu) = (&mut env.keys, env.cpu);
        let (Some(key), Some(len)) = (keys.keys.get(frame), keys.lens.get_mut(frame)) else {
            return false;
        };
        let key = key.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the buffer is as long as the longest key, which `new` checked; it is made of atomics, so
        // it may be written through a shared reference.
        let value = unsafe { map.for_each(&mut self.cursor, key, cpu) };
        *len = value.map_or(0, |_| map.def().key_size);
        if self.key == 0 {
            // The first step. A walk over a huge map takes long without elements, too.
            let effort = u64::from(map.def().max_entries) >> ENTRIES_PER_STEP_SHIFT;
            env.budget = env.budget.saturating_sub(effort);
        }
        self.key = key.expose_provenance() as u64;
        self.value = value.map_or(0, |value| value.expose_provenance() as u64);
        value.is_some()
    }
}

/// In place of a helper that is the engines' business: called as a function it always fails.
pub(crate) unsafe extern "C" fn engine_only(
    _: *mut Env,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
) -> u64 {
    Errno::EINVAL.as_return()
}

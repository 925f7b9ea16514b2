//! The stacks of a program and its subprograms, with a tag for every spilled register.

use core::cell::UnsafeCell;

use squalus_runtime::{MAX_CALL_FRAMES, STACK_SIZE};

use crate::frames::Caller;
use crate::value::{Kind, Value};

const SLOT: usize = 8;
const SLOTS: usize = STACK_SIZE / SLOT;

/// Stack memory of one call. Helpers read and write it through addresses, so it never moves.
#[repr(align(16))]
struct Bytes(UnsafeCell<[u8; STACK_SIZE]>);

struct Level {
    bytes: Box<Bytes>,
    /// For each aligned slot, what a whole spilled register was; `Scalar` otherwise.
    tags: [Kind; SLOTS],
    /// Number of the call that uses this level.
    call: u64,
    /// Where that call goes on when it returns; nowhere if it is the first program.
    caller: Option<Caller>,
}

/// All levels; the deepest in use is the running function's. There are as many as were ever needed: a tail call in a
/// subprogram puts a program with calls of its own on top of those that are open.
pub(crate) struct Stacks {
    levels: Vec<Level>,
    depth: usize,
    /// The level at which the running program began.
    base: usize,
    calls: u64,
}

// SAFETY: through a shared reference nothing reads or writes the cells: `pointer` only computes an
// address, which the interpreter uses while it has the exclusive reference.
unsafe impl Sync for Stacks {}

impl Stacks {
    pub fn new() -> Stacks {
        Stacks {
            levels: (0..MAX_CALL_FRAMES).map(|_| Level::new()).collect(),
            depth: 0,
            base: 0,
            calls: 0,
        }
    }

    /// Leaves all calls and starts the program's own.
    pub fn reset(&mut self) {
        self.depth = 0;
        self.begin_program();
    }

    /// Starts a program in place of the innermost call.
    pub fn begin_program(&mut self) {
        self.base = self.depth;
        self.renew();
    }

    /// The level at which the running program began.
    pub fn base_level(&self) -> usize {
        self.base
    }

    /// Goes on with the program that began at `base`.
    pub fn resume_program(&mut self, base: usize) {
        self.base = base;
    }

    /// Where the innermost call goes on when it returns.
    pub fn caller(&mut self) -> &mut Option<Caller> {
        &mut self.levels[self.depth].caller
    }

    /// How many calls are open below the program.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Opens a call; false if the program has too many.
    pub fn push(&mut self) -> bool {
        if self.depth + 1 == self.base + MAX_CALL_FRAMES {
            return false;
        }
        self.depth += 1;
        if self.depth == self.levels.len() {
            self.levels.push(Level::new());
        }
        self.renew();
        true
    }

    /// Leaves the innermost call; pointers into its stack become invalid.
    pub fn pop(&mut self) {
        self.levels[self.depth].call = 0;
        self.depth -= 1;
    }

    /// Gives the innermost call a fresh, zeroed stack.
    pub fn renew(&mut self) {
        self.calls += 1;
        let level = &mut self.levels[self.depth];
        level.call = self.calls;
        level.tags = [Kind::Scalar; SLOTS];
        *level.bytes.0.get_mut() = [0; STACK_SIZE];
    }

    /// The frame pointer: the end of the innermost stack.
    pub fn frame_pointer(&self) -> Value {
        let level = &self.levels[self.depth];
        Value::new(
            level.base() + STACK_SIZE as u64,
            Kind::Stack { call: level.call },
        )
    }

    /// Where `len` bytes at `address` of the stack of `call` are, if they are inside it and it is open.
    pub fn place(&self, call: u64, address: u64, len: usize) -> Option<StackPlace> {
        let level = self.levels[..=self.depth]
            .iter()
            .position(|level| level.call == call)?;
        let offset = usize::try_from(address.checked_sub(self.levels[level].base())?).ok()?;
        (offset.checked_add(len)? <= STACK_SIZE).then_some(StackPlace { level, offset })
    }

    /// The address of a place.
    pub fn pointer(&self, place: StackPlace) -> *mut u8 {
        let base: *mut u8 = self.levels[place.level].bytes.0.get().cast();
        base.wrapping_add(place.offset)
    }

    /// The lowest address of the stack of `call`, if it is open.
    pub fn base(&self, call: u64) -> Option<u64> {
        let mut levels = self.levels[..=self.depth].iter();
        levels.find(|level| level.call == call).map(Level::base)
    }

    /// What an eight-byte slot of the innermost stack holds.
    pub fn slot(&self, slot: usize) -> Value {
        let level = &self.levels[self.depth];
        let bytes: *const u8 = level.bytes.0.get().cast();
        // SAFETY: the slot is inside the stack, which this interpreter alone uses; all its bytes are initialised.
        let bits = unsafe { bytes.add(slot * SLOT).cast::<u64>().read_unaligned() };
        Value::new(bits, level.tags[slot])
    }

    /// What a whole register loaded from `place` is.
    pub fn tag(&self, place: StackPlace) -> Kind {
        if place.offset.is_multiple_of(SLOT) {
            self.levels[place.level].tags[place.offset / SLOT]
        } else {
            Kind::Scalar
        }
    }

    /// Notes a store of `len` bytes; `kind` is kept if it fills a whole aligned slot.
    pub fn mark(&mut self, place: StackPlace, len: usize, kind: Kind) {
        if len == 0 {
            return;
        }
        let whole = len == SLOT && place.offset.is_multiple_of(SLOT);
        let tag = if whole { kind } else { Kind::Scalar };
        let (first, last) = (place.offset / SLOT, (place.offset + len - 1) / SLOT);
        self.levels[place.level].tags[first..=last].fill(tag);
    }
}

impl Level {
    fn new() -> Level {
        Level {
            bytes: Box::new(Bytes(UnsafeCell::new([0; STACK_SIZE]))),
            tags: [Kind::Scalar; SLOTS],
            call: 0,
            caller: None,
        }
    }

    fn base(&self) -> u64 {
        self.bytes.0.get().expose_provenance() as u64
    }
}

/// A checked position in a stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackPlace {
    level: usize,
    offset: usize,
}

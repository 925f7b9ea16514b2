//! Where things are in a hash, for compiled code that looks up in line.
//!
//! Such code does what [`Index::find`](crate::index::Index) does for a key that is at home or nowhere: it
//! hashes the key, compares the tags of the home set, compares the key of the first way that has the tag, and
//! reads the set's sequence number before and after. If no way has the tag and no entry that belongs here lives
//! elsewhere, the key is absent. In all other cases (the key in the first way is another one, entries live
//! elsewhere, the number has changed) it calls [`Map::lookup`](crate::Map::lookup), which begins again.

use std::mem::offset_of;

use crate::array::Array;
use crate::entries::{Entries, slot_stride};
use crate::index::Index;
use crate::key::MASKS;
use crate::lru::Clock;
use crate::set::Set;
use crate::words;

/// Addresses and numbers of one hash. They never change while the map lives. A map that is found at run time
/// has them at [`Map::OFFSET_LAYOUT`](crate::Map::OFFSET_LAYOUT).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashLayout {
    /// Address of the first set.
    pub sets: u64,
    /// How many sets a hash chooses from.
    pub set_count: u64,
    /// Secrets of the hash (see `key::Hasher`): masks of the key's words, and the factor of the last
    /// multiplication.
    pub secrets: [u64; MASKS + 1],
    /// Address of slot 0, which begins with the key's words, the last one filled up with zeros.
    pub slots: u64,
    /// Bytes between slots.
    pub stride: u64,
    /// Address of the value (CPU 0's) in slot 0.
    pub values: u64,
    /// Bytes between the values of slots.
    pub value_stride: u64,
    /// Bytes between the values of CPUs, 0 if they share one.
    pub plane: u64,
    /// How many CPUs have values; another CPU counts as the first.
    pub copies: u64,
    /// Address of the byte that a lookup stamps its way with: in LRU maps it says when it is, in others it is
    /// always what ways are stamped with.
    pub now: u64,
}

impl HashLayout {
    /// Bytes of a set.
    pub const SET: usize = size_of::<Set>();
    /// Offset in a set of the tags, a byte for each way, 0 in free ones. A key's tag is the lowest byte of its
    /// hash with the lowest bit set.
    pub const TAGS: usize = offset_of!(Set, tags);
    /// Offset in a set of the stamps, a byte for each way.
    pub const STAMPS: usize = offset_of!(Set, stamps);
    /// Offset in a set of the slots' numbers, 32 bits for each way.
    pub const SLOTS: usize = offset_of!(Set, slots);
    /// Offset in a set of its 32-bit sequence number.
    pub const SEQ: usize = offset_of!(Set, seq);
    /// Offset in a set of the 32-bit number of entries that belong here but live elsewhere.
    pub const DISPLACED: usize = offset_of!(Set, displaced);
    /// How many words of a key have masks of their own; then they come again.
    pub const MASKS: usize = MASKS;

    /// Bytes between slots of a map with keys and values of these sizes, whose values are in the slots: behind
    /// the key, each padded to words.
    #[must_use]
    pub const fn stride(key_size: usize, value_size: usize) -> usize {
        slot_stride(words::pad(key_size) + words::pad(value_size))
    }

    /// An array's: of its elements, how many they are ([`HashLayout::set_count`]), and where the values are.
    pub(crate) fn of_array(array: &Array) -> HashLayout {
        let base = array.base();
        HashLayout {
            set_count: base.entries.into(),
            values: base.base as u64,
            value_stride: base.stride as u64,
            plane: base.cpu_stride as u64,
            copies: array.copies().into(),
            ..HashLayout::default()
        }
    }

    pub(crate) fn new(index: &Index, entries: &Entries, lru: Option<&Clock>) -> HashLayout {
        /// What the ways of maps without a clock are stamped with.
        static NEVER: u8 = 0;
        let (sets, set_count) = index.layout();
        let (slots, stride) = entries.slots();
        let layout = HashLayout {
            sets: sets as u64,
            set_count: set_count.into(),
            secrets: index.hasher().secrets(),
            slots: slots as u64,
            stride: stride as u64,
            now: lru.map_or_else(|| (&raw const NEVER).expose_provenance(), Clock::address) as u64,
            ..HashLayout::default()
        };
        entries.with_values(layout)
    }
}

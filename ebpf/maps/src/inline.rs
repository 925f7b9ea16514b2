//! Where things are in a hash, for compiled code that looks up in line.
//!
//! Such code does what [`Index::find`](crate::index::Index) does for a key that is at home: it hashes the
//! key, compares the tags of the home set, compares the key of the first way that has the tag, and reads the
//! set's sequence number before and after. In all other cases (no way has the tag, the key is another one, the
//! number has changed) it calls [`Map::lookup`](crate::Map::lookup), which begins again.

use std::mem::offset_of;

use crate::entries::Entries;
use crate::index::Index;
use crate::key::Hasher;
use crate::lru::Clock;
use crate::set::Set;

/// Addresses and numbers of one hash. They never change while the map lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashLayout {
    /// Address of the first set.
    pub sets: usize,
    /// How many sets a hash chooses from.
    pub set_count: u32,
    /// Secret that the key's words are masked with.
    pub mask: u64,
    /// Secret that the hash starts from.
    pub last: u64,
    /// Address of slot 0, which begins with the key's words.
    pub slots: usize,
    /// Bytes between slots.
    pub stride: usize,
    /// Words of 8 bytes in a key, the last one filled up with zeros.
    pub key_words: usize,
    /// Where the values are, if each CPU has its own; else they follow the key's words.
    pub per_cpu: Option<PerCpuValues>,
    /// Address of the byte that says when it is, in LRU maps: a lookup stamps its way with it.
    pub now: Option<usize>,
}

/// `values + cpu * plane + slot * stride`; a CPU beyond the copies counts as the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerCpuValues {
    /// Address of CPU 0's value in slot 0.
    pub values: usize,
    /// Bytes between CPUs.
    pub plane: usize,
    /// Bytes between slots.
    pub stride: usize,
    /// How many CPUs have values.
    pub copies: u32,
}

impl HashLayout {
    /// Bytes of a set.
    pub const SET: usize = size_of::<Set>();
    /// Offset in a set of the tags, a byte for each way.
    pub const TAGS: usize = offset_of!(Set, tags);
    /// Offset in a set of the stamps, a byte for each way.
    pub const STAMPS: usize = offset_of!(Set, stamps);
    /// Offset in a set of the slots' numbers, 32 bits for each way, of which the highest is not part.
    pub const SLOTS: usize = offset_of!(Set, slots);
    /// Offset in a set of its 32-bit sequence number.
    pub const SEQ: usize = offset_of!(Set, seq);
    /// Odd constants of the hash: see [`Hasher::hash`](crate::key::Hasher).
    pub const CONSTANTS: [u64; 3] = Hasher::CONSTANTS;

    pub(crate) fn new(index: &Index, entries: &Entries, lru: Option<&Clock>) -> HashLayout {
        let (sets, set_count) = index.layout();
        let (mask, last) = index.secrets();
        let (slots, stride) = entries.slots();
        HashLayout {
            sets,
            set_count,
            mask,
            last,
            slots,
            stride,
            key_words: entries.key_words(),
            per_cpu: entries.per_cpu_values(),
            now: lru.map(Clock::address),
        }
    }
}

//! `LPM_TRIE` (kernel/bpf/lpm_trie.c): prefixes to values, looked up by longest match.
//!
//! A binary trie in which each node carries a whole prefix and chains of single children are skipped. Where
//! two prefixes part and none of the map's ends there, an *intermediate* node without a value joins them;
//! it always has two children.
//!
//! A table for all values of the first bits of a key says where the way down from the root has led after these
//! bits. So a lookup needs no step for them: in tries with fewer prefixes than the table has entries, mostly one
//! step in all.
//!
//! Writers take a lock; readers do not. A node is filled before one store makes it reachable, and a removed
//! node is used again only after the table no longer leads there and the sequence number was counted up. A
//! reader that walked through nodes while that happened sees the number changed and starts again. Adding
//! prefixes disturbs no reader.

use std::cmp::min;
use std::io;
use std::ops::ControlFlow;

use squalus_isa::{Errno, MapDef, UpdateFlags};

use crate::arena::Arena;
use crate::pool::Pool;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::words::{self, WORD};

mod changes;
mod shortcuts;

use shortcuts::Shortcut;

/// Bytes of the prefix length before a key's data.
const LEN_BYTES: usize = 4;
/// Marks, in a node's length, that it has no value.
const INTERMEDIATE: u32 = 1 << 31;

pub(crate) struct Trie {
    arena: Arena,
    stride: usize,
    data_len: usize,
    data_words: usize,
    value_size: usize,
    max_prefix: u32,
    max_entries: u32,
    root: AtomicU32,
    /// Entries ([`Shortcut`]) by the first `bits` bits of a key.
    table: Arena,
    bits: u32,
    seq: AtomicU32,
    live: AtomicU32,
    nodes: Pool,
    capacity: u32,
    writers: Mutex<()>,
}

/// What begins a node; data, then the value follow, each padded to words. Links are a node's number plus
/// one, 0 for none.
#[repr(C)]
struct Head {
    child: [AtomicU32; 2],
    /// Length in bits, and [`INTERMEDIATE`].
    len: AtomicU32,
    _pad: u32,
}

/// Words that hold the longest data there can be: 256 bytes.
const MOST_WORDS: usize = 32;

/// A key: as many bits of its data as `len` says, in big-endian words, so that the first bit is the most
/// significant one. Of `W` words as many are used as data has.
struct Prefix<const W: usize = MOST_WORDS> {
    len: u32,
    words: [u64; W],
}

impl<const W: usize> Prefix<W> {
    fn bit(&self, at: u32) -> usize {
        (self.words[at as usize / 64] >> (63 - at % 64) & 1) as usize
    }
}

/// The last three nodes on the way to a key.
#[derive(Clone, Copy, Default)]
struct Path {
    above: Option<u32>,
    parent: Option<u32>,
    last: Option<u32>,
}

impl Trie {
    pub(crate) fn new(def: &MapDef, colour: u32) -> io::Result<Trie> {
        let data_len = def.key_size as usize - LEN_BYTES;
        let value_size = def.value_size as usize;
        let data_words = data_len.div_ceil(WORD);
        let stride = size_of::<Head>() + data_words * WORD + words::pad(value_size);
        // Every intermediate node joins two others, so there are fewer of them than entries; two more are
        // needed while a change is under way.
        let capacity = min(u64::from(def.max_entries) * 2 + 2, u64::from(INTERMEDIATE)) as u32;
        let bits = shortcuts::bits(def.max_entries, data_len as u32 * 8);
        Ok(Trie {
            arena: Arena::new(stride * capacity as usize, colour)?,
            stride,
            data_len,
            data_words,
            value_size,
            max_prefix: data_len as u32 * 8,
            max_entries: def.max_entries,
            root: AtomicU32::new(0),
            table: Arena::new(size_of::<AtomicU64>() << bits, colour.wrapping_add(1))?,
            bits,
            seq: AtomicU32::new(0),
            live: AtomicU32::new(0),
            nodes: Pool::new(capacity)?,
            capacity,
            writers: Mutex::new(()),
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        let Some(offset) = self.arena.offset_of(addr) else {
            return false;
        };
        let (node, at) = (offset / self.stride, offset % self.stride);
        let start = self.stride - words::pad(self.value_size);
        let end = at.checked_add(len);
        node < self.capacity as usize
            && at >= start
            && end.is_some_and(|end| end <= start + self.value_size)
    }
}

/// Program side.
impl Trie {
    /// # Safety
    /// `key` is readable for the key size.
    pub(crate) unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        let value = |node| self.value(node);
        // SAFETY: the caller's. Data of one or two words, as addresses have, is kept in registers.
        let found = unsafe {
            match self.data_words {
                1 => self.longest(&self.prefix::<1>(key), value),
                2 => self.longest(&self.prefix::<2>(key), value),
                _ => return self.lookup_long(key),
            }
        };
        found.unwrap_or(std::ptr::null_mut())
    }

    /// # Safety
    /// `key` is readable for the key size.
    #[cold]
    unsafe fn lookup_long(&self, key: *const u8) -> *mut u8 {
        // SAFETY: the caller's.
        let key = unsafe { self.prefix::<MOST_WORDS>(key) };
        let found = self.longest(&key, |node| self.value(node));
        found.unwrap_or(std::ptr::null_mut())
    }

    /// # Safety
    /// `key` and `value` are readable for the key and value size.
    pub(crate) unsafe fn update(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
    ) -> Result<(), Errno> {
        if flags > UpdateFlags::EXIST.0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's.
        let key = unsafe { self.prefix::<MOST_WORDS>(key) };
        if key.len > self.max_prefix {
            return Err(Errno::EINVAL);
        }
        let _guard = self.lock();
        let new = self.nodes.pop().ok_or(Errno::ENOMEM)?;
        // SAFETY: a node that no reader can reach; the value is the caller's.
        unsafe {
            self.fill(new, &key);
            words::store(self.value(new), value, self.value_size);
        }
        let linked = self.link_new(new, &key, flags);
        if linked.is_err() {
            self.nodes.push(new);
        }
        linked
    }

    /// # Safety
    /// `key` is readable for the key size.
    pub(crate) unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's.
        let key = unsafe { self.prefix::<MOST_WORDS>(key) };
        if key.len > self.max_prefix {
            return Err(Errno::EINVAL);
        }
        let _guard = self.lock();
        let path = self.path(&key);
        let found = path.last.filter(|&node| self.is_exactly(node, &key));
        self.unlink(found.ok_or(Errno::ENOENT)?, path);
        self.live.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Control side. Keys and values have the right length.
impl Trie {
    pub(crate) fn sys_lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: the slice has the key's length.
        let key = unsafe { self.prefix::<MOST_WORDS>(key.as_ptr()) };
        self.longest(&key, |node| {
            let mut bytes = vec![0; self.value_size];
            // SAFETY: the node's value has `value_size` bytes, aligned.
            unsafe { words::load(bytes.as_mut_ptr(), self.value(node), self.value_size) };
            bytes
        })
    }

    /// The next prefix in the kernel's order: the more specific before what contains it, 0 before 1.
    pub(crate) fn sys_next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        let _guard = self.lock();
        let root = self.root.load(Ordering::Acquire);
        let next = match key.map(|key| self.after(key)) {
            Some(ControlFlow::Break(next)) => next,
            Some(ControlFlow::Continue(())) | None => self.leftmost(root),
        };
        next.map(|node| self.key_bytes(node))
    }
}

/// Nodes.
impl Trie {
    fn head(&self, node: u32) -> &Head {
        debug_assert!(node < self.capacity);
        // SAFETY: in bounds and aligned; zeroed memory is a valid head.
        unsafe { &*self.arena.at(node as usize * self.stride).cast::<Head>() }
    }

    fn data(&self, node: u32) -> *mut u8 {
        let head = self.arena.at(node as usize * self.stride);
        head.wrapping_add(size_of::<Head>())
    }

    fn value(&self, node: u32) -> *mut u8 {
        self.data(node).wrapping_add(self.data_words * WORD)
    }

    fn data_word(&self, node: u32, index: usize) -> u64 {
        debug_assert!(index < self.data_words);
        // SAFETY: a node has `data_words` aligned words of data.
        let word = unsafe { &*self.data(node).cast::<AtomicU64>().add(index) };
        u64::from_be(word.load(Ordering::Relaxed))
    }

    fn data_bit(&self, node: u32, at: u32) -> usize {
        (self.data_word(node, at as usize / 64) >> (63 - at % 64) & 1) as usize
    }

    /// The node's length, and whether it has a value.
    fn len_of(&self, node: u32) -> (u32, bool) {
        let len = self.head(node).len.load(Ordering::Acquire);
        (len & !INTERMEDIATE, len & INTERMEDIATE == 0)
    }

    fn child(&self, node: u32, side: usize) -> u32 {
        self.head(node).child[side].load(Ordering::Acquire)
    }

    /// The link below `parent` on the side that its length decides; without a parent, the root.
    fn link(&self, parent: Option<u32>, side: impl Fn(u32) -> usize) -> &AtomicU32 {
        match parent {
            None => &self.root,
            Some(parent) => &self.head(parent).child[side(self.len_of(parent).0)],
        }
    }

    /// Gives a node its prefix, and no children.
    ///
    /// # Safety
    /// No reader can reach the node.
    unsafe fn fill(&self, node: u32, key: &Prefix) {
        // As in `Entries::fill`.
        fence(Ordering::Release);
        let head = self.head(node);
        head.child[0].store(0, Ordering::Relaxed);
        head.child[1].store(0, Ordering::Relaxed);
        head.len.store(key.len, Ordering::Relaxed);
        for index in 0..self.data_words {
            // SAFETY: a node has `data_words` aligned words of data.
            let word = unsafe { &*self.data(node).cast::<AtomicU64>().add(index) };
            word.store(key.words[index].to_be(), Ordering::Relaxed);
        }
    }

    fn key_bytes(&self, node: u32) -> Vec<u8> {
        let mut bytes = vec![0; LEN_BYTES + self.data_len];
        let (len, data) = bytes.split_at_mut(LEN_BYTES);
        len.copy_from_slice(&self.len_of(node).0.to_ne_bytes());
        // SAFETY: the node's data has `data_len` bytes, aligned.
        unsafe { words::load(data.as_mut_ptr(), self.data(node), self.data_len) };
        bytes
    }

    /// # Safety
    /// `key` is readable for the key size.
    #[inline(always)]
    unsafe fn prefix<const W: usize>(&self, key: *const u8) -> Prefix<W> {
        let mut words = [0; W];
        // SAFETY: the caller's.
        let len = unsafe {
            let data = key.add(LEN_BYTES);
            for (index, word) in words.iter_mut().take(self.data_words).enumerate() {
                let read = words::key_word(data, self.data_len, index);
                *word = u64::from_be_bytes(read.to_le_bytes());
            }
            key.cast::<u32>().read_unaligned()
        };
        Prefix { len, words }
    }

    /// Whether a node's prefix, of this length, begins the key.
    #[inline(always)]
    fn begins<const W: usize>(&self, node: u32, len: u32, key: &Prefix<W>) -> bool {
        if len > key.len {
            return false;
        }
        let mut left = len;
        for index in 0..W {
            let different = self.data_word(node, index) ^ key.words[index];
            if left <= 64 {
                return different.checked_shr(64 - left).unwrap_or(0) == 0;
            }
            if different != 0 {
                return false;
            }
            left -= 64;
        }
        true
    }

    /// How many bits a node and a key have in common, of those that both have.
    fn common(&self, node: u32, len: u32, key: &Prefix) -> u32 {
        let limit = min(len, key.len);
        let mut bits = 0;
        while bits < limit {
            let index = bits as usize / 64;
            let different = self.data_word(node, index) ^ key.words[index];
            bits += different.leading_zeros();
            if different != 0 {
                break;
            }
        }
        min(bits, limit)
    }
}

/// Walks.
impl Trie {
    /// Applies `read` to the node with the longest prefix that `key` has. What `read` saw of the node is
    /// consistent: it is repeated if a node was removed meanwhile.
    #[inline(always)]
    fn longest<const W: usize, R>(&self, key: &Prefix<W>, read: impl Fn(u32) -> R) -> Option<R> {
        if key.len > self.max_prefix {
            return None;
        }
        loop {
            let seq = self.seq.load(Ordering::Acquire);
            let result = self.walk(key).map(&read);
            fence(Ordering::Acquire);
            if self.seq.load(Ordering::Relaxed) == seq {
                return result;
            }
        }
    }

    #[inline(always)]
    fn walk<const W: usize>(&self, key: &Prefix<W>) -> Option<u32> {
        let (mut link, mut found) = (self.root.load(Ordering::Acquire), None);
        if key.len >= self.bits {
            let shortcut = self.shortcut((key.words[0] >> (64 - self.bits)) as u32);
            let shortcut = Shortcut::of(shortcut.load(Ordering::Acquire));
            link = shortcut.link;
            found = shortcut.found.checked_sub(1);
        }
        let mut depth = None;
        while let Some(node) = link.checked_sub(1) {
            let (len, has_value) = self.len_of(node);
            // Lengths grow on the way down, unless nodes were used again under us.
            if depth >= Some(len) || !self.begins(node, len, key) {
                break;
            }
            if has_value {
                found = Some(node);
            }
            if len == self.max_prefix {
                break;
            }
            depth = Some(len);
            link = self.child(node, key.bit(len));
        }
        found
    }

    /// The end of the way from the root down to `key`. The caller holds the lock.
    fn path(&self, key: &Prefix) -> Path {
        let mut path = Path::default();
        self.descend(key, |node| {
            path = Path {
                above: path.parent,
                parent: path.last,
                last: Some(node),
            };
        });
        path
    }

    /// Visits the nodes from the root down to the one that is `key`, or else the last one on the way there,
    /// which may be the first that is not wholly in common with it.
    fn descend(&self, key: &Prefix, mut visit: impl FnMut(u32)) {
        let mut link = self.root.load(Ordering::Acquire);
        while let Some(node) = link.checked_sub(1) {
            visit(node);
            let (len, _) = self.len_of(node);
            if self.common(node, len, key) != len || len == key.len {
                break;
            }
            link = self.child(node, key.bit(len));
        }
    }

    fn is_exactly(&self, node: u32, key: &Prefix) -> bool {
        let (len, has_value) = self.len_of(node);
        has_value && len == key.len && self.common(node, len, key) == len
    }

    /// What follows `key`, unless it is absent.
    fn after(&self, key: &[u8]) -> ControlFlow<Option<u32>> {
        // SAFETY: the slice has the key's length.
        let key = unsafe { self.prefix::<MOST_WORDS>(key.as_ptr()) };
        if key.len > self.max_prefix {
            return ControlFlow::Continue(());
        }
        let mut path = Vec::new();
        self.descend(&key, |node| path.push(node));
        if !path.last().is_some_and(|&node| self.is_exactly(node, &key)) {
            return ControlFlow::Continue(());
        }
        let next = path.windows(2).rev().find_map(|pair| {
            let (parent, node) = (pair[0], pair[1]);
            let right = self.child(parent, 1);
            if self.child(parent, 0) == node + 1 && right != 0 {
                return self.leftmost(right);
            }
            self.len_of(parent).1.then_some(parent)
        });
        ControlFlow::Break(next)
    }

    /// The first node, in order, of those below a link.
    fn leftmost(&self, mut link: u32) -> Option<u32> {
        let mut first = None;
        while let Some(node) = link.checked_sub(1) {
            if self.len_of(node).1 {
                first = Some(node);
            }
            link = match self.child(node, 0) {
                0 => self.child(node, 1),
                left => left,
            };
        }
        first
    }
}

#[cfg(test)]
mod tests;

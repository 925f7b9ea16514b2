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
use std::ops::{ControlFlow, Range};

use squalus_isa::{Errno, MapDef, UpdateFlags};

use crate::arena::Arena;
use crate::pool::Pool;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::words::{self, WORD};

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

/// Where the way to keys that begin alike leads: the link to the first node that is as long as what is known of
/// them, and the link of the longest prefix with a value before it, packed into a word. Both 0 if there is none.
#[derive(Clone, Copy)]
struct Shortcut {
    link: u32,
    found: u32,
}

impl Shortcut {
    fn of(word: u64) -> Shortcut {
        Shortcut {
            link: word as u32,
            found: (word >> 32) as u32,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.found) << 32 | u64::from(self.link)
    }
}

/// The table has at most so many bits: it stays in the first levels of the cache.
const MOST_BITS: u32 = 12;
/// The table has so many times as many entries as there may be prefixes, as a shift: where most entries lead to
/// one node or none, lookups take the same way, which processors can predict. Models have few steps to look at.
const ROOM_SHIFT: u32 = if cfg!(feature = "model") { 0 } else { 2 };

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
        let bits = (def.max_entries.max(1).ilog2() + ROOM_SHIFT).min(MOST_BITS);
        let bits = bits.min(data_len as u32 * 8);
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

/// The table. Who changes it holds the lock.
impl Trie {
    #[inline]
    fn shortcut(&self, number: u32) -> &AtomicU64 {
        let at = self.table.at(number as usize * size_of::<AtomicU64>());
        // SAFETY: numbers have at most `bits` bits, and only such words live here.
        unsafe { &*at.cast::<AtomicU64>() }
    }

    /// Brings up to date what goes through a node, on the way to keys that begin with `word`, or through the root.
    fn refresh(&self, word: u64, node: Option<u32>) {
        let len = node.map_or(0, |node| self.len_of(node).0);
        let through = self.numbers(word, len);
        self.refresh_below(through, self.root.load(Ordering::Relaxed), 0);
    }

    /// The entries for keys that begin with the first `len` bits of `word`.
    fn numbers(&self, word: u64, len: u32) -> Range<u32> {
        let free = self.bits - min(len, self.bits);
        let first = (word >> (64 - self.bits)) as u32 >> free << free;
        first..first + (1 << free)
    }

    /// Brings entries up to date, all of which lie below a link.
    fn refresh_below(&self, entries: Range<u32>, link: u32, found: u32) {
        let set = |entries: Range<u32>, shortcut: Shortcut| {
            for number in entries {
                self.shortcut(number)
                    .store(shortcut.word(), Ordering::Release);
            }
        };
        let node = link.checked_sub(1);
        let Some((node, (len, has_value))) = node
            .map(|node| (node, self.len_of(node)))
            .filter(|(_, (len, _))| *len < self.bits)
        else {
            return set(entries, Shortcut { link, found });
        };
        let own = self.numbers(self.data_word(node, 0), len);
        let none = Shortcut { link: 0, found };
        let (start, end) = (own.start.max(entries.start), own.end.min(entries.end));
        if start >= end {
            return set(entries, none);
        }
        set(entries.start..start, none);
        set(end..entries.end, none);
        let found = if has_value { link } else { found };
        let middle = own.start + (own.end - own.start) / 2;
        let below = |entries: Range<u32>, side: usize| {
            if !entries.is_empty() {
                self.refresh_below(entries, self.child(node, side), found);
            }
        };
        below(start..end.min(middle), 0);
        below(start.max(middle)..end, 1);
    }
}

/// Changes. The caller holds the lock.
impl Trie {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a filled node reachable where its key belongs.
    fn link_new(&self, new: u32, key: &Prefix, flags: u64) -> Result<(), Errno> {
        let path = self.path(key);
        let Some(node) = path.last.filter(|&node| !self.goes_below(node, key)) else {
            self.add(flags)?;
            let link = self.link(path.last, |len| key.bit(len));
            link.store(new + 1, Ordering::Release);
            self.refresh(key.words[0], path.last);
            return Ok(());
        };
        let link = self.link(path.parent, |len| key.bit(len));
        let (len, has_value) = self.len_of(node);
        let common = self.common(node, len, key);
        if common == len {
            self.link_instead(link, node, has_value, new, flags)?;
            self.refresh(key.words[0], path.parent);
            self.free(&[node]);
            return Ok(());
        }
        self.add(flags)?;
        if common == key.len {
            self.set_child(new, self.data_bit(node, common), node);
            link.store(new + 1, Ordering::Release);
            self.refresh(key.words[0], path.parent);
            return Ok(());
        }
        let Some(joint) = self.nodes.pop() else {
            self.live.fetch_sub(1, Ordering::AcqRel);
            return Err(Errno::ENOMEM);
        };
        // SAFETY: a node that no reader can reach.
        unsafe {
            self.fill(
                joint,
                &Prefix {
                    len: common,
                    words: key.words,
                },
            )
        };
        self.head(joint)
            .len
            .store(common | INTERMEDIATE, Ordering::Relaxed);
        self.set_child(joint, key.bit(common), new);
        self.set_child(joint, 1 - key.bit(common), node);
        link.store(joint + 1, Ordering::Release);
        self.refresh(key.words[0], path.parent);
        Ok(())
    }

    /// Whether a key belongs below the last node of its path, on a side where nothing is yet.
    fn goes_below(&self, node: u32, key: &Prefix) -> bool {
        let (len, _) = self.len_of(node);
        len < key.len && self.common(node, len, key) == len
    }

    /// Puts `new` in place of `node`, which has the same prefix.
    fn link_instead(
        &self,
        link: &AtomicU32,
        node: u32,
        has_value: bool,
        new: u32,
        flags: u64,
    ) -> Result<(), Errno> {
        if !has_value {
            self.add(flags)?;
        } else if flags == UpdateFlags::NOEXIST.0 {
            return Err(Errno::EEXIST);
        }
        for side in 0..2 {
            let child = self.child(node, side);
            self.head(new).child[side].store(child, Ordering::Relaxed);
        }
        link.store(new + 1, Ordering::Release);
        Ok(())
    }

    /// Counts a new entry, if it may be.
    fn add(&self, flags: u64) -> Result<(), Errno> {
        if flags == UpdateFlags::EXIST.0 {
            return Err(Errno::ENOENT);
        }
        if self.len() == self.max_entries {
            return Err(Errno::ENOSPC);
        }
        self.live.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn set_child(&self, node: u32, side: usize, child: u32) {
        self.head(node).child[side].store(child + 1, Ordering::Relaxed);
    }

    /// Removes the entry of a node, and the nodes that are no longer needed.
    fn unlink(&self, node: u32, path: Path) {
        let side = |len| self.data_bit(node, len);
        let children = [self.child(node, 0), self.child(node, 1)];
        if !children.contains(&0) {
            let len = self.len_of(node).0 | INTERMEDIATE;
            self.head(node).len.store(len, Ordering::Release);
            self.refresh(self.data_word(node, 0), Some(node));
            return;
        }
        let joint = path.parent.filter(|&parent| !self.len_of(parent).1);
        if let (Some(joint), [0, 0]) = (joint, children) {
            // It has lost one of its two children: the other one takes its place.
            let left = self.child(joint, 0) == node + 1;
            let sibling = self.child(joint, usize::from(left));
            self.link(path.above, side)
                .store(sibling, Ordering::Release);
            self.refresh(self.data_word(node, 0), path.above);
            self.free(&[joint, node]);
            return;
        }
        let only = children[0] | children[1];
        self.link(path.parent, side).store(only, Ordering::Release);
        self.refresh(self.data_word(node, 0), path.parent);
        self.free(&[node]);
    }

    /// Lets nodes be used again that neither links nor the table lead to, after readers can notice.
    fn free(&self, nodes: &[u32]) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
        for &node in nodes {
            self.nodes.push(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squalus_isa::{MapFlags, MapType};

    fn trie() -> Trie {
        trie_of(100)
    }

    fn trie_of(max_entries: u32) -> Trie {
        let def = MapDef {
            name: "t".into(),
            kind: MapType::LpmTrie,
            key_size: 8,
            value_size: 4,
            max_entries,
            flags: MapFlags::NO_PREALLOC,
            inner: None,
            extra: 0,
            fields: Default::default(),
        };
        Trie::new(&def, 0).unwrap()
    }

    fn key(len: u32, data: [u8; 4]) -> [u8; 8] {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&len.to_ne_bytes());
        key[4..].copy_from_slice(&data);
        key
    }

    fn insert(trie: &Trie, len: u32, data: [u8; 4], value: u32) {
        let value = value.to_ne_bytes();
        // SAFETY: key and value have their sizes.
        unsafe {
            trie.update(key(len, data).as_ptr(), value.as_ptr(), 0)
                .unwrap()
        }
    }

    fn get(trie: &Trie, len: u32, data: [u8; 4]) -> Option<u32> {
        let value = trie.sys_lookup(&key(len, data))?;
        Some(u32::from_ne_bytes(value.try_into().unwrap()))
    }

    #[test]
    fn the_longest_match_wins() {
        let trie = trie();
        insert(&trie, 0, [0; 4], 1);
        insert(&trie, 8, [10, 0, 0, 0], 2);
        insert(&trie, 24, [10, 1, 2, 0], 3);
        insert(&trie, 32, [10, 1, 2, 3], 4);
        assert_eq!(get(&trie, 32, [11, 0, 0, 0]), Some(1));
        assert_eq!(get(&trie, 32, [10, 9, 0, 0]), Some(2));
        assert_eq!(get(&trie, 32, [10, 1, 2, 4]), Some(3));
        assert_eq!(get(&trie, 32, [10, 1, 2, 3]), Some(4));
        assert_eq!(get(&trie, 24, [10, 1, 2, 3]), Some(3));
        assert_eq!(get(&trie, 16, [10, 1, 2, 3]), Some(2));
        assert_eq!(get(&trie, 33, [10, 1, 2, 3]), None);
    }

    /// Against a list of all prefixes, with tables smaller and larger than what is in use.
    #[test]
    fn shortcuts_lead_where_the_way_does() {
        for max_entries in [1, 2, 40, 5000] {
            let trie = trie_of(max_entries);
            let mut all = std::collections::BTreeMap::new();
            let mut state = 1_u64;
            let mut random = |below: u32| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 40) as u32 % below
            };
            for round in 0..3000 {
                let len = random(33);
                // Few bits differ, so that prefixes contain each other.
                let address = (random(64) << 26 | random(4) << 14 | random(4)) & mask(len);
                if random(3) != 0 && all.len() < max_entries as usize {
                    insert(&trie, len, address.to_be_bytes(), round);
                    all.insert((len, address), round);
                } else {
                    let key = key(len, address.to_be_bytes());
                    // SAFETY: the key has its size.
                    let deleted = unsafe { trie.delete(key.as_ptr()) };
                    assert_eq!(deleted.is_ok(), all.remove(&(len, address)).is_some());
                }
                for _ in 0..4 {
                    let (len, address) = (
                        32 - random(2) * random(33),
                        random(64) << 26 | random(4) << 14,
                    );
                    let holds = |(prefix, _): &(&(u32, u32), &u32)| {
                        prefix.0 <= len && address & mask(prefix.0) == prefix.1
                    };
                    let want = all.iter().filter(holds).max_by_key(|(prefix, _)| prefix.0);
                    assert_eq!(
                        get(&trie, len, address.to_be_bytes()),
                        want.map(|(_, value)| *value)
                    );
                }
            }
        }
    }

    fn mask(len: u32) -> u32 {
        u32::MAX.checked_shl(32 - len).unwrap_or(0)
    }

    #[test]
    fn all_nodes_come_back() {
        let trie = trie();
        for round in 0..50 {
            for at in 0..100_u8 {
                insert(
                    &trie,
                    32 - u32::from(at % 5),
                    [at, at.wrapping_mul(37), round, 0],
                    1,
                );
            }
            assert_eq!(trie.len(), 100);
            while let Some(key) = trie.sys_next_key(None) {
                // SAFETY: the key has its size.
                unsafe { trie.delete(key.as_ptr()).unwrap() }
            }
            assert_eq!((trie.len(), trie.root.load(Ordering::Relaxed)), (0, 0));
        }
    }
}

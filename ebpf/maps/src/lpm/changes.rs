//! How prefixes come and go. Readers see each change at one store, or start again.

use squalus_isa::{Errno, UpdateFlags};

use super::{INTERMEDIATE, Path, Prefix, Trie};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{MutexGuard, PoisonError};

/// Changes. The caller holds the lock.
impl Trie {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a filled node reachable where its key belongs.
    pub(super) fn link_new(&self, new: u32, key: &Prefix, flags: u64) -> Result<(), Errno> {
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
        let Some(joint) = self.joint(key, common, new, node) else {
            self.live.fetch_sub(1, Ordering::AcqRel);
            return Err(Errno::ENOMEM);
        };
        link.store(joint + 1, Ordering::Release);
        self.refresh(key.words[0], path.parent);
        Ok(())
    }

    /// An intermediate node where `new`, whose prefix is `key`, and `node` part after `common` bits. `None` if no
    /// node is free.
    fn joint(&self, key: &Prefix, common: u32, new: u32, node: u32) -> Option<u32> {
        let joint = self.nodes.pop()?;
        let prefix = Prefix {
            len: common,
            words: key.words,
        };
        // SAFETY: a node that no reader can reach.
        unsafe { self.fill(joint, &prefix) };
        let len = &self.head(joint).len;
        len.store(common | INTERMEDIATE, Ordering::Relaxed);
        self.set_child(joint, key.bit(common), new);
        self.set_child(joint, 1 - key.bit(common), node);
        Some(joint)
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
    pub(super) fn unlink(&self, node: u32, path: Path) {
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

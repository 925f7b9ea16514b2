//! The index of a hash: from a key to the number of its slot.
//!
//! Every key has two sets where it may live, its *home* and one *other*. It is put into its home if there
//! is a way free, so nearly all lookups read one line; the home counts the entries it had to send away, and
//! only while there are any does a lookup go on to the other set. When both sets are full, an entry of
//! theirs that has room in its own second set moves there. With sets filled to 60 % on average, that has
//! always been enough in our measurements; but chance guarantees nothing, so maps that may not refuse
//! entries (all but LRU maps) have a *stash* behind, sets searched one after the other.
//!
//! In maps that never evict, entries only move to sets with higher numbers: a walk, which goes up, never
//! misses what stays in the map. The price is that of a map filled to the last entry about one in ten
//! thousand is in the stash.
//!
//! # Locks
//! Each key's changes are serialised by its home's lock. Each set is changed only under its own lock. Of
//! two sets the one with the lower number is locked first; any other lock is only tried. The stash's lock
//! comes last. Readers take none (see [`crate::set`]).

use std::io;

use crate::arena::Arena;
use crate::entries::Entries;
use crate::key::{Hasher, Key};
use crate::set::{Guard, Set, WAYS, Way};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// Sets per 24 entries: 4.8 entries in a set on average when the map is full.
const SETS_PER_24: u64 = 5;

pub(crate) struct Index {
    arena: Arena,
    /// Sets chosen by the hash; the stash's follow them.
    sets: u32,
    stash_sets: u32,
    stash_used: AtomicU32,
    stash: Mutex<()>,
    /// Whether entries also move to sets with lower numbers.
    pub(crate) both_ways: bool,
    hasher: Hasher,
}

/// Where a key may live.
#[derive(Clone, Copy)]
pub(crate) struct Hashed {
    pub(crate) home: u32,
    pub(crate) other: u32,
    pub(crate) tag: u8,
}

/// A way of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) set: u32,
    pub(crate) way: usize,
}

impl Place {
    pub(crate) const FIRST: Place = Place { set: 0, way: 0 };

    /// The place after it.
    pub(crate) fn next(self) -> Place {
        Place::from_number(self.number() + 1)
    }

    /// Places in their order, as numbers.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.set) * WAYS as u64 + self.way as u64
    }

    /// The place with this number.
    pub(crate) fn from_number(number: u64) -> Place {
        Place {
            set: (number / WAYS as u64) as u32,
            way: (number % WAYS as u64) as usize,
        }
    }
}

impl Index {
    /// For up to `entries` entries. Without a stash some may find no place.
    pub(crate) fn new(entries: u32, stash: bool, seed: u64, colour: u32) -> io::Result<Index> {
        let sets = (u64::from(entries) * SETS_PER_24 / 24 + 1) as u32;
        Index::with_sets(
            sets,
            if stash { entries / WAYS as u32 + 1 } else { 0 },
            seed,
            colour,
        )
    }

    pub(crate) fn with_sets(
        sets: u32,
        stash_sets: u32,
        seed: u64,
        colour: u32,
    ) -> io::Result<Index> {
        let len = (sets as usize + stash_sets as usize) * size_of::<Set>();
        Ok(Index {
            arena: Arena::new(len, colour)?,
            sets,
            stash_sets,
            stash_used: AtomicU32::new(0),
            stash: Mutex::new(()),
            both_ways: stash_sets == 0,
            hasher: Hasher::new(seed),
        })
    }

    #[inline(always)]
    pub(crate) fn set(&self, number: u32) -> &Set {
        let at = self.arena.at(number as usize * size_of::<Set>());
        // SAFETY: numbers come from `hashed` or are counted up to `all_sets`; zeroed memory is an empty,
        // unlocked set.
        unsafe { &*at.cast::<Set>() }
    }

    /// Address and number of the sets chosen by the hash.
    pub(crate) fn layout(&self) -> (usize, u32) {
        (self.arena.at(0) as usize, self.sets)
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Sets chosen by the hash.
    pub(crate) fn sets(&self) -> u32 {
        self.sets
    }

    /// All sets that may hold entries.
    fn all_sets(&self) -> u32 {
        self.sets + self.stash_used.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn hashed<K: Key>(&self, key: &K) -> Hashed {
        let hash = self.hasher.hash(key);
        let home = scale(hash, self.sets);
        let mut other = scale(hash.wrapping_mul(0x9e37_79b1_0000_0000), self.sets);
        if other == home {
            other = if home + 1 < self.sets { home + 1 } else { 0 };
        }
        Hashed {
            home,
            other,
            // Never the tag of a free way.
            tag: hash as u8 | 1,
        }
    }

    /// Finds `key` and applies `read` to its place and slot. What `read` saw of the slot is consistent: it
    /// is repeated if the set changed meanwhile.
    #[inline(always)]
    pub(crate) fn find<K: Key, R>(
        &self,
        entries: &Entries,
        key: &K,
        read: impl Fn(Place, u32) -> R,
    ) -> Option<R> {
        let at = self.hashed(key);
        loop {
            let home = self.set(at.home);
            let seq = home.seq();
            if let Some((way, slot)) = home.find(at.tag, |slot| entries.key_is(slot, key)) {
                let result = read(Place { set: at.home, way }, slot);
                if home.still(seq) {
                    return Some(result);
                }
                continue;
            }
            if !home.has_displaced() {
                if home.still(seq) {
                    return None;
                }
                continue;
            }
            match self.find_away(at, entries, key, &read) {
                Some(result) => return Some(result),
                // An entry may have moved home after we had looked there.
                None if home.still(seq) => return None,
                None => {}
            }
        }
    }

    #[cold]
    fn find_away<K: Key, R>(
        &self,
        at: Hashed,
        entries: &Entries,
        key: &K,
        read: &impl Fn(Place, u32) -> R,
    ) -> Option<R> {
        std::iter::once(at.other)
            .chain(self.sets..self.all_sets())
            .find_map(|number| {
                let set = self.set(number);
                loop {
                    let seq = set.seq();
                    let found = set
                        .find(at.tag, |slot| entries.key_is(slot, key))
                        .map(|(way, slot)| read(Place { set: number, way }, slot));
                    if set.still(seq) {
                        return found;
                    }
                }
            })
    }

    /// The slots of all entries, in the order of places. One that moves meanwhile may be missed.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let sets = (0..self.all_sets()).map(|number| self.set(number));
        sets.flat_map(|set| (0..WAYS).filter_map(|way| set.slot(way)))
    }

    /// The first entry at or after a place, in the order of places, and what `read` makes of its slot, which
    /// is consistent: it is repeated if the set changed meanwhile.
    pub(crate) fn entry_from<R>(&self, from: Place, read: impl Fn(u32) -> R) -> Option<(Place, R)> {
        let mut way = from.way;
        for number in from.set..self.all_sets() {
            let set = self.set(number);
            while way < WAYS {
                let seq = set.seq();
                let result = set.slot(way).map(&read);
                if !set.still(seq) {
                    continue;
                }
                if let Some(result) = result {
                    return Some((Place { set: number, way }, result));
                }
                way += 1;
            }
            way = 0;
        }
        None
    }
}

/// What a search for a key, with the intent to insert it, found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The key.
    Found(Place),
    /// No key, but a free way for it.
    Room(Place),
    /// Neither.
    Full,
}

/// A change to one key: holds the locks it needs.
pub(crate) struct Writer<'a, K> {
    index: &'a Index,
    entries: &'a Entries,
    key: &'a K,
    at: Hashed,
    /// Always there between method calls.
    home: Option<Guard<'a>>,
    other: Option<Guard<'a>>,
    stash: Option<MutexGuard<'a, ()>>,
}

impl<'a, K: Key> Writer<'a, K> {
    /// Locks the key's home.
    #[inline]
    pub(crate) fn new(index: &'a Index, entries: &'a Entries, key: &'a K) -> Self {
        let at = index.hashed(key);
        Writer {
            index,
            entries,
            key,
            at,
            home: Some(index.set(at.home).lock()),
            other: None,
            stash: None,
        }
    }

    /// The key's place if it is at home, and its slot. Valid until the writer is dropped.
    #[inline]
    pub(crate) fn at_home(&self) -> Option<(Place, u32)> {
        let is = |slot| self.entries.key_is(slot, self.key);
        let (way, slot) = self.home().find(self.at.tag, is)?;
        let set = self.at.home;
        Some((Place { set, way }, slot))
    }

    /// Locks the other set too.
    pub(crate) fn lock_both(&mut self) {
        if self.at.other != self.at.home && self.other.is_none() {
            prefetch(self.index.set(self.at.other));
            self.lock_other();
        }
    }

    /// The key's place. It stays valid until the writer is dropped.
    pub(crate) fn find(&mut self) -> Option<Place> {
        loop {
            if let Some(place) = self.find_in(self.at.home) {
                return Some(place);
            }
            if !self.home().has_displaced() {
                return None;
            }
            if !self.lock_other() {
                continue;
            }
            if self.other.is_some()
                && let Some(place) = self.find_in(self.at.other)
            {
                return Some(place);
            }
            if self.index.stash_used.load(Ordering::Acquire) == 0 {
                return None;
            }
            self.lock_stash();
            return (self.index.sets..self.index.all_sets()).find_map(|set| self.find_in(set));
        }
    }

    /// The key's place, or one where it could be. Valid until the writer is dropped.
    pub(crate) fn find_or_room(&mut self) -> Outcome {
        loop {
            if let Some(place) = self.find() {
                return Outcome::Found(place);
            }
            if let Some(place) = self.free_way() {
                return Outcome::Room(place);
            }
            if self.other.is_none() && self.at.other != self.at.home {
                // Whoever came in between may have inserted the key, or made room.
                self.lock_other();
                continue;
            }
            return self.make_room().map_or(Outcome::Full, Outcome::Room);
        }
    }

    /// A free way in the locked sets, at home if possible.
    pub(crate) fn free_way(&self) -> Option<Place> {
        let home = self.home().free_way().map(|way| Place {
            set: self.at.home,
            way,
        });
        home.or_else(|| {
            let way = self.other.as_ref()?.free_way()?;
            Some(Place {
                set: self.at.other,
                way,
            })
        })
    }

    /// A free way in the stash, which is large enough for all entries there can be.
    pub(crate) fn stash_room(&mut self) -> Option<Place> {
        self.lock_stash();
        let used = self.index.all_sets();
        let free = (self.index.sets..used)
            .find_map(|set| self.index.set(set).free_way().map(|way| Place { set, way }));
        if free.is_some() || used == self.index.sets + self.index.stash_sets {
            return free;
        }
        self.index.stash_used.fetch_add(1, Ordering::AcqRel);
        Some(Place { set: used, way: 0 })
    }

    /// Removes the first entry of the stash whose slot `may` go. Returns its slot.
    #[cold]
    pub(crate) fn remove_from_stash(&mut self, may: impl Fn(u32) -> bool) -> Option<u32> {
        self.lock_stash();
        let stash = self.index.sets..self.index.all_sets();
        let found = stash
            .flat_map(|number| ways(self.index.set(number), number))
            .find(|(_, entry)| may(entry.slot));
        self.remove(found?.0)
    }

    /// Makes a filled slot visible at a free place.
    pub(crate) fn publish(&self, place: Place, slot: u32, stamp: u8) {
        let away = place.set != self.at.home;
        if away {
            self.home().displace();
        }
        let entry = Way {
            tag: self.at.tag,
            slot,
            away,
            stamp,
        };
        self.index.set(place.set).publish(place.way, entry);
    }

    /// Replaces the slot at the key's place by another, filled one.
    #[inline]
    pub(crate) fn replace(&self, place: Place, slot: u32) {
        self.index.set(place.set).replace(place.way, slot);
    }

    pub(crate) fn key(&self) -> &'a K {
        self.key
    }

    /// The slot at a place of the locked sets.
    pub(crate) fn slot(&self, place: Place) -> Option<u32> {
        self.index.set(place.set).slot(place.way)
    }

    /// Removes what is at a place of the locked sets. Returns its slot.
    pub(crate) fn remove(&self, place: Place) -> Option<u32> {
        self.index.remove(self.entries, place)
    }

    /// The entries in the locked sets.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (Place, Way)> + '_ {
        let home = ways(self.home(), self.at.home);
        let other = self.other.as_deref().map(|set| ways(set, self.at.other));
        home.chain(other.into_iter().flatten())
    }

    fn home(&self) -> &Set {
        self.index.set(self.at.home)
    }

    fn find_in(&self, set: u32) -> Option<Place> {
        self.index
            .set(set)
            .find(self.at.tag, |slot| self.entries.key_is(slot, self.key))
            .map(|(way, _)| Place { set, way })
    }

    /// Locks the other set, if there is one. False if the home was unlocked for it.
    fn lock_other(&mut self) -> bool {
        if self.other.is_some() || self.at.other == self.at.home {
            return true;
        }
        let other = self.index.set(self.at.other);
        self.other = if self.at.other > self.at.home {
            Some(other.lock())
        } else {
            other.try_lock()
        };
        if self.other.is_some() {
            return true;
        }
        self.home = None;
        self.lock_in_order();
        false
    }

    fn lock_in_order(&mut self) {
        let (home, other) = (self.index.set(self.at.home), self.index.set(self.at.other));
        if self.at.home < self.at.other {
            self.home = Some(home.lock());
            self.other = Some(other.lock());
        } else {
            self.other = Some(other.lock());
            self.home = Some(home.lock());
        }
    }

    fn lock_stash(&mut self) {
        if self.stash.is_none() {
            let guard = self.index.stash.lock();
            self.stash = Some(guard.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Moves one entry of the locked, full sets to the other of its two sets.
    #[cold]
    fn make_room(&self) -> Option<Place> {
        let candidate = self
            .candidates()
            .find(|&(place, entry)| self.index.move_away(self.entries, place, entry));
        candidate.map(|(place, _)| place)
    }
}

/// Changes to entries other than the writer's key.
impl Index {
    /// Removes what is at a place, whose set the caller has locked. Returns its slot.
    pub(crate) fn remove(&self, entries: &Entries, place: Place) -> Option<u32> {
        let set = self.set(place.set);
        let entry = set.way(place.way)?;
        set.remove(place.way);
        if entry.away {
            self.set(self.hashed(&entries.key(entry.slot)).home)
                .bring_back();
        }
        Some(entry.slot)
    }

    /// Moves an entry of a locked set to its other set, if that has room and is not locked.
    ///
    /// Of the entry's two sets the caller has locked one and this locks the other, so its home is locked
    /// and nobody else is changing it. Readers find it in the new place before it leaves the old one.
    fn move_away(&self, entries: &Entries, place: Place, entry: Way) -> bool {
        let at = self.hashed(&entries.key(entry.slot));
        let target = if entry.away { at.home } else { at.other };
        // Forward, so that no walk misses the entry: one that is ahead of a walk stays ahead of it.
        if target == place.set || target < place.set && !self.both_ways {
            return false;
        }
        let Some(guard) = self.set(target).try_lock() else {
            return false;
        };
        let Some(way) = guard.free_way() else {
            return false;
        };
        let source = self.set(place.set);
        if !entry.away {
            source.displace();
        }
        guard.publish(
            way,
            Way {
                away: !entry.away,
                ..entry
            },
        );
        source.remove(place.way);
        if entry.away {
            guard.bring_back();
        }
        true
    }
}

/// The entries of a set.
pub(crate) fn ways(set: &Set, number: u32) -> impl Iterator<Item = (Place, Way)> + '_ {
    (0..WAYS).filter_map(move |way| Some((Place { set: number, way }, set.way(way)?)))
}

/// A number below `range`, as evenly distributed as the upper bits of `value`.
#[inline(always)]
fn scale(value: u64, range: u32) -> u32 {
    ((u128::from(value) * u128::from(range)) >> 64) as u32
}

/// Starts fetching a set that is needed soon.
fn prefetch(set: &Set) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless; SSE is part of the architecture.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(set).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = set;
}

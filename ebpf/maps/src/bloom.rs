//! `BLOOM_FILTER` (kernel/bpf/bloom_filter.c): whether a value may have been pushed.
//!
//! Number of bits and hash are the kernel's, so with `BPF_F_ZERO_SEED` the same values give the same
//! answers, false ones included. Pushing sets bits and nothing clears them: no lock anywhere.

use std::io;

use squalus_isa::{Errno, MapDef, UpdateFlags};

use crate::arena::Arena;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Hash functions unless the definition says how many.
const DEFAULT_HASHES: u32 = 5;
const WORD_BITS: u32 = 64;

pub(crate) struct Bloom {
    bits: Arena,
    /// One less than the number of bits, a power of two.
    mask: u32,
    hashes: u32,
    seed: u32,
    value_size: usize,
}

impl Bloom {
    pub(crate) fn new(def: &MapDef, seed: u32, colour: u32) -> io::Result<Bloom> {
        let hashes = match def.extra as u32 {
            0 => DEFAULT_HASHES,
            hashes => hashes,
        };
        let mask = mask(def.max_entries, hashes);
        Ok(Bloom {
            bits: Arena::new(mask as usize / 8 + 1, colour)?,
            mask,
            hashes,
            seed,
            value_size: def.value_size as usize,
        })
    }

    /// # Safety
    /// `value` is readable for the value size.
    pub(crate) unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags != UpdateFlags::ANY.0 {
            return Err(Errno::EINVAL);
        }
        for nth in 0..self.hashes {
            // SAFETY: the caller's.
            let (word, bit) = unsafe { self.bit(value, nth) };
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    /// # Safety
    /// `value` is readable for the value size.
    pub(crate) unsafe fn peek(&self, value: *const u8) -> Result<(), Errno> {
        let all = (0..self.hashes).all(|nth| {
            // SAFETY: the caller's.
            let (word, bit) = unsafe { self.bit(value, nth) };
            word.load(Ordering::Relaxed) & bit != 0
        });
        if all { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// The `nth` bit of a value.
    ///
    /// # Safety
    /// `value` is readable for the value size.
    unsafe fn bit(&self, value: *const u8, nth: u32) -> (&AtomicU64, u64) {
        // SAFETY: the caller's.
        let hash = unsafe { jhash(value, self.value_size, self.seed.wrapping_add(nth)) };
        let at = hash & self.mask;
        let word = self.bits.at((at / WORD_BITS) as usize * size_of::<u64>());
        // SAFETY: the arena holds `mask + 1` bits, in aligned words that are used atomically.
        let word = unsafe { &*word.cast::<AtomicU64>() };
        (word, 1 << (at % WORD_BITS))
    }
}

/// The kernel's choice: entries * hashes / ln 2 (as 7/5), up to a power of two between a word and 2^32.
fn mask(entries: u32, hashes: u32) -> u32 {
    let bits = entries
        .checked_mul(hashes)
        .and_then(|bits| (bits / 5).checked_mul(7))
        .filter(|&bits| bits <= 1 << 31);
    bits.map_or(u32::MAX, |bits| bits.max(WORD_BITS).next_power_of_two() - 1)
}

/// Bob Jenkins' lookup3 as the kernel has it (include/linux/jhash.h).
///
/// # Safety
/// `key` is readable for `len` bytes.
unsafe fn jhash(key: *const u8, len: usize, seed: u32) -> u32 {
    let mut state = [0xdead_beef_u32.wrapping_add(len as u32).wrapping_add(seed); 3];
    let mut at = 0;
    while len - at > 12 {
        // SAFETY: more than 12 bytes are left.
        unsafe { add(&mut state, key.add(at), 12) };
        mix(&mut state);
        at += 12;
    }
    if len > at {
        // SAFETY: as many are left.
        unsafe { add(&mut state, key.add(at), len - at) };
        last(&mut state);
    }
    state[2]
}

/// Adds up to 12 bytes to the state, as little-endian words filled up with zeros.
///
/// # Safety
/// `key` is readable for `len` bytes.
unsafe fn add(state: &mut [u32; 3], key: *const u8, len: usize) {
    let mut block = [0_u8; 12];
    // SAFETY: the caller's; `len` is at most 12.
    unsafe { std::ptr::copy_nonoverlapping(key, block.as_mut_ptr(), len) };
    for (word, bytes) in state.iter_mut().zip(block.chunks_exact(4)) {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        *word = word.wrapping_add(u32::from_le_bytes(bytes));
    }
}

fn mix([a, b, c]: &mut [u32; 3]) {
    fn step(x: &mut u32, y: &mut u32, z: u32, bits: u32) {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
        *y = y.wrapping_add(z);
    }
    step(a, c, *b, 4);
    step(b, a, *c, 6);
    step(c, b, *a, 8);
    step(a, c, *b, 16);
    step(b, a, *c, 19);
    step(c, b, *a, 4);
}

fn last([a, b, c]: &mut [u32; 3]) {
    fn step(x: &mut u32, y: u32, bits: u32) {
        *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    }
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(mask(1, 5), 63);
        assert_eq!(mask(1000, 5), 8191);
        assert_eq!(mask(u32::MAX, 1), u32::MAX);
        assert_eq!(mask(400_000_000, 5), u32::MAX);
    }
}

//! Keys as words, and their hash.
//!
//! A key is hashed and compared in 8-byte words, the last one filled up with zeros. That is how it is
//! stored, too, so the same code reads a program's key and a stored one, and a compiler that knows the key
//! size can unroll both.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::words::key_word;

/// Odd constants with well mixed bits (from the digits of pi).
const C0: u64 = 0x243f_6a88_85a3_08d3;
const C1: u64 = 0x1319_8a2e_0370_7345;
const C2: u64 = 0xa409_3822_299f_31d1;

/// A key, word by word.
pub(crate) trait Key {
    fn words(&self) -> usize;
    /// Word `index`, which is below [`Key::words`].
    fn word(&self, index: usize) -> u64;
}

/// A key of `W` words, read into registers.
pub(crate) struct Fixed<const W: usize>([u64; W]);

impl<const W: usize> Fixed<W> {
    /// # Safety
    /// `key` is readable for `len` bytes, which are more than `W - 1` words and at most `W`.
    #[inline(always)]
    pub(crate) unsafe fn read(key: *const u8, len: usize) -> Fixed<W> {
        // SAFETY: the caller's.
        Fixed(std::array::from_fn(|index| unsafe {
            key_word(key, len, index)
        }))
    }
}

impl<const W: usize> Key for Fixed<W> {
    #[inline(always)]
    fn words(&self) -> usize {
        W
    }

    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        self.0[index]
    }
}

/// A key of any size, where the caller has it.
pub(crate) struct Raw {
    key: *const u8,
    len: usize,
}

impl Raw {
    /// # Safety
    /// `key` stays readable for `len` bytes, and unchanged, as long as the value lives.
    pub(crate) unsafe fn new(key: *const u8, len: usize) -> Raw {
        Raw { key, len }
    }
}

impl Key for Raw {
    #[inline]
    fn words(&self) -> usize {
        self.len.div_ceil(8)
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        debug_assert!(index < self.words());
        // SAFETY: by the contract of `new`, and the index is below `words`.
        unsafe { key_word(self.key, self.len, index) }
    }
}

/// A stored key: aligned words that other threads may overwrite.
pub(crate) struct Stored {
    key: *const AtomicU64,
    words: usize,
}

impl Stored {
    /// # Safety
    /// `key` is aligned and valid for `words` words as long as the value lives.
    #[inline]
    pub(crate) unsafe fn new(key: *const u8, words: usize) -> Stored {
        Stored {
            key: key.cast(),
            words,
        }
    }
}

impl Key for Stored {
    #[inline]
    fn words(&self) -> usize {
        self.words
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        debug_assert!(index < self.words);
        // SAFETY: by the contract of `new`.
        unsafe { (*self.key.add(index)).load(Relaxed) }
    }
}

/// A seeded hash: each pair of words, masked with secrets, goes through one 64 by 64 bit multiplication
/// whose halves are folded together; the pairs are independent of each other and so run in parallel.
#[derive(Clone, Copy)]
pub(crate) struct Hasher {
    mask: u64,
    last: u64,
}

impl Hasher {
    pub(crate) const CONSTANTS: [u64; 3] = [C0, C1, C2];

    /// What the hash depends on besides the key: [`HashLayout::mask`](crate::HashLayout) and `last`.
    pub(crate) fn secrets(self) -> (u64, u64) {
        (self.mask, self.last)
    }

    pub(crate) fn new(seed: u64) -> Hasher {
        let mask = fold(seed ^ C0, C1);
        Hasher {
            mask,
            last: fold(mask ^ seed, C2),
        }
    }

    #[inline(always)]
    pub(crate) fn hash<K: Key>(self, key: &K) -> u64 {
        let words = key.words();
        let mut hash = self.last;
        let mut mask = self.mask;
        let mut at = 0;
        while at < words {
            let second = if at + 1 < words { key.word(at + 1) } else { 0 };
            let pair = fold(key.word(at) ^ mask, second ^ mask.wrapping_add(C1));
            hash = hash.rotate_left(23) ^ pair;
            mask = mask.wrapping_add(C2);
            at += 2;
        }
        fold(hash ^ self.mask, C0)
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(seed: u64, key: &[u8]) -> u64 {
        // SAFETY: the slice outlives the key.
        Hasher::new(seed).hash(&unsafe { Raw::new(key.as_ptr(), key.len()) })
    }

    #[test]
    fn all_shapes_of_a_key_hash_alike() {
        let bytes: Vec<u8> = (0..40).collect();
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect();
        // SAFETY: 40 bytes, 5 words.
        let (fixed, stored) = unsafe {
            (
                Fixed::<5>::read(bytes.as_ptr(), 40),
                Stored::new(words.as_ptr().cast(), 5),
            )
        };
        let hasher = Hasher::new(7);
        assert_eq!(hasher.hash(&fixed), hash(7, &bytes));
        assert_eq!(hasher.hash(&stored), hash(7, &bytes));
    }

    /// Of every input bit, flipping it flips each output bit in half of the cases.
    #[test]
    fn bits_avalanche() {
        for len in [4_usize, 5, 8, 13, 20, 36, 40, 64] {
            let mut flips = [0_u32; 64];
            let mut cases = 0;
            for sample in 0..64_u64 {
                let mut key: Vec<u8> = (0..len as u64)
                    .map(|at| (hash(1, &(sample * 64 + at).to_le_bytes()) & 3) as u8)
                    .collect();
                let before = hash(99, &key);
                for bit in 0..len * 8 {
                    key[bit / 8] ^= 1 << (bit % 8);
                    let diff = before ^ hash(99, &key);
                    key[bit / 8] ^= 1 << (bit % 8);
                    for (at, count) in flips.iter_mut().enumerate() {
                        *count += (diff >> at & 1) as u32;
                    }
                    cases += 1;
                }
            }
            for count in flips {
                let share = f64::from(count) / f64::from(cases);
                assert!((0.45..0.55).contains(&share), "len {len}: {share}");
            }
        }
    }

    #[test]
    fn neighbouring_keys_and_seeds_differ() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..4 {
            for key in 0..10_000_u32 {
                assert!(seen.insert(hash(seed, &key.to_le_bytes())));
            }
        }
    }
}

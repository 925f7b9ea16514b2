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

/// A seeded hash of keys that strangers may choose.
///
/// Each pair of words, masked with two secrets of its own, goes through one 64 by 64 bit multiplication whose
/// halves are folded together; the pairs are independent of each other and so run in parallel. What they give
/// together goes through one more: a single multiplication would spread keys that are counted up as a lattice,
/// and for some secrets a coarse one. No factor is known to who does not know the secrets, and changing a word
/// changes its product by a multiple of an unknown number. The index takes the set from the upper bits and the
/// tag from the lowest.
#[derive(Clone, Copy)]
pub(crate) struct Hasher {
    secrets: [u64; MASKS + 1],
}

/// How many words have masks of their own.
pub(crate) const MASKS: usize = 8;

impl Hasher {
    /// What the hash depends on besides the key: the masks, and the factor of the last multiplication.
    pub(crate) fn secrets(&self) -> [u64; MASKS + 1] {
        self.secrets
    }

    pub(crate) fn new(seed: u64) -> Hasher {
        let (mut secrets, mut state) = ([0; MASKS + 1], seed);
        for secret in &mut secrets {
            state = fold(state ^ C0, C1).wrapping_add(C2);
            *secret = fold(state, C2 ^ seed) ^ state.rotate_left(32);
        }
        secrets[MASKS] |= 1;
        Hasher { secrets }
    }

    #[inline(always)]
    pub(crate) fn hash<K: Key>(&self, key: &K) -> u64 {
        let (words, last) = (key.words(), self.secrets[MASKS]);
        let (mut hash, mut at) = (0, 0);
        while at < words {
            let place = at % MASKS;
            if place == 0 && at != 0 {
                // From here on masks come again.
                hash = fold(hash, last);
            }
            let second = if at + 1 < words { key.word(at + 1) } else { 0 };
            let [first, second] = [
                key.word(at) ^ self.secrets[place],
                second ^ self.secrets[place + 1],
            ];
            hash ^= fold(first, second);
            at += 2;
        }
        fold(hash, last)
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

    /// Keys as traffic and configuration have them (counted up in one place or two, of few bits) fill sets, by
    /// the hash's upper bits, and tags as evenly as chance would.
    #[test]
    fn patterns_spread_evenly() {
        type Pattern = fn(u32, &mut [u8]);
        let patterns: [Pattern; 4] = [
            |n, key| key[..4].copy_from_slice(&n.to_le_bytes()),
            |n, key| key[..4].copy_from_slice(&n.to_be_bytes()),
            |n, key| {
                let end = key.len() - 4;
                key[end..].copy_from_slice(&(n << 14).to_le_bytes());
            },
            |n, key| {
                key[1] = n as u8;
                let last = key.len() - 1;
                key[last] = (n >> 8) as u8;
            },
        ];
        const KEYS: u32 = 1 << 16;
        for len in [4_usize, 8, 12, 16, 20, 24, 32, 40, 64, 72, 144] {
            for (n, pattern) in patterns.iter().enumerate() {
                let (mut sets, mut tags) = (vec![0_u32; 4096], [0_u32; 128]);
                for number in 0..KEYS {
                    let mut key = vec![0; len];
                    pattern(number, &mut key);
                    let hash = hash(0x1234_5678_9abc_def1, &key);
                    sets[(hash >> 52) as usize] += 1;
                    tags[(hash as u8 >> 1) as usize] += 1;
                }
                // The mean of what chance gives is 1.
                let uneven = |counts: &[u32]| {
                    let mean = f64::from(KEYS) / counts.len() as f64;
                    let square = |count: &u32| (f64::from(*count) - mean).powi(2) / mean;
                    counts.iter().map(square).sum::<f64>() / counts.len() as f64
                };
                let (sets, tags) = (uneven(&sets), uneven(&tags));
                assert!(
                    sets < 1.2 && tags < 1.6,
                    "len {len}, pattern {n}: {sets}, {tags}"
                );
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

//! Moving bytes between private memory and memory that other threads read and write.
//!
//! Programs change map values in place while the control plane reads them, as in the kernel. On our side
//! every access to shared memory is a relaxed atomic of the widest size that fits (8 bytes, then 4, 2, 1
//! for the tail), so an aligned field of up to eight bytes is never seen half written.

use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bytes in a word.
pub(crate) const WORD: usize = 8;

/// A value with its pair of cache lines to itself, so that writing it does not slow down readers of its
/// neighbours.
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// `len` rounded up to whole words: how the kernel pads values.
pub(crate) const fn pad(len: usize) -> usize {
    len.next_multiple_of(WORD)
}

/// Copies `len` private bytes to shared memory.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes; `dst` is aligned to a word, and all other threads
/// use it atomically.
#[inline]
pub(crate) unsafe fn store(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    // SAFETY: every access is below `len`; offsets grow by the access size, so `dst` stays aligned to it.
    unsafe {
        while at + 8 <= len {
            let word = src.add(at).cast::<u64>().read_unaligned();
            (*dst.add(at).cast::<AtomicU64>()).store(word, Relaxed);
            at += 8;
        }
        if len & 4 != 0 {
            let word = src.add(at).cast::<u32>().read_unaligned();
            (*dst.add(at).cast::<AtomicU32>()).store(word, Relaxed);
            at += 4;
        }
        if len & 2 != 0 {
            let word = src.add(at).cast::<u16>().read_unaligned();
            (*dst.add(at).cast::<AtomicU16>()).store(word, Relaxed);
            at += 2;
        }
        if len & 1 != 0 {
            (*dst.add(at).cast::<AtomicU8>()).store(*src.add(at), Relaxed);
        }
    }
}

/// Copies those private bytes that `part` says to the same place in shared memory.
///
/// # Safety
/// As [`store`], for the bytes of `part`.
pub(crate) unsafe fn store_part(dst: *mut u8, src: *const u8, part: std::ops::Range<usize>) {
    let mut at = part.start;
    while at < part.end {
        let fits = |size: usize| at.is_multiple_of(size) && at + size <= part.end;
        // SAFETY: the access is in `part`, at a multiple of its size from `dst`, which is aligned to a word.
        unsafe {
            if fits(8) {
                let word = src.add(at).cast::<u64>().read_unaligned();
                (*dst.add(at).cast::<AtomicU64>()).store(word, Relaxed);
                at += 8;
            } else if fits(4) {
                let word = src.add(at).cast::<u32>().read_unaligned();
                (*dst.add(at).cast::<AtomicU32>()).store(word, Relaxed);
                at += 4;
            } else if fits(2) {
                let word = src.add(at).cast::<u16>().read_unaligned();
                (*dst.add(at).cast::<AtomicU16>()).store(word, Relaxed);
                at += 2;
            } else {
                (*dst.add(at).cast::<AtomicU8>()).store(*src.add(at), Relaxed);
                at += 1;
            }
        }
    }
}

/// Copies `len` shared bytes to private memory.
///
/// # Safety
/// As [`store`], with the roles swapped.
#[inline]
pub(crate) unsafe fn load(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    // SAFETY: as in `store`.
    unsafe {
        while at + 8 <= len {
            let word = (*src.add(at).cast::<AtomicU64>()).load(Relaxed);
            dst.add(at).cast::<u64>().write_unaligned(word);
            at += 8;
        }
        if len & 4 != 0 {
            let word = (*src.add(at).cast::<AtomicU32>()).load(Relaxed);
            dst.add(at).cast::<u32>().write_unaligned(word);
            at += 4;
        }
        if len & 2 != 0 {
            let word = (*src.add(at).cast::<AtomicU16>()).load(Relaxed);
            dst.add(at).cast::<u16>().write_unaligned(word);
            at += 2;
        }
        if len & 1 != 0 {
            *dst.add(at) = (*src.add(at).cast::<AtomicU8>()).load(Relaxed);
        }
    }
}

/// Zeroes `len` shared bytes.
///
/// # Safety
/// As [`store`].
#[inline]
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) {
    let mut at = 0;
    // SAFETY: as in `store`; values are padded to whole words, so the tail may be written as bytes.
    unsafe {
        while at + 8 <= len {
            (*dst.add(at).cast::<AtomicU64>()).store(0, Relaxed);
            at += 8;
        }
        while at < len {
            (*dst.add(at).cast::<AtomicU8>()).store(0, Relaxed);
            at += 1;
        }
    }
}

/// Word `index` of a private key of `len` bytes, the last one filled up with zeros.
///
/// # Safety
/// `key` is readable for `len` bytes and `index * 8 < len`.
#[inline]
pub(crate) unsafe fn key_word(key: *const u8, len: usize, index: usize) -> u64 {
    let at = index * WORD;
    let left = len - at;
    // SAFETY: no read passes `len`.
    unsafe {
        let src = key.add(at);
        if left >= 8 {
            return u64::from_le(src.cast::<u64>().read_unaligned());
        }
        if left == 4 {
            return u64::from(u32::from_le(src.cast::<u32>().read_unaligned()));
        }
        let mut word = [0; WORD];
        std::ptr::copy_nonoverlapping(src, word.as_mut_ptr(), left);
        u64::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_round_trips_and_no_byte_more() {
        let bytes: Vec<u8> = (1..=64).collect();
        for len in 0..=40 {
            let mut shared = [0_u64; 8];
            let mut back = [0_u8; 64];
            // SAFETY: both buffers have 64 bytes; `shared` is aligned.
            unsafe {
                store(shared.as_mut_ptr().cast(), bytes[1..].as_ptr(), len);
                load(back.as_mut_ptr(), shared.as_ptr().cast(), 64);
            }
            assert_eq!(back[..len], bytes[1..=len]);
            assert!(back[len..].iter().all(|&b| b == 0), "{len}");
        }
    }

    #[test]
    fn key_words_are_zero_filled() {
        let key: Vec<u8> = (1..=19).collect();
        // SAFETY: lengths are within the vector.
        unsafe {
            assert_eq!(key_word(key.as_ptr(), 4, 0), 0x0403_0201);
            assert_eq!(key_word(key.as_ptr(), 19, 1), 0x100f_0e0d_0c0b_0a09);
            assert_eq!(key_word(key.as_ptr(), 19, 2), 0x13_1211);
        }
    }
}

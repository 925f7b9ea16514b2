//! Numbers and comparisons in text: `bpf_strtol`, `bpf_strtoul`, `bpf_strncmp`.

use squalus_isa::Errno;

use super::{bytes, signed};

/// The bits of the flags that hold the base (`BPF_STRTOX_BASE_MASK`).
const BASE_MASK: u64 = 0x1f;
/// How many characters of a number are looked at, blanks and sign apart.
const MAX_DIGITS: usize = 63;

helpers! {
    /// `bpf_strtol(text, len, flags, result)`: how many characters were used.
    fn strtol(_, text, len, flags, result) {
        // SAFETY: the module's contract.
        unsafe { clear(result) };
        // SAFETY: the same.
        let number = parse(unsafe { bytes(text, len) }, flags);
        let value = number.and_then(|number| number.to_signed().map(|v| (v, number.used)));
        // SAFETY: the module's contract: eight writable bytes.
        unsafe { store(result, value) }
    }

    /// `bpf_strtoul(text, len, flags, result)`: how many characters were used.
    fn strtoul(_, text, len, flags, result) {
        // SAFETY: the module's contract.
        unsafe { clear(result) };
        // SAFETY: the same.
        let number = parse(unsafe { bytes(text, len) }, flags);
        let value = number.and_then(|number| match number.negative {
            true => Err(Errno::EINVAL),
            false => Ok((number.value, number.used)),
        });
        // SAFETY: the module's contract: eight writable bytes.
        unsafe { store(result, value) }
    }

    /// `bpf_strncmp(text, len, constant)`: -1, 0 or 1.
    fn strncmp(_, text, len, constant) {
        // SAFETY: the module's contract; the constant has a NUL in its map value.
        let (text, constant) = unsafe {
            (bytes(text, len), core::ffi::CStr::from_ptr(constant as *const core::ffi::c_char))
        };
        signed(compare(text, constant.to_bytes_with_nul()))
    }
}

/// The result is 0 before the text is read, which may lie in the same place.
///
/// # Safety
/// `place` must be writable for eight bytes.
unsafe fn clear(place: u64) {
    // SAFETY: the caller's.
    unsafe { (place as *mut u64).write_unaligned(0) };
}

/// Writes a parsed number, 0 if there is none, and gives the helper's result.
///
/// # Safety
/// `place` must be writable for eight bytes.
unsafe fn store(place: u64, parsed: Result<(u64, usize), Errno>) -> u64 {
    let (value, result) = match parsed {
        Ok((value, used)) => (value, used as u64),
        Err(errno) => (0, errno.as_return()),
    };
    // SAFETY: the caller's.
    unsafe { (place as *mut u64).write_unaligned(value) };
    result
}

/// A number at the start of a text.
#[derive(Clone, Copy)]
struct Number {
    value: u64,
    negative: bool,
    /// Characters up to its end.
    used: usize,
}

impl Number {
    fn to_signed(self) -> Result<u64, Errno> {
        let value = match self.negative {
            true => self.value.wrapping_neg(),
            false => self.value,
        };
        let fits = match self.negative {
            true => value.cast_signed() <= 0,
            false => value.cast_signed() >= 0,
        };
        fits.then_some(value).ok_or(Errno::ERANGE)
    }
}

fn parse(text: &[u8], flags: u64) -> Result<Number, Errno> {
    let base = (flags & BASE_MASK) as u32;
    if flags & !BASE_MASK != 0 || !matches!(base, 0 | 8 | 10 | 16) {
        return Err(Errno::EINVAL);
    }
    let blanks = text.iter().take_while(|byte| is_space(**byte)).count();
    let negative = text.get(blanks) == Some(&b'-');
    let start = blanks + usize::from(negative);
    let text = &text[start..];
    let (base, prefix) = radix(text, base);
    let digits = text.get(prefix..MAX_DIGITS.min(text.len()));
    let (value, count) = digits_of(digits.unwrap_or_default(), base)?;
    Ok(Number {
        value,
        negative,
        used: start + prefix + count,
    })
}

/// The base of a number, and how long the prefix is that says so.
fn radix(text: &[u8], base: u32) -> (u32, usize) {
    let hex = matches!(text, [b'0', b'x' | b'X', ..]);
    let base = match (base, text) {
        (0, [b'0', b'x' | b'X', digit, ..]) if digit.is_ascii_hexdigit() => 16,
        (0, [b'0', ..]) => 8,
        (0, _) => 10,
        (base, _) => base,
    };
    (base, if base == 16 && hex { 2 } else { 0 })
}

/// The value of the digits at the start of `text`, and how many they are.
fn digits_of(text: &[u8], base: u32) -> Result<(u64, usize), Errno> {
    let (mut value, mut count) = (0u64, 0);
    let mut overflow = false;
    for byte in text {
        let Some(digit) = char::from(*byte).to_digit(base) else {
            break;
        };
        let next = value
            .checked_mul(base.into())
            .and_then(|v| v.checked_add(digit.into()));
        overflow |= next.is_none();
        value = next.unwrap_or(value);
        count += 1;
    }
    match (overflow, count) {
        (true, _) => Err(Errno::ERANGE),
        (false, 0) => Err(Errno::EINVAL),
        (false, _) => Ok((value, count)),
    }
}

/// Blanks of the kernel's Latin-1 table.
fn is_space(byte: u8) -> bool {
    matches!(byte, 9..=13 | b' ' | 0xa0)
}

/// As C's `strncmp` of at most as many characters as `text` has.
fn compare(text: &[u8], constant: &[u8]) -> i64 {
    for (a, b) in text.iter().zip(constant) {
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        if *a == 0 {
            break;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_their_digits_do() {
        let value = |text: &[u8], base| parse(text, base).map(|n| (n.value, n.negative, n.used));
        assert_eq!(value(b" \t12z", 0), Ok((12, false, 4)));
        assert_eq!(value(b"-0x1fg", 0), Ok((31, true, 5)));
        assert_eq!(value(b"017", 0), Ok((15, false, 3)));
        assert_eq!(value(b"0x", 0), Ok((0, false, 1)));
        assert_eq!(value(b"0x10", 10), Ok((0, false, 1)));
        assert_eq!(
            value(b"18446744073709551615", 10),
            Ok((u64::MAX, false, 20))
        );
        assert_eq!(value(b"18446744073709551616", 10), Err(Errno::ERANGE));
        assert_eq!(value(b"-", 0), Err(Errno::EINVAL));
        assert_eq!(value(b"1", 7), Err(Errno::EINVAL));
        assert_eq!(value(b"1", 32), Err(Errno::EINVAL));
    }

    #[test]
    fn comparisons_stop_at_a_nul_or_the_length() {
        assert_eq!(compare(b"abc", b"abd\0"), -1);
        assert_eq!(compare(b"ab", b"abd\0"), 0);
        assert_eq!(compare(b"ab\0x", b"ab\0"), 0);
        assert_eq!(compare(b"abc", b"ab\0"), 1);
    }
}

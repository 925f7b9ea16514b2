//! Text as `bpf_trace_printk` and `bpf_snprintf` format it (`bpf_bprintf_prepare` and `bstr_printf`).
//!
//! The kernel works in two steps, and its oddities come from there, so this does too. [`prepare`] checks
//! the format and copies the arguments, strings and addresses included, into a small buffer; [`render`]
//! walks the format again and takes the arguments out. The first step knows fewer conversions than the
//! second: `%pI4` becomes text at once, and letters after it vanish in the second.
//!
//! `%p` must not tell where things are in memory: as in the kernel, a keyed hash stands for the address.

use squalus_isa::Errno;

use crate::siphash::siphash;

/// Most arguments of a format (`MAX_BPRINTF_VARARGS`).
pub(crate) const MAX_ARGS: usize = 12;
/// Longest line in bytes, its NUL included (`MAX_BPRINTF_BUF`).
pub(crate) const MAX_LINE: usize = 1024;
/// Room for copied arguments (`MAX_BPRINTF_BIN_ARGS`).
const ROOM: usize = 512;
/// Hexadecimal digits of an address.
const ADDRESS_WIDTH: i64 = 16;
/// From here on, an address is an error number and not hidden.
const ERROR_ADDRESS: u64 = (-4095i64).cast_unsigned();

/// Copies memory from an address; gives how many bytes could be read.
pub(crate) type ReadMemory = dyn Fn(u64, &mut [u8]) -> usize;

/// The copied arguments of a format.
pub(crate) struct Args {
    bytes: [u8; ROOM],
    len: usize,
}

/// Checks a format without its NUL and copies its arguments.
///
/// # Errors
/// `EINVAL` for a character or conversion that is not allowed, or for more conversions than arguments;
/// `ENOSPC` if the arguments are too long.
pub(crate) fn prepare(format: &[u8], values: &[u64], read: &ReadMemory) -> Result<Args, Errno> {
    let mut args = Args {
        bytes: [0; ROOM],
        len: 0,
    };
    let mut values = values.iter();
    let mut rest = format;
    while let [byte, after @ ..] = rest {
        rest = after;
        if !is_printable(*byte) {
            return Err(Errno::EINVAL);
        }
        match (byte, after) {
            (b'%', [b'%', after @ ..]) => rest = after,
            (b'%', _) => {
                let value = *values.next().ok_or(Errno::EINVAL)?;
                rest = args.take(skip_width(after), value, read)?;
            }
            _ => {}
        }
    }
    Ok(args)
}

impl Args {
    /// Copies the argument of the conversion at the start of `format`; returns what follows it.
    fn take<'f>(
        &mut self,
        format: &'f [u8],
        value: u64,
        read: &ReadMemory,
    ) -> Result<&'f [u8], Errno> {
        match format {
            [b'p', b'k' | b'u', b's', rest @ ..] | [b's', rest @ ..] => {
                if rest.first().is_some_and(|byte| !ends_word(*byte)) {
                    return Err(Errno::EINVAL);
                }
                self.push_string(value, read)?;
                Ok(rest)
            }
            [b'p', b'K' | b'x' | b's' | b'S', rest @ ..] => {
                self.push_word(&value.to_ne_bytes())?;
                Ok(rest)
            }
            [b'p', b'B', rest @ ..] => {
                self.push_text(format_args!("{value:#x}"))?;
                Ok(rest)
            }
            [
                b'p',
                kind @ (b'i' | b'I'),
                version @ (b'4' | b'6'),
                rest @ ..,
            ] => {
                self.push_ip(value, *kind, *version, read)?;
                Ok(rest)
            }
            [b'p', rest @ ..] => {
                self.push_word(&value.to_ne_bytes())?;
                match rest {
                    [] => Ok(rest),
                    // The kernel looks no closer at the character after it.
                    [next, rest @ ..] if ends_word(*next) => Ok(rest),
                    _ => Err(Errno::EINVAL),
                }
            }
            [b'c', rest @ ..] => {
                self.push(&[value as u8])?;
                Ok(rest)
            }
            _ => self.push_number(format, value),
        }
    }

    fn push_number<'f>(&mut self, format: &'f [u8], value: u64) -> Result<&'f [u8], Errno> {
        let longs = format
            .iter()
            .take(2)
            .take_while(|byte| **byte == b'l')
            .count();
        let [b'i' | b'd' | b'u' | b'x' | b'X', rest @ ..] = &format[longs..] else {
            return Err(Errno::EINVAL);
        };
        if longs == 0 {
            self.push_word(&(value as u32).to_ne_bytes())?;
        } else {
            self.push_word(&value.to_ne_bytes())?;
        }
        Ok(rest)
    }

    fn push_word(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.len = self.len.next_multiple_of(4);
        self.push(bytes)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let room = self.bytes[self.len..].get_mut(..bytes.len());
        room.ok_or(Errno::ENOSPC)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Copies a string up to its NUL or as much as there is room for; one that cannot be read is empty.
    fn push_string(&mut self, address: u64, read: &ReadMemory) -> Result<(), Errno> {
        let room = &mut self.bytes[self.len..];
        if room.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let got = read(address, room);
        let nul = room[..got].iter().position(|byte| *byte == 0);
        let len = match nul {
            Some(nul) => nul,
            None if got == room.len() => got - 1,
            None => 0,
        };
        room[len..].fill(0);
        self.len += len + 1;
        Ok(())
    }

    fn push_text(&mut self, text: std::fmt::Arguments<'_>) -> Result<(), Errno> {
        use std::io::Write;
        let mut room = &mut self.bytes[self.len..];
        let before = room.len();
        room.write_fmt(text).map_err(|_| Errno::ENOSPC)?;
        self.len += before - room.len();
        self.push(&[0])
    }

    fn push_ip(&mut self, at: u64, kind: u8, version: u8, read: &ReadMemory) -> Result<(), Errno> {
        let mut ip = [0; 16];
        let len = if version == b'4' { 4 } else { 16 };
        if self.bytes.len() - self.len < len {
            return Err(Errno::ENOSPC);
        }
        if read(at, &mut ip[..len]) != len {
            ip = [0; 16];
        }
        let [a, b, c, d] = [ip[0], ip[1], ip[2], ip[3]];
        match (version, kind) {
            (b'4', b'I') => self.push_text(format_args!("{a}.{b}.{c}.{d}")),
            (b'4', _) => self.push_text(format_args!("{a:03}.{b:03}.{c:03}.{d:03}")),
            _ => self.push_text(format_args!("{}", Groups(ip, kind == b'I'))),
        }
    }
}

/// An IPv6 address with all its digits, with or without colons.
struct Groups([u8; 16], bool);

impl std::fmt::Display for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, [high, low]) in self.0.as_chunks::<2>().0.iter().enumerate() {
            let colon = if self.1 && n != 0 { ":" } else { "" };
            write!(f, "{colon}{high:02x}{low:02x}")?;
        }
        Ok(())
    }
}

fn skip_width(format: &[u8]) -> &[u8] {
    let flags = |byte: &u8| matches!(byte, b'0' | b'+' | b'-' | b' ');
    let digits = |byte: &u8| byte.is_ascii_digit();
    let at = format.iter().take_while(|byte| flags(byte)).count();
    let at = at + format[at..].iter().take_while(|byte| digits(byte)).count();
    &format[at..]
}

/// Whether a format may contain a byte.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 9..=13 | b' '..=b'~')
}

/// Whether a byte may follow a string or an address.
fn ends_word(byte: u8) -> bool {
    byte.is_ascii_punctuation() || matches!(byte, 9..=13 | b' ')
}

/// Formats prepared arguments into `out`, with a NUL at the end if there is any room. Returns how long the
/// whole text is, without the NUL; it may be longer than `out`. `secret` hides addresses.
pub(crate) fn render(format: &[u8], args: &Args, out: &mut [u8], secret: [u64; 2]) -> usize {
    let mut text = Text {
        out,
        len: 0,
        args: &args.bytes,
        taken: 0,
        secret,
    };
    let mut rest = format;
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'%', [b'%', after @ ..]) => {
                text.put(b'%');
                after
            }
            (b'%', _) => text.convert(after),
            _ => {
                text.put(*byte);
                after
            }
        };
    }
    text.finish()
}

/// How a conversion is laid out.
#[derive(Clone, Copy)]
struct Layout {
    left: bool,
    plus: bool,
    space: bool,
    zeros: bool,
    /// Least characters; `None` if not stated.
    width: Option<i64>,
}

impl Layout {
    fn of(format: &[u8]) -> (Layout, &[u8]) {
        let flags = format
            .iter()
            .take_while(|byte| matches!(byte, b'0' | b'+' | b'-' | b' '));
        let flags = &format[..flags.count()];
        let rest = &format[flags.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let width = rest[..digits].iter().fold(0i32, |width, digit| {
            width.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'))
        });
        let layout = Layout {
            left: flags.contains(&b'-'),
            plus: flags.contains(&b'+'),
            space: flags.contains(&b' '),
            zeros: flags.contains(&b'0'),
            width: (digits != 0).then_some(width.into()),
        };
        (layout, &rest[digits..])
    }
}

struct Text<'a> {
    out: &'a mut [u8],
    len: usize,
    args: &'a [u8; ROOM],
    taken: usize,
    secret: [u64; 2],
}

impl<'a> Text<'a> {
    fn put(&mut self, byte: u8) {
        if let Some(place) = self.out.get_mut(self.len) {
            *place = byte;
        }
        self.len += 1;
    }

    /// Writes a byte many times. Widths have up to ten digits, so what is beyond the output is only counted.
    fn fill(&mut self, byte: u8, count: i64) {
        let count = usize::try_from(count).unwrap_or(0);
        if let Some(room) = self.out.get_mut(self.len..) {
            let inside = count.min(room.len());
            room[..inside].fill(byte);
        }
        self.len += count;
    }

    fn finish(self) -> usize {
        if let Some(last) = self.out.len().checked_sub(1) {
            self.out[self.len.min(last)] = 0;
        }
        self.len
    }

    fn word<const N: usize>(&mut self) -> [u8; N] {
        let at = self.taken.next_multiple_of(N.min(4));
        self.taken = at + N;
        let bytes = self.args.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    /// Takes the string that is the next argument.
    fn string(&mut self) -> &'a [u8] {
        let bytes = self.args.get(self.taken..).unwrap_or_default();
        let len = bytes.iter().position(|byte| *byte == 0);
        let text = &bytes[..len.unwrap_or(bytes.len())];
        self.taken += text.len() + 1;
        text
    }

    /// Writes the conversion at the start of `format`, which [`prepare`] accepted; returns what follows. Another
    /// thread may have changed the format since: then the text is any, and nothing worse.
    fn convert<'f>(&mut self, format: &'f [u8]) -> &'f [u8] {
        let (layout, format) = Layout::of(format);
        match format {
            [b'p', rest @ ..] => {
                self.pointer(layout, rest);
                let letters = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric());
                &rest[letters.count()..]
            }
            [b's', rest @ ..] => {
                let text = self.string();
                self.padded(layout, text);
                rest
            }
            [b'c', rest @ ..] => {
                let [byte] = self.word();
                self.padded(layout, &[byte]);
                rest
            }
            _ => {
                let longs = format.iter().take_while(|byte| **byte == b'l').count();
                let Some((kind, rest)) = format[longs..].split_first() else {
                    return &[];
                };
                self.integer(layout, *kind, longs != 0);
                rest
            }
        }
    }

    fn padded(&mut self, layout: Layout, text: &[u8]) {
        let missing = layout.width.unwrap_or(0) - text.len() as i64;
        if !layout.left {
            self.fill(b' ', missing);
        }
        for byte in text {
            self.put(*byte);
        }
        if layout.left {
            self.fill(b' ', missing);
        }
    }

    fn integer(&mut self, layout: Layout, kind: u8, long: bool) {
        let is_signed = matches!(kind, b'i' | b'd');
        let value = match (long, is_signed) {
            (true, _) => i64::from_ne_bytes(self.word()),
            (false, true) => i32::from_ne_bytes(self.word()).into(),
            (false, false) => u32::from_ne_bytes(self.word()).into(),
        };
        let sign = match value {
            _ if !is_signed => None,
            ..0 => Some(b'-'),
            _ if layout.plus => Some(b'+'),
            _ if layout.space => Some(b' '),
            _ => None,
        };
        let value = match sign {
            Some(b'-') => value.unsigned_abs(),
            _ => value.cast_unsigned(),
        };
        match kind {
            b'x' => self.number(layout, sign, value, b"0123456789abcdef", 16),
            b'X' => self.number(layout, sign, value, b"0123456789ABCDEF", 16),
            _ => self.number(layout, sign, value, b"0123456789", 10),
        }
    }

    fn number(&mut self, layout: Layout, sign: Option<u8>, value: u64, set: &[u8], base: u64) {
        let mut digits = [0; 20];
        let (mut at, mut left) = (digits.len(), value);
        while left != 0 || at == digits.len() {
            at -= 1;
            digits[at] = set[(left % base) as usize];
            left /= base;
        }
        let digits = &digits[at..];
        let len = digits.len() + usize::from(sign.is_some());
        let missing = layout.width.unwrap_or(0) - len as i64;
        let (before, zeros, after) = match (layout.left, layout.zeros) {
            (true, _) => (0, 0, missing),
            (false, true) => (0, missing, 0),
            (false, false) => (missing, 0, 0),
        };
        self.fill(b' ', before);
        for byte in sign.into_iter() {
            self.put(byte);
        }
        self.fill(b'0', zeros);
        for byte in digits {
            self.put(*byte);
        }
        self.fill(b' ', after);
    }

    fn pointer(&mut self, layout: Layout, kind: &[u8]) {
        match kind.first() {
            Some(b'x') => {
                let value = u64::from_ne_bytes(self.word());
                self.address(layout, value);
            }
            // There are no symbols here: as the kernel writes an address that is none of its own.
            Some(b's' | b'S') => {
                let value = u64::from_ne_bytes(self.word());
                let mut text = [0; 18];
                let len = write_hex(&mut text, value);
                self.padded(layout, &text[..len]);
            }
            Some(letter) if letter.is_ascii_alphanumeric() && *letter != b'K' => self.prepared(),
            _ => {
                let value = u64::from_ne_bytes(self.word());
                self.address(layout, hidden(value, self.secret));
            }
        }
    }

    /// Text that [`prepare`] made. Past the end of the output, the kernel neither counts nor skips it.
    fn prepared(&mut self) {
        if self.len >= self.out.len() {
            return;
        }
        for byte in self.string() {
            self.put(*byte);
        }
    }

    fn address(&mut self, mut layout: Layout, value: u64) {
        if layout.width.is_none() {
            layout.width = Some(ADDRESS_WIDTH);
            layout.zeros = true;
        }
        self.number(layout, None, value, b"0123456789abcdef", 16);
    }
}

/// What stands for an address: the same for the same address, and no hint of where it is.
fn hidden(address: u64, secret: [u64; 2]) -> u64 {
    if address == 0 || address >= ERROR_ADDRESS {
        return address;
    }
    siphash(secret, &address.to_ne_bytes()) & 0xffff_ffff
}

fn write_hex(text: &mut [u8; 18], value: u64) -> usize {
    use std::io::Write;
    let mut room = text.as_mut_slice();
    write!(room, "{value:#x}").expect("eighteen characters are enough for 64 bits");
    18 - room.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_memory(_: u64, _: &mut [u8]) -> usize {
        0
    }

    fn text(format: &str, values: &[u64]) -> Result<String, Errno> {
        let args = prepare(format.as_bytes(), values, &no_memory)?;
        let mut out = [0xff; 256];
        let len = render(format.as_bytes(), &args, &mut out, [1, 2]);
        assert_eq!(out[len], 0);
        Ok(String::from_utf8(out[..len].to_vec()).unwrap())
    }

    #[test]
    fn conversions_are_laid_out_as_in_c() {
        let minus = (-5i64).cast_unsigned();
        for (format, value, want) in [
            ("%d", minus, "-5"),
            ("%u", minus, "4294967291"),
            ("%lu", minus, "18446744073709551611"),
            ("%5d|", minus, "   -5|"),
            ("%05d|", minus, "-0005|"),
            ("%-5d|", minus, "-5   |"),
            ("%+d", 5, "+5"),
            ("% d", 5, " 5"),
            ("%x", 0xabc, "abc"),
            ("%08X", 0xabc, "00000ABC"),
            ("%3c|", u64::from(b'z'), "  z|"),
            ("%px", 0x1234, "0000000000001234"),
            ("%p", 0, "0000000000000000"),
            ("%pB", 0x1234, "0x1234"),
            ("%pS", 0x1234, "0x1234"),
            ("%pI4", 1, "0.0.0.0"),
            ("%pi4", 1, "000.000.000.000"),
            ("%s|", 1, "|"),
            ("100%%", 0, "100%"),
        ] {
            assert_eq!(text(format, &[value]), Ok(want.to_owned()), "{format}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_format_is_refused() {
        for format in [
            "%", "%y", "%lc", "%hd", "%pe", "%pI5", "%sx", "%.3d", "%#x", "\u{1}", "é", "%d%d",
        ] {
            assert_eq!(text(format, &[1]), Err(Errno::EINVAL), "{format}");
        }
    }

    #[test]
    fn a_format_that_changes_after_it_was_checked_does_no_harm() {
        let formats = [
            "%", "%l", "%ll", "%5", "%s%s%s", "%p", "%pI", "%pI4%pI6", "%c%s%d", "%pks", "%-", "%y",
        ];
        let many = "%s%lu%pS".repeat(300);
        for checked in ["none", "%d", "%s", "%pI4"] {
            let args = prepare(checked.as_bytes(), &[7], &no_memory).unwrap();
            for format in formats.into_iter().chain([&*many]) {
                for room in [0, 1, 64] {
                    render(format.as_bytes(), &args, &mut vec![0; room], [1, 2]);
                }
            }
        }
    }

    #[test]
    fn wide_fields_are_counted_and_not_written_one_by_one() {
        let format = b"%2000000000d".repeat(5);
        let args = prepare(&format, &[1; 5], &no_memory).unwrap();
        let mut out = [1; 8];
        assert_eq!(render(&format, &args, &mut out, [1, 2]), 10_000_000_000);
        assert_eq!(out, *b"       \0");
    }

    #[test]
    fn addresses_are_hidden_but_told_apart() {
        let a = text("%p", &[0x7fff_1234]).unwrap();
        assert_eq!(a, text("%p", &[0x7fff_1234]).unwrap());
        assert_ne!(a, text("%p", &[0x7fff_1235]).unwrap());
        assert!(!a.contains("1234") && a.starts_with("00000000"));
    }
}

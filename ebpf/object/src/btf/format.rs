//! Values as their types see them: bytes in; names, numbers and text out.
//!
//! What is shown how follows `bpftool map dump`, whose users read both: enumerators by name, arrays of
//! `char` as text if they are text, bit fields in hexadecimal, anonymous members under an empty name, every
//! member of a union. [`Value`]'s `Display` lays it out as bpftool does.

use std::fmt::{self, Write};

use super::{Btf, Enumerator, Kind, Member, TypeId};
use crate::limits::{TYPE_DEPTH, VALUE_PARTS};

/// A value, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer, or an enumeration's value without a name.
    Unsigned(u64),
    /// A signed integer, or a signed enumeration's value without a name.
    Signed(i64),
    /// A truth value.
    Bool(bool),
    /// An enumerator's name, or an array of `char` that holds text.
    Text(String),
    /// What reads better in hexadecimal: bit fields, 128-bit integers.
    Hex(u128),
    /// An address.
    Pointer(u64),
    /// What has no notation of its own (floating point numbers).
    Raw(Vec<u8>),
    /// The elements of an array.
    List(Vec<Value>),
    /// The members of a struct or union by name.
    Struct(Vec<(String, Value)>),
}

impl Btf {
    /// Takes apart the little-endian value of type `ty` at the start of `bytes`.
    ///
    /// `None` if the type is incomplete, dangling or nested too deeply, if it has more than [`VALUE_PARTS`] parts,
    /// or if `bytes` are too few for it.
    #[must_use]
    pub fn value(&self, ty: TypeId, bytes: &[u8]) -> Option<Value> {
        let mut reader = Reader {
            btf: self,
            parts: VALUE_PARTS,
        };
        reader.value(ty, bytes, TYPE_DEPTH)
    }
}

struct Reader<'a> {
    btf: &'a Btf,
    /// How many values may still be made.
    parts: usize,
}

impl Reader<'_> {
    fn value(&mut self, ty: TypeId, bytes: &[u8], depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.parts = self.parts.checked_sub(1)?;
        match &self.btf.resolve(ty)?.1.kind {
            &Kind::Int {
                size,
                signed,
                boolean,
                ..
            } => integer(bytes.get(..size as usize)?, signed, boolean),
            Kind::Enum {
                size,
                signed,
                values,
            } => {
                let number = integer(bytes.get(..*size as usize)?, *signed, false)?;
                Some(self.enumerator(values, number))
            }
            Kind::Ptr(_) => Some(Value::Pointer(number(bytes.get(..8)?)? as u64)),
            &Kind::Float { size } => Some(Value::Raw(bytes.get(..size as usize)?.to_vec())),
            &Kind::Array { element, len } => self.array(element, len, bytes, depth),
            Kind::Composite { size, members, .. } => {
                let bytes = bytes.get(..*size as usize)?;
                let member =
                    |m: &Member| Some((self.name_of(m), self.member_value(m, bytes, depth)?));
                members
                    .iter()
                    .map(member)
                    .collect::<Option<_>>()
                    .map(Value::Struct)
            }
            &Kind::Var { ty, .. } => self.value(ty, bytes, depth),
            _ => None,
        }
    }

    fn name_of(&self, member: &Member) -> String {
        self.btf.name(member.name).to_owned()
    }

    fn member_value(&mut self, member: &Member, bytes: &[u8], depth: usize) -> Option<Value> {
        let start = member.bit_offset as usize / 8;
        if member.bit_width == 0 {
            return self.value(member.ty, bytes.get(start..)?, depth);
        }
        self.parts = self.parts.checked_sub(1)?;
        bit_field(bytes, member.bit_offset, member.bit_width)
    }

    fn array(&mut self, element: TypeId, len: u32, bytes: &[u8], depth: usize) -> Option<Value> {
        let size = usize::try_from(self.btf.size_of(element).ok()?).ok()?;
        let bytes = bytes.get(..size.checked_mul(len as usize)?)?;
        if size == 1
            && self.is_char(element)
            && let Some(text) = text(bytes)
        {
            return Some(Value::Text(text));
        }
        // Refused before any of it is made: a type may claim any number of elements without a size.
        self.parts.checked_sub(len as usize)?;
        let element = |n: usize| self.value(element, &bytes[n * size..], depth);
        let elements: Option<Vec<Value>> = (0..len as usize).map(element).collect();
        elements.map(Value::List)
    }

    /// Whether the type is C's `char`: compilers don't mark it, so it goes by the name.
    fn is_char(&self, ty: TypeId) -> bool {
        let resolved = self.btf.resolve(ty);
        resolved.is_some_and(|(id, _)| self.btf.type_name(id) == "char")
    }

    fn enumerator(&self, values: &[Enumerator], number: Value) -> Value {
        let bits = match number {
            Value::Unsigned(value) => value,
            Value::Signed(value) => value.cast_unsigned(),
            other => return other,
        };
        match values.iter().find(|e| e.value == bits) {
            Some(found) => Value::Text(self.btf.name(found.name).to_owned()),
            None => number,
        }
    }
}

/// The number in up to 16 bytes.
fn number(bytes: &[u8]) -> Option<u128> {
    let mut all = [0; 16];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u128::from_le_bytes(all))
}

fn integer(bytes: &[u8], signed: bool, boolean: bool) -> Option<Value> {
    let value = number(bytes)?;
    if boolean {
        return Some(Value::Bool(value != 0));
    }
    match bytes.len() {
        0 => None,
        9.. => Some(Value::Hex(value)),
        len if signed => {
            let unused = 64 - 8 * len as u32;
            Some(Value::Signed(
                (value as u64).cast_signed() << unused >> unused,
            ))
        }
        _ => Some(Value::Unsigned(value as u64)),
    }
}

fn bit_field(bytes: &[u8], offset: u32, width: u32) -> Option<Value> {
    let (first, shift) = (offset as usize / 8, offset % 8);
    let end = (offset.checked_add(width)? as usize).div_ceil(8);
    let value = number(bytes.get(first..end)?)? >> shift;
    let mask = u128::MAX.checked_shr(128_u32.checked_sub(width)?)?;
    Some(Value::Hex(value & mask))
}

/// The text in an array of `char`, if it ends with a zero and can be printed.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&b| b == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let printable = |c: char| c == ' ' || c.is_ascii_graphic();
    text.chars().all(printable).then(|| text.to_owned())
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lay_out(f, 0)
    }
}

impl Value {
    fn lay_out(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Value::Unsigned(value) => write!(f, "{value}"),
            Value::Signed(value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Text(text) => quoted(f, text),
            Value::Hex(value) => write!(f, "{value:#x}"),
            Value::Pointer(0) => f.write_str("(nil)"),
            Value::Pointer(address) => write!(f, "{address:#x}"),
            Value::Raw(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Value::List(elements) => {
                f.write_char('[')?;
                for (n, element) in elements.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { "," })?;
                    element.lay_out(f, depth + 1)?;
                }
                if !elements.is_empty() {
                    new_line(f, depth)?;
                }
                f.write_char(']')
            }
            Value::Struct(members) => {
                f.write_char('{')?;
                for (n, (name, value)) in members.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { "," })?;
                    new_line(f, depth + 1)?;
                    quoted(f, name)?;
                    f.write_str(": ")?;
                    value.lay_out(f, depth + 1)?;
                }
                if !members.is_empty() {
                    new_line(f, depth)?;
                }
                f.write_char('}')
            }
        }
    }
}

fn new_line(f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    write!(f, "\n{:width$}", "", width = 4 * depth)
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::super::parse::tests::section;
    use super::*;

    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT: u32 = 4 << 24;
    const ENUM: u32 = 6 << 24;
    const TYPEDEF: u32 = 8 << 24;
    const SIGNED: u32 = 1 << 24;
    const BOOL: u32 = 4 << 24;
    const KFLAG: u32 = 1 << 31;

    fn btf(types: &[&[u32]], names: &[u8]) -> Btf {
        Btf::parse(&section(&types.concat(), names)).unwrap()
    }

    fn shown(btf: &Btf, ty: u32, bytes: &[u8]) -> Option<String> {
        btf.value(TypeId(ty), bytes).map(|v| v.to_string())
    }

    #[test]
    fn numbers_follow_size_and_sign() {
        let btf = btf(
            &[
                &[0, INT, 4, SIGNED | 32],
                &[0, INT, 2, 16],
                &[0, INT, 1, BOOL | 8],
                &[0, INT, 16, 128],
                &[0, TYPEDEF, 1],
            ],
            b"\0",
        );
        let bytes = [0xff; 16];
        for (ty, text) in [
            (1, "-1"),
            (2, "65535"),
            (3, "true"),
            (4, "0xffffffffffffffffffffffffffffffff"),
            (5, "-1"),
        ] {
            assert_eq!(shown(&btf, ty, &bytes).as_deref(), Some(text), "type {ty}");
        }
        assert_eq!(shown(&btf, 1, &bytes[..3]), None);
        assert_eq!(shown(&btf, 0, &bytes), None);
    }

    #[test]
    fn enumerators_have_names() {
        // enum { A = 7 }
        let btf = btf(&[&[0, ENUM | 1, 4, 1, 7]], b"\0A\0");
        assert_eq!(shown(&btf, 1, &[7, 0, 0, 0]).unwrap(), "\"A\"");
        assert_eq!(shown(&btf, 1, &[8, 0, 0, 0]).unwrap(), "8");
    }

    #[test]
    fn char_arrays_are_text_only_if_they_hold_text() {
        let btf = btf(
            &[&[1, INT, 1, SIGNED | 8], &[0, ARRAY, 0, 1, 0, 4]],
            b"\0char\0",
        );
        assert_eq!(shown(&btf, 2, b"a\"b\0").unwrap(), r#""a\"b""#);
        assert_eq!(shown(&btf, 2, b"abcd").unwrap(), "[97,98,99,100\n]");
        assert_eq!(shown(&btf, 2, b"a\xff\0\0").unwrap(), "[97,-1,0,0\n]");
    }

    #[test]
    fn bit_fields_may_straddle_bytes() {
        // struct { int a : 3; int b : 9; }
        let types: [&[u32]; 2] = [
            &[0, INT, 4, 32],
            &[0, STRUCT | KFLAG | 2, 4, 1, 1, 3 << 24, 3, 1, 9 << 24 | 3],
        ];
        let btf = btf(&types, b"\0a\0b\0");
        let bytes = (5_u32 | 0x1a5 << 3).to_le_bytes();
        let text = "{\n    \"a\": 0x5,\n    \"b\": 0x1a5\n}";
        assert_eq!(shown(&btf, 2, &bytes).unwrap(), text);
        assert_eq!(shown(&btf, 2, &bytes[..1]), None);
    }

    #[test]
    fn types_that_contain_themselves_or_claim_too_much_are_refused() {
        // 1: struct {}, 2: [huge] of 1, 3: struct { struct 3; } of size 0
        let types: [&[u32]; 3] = [
            &[0, STRUCT, 0],
            &[0, ARRAY, 0, 1, 0, u32::MAX],
            &[0, STRUCT | 1, 0, 0, 3, 0],
        ];
        let btf = btf(&types, b"\0");
        assert_eq!(shown(&btf, 1, &[]).unwrap(), "{}");
        assert_eq!(shown(&btf, 2, &[]), None);
        assert_eq!(shown(&btf, 3, &[]), None);
    }
}

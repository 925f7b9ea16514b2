//! From bytes to [`Btf`].

use super::{Btf, Enumerator, Kind, Linkage, Member, Name, SecVar, Type, TypeId};
use crate::BtfError;
use crate::reader::Reader;

const MAGIC: u16 = 0xeb9f;

pub(super) fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
    let header = Header::parse(bytes)?;
    let strings = header.strings(bytes)?;
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return Err(BtfError::Header(
            "the string table does not begin and end with an empty string",
        ));
    }
    let mut types = vec![Type {
        name: Name(0),
        kind: Kind::Void,
    }];
    let mut reader = Reader::new(header.types(bytes)?);
    while !reader.is_empty() {
        let id = u32::try_from(types.len()).map_err(|_| BtfError::Header("too many types"))?;
        let ty = Record { id }.parse(&mut reader)?;
        if ty.name.0 as usize >= strings.len() {
            return Err(BtfError::Type {
                id,
                reason: "its name lies outside the string table".into(),
            });
        }
        types.push(ty);
    }
    Ok(Btf {
        types,
        strings: strings.to_vec(),
    })
}

/// Where types and strings lie, relative to the end of the header.
struct Header {
    len: u32,
    type_off: u32,
    type_len: u32,
    str_off: u32,
    str_len: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, BtfError> {
        let cut = BtfError::Header("shorter than 24 bytes");
        let mut r = Reader::new(bytes);
        match r.u16() {
            Some(MAGIC) => {}
            Some(m) if m.swap_bytes() == MAGIC => {
                return Err(BtfError::Header("big-endian BTF; rebuild for bpfel"));
            }
            Some(_) => return Err(BtfError::Header("the magic number is not 0xeb9f")),
            None => return Err(cut),
        }
        let (version, _flags) = r.u8().zip(r.u8()).ok_or(cut.clone())?;
        if version != 1 {
            return Err(BtfError::Header("the version is not 1"));
        }
        let mut word = || r.u32().ok_or(cut.clone());
        Ok(Header {
            len: word()?,
            type_off: word()?,
            type_len: word()?,
            str_off: word()?,
            str_len: word()?,
        })
    }

    fn types<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], BtfError> {
        if !self.type_off.is_multiple_of(4) {
            return Err(BtfError::Header("the types are not aligned"));
        }
        self.part(bytes, self.type_off, self.type_len)
            .ok_or(BtfError::Header("the types lie outside the section"))
    }

    fn strings<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], BtfError> {
        self.part(bytes, self.str_off, self.str_len)
            .ok_or(BtfError::Header("the strings lie outside the section"))
    }

    fn part<'a>(&self, bytes: &'a [u8], off: u32, len: u32) -> Option<&'a [u8]> {
        let start = (self.len as usize).checked_add(off as usize)?;
        bytes.get(start..start.checked_add(len as usize)?)
    }
}

/// The record under parsing, for error messages.
struct Record {
    id: u32,
}

impl Record {
    fn parse(&self, r: &mut Reader<'_>) -> Result<Type, BtfError> {
        let (name, info, size_or_type) = self.head(r).ok_or_else(|| self.cut())?;
        let kind = (info >> 24) & 0x1f;
        let vlen = (info & 0xffff) as usize;
        let kflag = info >> 31 != 0;
        let ty = TypeId(size_or_type);
        let kind = match kind {
            1 => self.int(r, size_or_type),
            2 => Some(Kind::Ptr(ty)),
            3 => self.array(r),
            4 | 5 => self.composite(r, kind == 5, kflag, size_or_type, vlen),
            6 => self.enumeration(r, kflag, size_or_type, vlen),
            7 => Some(Kind::Fwd { union: kflag }),
            8 => Some(Kind::Typedef(ty)),
            9..=11 | 18 => Some(Kind::Modifier(ty)),
            12 => Some(Kind::Func {
                proto: ty,
                linkage: self.linkage(vlen as u32)?,
            }),
            13 => self.func_proto(r, ty, vlen),
            14 => {
                let linkage = r.u32().ok_or_else(|| self.cut())?;
                Some(Kind::Var {
                    ty,
                    linkage: self.linkage(linkage)?,
                })
            }
            15 => self.data_sec(r, size_or_type, vlen),
            16 => Some(Kind::Float { size: size_or_type }),
            17 => r.u32().map(|_component| Kind::DeclTag { ty }),
            19 => self.enumeration64(r, kflag, size_or_type, vlen),
            other => return Err(self.error(format!("unknown kind {other}"))),
        };
        Ok(Type {
            name: Name(name),
            kind: kind.ok_or_else(|| self.cut())?,
        })
    }

    fn head(&self, r: &mut Reader<'_>) -> Option<(u32, u32, u32)> {
        Some((r.u32()?, r.u32()?, r.u32()?))
    }

    fn error(&self, reason: String) -> BtfError {
        BtfError::Type {
            id: self.id,
            reason,
        }
    }

    fn cut(&self) -> BtfError {
        self.error("the section ends inside it".into())
    }

    fn linkage(&self, number: u32) -> Result<Linkage, BtfError> {
        match number {
            0 => Ok(Linkage::Static),
            1 => Ok(Linkage::Global),
            2 => Ok(Linkage::Extern),
            other => Err(self.error(format!("unknown linkage {other}"))),
        }
    }

    fn int(&self, r: &mut Reader<'_>, size: u32) -> Option<Kind> {
        let [bits, _, offset, encoding] = r.u32()?.to_le_bytes();
        Some(Kind::Int {
            size,
            bits,
            offset,
            signed: encoding & 1 != 0,
            boolean: encoding & 4 != 0,
        })
    }

    fn array(&self, r: &mut Reader<'_>) -> Option<Kind> {
        let (element, _index, len) = (r.u32()?, r.u32()?, r.u32()?);
        Some(Kind::Array {
            element: TypeId(element),
            len,
        })
    }

    fn composite(
        &self,
        r: &mut Reader<'_>,
        union: bool,
        kflag: bool,
        size: u32,
        vlen: usize,
    ) -> Option<Kind> {
        let members = r.many(vlen, 12, |r| {
            let (name, ty, off) = (r.u32()?, r.u32()?, r.u32()?);
            let (bit_offset, bit_width) = if kflag {
                (off & 0x00ff_ffff, off >> 24)
            } else {
                (off, 0)
            };
            Some(Member {
                name: Name(name),
                ty: TypeId(ty),
                bit_offset,
                bit_width,
            })
        })?;
        Some(Kind::Composite {
            union,
            size,
            members,
        })
    }

    fn enumeration(
        &self,
        r: &mut Reader<'_>,
        signed: bool,
        size: u32,
        vlen: usize,
    ) -> Option<Kind> {
        let values = r.many(vlen, 8, |r| {
            let (name, value) = (r.u32()?, r.u32()?);
            let value = if signed {
                i64::from(value.cast_signed()).cast_unsigned()
            } else {
                value.into()
            };
            Some(Enumerator {
                name: Name(name),
                value,
            })
        })?;
        Some(Kind::Enum {
            size,
            signed,
            values,
        })
    }

    fn enumeration64(
        &self,
        r: &mut Reader<'_>,
        signed: bool,
        size: u32,
        vlen: usize,
    ) -> Option<Kind> {
        let values = r.many(vlen, 12, |r| {
            let (name, low, high) = (r.u32()?, r.u32()?, r.u32()?);
            Some(Enumerator {
                name: Name(name),
                value: u64::from(low) | u64::from(high) << 32,
            })
        })?;
        Some(Kind::Enum {
            size,
            signed,
            values,
        })
    }

    fn func_proto(&self, r: &mut Reader<'_>, ret: TypeId, vlen: usize) -> Option<Kind> {
        let params = r.many(vlen, 8, |r| {
            let (_name, ty) = (r.u32()?, r.u32()?);
            Some(TypeId(ty))
        })?;
        Some(Kind::FuncProto { ret, params })
    }

    fn data_sec(&self, r: &mut Reader<'_>, size: u32, vlen: usize) -> Option<Kind> {
        let vars = r.many(vlen, 12, |r| {
            let (var, offset, size) = (r.u32()?, r.u32()?, r.u32()?);
            Some(SecVar {
                var: TypeId(var),
                offset,
                size,
            })
        })?;
        Some(Kind::DataSec { size, vars })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A `.BTF` section of type records, as words, and names.
    pub(in crate::btf) fn section(types: &[u32], names: &[u8]) -> Vec<u8> {
        let type_len = 4 * types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, type_len, type_len, names.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(types.iter().flat_map(|w| w.to_le_bytes()));
        bytes.extend(names);
        bytes
    }

    fn info(kind: u32, vlen: u32, kflag: bool) -> u32 {
        kind << 24 | vlen | u32::from(kflag) << 31
    }

    #[test]
    fn a_section_without_types_has_void_alone() {
        let btf = parse(&section(&[], b"\0")).unwrap();
        assert!(btf.is_empty());
        assert_eq!(btf.get(TypeId::VOID).unwrap().kind, Kind::Void);
    }

    #[test]
    fn kflag_splits_member_offsets_into_offset_and_width() {
        let types = [1, info(4, 1, true), 4, 3, 7, 5 << 24 | 12];
        let btf = parse(&section(&types, b"\0s\0m\0")).unwrap();
        let member = btf.member(TypeId(1), "m").unwrap();
        assert_eq!((member.bit_offset, member.bit_width), (12, 5));
        assert_eq!(member.ty, TypeId(7));
    }

    #[test]
    fn enumerators_are_extended_by_their_sign() {
        for (kind, kflag, words, want) in [
            (6, true, &[0, 0xffff_fffe][..], u64::MAX - 1),
            (6, false, &[0, 0xffff_fffe], 0xffff_fffe),
            (19, true, &[0, 1, 0x8000_0000], 0x8000_0000_0000_0001),
        ] {
            let types: Vec<u32> = [0, info(kind, 1, kflag), 4]
                .iter()
                .chain(words)
                .copied()
                .collect();
            let btf = parse(&section(&types, b"\0")).unwrap();
            match &btf.get(TypeId(1)).unwrap().kind {
                Kind::Enum { values, .. } => assert_eq!(values[0].value, want),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn malformed_sections_are_refused_with_the_reason() {
        let whole = section(&[0, info(2, 0, false), 0], b"\0");
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len}");
        }
        let reason =
            |types: &[u32], names: &[u8]| parse(&section(types, names)).unwrap_err().to_string();
        assert_eq!(
            reason(&[0, info(20, 0, false), 0], b"\0"),
            "type 1: unknown kind 20"
        );
        assert_eq!(
            reason(&[0, info(4, 9, false), 4], b"\0"),
            "type 1: the section ends inside it"
        );
        assert_eq!(
            reason(&[9, info(2, 0, false), 0], b"\0"),
            "type 1: its name lies outside the string table"
        );
        assert_eq!(
            reason(&[], b"abc"),
            "header: the string table does not begin and end with an empty string"
        );
    }
}

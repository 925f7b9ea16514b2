//! `.BTF.ext`: functions' types, source lines and CO-RE relocations, by section and instruction.

use super::{Btf, TypeId};
use crate::BtfError;
use crate::reader::Reader;

/// The records of `.BTF.ext` that we use, section by section.
#[derive(Default)]
pub(crate) struct Ext<'a> {
    pub(crate) funcs: Vec<Records<'a, FuncRecord>>,
    pub(crate) lines: Vec<Records<'a, LineRecord>>,
    pub(crate) core: Vec<Records<'a, CoreRecord>>,
}

/// All records of one section, by ascending offset.
pub(crate) struct Records<'a, T> {
    pub(crate) section: &'a str,
    pub(crate) records: Vec<T>,
}

/// The type of a function.
#[derive(Clone, Copy)]
pub(crate) struct FuncRecord {
    /// Offset of its first instruction in the section in bytes.
    pub(crate) offset: u32,
    /// Its `Func`.
    pub(crate) ty: TypeId,
}

/// The source line an instruction came from.
#[derive(Clone, Copy)]
pub(crate) struct LineRecord {
    /// Offset in the section in bytes.
    pub(crate) offset: u32,
    /// File name and text as offsets of strings.
    pub(crate) file: u32,
    pub(crate) text: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A CO-RE relocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreRecord {
    /// Offset in the section in bytes.
    pub(crate) offset: u32,
    /// Root type in the object's BTF.
    pub(crate) ty: TypeId,
    /// Access path as the offset of a string such as `0:1:2`.
    pub(crate) access: u32,
    /// `enum bpf_core_relo_kind`.
    pub(crate) kind: u32,
}

const MAGIC: u16 = 0xeb9f;
const CUT: BtfError = BtfError::Ext("a record lies outside the section");

impl<'a> Ext<'a> {
    pub(crate) fn parse(bytes: &[u8], btf: &'a Btf) -> Result<Ext<'a>, BtfError> {
        let mut r = Reader::new(bytes);
        if r.u16() != Some(MAGIC) || r.u8() != Some(1) {
            return Err(BtfError::Ext(
                "the magic number or version in its header is wrong",
            ));
        }
        let mut words = [0; 6];
        let header_len = r.u8().and_then(|_flags| r.u32()).ok_or(CUT)?;
        let optional = (header_len as usize).saturating_sub(8) / 4;
        for word in words.iter_mut().take(optional) {
            *word = r.u32().ok_or(CUT)?;
        }
        let [func_off, func_len, line_off, line_len, core_off, core_len] = words;
        let part = |off: u32, len: u32| {
            let start = (header_len as usize).checked_add(off as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let [funcs, lines, cores] = [
            part(func_off, func_len).ok_or(CUT)?,
            part(line_off, line_len).ok_or(CUT)?,
            part(core_off, core_len).ok_or(CUT)?,
        ];
        Ok(Ext {
            funcs: sections(funcs, btf, FUNC, func, |f| f.offset)?,
            lines: sections(lines, btf, RECORD, line, |l| l.offset)?,
            core: sections(cores, btf, RECORD, core, |c| c.offset)?,
        })
    }
}

fn func(r: &mut Reader<'_>) -> Option<FuncRecord> {
    let (offset, ty) = (r.u32()?, TypeId(r.u32()?));
    Some(FuncRecord { offset, ty })
}

fn line(r: &mut Reader<'_>) -> Option<LineRecord> {
    let (offset, file, text, line_col) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    Some(LineRecord {
        offset,
        file,
        text,
        line: line_col >> 10,
        column: line_col & 0x3ff,
    })
}

fn core(r: &mut Reader<'_>) -> Option<CoreRecord> {
    let (offset, ty, access, kind) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    Some(CoreRecord {
        offset,
        ty: TypeId(ty),
        access,
        kind,
    })
}

/// Lines and relocations are at least this long; longer ones come from newer compilers.
const RECORD: usize = 16;
/// Functions likewise.
const FUNC: usize = 8;

fn sections<'a, T>(
    bytes: &[u8],
    btf: &'a Btf,
    least: usize,
    read: impl Fn(&mut Reader<'_>) -> Option<T>,
    offset: impl Fn(&T) -> u32,
) -> Result<Vec<Records<'a, T>>, BtfError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut r = Reader::new(bytes);
    let size = r.u32().ok_or(CUT)? as usize;
    if size < least || !size.is_multiple_of(4) {
        return Err(BtfError::Ext("the record size is too small or unaligned"));
    }
    let mut out = Vec::new();
    while !r.is_empty() {
        let (name, count) = r.u32().zip(r.u32()).ok_or(CUT)?;
        let section = btf
            .string(name)
            .ok_or(BtfError::Ext("a section name is outside the strings"))?;
        let mut records = r.many(count as usize, size, |r| {
            read(&mut Reader::new(r.take(size)?))
        });
        if let Some(records) = &mut records {
            records.sort_by_key(|t| offset(t));
        }
        out.push(Records {
            section,
            records: records.ok_or(CUT)?,
        });
    }
    Ok(out)
}

//! Questions about types: names, sizes, members.

use super::{Btf, Kind, Member, Name, SecVar, Type, TypeId};
use crate::BtfError;
use crate::limits::{LINE_BYTES, NAME_BYTES, TYPE_DEPTH};

/// Size of a pointer in eBPF, in bytes.
const POINTER: u64 = 8;

impl Btf {
    /// The type with this number, if it exists.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id.0 as usize)
    }

    /// All types with their numbers, `void` first.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0..).map(TypeId).zip(&self.types)
    }

    /// How many types there are, `void` included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there is no type but `void`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.len() <= 1
    }

    /// A name; empty if it is no valid text.
    #[must_use]
    pub fn name(&self, name: Name) -> &str {
        self.string(name.0).unwrap_or("")
    }

    /// The name of a type; empty if it has none or does not exist.
    #[must_use]
    pub fn type_name(&self, id: TypeId) -> &str {
        self.get(id).map_or("", |t| self.name(t.name))
    }

    /// The string at an offset of the string table, if it is text of at most [`NAME_BYTES`].
    pub(crate) fn string(&self, offset: u32) -> Option<&str> {
        let tail = self.strings.get(offset as usize..)?;
        let window = tail.get(..=NAME_BYTES).unwrap_or(tail);
        let end = window.iter().position(|&b| b == 0)?;
        std::str::from_utf8(window.get(..end)?).ok()
    }

    /// The text at an offset of the string table, cut to [`LINE_BYTES`]; empty if there is none.
    pub(crate) fn text(&self, offset: u32) -> String {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        let window = tail.get(..LINE_BYTES).unwrap_or(tail);
        let line = window.split(|&b| b == 0).next().unwrap_or(&[]);
        String::from_utf8_lossy(line).into_owned()
    }

    /// The type behind qualifiers and type tags, but not behind typedefs.
    #[must_use]
    pub fn skip_modifiers(&self, id: TypeId) -> Option<(TypeId, &Type)> {
        self.skip(id, |kind| match *kind {
            Kind::Modifier(inner) => Some(inner),
            _ => None,
        })
    }

    /// The type behind qualifiers, type tags and typedefs.
    #[must_use]
    pub fn resolve(&self, id: TypeId) -> Option<(TypeId, &Type)> {
        self.skip(id, |kind| match *kind {
            Kind::Modifier(inner) | Kind::Typedef(inner) => Some(inner),
            _ => None,
        })
    }

    fn skip(
        &self,
        mut id: TypeId,
        step: impl Fn(&Kind) -> Option<TypeId>,
    ) -> Option<(TypeId, &Type)> {
        for _ in 0..TYPE_DEPTH {
            let ty = self.get(id)?;
            match step(&ty.kind) {
                Some(inner) => id = inner,
                None => return Some((id, ty)),
            }
        }
        None
    }

    /// Size of a value of this type in bytes.
    ///
    /// # Errors
    /// If it is incomplete (`void`, a function, a forward declaration), dangling, cyclic or beyond 64 bits.
    pub fn size_of(&self, id: TypeId) -> Result<u64, BtfError> {
        let no = |reason| BtfError::NoSize { id: id.0, reason };
        let mut count = 1u64;
        let mut at = id;
        for _ in 0..TYPE_DEPTH {
            let (_, ty) = self
                .resolve(at)
                .ok_or(no("it refers to a type that does not exist, or to itself"))?;
            let size = match ty.kind {
                Kind::Int { size, .. }
                | Kind::Composite { size, .. }
                | Kind::Enum { size, .. }
                | Kind::Float { size }
                | Kind::DataSec { size, .. } => u64::from(size),
                Kind::Ptr(_) => POINTER,
                Kind::Var { ty, .. } => {
                    at = ty;
                    continue;
                }
                Kind::Array { element, len } => {
                    count = count
                        .checked_mul(len.into())
                        .ok_or(no("its size overflows"))?;
                    at = element;
                    continue;
                }
                _ => return Err(no("it is incomplete")),
            };
            return count.checked_mul(size).ok_or(no("its size overflows"));
        }
        Err(no("it nests too deeply"))
    }

    /// The first type with this name that `accept` likes.
    pub fn find(&self, name: &str, accept: impl Fn(&Kind) -> bool) -> Option<TypeId> {
        self.types()
            .find(|(_, t)| accept(&t.kind) && self.name(t.name) == name)
            .map(|(id, _)| id)
    }

    /// The struct or union with this name.
    #[must_use]
    pub fn find_composite(&self, name: &str) -> Option<TypeId> {
        self.find(name, |k| matches!(k, Kind::Composite { .. }))
    }

    /// The members of a struct or union, also behind qualifiers and typedefs.
    #[must_use]
    pub fn members(&self, id: TypeId) -> Option<&[Member]> {
        match &self.resolve(id)?.1.kind {
            Kind::Composite { members, .. } => Some(members),
            _ => None,
        }
    }

    /// A member of a struct or union by name; its offset counts from the start of `id` even when it stands
    /// in an anonymous struct or union.
    #[must_use]
    pub fn member(&self, id: TypeId, name: &str) -> Option<Member> {
        let mut steps = 4096;
        self.member_within(id, name, 0, TYPE_DEPTH, &mut steps)
    }

    fn member_within(
        &self,
        id: TypeId,
        name: &str,
        base: u32,
        depth: usize,
        steps: &mut usize,
    ) -> Option<Member> {
        let depth = depth.checked_sub(1)?;
        for &member in self.members(id)? {
            *steps = steps.checked_sub(1)?;
            let bit_offset = base.checked_add(member.bit_offset)?;
            let found = match self.name(member.name) {
                "" => self.member_within(member.ty, name, bit_offset, depth, steps),
                n if n == name => Some(Member {
                    bit_offset,
                    ..member
                }),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The variables of a section.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<(TypeId, &[SecVar])> {
        let id = self.find(name, |k| matches!(k, Kind::DataSec { .. }))?;
        match &self.get(id)?.kind {
            Kind::DataSec { vars, .. } => Some((id, vars)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::tests::section;
    use super::*;

    const PTR: u32 = 2 << 24;
    const ARRAY: u32 = 3 << 24;
    const TYPEDEF: u32 = 8 << 24;

    fn size(types: &[u32], id: u32) -> Result<u64, BtfError> {
        Btf::parse(&section(types, b"\0"))
            .unwrap()
            .size_of(TypeId(id))
    }

    #[test]
    fn sizes_multiply_through_arrays_and_typedefs() {
        // 1: pointer, 2: typedef of 1, 3: [5] of 2, 4: [3] of 3
        let types = [
            &[0, PTR, 0][..],
            &[0, TYPEDEF, 1],
            &[0, ARRAY, 0, 2, 0, 5],
            &[0, ARRAY, 0, 3, 0, 3],
        ]
        .concat();
        assert_eq!(size(&types, 4), Ok(120));
    }

    #[test]
    fn types_that_refer_to_themselves_or_to_nothing_have_no_size() {
        assert!(size(&[0, TYPEDEF, 1], 1).is_err());
        assert!(size(&[0, ARRAY, 0, 1, 0, 2], 1).is_err());
        assert!(size(&[0, TYPEDEF, 7], 1).is_err());
        assert!(size(&[], 0).is_err());
        assert!(size(&[], 1).is_err());
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused() {
        let most = u32::MAX;
        let types = [
            &[0, PTR, 0][..],
            &[0, ARRAY, 0, 1, 0, most],
            &[0, ARRAY, 0, 2, 0, most],
        ]
        .concat();
        assert_eq!(size(&types, 2), Ok(8 * u64::from(most)));
        assert!(size(&types, 3).is_err());
    }

    #[test]
    fn anonymous_structs_within_themselves_end_the_search() {
        // 1: struct { struct 1; struct 1; }
        let types = [0, 4 << 24 | 2, 8, 0, 1, 0, 0, 1, 0];
        let btf = Btf::parse(&section(&types, b"\0")).unwrap();
        assert_eq!(btf.member(TypeId(1), "x"), None);
    }
}

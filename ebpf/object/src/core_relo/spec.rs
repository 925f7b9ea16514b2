//! Access paths: from a root type through members and array elements to a field.

use super::types::{Depth, Pair};
use super::{Ask, Budget, Failure, essential};
use crate::btf::{Btf, CoreRecord, Kind, Member, TypeId};
use crate::limits::{LINE_BYTES, TYPE_DEPTH};

/// Longest access path (libbpf's limit).
const PATH: usize = 64;

/// A path followed in one BTF.
#[derive(Clone)]
pub(super) struct Spec<'b> {
    pub(super) btf: &'b Btf,
    pub(super) root: TypeId,
    pub(super) steps: Vec<Step<'b>>,
    /// Offset of the field from the root in bits.
    pub(super) bit_offset: u64,
}

/// One step of a path.
#[derive(Clone, Copy)]
pub(super) struct Step<'b> {
    /// For members and enumerators the type they belong to, for elements the element's type.
    pub(super) ty: TypeId,
    /// Number of the member, enumerator or element.
    pub(super) index: u32,
    /// Name of the member or enumerator; `None` for elements.
    pub(super) name: Option<&'b str>,
}

impl<'b> Spec<'b> {
    /// Follows a relocation's path in the object's own types.
    pub(super) fn local(btf: &'b Btf, record: CoreRecord) -> Result<Spec<'b>, Failure> {
        let ask = Ask::from_id(record.kind).ok_or("its kind is not known")?;
        let path = indices(btf, record).ok_or("its access string is malformed")?;
        let mut spec = Spec {
            btf,
            root: record.ty,
            steps: Vec::new(),
            bit_offset: 0,
        };
        if btf.get(record.ty).is_none() {
            return Err("its type does not exist".into());
        }
        if ask.is_type() {
            return if path == [0] {
                Ok(spec)
            } else {
                Err("its access string is not `0`".into())
            };
        }
        let followed = if ask.is_enumerator() {
            spec.enumerator(&path)
        } else {
            spec.field(&path)
        };
        followed.ok_or("its access string does not fit its type")?;
        Ok(spec)
    }

    fn enumerator(&mut self, path: &[u32]) -> Option<()> {
        let &[index] = path else { return None };
        let (ty, resolved) = self.btf.resolve(self.root)?;
        let Kind::Enum { values, .. } = &resolved.kind else {
            return None;
        };
        let name = self.btf.name(values.get(index as usize)?.name);
        self.steps.push(Step {
            ty,
            index,
            name: Some(name),
        });
        Some(())
    }

    fn field(&mut self, path: &[u32]) -> Option<()> {
        let (&first, rest) = path.split_first()?;
        let (mut at, _) = self.btf.resolve(self.root)?;
        self.element(at, first)?;
        for &index in rest {
            at = match &self.btf.resolve(at)?.1.kind {
                Kind::Composite { members, .. } => {
                    let member = members.get(index as usize)?;
                    self.member(self.btf.resolve(at)?.0, index, member)?;
                    self.btf.resolve(member.ty)?.0
                }
                Kind::Array { element, len } => {
                    if index >= *len && !self.ends_flexible(*len) {
                        return None;
                    }
                    let element = self.btf.resolve(*element)?.0;
                    self.element(element, index)?;
                    element
                }
                _ => return None,
            };
        }
        Some(())
    }

    /// Steps to the `index`th element of type `ty`.
    fn element(&mut self, ty: TypeId, index: u32) -> Option<()> {
        let bits = self
            .btf
            .size_of(ty)
            .ok()?
            .checked_mul(8)?
            .checked_mul(index.into())?;
        self.advance(bits)?;
        self.push(Step {
            ty,
            index,
            name: None,
        })
    }

    /// Steps to a member; anonymous ones leave no trace but their offset.
    fn member(&mut self, ty: TypeId, index: u32, member: &Member) -> Option<()> {
        self.advance(member.bit_offset.into())?;
        match self.btf.name(member.name) {
            "" => Some(()),
            name => self.push(Step {
                ty,
                index,
                name: Some(name),
            }),
        }
    }

    fn advance(&mut self, bits: u64) -> Option<()> {
        self.bit_offset = self.bit_offset.checked_add(bits)?;
        Some(())
    }

    fn push(&mut self, step: Step<'b>) -> Option<()> {
        (self.steps.len() < PATH).then(|| self.steps.push(step))
    }

    /// Whether the path so far ends in the last member of a struct, so that an array of length 0 there is flexible.
    fn ends_flexible(&self, len: u32) -> bool {
        let Some(last) = self.steps.last() else {
            return false;
        };
        let members = self.btf.members(last.ty).map_or(0, <[_]>::len);
        len == 0 && last.name.is_some() && last.index as usize + 1 == members
    }

    /// The same path in the type `candidate` of a target, if it is there.
    pub(super) fn matching(
        &self,
        ask: Ask,
        target: &'b Btf,
        candidate: TypeId,
        budget: &mut Budget,
    ) -> Result<Option<Spec<'b>>, Failure> {
        let mut spec = Spec {
            btf: target,
            root: candidate,
            steps: Vec::new(),
            bit_offset: 0,
        };
        let pair = Pair {
            local: self.btf,
            target,
        };
        let found = if ask == Ask::TypeMatches {
            pair.matches(self.root, candidate, false, Depth::FULL, budget)?
        } else if ask.is_type() {
            pair.same_shape(self.root, candidate, Depth::FULL, budget)?
        } else if ask.is_enumerator() {
            spec.matching_enumerator(self, budget)?.is_some()
        } else {
            spec.matching_field(self, pair, budget)?.is_some()
        };
        Ok(found.then_some(spec))
    }

    fn matching_enumerator(
        &mut self,
        local: &Spec<'b>,
        budget: &mut Budget,
    ) -> Result<Option<()>, Failure> {
        let Some(name) = local.steps.first().and_then(|s| s.name) else {
            return Ok(None);
        };
        let Some((ty, resolved)) = self.btf.resolve(self.root) else {
            return Ok(None);
        };
        let Kind::Enum { values, .. } = &resolved.kind else {
            return Ok(None);
        };
        for (index, value) in (0..).zip(values) {
            budget.step()?;
            let candidate = self.btf.name(value.name);
            if essential(candidate) == essential(name) {
                return Ok(self.push(Step {
                    ty,
                    index,
                    name: Some(candidate),
                }));
            }
        }
        Ok(None)
    }

    fn matching_field(
        &mut self,
        local: &Spec<'b>,
        pair: Pair<'b>,
        budget: &mut Budget,
    ) -> Result<Option<()>, Failure> {
        let mut at = self.root;
        for (position, step) in local.steps.iter().enumerate() {
            budget.step()?;
            let Some((resolved, ty)) = self.btf.resolve(at) else {
                return Ok(None);
            };
            at = resolved;
            if step.name.is_some() {
                match self.matching_member(local, step, pair, at, TYPE_DEPTH, budget)? {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
                continue;
            }
            if position > 0 {
                let Kind::Array { element, len } = ty.kind else {
                    return Ok(None);
                };
                if step.index >= len && !self.ends_flexible(len) {
                    return Ok(None);
                }
                match self.btf.resolve(element) {
                    Some((element, _)) => at = element,
                    None => return Ok(None),
                }
            }
            if self.element(at, step.index).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Steps to the member that a local step names, also within anonymous members, and gives its type.
    fn matching_member(
        &mut self,
        local: &Spec<'b>,
        step: &Step<'b>,
        pair: Pair<'b>,
        ty: TypeId,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Option<TypeId>, Failure> {
        let Some(wanted) = local
            .btf
            .members(step.ty)
            .and_then(|m| m.get(step.index as usize))
        else {
            return Ok(None);
        };
        let (Some(depth), Some((ty, _))) = (depth.checked_sub(1), self.btf.resolve(ty)) else {
            return Ok(None);
        };
        let base = self.bit_offset;
        for (index, member) in (0..).zip(self.btf.members(ty).unwrap_or(&[])) {
            budget.step()?;
            let name = self.btf.name(member.name);
            if name.is_empty() {
                if self.advance(member.bit_offset.into()).is_none() {
                    return Ok(None);
                }
                let inner = self.matching_member(local, step, pair, member.ty, depth, budget)?;
                if inner.is_some() {
                    return Ok(inner);
                }
                self.bit_offset = base;
            } else if Some(name) == step.name {
                // A member of the right name but of a foreign type ends the search, as in libbpf.
                let fits = pair.members_compatible(wanted.ty, member.ty, Depth::FULL, budget)?
                    && self.member(ty, index, member).is_some();
                return Ok(fits.then_some(member.ty));
            }
        }
        Ok(None)
    }

    /// The path for messages: `.a.b[2]`.
    pub(super) fn path(&self) -> String {
        let mut text = String::new();
        for (position, step) in self.steps.iter().enumerate() {
            if text.len() > LINE_BYTES {
                text.push_str(" ...");
                break;
            }
            match step.name {
                Some(name) => text.push_str(&format!(".{name}")),
                None if position == 0 && step.index == 0 => {}
                None => text.push_str(&format!("[{}]", step.index)),
            }
        }
        text
    }
}

/// The numbers of an access string such as `0:1:2`.
fn indices(btf: &Btf, record: CoreRecord) -> Option<Vec<u32>> {
    let text = btf.string(record.access)?;
    let path: Option<Vec<u32>> = text
        .split(':')
        .take(PATH + 1)
        .map(|s| s.parse().ok())
        .collect();
    path.filter(|p| p.len() <= PATH)
}

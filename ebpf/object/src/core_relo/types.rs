//! Whether two types are the same for CO-RE's purposes.
//!
//! There are three notions. Members found by name need only be *compatible*: integers of any size, any
//! two pointers, any two structs. A type found by name is *the same type* if its outer shape agrees.
//! `bpf_core_type_matches` asks for more: every member, parameter and enumerator of the local type must have
//! its counterpart.

use super::{Budget, Failure, essential};
use crate::btf::{Btf, Enumerator, Kind, Member, Name, Type, TypeId};

/// Nesting that is followed before types count as different (libbpf's limit).
const DEPTH: u32 = 32;

/// How much deeper a comparison may go.
#[derive(Clone, Copy)]
pub(super) struct Depth(u32);

impl Depth {
    pub(super) const FULL: Depth = Depth(DEPTH);
}

/// Whether both kinds are the same, enumerations of 32 and 64 bits included.
pub(super) fn same_kind(a: &Kind, b: &Kind) -> bool {
    match (a, b) {
        (Kind::Composite { union: a, .. }, Kind::Composite { union: b, .. }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Integers are compatible unless they are the bit fields of long ago.
fn same_int(a: &Kind, b: &Kind) -> bool {
    let whole = |k: &Kind| matches!(k, Kind::Int { offset: 0, .. });
    whole(a) && whole(b)
}

/// Return type and parameters of a function's type.
fn signature(kind: &Kind) -> Vec<TypeId> {
    match kind {
        Kind::FuncProto { ret, params } => params.iter().chain([ret]).copied().collect(),
        _ => Vec::new(),
    }
}

/// Whether all types of one list stand in some relation to those of another.
fn pairwise(
    local: &[TypeId],
    target: &[TypeId],
    mut related: impl FnMut(TypeId, TypeId) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    if local.len() != target.len() {
        return Ok(false);
    }
    for (&l, &t) in local.iter().zip(target) {
        if !related(l, t)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A local and a target BTF side by side.
#[derive(Clone, Copy)]
pub(super) struct Pair<'b> {
    pub(super) local: &'b Btf,
    pub(super) target: &'b Btf,
}

impl<'b> Pair<'b> {
    /// Both types behind typedefs and qualifiers, and the depth left within them.
    fn resolve(
        self,
        local: TypeId,
        target: TypeId,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<Option<(&'b Type, &'b Type, Depth)>, Failure> {
        budget.step()?;
        let found = || {
            let depth = Depth(depth.0.checked_sub(1)?);
            let (_, l) = self.local.resolve(local)?;
            let (_, t) = self.target.resolve(target)?;
            Some((l, t, depth))
        };
        Ok(found())
    }

    fn same_name(self, local: Name, target: Name) -> bool {
        essential(self.local.name(local)) == essential(self.target.name(target))
    }

    /// Whether a member of one type can stand for a member of the other.
    pub(super) fn members_compatible(
        self,
        local: TypeId,
        target: TypeId,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        let Some((l, t, depth)) = self.resolve(local, target, depth, budget)? else {
            return Ok(false);
        };
        Ok(match (&l.kind, &t.kind) {
            (Kind::Composite { .. }, Kind::Composite { .. })
            | (Kind::Ptr(_), Kind::Ptr(_))
            | (Kind::Float { .. }, Kind::Float { .. }) => true,
            (Kind::Fwd { .. }, Kind::Fwd { .. }) | (Kind::Enum { .. }, Kind::Enum { .. }) => {
                l.name == Name::EMPTY || t.name == Name::EMPTY || self.same_name(l.name, t.name)
            }
            (Kind::Array { element: l, .. }, Kind::Array { element: t, .. }) => {
                return self.members_compatible(*l, *t, depth, budget);
            }
            (l, t) => same_int(l, t),
        })
    }

    /// Whether two types, found under one name, are the same in outer shape.
    pub(super) fn same_shape(
        self,
        local: TypeId,
        target: TypeId,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        let Some((l, t, depth)) = self.resolve(local, target, depth, budget)? else {
            return Ok(false);
        };
        match (&l.kind, &t.kind) {
            (Kind::Ptr(l), Kind::Ptr(t))
            | (Kind::Array { element: l, .. }, Kind::Array { element: t, .. }) => {
                self.same_shape(*l, *t, depth, budget)
            }
            (l @ Kind::FuncProto { .. }, t @ Kind::FuncProto { .. }) => {
                pairwise(&signature(l), &signature(t), |l, t| {
                    self.same_shape(l, t, depth, budget)
                })
            }
            (Kind::Void | Kind::Composite { .. } | Kind::Enum { .. } | Kind::Fwd { .. }, _) => {
                Ok(same_kind(&l.kind, &t.kind))
            }
            (l, t) => Ok(same_int(l, t)),
        }
    }

    /// Whether the target type has everything that the local one has (`bpf_core_type_matches`).
    pub(super) fn matches(
        self,
        local: TypeId,
        target: TypeId,
        behind_pointer: bool,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        let Some((l, t, depth)) = self.resolve(local, target, depth, budget)? else {
            return Ok(false);
        };
        if !self.same_name(l.name, t.name) {
            return Ok(false);
        }
        match (&l.kind, &t.kind) {
            (Kind::Ptr(l), Kind::Ptr(t)) => self.matches(*l, *t, true, depth, budget),
            (l @ Kind::FuncProto { .. }, t @ Kind::FuncProto { .. }) => {
                pairwise(&signature(l), &signature(t), |l, t| {
                    self.matches(l, t, behind_pointer, depth, budget)
                })
            }
            (Kind::Array { element: l, len }, Kind::Array { element: t, len: n }) if len == n => {
                self.matches(*l, *t, behind_pointer, depth, budget)
            }
            (Kind::Enum { values: l, .. }, Kind::Enum { values: t, .. }) => {
                self.enumerators_match(l, t, budget)
            }
            (
                Kind::Composite { members, .. },
                Kind::Composite {
                    members: others, ..
                },
            ) if !behind_pointer => Ok(same_kind(&l.kind, &t.kind)
                && self.all_members_match(members, others, depth, budget)?),
            (l, t) => Ok(leaves_match(l, t, behind_pointer)),
        }
    }

    fn enumerators_match(
        self,
        local: &[Enumerator],
        target: &[Enumerator],
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        for l in local {
            let mut found = false;
            for t in target {
                budget.step()?;
                found = found || self.same_name(l.name, t.name);
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn all_members_match(
        self,
        local: &[Member],
        target: &[Member],
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        for l in local {
            let mut found = false;
            for t in target {
                budget.step()?;
                if self.same_name(l.name, t.name)
                    && self.matches(l.ty, t.ty, false, depth, budget)?
                {
                    found = true;
                    break;
                }
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether types match whose parts don't matter: behind a pointer a declared struct is as good as a defined one.
fn leaves_match(local: &Kind, target: &Kind, behind_pointer: bool) -> bool {
    match (local, target) {
        (Kind::Void, Kind::Void) => true,
        (Kind::Fwd { union: l }, Kind::Fwd { union: t }) => l == t,
        (
            Kind::Fwd { union: l } | Kind::Composite { union: l, .. },
            Kind::Fwd { union: t } | Kind::Composite { union: t, .. },
        ) => behind_pointer && l == t,
        (
            Kind::Int {
                size: l, signed, ..
            },
            Kind::Int {
                size: t,
                signed: other,
                ..
            },
        ) => l == t && signed == other,
        _ => false,
    }
}

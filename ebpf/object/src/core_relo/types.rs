//! Whether two types are the same for CO-RE's purposes.
//!
//! There are three notions. Members found by name need only be *compatible*: integers of any size, any
//! two pointers, any two structs. A type found by name is *the same type* if its outer shape agrees. `bpf_core_type_matches`
//! asks for more: every member, parameter and enumerator of the local type must have its counterpart.

use super::{Budget, Failure, essential};
use crate::btf::{Btf, Enumerator, Kind, Member, TypeId};

/// Nesting that is followed before types count as different (libbpf's limit).
const DEPTH: u32 = 32;

/// Whether both kinds are the same, enumerations of 32 and 64 bits included.
pub(super) fn same_kind(a: &Kind, b: &Kind) -> bool {
    match (a, b) {
        (Kind::Composite { union: a, .. }, Kind::Composite { union: b, .. }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// A local and a target type side by side.
#[derive(Clone, Copy)]
pub(super) struct Pair<'b> {
    pub(super) local: &'b Btf,
    pub(super) target: &'b Btf,
}

impl Pair<'_> {
    /// Whether a member of one type can stand for a member of the other.
    pub(super) fn members_compatible(
        self,
        mut local: TypeId,
        mut target: TypeId,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        for _ in 0..DEPTH {
            budget.step()?;
            let Some(((_, l), (_, t))) = self.local.resolve(local).zip(self.target.resolve(target))
            else {
                return Ok(false);
            };
            return Ok(match (&l.kind, &t.kind) {
                (Kind::Composite { .. }, Kind::Composite { .. })
                | (Kind::Ptr(_), Kind::Ptr(_))
                | (Kind::Float { .. }, Kind::Float { .. }) => true,
                (Kind::Fwd { .. }, Kind::Fwd { .. }) | (Kind::Enum { .. }, Kind::Enum { .. }) => {
                    let (a, b) = (self.local.name(l.name), self.target.name(t.name));
                    a.is_empty() || b.is_empty() || essential(a) == essential(b)
                }
                (Kind::Int { offset: 0, .. }, Kind::Int { offset: 0, .. }) => true,
                (Kind::Array { element: l, .. }, Kind::Array { element: t, .. }) => {
                    (local, target) = (*l, *t);
                    continue;
                }
                _ => false,
            });
        }
        Ok(false)
    }

    /// Whether two types, found under one name, are the same in outer shape.
    pub(super) fn same_shape(
        self,
        mut local: TypeId,
        mut target: TypeId,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        let mut depth = depth;
        loop {
            budget.step()?;
            let Some(deeper) = depth.deeper() else {
                return Ok(false);
            };
            depth = deeper;
            let Some(((_, l), (_, t))) = self.local.resolve(local).zip(self.target.resolve(target))
            else {
                return Ok(false);
            };
            match (&l.kind, &t.kind) {
                (Kind::Int { offset: 0, .. }, Kind::Int { offset: 0, .. }) => return Ok(true),
                (Kind::Int { .. }, Kind::Int { .. }) => return Ok(false),
                (Kind::Ptr(l), Kind::Ptr(t))
                | (Kind::Array { element: l, .. }, Kind::Array { element: t, .. }) => {
                    (local, target) = (*l, *t);
                }
                (
                    Kind::FuncProto {
                        ret: lr,
                        params: lp,
                    },
                    Kind::FuncProto {
                        ret: tr,
                        params: tp,
                    },
                ) => {
                    if lp.len() != tp.len() {
                        return Ok(false);
                    }
                    for (&l, &t) in lp.iter().zip(tp) {
                        if !self.same_shape(l, t, depth, budget)? {
                            return Ok(false);
                        }
                    }
                    (local, target) = (*lr, *tr);
                }
                (
                    l
                    @ (Kind::Void | Kind::Composite { .. } | Kind::Enum { .. } | Kind::Fwd { .. }),
                    t,
                ) => return Ok(same_kind(l, t)),
                _ => return Ok(false),
            }
        }
    }

    /// Whether the target type has everything that the local one has (`bpf_core_type_matches`).
    pub(super) fn matches(
        self,
        mut local: TypeId,
        mut target: TypeId,
        behind_pointer: bool,
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        let mut behind_pointer = behind_pointer;
        let mut depth = depth;
        loop {
            budget.step()?;
            let Some(deeper) = depth.deeper() else {
                return Ok(false);
            };
            depth = deeper;
            let Some(((_, l), (_, t))) = self.local.resolve(local).zip(self.target.resolve(target))
            else {
                return Ok(false);
            };
            if essential(self.local.name(l.name)) != essential(self.target.name(t.name)) {
                return Ok(false);
            }
            match (&l.kind, &t.kind) {
                (Kind::Void, Kind::Void) => return Ok(true),
                (Kind::Fwd { union: l }, Kind::Fwd { union: t }) => return Ok(l == t),
                (Kind::Fwd { union: l }, Kind::Composite { union: t, .. })
                | (Kind::Composite { union: l, .. }, Kind::Fwd { union: t }) => {
                    return Ok(behind_pointer && l == t);
                }
                (Kind::Enum { values: l, .. }, Kind::Enum { values: t, .. }) => {
                    return self.enumerators_match(l, t, budget);
                }
                (
                    Kind::Composite {
                        union: lu,
                        members: l,
                        ..
                    },
                    Kind::Composite {
                        union: tu,
                        members: t,
                        ..
                    },
                ) => {
                    return Ok(lu == tu
                        && (behind_pointer || self.all_members_match(l, t, depth, budget)?));
                }
                (
                    Kind::Int {
                        size: ls,
                        signed: l,
                        ..
                    },
                    Kind::Int {
                        size: ts,
                        signed: t,
                        ..
                    },
                ) => return Ok(ls == ts && l == t),
                (Kind::Ptr(l), Kind::Ptr(t)) => {
                    behind_pointer = true;
                    (local, target) = (*l, *t);
                }
                (
                    Kind::Array {
                        element: l,
                        len: ll,
                    },
                    Kind::Array {
                        element: t,
                        len: tl,
                    },
                ) => {
                    if ll != tl {
                        return Ok(false);
                    }
                    (local, target) = (*l, *t);
                }
                (
                    Kind::FuncProto {
                        ret: lr,
                        params: lp,
                    },
                    Kind::FuncProto {
                        ret: tr,
                        params: tp,
                    },
                ) => {
                    if lp.len() != tp.len() {
                        return Ok(false);
                    }
                    for (&l, &t) in lp.iter().zip(tp) {
                        if !self.matches(l, t, behind_pointer, depth, budget)? {
                            return Ok(false);
                        }
                    }
                    (local, target) = (*lr, *tr);
                }
                _ => return Ok(false),
            }
        }
    }

    fn enumerators_match(
        self,
        local: &[Enumerator],
        target: &[Enumerator],
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        for l in local {
            let name = essential(self.local.name(l.name));
            let mut found = false;
            for t in target {
                budget.step()?;
                if essential(self.target.name(t.name)) == name {
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

    fn all_members_match(
        self,
        local: &[Member],
        target: &[Member],
        depth: Depth,
        budget: &mut Budget,
    ) -> Result<bool, Failure> {
        for l in local {
            let name = essential(self.local.name(l.name));
            let mut found = false;
            for t in target {
                budget.step()?;
                if essential(self.target.name(t.name)) == name
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

/// How much deeper a comparison may go.
#[derive(Clone, Copy)]
pub(super) struct Depth(u32);

impl Depth {
    pub(super) const FULL: Depth = Depth(DEPTH);

    fn deeper(self) -> Option<Depth> {
        self.0.checked_sub(1).map(Depth)
    }
}

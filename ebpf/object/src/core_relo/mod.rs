//! CO-RE: fitting a program to the types of the kernel it runs with.
//!
//! Where a program asks the compiler to "preserve access" to a type, the compiler writes down which member
//! or enumerator it meant and which instruction depends on it. Against a target's BTF each such relocation is
//! resolved in three steps, by libbpf's rules:
//!
//! 1. the *local* type is looked up in the object's BTF and the access path followed ([`spec`]);
//! 2. every *candidate* of the target with the same name, up to a `___flavor` suffix, is asked whether it has
//!    the same path by names, with types that are compatible ([`types`]); all that do must agree;
//! 3. the value (an offset, a size, whether it exists, ...) replaces the one in the instruction ([`patch`]).
//!
//! What does not exist in the target poisons its instruction: the program may well test for existence first
//! and never reach it.

mod patch;
mod spec;
mod types;
mod value;

use std::collections::HashMap;
use std::sync::Arc;

use squalus_isa::Insn;

use crate::btf::{Btf, CoreRecord, Kind, TypeId};
use crate::limits::CORE_STEPS;
use crate::{Object, ObjectError};
use patch::Replacement;
use spec::Spec;
use value::Value;

/// A relocation of `.BTF.ext`, at a slot of a linked program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreRelo {
    /// Slot of the instruction to patch.
    pub(crate) slot: usize,
    pub(crate) record: CoreRecord,
}

/// What a relocation asks (`enum bpf_core_relo_kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    FieldOffset,
    FieldSize,
    FieldExists,
    FieldSigned,
    FieldShiftLeft,
    FieldShiftRight,
    TypeIdLocal,
    TypeIdTarget,
    TypeExists,
    TypeSize,
    EnumValueExists,
    EnumValue,
    TypeMatches,
}

impl Ask {
    fn from_id(id: u32) -> Option<Ask> {
        Some(match id {
            0 => Ask::FieldOffset,
            1 => Ask::FieldSize,
            2 => Ask::FieldExists,
            3 => Ask::FieldSigned,
            4 => Ask::FieldShiftLeft,
            5 => Ask::FieldShiftRight,
            6 => Ask::TypeIdLocal,
            7 => Ask::TypeIdTarget,
            8 => Ask::TypeExists,
            9 => Ask::TypeSize,
            10 => Ask::EnumValueExists,
            11 => Ask::EnumValue,
            12 => Ask::TypeMatches,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Ask::FieldOffset => "offset of",
            Ask::FieldSize => "size of",
            Ask::FieldExists => "existence of",
            Ask::FieldSigned => "signedness of",
            Ask::FieldShiftLeft => "left shift of",
            Ask::FieldShiftRight => "right shift of",
            Ask::TypeIdLocal => "own type id of",
            Ask::TypeIdTarget => "type id of",
            Ask::TypeExists => "existence of type",
            Ask::TypeSize => "size of type",
            Ask::EnumValueExists => "existence of enumerator",
            Ask::EnumValue => "value of enumerator",
            Ask::TypeMatches => "match of type",
        }
    }

    fn is_type(self) -> bool {
        matches!(
            self,
            Ask::TypeIdLocal
                | Ask::TypeIdTarget
                | Ask::TypeExists
                | Ask::TypeSize
                | Ask::TypeMatches
        )
    }

    fn is_enumerator(self) -> bool {
        matches!(self, Ask::EnumValueExists | Ask::EnumValue)
    }
}

/// Why a relocation fails altogether (rather than poisoning its instruction).
type Failure = String;

impl Object {
    /// Whether any program has CO-RE relocations, which [`Object::relocate_core`] resolves.
    #[must_use]
    pub fn needs_core(&self) -> bool {
        self.programs.iter().any(|p| !p.core.is_empty())
    }

    /// Applies the CO-RE relocations of all programs against the types of a target, usually the running
    /// kernel ([`Btf::from_sysfs_bytes`]). Until then programs use the layouts they were compiled with.
    ///
    /// Without relocations it does nothing, whatever the target. Those that ask only for the object's own
    /// types need no target. An instruction that needs what the target lacks is replaced by a call to
    /// [`POISON_HELPER`](crate::POISON_HELPER) and listed in [`Program::poisoned`](crate::Program::poisoned). Relocations are
    /// applied once: after a success there are none left.
    ///
    /// # Errors
    /// If a target is needed but not given, candidates in the target disagree, or a relocation is malformed.
    /// No program changes then.
    pub fn relocate_core(&mut self, target: Option<&Btf>) -> Result<(), ObjectError> {
        if !self.needs_core() {
            return Ok(());
        }
        let local = self.btf.as_ref().ok_or_else(|| ObjectError::Section {
            section: ".BTF.ext".into(),
            reason: "it has CO-RE relocations, but the object has no .BTF".into(),
        })?;
        let mut resolver = Resolver::new(local, target);
        let mut patched = Vec::with_capacity(self.programs.len());
        for program in &self.programs {
            let mut insns = program.insns.clone();
            let mut poisoned = Vec::new();
            for relo in &program.core {
                resolver
                    .apply(&mut insns, &mut poisoned, relo)
                    .map_err(|reason| ObjectError::Core {
                        program: program.name.clone(),
                        slot: relo.slot,
                        relocation: describe(local, relo.record),
                        reason,
                    })?;
            }
            patched.push((insns, poisoned));
        }
        for (program, (insns, poisoned)) in self.programs.iter_mut().zip(patched) {
            program.insns = insns;
            program.poisoned = poisoned;
            program.core.clear();
        }
        Ok(())
    }
}

/// A relocation for messages, such as ``offset of `task_struct` 0:1``.
fn describe(local: &Btf, record: CoreRecord) -> String {
    let ask = Ask::from_id(record.kind).map_or("unknown kind, of", Ask::text);
    let name = match local.type_name(record.ty) {
        "" => format!("type {}", record.ty),
        name => format!("`{name}`"),
    };
    match Spec::local(local, record) {
        Ok(spec) => format!("{ask} {name}{}", spec.path()),
        Err(_) => format!("{ask} {name}"),
    }
}

/// Counts steps, so that hostile types cannot keep us busy for ever.
struct Budget(u64);

impl Budget {
    fn step(&mut self) -> Result<(), Failure> {
        self.0 = self
            .0
            .checked_sub(1)
            .ok_or("the types are too complex to compare")?;
        Ok(())
    }
}

/// A resolved relocation.
struct Known {
    replacement: Replacement,
    /// What it asked, for messages.
    text: Arc<str>,
}

/// Resolves relocations of one object against one target.
struct Resolver<'b> {
    local: &'b Btf,
    target: Option<&'b Btf>,
    /// The target's types by essential name; made when first needed.
    by_name: Option<HashMap<&'b str, Vec<TypeId>>>,
    /// Relocations resolved before, by type, access string and kind.
    known: HashMap<(TypeId, u32, u32), Known>,
    budget: Budget,
}

impl<'b> Resolver<'b> {
    fn new(local: &'b Btf, target: Option<&'b Btf>) -> Self {
        Resolver {
            local,
            target,
            by_name: None,
            known: HashMap::new(),
            budget: Budget(CORE_STEPS),
        }
    }

    fn apply(
        &mut self,
        insns: &mut [Insn],
        poisoned: &mut Vec<(usize, Arc<str>)>,
        relo: &CoreRelo,
    ) -> Result<(), Failure> {
        let record = relo.record;
        let key = (record.ty, record.access, record.kind);
        if !self.known.contains_key(&key) {
            let known = Known {
                replacement: self.resolve(record)?,
                text: describe(self.local, record).into(),
            };
            self.known.insert(key, known);
        }
        let known = &self.known[&key];
        if patch::apply(insns, relo.slot, &known.replacement)? == patch::Outcome::Poisoned {
            poisoned.push((relo.slot, Arc::clone(&known.text)));
        }
        Ok(())
    }

    fn resolve(&mut self, record: CoreRecord) -> Result<Replacement, Failure> {
        let ask = Ask::from_id(record.kind)
            .ok_or_else(|| format!("kind {} is not known", record.kind))?;
        let local = Spec::local(self.local, record)?;
        if ask == Ask::TypeIdLocal {
            return Ok(Replacement::own_type(record.ty));
        }
        let before = value::of(ask, Some(&local))?;
        let after = self.in_target(ask, &local)?;
        Ok(value::replacement(ask, before, after))
    }

    /// The value in the target, on which all candidates that have one must agree.
    fn in_target(&mut self, ask: Ask, local: &Spec<'b>) -> Result<Option<Value<'b>>, Failure> {
        let target = self
            .target
            .ok_or("it needs the types of the kernel; give its BTF (/sys/kernel/btf/vmlinux)")?;
        let mut agreed: Option<(u64, Option<Value<'b>>)> = None;
        for candidate in self.candidates(target, local)? {
            let Some(spec) = local.matching(ask, target, candidate, &mut self.budget)? else {
                continue;
            };
            let value = value::of(ask, Some(&spec))?;
            match &agreed {
                Some((offset, before))
                    if *offset != spec.bit_offset
                        || before.as_ref().map(|v| v.number)
                            != value.as_ref().map(|v| v.number) =>
                {
                    return Err("several types of the target have this name and disagree".into());
                }
                Some(_) => {}
                None => agreed = Some((spec.bit_offset, value)),
            }
        }
        match agreed {
            Some((_, value)) => Ok(value),
            None => value::of(ask, None),
        }
    }

    /// Types of the target with the local root's name and kind.
    fn candidates(&mut self, target: &'b Btf, local: &Spec<'b>) -> Result<Vec<TypeId>, Failure> {
        let by_name = self.by_name.get_or_insert_with(|| index(target));
        let root = self
            .local
            .get(local.root)
            .ok_or("its type does not exist")?;
        let name = essential(self.local.name(root.name));
        if name.is_empty() {
            return Err("its type has no name".into());
        }
        let mut same_kind = Vec::new();
        for &id in by_name.get(name).into_iter().flatten() {
            self.budget.step()?;
            if target
                .get(id)
                .is_some_and(|t| types::same_kind(&root.kind, &t.kind))
            {
                same_kind.push(id);
            }
        }
        Ok(same_kind)
    }
}

/// Types by their essential names, without functions, variables and sections.
fn index(btf: &Btf) -> HashMap<&str, Vec<TypeId>> {
    let mut by_name: HashMap<&str, Vec<TypeId>> = HashMap::new();
    for (id, ty) in btf.types() {
        let named = !matches!(
            ty.kind,
            Kind::Func { .. } | Kind::Var { .. } | Kind::DataSec { .. } | Kind::DeclTag { .. }
        );
        let name = essential(btf.name(ty.name));
        if named && !name.is_empty() {
            by_name.entry(name).or_default().push(id);
        }
    }
    by_name
}

/// A name without its flavor: `task_struct` of `task_struct___old`.
pub(crate) fn essential(name: &str) -> &str {
    let bytes = name.as_bytes();
    let flavor = bytes
        .windows(5)
        .rposition(|w| matches!(w, [a, b'_', b'_', b'_', z] if *a != b'_' && *z != b'_'));
    flavor.and_then(|at| name.get(..=at)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::essential;

    #[test]
    fn flavors_are_cut_off_at_exactly_three_underscores() {
        for (name, want) in [
            ("task_struct", "task_struct"),
            ("task_struct___old", "task_struct"),
            ("a___b___c", "a___b"),
            ("a____b", "a____b"),
            ("___b", "___b"),
            ("a___", "a___"),
            ("", ""),
            ("é___b", "é"),
        ] {
            assert_eq!(essential(name), want, "{name}");
        }
    }
}

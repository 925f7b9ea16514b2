//! Giving externs what they stand for, once it is known for which kernel.

use std::collections::HashMap;

use squalus_isa::opcode;

use crate::btf::{Btf, Kind, TypeId};
use crate::{HostConfig, Object, ObjectError, POISON_HELPER, Program, Refused};

impl Object {
    /// Whether any program reads the kernel's configuration (externs in `.kconfig`), which
    /// [`Object::resolve_config`] fills in.
    #[must_use]
    pub fn needs_config(&self) -> bool {
        self.programs.iter().any(|p| !p.config.is_empty())
    }

    /// Fills the map `.kconfig` with a host's values. A weak extern that the host does not have stays zero; a
    /// program that uses another one moves to [`Object::refused`].
    ///
    /// # Errors
    /// If no program is left; the reason is the first one's.
    pub fn resolve_config(&mut self, host: &HostConfig) -> Result<(), ObjectError> {
        let values: Vec<_> = self.config.iter().map(|c| c.bytes(host)).collect();
        if let Some(map) = self.maps.iter_mut().find(|m| m.def.name == ".kconfig") {
            let data = map.initial.as_deref_mut().unwrap_or_default();
            for (config, value) in self.config.iter().zip(&values) {
                let place = data.get_mut(config.offset as usize..);
                let place = place.and_then(|d| d.get_mut(..config.size as usize));
                if let (Some(place), Ok(value)) = (place, value) {
                    place.copy_from_slice(value);
                }
            }
        }
        let names: Vec<_> = self.config.iter().map(|c| c.name.clone()).collect();
        self.refuse_where(|program| {
            program.config.iter().find_map(|&at| {
                let (name, reason) = names.get(at).zip(values.get(at)?.as_ref().err())?;
                Some(format!(
                    "it reads `{name}` of the kernel's configuration: {reason}"
                ))
            })
        })?;
        for program in &mut self.programs {
            program.config.clear();
        }
        Ok(())
    }

    /// Moves programs to [`Object::refused`] that read configuration values which [`Object::resolve_config`] has
    /// not been asked for. Engines call this last, so that no program runs on zeros instead.
    ///
    /// # Errors
    /// If no program is left.
    pub fn refuse_unresolved(&mut self) -> Result<(), ObjectError> {
        let names: Vec<_> = self.config.iter().map(|c| c.name.clone()).collect();
        self.refuse_where(|program| {
            let name = program.config.iter().find_map(|&at| names.get(at))?;
            Some(format!(
                "it reads `{name}` of the kernel's configuration, which is not known; fit the object to the host first (Object::fit_to_host or Object::resolve_config)"
            ))
        })
    }

    /// Replaces calls of kernel functions by their numbers in the running kernel's types, for loading into it.
    /// A call of a weak function that the kernel does not have becomes a call to
    /// [`POISON_HELPER`](crate::POISON_HELPER), which is never reached: the address that the program compares
    /// with null is null. A program that needs another one moves to [`Object::refused`].
    ///
    /// # Errors
    /// If no program is left; the reason is the first one's.
    pub fn resolve_kfuncs(&mut self, kernel: &Btf) -> Result<(), ObjectError> {
        if self.kfuncs.is_empty() {
            return Ok(());
        }
        let numbers = functions(kernel);
        let found: Vec<Option<TypeId>> = self
            .kfuncs
            .iter()
            .map(|k| numbers.get(crate::core_relo::essential(&k.name)).copied())
            .collect();
        let kfuncs = std::mem::take(&mut self.kfuncs);
        let missing = |program: &Program| {
            let absent = |&&(_, at): &&(usize, usize)| !kfuncs[at].weak && found[at].is_none();
            let (_, at) = program.kfuncs.iter().find(absent)?;
            Some(format!(
                "it uses `{}` of the kernel (an extern in .ksyms), which the running kernel does not have; declare it __weak and test for it with bpf_ksym_exists()",
                kfuncs[*at].name
            ))
        };
        let refused = self.refuse_where(missing);
        for program in &mut self.programs {
            for (slot, at) in std::mem::take(&mut program.kfuncs) {
                place(program, slot, found[at]);
            }
        }
        refused
    }

    /// Moves programs that have a reason to be refused.
    fn refuse_where(
        &mut self,
        reason: impl Fn(&Program) -> Option<String>,
    ) -> Result<(), ObjectError> {
        let mut kept = Vec::with_capacity(self.programs.len());
        for program in std::mem::take(&mut self.programs) {
            let Some(reason) = reason(&program) else {
                kept.push(program);
                continue;
            };
            self.refused.push(Refused {
                reason: ObjectError::Unsupported {
                    name: program.name.clone(),
                    section: program.section.clone(),
                    reason,
                },
                name: program.name,
                section: program.section,
            });
        }
        self.programs = kept;
        match self.refused.first() {
            Some(first) if self.programs.is_empty() => Err(first.reason.clone()),
            _ => Ok(()),
        }
    }
}

/// The kernel's functions by name.
fn functions(kernel: &Btf) -> HashMap<&str, TypeId> {
    kernel
        .types()
        .filter(|(_, t)| matches!(t.kind, Kind::Func { .. }))
        .map(|(id, t)| (kernel.name(t.name), id))
        .collect()
}

/// Puts a function's number into a call, or its address into a 64-bit immediate.
fn place(program: &mut Program, slot: usize, function: Option<TypeId>) {
    let Some(insn) = program.insns.get_mut(slot) else {
        return;
    };
    match function {
        Some(TypeId(number)) => {
            insn.imm = number.cast_signed();
            if insn.op == opcode::LD_IMM64 {
                insn.src = opcode::PSEUDO_BTF_ID;
            }
        }
        None if insn.op == opcode::LD_IMM64 => {}
        None => {
            insn.src = 0;
            insn.imm = POISON_HELPER.cast_signed();
        }
    }
}

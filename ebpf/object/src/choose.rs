//! Programs that belong together: one and those it jumps to.

use squalus_isa::{Insn, opcode};

use crate::{InitialTarget, MapSpec, Object, ObjectError, Program};

impl Object {
    /// The programs with these names and those that stand in their program arrays from the start (and in theirs,
    /// and so on), in the object's order: what must be loaded for the named ones to do what they should.
    ///
    /// # Errors
    /// As [`Object::require_program`].
    pub fn with_jump_targets<S: AsRef<str>>(
        &self,
        names: &[S],
    ) -> Result<Vec<&Program>, ObjectError> {
        let place = |name: &str| self.programs.iter().position(|p| p.name == name);
        let mut wanted = vec![false; self.programs.len()];
        let mut open = Vec::new();
        for name in names {
            self.require_program(name.as_ref())?;
            open.extend(place(name.as_ref()));
        }
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut wanted[at], true) {
                open.extend(self.jump_targets(&self.programs[at]).filter_map(place));
            }
        }
        let chosen = self.programs.iter().zip(wanted);
        Ok(chosen
            .filter_map(|(p, wanted)| wanted.then_some(p))
            .collect())
    }

    /// The programs in the static initialisers of program arrays that a program refers to.
    fn jump_targets<'o>(&'o self, program: &'o Program) -> impl Iterator<Item = &'o str> {
        let map = |insn: &Insn| {
            let refers = insn.op == opcode::LD_IMM64 && insn.src == opcode::PSEUDO_MAP_FD;
            let index = usize::try_from(insn.imm).ok().filter(|_| refers)?;
            self.maps.get(index)
        };
        program.insns.iter().filter_map(map).flat_map(targets)
    }
}

fn targets(map: &MapSpec) -> impl Iterator<Item = &str> {
    map.values.iter().filter_map(|value| match &value.target {
        InitialTarget::Program(name) => Some(name.as_str()),
        InitialTarget::Map(_) => None,
    })
}

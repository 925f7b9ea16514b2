//! A program as the engines take it: decoded, its maps resolved, everything it needs known to exist.

use std::fmt;
use std::sync::Arc;

use squalus_isa::{
    CallTarget, DecodeError, Decoded, HelperId, ImmSource, Insn, Inst, MapType, decode,
};
use squalus_maps::Map;

use crate::{proto, why_refused};

/// The helper that code calls which CO-RE could not resolve. Such code is dead in a correct object, so it
/// loads; reaching it is a trap ([`crate::TrapReason::Unsupported`]).
pub const POISON_HELPER: HelperId = HelperId(195_896_080);

/// Where an instruction comes from in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// First slot this line covers; it covers all up to the next entry's.
    pub slot: usize,
    /// File name.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u32,
    /// The line itself, if the object carries it.
    pub text: Arc<str>,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if self.text.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.text.trim())
    }
}

/// A program or one of its subprograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subprogram {
    /// First slot.
    pub start: usize,
    /// Slot after the last.
    pub end: usize,
}

/// A program ready for an engine: instructions decoded, targets checked, maps linked.
///
/// Guaranteed: slot 0 starts an instruction; every jump stays inside its subprogram and hits an
/// instruction; no subprogram can run past its end; an address of a function is that of a subprogram; every
/// map index is valid, and an address inside a map's value is inside the value of a single-CPU array.
///
/// Helpers and kernel functions that the runtime has not are no errors here, because dead code may call
/// them: [`LinkedProgram::unsupported`] tells of each.
#[derive(Clone, Debug)]
pub struct LinkedProgram {
    name: String,
    insts: Vec<Decoded>,
    index: Vec<u32>,
    subprograms: Vec<Subprogram>,
    maps: Arc<[Arc<Map>]>,
    lines: Vec<SourceLine>,
}

/// Why a program cannot run in userspace. Every message names the instruction and, if known, its source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Malformed code.
    #[error("program `{program}`: {source}")]
    Decode {
        /// The program.
        program: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The program has no instructions.
    #[error("program `{0}` is empty")]
    Empty(String),
    /// Something the engine does not have, or the code may not do.
    #[error("program `{program}`, instruction {slot}{}: {what}", at(line.as_ref()))]
    Instruction {
        /// The program.
        program: String,
        /// Slot of the instruction.
        slot: usize,
        /// Its source line.
        line: Option<SourceLine>,
        /// What is wrong.
        what: Reject,
    },
}

fn at(line: Option<&SourceLine>) -> String {
    line.map(|line| format!(" ({line})")).unwrap_or_default()
}

/// What an instruction was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// A helper the runtime has not.
    #[error(
        "{0} is not available in userspace: it {why}; and execution can come here: run the program in the kernel, or build it without this call", why = why_refused(*.0)
    )]
    Helper(HelperId),
    /// A kernel function.
    #[error(
        "kernel function with BTF id {0} can only be called in the kernel, and execution can come here: run the program there, or build it without this call"
    )]
    Kfunc(i32),
    /// The address of the program itself, or of nothing.
    #[error("instruction {0} is no subprogram, so its address cannot be taken")]
    Callback(usize),
    /// A map the object does not have.
    #[error("there is no map with index {0}")]
    Map(u32),
    /// An address inside the value of a map that has no fixed address.
    #[error("map {map} is a {kind}: only values of arrays can be addressed directly")]
    DirectValue {
        /// Index of the map.
        map: u32,
        /// Its type.
        kind: MapType,
    },
    /// An address outside the value.
    #[error("offset {offset} is outside the value of map {map} ({size} bytes)")]
    DirectOffset {
        /// Index of the map.
        map: u32,
        /// The offset.
        offset: u32,
        /// Size of the value.
        size: u32,
    },
    /// A jump into another subprogram.
    #[error("jump to {0} leaves the subprogram")]
    JumpOut(usize),
    /// Execution runs past the end of a subprogram.
    #[error("the subprogram does not end here: it needs an exit or a jump")]
    FallThrough,
}

impl LinkedProgram {
    /// Decodes `code` and checks that the engines can run it with `maps`, by whose indices the code
    /// names them. `lines` must be sorted by slot.
    ///
    /// # Errors
    /// The first thing that is malformed or not supported.
    pub fn new(
        name: &str,
        code: &[Insn],
        maps: Arc<[Arc<Map>]>,
        lines: Vec<SourceLine>,
    ) -> Result<LinkedProgram, LinkError> {
        let insts = decode(code).map_err(|source| LinkError::Decode {
            program: name.to_owned(),
            source,
        })?;
        if insts.is_empty() {
            return Err(LinkError::Empty(name.to_owned()));
        }
        let mut index = vec![u32::MAX; code.len()];
        for (n, decoded) in insts.iter().enumerate() {
            index[decoded.slot] = n as u32;
        }
        let program = LinkedProgram {
            name: name.to_owned(),
            subprograms: subprograms(&insts, code.len()),
            insts,
            index,
            maps,
            lines,
        };
        program.check()?;
        Ok(program)
    }

    /// The program's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All instructions in order.
    #[must_use]
    pub fn insts(&self) -> &[Decoded] {
        &self.insts
    }

    /// Index in [`LinkedProgram::insts`] of the instruction at `slot`, which must start one.
    #[must_use]
    pub fn index_of(&self, slot: usize) -> Option<usize> {
        match self.index.get(slot) {
            None | Some(&u32::MAX) => None,
            Some(&n) => Some(n as usize),
        }
    }

    /// The program itself (first) and its subprograms, by start.
    #[must_use]
    pub fn subprograms(&self) -> &[Subprogram] {
        &self.subprograms
    }

    /// The maps of the object, by the indices the code uses.
    #[must_use]
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// The same maps, to keep them alive as long as compiled code that holds their addresses.
    #[must_use]
    pub fn shared_maps(&self) -> &Arc<[Arc<Map>]> {
        &self.maps
    }

    /// The source of the instruction at `slot`.
    #[must_use]
    pub fn line(&self, slot: usize) -> Option<&SourceLine> {
        let after = self.lines.partition_point(|line| line.slot <= slot);
        self.lines.get(after.checked_sub(1)?)
    }

    /// What the instruction with this index in [`LinkedProgram::insts`] calls that the runtime has not. A
    /// call that CO-RE could not resolve ([`POISON_HELPER`]) is none: reaching it ends the run.
    ///
    /// # Errors
    /// [`Reject::Helper`] or [`Reject::Kfunc`], with the place in the source.
    pub fn unsupported(&self, index: usize) -> Result<(), LinkError> {
        let Some(decoded) = self.insts.get(index) else {
            return Ok(());
        };
        let what = match decoded.inst {
            Inst::Call(CallTarget::Kfunc(id)) => Reject::Kfunc(id),
            Inst::Call(CallTarget::Helper(id)) if proto(id).is_none() && id != POISON_HELPER => {
                Reject::Helper(id)
            }
            _ => return Ok(()),
        };
        Err(self.rejected(decoded.slot, what))
    }

    fn rejected(&self, slot: usize, what: Reject) -> LinkError {
        LinkError::Instruction {
            program: self.name.clone(),
            slot,
            line: self.line(slot).cloned(),
            what,
        }
    }

    fn check(&self) -> Result<(), LinkError> {
        for sub in &self.subprograms {
            let inside = self
                .insts
                .iter()
                .filter(|d| (sub.start..sub.end).contains(&d.slot));
            for decoded in inside {
                self.check_one(decoded, *sub)
                    .map_err(|what| self.rejected(decoded.slot, what))?;
            }
        }
        Ok(())
    }

    fn check_one(&self, decoded: &Decoded, sub: Subprogram) -> Result<(), Reject> {
        match decoded.inst {
            Inst::Jump { target } | Inst::JumpIf { target, .. } | Inst::MayJump { target }
                if !(sub.start..sub.end).contains(&target) =>
            {
                return Err(Reject::JumpOut(target));
            }
            Inst::LoadImm { imm, .. } => self.check_imm(imm)?,
            _ => {}
        }
        let ends = matches!(decoded.inst, Inst::Exit | Inst::Jump { .. });
        if decoded.next >= sub.end && !ends {
            return Err(Reject::FallThrough);
        }
        Ok(())
    }

    fn check_imm(&self, imm: ImmSource) -> Result<(), Reject> {
        match imm {
            ImmSource::Value(_) => Ok(()),
            ImmSource::Func(target) => {
                let is = target != 0 && self.index_of(target).is_some();
                is.then_some(()).ok_or(Reject::Callback(target))
            }
            ImmSource::Map(map) => self.map(map).map(|_| ()),
            ImmSource::MapValue { map, offset } => {
                let def = self.map(map)?.def();
                if def.kind != MapType::Array {
                    return Err(Reject::DirectValue {
                        map,
                        kind: def.kind,
                    });
                }
                if offset >= def.value_size {
                    return Err(Reject::DirectOffset {
                        map,
                        offset,
                        size: def.value_size,
                    });
                }
                Ok(())
            }
        }
    }

    fn map(&self, index: u32) -> Result<&Map, Reject> {
        let map = self.maps.get(index as usize);
        map.map(|map| &**map).ok_or(Reject::Map(index))
    }
}

fn subprograms(insts: &[Decoded], len: usize) -> Vec<Subprogram> {
    let mut starts = vec![0];
    starts.extend(insts.iter().filter_map(|decoded| match decoded.inst {
        Inst::Call(CallTarget::Local(target)) => Some(target),
        Inst::LoadImm {
            imm: ImmSource::Func(target),
            ..
        } => Some(target),
        _ => None,
    }));
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).copied().chain([len]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| Subprogram { start, end })
        .collect()
}

//! Instructions one by one, against the specification.
//!
//! Two kinds of cases. [`mod@reference`] says in a few lines of Rust what RFC 9669 says of each operation, and
//! compares every engine with that on all pairs of numbers at the edges of types. What a table of operations
//! can't say (calls, stack, tail calls, what is malformed) is in text, in `cases/*.txt`, which this module
//! reads and runs.
//!
//! # The text
//! ```text
//! case signed division goes towards zero
//!   r0 = -13
//!   r0 s/= 3
//!   exit
//! is -4
//! ```
//! Between `case` and the first expectation stands a program in the notation of [`crate::assemble`], an
//! XDP program with its context in `r1`. Functions follow it under `fn name` lines, further programs under
//! `program` lines. A case ends with what is expected:
//!
//! | line | means |
//! |---|---|
//! | `packet HEX` | the frame begins with these bytes (before the program) |
//! | `is N` | the program ends with `N` in the whole of `r0` |
//! | `leaves HEX` | the frame begins with these bytes afterwards |
//! | `memory HEX` | the value of map 1 begins with these bytes afterwards |
//! | `aborted` | a check of our engines ends the run; the kernel does not load the program |
//! | `refused TEXT` | no engine loads it; our message contains the text |
//! | `kernel refuses` | what is said holds for our engines only; the kernel does not load the program |
//!
//! There are three maps: 0 takes the result, 1 (`memory`) has one value of 64 bytes, 2 is a program array that
//! holds the case's programs in order.

pub mod reference;
mod text;

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{Insn, MapDef, MapType, UpdateFlags};
use squalus_kernel::KernelEngine;
use squalus_vm::{EngineKind, VmBuilder};

use crate::engines::Kind;
use crate::{Step, assemble::SyntaxError};

pub use text::{Case, CaseError, Expected, cases};

/// Bytes of frames, and of the `memory` map's value.
pub const MEMORY: usize = 64;
/// What the result map holds before a run.
const NO_RESULT: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// What programs return when they get to their end.
const FINISHED: u32 = 2;

/// What came of a case in one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was not loaded, with the reason.
    Refused(String),
    /// The run was ended by a check.
    Aborted,
    /// It ran.
    Ran {
        /// The whole of `r0`.
        result: u64,
        /// The frame afterwards.
        frame: Vec<u8>,
        /// The value of the `memory` map afterwards.
        memory: Vec<u8>,
    },
}

fn map(name: &str, kind: MapType, value_size: usize, max_entries: u32) -> MapDef {
    MapDef::new(name, kind, (4, value_size as u32), max_entries)
}

fn maps() -> Vec<MapDef> {
    vec![
        map("result", MapType::Array, 8, 1),
        map("memory", MapType::Array, MEMORY, 1),
        map("programs", MapType::ProgArray, 4, 8),
    ]
}

/// Loads hand-made programs into one engine; the error is the engine's message.
///
/// # Errors
/// If the engine does not take them.
pub fn load(
    kind: Kind,
    maps: Vec<MapDef>,
    programs: Vec<(String, Vec<Insn>)>,
) -> Result<Box<dyn Engine>, String> {
    let vm = match kind {
        Kind::Kernel => {
            let engine = KernelEngine::assembled(maps, programs);
            return engine
                .map(|engine| Box::new(engine) as _)
                .map_err(|error| error.to_string());
        }
        Kind::Interp => EngineKind::Interp,
        Kind::Jit => EngineKind::Jit,
    };
    let engine = VmBuilder::assembled(maps, programs).engine(vm);
    let engine = engine.check_facts().build();
    engine
        .map(|engine| Box::new(engine) as _)
        .map_err(|error| error.to_string())
}

impl Case {
    /// Runs it in one engine.
    ///
    /// # Errors
    /// If the case's text is no program.
    ///
    /// # Panics
    /// If the engine refuses what every engine must do: to fill the maps of this suite.
    pub fn run(&self, kind: Kind) -> Result<Answer, SyntaxError> {
        let programs = self.assemble()?;
        let names: Vec<String> = programs.iter().map(|(name, _)| name.clone()).collect();
        let mut engine = match load(kind, maps(), programs) {
            Ok(engine) => engine,
            Err(reason) => return Ok(Answer::Refused(reason)),
        };
        set(&*engine, "result", &NO_RESULT.to_ne_bytes());
        for (index, program) in (0..).zip(&names) {
            let step = Step::SetProgram {
                map: "programs".to_owned(),
                index,
                program: program.clone(),
            };
            step.perform(&mut *engine);
        }
        let mut frame = self.packet.clone();
        frame.resize(frame.len().max(MEMORY), 0);
        let run = engine.test_run(&names[0], &TestRun::once(&frame));
        let run = run.expect("frames of this length are run");
        let result = get(&*engine, "result");
        let result = u64::from_ne_bytes(result.try_into().expect("the value has eight bytes"));
        if run.return_value != FINISHED {
            return Ok(Answer::Aborted);
        }
        Ok(Answer::Ran {
            result,
            frame: run.frame,
            memory: get(&*engine, "memory"),
        })
    }

    /// What is wrong with an answer, if anything.
    #[must_use]
    pub fn judge(&self, kind: Kind, answer: &Answer) -> Option<String> {
        let refuses = kind == Kind::Kernel
            && (self.kernel_refuses || self.expected.contains(&Expected::Aborted));
        if refuses {
            return match answer {
                Answer::Refused(_) => None,
                other => Some(format!("it is refused by {kind}, not {other:x?}")),
            };
        }
        let wrong = self
            .expected
            .iter()
            .find(|want| !want.holds(kind, answer))?;
        Some(format!(
            "expected {want:x?}, {kind} has {answer:x?}",
            want = wrong
        ))
    }
}

impl Expected {
    fn holds(&self, kind: Kind, answer: &Answer) -> bool {
        match (self, answer) {
            (Expected::Result(want), Answer::Ran { result, .. }) => want == result,
            (Expected::Frame(want), Answer::Ran { frame, .. }) => frame.starts_with(want),
            (Expected::Memory(want), Answer::Ran { memory, .. }) => memory.starts_with(want),
            (Expected::Refused(_), Answer::Refused(_)) if kind == Kind::Kernel => true,
            (Expected::Refused(want), Answer::Refused(reason)) => reason.contains(want),
            (Expected::Aborted, Answer::Aborted) => true,
            _ => false,
        }
    }
}

fn set(engine: &dyn MapAccess, map: &str, value: &[u8]) {
    let done = engine.update(map.into(), &[0; 4], value, UpdateFlags::ANY);
    done.expect("arrays take any value of their size");
}

fn get(engine: &dyn MapAccess, map: &str) -> Vec<u8> {
    let found = engine.lookup(map.into(), &[0; 4]);
    let found = found.expect("arrays can be read");
    found.expect("all entries of an array exist")
}

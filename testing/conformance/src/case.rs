//! What a case is, and doing one step of it on one engine.

use squalus_engine::{Engine, EngineError, MapRef, TestRun};
use squalus_isa::{Errno, MapDef, UpdateFlags};

use crate::rng::hash;

/// A list of steps from a freshly loaded object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// In order.
    pub steps: Vec<Step>,
}

/// Names a map; the owned form of [`MapRef`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapName {
    /// The map with this name.
    Name(String),
    /// The inner map that a map of maps holds under a key.
    Inner(String, Vec<u8>),
}

impl MapName {
    /// The borrowed form.
    #[must_use]
    pub fn as_ref(&self) -> MapRef<'_> {
        match self {
            MapName::Name(name) => MapRef::Name(name),
            MapName::Inner(outer, key) => MapRef::Inner { outer, key },
        }
    }
}

impl From<&str> for MapName {
    fn from(name: &str) -> MapName {
        MapName::Name(name.to_owned())
    }
}

/// Something done to an engine.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the operation named"
)]
pub enum Step {
    /// A frame through a program.
    Run {
        program: String,
        cpu: u32,
        frame: Vec<u8>,
    },
    /// An update from the control plane.
    Update {
        map: MapName,
        key: Vec<u8>,
        value: Vec<u8>,
        flags: UpdateFlags,
    },
    /// A lookup from the control plane.
    Lookup { map: MapName, key: Vec<u8> },
    /// A removal from the control plane.
    Delete { map: MapName, key: Vec<u8> },
    /// A new inner map.
    CreateInner {
        outer: String,
        key: Vec<u8>,
        def: MapDef,
    },
    /// An entry of a program array.
    SetProgram {
        map: String,
        index: u32,
        program: String,
    },
    /// From here on the time is this, in nanoseconds, for engines whose clock can be set.
    Time { nanos: u64 },
    /// `count` 32-bit values below `modulo` from `first` on, derived from `seed`: a ring, say.
    Fill {
        map: String,
        first: u32,
        count: u32,
        seed: u64,
        modulo: u32,
    },
}

/// What a step gave. Engines must agree on all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Return value and frame.
    Ran(u32, Vec<u8>),
    Found(Option<Vec<u8>>),
    Done,
    /// The map refused, with this number.
    Refused(Errno),
    /// Refused for a reason that engines put in words of their own.
    Failed(&'static str),
}

impl From<EngineError> for Outcome {
    fn from(error: EngineError) -> Outcome {
        match error {
            EngineError::Map { errno, .. } => Outcome::Refused(errno),
            EngineError::NoMap(_) => Outcome::Failed("no such map"),
            EngineError::NoProgram { .. } => Outcome::Failed("no such program"),
            EngineError::Size { .. } => Outcome::Failed("key or value of another length"),
            EngineError::TestRun { .. } => Outcome::Failed("frame refused"),
        }
    }
}

impl Step {
    /// Does the step on an engine, whatever comes of it.
    pub fn perform(&self, engine: &mut dyn Engine) {
        // Refusals are outcomes, of interest only to a comparison.
        let _ = self.apply(engine);
    }

    pub(crate) fn apply(&self, engine: &mut dyn Engine) -> Outcome {
        self.try_apply(engine).unwrap_or_else(Outcome::from)
    }

    fn try_apply(&self, engine: &mut dyn Engine) -> Result<Outcome, EngineError> {
        match self {
            Step::Run {
                program,
                cpu,
                frame,
            } => {
                let run = TestRun {
                    frame,
                    repeat: 1,
                    cpu: *cpu,
                };
                let result = engine.test_run(program, &run)?;
                return Ok(Outcome::Ran(result.return_value, result.frame));
            }
            Step::Lookup { map, key } => {
                return engine.lookup(map.as_ref(), key).map(Outcome::Found);
            }
            Step::Update {
                map,
                key,
                value,
                flags,
            } => engine.update(map.as_ref(), key, value, *flags)?,
            Step::Delete { map, key } => engine.delete(map.as_ref(), key)?,
            Step::CreateInner { outer, key, def } => engine.create_inner(outer, key, def)?,
            Step::SetProgram {
                map,
                index,
                program,
            } => set_program(engine, map, *index, program)?,
            // Engines share a clock, which the comparison sets.
            Step::Time { .. } => {}
            Step::Fill {
                map,
                first,
                count,
                seed,
                modulo,
            } => fill(engine, map, *first..first + count, *seed, *modulo)?,
        }
        Ok(Outcome::Done)
    }
}

/// Engines may list the programs of an object in different orders.
fn set_program(
    engine: &dyn Engine,
    map: &str,
    index: u32,
    program: &str,
) -> Result<(), EngineError> {
    let programs = engine.programs();
    let place = programs.iter().position(|name| name == program);
    let place = place.ok_or_else(|| EngineError::NoProgram {
        name: program.to_owned(),
        available: programs.join(", "),
    })?;
    let value = (place as u32).to_ne_bytes();
    engine.update(map.into(), &index.to_ne_bytes(), &value, UpdateFlags::ANY)
}

fn fill(
    engine: &dyn Engine,
    map: &str,
    indices: std::ops::Range<u32>,
    seed: u64,
    modulo: u32,
) -> Result<(), EngineError> {
    let keys: Vec<u8> = indices.clone().flat_map(u32::to_ne_bytes).collect();
    let value = |index| hash(seed, index) % modulo.max(1);
    let values: Vec<u8> = indices.flat_map(|i| value(i).to_ne_bytes()).collect();
    engine.update_batch(map.into(), &keys, &values)
}

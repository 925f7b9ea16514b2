//! What the kernel and the userspace engine have in common.
//!
//! An object's programs and maps live either in the kernel or in our own virtual machine. Whoever only
//! needs *maps by name, keys and values as bytes* and *a frame in, a verdict and a frame out* (the
//! control plane, conformance tests, replays, benches) uses these traits and never asks which it is.
//!
//! Values of per-CPU maps are, as in the kernel's syscalls, one value per CPU one after the other, each
//! padded to a multiple of eight bytes.
#![forbid(unsafe_code)]

use std::time::Duration;

use squalus_isa::{Errno, MapDef, UpdateFlags, Verdict};

/// Names a map of a loaded object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRef<'a> {
    /// The map with this name.
    Name(&'a str),
    /// The inner map that `outer` holds under `key`.
    Inner {
        /// Name of the map of maps.
        outer: &'a str,
        /// Key in the map of maps.
        key: &'a [u8],
    },
}

impl<'a> From<&'a str> for MapRef<'a> {
    fn from(name: &'a str) -> Self {
        MapRef::Name(name)
    }
}

impl std::fmt::Display for MapRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MapRef::Name(name) => f.write_str(name),
            MapRef::Inner { outer, key } => write!(f, "{outer}[{key:02x?}]"),
        }
    }
}

/// Maps of a loaded object, as bytes.
///
/// Errors of the map itself are [`EngineError::Map`] with the kernel's errno; an absent key is `Ok(None)`
/// for lookups and `ENOENT` for deletes, as in the kernel.
pub trait MapAccess: Send + Sync {
    /// The definitions of all maps, in the object's order (data sections included).
    fn maps(&self) -> Vec<MapDef>;

    /// How many CPUs (workers) per-CPU values have.
    fn cpus(&self) -> usize;

    /// The value under `key`; of per-CPU maps all CPUs' values, each padded to eight bytes.
    ///
    /// # Errors
    /// If there is no such map, or its type has no lookup.
    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Sets the value under `key`; of per-CPU maps all CPUs' values, each padded to eight bytes.
    ///
    /// # Errors
    /// If there is no such map, sizes don't fit, or the map refuses (errno as the kernel's).
    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError>;

    /// Sets many values: `keys` and `values` are concatenated. Stops at the first failure.
    ///
    /// # Errors
    /// As [`MapAccess::update`].
    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError>;

    /// Removes `key`.
    ///
    /// # Errors
    /// `ENOENT` if absent; others as [`MapAccess::update`].
    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError>;

    /// The key after `key` in the map's own order, or the first one.
    ///
    /// # Errors
    /// If there is no such map, or its type has no iteration.
    fn next_key(&self, map: MapRef<'_>, key: Option<&[u8]>)
    -> Result<Option<Vec<u8>>, EngineError>;

    /// Creates a map from `def` and stores it in the map of maps `outer` under `key`, replacing what was there.
    ///
    /// # Errors
    /// If `outer` is no map of maps, or `def` is not what its inner maps must be.
    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError>;
}

/// One execution, or several of the same frame, of one program.
#[derive(Clone, Debug)]
pub struct TestRun<'a> {
    /// The frame, from the Ethernet header on.
    pub frame: &'a [u8],
    /// How many times to run (each repetition sees what the one before left, as in the kernel).
    pub repeat: u32,
    /// The CPU (worker) to run on; also what the program sees as its CPU number.
    pub cpu: u32,
}

impl<'a> TestRun<'a> {
    /// One run on CPU 0.
    #[must_use]
    pub const fn once(frame: &'a [u8]) -> Self {
        TestRun {
            frame,
            repeat: 1,
            cpu: 0,
        }
    }
}

/// What a test run produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// The program's whole return value.
    pub return_value: u32,
    /// The frame after the (last) run.
    pub frame: Vec<u8>,
    /// Mean time of one repetition, as the engine measured it.
    pub duration: Duration,
}

impl TestResult {
    /// The verdict the return value means.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::from_return(self.return_value.into())
    }
}

/// A loaded object that runs frames on demand.
pub trait Engine: MapAccess {
    /// A short name for reports: `kernel`, `interp` or `jit`.
    fn name(&self) -> &'static str;

    /// Names of the object's programs.
    fn programs(&self) -> Vec<String>;

    /// Runs `program` on a frame (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// If there is no such program, or the frame is outside the engine's limits.
    fn test_run(&mut self, program: &str, run: &TestRun<'_>) -> Result<TestResult, EngineError>;
}

impl<M: MapAccess + ?Sized> MapAccess for Box<M> {
    fn maps(&self) -> Vec<MapDef> {
        (**self).maps()
    }

    fn cpus(&self) -> usize {
        (**self).cpus()
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        (**self).lookup(map, key)
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        (**self).update(map, key, value, flags)
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        (**self).update_batch(map, keys, values)
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        (**self).delete(map, key)
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        (**self).next_key(map, key)
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        (**self).create_inner(outer, key, def)
    }
}

impl<E: Engine + ?Sized> Engine for Box<E> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn programs(&self) -> Vec<String> {
        (**self).programs()
    }

    fn test_run(&mut self, program: &str, run: &TestRun<'_>) -> Result<TestResult, EngineError> {
        (**self).test_run(program, run)
    }
}

/// What can go wrong with a loaded object.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No map has this name.
    #[error("the object has no map `{0}`")]
    NoMap(String),
    /// No program has this name.
    #[error("the object has no program `{name}`; it has: {available}")]
    NoProgram {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: String,
    },
    /// A key or value has the wrong length.
    #[error("map `{map}`: {what} has {got} bytes, the map's have {want}")]
    Size {
        /// The map.
        map: String,
        /// `key` or `value`.
        what: &'static str,
        /// Length given.
        got: usize,
        /// Length needed.
        want: usize,
    },
    /// The map refused the operation.
    #[error("map `{map}`: {operation} failed: {errno}")]
    Map {
        /// The map.
        map: String,
        /// What was tried.
        operation: &'static str,
        /// The kernel's error number for it.
        errno: Errno,
    },
    /// A test run could not be made.
    #[error("test run of `{program}` failed: {reason}")]
    TestRun {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
}

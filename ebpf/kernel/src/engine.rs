//! The engine traits over maps and programs in the kernel.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestResult, TestRun};
use squalus_isa::{Errno, MapDef, UpdateFlags};
use squalus_object::Refused;

use crate::load::{LoadedMap, LoadedProgram};
use crate::maps::create_map;
use crate::sys::{self, MapExtras, MapFd, Pinned};
use crate::targets::Programs;
use crate::{KernelError, MAX_TEST_FRAME};

/// The shortest frame the kernel's test run takes: an Ethernet header.
const MIN_TEST_FRAME: usize = 14;
/// Pages that a frame may have besides the first (`MAX_SKB_FRAGS`).
const MAX_FRAGMENTS: usize = 17;
/// How much longer than its input a frame can be after a run: all headroom used, and the tail grown.
const GROWTH: usize = 4096;

/// An inner map by its outer map's index and its key: the kernel's number for it, and the map.
type InnerMaps = HashMap<(usize, Vec<u8>), (u32, Arc<MapFd>)>;

/// An object loaded into the kernel. See the [crate's documentation](crate).
///
/// In program arrays a value is the number of a program: its place in [`Engine::programs`], as four
/// bytes. In device and CPU maps the second half of a value is that number plus one; 0 is no program. Inner maps
/// are set with [`MapAccess::create_inner`].
pub struct KernelEngine {
    pub(crate) maps: Vec<LoadedMap>,
    pub(crate) programs: Vec<LoadedProgram>,
    pub(crate) refused: Vec<Refused>,
    /// Inner maps opened so far. Opening one by number needs `CAP_SYS_ADMIN`, keeping it open doesn't.
    pub(crate) inner: Mutex<InnerMaps>,
    pub(crate) cpus: usize,
    pub(crate) output: Vec<u8>,
}

impl std::fmt::Debug for KernelEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelEngine")
            .field("maps", &self.maps.len())
            .field("programs", &self.programs())
            .finish_non_exhaustive()
    }
}

/// A map for the length of one operation.
enum Resolved<'a> {
    Own(&'a MapFd),
    Inner(Arc<MapFd>),
}

impl std::ops::Deref for Resolved<'_> {
    type Target = MapFd;

    fn deref(&self) -> &MapFd {
        match self {
            Resolved::Own(fd) => fd,
            Resolved::Inner(fd) => fd,
        }
    }
}

impl KernelEngine {
    /// The descriptor of a map, for what the traits don't offer (perf buffers, XSK maps).
    #[must_use]
    pub fn map_fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let map = self.maps.iter().find(|map| map.def.name == name)?;
        Some(map.fd.as_fd())
    }

    /// The descriptor of a program.
    #[must_use]
    pub fn program_fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.program(name).ok().map(|program| program.fd.as_fd())
    }

    /// As [`MapAccess::create_inner`], on a NUMA node if `def` has the flag `NUMA_NODE`.
    ///
    /// # Errors
    /// As [`MapAccess::create_inner`]. The kernel demands the type, key size, value size and flags of
    /// the prototype that the outer map was created with (see [`crate::LoadOptions::inner`]).
    pub fn create_inner_on(
        &self,
        outer: &str,
        key: &[u8],
        def: &MapDef,
        numa_node: u32,
    ) -> Result<(), EngineError> {
        let index = self.index(outer)?;
        let map = &self.maps[index];
        if !map.def.kind.is_map_in_map() {
            return Err(refused(outer, "create_inner", Errno::EINVAL));
        }
        check("key", key, map.fd.key_len(), outer)?;
        let extras = MapExtras {
            numa_node,
            ..MapExtras::default()
        };
        let inner = create_map(def, extras, self.cpus).map_err(|error| match error {
            KernelError::CreateMap { errno, .. } => refused(outer, "create_inner", errno),
            _ => refused(outer, "create_inner", Errno::EPERM),
        })?;
        let id = inner
            .info()
            .map_err(|errno| refused(outer, "create_inner", errno))?
            .id;
        let value = inner.as_fd().as_raw_fd().to_ne_bytes();
        map.fd
            .update(key, &value, UpdateFlags::ANY)
            .map_err(|errno| refused(outer, "create_inner", errno))?;
        self.opened()
            .insert((index, key.to_vec()), (id, Arc::new(inner)));
        Ok(())
    }

    pub(crate) fn program(&self, name: &str) -> Result<&LoadedProgram, EngineError> {
        let found = self.programs.iter().find(|program| program.name == name);
        found.ok_or_else(|| EngineError::NoProgram {
            name: name.to_owned(),
            available: self.programs().join(", "),
        })
    }

    fn index(&self, name: &str) -> Result<usize, EngineError> {
        let found = self.maps.iter().position(|map| map.def.name == name);
        found.ok_or_else(|| EngineError::NoMap(name.to_owned()))
    }

    /// How the values of a map name programs.
    fn programs_in(&self, map: MapRef<'_>) -> Programs {
        let MapRef::Name(name) = map else {
            return Programs::None;
        };
        let found = self.maps.iter().find(|map| map.def.name == name);
        found.map_or(Programs::None, |map| Programs::of(map.def.kind))
    }

    fn resolve(&self, map: MapRef<'_>) -> Result<Resolved<'_>, EngineError> {
        match map {
            MapRef::Name(name) => Ok(Resolved::Own(&self.maps[self.index(name)?].fd)),
            MapRef::Inner { outer, key } => self.inner_map(outer, key).map(Resolved::Inner),
        }
    }

    /// The inner map that `outer` holds under `key` now.
    fn inner_map(&self, outer: &str, key: &[u8]) -> Result<Arc<MapFd>, EngineError> {
        let index = self.index(outer)?;
        let map = &self.maps[index];
        let failed = |errno| refused(outer, "opening the inner map", errno);
        if !map.def.kind.is_map_in_map() {
            return Err(failed(Errno::EINVAL));
        }
        check("key", key, map.fd.key_len(), outer)?;
        let value = map.fd.lookup(key).map_err(failed)?;
        let id = value.as_deref().and_then(|value| value.first_chunk());
        let id = id.map(|bytes| u32::from_ne_bytes(*bytes));
        let id = id.ok_or_else(|| EngineError::NoMap(MapRef::Inner { outer, key }.to_string()))?;
        let place = (index, key.to_vec());
        if let Some((known, fd)) = self.opened().get(&place)
            && *known == id
        {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(MapFd::by_id(id, self.cpus).map_err(failed)?);
        self.opened().insert(place, (id, Arc::clone(&fd)));
        Ok(fd)
    }

    fn opened(&self) -> MutexGuard<'_, InnerMaps> {
        // The table is a cache whose entries are checked on use: a panic elsewhere cannot spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(map: impl ToString, operation: &'static str, errno: Errno) -> EngineError {
    EngineError::Map {
        map: map.to_string(),
        operation,
        errno,
    }
}

fn check(
    what: &'static str,
    bytes: &[u8],
    want: usize,
    map: impl ToString,
) -> Result<(), EngineError> {
    if bytes.len() == want {
        return Ok(());
    }
    Err(EngineError::Size {
        map: map.to_string(),
        what,
        got: bytes.len(),
        want,
    })
}

impl MapAccess for KernelEngine {
    fn maps(&self) -> Vec<MapDef> {
        self.maps.iter().map(|map| map.def.clone()).collect()
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let fd = self.resolve(map)?;
        check("key", key, fd.key_len(), map)?;
        let value = fd
            .lookup(key)
            .map_err(|errno| refused(map, "lookup", errno))?;
        Ok(value.map(|value| self.with_place(self.programs_in(map), value)))
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        let fd = self.resolve(map)?;
        check("key", key, fd.key_len(), map)?;
        check("value", value, fd.value_len(), map)?;
        let failed = |errno| refused(map, "update", errno);
        match self.programs_in(map) {
            Programs::None => fd.update(key, value, flags),
            programs => {
                let value = self.with_descriptor(programs, value).map_err(failed)?;
                fd.update(key, &value, flags)
            }
        }
        .map_err(failed)
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        let fd = self.resolve(map)?;
        let (key_len, value_len) = (fd.key_len(), fd.value_len());
        let count = keys.len().checked_div(key_len).unwrap_or(0);
        check("key", keys, count * key_len, map)?;
        check("value", values, count * value_len, map)?;
        if count == 0 {
            return Ok(());
        }
        let batch = match self.programs_in(map) {
            Programs::None => fd.update_batch(count, keys, values),
            _ => Err((Errno::ENOTSUPP, 0)),
        };
        match batch {
            Ok(()) => return Ok(()),
            // Kernels, and map types, that have no batches.
            Err((Errno::EINVAL | Errno::ENOTSUPP | Errno::EOPNOTSUPP, 0)) => {}
            Err((errno, _)) => return Err(refused(map, "update_batch", errno)),
        }
        let values = values.chunks_exact(value_len);
        for (key, value) in keys.chunks_exact(key_len).zip(values) {
            self.update(map, key, value, UpdateFlags::ANY)?;
        }
        Ok(())
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        let fd = self.resolve(map)?;
        check("key", key, fd.key_len(), map)?;
        fd.delete(key)
            .map_err(|errno| refused(map, "delete", errno))
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let fd = self.resolve(map)?;
        if let Some(key) = key {
            check("key", key, fd.key_len(), map)?;
        }
        fd.next_key(key)
            .map_err(|errno| refused(map, "next_key", errno))
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        self.create_inner_on(outer, key, def, 0)
    }
}

impl Engine for KernelEngine {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn programs(&self) -> Vec<String> {
        self.programs
            .iter()
            .map(|program| program.name.clone())
            .collect()
    }

    fn test_run(&mut self, program: &str, run: &TestRun<'_>) -> Result<TestResult, EngineError> {
        let mut output = std::mem::take(&mut self.output);
        output.resize(output.len().max(run.frame.len() + GROWTH), 0);
        let result = self.run(program, run, &mut output);
        self.output = output;
        result
    }
}

impl KernelEngine {
    fn run(
        &self,
        program: &str,
        run: &TestRun<'_>,
        output: &mut [u8],
    ) -> Result<TestResult, EngineError> {
        let failed = |reason| EngineError::TestRun {
            program: program.to_owned(),
            reason,
        };
        let fd = self.program(program)?.fd.as_fd();
        let _pinned = Pinned::to(run.cpu)
            .map_err(|errno| failed(format!("cannot run on CPU {}: {errno}", run.cpu)))?;
        let done = sys::prog_test_run(fd, run.frame, run.repeat.max(1), output)
            .map_err(|errno| failed(explain(errno, run.frame.len())))?;
        Ok(TestResult {
            return_value: done.retval,
            frame: output[..done.len].to_vec(),
            duration: Duration::from_nanos(done.nanos.into()),
        })
    }
}

/// What the kernel's refusal of a frame means.
fn explain(errno: Errno, len: usize) -> String {
    if (MIN_TEST_FRAME..=MAX_TEST_FRAME).contains(&len) {
        return errno.to_string();
    }
    format!(
        "{errno}: the frame has {len} bytes; the kernel runs frames of {MIN_TEST_FRAME} to \
         {MAX_TEST_FRAME} bytes in one piece, and of {MAX_FRAGMENTS} pages more in fragments"
    )
}

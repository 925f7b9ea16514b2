//! What programs tell their owner: ring buffers, perf events, traced text.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use squalus_engine::{EngineError, MapRef};
use squalus_isa::{Errno, MapDef, MapType};
use squalus_maps::{Map, PerfRecord};

use crate::Maps;

/// The reading side of a `RINGBUF` map; any thread's.
#[derive(Clone)]
pub struct RingReader {
    map: Arc<Map>,
}

/// The reading side of a `PERF_EVENT_ARRAY` map; any thread's.
#[derive(Clone)]
pub struct PerfReader {
    map: Arc<Map>,
}

impl Maps {
    /// The reading side of a ring buffer.
    ///
    /// # Errors
    /// If there is no such map, or it is of another type.
    pub fn ring(&self, name: &str) -> Result<RingReader, EngineError> {
        let map = Arc::clone(self.named(name)?);
        match map.ring() {
            Some(_) => Ok(RingReader { map }),
            None => Err(wrong_type(name, map.def(), MapType::RingBuf)),
        }
    }

    /// The reading side of a perf event array, with a ring of `pages` pages (a power of two) for every CPU.
    /// Before this, what programs send has nowhere to go (`ENOENT`); what waited in earlier rings is lost.
    ///
    /// # Errors
    /// If there is no such map, it is of another type, or the number of pages is none.
    pub fn perf(&self, name: &str, pages: u32) -> Result<PerfReader, EngineError> {
        let map = Arc::clone(self.named(name)?);
        let events = map
            .perf()
            .ok_or_else(|| wrong_type(name, map.def(), MapType::PerfEventArray))?;
        events.open_all(pages).map_err(|errno| EngineError::Map {
            map: name.to_owned(),
            operation: "opening of rings",
            errno,
        })?;
        Ok(PerfReader { map })
    }

    /// Gives each waiting line of `bpf_trace_printk` to `each`, with the CPU whose program wrote it: oldest
    /// first for each CPU. Returns how many there were.
    pub fn trace(&self, mut each: impl FnMut(u32, &str)) -> usize {
        let logs = self.shared.traces();
        let drained = logs
            .iter()
            .map(|(cpu, log)| log.drain(|line| each(*cpu, line)));
        drained.sum()
    }

    /// How many lines of `bpf_trace_printk` were lost because nobody read those before.
    #[must_use]
    pub fn trace_lost(&self) -> u64 {
        self.shared.traces().iter().map(|(_, log)| log.lost()).sum()
    }
}

fn wrong_type(name: &str, def: &MapDef, wanted: MapType) -> EngineError {
    EngineError::Map {
        map: MapRef::Name(name).to_string(),
        operation: match wanted {
            MapType::RingBuf => "reading as a ring buffer, which it is not,",
            _ => "reading as a perf event array, which it is not,",
        },
        errno: match def.kind {
            MapType::RingBuf | MapType::PerfEventArray => Errno::EINVAL,
            _ => Errno::EOPNOTSUPP,
        },
    }
}

impl RingReader {
    /// Gives each record that programs have submitted to `each`, oldest first; returns how many. One thread
    /// at a time does this, others wait; `each` must not read the same ring.
    pub fn consume(&self, each: impl FnMut(&[u8])) -> usize {
        self.map.ring().map_or(0, |ring| ring.consume(each))
    }

    /// Sleeps until there is something to read, at most for `timeout`; false if the time ran out.
    ///
    /// # Errors
    /// If the system has no descriptor left to sleep on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.map.ring().map_or(Ok(false), |ring| ring.wait(timeout))
    }
}

impl PerfReader {
    /// Gives each sample that programs have sent to `each`, oldest first for each CPU; returns how many.
    pub fn consume(&self, mut each: impl FnMut(PerfRecord<'_>)) -> usize {
        let Some(events) = self.map.perf() else {
            return 0;
        };
        let indices = 0..self.map.def().max_entries;
        indices.map(|index| events.drain(index, &mut each)).sum()
    }

    /// How many samples were lost for lack of room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let Some(events) = self.map.perf() else {
            return 0;
        };
        (0..self.map.def().max_entries)
            .map(|index| events.lost(index))
            .sum()
    }

    /// Sleeps until there is something to read, at most for `timeout`; false if the time ran out.
    ///
    /// # Errors
    /// If the system has no descriptor left to sleep on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.map
            .perf()
            .map_or(Ok(false), |events| events.wait(timeout))
    }
}

impl std::fmt::Debug for RingReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RingReader")
            .field(&self.map.def().name)
            .finish()
    }
}

impl std::fmt::Debug for PerfReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PerfReader")
            .field(&self.map.def().name)
            .finish()
    }
}

//! What all compilations of one program share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use squalus_analysis::Facts;
use squalus_maps::Map;
use squalus_runtime::LinkedProgram;
use squalus_ssa::support::Profile;

/// A program, for its compiled code. The code holds its address, and timers know the program by it: code of the
/// same program that is to replace other code must be compiled with the same one.
#[derive(Debug)]
pub struct Context {
    pub(crate) maps: Arc<[Arc<Map>]>,
    /// How often each block of the analysis' graph ran, as far as code counted it.
    counts: Box<[AtomicU64]>,
    /// For each block the first block of its function.
    entries: Box<[usize]>,
}

impl Context {
    /// For a program and what the analysis found for it.
    #[must_use]
    pub fn new(program: &LinkedProgram, facts: &Facts) -> Arc<Context> {
        let cfg = facts.cfg();
        let blocks = cfg.blocks();
        Arc::new(Context {
            maps: program.maps().iter().map(Arc::clone).collect(),
            counts: blocks.iter().map(|_| AtomicU64::new(0)).collect(),
            entries: blocks.iter().map(|block| cfg.entry(block.func)).collect(),
        })
    }

    /// What was counted since the counts were last set to 0. Workers that count at the same time lose some of
    /// each other's counts.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        Profile::new(counts.collect(), &self.entries)
    }

    /// How often the program was entered, as far as it was counted.
    #[must_use]
    pub fn runs(&self) -> u64 {
        let entry = self
            .entries
            .first()
            .and_then(|&entry| self.counts.get(entry));
        entry.map_or(0, |count| count.load(Relaxed))
    }

    /// Sets all counts to 0.
    pub fn reset(&self) {
        self.counts.iter().for_each(|count| count.store(0, Relaxed));
    }

    /// The address of the first count.
    pub(crate) fn counts(&self) -> usize {
        self.counts.as_ptr().expose_provenance()
    }
}

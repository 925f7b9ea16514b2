//! What all compilations of one program share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use squalus_analysis::Facts;
use squalus_isa::{CallTarget, Decoded, HelperId, Inst};
use squalus_maps::Map;
use squalus_runtime::LinkedProgram;
use squalus_ssa::Counters;
use squalus_ssa::support::Profile;

/// A program, for its compiled code. The code holds its address, and timers know the program by it: code of the
/// same program that is to replace other code must be compiled with the same one.
#[derive(Debug)]
pub struct Context {
    pub(crate) maps: Arc<[Arc<Map>]>,
    /// How often each block of the analysis' graph ran, as far as code counted it; for each CPU.
    counts: Box<[Lines]>,
    /// For each block the first block of its function.
    entries: Box<[usize]>,
    cpus: u32,
    /// Whether a run may take what is to be given back after it.
    pub(crate) holds: bool,
}

/// Whether an instruction takes what is to be given back.
fn takes(decoded: &Decoded) -> bool {
    let Inst::Call(CallTarget::Helper(id)) = decoded.inst else {
        return false;
    };
    matches!(id, HelperId::SPIN_LOCK | HelperId::RINGBUF_RESERVE)
}

/// Counts that lie together: two cache lines, so that no worker's are beside another's.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Lines([AtomicU64; LINES]);

const LINES: usize = 16;

impl Context {
    /// For a program and what the analysis found for it. CPUs are told apart when blocks are counted, as far as
    /// there are so many.
    #[must_use]
    pub fn new(program: &LinkedProgram, facts: &Facts, cpus: u32) -> Arc<Context> {
        let cfg = facts.cfg();
        let blocks = cfg.blocks();
        let cpus = cpus.max(1);
        let lines = blocks.len().div_ceil(LINES) * cpus as usize;
        Arc::new(Context {
            maps: program.maps().iter().map(Arc::clone).collect(),
            counts: (0..lines).map(|_| Lines::default()).collect(),
            entries: blocks.iter().map(|block| cfg.entry(block.func)).collect(),
            cpus,
            holds: program.insts().iter().any(takes),
        })
    }

    /// What was counted since the counts were last set to 0.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let counts = (0..self.entries.len()).map(|block| self.count(block));
        Profile::new(counts.collect(), &self.entries)
    }

    /// How often the program was entered, as far as it was counted.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.entries.first().map_or(0, |&entry| self.count(entry))
    }

    fn count(&self, block: usize) -> u64 {
        let all = self.counts.chunks(self.lines_per_cpu());
        all.map(|counts| counts[block / LINES].0[block % LINES].load(Relaxed))
            .sum()
    }

    fn lines_per_cpu(&self) -> usize {
        self.entries.len().div_ceil(LINES).max(1)
    }

    /// Sets all counts to 0.
    pub fn reset(&self) {
        let counts = self.counts.iter().flat_map(|lines| &lines.0);
        counts.for_each(|count| count.store(0, Relaxed));
    }

    /// Where code counts.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            address: self.counts.as_ptr().expose_provenance(),
            stride: self.lines_per_cpu() * size_of::<Lines>(),
            cpus: self.cpus,
        }
    }
}

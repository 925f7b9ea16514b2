//! Counting.

use aya_ebpf::btf_maps::PerCpuArray;
use squalus_abi::{GlobalCounter, LbStats};
use squalus_bpf_net::{Step, Verdict};

use crate::maps;

/// Adds to a global counter pair.
#[inline(always)]
pub fn add(counter: GlobalCounter, v1: u64, v2: u64) -> Step<()> {
    add_to(&maps::stats, counter.stats_index(), v1, v2)
}

/// A global counter pair, for those that are read too.
#[inline(always)]
pub fn get(counter: GlobalCounter) -> Step<&'static mut LbStats> {
    at(&maps::stats, counter.stats_index())
}

/// Adds to the pair at `index`. katran drops the packet if there is none, which the sizes of the maps rule out.
#[inline(always)]
pub fn add_to<const N: usize>(
    map: &'static PerCpuArray<LbStats, N>,
    index: u32,
    v1: u64,
    v2: u64,
) -> Step<()> {
    let pair = at(map, index)?;
    pair.v1 = pair.v1.wrapping_add(v1);
    pair.v2 = pair.v2.wrapping_add(v2);
    Ok(())
}

#[inline(always)]
#[allow(
    clippy::mut_from_ref,
    reason = "a map hands out memory that is not its own"
)]
fn at<const N: usize>(
    map: &'static PerCpuArray<LbStats, N>,
    index: u32,
) -> Step<&'static mut LbStats> {
    let pair = map.get_ptr_mut(index).ok_or(Verdict::Drop)?;
    // SAFETY: a per-CPU value, which no other run on this CPU interrupts; callers hold one reference to a pair.
    Ok(unsafe { &mut *pair })
}

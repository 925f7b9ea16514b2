//! Nanoseconds per packet of a loaded program, in the kernel and in our engine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use squalus_engine::Engine;
use squalus_isa::Verdict;
use squalus_kernel::KernelEngine;
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::Vm;

/// Frames of a burst, as the data plane runs them.
const BURST: usize = 64;
/// Bytes of a frame's buffer.
const BUFFER: usize = 2048;

/// An engine whose programs can be timed.
pub trait Measure: Engine {
    /// Runs `packets` packets, `frames` in turn, through `program` on CPU 0, and returns the mean time of one
    /// packet in nanoseconds. Every packet must get the verdict `expected`.
    ///
    /// # Errors
    /// If a run fails or gives another verdict.
    fn measure(
        &mut self,
        program: &str,
        frames: &[Vec<u8>],
        packets: u32,
        expected: Verdict,
    ) -> Result<f64>;
}

impl Measure for KernelEngine {
    /// A driver program restores the frame and tail-calls the program; its own time is subtracted
    /// (see [`KernelEngine::measure`]). The kernel's cost of entering a program is not in the figure.
    fn measure(
        &mut self,
        program: &str,
        frames: &[Vec<u8>],
        packets: u32,
        expected: Verdict,
    ) -> Result<f64> {
        let measured = KernelEngine::measure(self, program, frames, packets, 0)?;
        ensure!(
            measured.verdict == expected,
            "the kernel answered {} instead of {expected}",
            measured.verdict
        );
        Ok(measured.nanos())
    }
}

impl Measure for Vm {
    /// Bursts are timed; restoring frames in between is not. The engine's cost of entering a program is in the
    /// figure.
    fn measure(
        &mut self,
        program: &str,
        frames: &[Vec<u8>],
        packets: u32,
        expected: Verdict,
    ) -> Result<f64> {
        let mut worker = self.worker(program, 0)?;
        let mut buffers = vec![[0u8; BUFFER]; BURST];
        let mut verdicts = [Verdict::Aborted; BURST];
        let mut source = frames.iter().cycle();
        let mut time = Duration::ZERO;
        let mut done = 0;
        while done < packets {
            let mut burst = Vec::with_capacity(BURST);
            for buffer in &mut buffers {
                burst.push(restored(buffer, source.next().context("no frames given")?)?);
            }
            let start = Instant::now();
            worker.run_burst(&mut burst, &mut verdicts);
            time += start.elapsed();
            if let Some(wrong) = verdicts.iter().find(|verdict| **verdict != expected) {
                bail!(
                    "the {} engine answered {wrong} instead of {expected}",
                    self.name()
                );
            }
            done += BURST as u32;
        }
        worker.pause();
        Ok(time.as_nanos() as f64 / f64::from(done))
    }
}

/// The frame in its buffer, with the headroom in front of it.
fn restored<'a>(buffer: &'a mut [u8; BUFFER], frame: &[u8]) -> Result<FrameRef<'a>> {
    let place = buffer.get_mut(PACKET_HEADROOM..PACKET_HEADROOM + frame.len());
    place
        .context("the frame is too long")?
        .copy_from_slice(frame);
    Ok(FrameRef::new(buffer, PACKET_HEADROOM, frame.len())?)
}

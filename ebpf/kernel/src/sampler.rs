//! Where a thread spends its time: the address it executes, looked at many times a second.
//!
//! This is what `perf record -e cpu-clock:u` does for other processes: a timer of the kernel that runs while the
//! thread does, and at each tick notes the address and the time in a ring buffer that the process reads. Only user
//! space is looked at, so no privilege is needed (`kernel.perf_event_paranoid` up to 2).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why a thread cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// The kernel refuses.
    #[error(
        "the kernel lets nobody sample this process ({0}): set kernel.perf_event_paranoid to 2 or less, allow \
         perf_event_open in the container's seccomp profile, or be root"
    )]
    Refused(io::Error),
    /// The kernel cannot.
    #[error("cannot sample: {0}")]
    System(io::Error),
}

/// Where a thread was at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The address it was about to execute.
    pub address: u64,
    /// When, as [`Sampler::now`] tells the time.
    pub nanos: u64,
}

/// Samples the thread that made it, until dropped.
#[derive(Debug)]
pub struct Sampler {
    _event: OwnedFd,
    ring: Ring,
}

/// `struct perf_event_attr`, as far as it went when clocks came in.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
    branches: u64,
    user_registers: u64,
    user_stack: u32,
    clock: i32,
}

const TYPE_SOFTWARE: u32 = 1;
const SOFTWARE_CPU_CLOCK: u64 = 0;
const SAMPLE_ADDRESS: u64 = 1 << 0;
const SAMPLE_TIME: u64 = 1 << 2;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const USE_CLOCK: u64 = 1 << 25;
const CLOEXEC: libc::c_ulong = 1 << 3;

impl Sampler {
    /// Samples the calling thread, once in each `period` that it runs (at least 10 microseconds).
    ///
    /// # Errors
    /// If the kernel does not let it.
    pub fn of_this_thread(period: Duration) -> Result<Sampler, SamplerError> {
        let attributes = Attributes {
            kind: TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: SOFTWARE_CPU_CLOCK,
            period: period.as_nanos() as u64,
            sample: SAMPLE_ADDRESS | SAMPLE_TIME,
            flags: EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | USE_CLOCK,
            clock: libc::CLOCK_MONOTONIC,
            ..Attributes::default()
        };
        let (this_thread, any_cpu, no_group) = (0, -1, -1);
        // SAFETY: the attributes have the length they say and live across the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_thread,
                any_cpu,
                no_group,
                CLOEXEC,
            )
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::ENOSYS) => SamplerError::Refused(error),
                _ => SamplerError::System(error),
            });
        }
        // SAFETY: the kernel just made the descriptor, and nobody else has it.
        let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let ring = Ring::map(&event).map_err(SamplerError::System)?;
        Ok(Sampler {
            _event: event,
            ring,
        })
    }

    /// The time in nanoseconds, of the clock that samples have.
    #[must_use]
    pub fn now() -> u64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes the structure, which lives across the call. This clock always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    /// Appends the samples since the last call, and returns how many were lost because that was long ago.
    pub fn drain(&mut self, samples: &mut Vec<Sample>) -> u64 {
        let mut lost = 0;
        while let Some(record) = self.ring.next() {
            match record {
                Record::Sample(sample) => samples.push(sample),
                Record::Lost(count) => lost += count,
                Record::Other => {}
            }
        }
        lost
    }
}

enum Record {
    Sample(Sample),
    Lost(u64),
    Other,
}

/// The buffer that the kernel writes records to, behind a page that says how far it came.
#[derive(Debug)]
struct Ring {
    start: NonNull<u8>,
    len: usize,
    page: usize,
}

/// Pages of records: half a megabyte, which any user may lock.
const PAGES: usize = 128;
/// Where the first page says how far the kernel has written, and is told how far we have read.
const HEAD: usize = 1024;
const TAIL: usize = 1032;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;
/// Bytes before a record's contents: its type, and its size in the last two of them.
const HEADER: u64 = 8;

impl Ring {
    fn map(event: &OwnedFd) -> io::Result<Ring> {
        // SAFETY: it only returns a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let len = (1 + PAGES) * page;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring { start, len, page })
    }

    /// One of the counters in the first page.
    fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the offset is within the first page and aligned; the kernel uses the word as we do, one side
        // writing and the other reading; it stays mapped as long as `self`.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// The next record, if there is one.
    fn next(&mut self) -> Option<Record> {
        let tail = self.counter(TAIL).load(Ordering::Relaxed);
        if self.counter(HEAD).load(Ordering::Acquire) == tail {
            return None;
        }
        let header = self.word(tail);
        let (kind, size) = (header as u32, header >> 48);
        let (first, second) = (self.word(tail + HEADER), self.word(tail + HEADER + 8));
        self.counter(TAIL).store(tail + size, Ordering::Release);
        Some(match kind {
            RECORD_SAMPLE => Record::Sample(Sample {
                address: first,
                nanos: second,
            }),
            RECORD_LOST => Record::Lost(second),
            _ => Record::Other,
        })
    }

    /// Eight bytes of a record; the kernel keeps records aligned to as many. Past the end it goes on at the start.
    fn word(&self, at: u64) -> u64 {
        let offset = self.page + at as usize % (PAGES * self.page);
        // SAFETY: the offset is within the mapping, and aligned as records are. The kernel does not write there
        // before it is told that the record was read.
        unsafe { self.start.as_ptr().add(offset).cast::<u64>().read() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `map`; references into it borrow `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[inline(never)]
    fn busy(until: u64) -> u64 {
        let mut n = 0u64;
        while n % 4096 != 4095 || Sampler::now() < until {
            n = std::hint::black_box(n + 1);
        }
        n
    }

    #[test]
    fn a_busy_thread_is_seen_at_work() {
        let mut sampler = match Sampler::of_this_thread(Duration::from_micros(100)) {
            Err(error @ SamplerError::Refused(_)) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
            sampler => sampler.unwrap(),
        };
        let start = Sampler::now();
        let at_work = |sample: &&Sample| sample.address.abs_diff(busy as *const () as u64) < 4096;
        let mut samples = Vec::new();
        // How much of the processor the thread gets, and how fine its timer is, is the machine's business.
        while samples.iter().filter(at_work).count() < 20 {
            assert!(Sampler::now() - start < 60_000_000_000, "{samples:?}");
            busy(Sampler::now() + 50_000_000);
            sampler.drain(&mut samples);
        }
        // The kernel reads its clock without a lock, so a sample may be some microseconds off.
        let (slack, end) = (1_000_000, Sampler::now());
        let taken = start - slack..end + slack;
        assert!(samples.iter().all(|sample| taken.contains(&sample.nanos)));
    }
}

//! Where the text of `bpf_trace_printk` goes: a buffer per worker, allocated once.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::format::MAX_LINE;

/// Bytes of text that wait to be read.
const CAPACITY: usize = 1 << 16;
/// Bytes before each line: its length.
const HEADER: usize = 2;

/// Lines on their way from one worker, which writes, to any thread that reads.
///
/// The worker never waits: a line that finds no room is counted as lost. Bytes are copied one atomic at a
/// time, which is slow and needs no unsafe code; tracing is for debugging.
pub struct TraceLog {
    bytes: Box<[AtomicU8]>,
    /// Bytes ever written, and ever read. The difference is what waits.
    written: AtomicUsize,
    read: AtomicUsize,
    lines: AtomicU64,
    lost: AtomicU64,
    reader: Mutex<()>,
}

impl Default for TraceLog {
    fn default() -> Self {
        TraceLog::new()
    }
}

impl fmt::Debug for TraceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLog")
            .field("lines", &self.lines())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

impl TraceLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> TraceLog {
        TraceLog {
            bytes: (0..CAPACITY).map(|_| AtomicU8::new(0)).collect(),
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            lines: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            reader: Mutex::new(()),
        }
    }

    /// How many lines were ever written, lost ones included.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// How many lines were lost because nobody read the ones before.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Adds a line of at most [`MAX_LINE`] bytes. Only the worker's thread may call this.
    pub(crate) fn write(&self, line: &[u8]) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        let line = &line[..line.len().min(MAX_LINE)];
        let written = self.written.load(Ordering::Relaxed);
        let waiting = written.wrapping_sub(self.read.load(Ordering::Acquire));
        if CAPACITY - waiting < HEADER + line.len() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let header = (line.len() as u16).to_ne_bytes();
        for (n, byte) in header.iter().chain(line).enumerate() {
            self.at(written.wrapping_add(n))
                .store(*byte, Ordering::Relaxed);
        }
        let end = written.wrapping_add(HEADER + line.len());
        self.written.store(end, Ordering::Release);
    }

    /// Gives each waiting line to `each`, oldest first, and makes room for others. A line is what the
    /// program formatted, with its own newline if it wrote one. Returns how many there were.
    pub fn drain(&self, mut each: impl FnMut(&str)) -> usize {
        let _one_reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = [0; MAX_LINE];
        let mut count = 0;
        loop {
            let read = self.read.load(Ordering::Relaxed);
            if read == self.written.load(Ordering::Acquire) {
                return count;
            }
            let byte = |n| self.at(read.wrapping_add(n)).load(Ordering::Relaxed);
            let len = usize::from(u16::from_ne_bytes([byte(0), byte(1)]));
            for (n, place) in line[..len].iter_mut().enumerate() {
                *place = byte(HEADER + n);
            }
            self.read
                .store(read.wrapping_add(HEADER + len), Ordering::Release);
            each(&String::from_utf8_lossy(&line[..len]));
            count += 1;
        }
    }

    fn at(&self, position: usize) -> &AtomicU8 {
        &self.bytes[position % CAPACITY]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &TraceLog) -> Vec<String> {
        let mut lines = Vec::new();
        log.drain(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_come_out_as_they_went_in_until_there_is_no_room() {
        let log = TraceLog::new();
        log.write(b"one");
        log.write(b"");
        assert_eq!(lines(&log), ["one", ""]);
        let long = [b'x'; MAX_LINE];
        for _ in 0..100 {
            log.write(&long);
        }
        let kept = CAPACITY / (MAX_LINE + HEADER);
        assert_eq!(lines(&log).len(), kept);
        assert_eq!(log.lost(), 100 - kept as u64);
        assert_eq!(log.lines(), 102);
        log.write(b"two");
        assert_eq!(lines(&log), ["two"]);
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_lines() {
        let log = TraceLog::new();
        let (mut seen, mut last) = (0, 0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..20_000 {
                    log.write(format!("{n}:{}", "y".repeat(n % 50)).as_bytes());
                }
            });
            while !writer.is_finished() || seen as u64 + log.lost() < 20_000 {
                seen += log.drain(|line| {
                    let (n, rest) = line.split_once(':').unwrap();
                    let n: usize = n.parse().unwrap();
                    assert!(n >= last && rest.len() == n % 50);
                    last = n;
                });
            }
        });
        assert_eq!(seen as u64 + log.lost(), 20_000);
    }
}

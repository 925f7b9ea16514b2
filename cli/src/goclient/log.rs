//! Messages as Go's log package writes them.

use std::io::Write;
use std::time::SystemTime;

/// Stamped lines on stderr.
pub(super) struct Log<'a> {
    sink: &'a mut dyn Write,
    clock: fn() -> SystemTime,
}

impl<'a> Log<'a> {
    pub fn new(sink: &'a mut dyn Write, clock: fn() -> SystemTime) -> Self {
        Log { sink, clock }
    }

    /// Writes one line. That stderr is closed must not stop the work.
    pub fn line(&mut self, message: &str) {
        let _ = writeln!(self.sink, "{} {message}", stamp((self.clock)()));
    }
}

/// `2006/01/02 15:04:05`, in UTC.
fn stamp(time: SystemTime) -> String {
    crate::clock::utc(time).replace('-', "/")
}

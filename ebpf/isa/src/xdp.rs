//! XDP verdicts.

use std::fmt;

/// What becomes of a frame (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Verdict {
    /// The program failed; the frame is dropped and the failure counted.
    Aborted = 0,
    /// The frame is dropped.
    Drop = 1,
    /// The frame goes on to the host's stack.
    Pass = 2,
    /// The frame leaves by the port it came from.
    Tx = 3,
    /// The frame leaves by a port, CPU or socket that the program named.
    Redirect = 4,
}

impl Verdict {
    /// All verdicts in numeric order.
    pub const ALL: [Verdict; 5] = [
        Verdict::Aborted,
        Verdict::Drop,
        Verdict::Pass,
        Verdict::Tx,
        Verdict::Redirect,
    ];

    /// The verdict a program's return value means. As in the kernel, only the low 32 bits count and
    /// unknown values mean `Aborted`.
    #[inline]
    #[must_use]
    pub const fn from_return(value: u64) -> Verdict {
        match Verdict::known(value) {
            Some(verdict) => verdict,
            None => Verdict::Aborted,
        }
    }

    /// The same; none if it is no verdict.
    #[inline]
    #[must_use]
    pub const fn known(value: u64) -> Option<Verdict> {
        match value as u32 {
            0 => Some(Verdict::Aborted),
            1 => Some(Verdict::Drop),
            2 => Some(Verdict::Pass),
            3 => Some(Verdict::Tx),
            4 => Some(Verdict::Redirect),
            _ => None,
        }
    }

    /// The kernel's name, e.g. `XDP_TX`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Aborted => "XDP_ABORTED",
            Verdict::Drop => "XDP_DROP",
            Verdict::Pass => "XDP_PASS",
            Verdict::Tx => "XDP_TX",
            Verdict::Redirect => "XDP_REDIRECT",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

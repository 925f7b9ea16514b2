//! What becomes of a frame.

/// Result of an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`: up to the network stack.
    Pass = 2,
    /// `XDP_TX`: out of the interface it came from.
    Tx = 3,
}

/// Either what the next step needs, or the verdict that ends the processing here.
pub type Step<T> = Result<T, Verdict>;

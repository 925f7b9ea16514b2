//! Where a redirected frame goes.

use squalus_maps::Target;

/// What the last `bpf_redirect` or `bpf_redirect_map` of a run chose. It counts only with the verdict
/// `XDP_REDIRECT`.
///
/// Maps are named by [`squalus_maps::Map::id`]. A map's entry is what it was when the program asked; a
/// broadcast goes to the entries there are when the frame leaves.
///
/// Compiled code writes [`Redirect::Interface`] itself, so the layout is fixed: the variant's number in 32 bits, then
/// its fields in order.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Nothing was chosen: the frame is dropped.
    #[default]
    Nowhere = 0,
    /// The interface with this index.
    Interface(u32) = Redirect::INTERFACE,
    /// An entry of a map.
    Entry {
        /// The map.
        map: u32,
        /// The entry's key.
        key: u32,
        /// What the entry says.
        target: Target,
    },
    /// Every interface in a map.
    Broadcast {
        /// The map.
        map: u32,
        /// Whether the interface the frame came in by is left out.
        exclude_ingress: bool,
    },
}

impl Redirect {
    /// The number of [`Redirect::Interface`], which is where the value begins.
    pub const INTERFACE: u32 = 1;
    /// Where the interface's index is, in bytes from there.
    pub const OFFSET_IFINDEX: usize = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_laid_out_as_compiled_code_writes_it() {
        let redirect = Redirect::Interface(0x1234_5678);
        // SAFETY: with `repr(u32)` the variant's number comes first, then, at the next aligned place, its field.
        let words = unsafe { (&raw const redirect).cast::<[u32; 2]>().read() };
        assert_eq!(words, [Redirect::INTERFACE, 0x1234_5678]);
        assert_eq!(Redirect::OFFSET_IFINDEX, 4);
    }
}

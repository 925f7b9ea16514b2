//! Where a redirected frame goes.

use squalus_maps::Target;

/// What the last `bpf_redirect` or `bpf_redirect_map` of a run chose. It counts only with the verdict
/// `XDP_REDIRECT`.
///
/// Maps are named by [`squalus_maps::Map::id`]. A map's entry is what it was when the program asked; a
/// broadcast goes to the entries there are when the frame leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Nothing was chosen: the frame is dropped.
    #[default]
    Nowhere,
    /// The interface with this index.
    Interface(u32),
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

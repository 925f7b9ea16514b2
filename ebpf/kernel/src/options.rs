//! What a caller may change of an object before it is loaded.

use std::path::PathBuf;

use squalus_isa::MapDef;

/// Changes to an object before loading. The default loads it as it is.
///
/// Every name must exist in the object: a misspelt switch is an error, not a default.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// New contents of global variables (in `.rodata`, the constants that switch features), as many
    /// bytes as the variable has.
    pub globals: Vec<(String, Vec<u8>)>,
    /// New sizes of maps.
    pub max_entries: Vec<(String, u32)>,
    /// For maps of maps: inner maps are like this, not as the object declares.
    ///
    /// The kernel accepts only inner maps of the same type, key size, value size and flags as the
    /// prototype given when the outer map is created. Whoever wants inner maps on a NUMA node, or of
    /// another type than declared (katran's `global_lru_maps`), states it here.
    pub inner: Vec<(String, MapDef)>,
    /// Directory in a bpf file system. Maps pinned there under their full name are taken as they are
    /// (if they fit the object); the others are created and pinned. Data sections stay private. Without
    /// it nothing is pinned, whatever the object declares.
    pub pin: Option<PathBuf>,
}

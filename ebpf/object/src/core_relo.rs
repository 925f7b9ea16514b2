//! CO-RE.

use crate::btf::CoreRecord;

/// A relocation of `.BTF.ext`, at a slot of a linked program.
#[derive(Clone, Debug)]
pub(crate) struct CoreRelo {
    /// Slot of the instruction to patch.
    pub(crate) slot: usize,
    pub(crate) record: CoreRecord,
}

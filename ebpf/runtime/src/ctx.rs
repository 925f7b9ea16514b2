//! `struct xdp_md`, the context of XDP programs.
//!
//! Its fields are 32 bits wide, also those that hold pointers. As the kernel does, the engines rewrite a
//! load of a pointer field into a load of the whole 64-bit pointer, so that unchanged objects run.

use squalus_isa::MemSize;

use crate::Env;

/// A field of `struct xdp_md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CtxField {
    /// Start of the packet: a pointer.
    Data,
    /// End of the packet: a pointer.
    DataEnd,
    /// Start of the metadata: a pointer.
    DataMeta,
    /// Interface the frame came in by.
    IngressIfindex,
    /// Receive queue the frame came in by.
    RxQueueIndex,
    /// Interface the frame leaves by. The kernel gives it to devmap programs only; here it is 0.
    EgressIfindex,
}

impl CtxField {
    /// Offset in [`Env`] of what the load is rewritten to.
    #[must_use]
    pub const fn env_offset(self) -> usize {
        match self {
            CtxField::Data => Env::OFFSET_DATA,
            CtxField::DataEnd => Env::OFFSET_DATA_END,
            CtxField::DataMeta => Env::OFFSET_DATA_META,
            CtxField::IngressIfindex => Env::OFFSET_INGRESS_IFINDEX,
            CtxField::RxQueueIndex => Env::OFFSET_RX_QUEUE_INDEX,
            CtxField::EgressIfindex => Env::OFFSET_EGRESS_IFINDEX,
        }
    }

    /// Whether the rewritten load is a 64-bit pointer (else a 32-bit number).
    #[must_use]
    pub const fn is_pointer(self) -> bool {
        matches!(
            self,
            CtxField::Data | CtxField::DataEnd | CtxField::DataMeta
        )
    }

    /// The loaded value.
    ///
    /// # Safety
    /// As [`Env::frame`].
    #[must_use]
    pub unsafe fn load(self, env: &Env) -> u64 {
        // SAFETY: the caller's.
        let frame = unsafe { env.frame() };
        match self {
            CtxField::Data => frame.data().expose_provenance() as u64,
            CtxField::DataEnd => frame.data_end().expose_provenance() as u64,
            CtxField::DataMeta => frame.data_meta().expose_provenance() as u64,
            CtxField::IngressIfindex => env.ingress_ifindex.into(),
            CtxField::RxQueueIndex => env.rx_queue_index.into(),
            CtxField::EgressIfindex => env.egress_ifindex.into(),
        }
    }
}

/// The field that a load of `size` at byte `off` of the context reads; `None` if XDP programs may not
/// make that load: it must read exactly one field. All stores are refused.
#[must_use]
pub const fn ctx_field(off: i64, size: MemSize) -> Option<CtxField> {
    if !matches!(size, MemSize::W) {
        return None;
    }
    match off {
        0 => Some(CtxField::Data),
        4 => Some(CtxField::DataEnd),
        8 => Some(CtxField::DataMeta),
        12 => Some(CtxField::IngressIfindex),
        16 => Some(CtxField::RxQueueIndex),
        20 => Some(CtxField::EgressIfindex),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_aligned_fields_are_readable() {
        assert_eq!(ctx_field(0, MemSize::W), Some(CtxField::Data));
        assert_eq!(ctx_field(20, MemSize::W), Some(CtxField::EgressIfindex));
        for (off, size) in [
            (0, MemSize::Dw),
            (0, MemSize::H),
            (2, MemSize::W),
            (24, MemSize::W),
            (-4, MemSize::W),
        ] {
            assert_eq!(ctx_field(off, size), None, "{off} {size:?}");
        }
    }
}

//! What is known of the packet being processed.

use squalus_abi::FlowKey;

/// A packet's description, completed step by step.
///
/// The flow is apart because helpers take its address, which keeps it in memory; the rest can be in registers.
pub struct Packet<'k> {
    /// The flow, as the session table's key.
    pub flow: &'k mut FlowKey,
    /// Index of the chosen real, zero before.
    pub real_index: u32,
    /// Length in the IP header: of the whole packet for IPv4, of the payload for IPv6.
    pub ip_len: u16,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The flow is that of the packet embedded in an ICMP error.
    pub icmp: bool,
    /// TCP SYN.
    pub syn: bool,
    /// TCP RST.
    pub rst: bool,
}

/// A map key on the stack. The verifier wants stack accesses aligned, so only at a multiple of 8 can words be joined.
#[derive(Default)]
#[repr(C, align(8))]
pub struct StackKey<T>(pub T);

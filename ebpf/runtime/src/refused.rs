//! Why a helper is not here.

use squalus_isa::HelperId;

/// Why programs cannot call a helper in userspace, for an error message. The sentence goes on after the
/// helper's name, as in "it …".
#[must_use]
pub fn why_refused(id: HelperId) -> &'static str {
    match id {
        HelperId::SK_LOOKUP_TCP
        | HelperId::SK_LOOKUP_UDP
        | HelperId::SKC_LOOKUP_TCP
        | HelperId::SK_RELEASE
        | HelperId::TCP_CHECK_SYNCOOKIE
        | HelperId::TCP_GEN_SYNCOOKIE
        | HelperId::SKC_TO_TCP6_SOCK
        | HelperId::SKC_TO_TCP_SOCK
        | HelperId::SKC_TO_TCP_TIMEWAIT_SOCK
        | HelperId::SKC_TO_TCP_REQUEST_SOCK
        | HelperId::SKC_TO_UDP6_SOCK
        | HelperId::SKC_TO_UNIX_SOCK
        | HelperId::SKC_TO_MPTCP_SOCK => "gives access to the host's sockets, which the kernel has",
        HelperId::GET_CURRENT_TASK
        | HelperId::GET_CURRENT_TASK_BTF
        | HelperId::TASK_PT_REGS
        | HelperId::PER_CPU_PTR
        | HelperId::THIS_CPU_PTR
        | HelperId::PROBE_READ
        | HelperId::PROBE_READ_STR
        | HelperId::PROBE_READ_KERNEL
        | HelperId::PROBE_READ_KERNEL_STR
        | HelperId::SNPRINTF_BTF
        | HelperId::KPTR_XCHG => "gives access to the kernel's own memory",
        HelperId::PROBE_READ_USER | HelperId::PROBE_READ_USER_STR => {
            "reads the memory of the process that runs, which here is the engine's own"
        }
        HelperId::GET_CURRENT_CGROUP_ID
        | HelperId::GET_CURRENT_ANCESTOR_CGROUP_ID
        | HelperId::GET_NS_CURRENT_PID_TGID
        | HelperId::CGRP_STORAGE_GET
        | HelperId::CGRP_STORAGE_DELETE => "asks what task runs, which says nothing of a packet",
        HelperId::PERF_EVENT_READ | HelperId::PERF_EVENT_READ_VALUE => {
            "reads the processor's counters, which are the kernel's"
        }
        HelperId::DYNPTR_FROM_MEM
        | HelperId::DYNPTR_READ
        | HelperId::DYNPTR_WRITE
        | HelperId::DYNPTR_DATA
        | HelperId::RINGBUF_RESERVE_DYNPTR
        | HelperId::RINGBUF_SUBMIT_DYNPTR
        | HelperId::RINGBUF_DISCARD_DYNPTR
        | HelperId::USER_RINGBUF_DRAIN => "is not implemented by this engine",
        _ => "is none that the kernel lets XDP programs call",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_needs_no_excuse_and_what_is_not_has_one() {
        let sockets = why_refused(HelperId::SK_LOOKUP_TCP);
        assert!(sockets.contains("sockets"));
        assert_ne!(sockets, why_refused(HelperId::SKB_STORE_BYTES));
        assert!(crate::proto(HelperId::SK_LOOKUP_TCP).is_none());
    }
}

//! Helper function numbers of `linux/bpf.h`.

use std::fmt;

/// A helper's number in the kernel's ABI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HelperId(pub u32);

macro_rules! helpers {
    ($($name:ident = $id:literal, $text:literal;)*) => {
        #[allow(missing_docs, reason = "the names are the kernel's own")]
        impl HelperId {
            $(pub const $name: HelperId = HelperId($id);)*
        }

        /// The kernel's name of a helper, without the `bpf_` prefix.
        #[must_use]
        pub fn name(id: HelperId) -> Option<&'static str> {
            match id.0 {
                $($id => Some($text),)*
                _ => None,
            }
        }
    };
}

helpers! {
    MAP_LOOKUP_ELEM = 1, "map_lookup_elem";
    MAP_UPDATE_ELEM = 2, "map_update_elem";
    MAP_DELETE_ELEM = 3, "map_delete_elem";
    PROBE_READ = 4, "probe_read";
    KTIME_GET_NS = 5, "ktime_get_ns";
    TRACE_PRINTK = 6, "trace_printk";
    GET_PRANDOM_U32 = 7, "get_prandom_u32";
    GET_SMP_PROCESSOR_ID = 8, "get_smp_processor_id";
    TAIL_CALL = 12, "tail_call";
    REDIRECT = 23, "redirect";
    PERF_EVENT_OUTPUT = 25, "perf_event_output";
    CSUM_DIFF = 28, "csum_diff";
    GET_NUMA_NODE_ID = 42, "get_numa_node_id";
    XDP_ADJUST_HEAD = 44, "xdp_adjust_head";
    REDIRECT_MAP = 51, "redirect_map";
    XDP_ADJUST_META = 54, "xdp_adjust_meta";
    XDP_ADJUST_TAIL = 65, "xdp_adjust_tail";
    FIB_LOOKUP = 69, "fib_lookup";
    MAP_PUSH_ELEM = 87, "map_push_elem";
    MAP_POP_ELEM = 88, "map_pop_elem";
    MAP_PEEK_ELEM = 89, "map_peek_elem";
    SPIN_LOCK = 93, "spin_lock";
    SPIN_UNLOCK = 94, "spin_unlock";
    STRTOL = 105, "strtol";
    STRTOUL = 106, "strtoul";
    PROBE_READ_KERNEL = 113, "probe_read_kernel";
    JIFFIES64 = 118, "jiffies64";
    KTIME_GET_BOOT_NS = 125, "ktime_get_boot_ns";
    RINGBUF_OUTPUT = 130, "ringbuf_output";
    RINGBUF_RESERVE = 131, "ringbuf_reserve";
    RINGBUF_SUBMIT = 132, "ringbuf_submit";
    RINGBUF_DISCARD = 133, "ringbuf_discard";
    RINGBUF_QUERY = 134, "ringbuf_query";
    KTIME_GET_COARSE_NS = 160, "ktime_get_coarse_ns";
    FOR_EACH_MAP_ELEM = 164, "for_each_map_elem";
    SNPRINTF = 165, "snprintf";
    TIMER_INIT = 169, "timer_init";
    TIMER_SET_CALLBACK = 170, "timer_set_callback";
    TIMER_START = 171, "timer_start";
    TIMER_CANCEL = 172, "timer_cancel";
    LOOP = 181, "loop";
    STRNCMP = 182, "strncmp";
    XDP_GET_BUFF_LEN = 188, "xdp_get_buff_len";
    XDP_LOAD_BYTES = 189, "xdp_load_bytes";
    XDP_STORE_BYTES = 190, "xdp_store_bytes";
    MAP_LOOKUP_PERCPU_ELEM = 195, "map_lookup_percpu_elem";
    KTIME_GET_TAI_NS = 208, "ktime_get_tai_ns";
}

impl fmt::Display for HelperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(*self) {
            Some(name) => write!(f, "bpf_{name}"),
            None => write!(f, "helper#{}", self.0),
        }
    }
}

impl fmt::Debug for HelperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

//! What each helper takes and gives (`struct bpf_func_proto`), for the checks of every engine.

use squalus_isa::HelperId;

use crate::Env;
use crate::arg::{ArgKind, ArgLen, ArgMemory, Usage};
use crate::callback::engine_only;
use crate::helpers;

use ArgKind::{
    Anything, Callback, CallbackCtx, ConstAllocSize, ConstMapPtr, ConstStr, Ctx, RingRecord, Size,
    Timer, Vararg,
};

/// A helper's implementation: the environment and the five argument registers.
///
/// # Safety
/// The environment must be the running worker's; every argument must be what the helper's [`Proto`] says.
pub type HelperFn = unsafe extern "C" fn(*mut Env, u64, u64, u64, u64, u64) -> u64;

/// What a helper returns in `r0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetKind {
    /// A number.
    Scalar,
    /// A pointer to a value of the map in the first argument, or null. For maps of maps the pointer is
    /// the inner map itself.
    MapValueOrNull,
    /// Nothing if it succeeds, because the program is replaced; a number if not.
    TailCall,
    /// A record reserved in a ring buffer, as long as the argument [`ArgKind::ConstAllocSize`] says, or null.
    RingRecordOrNull,
}

/// A helper of the runtime.
#[derive(Debug)]
pub struct Proto {
    /// Its number.
    pub id: HelperId,
    /// What it takes, in `r1` and up.
    pub args: &'static [ArgKind],
    /// What it returns.
    pub ret: RetKind,
    /// Whether it may move the packet, which makes all packet pointers from before invalid.
    pub changes_packet: bool,
    /// Whether its result depends only on its arguments and it has no effect (`csum_diff`).
    pub pure: bool,
    /// Whether it may end the run by setting [`Env::trap`].
    pub may_trap: bool,
    /// The function. Tail calls and callbacks are the engine's business; theirs fails always.
    pub function: HelperFn,
}

impl Proto {
    /// Whether the helper reads memory at addresses that it is given as numbers, as text formats may say
    /// (`%s`). Reading is safe wherever they lead, but the program expects its stack there.
    #[must_use]
    pub const fn follows_pointers(&self) -> bool {
        matches!(
            self.id,
            HelperId::TRACE_PRINTK | HelperId::TRACE_VPRINTK | HelperId::SNPRINTF
        )
    }
}

/// The helper with this number, if the runtime has it.
#[must_use]
pub fn proto(id: HelperId) -> Option<&'static Proto> {
    PROTOS.iter().find(|proto| proto.id == id)
}

/// All helpers of the runtime.
#[must_use]
pub fn protos() -> &'static [Proto] {
    PROTOS
}

const KEY: ArgKind = memory(ArgLen::Key, Usage::Reads);
const VALUE: ArgKind = memory(ArgLen::Value, Usage::Reads);
const READ: ArgKind = memory(ArgLen::Next, Usage::Reads);
const READ_OR_NULL: ArgKind = ArgKind::Memory(ArgMemory {
    len: ArgLen::Next,
    usage: Usage::Reads,
    nullable: true,
});
const WRITE: ArgKind = memory(ArgLen::Next, Usage::Writes);
const SIZE: ArgKind = Size { zero: false };
const SIZE_OR_ZERO: ArgKind = Size { zero: true };

const fn memory(len: ArgLen, usage: Usage) -> ArgKind {
    ArgKind::Memory(ArgMemory {
        len,
        usage,
        nullable: false,
    })
}

const fn fixed_in(bytes: u32) -> ArgKind {
    memory(ArgLen::Bytes(bytes), Usage::Reads)
}

const fn scalar(id: HelperId, args: &'static [ArgKind], function: HelperFn) -> Proto {
    Proto {
        id,
        args,
        ret: RetKind::Scalar,
        changes_packet: false,
        pure: false,
        may_trap: false,
        function,
    }
}

const fn lookup(id: HelperId, args: &'static [ArgKind], function: HelperFn) -> Proto {
    Proto {
        ret: RetKind::MapValueOrNull,
        ..scalar(id, args, function)
    }
}

const fn lock(id: HelperId, function: HelperFn) -> Proto {
    Proto {
        may_trap: true,
        ..scalar(id, &[ArgKind::SpinLock], function)
    }
}

const fn adjust(id: HelperId, function: HelperFn) -> Proto {
    Proto {
        changes_packet: true,
        ..scalar(id, &[Ctx, Anything], function)
    }
}

static PROTOS: &[Proto] = &[
    lookup(
        HelperId::MAP_LOOKUP_ELEM,
        &[ConstMapPtr, KEY],
        helpers::map_lookup_elem,
    ),
    scalar(
        HelperId::MAP_UPDATE_ELEM,
        &[ConstMapPtr, KEY, VALUE, Anything],
        helpers::map_update_elem,
    ),
    scalar(
        HelperId::MAP_DELETE_ELEM,
        &[ConstMapPtr, KEY],
        helpers::map_delete_elem,
    ),
    lookup(
        HelperId::MAP_LOOKUP_PERCPU_ELEM,
        &[ConstMapPtr, KEY, Anything],
        helpers::map_lookup_percpu_elem,
    ),
    scalar(
        HelperId::MAP_PUSH_ELEM,
        &[ConstMapPtr, VALUE, Anything],
        helpers::map_push_elem,
    ),
    scalar(
        HelperId::MAP_POP_ELEM,
        &[ConstMapPtr, memory(ArgLen::Value, Usage::Writes)],
        helpers::map_pop_elem,
    ),
    scalar(
        HelperId::MAP_PEEK_ELEM,
        &[ConstMapPtr, memory(ArgLen::Value, Usage::Updates)],
        helpers::map_peek_elem,
    ),
    scalar(HelperId::KTIME_GET_NS, &[], helpers::ktime_get_ns),
    scalar(HelperId::KTIME_GET_BOOT_NS, &[], helpers::ktime_get_boot_ns),
    scalar(
        HelperId::KTIME_GET_COARSE_NS,
        &[],
        helpers::ktime_get_coarse_ns,
    ),
    scalar(HelperId::KTIME_GET_TAI_NS, &[], helpers::ktime_get_tai_ns),
    scalar(HelperId::JIFFIES64, &[], helpers::jiffies64),
    scalar(HelperId::GET_PRANDOM_U32, &[], helpers::get_prandom_u32),
    scalar(
        HelperId::GET_SMP_PROCESSOR_ID,
        &[],
        helpers::get_smp_processor_id,
    ),
    scalar(HelperId::GET_NUMA_NODE_ID, &[], helpers::get_numa_node_id),
    scalar(
        HelperId::GET_CURRENT_PID_TGID,
        &[],
        helpers::get_current_pid_tgid,
    ),
    Proto {
        ret: RetKind::TailCall,
        ..scalar(
            HelperId::TAIL_CALL,
            &[Ctx, ConstMapPtr, Anything],
            helpers::tail_call,
        )
    },
    Proto {
        pure: true,
        ..scalar(
            HelperId::CSUM_DIFF,
            &[
                READ_OR_NULL,
                SIZE_OR_ZERO,
                READ_OR_NULL,
                SIZE_OR_ZERO,
                Anything,
            ],
            helpers::csum_diff,
        )
    },
    adjust(HelperId::XDP_ADJUST_HEAD, helpers::xdp_adjust_head),
    adjust(HelperId::XDP_ADJUST_TAIL, helpers::xdp_adjust_tail),
    adjust(HelperId::XDP_ADJUST_META, helpers::xdp_adjust_meta),
    scalar(
        HelperId::XDP_GET_BUFF_LEN,
        &[Ctx],
        helpers::xdp_get_buff_len,
    ),
    scalar(
        HelperId::XDP_LOAD_BYTES,
        &[Ctx, Anything, WRITE, SIZE],
        helpers::xdp_load_bytes,
    ),
    scalar(
        HelperId::XDP_STORE_BYTES,
        &[Ctx, Anything, READ, SIZE],
        helpers::xdp_store_bytes,
    ),
    scalar(HelperId::REDIRECT, &[Anything, Anything], helpers::redirect),
    scalar(
        HelperId::LOOP,
        &[Anything, Callback, CallbackCtx, Anything],
        engine_only,
    ),
    scalar(
        HelperId::FOR_EACH_MAP_ELEM,
        &[ConstMapPtr, Callback, CallbackCtx, Anything],
        engine_only,
    ),
    lock(HelperId::SPIN_LOCK, helpers::spin_lock),
    lock(HelperId::SPIN_UNLOCK, helpers::spin_unlock),
    scalar(
        HelperId::TIMER_INIT,
        &[Timer, ConstMapPtr, Anything],
        helpers::timer_init,
    ),
    scalar(
        HelperId::TIMER_SET_CALLBACK,
        &[Timer, Callback],
        helpers::timer_set_callback,
    ),
    scalar(
        HelperId::TIMER_START,
        &[Timer, Anything, Anything],
        helpers::timer_start,
    ),
    scalar(HelperId::TIMER_CANCEL, &[Timer], helpers::timer_cancel),
    scalar(
        HelperId::REDIRECT_MAP,
        &[ConstMapPtr, Anything, Anything],
        helpers::redirect_map,
    ),
    scalar(
        HelperId::FIB_LOOKUP,
        &[Ctx, memory(ArgLen::Next, Usage::Updates), SIZE, Anything],
        helpers::fib_lookup,
    ),
    scalar(
        HelperId::CHECK_MTU,
        &[
            Ctx,
            Anything,
            memory(ArgLen::Bytes(4), Usage::Updates),
            Anything,
            Anything,
        ],
        helpers::check_mtu,
    ),
    scalar(
        HelperId::PERF_EVENT_OUTPUT,
        &[Ctx, ConstMapPtr, Anything, READ, SIZE_OR_ZERO],
        helpers::perf_event_output,
    ),
    scalar(
        HelperId::RINGBUF_OUTPUT,
        &[ConstMapPtr, READ, SIZE_OR_ZERO, Anything],
        helpers::ringbuf_output,
    ),
    Proto {
        ret: RetKind::RingRecordOrNull,
        ..scalar(
            HelperId::RINGBUF_RESERVE,
            &[ConstMapPtr, ConstAllocSize, Anything],
            helpers::ringbuf_reserve,
        )
    },
    scalar(
        HelperId::RINGBUF_SUBMIT,
        &[RingRecord, Anything],
        helpers::ringbuf_submit,
    ),
    scalar(
        HelperId::RINGBUF_DISCARD,
        &[RingRecord, Anything],
        helpers::ringbuf_discard,
    ),
    scalar(
        HelperId::RINGBUF_QUERY,
        &[ConstMapPtr, Anything],
        helpers::ringbuf_query,
    ),
    scalar(
        HelperId::TRACE_PRINTK,
        &[READ, SIZE, Vararg, Vararg, Vararg],
        helpers::trace_printk,
    ),
    scalar(
        HelperId::TRACE_VPRINTK,
        &[READ, SIZE, READ_OR_NULL, SIZE_OR_ZERO],
        helpers::trace_vprintk,
    ),
    scalar(
        HelperId::SNPRINTF,
        &[WRITE, SIZE_OR_ZERO, ConstStr, READ_OR_NULL, SIZE_OR_ZERO],
        helpers::snprintf,
    ),
    scalar(
        HelperId::STRTOL,
        &[
            READ,
            SIZE,
            Anything,
            memory(ArgLen::Bytes(8), Usage::Writes),
        ],
        helpers::strtol,
    ),
    scalar(
        HelperId::STRTOUL,
        &[
            READ,
            SIZE,
            Anything,
            memory(ArgLen::Bytes(8), Usage::Writes),
        ],
        helpers::strtoul,
    ),
    scalar(HelperId::STRNCMP, &[READ, SIZE, ConstStr], helpers::strncmp),
    scalar(
        HelperId::TCP_RAW_GEN_SYNCOOKIE_IPV4,
        &[fixed_in(20), READ, SIZE_OR_ZERO],
        helpers::tcp_raw_gen_syncookie_ipv4,
    ),
    scalar(
        HelperId::TCP_RAW_GEN_SYNCOOKIE_IPV6,
        &[fixed_in(40), READ, SIZE_OR_ZERO],
        helpers::tcp_raw_gen_syncookie_ipv6,
    ),
    scalar(
        HelperId::TCP_RAW_CHECK_SYNCOOKIE_IPV4,
        &[fixed_in(20), fixed_in(20)],
        helpers::tcp_raw_check_syncookie_ipv4,
    ),
    scalar(
        HelperId::TCP_RAW_CHECK_SYNCOOKIE_IPV6,
        &[fixed_in(40), fixed_in(20)],
        helpers::tcp_raw_check_syncookie_ipv6,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_memory_and_maps_come_first() {
        for proto in protos() {
            for (n, arg) in proto.args.iter().enumerate() {
                let ArgKind::Memory(memory) = arg else {
                    continue;
                };
                let fits = match memory.len {
                    ArgLen::Key | ArgLen::Value => proto.args[0] == ConstMapPtr,
                    ArgLen::Next => matches!(proto.args.get(n + 1), Some(Size { .. })),
                    ArgLen::Bytes(_) => true,
                };
                assert!(fits, "{}", proto.id);
            }
        }
    }

    #[test]
    fn numbers_are_unique_and_named() {
        for (n, proto) in protos().iter().enumerate() {
            assert!(squalus_isa::helper::name(proto.id).is_some());
            assert!(protos()[n + 1..].iter().all(|other| other.id != proto.id));
        }
        assert!(super::proto(HelperId::SK_LOOKUP_TCP).is_none());
    }
}

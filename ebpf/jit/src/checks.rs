//! Checks that compiled code calls for what the analysis could not prove.
//!
//! They allow exactly what the program may touch: the packet and its metadata, the stack frames of the
//! run, and single values of the program's maps and of the maps in its maps of maps. A failed check names
//! its reason and changes nothing.

use squalus_analysis::Area;
use squalus_isa::{MapFlags, MemSize, ValueFields};
use squalus_maps::Map;
use squalus_runtime::{
    ArgKind, ArgLen, ArgMemory, CtxField, Env, MAX_ARG_SIZE, Proto, STACK_SIZE, TrapReason,
    ctx_field, holds_const_str, protos, touches_fields,
};

use squalus_ssa::support::Request;

use crate::context::Context;
use crate::run::RunState;

/// Addresses below this are null pointers with an offset.
const NULL_PAGE: u64 = 4096;

impl Context {
    /// Asks the program's maps, and the maps in its maps of maps, until one answers. Runs of compiled code
    /// only may do so.
    fn ask<T>(&self, ask: impl Fn(&Map) -> Option<T>) -> Option<T> {
        self.maps.iter().find_map(|map| {
            // SAFETY: whoever runs compiled code is a worker of the maps' reclaimer (see `run_linked`).
            ask(map).or_else(|| unsafe { map.find_inner(&ask) })
        })
    }
}

/// Checks the access `request` at `address`: 0, or the number of a [`TrapReason`].
///
/// # Safety
/// Called by compiled code during a run, with the context of its program.
pub(crate) unsafe extern "C" fn check(
    env: *mut Env,
    address: u64,
    request: u64,
    context: *const Context,
) -> u64 {
    // SAFETY: compiled code passes the running environment and the address of its program's context.
    let (env, context) = unsafe { (&*env, &*context) };
    match find(env, context, address, Request(request)) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}

/// Loads what is at offset `off` of the context. If nothing can be loaded there the environment says why.
///
/// # Safety
/// Called by compiled code during a run.
pub(crate) unsafe extern "C" fn load_context(env: *mut Env, off: u64, signed: u64) -> u64 {
    // SAFETY: compiled code passes the running environment, and waits.
    let env = unsafe { &mut *env };
    // SAFETY: as above.
    let load = |field: CtxField, env: &Env| unsafe { field.load(env) };
    match ctx_field(off.cast_signed(), MemSize::W) {
        Some(field) if signed == 0 => load(field, env),
        Some(field) if !field.is_pointer() => {
            let value = i64::from(load(field, env) as i32);
            value.cast_unsigned()
        }
        _ => {
            env.trap = TrapReason::Context as u32;
            0
        }
    }
}

fn find(env: &Env, context: &Context, address: u64, request: Request) -> Result<(), TrapReason> {
    let len = request.len();
    if request.has(Request::STACK) && in_frame(env, address, len) {
        return aligned(address, request);
    }
    if request.has(Request::PACKET) && in_packet(env, address, len) {
        return if request.has(Request::ATOMIC) {
            Err(TrapReason::AtomicPlace)
        } else {
            Ok(())
        };
    }
    if request.has(Request::RECORD) && env.held.holds(address, len) {
        return aligned(address, request);
    }
    if request.has(Request::KEY) && in_key(env, address, len) {
        return if request.has(Request::WRITE) {
            Err(TrapReason::ReadOnly)
        } else {
            Ok(())
        };
    }
    if request.has(Request::MAP_VALUE)
        && let Some((flags, special)) = value_holding(context, address, len)
    {
        let (write, atomic) = (request.has(Request::WRITE), request.has(Request::ATOMIC));
        if write && flags.contains(MapFlags::RDONLY_PROG)
            || (!write || atomic) && flags.contains(MapFlags::WRONLY_PROG)
        {
            return Err(TrapReason::ReadOnly);
        }
        if special {
            return Err(TrapReason::Field);
        }
        return aligned(address, request);
    }
    Err(reason(address, request))
}

fn aligned(address: u64, request: Request) -> Result<(), TrapReason> {
    if request.has(Request::ATOMIC) && !address.is_multiple_of(request.len()) {
        return Err(TrapReason::Misaligned);
    }
    Ok(())
}

fn reason(address: u64, request: Request) -> TrapReason {
    match request.0 & Request::ANYWHERE {
        Request::PACKET => TrapReason::Packet,
        Request::MAP_VALUE | Request::KEY => TrapReason::MapValue,
        Request::RECORD => TrapReason::Record,
        Request::STACK => TrapReason::Stack,
        _ if address < NULL_PAGE => TrapReason::NullPointer,
        _ => TrapReason::NotPointer,
    }
}

fn within(address: u64, len: u64, first: u64, end: u64) -> bool {
    address >= first && address <= end && end - address >= len
}

fn run_state(env: &Env) -> &RunState {
    let state: *const RunState = std::ptr::with_exposed_provenance(env.scratch[0] as usize);
    // SAFETY: during a run the first scratch word is the address of the run's state, which nobody writes
    // while compiled code waits for this check.
    unsafe { &*state }
}

fn in_key(env: &Env, address: u64, len: u64) -> bool {
    let frames = run_state(env).depth as usize + 1;
    env.keys.holds(address, len, frames)
}

fn in_frame(env: &Env, address: u64, len: u64) -> bool {
    let state = run_state(env);
    let mut open = state.open_frames().filter(|&frame| frame != 0);
    open.any(|frame| within(address, len, frame, frame + STACK_SIZE as u64))
}

fn in_packet(env: &Env, address: u64, len: u64) -> bool {
    // SAFETY: compiled code asks, during a run, and waits for the answer.
    let frame = unsafe { env.frame() };
    let meta = frame.data_meta().addr() as u64;
    within(address, len, meta, frame.data_end().addr() as u64) && meta != 0
}

/// The flags of the map that has the range in one value, and whether the range touches a special field.
fn value_holding(context: &Context, address: u64, len: u64) -> Option<(MapFlags, bool)> {
    let holds = |map: &Map| {
        let inside = map.contains(address as usize, len as usize);
        inside.then(|| (map.def().flags, is_special(map, address, len)))
    };
    context.ask(holds)
}

/// Whether bytes inside one value of a map touch a field that only helpers may use.
fn is_special(map: &Map, address: u64, len: u64) -> bool {
    let def = map.def();
    if def.fields.is_empty() {
        return false;
    }
    // How far the value's start is from the address, found by halves: so much of it is inside, no more.
    let (mut off, mut beyond) = (0, u64::from(def.value_size));
    while beyond - off > 1 {
        let before = u64::midpoint(off, beyond);
        if map.contains((address - before) as usize, (before + len) as usize) {
            off = before;
        } else {
            beyond = before;
        }
    }
    let off = off.cast_signed();
    touches_fields(def.fields, off, off + len.cast_signed())
}

/// Checks the arguments of a helper that the bits of `mask` name: 0, or the number of a [`TrapReason`].
///
/// # Safety
/// As [`check`]; `args` are the five argument registers, and arguments outside the mask are proved.
pub(crate) unsafe extern "C" fn check_args(
    env: *mut Env,
    args: *const [u64; 5],
    mask: u64,
    proto: u64,
    context: *const Context,
) -> u64 {
    // SAFETY: compiled code passes the running environment, the address of its program's context and of a
    // stack slot with the five registers.
    let (checks, proto) = unsafe {
        let checks = Args {
            env: &*env,
            context: &*context,
            args: *args,
        };
        (checks, &protos()[proto as usize])
    };
    for (n, kind) in proto.args.iter().enumerate() {
        if mask & 1 << n == 0 {
            continue;
        }
        if let Err(reason) = checks.check(proto, n, *kind) {
            return reason as u64;
        }
    }
    0
}

struct Args<'a> {
    env: &'a Env,
    context: &'a Context,
    args: [u64; 5],
}

impl Args<'_> {
    fn check(&self, proto: &Proto, n: usize, kind: ArgKind) -> Result<(), TrapReason> {
        let value = self.args[n];
        let require = |ok: bool, reason| if ok { Ok(()) } else { Err(reason) };
        match kind {
            ArgKind::Anything
            | ArgKind::Vararg
            | ArgKind::CallbackCtx
            | ArgKind::ConstAllocSize => Ok(()),
            ArgKind::Ctx => {
                let ctx = std::ptr::from_ref(self.env).addr() as u64;
                require(value == ctx, TrapReason::Argument)
            }
            ArgKind::ConstMapPtr => self.map(value, |map| proto.may_use(map.def()))?,
            ArgKind::Memory(memory) => self.memory(memory, n),
            ArgKind::Size { zero } => require(
                value < MAX_ARG_SIZE && (zero || value > 0),
                TrapReason::Argument,
            ),
            ArgKind::SpinLock => require(
                self.is_field(value, ValueFields::SPIN_LOCK_SIZE, |f| f.spin_lock),
                TrapReason::Argument,
            ),
            ArgKind::Timer => require(
                self.is_field(value, ValueFields::TIMER_SIZE, |f| f.timer),
                TrapReason::Argument,
            ),
            ArgKind::RingRecord => {
                require(self.env.held.record(value).is_some(), TrapReason::Argument)
            }
            ArgKind::ConstStr => {
                let is = |map: &Map| holds_const_str(map, value).then_some(());
                require(self.context.ask(is).is_some(), TrapReason::Argument)
            }
            ArgKind::Callback => Err(TrapReason::Argument),
        }
    }

    /// Whether `address` is that of a special field of some map value.
    fn is_field(&self, address: u64, len: u32, field: impl Fn(ValueFields) -> Option<u32>) -> bool {
        let is = |map: &Map| {
            let off = field(map.def().fields)?;
            let value = address.checked_sub(off.into())?;
            // The whole value from its first byte on, and nothing before it: the field's own place.
            let whole = map.contains(value as usize, map.def().value_size as usize);
            (whole && map.contains(address as usize, len as usize)).then_some(())
        };
        self.context.ask(is).is_some()
    }

    /// Whether the program may give the helper the memory that argument `n` names.
    fn memory(&self, memory: ArgMemory, n: usize) -> Result<(), TrapReason> {
        let value = self.args[n];
        let len = match memory.len {
            ArgLen::Key => self.map(self.args[0], |map| map.def().key_size.into())?,
            ArgLen::Value => self.map(self.args[0], |map| map.def().value_size.into())?,
            ArgLen::Next => self.args.get(n + 1).copied().unwrap_or(u64::MAX),
            ArgLen::Bytes(len) => len.into(),
        };
        let null = memory.nullable && value == 0;
        if null && len != 0 || len >= MAX_ARG_SIZE {
            return Err(TrapReason::Argument);
        }
        if null {
            return Ok(());
        }
        let usage = memory.usage;
        let accesses = [(usage.reads(), false), (usage.writes(), true)];
        for (_, write) in accesses.into_iter().filter(|(happens, _)| *happens) {
            let request = Request::new(Area::Any, len as u32, write, false);
            find(self.env, self.context, value, request)?;
        }
        Ok(())
    }

    /// Asks the map at `address`, if one of the program's is there.
    fn map<T>(&self, address: u64, ask: impl Fn(&Map) -> T) -> Result<T, TrapReason> {
        let is = |map: &Map| std::ptr::from_ref(map).addr() as u64 == address;
        let found = self.context.ask(|map| is(map).then(|| ask(map)));
        found.ok_or(TrapReason::Argument)
    }
}

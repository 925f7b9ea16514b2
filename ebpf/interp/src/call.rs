//! Helper calls: arguments checked against the prototype, then the runtime's own function.

use squalus_isa::{HelperId, MapFlags, Reg};
use squalus_maps::Map;
use squalus_runtime::{ArgKind, Env, Proto, RetKind, TrapReason, helpers, proto};

use crate::machine::{Checked, Flow, Machine};
use crate::stack::StackPlace;
use crate::value::{Kind, Value};

/// The longest memory a helper may be given (`BPF_MAX_VAR_SIZ`).
const MAX_SIZE: u64 = 1 << 29;

/// What the checks of arguments found that the call needs.
#[derive(Default)]
struct Found<'m> {
    map: Option<&'m Map>,
    /// Stack memory that the helper overwrites.
    written: Option<(StackPlace, usize)>,
}

impl Machine<'_> {
    pub(crate) fn helper(&mut self, id: HelperId) -> Checked<Flow> {
        let proto = proto(id).ok_or(TrapReason::Unsupported)?;
        let found = self.check_args(proto)?;
        let args = self.args();
        if proto.ret == RetKind::TailCall {
            return Ok(self.tail_call(args));
        }
        let env: *mut Env = self.env;
        // SAFETY: the environment is this run's; every argument was checked against the prototype.
        let result = unsafe { (proto.function)(env, args[0], args[1], args[2], args[3], args[4]) };
        if let Some((place, len)) = found.written {
            self.stacks.mark(place, len, Kind::Scalar);
        }
        let value = returned(proto, found.map, result);
        if proto.changes_packet {
            self.epoch += 1;
        }
        self.after_call(value);
        Ok(Flow::Next)
    }

    fn args(&self) -> [u64; 5] {
        std::array::from_fn(|n| self.regs[n + 1].bits)
    }

    fn after_call(&mut self, r0: Value) {
        self.regs[..6].fill(Value::UNINIT);
        self.write(Reg::R0, r0);
    }

    fn tail_call(&mut self, [ctx, map, index, ..]: [u64; 5]) -> Flow {
        let env: *mut Env = self.env;
        // SAFETY: the environment is this run's; the prototype's check found a program array.
        if unsafe { helpers::resolve_tail_call(env, ctx, map, index, 0, 0) } == 0 {
            self.after_call(Value::UNINIT);
            return Flow::Next;
        }
        Flow::Program(self.env.next_program as usize)
    }

    fn check_args<'m>(&self, proto: &Proto) -> Checked<Found<'m>> {
        let mut found = Found::default();
        for (n, kind) in proto.args.iter().enumerate() {
            let value = self.regs[n + 1];
            if value.kind == Kind::Uninit {
                return Err(TrapReason::Uninitialised);
            }
            let size = self.regs.get(n + 2).copied().unwrap_or(Value::UNINIT);
            match *kind {
                ArgKind::Ctx if value == self.ctx() => {}
                ArgKind::ConstMapPtr => found.map = Some(check_map(proto, value)?),
                ArgKind::MapKey => {
                    self.check_map_memory(value, &found, |map| map.def().key_size)?
                }
                ArgKind::MapValue => {
                    self.check_map_memory(value, &found, |map| map.def().value_size)?;
                }
                ArgKind::MemRead { nullable: true } if value == Value::scalar(0) => {
                    if size != Value::scalar(0) {
                        return Err(TrapReason::Argument);
                    }
                }
                ArgKind::MemRead { .. } => {
                    self.check_memory(value, size, false)?;
                }
                ArgKind::MemWrite => found.written = self.check_memory(value, size, true)?,
                ArgKind::Size { zero } => {
                    if !value.is_scalar() || value.bits >= MAX_SIZE || (value.bits == 0 && !zero) {
                        return Err(TrapReason::Argument);
                    }
                }
                ArgKind::Anything => {}
                ArgKind::Ctx => return Err(TrapReason::Argument),
            }
        }
        Ok(found)
    }

    fn check_map_memory(
        &self,
        value: Value,
        found: &Found<'_>,
        len: impl Fn(&Map) -> u32,
    ) -> Checked<()> {
        let map = found.map.ok_or(TrapReason::Argument)?;
        self.place(value, 0, len(map) as usize, false).map(|_| ())
    }

    fn check_memory(
        &self,
        value: Value,
        size: Value,
        write: bool,
    ) -> Checked<Option<(StackPlace, usize)>> {
        if !size.is_scalar() || size.bits >= MAX_SIZE {
            return Err(TrapReason::Argument);
        }
        let len = size.bits as usize;
        let place = self.place(value, 0, len, write)?;
        Ok(place.stack.map(|stack| (stack, len)))
    }
}

fn check_map<'m>(proto: &Proto, value: Value) -> Checked<&'m Map> {
    if value.kind != Kind::Map {
        return Err(TrapReason::Argument);
    }
    // SAFETY: only immediates and lookups in maps of maps make such values. The program keeps its maps
    // alive; the reclaimer keeps inner maps alive until this worker's next quiescent point.
    let map = unsafe { &*std::ptr::with_exposed_provenance::<Map>(value.bits as usize) };
    let def = map.def();
    if !proto.serves(def.kind) {
        return Err(TrapReason::HelperMap);
    }
    let writes = matches!(
        proto.id,
        HelperId::MAP_UPDATE_ELEM | HelperId::MAP_DELETE_ELEM
    );
    let forbidden = if writes {
        MapFlags::RDONLY_PROG
    } else {
        MapFlags::WRONLY_PROG
    };
    if def.flags.contains(forbidden) {
        return Err(TrapReason::ReadOnly);
    }
    Ok(map)
}

/// What a helper's result is.
fn returned(proto: &Proto, map: Option<&Map>, bits: u64) -> Value {
    match (proto.ret, map) {
        (RetKind::MapValueOrNull, Some(map)) if bits != 0 => {
            let def = map.def();
            if def.kind.is_map_in_map() {
                return Value::new(bits, Kind::Map);
            }
            let kind = Kind::MapValue {
                base: bits,
                len: def.value_size,
                writable: !def.flags.contains(MapFlags::RDONLY_PROG),
            };
            Value::new(bits, kind)
        }
        _ => Value::scalar(bits),
    }
}

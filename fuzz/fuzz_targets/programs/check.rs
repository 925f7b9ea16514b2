//! What is asked of both engines.
//!
//! The first byte chooses: most inputs become a program of the generator, some are instructions as they
//! stand. Of the latter only safety is asked, since their results may depend on addresses.

use crate::bytes::Bytes;
use crate::engines::{Machine, Ran};
use crate::generate;
use squalus_isa::{Insn, MapType, UpdateFlags};
use squalus_jit::{Options, Pass, Passes};
use squalus_maps::Map;
use squalus_runtime::TrapReason;
use squalus_runtime::asm::Asm;

/// One input in so many is taken as raw instructions.
const RAW: u8 = 8;

/// Packets for each pair of programs: running costs little, compiling much.
const PACKETS: usize = 6;

/// Makes programs of the input, runs and compares them.
pub fn check(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    if first % RAW == RAW - 1 {
        raw(rest);
    } else {
        generated(&mut Bytes::new(rest), first & 0x80 != 0);
    }
}

fn raw(input: &[u8]) {
    let (slots, _) = input.as_chunks::<8>();
    let code: Vec<Insn> = slots.iter().map(|slot| Insn::from_bytes(*slot)).collect();
    let codes = [code.clone(), code];
    let Some((mut interp, mut jit)) = both(&codes, Options::default(), false) else {
        return;
    };
    let packet: Vec<u8> = (0..64).collect();
    interp.interpret(&packet);
    jit.run_compiled(&packet);
}

fn generated(bytes: &mut Bytes<'_>, check_facts: bool) {
    let options = Options {
        check_facts,
        passes: passes(bytes),
        ..Options::default()
    };
    let counted = bytes.one_in(3);
    let packets: [Vec<u8>; PACKETS] = std::array::from_fn(|_| packet(bytes));
    let codes = [generate::program(bytes), tail(bytes)];
    let Some((mut interp, mut jit)) = both(&codes, options, counted) else {
        return;
    };
    for (number, packet) in packets.iter().enumerate() {
        if counted && number == PACKETS / 2 {
            jit.compile_hot(options);
        }
        let expected = interp.interpret(packet);
        let found = jit.run_compiled(packet);
        if !compare(&interp, &jit, &expected, &found) {
            // What the two do from here on may rightly differ.
            return;
        }
    }
}

/// All passes, or any of them.
fn passes(bytes: &mut Bytes<'_>) -> Passes {
    if !bytes.one_in(2) {
        return Passes::ALL;
    }
    let wanted = Pass::ALL.into_iter().filter(|_| bytes.one_in(2));
    wanted.fold(Passes::NONE, Passes::with)
}

/// What tail calls reach: mostly something short, since compiling takes most of the time.
fn tail(bytes: &mut Bytes<'_>) -> Vec<Insn> {
    if bytes.one_in(8) {
        return generate::program(bytes);
    }
    Asm::new().mov(0, 5).exit().finish()
}

fn packet(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let len = generate::PACKET as usize + bytes.below(40);
    let seed = bytes.byte();
    (0..len).map(|n| (n as u8).wrapping_mul(seed | 1)).collect()
}

/// The programs in both engines, if they are valid.
fn both(codes: &[Vec<Insn>], options: Options, counted: bool) -> Option<(Machine, Machine)> {
    let interp = Machine::new(codes)?;
    let mut jit = Machine::new(codes)?;
    jit.compile(options, counted)?;
    Some((interp, jit))
}

/// Requires that both runs were the same; whether they went on far enough to compare what follows.
fn compare(interp: &Machine, jit: &Machine, expected: &Ran, found: &Ran) -> bool {
    let same = match (&expected.result, &found.result) {
        (Ok(a), Ok(b)) => {
            let rest = |ran: &Ran| (ran.packet.clone(), ran.metadata.clone(), ran.traces);
            a == b
                && rest(expected) == rest(found)
                && expected.redirect == found.redirect
                && contents(interp) == contents(jit)
        }
        (Err(trap), Ok(_)) => by_provenance(trap.reason),
        (Err(a), Err(b)) => {
            by_provenance(a.reason) || a.slot == b.slot && expected.packet == found.packet
        }
        (Ok(_), Err(_)) => false,
    };
    if !same {
        let listing = interp.listing();
        panic!("{listing}\ninterpreted {expected:#x?}\ncompiled {found:#x?}");
    }
    expected.result.is_ok()
}

/// What only the interpreter can tell: it knows where a pointer came from, compiled code only whether its
/// address is one that the program may use.
fn by_provenance(reason: TrapReason) -> bool {
    use TrapReason as T;
    matches!(
        reason,
        T::Uninitialised
            | T::NotPointer
            | T::StalePacket
            | T::Argument
            | T::Return
            | T::MapValue
            | T::Stack
            | T::Context
            | T::Budget
    )
}

type Contents = Vec<(usize, Vec<u8>, Option<Vec<u8>>)>;

/// What all maps hold.
fn contents(machine: &Machine) -> Contents {
    let mut contents = Vec::new();
    for (number, map) in machine.maps.iter().enumerate() {
        contents.extend(taken(map).into_iter().map(|value| (number, value, None)));
        let mut maps = vec![];
        if map.def().kind.is_map_in_map() {
            let inner = (0u32..2).filter_map(|key| map.get_inner(&key.to_ne_bytes()).ok()?);
            maps.extend(inner);
        } else if map.def().kind != MapType::ProgArray {
            maps.push(std::sync::Arc::clone(map));
        }
        for map in maps {
            let mut key = map.sys_next_key(None).ok().flatten();
            while let Some(current) = key {
                key = map.sys_next_key(Some(&current)).ok().flatten();
                let value = map.sys_lookup(&current).ok().flatten();
                contents.push((number, current, value));
            }
        }
    }
    contents
}

/// What is in a map that has no keys, which is empty afterwards.
fn taken(map: &Map) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    if let Some(ring) = map.ring() {
        ring.consume(|record| taken.push(record.to_vec()));
    }
    if matches!(map.def().kind, MapType::Queue | MapType::Stack) {
        while let Ok(Some(value)) = map.sys_lookup_and_delete(&[], UpdateFlags::ANY) {
            taken.push(value);
        }
    }
    taken
}

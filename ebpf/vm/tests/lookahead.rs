//! Bursts whose lookups are announced do what they do without: the same verdicts, packets, maps, random numbers.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use squalus_engine::{MapAccess, MapRef};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, Verdict, opcode as o};
use squalus_object::Object;
use squalus_runtime::FrameRef;
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{EngineKind, Pass, Passes, Vm, VmBuilder};

const BURST: usize = 32;
/// More than are tried out with and without.
const BURSTS: usize = 40;

fn map(name: &str, kind: MapType, key_size: u32, max_entries: u32) -> MapDef {
    MapDef::new(name, kind, (key_size, 8), max_entries)
}

/// Counts the frame, draws a number if its byte 20 is odd, and remembers the number under the eight bytes from 14
/// on: `XDP_TX` if there was one before, else `XDP_PASS`. Each packet becomes the number that is remembered.
fn remembering() -> Vec<Insn> {
    let mut c = Asm::new();
    let (out, even, known) = (c.label(), c.label(), c.label());
    c.mov(6, R(1))
        .load(MemSize::W, 7, 6, 0)
        .load(MemSize::W, 8, 6, 4)
        .mov(1, R(7))
        .add(1, 22)
        .jump_if(o::JGT, 1, R(8), out);
    c.store(MemSize::W, 10, -4, 0)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, out)
        .mov(1, 1)
        .atomic(MemSize::Dw, o::ADD.into(), 0, 0, 1);
    c.mov(9, 7)
        .load(MemSize::B, 1, 7, 20)
        .alu(o::AND, 1, 1)
        .jump_eq(1, 0, even)
        .call(HelperId::GET_PRANDOM_U32)
        .mov(9, R(0))
        .bind(even);
    c.load(MemSize::Dw, 1, 7, 14)
        .store(MemSize::Dw, 10, -16, R(1))
        .store(MemSize::Dw, 10, -24, R(9));
    c.map(1, 1)
        .mov(2, R(10))
        .add(2, -16)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, known);
    c.map(1, 1)
        .mov(2, R(10))
        .add(2, -16)
        .mov(3, R(10))
        .add(3, -24)
        .mov(4, 0)
        .call(HelperId::MAP_UPDATE_ELEM)
        .bind(out)
        .mov(0, 2)
        .exit();
    c.bind(known)
        .load(MemSize::Dw, 1, 0, 0)
        .store(MemSize::Dw, 7, 0, R(1))
        .store(MemSize::Dw, 0, 0, R(9))
        .mov(0, 3)
        .exit();
    c.finish()
}

/// Everything that can be seen of a few bursts.
#[derive(PartialEq)]
struct Seen {
    verdicts: Vec<Verdict>,
    packets: Vec<u8>,
    /// Keys and values of all maps.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

fn seen(vm: &Vm, maps: &[&str]) -> Seen {
    let mut worker = vm
        .worker(&squalus_engine::Engine::programs(vm)[0], 0)
        .unwrap();
    let (mut all, mut bytes) = (Vec::new(), Vec::new());
    for burst in 0..BURSTS {
        let mut buffers = [[0; 512]; BURST];
        let mut verdicts = [Verdict::Aborted; BURST];
        for (n, buffer) in buffers.iter_mut().enumerate() {
            let random = (burst * BURST + n).wrapping_mul(0x9e37_79b9) >> 7;
            buffer[256..384].fill(random as u8 & 3);
            let ether_type: u16 = if random.is_multiple_of(3) {
                0x86dd
            } else {
                0x0800
            };
            buffer[268..270].copy_from_slice(&ether_type.to_be_bytes());
            (buffer[270], buffer[279]) = (if random.is_multiple_of(3) { 0x60 } else { 0x45 }, 6);
            buffer[276] = random as u8;
        }
        let frames = buffers
            .iter_mut()
            .map(|b| FrameRef::new(b, 256, 100).unwrap());
        let mut frames: Vec<FrameRef<'_>> = frames.collect();
        worker.run_burst(&mut frames, &mut verdicts);
        all.extend(verdicts);
        frames.iter().for_each(|frame| bytes.extend(frame.packet()));
    }
    worker.pause();
    let mut contents = Vec::new();
    for map in maps {
        let map = MapRef::Name(map);
        let mut key = vm.next_key(map, None).unwrap();
        while let Some(at) = key {
            contents.push((at.clone(), vm.lookup(map, &at).unwrap().unwrap()));
            key = vm.next_key(map, Some(&at)).unwrap();
        }
    }
    contents.sort();
    Seen {
        verdicts: all,
        packets: bytes,
        entries: contents,
    }
}

#[test]
fn a_program_that_remembers_does_the_same() {
    let vm = |kind, passes| {
        let maps = vec![
            map("count", MapType::Array, 4, 1),
            map("sessions", MapType::LruHash, 8, 1000),
        ];
        let programs = vec![("remember".to_owned(), remembering())];
        let builder = VmBuilder::assembled(maps, programs).engine(kind).seed(3);
        builder.passes(passes).build().unwrap()
    };
    let maps = ["count", "sessions"];
    let expected = seen(&vm(EngineKind::Interp, Passes::ALL), &maps);
    for verdict in [Verdict::Tx, Verdict::Pass] {
        assert!(expected.verdicts.contains(&verdict), "{verdict}");
    }
    for passes in [
        Passes::ALL,
        Passes::NONE.with(Pass::Prefetch),
        Passes::ALL.without(Pass::Lookup),
        Passes::ALL.without(Pass::Prefetch),
    ] {
        assert!(
            seen(&vm(EngineKind::Jit, passes), &maps) == expected,
            "{passes}"
        );
    }
}

#[test]
fn the_balancer_does_the_same() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bpf/objects/balancer.bpf.o"
    );
    let bytes = std::fs::read(path).unwrap();
    let vm = |kind| {
        let object = Object::parse(&bytes).unwrap();
        VmBuilder::new(object).engine(kind).seed(3).build().unwrap()
    };
    let maps = ["fallback_cache"];
    let expected = seen(&vm(EngineKind::Interp), &maps);
    assert!(seen(&vm(EngineKind::Jit), &maps) == expected);
}

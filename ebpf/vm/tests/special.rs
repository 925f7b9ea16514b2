//! Code that has the contents of maps in it, while the control side changes them: nobody can tell, but for speed.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng};
use squalus_engine::{Engine, MapAccess, MapRef, TestRun};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, Verdict, opcode as o};
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{EngineKind, Maps, PinnedMaps, Tiering, Vm, VmBuilder};

const VIPS: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;
const OUTER: u32 = 3;
const COUNTS: u32 = 4;
/// What the program writes for a VIP that is absent, and for an inner map that is.
const NONE: i32 = 0x77;

fn def(name: &str, kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    MapDef::new(name, kind, (key_size, value_size), max_entries)
}

fn inner() -> MapDef {
    def("inner", MapType::Array, 4, 8, 1)
}

fn maps() -> Vec<MapDef> {
    let outer = MapDef {
        inner: Some(Box::new(inner())),
        ..def("outer", MapType::ArrayOfMaps, 4, 4, 2)
    };
    vec![
        def("vips", MapType::Hash, 8, 16, 1024),
        def("first", MapType::Array, 4, 8, 4),
        def("second", MapType::Array, 4, 8, 4),
        outer,
        def("counts", MapType::PerCpuArray, 4, 8, 1),
    ]
}

/// Looks up what is at `key` on the stack; r0 is not null where this goes on, else it goes on after storing
/// [`NONE`] at `out` in the packet, at what is returned.
fn lookup(asm: &mut Asm, map: u32, key: i32, out: i16, found: impl FnOnce(&mut Asm)) {
    let (present, on) = (asm.label(), asm.label());
    asm.map(1, map)
        .mov(2, R(10))
        .add(2, key)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, present)
        .store(MemSize::Dw, 6, out, NONE)
        .jump(on)
        .bind(present);
    found(asm);
    asm.bind(on);
}

fn copy(asm: &mut Asm, from: i16, out: i16) {
    asm.load(MemSize::Dw, 3, 0, from)
        .store(MemSize::Dw, 6, out, R(3));
}

/// Writes what it finds to the packet: at 16 element 1 of the second map, read first; at 24 that of the first map; at
/// 32 and 40 the value of the VIP that the first 8 bytes name; at 48 what inner map 1 has. Counts the packet.
fn program() -> Vec<Insn> {
    let mut asm = Asm::new();
    let long = asm.label();
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 7, 1, 4)
        .mov(2, R(6))
        .add(2, 64)
        .jump_if(o::JLE, 2, R(7), long)
        .mov(0, Verdict::Drop as i32)
        .exit()
        .bind(long)
        .load(MemSize::Dw, 3, 6, 0)
        .store(MemSize::Dw, 10, -8, R(3))
        .store(MemSize::W, 10, -12, 1)
        .store(MemSize::W, 10, -16, 0);
    lookup(&mut asm, SECOND, -12, 16, |asm| copy(asm, 0, 16));
    lookup(&mut asm, FIRST, -12, 24, |asm| copy(asm, 0, 24));
    lookup(&mut asm, VIPS, -8, 32, |asm| {
        copy(asm, 0, 32);
        copy(asm, 8, 40);
    });
    lookup(&mut asm, OUTER, -12, 48, |asm| {
        let (present, on) = (asm.label(), asm.label());
        asm.mov(1, R(0))
            .mov(2, R(10))
            .add(2, -16)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_if(o::JNE, 0, 0, present)
            .jump(on)
            .bind(present);
        copy(asm, 0, 48);
        asm.bind(on);
    });
    lookup(&mut asm, COUNTS, -16, 56, |asm| {
        asm.load(MemSize::Dw, 3, 0, 0)
            .add(3, 1)
            .store(MemSize::Dw, 0, 0, R(3));
    });
    asm.mov(0, Verdict::Tx as i32).exit();
    asm.finish()
}

fn builder() -> VmBuilder {
    VmBuilder::assembled(maps(), vec![("main".to_owned(), program())])
        .cpus(2)
        .seed(1)
}

fn machine() -> Vm {
    builder().specialise(true).build().unwrap()
}

fn set(maps: &impl MapAccess, map: &str, number: u64) {
    set_at(maps, map, &1u32.to_ne_bytes(), &number.to_ne_bytes());
}

fn set_at(maps: &impl MapAccess, map: &str, key: &[u8], value: &[u8]) {
    maps.update(MapRef::Name(map), key, value, UpdateFlags::ANY)
        .unwrap();
}

fn set_vip(maps: &impl MapAccess, vip: u64, number: u64) {
    let value = [number.to_ne_bytes(), (number + 1).to_ne_bytes()].concat();
    set_at(maps, "vips", &vip.to_ne_bytes(), &value);
}

fn frame(vip: u64) -> Vec<u8> {
    let mut frame = vip.to_ne_bytes().to_vec();
    frame.resize(64, 0xee);
    frame
}

fn word(frame: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(frame[at..at + 8].try_into().unwrap())
}

/// What a test run leaves in the packet.
fn run(vm: &mut Vm, vip: u64) -> Vec<u8> {
    let frame = frame(vip);
    let run = TestRun {
        frame: &frame,
        repeat: 1,
        cpu: 0,
    };
    let result = vm.test_run("main", &run).unwrap();
    assert_eq!(result.return_value, Verdict::Tx as u32);
    result.frame
}

fn is_special(vm: &Vm) -> bool {
    vm.code().unwrap().special
}

#[test]
fn what_is_written_is_seen_at_once_and_code_is_made_anew() {
    let mut vm = machine();
    for round in 1..=20 {
        let before = vm.settle().unwrap();
        assert!(before.special, "{before:?}");
        set(&vm, "first", round);
        assert_eq!(vm.code().unwrap().withdrawn, before.withdrawn + 1);
        set_vip(&vm, 5, round * 10);
        assert_eq!(word(&run(&mut vm, 5), 24), round);
        let after = vm.settle().unwrap();
        assert!(
            after.special && after.specialised > before.specialised,
            "{after:?}"
        );
        let out = run(&mut vm, 5);
        assert_eq!([word(&out, 24), word(&out, 32)], [round, round * 10]);
        assert_eq!(word(&out, 40), round * 10 + 1);
        assert_eq!(word(&run(&mut vm, 6), 32), NONE as u64);
    }
    vm.delete(MapRef::Name("vips"), &5u64.to_ne_bytes())
        .unwrap();
    assert_eq!(word(&run(&mut vm, 5), 32), NONE as u64);
    vm.settle();
    assert_eq!(word(&run(&mut vm, 5), 32), NONE as u64);
}

#[test]
fn nobody_needs_to_ask_for_it() {
    let vm = machine();
    for n in 1..3 {
        set(&vm, "first", n);
        let start = Instant::now();
        while !is_special(&vm) {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn inner_maps_may_be_replaced() {
    let mut vm = machine();
    vm.settle();
    assert_eq!(word(&run(&mut vm, 0), 48), NONE as u64);
    for n in 1..10_u64 {
        let key = 1u32.to_ne_bytes();
        vm.create_inner("outer", &key, &inner()).unwrap();
        let map = MapRef::Inner {
            outer: "outer",
            key: &key,
        };
        vm.update(map, &[0; 4], &n.to_ne_bytes(), UpdateFlags::ANY)
            .unwrap();
        assert_eq!(word(&run(&mut vm, 0), 48), n);
        assert!(vm.settle().unwrap().special);
        assert_eq!(word(&run(&mut vm, 0), 48), n);
        // What is in an inner map is in no code.
        vm.update(map, &[0; 4], &(n + 100).to_ne_bytes(), UpdateFlags::ANY)
            .unwrap();
        assert!(is_special(&vm));
        assert_eq!(word(&run(&mut vm, 0), 48), n + 100);
    }
}

#[test]
fn many_writes_at_once_take_the_code_out_of_use_once() {
    let vm = machine();
    vm.settle();
    let keys: Vec<u8> = (0..500_u64).flat_map(u64::to_ne_bytes).collect();
    let values = vec![1; 500 * 16];
    vm.update_batch(MapRef::Name("vips"), &keys, &values)
        .unwrap();
    assert_eq!(vm.code().unwrap().withdrawn, 1);
}

#[test]
fn maps_that_programs_write_and_those_of_other_machines_are_in_no_code() {
    let vm = machine();
    vm.settle();
    let count = [1_u64, 2].map(u64::to_ne_bytes).concat();
    set_at(&vm, "counts", &[0; 4], &count);
    assert!(is_special(&vm));
    let pinned = builder().pins(&PinnedMaps::new(2)).specialise(true);
    assert!(pinned.build().unwrap().code().is_none());
    let interpreted = builder().engine(EngineKind::Interp).specialise(true);
    assert!(interpreted.build().unwrap().code().is_none());
    assert!(builder().build().unwrap().code().is_none());
}

#[test]
fn a_worker_between_bursts_holds_nobody_up() {
    let vm = machine();
    vm.settle();
    let mut worker = vm.worker("main", 0).unwrap();
    for n in 1..5 {
        assert_eq!(
            burst(&mut worker, &[0; 3]).map(|out| word(&out, 24)),
            [n - 1; 3]
        );
        // The same thread: it would wait for itself.
        set(&vm, "first", n);
        assert_eq!(
            burst(&mut worker, &[0; 3]).map(|out| word(&out, 24)),
            [n; 3]
        );
        vm.settle();
        assert_eq!(
            burst(&mut worker, &[0; 3]).map(|out| word(&out, 24)),
            [n; 3]
        );
    }
}

/// What a burst of frames for these VIPs leaves in them.
fn burst<const N: usize>(worker: &mut squalus_vm::Worker, vips: &[u64; N]) -> [Vec<u8>; N] {
    let mut buffers = vips.map(|vip| {
        let mut buffer = [0_u8; 512];
        buffer[PACKET_HEADROOM..PACKET_HEADROOM + 64].copy_from_slice(&frame(vip));
        buffer
    });
    let mut verdicts = [Verdict::Aborted; N];
    let mut frames = buffers
        .each_mut()
        .map(|buffer| FrameRef::new(buffer, PACKET_HEADROOM, 64).unwrap());
    assert_eq!(worker.run_burst(&mut frames, &mut verdicts), N);
    assert_eq!(verdicts, [Verdict::Tx; N]);
    frames.map(|frame| frame.packet().to_vec())
}

/// What the control side has done: every change is announced before it begins and when it is done.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    done: AtomicU64,
    bursts: AtomicU64,
    over: AtomicBool,
}

/// The VIP that comes and goes, and the one that is always there.
const COMING: u64 = 7;
const THERE: u64 = 9;

/// Runs bursts until all is over. What packets see is what the maps were at some moment during the burst, and never
/// the second of two changes without the first.
fn traffic(worker: &mut squalus_vm::Worker, progress: &Progress) -> u64 {
    let mut packets = 0;
    while !progress.over.load(SeqCst) {
        let done = progress.done.load(SeqCst);
        let mut before = done;
        let out = burst(worker, &[COMING, THERE, COMING, 1, THERE, COMING, 2, THERE]);
        let begun = progress.begun.load(SeqCst);
        for frame in &out {
            let (second, first) = (word(frame, 16), word(frame, 24));
            assert!(
                (done..=begun).contains(&first),
                "{first} is not in {done}..={begun}"
            );
            assert!(first >= second, "{second} without {first}");
            assert!(first >= before, "{first} after {before}");
            before = first;
            let (vip, value) = (word(frame, 0), [word(frame, 32), word(frame, 40)]);
            match vip {
                THERE => assert!((done..=begun).contains(&value[0]) && value[0] >= second),
                COMING if value[0] != NONE as u64 => {
                    // Between the two loads it may go and come again, on any machine.
                    assert!(value[0].is_multiple_of(2) && value[0] <= begun);
                    assert!(value[1] % 2 == 1 && value[1] <= begun + 1);
                }
                COMING => {}
                _ => assert_eq!(value[0], NONE as u64),
            }
        }
        packets += out.len() as u64;
        progress.bursts.fetch_add(1, SeqCst);
    }
    packets
}

/// A change of two maps, one after the other, and of two VIPs.
fn change(maps: &Maps, progress: &Progress, n: u64) {
    progress.begun.store(n, SeqCst);
    if n.is_multiple_of(2) {
        set_vip(maps, COMING, n);
    } else if n > 1 {
        maps.delete(MapRef::Name("vips"), &COMING.to_ne_bytes())
            .unwrap();
    }
    set_vip(maps, THERE, n);
    set(maps, "first", n);
    set(maps, "second", n);
    progress.done.store(n, SeqCst);
}

/// Waits for code with contents in it, if need be a minute. It is not made while runs are counted.
fn until_special(vm: &Vm) -> bool {
    let start = Instant::now();
    loop {
        let special = vm.settle().unwrap().special;
        if special || start.elapsed() > Duration::from_secs(60) {
            return special;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `rounds` changes while traffic runs.
fn change_while_traffic_runs(builder: VmBuilder, rounds: u64) -> squalus_vm::CodeState {
    let vm = builder.build().unwrap();
    set_vip(&vm, THERE, 0);
    let progress = Arc::new(Progress::default());
    let threads = [0, 1].map(|cpu| {
        let (mut worker, progress) = (vm.worker("main", cpu).unwrap(), Arc::clone(&progress));
        std::thread::spawn(move || traffic(&mut worker, &progress))
    });
    let maps = vm.handle();
    let mut used = 0;
    for n in 1..=rounds {
        change(&maps, &progress, n);
        if n.is_multiple_of(3) {
            continue;
        }
        if n.is_multiple_of(50) {
            vm.recount();
        }
        // Then bursts run the new code, once enough of them were counted.
        if until_special(&vm) {
            used += 1;
            let seen = progress.bursts.load(SeqCst);
            while progress.bursts.load(SeqCst) < seen + 4 {
                std::thread::yield_now();
            }
        }
    }
    progress.over.store(true, SeqCst);
    let packets: u64 = threads.map(|thread| thread.join().unwrap()).iter().sum();
    let counts = vm.lookup(MapRef::Name("counts"), &[0; 4]).unwrap().unwrap();
    assert_eq!(packets, word(&counts, 0) + word(&counts, 8));
    let state = vm.code().unwrap();
    assert!(
        used == rounds - rounds / 3 && state.withdrawn >= used - 1,
        "{state:?}, {used}"
    );
    state
}

#[test]
fn packets_see_changes_in_their_order_and_none_is_lost() {
    let state = change_while_traffic_runs(builder().specialise(true), 300);
    assert!(state.withdrawn >= 150, "{state:?}");
}

#[test]
fn and_also_while_code_is_made_for_the_traffic() {
    let both = builder().specialise(true).tiering(Tiering::Untimed);
    let state = change_while_traffic_runs(both, 300);
    assert!(state.compiled >= 1, "{state:?}");
}

/// One random thing that the control side does.
#[derive(Clone, Debug)]
enum Write {
    Vip(u64, u64),
    NoVip(u64),
    Vips(Vec<(u64, u64)>),
    First(u32, u64),
    Second(u32, u64),
    Inner(u64),
    NoInner,
    Settle,
}

fn write() -> impl Strategy<Value = Write> {
    let (vip, number) = (|| 0..6_u64, || 0..3_u64);
    prop_oneof![
        4 => (vip(), number()).prop_map(|(vip, n)| Write::Vip(vip, n)),
        4 => vip().prop_map(Write::NoVip),
        1 => prop::collection::vec((0..20_u64, number()), 1..12).prop_map(Write::Vips),
        2 => (0..4_u32, any::<u64>()).prop_map(|(at, n)| Write::First(at, n)),
        2 => (0..4_u32, number()).prop_map(|(at, n)| Write::Second(at, n)),
        1 => any::<u64>().prop_map(Write::Inner),
        1 => Just(Write::NoInner),
        3 => Just(Write::Settle),
    ]
}

fn apply(vm: &Vm, write: &Write) {
    let inner_key = 1u32.to_ne_bytes();
    match write {
        Write::Vip(vip, n) => set_vip(vm, *vip, *n),
        Write::NoVip(vip) => drop(vm.delete(MapRef::Name("vips"), &vip.to_ne_bytes())),
        Write::Vips(vips) => {
            let keys: Vec<u8> = vips.iter().flat_map(|(vip, _)| vip.to_ne_bytes()).collect();
            let values = vips.iter().flat_map(|(_, n)| [n.to_ne_bytes(); 2].concat());
            let values: Vec<u8> = values.collect();
            vm.update_batch(MapRef::Name("vips"), &keys, &values)
                .unwrap();
        }
        Write::First(at, n) => set_at(vm, "first", &at.to_ne_bytes(), &n.to_ne_bytes()),
        Write::Second(at, n) => set_at(vm, "second", &at.to_ne_bytes(), &n.to_ne_bytes()),
        Write::Inner(n) => {
            vm.create_inner("outer", &inner_key, &inner()).unwrap();
            let map = MapRef::Inner {
                outer: "outer",
                key: &inner_key,
            };
            vm.update(map, &[0; 4], &n.to_ne_bytes(), UpdateFlags::ANY)
                .unwrap();
        }
        Write::NoInner => drop(vm.delete(MapRef::Name("outer"), &inner_key)),
        Write::Settle => drop(vm.settle()),
    }
}

#[test]
fn thousands_of_writes_later_it_is_like_any_machine() {
    let (mut special, mut general) = (machine(), builder().build().unwrap());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(Default::default(), rng);
    for n in 0..3000 {
        let write = write().new_tree(&mut runner).unwrap().current();
        apply(&special, &write);
        apply(&general, &write);
        for vip in [n % 6, n % 20] {
            assert_eq!(
                run(&mut special, vip),
                run(&mut general, vip),
                "{n}: {write:?}"
            );
        }
    }
    let state = special.code().unwrap();
    assert!(
        state.specialised > 100 && state.withdrawn > 100,
        "{state:?}"
    );
}

//! Programs that are compiled again while they run: nobody can tell.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, Verdict, opcode as o};
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{Clock, FrameMemory};
use squalus_vm::{EngineKind, Tiering, Vm, VmBuilder};

const COUNTS: u32 = 0;
const PROGRAMS: u32 = 1;
const FLOWS: u32 = 2;
const TIMED: u32 = 3;
/// Enough runs for the code to be made for them.
const ENOUGH: u32 = 5000;

fn maps() -> Vec<MapDef> {
    let def = |name: &str, kind, value_size, max_entries| {
        MapDef::new(name, kind, (4, value_size), max_entries)
    };
    let mut timed = def("timed", MapType::Array, 32, 1);
    timed.fields.timer = Some(8);
    vec![
        def("counts", MapType::PerCpuArray, 8, 4),
        def("programs", MapType::ProgArray, 4, 4),
        def("flows", MapType::LruHash, 8, 64),
        timed,
    ]
}

/// Adds 1 to this CPU's count `index`. Spoils r0 to r5.
fn bump(code: &mut Asm, index: i32) {
    let null = code.label();
    code.store(MemSize::W, 10, -4, index)
        .map(1, COUNTS)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, null)
        .load(MemSize::Dw, 1, 0, 0)
        .add(1, 1)
        .store(MemSize::Dw, 0, 0, R(1))
        .bind(null);
}

fn tail_call(code: &mut Asm, context: u8, index: i32) {
    code.mov(1, R(context))
        .map(2, PROGRAMS)
        .mov(3, index)
        .call(HelperId::TAIL_CALL);
}

/// By the packet's first byte: 0 is counted and passes; 1 goes on in another program; 2 has a subprogram be replaced
/// by another program, and drops; 3 counts the flow that the second byte names, and leaves by interface 7.
fn main_program() -> Vec<Insn> {
    let mut c = Asm::new();
    let (out, other, nested, flow, fresh, sub) = (
        c.label(),
        c.label(),
        c.label(),
        c.label(),
        c.label(),
        c.label(),
    );
    c.mov(6, R(1))
        .load(MemSize::W, 2, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(4, R(2))
        .add(4, 14)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::B, 7, 2, 0)
        .load(MemSize::B, 8, 2, 1)
        .store(MemSize::B, 2, 2, R(7))
        .jump_eq(7, 1, other)
        .jump_eq(7, 2, nested)
        .jump_eq(7, 3, flow);
    bump(&mut c, 0);
    c.bind(out).mov(0, 2).exit();
    c.bind(other);
    tail_call(&mut c, 6, 1);
    c.mov(0, 0).exit();
    c.bind(nested)
        .mov(1, R(6))
        .call_local(sub)
        .alu(o::AND, 0, 0)
        .add(0, 1)
        .exit();
    c.bind(flow)
        .store(MemSize::W, 10, -8, R(8))
        .map(1, FLOWS)
        .mov(2, R(10))
        .add(2, -8)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, fresh)
        .load(MemSize::Dw, 1, 0, 0)
        .add(1, 1)
        .store(MemSize::Dw, 0, 0, R(1))
        .mov(1, 7)
        .mov(2, 0)
        .call(HelperId::REDIRECT)
        .exit();
    c.bind(fresh)
        .store(MemSize::Dw, 10, -16, 1)
        .map(1, FLOWS)
        .mov(2, R(10))
        .add(2, -8)
        .mov(3, R(10))
        .add(3, -16)
        .mov(4, 0)
        .call(HelperId::MAP_UPDATE_ELEM)
        .mov(0, 4)
        .exit();
    c.bind(sub);
    tail_call(&mut c, 1, 1);
    c.mov(0, 0).exit();
    c.finish()
}

/// Counts and sends back.
fn other_program() -> Vec<Insn> {
    let mut c = Asm::new();
    bump(&mut c, 1);
    c.mov(0, 3).exit();
    c.finish()
}

/// Arms a timer whose callback adds to the value beside it and starts the timer anew.
fn arm_program() -> Vec<Insn> {
    let mut c = Asm::new();
    let (found, callback) = (c.label(), c.label());
    c.store(MemSize::W, 10, -4, 0)
        .map(1, TIMED)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(6, R(0))
        .jump_if(o::JNE, 6, 0, found)
        .mov(0, 0)
        .exit();
    let start = |c: &mut Asm| {
        c.mov(1, R(6))
            .add(1, 8)
            .mov(2, 1000)
            .mov(3, 0)
            .call(HelperId::TIMER_START);
    };
    c.bind(found)
        .mov(1, R(6))
        .add(1, 8)
        .map(2, TIMED)
        .mov(3, 1)
        .call(HelperId::TIMER_INIT)
        .mov(1, R(6))
        .add(1, 8)
        .function(2, callback)
        .call(HelperId::TIMER_SET_CALLBACK);
    start(&mut c);
    c.mov(0, 2).exit();
    c.bind(callback)
        .mov(6, R(3))
        .load(MemSize::Dw, 1, 6, 0)
        .add(1, 1)
        .store(MemSize::Dw, 6, 0, R(1));
    start(&mut c);
    c.mov(0, 0).exit();
    c.finish()
}

fn builder(kind: EngineKind, tiering: Tiering) -> VmBuilder {
    let programs = [
        ("main", main_program()),
        ("other", other_program()),
        ("arm", arm_program()),
    ];
    let programs = programs.map(|(name, code)| (name.to_owned(), code));
    VmBuilder::assembled(maps(), programs.to_vec())
        .engine(kind)
        .cpus(2)
        .seed(1)
        .tiering(tiering)
}

fn machine(builder: VmBuilder) -> Vm {
    let vm = builder.build().unwrap();
    vm.update(
        "programs".into(),
        &1u32.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        Default::default(),
    )
    .unwrap();
    vm
}

fn packet(kind: u8, flow: u8) -> Vec<u8> {
    let mut packet = vec![0xee; 60];
    (packet[0], packet[1]) = (kind, flow);
    packet
}

fn contents(vm: &Vm, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut key = vm.next_key(map.into(), None).unwrap();
    while let Some(at) = key {
        let value = vm.lookup(map.into(), &at).unwrap().unwrap();
        key = vm.next_key(map.into(), Some(&at)).unwrap();
        entries.push((at, value));
    }
    entries.sort();
    entries
}

/// Runs the same packets in both machines and requires the same of both.
fn compare(tiered: &mut Vm, reference: &mut Vm, repeat: u32) {
    for (kind, flow) in [(0, 0), (1, 0), (2, 0), (3, 1), (3, 2), (3, 1), (9, 9)] {
        let packet = packet(kind, flow);
        let run = TestRun {
            repeat,
            ..TestRun::once(&packet)
        };
        let got = tiered.test_run("main", &run).unwrap();
        let want = reference.test_run("main", &run).unwrap();
        assert_eq!(
            (got.return_value, got.frame),
            (want.return_value, want.frame),
            "{kind} {flow}"
        );
    }
    for map in ["counts", "flows"] {
        assert_eq!(contents(tiered, map), contents(reference, map), "{map}");
    }
}

#[test]
fn nothing_changes_but_the_code() {
    let mut tiered = machine(builder(EngineKind::Jit, Tiering::Untimed));
    let mut reference = machine(builder(EngineKind::Interp, Tiering::Off));
    assert_eq!(reference.code(), None);
    assert!(!tiered.settle().unwrap().hot, "nothing ran yet");
    compare(&mut tiered, &mut reference, 1);
    assert!(!tiered.settle().unwrap().hot, "so few runs say nothing");
    for kind in [0, 3, 1, 2] {
        for vm in [&mut tiered, &mut reference] {
            let packet = packet(kind, 1);
            let run = TestRun {
                repeat: ENOUGH,
                ..TestRun::once(&packet)
            };
            vm.test_run("main", &run).unwrap();
        }
        let code = tiered.settle().unwrap();
        assert!(code.hot && code.failure.is_none(), "{code:?}");
        compare(&mut tiered, &mut reference, 1);
        assert!(!tiered.recount().unwrap().hot);
        compare(&mut tiered, &mut reference, 1);
    }
    // By the end each kind had code of its own.
    assert_eq!(tiered.code().unwrap().compiled, 4);
}

#[test]
fn the_same_traffic_is_compiled_for_once() {
    let mut vm = machine(builder(EngineKind::Jit, Tiering::Untimed));
    let packet = packet(0, 0);
    let run = TestRun {
        repeat: ENOUGH,
        ..TestRun::once(&packet)
    };
    for _ in 0..3 {
        vm.recount();
        vm.test_run("main", &run).unwrap();
        assert!(vm.settle().unwrap().hot);
    }
    assert_eq!(vm.code().unwrap().compiled, 1);
}

#[test]
fn timers_know_their_program_after_it_was_compiled_again() {
    let now = Arc::new(AtomicU64::new(50));
    let clock = Clock::Manual(Arc::clone(&now));
    let mut vm = machine(builder(EngineKind::Jit, Tiering::Untimed).clock(clock));
    let mut worker = vm.worker("main", 1).unwrap();
    vm.test_run("arm", &TestRun::once(&packet(0, 0))).unwrap();
    let fired = |vm: &Vm| {
        let value = vm
            .lookup("timed".into(), &0u32.to_ne_bytes())
            .unwrap()
            .unwrap();
        u64::from_ne_bytes(value[..8].try_into().unwrap())
    };
    for round in 0..4 {
        if round % 2 == 0 {
            let packet = packet(0, 0);
            let run = TestRun {
                repeat: ENOUGH,
                ..TestRun::once(&packet)
            };
            vm.test_run("main", &run).unwrap();
            assert!(vm.settle().unwrap().hot);
        } else {
            vm.recount();
        }
        now.fetch_add(1000, Ordering::Relaxed);
        assert_eq!(worker.run_timers(), 1);
        assert_eq!(fired(&vm), round + 1);
    }
}

/// Runs bursts of two kinds of packets, now these and now those, until it is over; returns how many of each kind
/// there were.
fn work(vm: &Vm, cpu: u32, phase: &AtomicUsize, over: &AtomicBool) -> [u64; 4] {
    const WANT: [Verdict; 4] = [Verdict::Pass, Verdict::Tx, Verdict::Drop, Verdict::Redirect];
    let mut worker = vm.worker("main", cpu).unwrap();
    let mut memories: Vec<FrameMemory> = (0..16).map(|_| FrameMemory::new()).collect();
    let mut counts = [0; 4];
    while !over.load(Ordering::Relaxed) {
        let first = 2 * (phase.load(Ordering::Relaxed) % 2);
        for (n, memory) in memories.iter_mut().enumerate() {
            let packet = packet((first + n % 2) as u8, n as u8);
            memory.set(&packet).unwrap();
        }
        let mut frames: Vec<_> = memories.iter_mut().map(|m| m.frame().unwrap()).collect();
        let mut verdicts = [Verdict::Aborted; 16];
        assert_eq!(worker.run_burst(&mut frames, &mut verdicts), 16);
        for (n, verdict) in verdicts.iter().enumerate() {
            let kind = first + n % 2;
            // The first packet of a flow goes elsewhere.
            let fresh = counts[kind] < 8 && kind == 3;
            assert!(*verdict == WANT[kind] || fresh, "{kind}: {verdict:?}");
            counts[kind] += 1;
        }
    }
    worker.pause();
    counts
}

/// Two hundred, or as many as a slow machine gets to.
#[test]
fn workers_run_through_hundreds_of_switches() {
    const ENOUGH_TIME: Duration = Duration::from_secs(30);
    let vm = machine(builder(EngineKind::Jit, Tiering::Untimed));
    let (phase, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut switches = 0;
    let ran: [[u64; 4]; 2] = std::thread::scope(|scope| {
        let (vm, phase, over) = (&vm, &phase, &over);
        let workers = [0, 1].map(|cpu| scope.spawn(move || work(vm, cpu, phase, over)));
        let start = Instant::now();
        while switches < 4 || switches < 200 && start.elapsed() < ENOUGH_TIME {
            phase.fetch_add(1, Ordering::Relaxed);
            vm.recount();
            while !vm.settle().unwrap().hot {
                std::thread::sleep(Duration::from_micros(200));
            }
            switches += 1;
        }
        over.store(true, Ordering::Relaxed);
        workers.map(|worker| worker.join().unwrap())
    });
    let code = vm.code().unwrap();
    // How often traffic differed from that before is the scheduler's business.
    assert!(code.compiled >= 1, "{code:?}");
    let count = |index: u32| -> Vec<u64> {
        let value = vm.lookup("counts".into(), &index.to_ne_bytes());
        let value = value.unwrap().unwrap();
        let words = value.chunks(8);
        words
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    };
    assert_eq!(count(0), ran.map(|kinds| kinds[0]));
    assert_eq!(count(1), ran.map(|kinds| kinds[1] + kinds[2]));
}

#[test]
fn workers_outlive_the_machine_and_its_thread() {
    let vm = machine(builder(EngineKind::Jit, Tiering::Untimed));
    let mut worker = vm.worker("main", 0).unwrap();
    drop(vm);
    let mut memory = FrameMemory::new();
    memory.set(&packet(1, 0)).unwrap();
    assert_eq!(worker.run(&mut memory.frame().unwrap()), 3);
}

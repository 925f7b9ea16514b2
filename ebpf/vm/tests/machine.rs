//! A machine from outside: loading, test runs, workers, control access, and what is refused.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestRun};
use squalus_isa::{
    Errno, HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, Verdict, opcode as o,
};
use squalus_runtime::{Clock, FrameRef, POISON_HELPER, TrapReason};
use squalus_runtime::{
    TEST_RUN_MAX_FRAGMENTED,
    asm::{Asm, R},
};
use squalus_vm::{EngineKind, Vm, VmBuilder, VmError};

/// These run on both engines.
macro_rules! on_both {
    ($($name:ident,)*) => {
        mod interp {
            $(#[test] fn $name() { super::$name(super::EngineKind::Interp); })*
        }
        mod jit {
            $(#[test] fn $name() { super::$name(super::EngineKind::Jit); })*
        }
    };
}

on_both! {
    code_that_could_not_be_relocated_traps_when_reached,
    endless_loops_end,
    a_test_run_gives_verdict_and_frame,
    repetitions_see_the_frame_the_one_before_left,
    test_runs_are_refused_as_the_kernel_refuses_them,
    the_cpu_selects_per_cpu_values,
    a_trap_aborts_and_is_explained,
    time_comes_from_the_builder,
    bursts_count_verdicts_and_traps,
    workers_and_control_plane_run_at_once,
    programs_reach_each_other_through_program_arrays,
}

fn map(name: &str, kind: MapType, value_size: u32, max_entries: u32) -> MapDef {
    MapDef::new(name, kind, (4, value_size), max_entries)
}

fn code(build: impl FnOnce(&mut Asm)) -> Vec<Insn> {
    let mut asm = Asm::new();
    build(&mut asm);
    asm.finish()
}

fn builder(kind: EngineKind, maps: Vec<MapDef>, programs: &[(&str, Vec<Insn>)]) -> VmBuilder {
    let programs = programs
        .iter()
        .map(|(name, code)| ((*name).to_owned(), code.clone()));
    VmBuilder::assembled(maps, programs.collect())
        .engine(kind)
        .cpus(2)
        .seed(1)
}

fn build(kind: EngineKind, maps: Vec<MapDef>, programs: &[(&str, Vec<Insn>)]) -> Vm {
    builder(kind, maps, programs).build().unwrap()
}

/// Adds 1 to this CPU's entry 0 of map 0 and passes.
fn counting() -> Vec<Insn> {
    code(|c| {
        let null = c.label();
        c.store(MemSize::W, 10, -4, 0)
            .map(1, 0)
            .mov(2, R(10))
            .add(2, -4);
        c.call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, null)
            .mov(1, 1);
        c.atomic(MemSize::Dw, o::ADD.into(), 0, 0, 1)
            .bind(null)
            .mov(0, 2)
            .exit();
    })
}

/// Moves the head by -4 and returns `XDP_TX`, or `XDP_DROP` if that fails.
fn growing() -> Vec<Insn> {
    code(|c| {
        let fail = c.label();
        c.mov(2, -4)
            .call(HelperId::XDP_ADJUST_HEAD)
            .mov(1, R(0))
            .mov(0, 3);
        c.jump_eq(1, 0, fail).mov(0, 1).bind(fail).exit();
    })
}

fn a_test_run_gives_verdict_and_frame(kind: EngineKind) {
    let mut vm = build(kind, Vec::new(), &[("grow", growing())]);
    assert_eq!(vm.name(), kind.name());
    assert_eq!(vm.programs(), ["grow"]);
    let frame: Vec<u8> = (0..60).collect();
    let result = vm.test_run("grow", &TestRun::once(&frame)).unwrap();
    assert_eq!(result.verdict(), Verdict::Tx);
    assert_eq!(result.frame.len(), 64);
    assert_eq!(result.frame[..4], [0; 4]);
    assert_eq!(result.frame[4..], frame);
}

fn repetitions_see_the_frame_the_one_before_left(kind: EngineKind) {
    let mut vm = build(kind, Vec::new(), &[("grow", growing())]);
    let run = |vm: &mut Vm, repeat| {
        let frame = [7; 60];
        let run = TestRun {
            frame: &frame,
            repeat,
            cpu: 0,
        };
        vm.test_run("grow", &run).unwrap()
    };
    assert_eq!(run(&mut vm, 54).frame.len(), 60 + 216);
    let full = run(&mut vm, 55);
    assert_eq!(
        (full.frame.len(), full.verdict()),
        (60 + 216, Verdict::Drop)
    );
    assert_eq!(run(&mut vm, 0).frame.len(), 64, "0 means once");
}

fn test_runs_are_refused_as_the_kernel_refuses_them(kind: EngineKind) {
    let mut vm = build(kind, Vec::new(), &[("grow", growing())]);
    assert!(vm.test_run("grow", &TestRun::once(&[0; 14])).is_ok());
    assert!(vm.test_run("grow", &TestRun::once(&[0; 3520])).is_ok());
    for len in [0, 13, TEST_RUN_MAX_FRAGMENTED + 1] {
        let frame = vec![0; len];
        let error = vm.test_run("grow", &TestRun::once(&frame)).unwrap_err();
        assert!(error.to_string().contains("EINVAL"), "{error}");
    }
    let frame = [0; 60];
    let run = TestRun {
        frame: &frame,
        repeat: 1,
        cpu: 2,
    };
    let error = vm.test_run("grow", &run).unwrap_err();
    assert!(error.to_string().contains("no CPU 2"), "{error}");
    let error = vm.test_run("shrink", &TestRun::once(&frame)).unwrap_err();
    assert!(error.to_string().contains("it has: grow"), "{error}");
}

fn the_cpu_selects_per_cpu_values(kind: EngineKind) {
    let mut vm = build(
        kind,
        vec![map("hits", MapType::PerCpuArray, 8, 1)],
        &[("count", counting())],
    );
    let frame = [0; 60];
    vm.test_run(
        "count",
        &TestRun {
            frame: &frame,
            repeat: 3,
            cpu: 1,
        },
    )
    .unwrap();
    vm.test_run("count", &TestRun::once(&frame)).unwrap();
    let value = vm.lookup("hits".into(), &[0; 4]).unwrap().unwrap();
    assert_eq!(value, [1u64, 3].map(u64::to_ne_bytes).concat());
}

fn a_trap_aborts_and_is_explained(kind: EngineKind) {
    let reads = code(|c| {
        c.load(MemSize::W, 1, 1, 0)
            .load(MemSize::B, 0, 1, 100)
            .exit();
    });
    let mut vm = build(kind, Vec::new(), &[("reads", reads)]);
    assert!(vm.last_trap(0).is_none());
    let result = vm.test_run("reads", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Aborted);
    let trap = vm.last_trap(0).unwrap();
    assert_eq!((trap.reason, trap.slot), (TrapReason::Packet, 1));
    let result = vm.test_run("reads", &TestRun::once(&[9; 101])).unwrap();
    assert_eq!(result.return_value, 9);
    assert!(vm.last_trap(0).is_none());
}

fn time_comes_from_the_builder(kind: EngineKind) {
    let now = code(|c| {
        c.call(HelperId::KTIME_GET_NS).exit();
    });
    let time = Arc::new(AtomicU64::new(5));
    let mut vm = builder(kind, Vec::new(), &[("now", now)])
        .clock(Clock::Manual(Arc::clone(&time)))
        .build()
        .unwrap();
    let mut read = || {
        vm.test_run("now", &TestRun::once(&[0; 60]))
            .unwrap()
            .return_value
    };
    assert_eq!(read(), 5);
    time.store(6, Ordering::Relaxed);
    assert_eq!(read(), 6);
}

fn code_that_could_not_be_relocated_traps_when_reached(kind: EngineKind) {
    // Calls the poison helper if the packet's first byte is 1.
    let program = code(|c| {
        let out = c.label();
        c.load(MemSize::W, 1, 1, 0)
            .load(MemSize::B, 1, 1, 0)
            .mov(0, 2);
        c.jump_if(o::JNE, 1, 1, out)
            .call(POISON_HELPER)
            .bind(out)
            .exit();
    });
    let mut vm = build(kind, Vec::new(), &[("maybe", program)]);
    let result = vm.test_run("maybe", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Pass);
    let result = vm.test_run("maybe", &TestRun::once(&[1; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Aborted);
    assert_eq!(vm.last_trap(0).unwrap().reason, TrapReason::Unsupported);
}

fn endless_loops_end(kind: EngineKind) {
    let program = code(|c| {
        let again = c.label();
        c.mov(0, 2).bind(again).add(0, 1).jump(again);
    });
    let mut vm = builder(kind, Vec::new(), &[("loop", program)])
        .budget(10_000)
        .build()
        .unwrap();
    let result = vm.test_run("loop", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Aborted);
    assert_eq!(vm.last_trap(0).unwrap().reason, TrapReason::Budget);
}

fn bursts_count_verdicts_and_traps(kind: EngineKind) {
    // Returns the packet's first byte, or reads outside if it is 9.
    let program = code(|c| {
        let out = c.label();
        c.load(MemSize::W, 1, 1, 0).load(MemSize::B, 0, 1, 0);
        c.jump_if(o::JNE, 0, 9, out)
            .load(MemSize::B, 0, 1, -1)
            .bind(out)
            .exit();
    });
    let vm = build(kind, Vec::new(), &[("first", program)]);
    let mut worker = vm.worker("first", 0).unwrap();
    let mut buffers: Vec<[u8; 512]> = [1u8, 2, 3, 9, 77].map(|byte| [byte; 512]).to_vec();
    let frames = buffers
        .iter_mut()
        .map(|buffer| FrameRef::new(buffer, 256, 60).unwrap());
    let mut frames: Vec<FrameRef<'_>> = frames.collect();
    let mut verdicts = [Verdict::Redirect; 5];
    assert_eq!(worker.run_burst(&mut frames, &mut verdicts), 5);
    let (drop, pass, tx, abort) = (Verdict::Drop, Verdict::Pass, Verdict::Tx, Verdict::Aborted);
    assert_eq!(verdicts, [drop, pass, tx, abort, abort]);
    let stats = worker.stats();
    assert_eq!(stats.runs(), 5);
    assert_eq!(stats.verdict(abort), 2);
    assert_eq!(stats.trap(TrapReason::Packet), 1);
}

fn workers_and_control_plane_run_at_once(kind: EngineKind) {
    let inner = map("inner", MapType::Array, 8, 1);
    let mut outer = map("outer", MapType::ArrayOfMaps, 4, 1);
    outer.inner = Some(Box::new(inner.clone()));
    // Reads the inner map's value, which is 2 or 3 at any time.
    let program = code(|c| {
        let null = c.label();
        c.store(MemSize::W, 10, -4, 0)
            .map(1, 0)
            .mov(2, R(10))
            .add(2, -4);
        c.call(HelperId::MAP_LOOKUP_ELEM)
            .mov(1, R(0))
            .mov(0, 1)
            .jump_eq(1, 0, null);
        c.mov(2, R(10))
            .add(2, -4)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, null);
        c.load(MemSize::Dw, 0, 0, 0).bind(null).exit();
    });
    let vm = build(kind, vec![outer], &[("read", program)]);
    let control = vm.handle();
    let key = [0; 4];
    let replace = |value: u64| {
        control.create_inner("outer", &key, &inner)?;
        let place = MapRef::Inner {
            outer: "outer",
            key: &key,
        };
        control.update(place, &key, &value.to_ne_bytes(), UpdateFlags::ANY)
    };
    replace(2).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let mut worker = vm.worker("read", cpu).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                let mut verdicts = [Verdict::Drop; 8];
                while !stop.load(Ordering::Relaxed) {
                    let mut buffer = [0u8; 512];
                    let mut frames = [FrameRef::new(&mut buffer, 256, 60).unwrap()];
                    worker.run_burst(&mut frames, &mut verdicts[..1]);
                    assert!(
                        !matches!(verdicts[0], Verdict::Drop),
                        "the map was there always"
                    );
                }
            });
        }
        for n in 0..2000u64 {
            replace(2 + n % 2).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn control_access_names_what_is_wrong() {
    let vm = build(
        EngineKind::Interp,
        vec![
            map("table", MapType::Hash, 8, 1),
            map("jumps", MapType::ProgArray, 4, 2),
        ],
        &[("count", counting())],
    );
    let any = UpdateFlags::ANY;
    assert!(matches!(
        vm.lookup("nothing".into(), &[0; 4]),
        Err(EngineError::NoMap(_))
    ));
    let error = vm.lookup("table".into(), &[0; 3]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "map `table`: key has 3 bytes, the map's have 4"
    );
    let error = vm
        .update("table".into(), &[0; 4], &[0; 9], any)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "map `table`: value has 9 bytes, the map's have 8"
    );
    assert_eq!(vm.lookup("table".into(), &[0; 4]).unwrap(), None);
    let errno = |result: Result<(), EngineError>| match result.unwrap_err() {
        EngineError::Map { errno, .. } => errno,
        other => panic!("{other}"),
    };
    assert_eq!(errno(vm.delete("table".into(), &[0; 4])), Errno::ENOENT);
    vm.update("table".into(), &[0; 4], &[5; 8], any).unwrap();
    assert_eq!(
        errno(vm.update("table".into(), &[0; 4], &[6; 8], UpdateFlags::NOEXIST)),
        Errno::EEXIST
    );
    assert_eq!(
        errno(vm.update("table".into(), &[1; 4], &[6; 8], any)),
        Errno::E2BIG
    );
    assert_eq!(vm.next_key("table".into(), None).unwrap(), Some(vec![0; 4]));
    assert_eq!(vm.next_key("table".into(), Some(&[0; 4])).unwrap(), None);
    assert_eq!(
        errno(vm.update("jumps".into(), &[0; 4], &1u32.to_ne_bytes(), any)),
        Errno::EBADF
    );
    vm.update("jumps".into(), &[0; 4], &[0; 4], any).unwrap();
    assert_eq!(
        vm.lookup("jumps".into(), &[0; 4]).unwrap(),
        Some(vec![0; 4])
    );
}

#[test]
fn batches_set_all_or_stop() {
    let vm = build(
        EngineKind::Interp,
        vec![map("table", MapType::Array, 8, 4)],
        &[("count", counting())],
    );
    let keys: Vec<u8> = (0..4u32).flat_map(u32::to_ne_bytes).collect();
    let values: Vec<u8> = (10..14u64).flat_map(u64::to_ne_bytes).collect();
    vm.update_batch("table".into(), &keys, &values).unwrap();
    let last = vm.lookup("table".into(), &3u32.to_ne_bytes()).unwrap();
    assert_eq!(last, Some(13u64.to_ne_bytes().to_vec()));
    assert!(
        vm.update_batch("table".into(), &keys, &values[1..])
            .is_err()
    );
    assert!(
        vm.update_batch("table".into(), &keys[1..], &values)
            .is_err()
    );
}

fn programs_reach_each_other_through_program_arrays(kind: EngineKind) {
    let jump = code(|c| {
        c.map(2, 0)
            .mov(3, 0)
            .call(HelperId::TAIL_CALL)
            .mov(0, 1)
            .exit();
    });
    let pass = code(|c| {
        c.mov(0, 2).exit();
    });
    let mut vm = build(
        kind,
        vec![map("jumps", MapType::ProgArray, 4, 1)],
        &[("jump", jump), ("pass", pass)],
    );
    let frame = [0; 60];
    let run = TestRun::once(&frame);
    assert_eq!(vm.test_run("jump", &run).unwrap().verdict(), Verdict::Drop);
    vm.update(
        "jumps".into(),
        &[0; 4],
        &1u32.to_ne_bytes(),
        UpdateFlags::ANY,
    )
    .unwrap();
    assert_eq!(vm.test_run("jump", &run).unwrap().verdict(), Verdict::Pass);
}

#[test]
fn dead_code_may_call_what_userspace_has_not() {
    for kind in [EngineKind::Interp, EngineKind::Jit] {
        let dead = code(|c| {
            let live = c.label();
            c.mov(0, 2)
                .jump_eq(0, 2, live)
                .call(HelperId::SK_LOOKUP_TCP)
                .bind(live)
                .exit();
        });
        let vm = builder(kind, Vec::new(), &[("main", dead)]).build();
        let mut vm = vm.unwrap();
        let run = vm.test_run("main", &TestRun::once(&[0; 60])).unwrap();
        assert_eq!(run.verdict(), Verdict::Pass);
    }
}

#[test]
fn what_is_not_supported_is_named_at_load() {
    let failure = |maps: Vec<MapDef>, code: Vec<Insn>| -> VmError {
        builder(EngineKind::Interp, maps, &[("main", code)])
            .build()
            .unwrap_err()
    };
    let exit = |c: &mut Asm| {
        c.mov(0, 0).exit();
    };
    let error = failure(
        Vec::new(),
        code(|c| {
            c.mov(1, 0).call(HelperId::SK_LOOKUP_TCP).exit();
        }),
    );
    assert_eq!(
        error.to_string(),
        "program `main`, instruction 1: bpf_sk_lookup_tcp is not available in userspace: it gives access to the host's sockets, which the kernel has; and execution can come here: run the program in the kernel, or build it without this call"
    );
    let error = failure(
        Vec::new(),
        code(|c| {
            c.raw(Insn {
                op: 0x85,
                dst: 0,
                src: 2,
                off: 0,
                imm: 4711,
            });
            exit(c);
        }),
    );
    assert!(
        error
            .to_string()
            .contains("kernel function with BTF id 4711"),
        "{error}"
    );
    let error = failure(vec![map("events", MapType::RingBuf, 0, 4096)], code(exit));
    assert!(
        error.to_string().contains("`events`") && error.to_string().contains("ringbuf"),
        "{error}"
    );
    let error = failure(
        Vec::new(),
        code(|c| {
            c.map(1, 3);
            exit(c);
        }),
    );
    assert!(error.to_string().contains("no map with index 3"), "{error}");
    let error = failure(
        vec![map("h", MapType::Hash, 8, 1)],
        code(|c| {
            c.map_value(1, 0, 0);
            exit(c);
        }),
    );
    assert!(error.to_string().contains("map 0 is a hash"), "{error}");
    let error = failure(
        vec![map("a", MapType::Array, 8, 1)],
        code(|c| {
            c.map_value(1, 0, 8);
            exit(c);
        }),
    );
    assert!(error.to_string().contains("offset 8 is outside"), "{error}");
    let error = failure(
        Vec::new(),
        code(|c| {
            c.mov(0, 0);
        }),
    );
    assert!(error.to_string().contains("needs an exit"), "{error}");
    let error = failure(Vec::new(), Vec::new());
    assert!(error.to_string().contains("is empty"), "{error}");
    let none = VmBuilder::assembled(Vec::new(), Vec::new())
        .build()
        .unwrap_err();
    assert!(none.to_string().contains("no XDP program"), "{none}");
}

//! Timers in map values: they fire between bursts, by a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{Errno, HelperId, MapDef, MapType, MemSize, ValueFields, opcode as o};
use squalus_runtime::Clock;
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{EngineKind, Vm, VmBuilder};

const KINDS: [EngineKind; 2] = [EngineKind::Interp, EngineKind::Jit];
const MONOTONIC: i32 = 1;
const EINVAL: u64 = Errno::EINVAL.as_return();

/// Values: a count of 8 bytes, the timer, the key as the callback saw it, a spare word.
fn timed(kind: MapType) -> MapDef {
    MapDef {
        fields: ValueFields {
            spin_lock: None,
            timer: Some(8),
        },
        ..MapDef::new("m", kind, (4, 32), 4)
    }
}

/// r6 = the value under key 3.
fn lookup(code: &mut Asm) {
    let found = code.label();
    code.store(MemSize::W, 10, -4, 3)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(6, R(0))
        .jump_if(o::JNE, 6, 0, found)
        .mov(0, 77)
        .exit()
        .bind(found);
}

fn call(code: &mut Asm, helper: HelperId, second: i32, third: i32) {
    code.mov(1, R(6))
        .add(1, 8)
        .mov(2, second)
        .mov(3, third)
        .call(helper);
}

fn init(code: &mut Asm) {
    code.mov(1, R(6))
        .add(1, 8)
        .map(2, 0)
        .mov(3, MONOTONIC)
        .call(HelperId::TIMER_INIT);
}

/// Arms the timer for 1000 ns; its callback counts, notes its key, and goes on until `rounds`.
fn arm(rounds: i32) -> Asm {
    let mut code = Asm::new();
    let (callback, over) = (code.label(), code.label());
    lookup(&mut code);
    init(&mut code);
    code.mov(7, R(0))
        .mov(1, R(6))
        .add(1, 8)
        .function(2, callback)
        .call(HelperId::TIMER_SET_CALLBACK)
        .alu(o::OR, 7, R(0));
    call(&mut code, HelperId::TIMER_START, 1000, 0);
    code.alu(o::OR, 7, R(0)).mov(0, R(7)).exit();
    code.bind(callback)
        .load(MemSize::W, 1, 2, 0)
        .store(MemSize::W, 3, 24, R(1))
        .load(MemSize::Dw, 4, 3, 0)
        .add(4, 1)
        .store(MemSize::Dw, 3, 0, R(4))
        .mov(6, R(3))
        .jump_if(o::JGE, 4, rounds, over);
    call(&mut code, HelperId::TIMER_START, 1000, 0);
    code.bind(over).mov(0, 0).exit();
    code
}

struct Machine {
    vm: Vm,
    now: Arc<AtomicU64>,
}

impl Machine {
    fn new(kind: EngineKind, map: MapDef, programs: &[(&str, &Asm)]) -> Machine {
        let now = Arc::new(AtomicU64::new(50));
        let programs = programs
            .iter()
            .map(|(name, code)| ((*name).to_owned(), code.finish()));
        let vm = VmBuilder::assembled(vec![map], programs.collect())
            .engine(kind)
            .clock(Clock::Manual(Arc::clone(&now)))
            .build()
            .unwrap();
        Machine { vm, now }
    }

    fn run(&mut self, program: &str) -> u64 {
        let run = self.vm.test_run(program, &TestRun::once(&[0; 60])).unwrap();
        assert!(self.vm.last_trap(0).is_none());
        u64::from(run.return_value)
    }

    /// Sets the time and lets a worker run what is due.
    fn at(&mut self, now: u64) -> usize {
        self.now.store(now, Ordering::Relaxed);
        let first = self.vm.programs().swap_remove(0);
        self.vm.worker(&first, 0).unwrap().run_timers()
    }

    /// The count and the key in the value under key 3.
    fn seen(&self) -> (u64, u32) {
        let value = self.vm.lookup("m".into(), &3u32.to_ne_bytes());
        let value = value.unwrap().unwrap();
        let count = u64::from_ne_bytes(value[..8].try_into().unwrap());
        (count, u32::from_ne_bytes(value[24..28].try_into().unwrap()))
    }

    fn insert(&self) {
        let value = [0; 32];
        self.vm
            .update(
                "m".into(),
                &3u32.to_ne_bytes(),
                &value,
                squalus_isa::UpdateFlags::ANY,
            )
            .unwrap();
    }
}

#[test]
fn timers_fire_when_due_and_may_start_again() {
    for kind in KINDS {
        for map in [MapType::Array, MapType::Hash, MapType::LruHash] {
            let mut machine = Machine::new(kind, timed(map), &[("arm", &arm(3))]);
            machine.insert();
            assert_eq!(machine.at(5000), 0);
            machine.now.store(50, Ordering::Relaxed);
            assert_eq!(machine.run("arm"), 0);
            assert_eq!(machine.at(1049), 0);
            assert_eq!(machine.at(1050), 1);
            assert_eq!(machine.seen(), (1, 3), "{map}");
            assert_eq!(machine.at(2049), 0);
            assert_eq!(machine.at(9000), 1);
            assert_eq!(machine.at(10_000), 1);
            assert_eq!(machine.seen(), (3, 3));
            assert_eq!(machine.at(100_000), 0);
        }
    }
}

#[test]
fn a_removed_element_takes_its_timer_along() {
    for kind in KINDS {
        let mut machine = Machine::new(kind, timed(MapType::Hash), &[("arm", &arm(9))]);
        machine.insert();
        assert_eq!(machine.run("arm"), 0);
        machine.vm.delete("m".into(), &3u32.to_ne_bytes()).unwrap();
        machine.insert();
        assert_eq!(machine.at(9000), 0);
        assert_eq!(machine.seen(), (0, 0));
        assert_eq!(machine.run("arm"), 0, "the new element has no timer yet");
    }
}

#[test]
fn an_update_takes_the_timer_away() {
    for kind in KINDS {
        let mut machine = Machine::new(kind, timed(MapType::Array), &[("arm", &arm(9))]);
        assert_eq!(machine.run("arm"), 0);
        machine.insert();
        assert_eq!(machine.at(9000), 0);
        assert_eq!(machine.seen(), (0, 0));
        assert_eq!(machine.run("arm"), 0, "the value has no timer any more");
    }
}

#[test]
fn results_are_the_kernels() {
    let again = arm(1);
    let mut cancel = Asm::new();
    lookup(&mut cancel);
    call(&mut cancel, HelperId::TIMER_CANCEL, 0, 0);
    cancel.mov(7, R(0));
    call(&mut cancel, HelperId::TIMER_CANCEL, 0, 0);
    cancel.alu(o::LSH, 7, 8).alu(o::OR, 0, R(7)).exit();
    let mut flags = Asm::new();
    lookup(&mut flags);
    call(&mut flags, HelperId::TIMER_START, 1000, 4);
    flags.exit();
    let programs = [("arm", &again), ("cancel", &cancel), ("flags", &flags)];
    let low = |value: u64| value & 0xffff_ffff;
    for kind in KINDS {
        let mut machine = Machine::new(kind, timed(MapType::Array), &programs);
        // Not initialised.
        assert_eq!(machine.run("flags"), low(EINVAL));
        assert_eq!(machine.run("cancel"), low(EINVAL));
        assert_eq!(machine.run("arm"), 0);
        assert_eq!(machine.run("flags"), low(EINVAL));
        // Initialised already; all else worked.
        assert_eq!(machine.run("arm"), low(Errno::EBUSY.as_return()));
        assert_eq!(machine.run("cancel"), 1 << 8);
        assert_eq!(machine.at(9000), 0);
    }
}

#[test]
fn a_callback_cannot_cancel_its_own_timer() {
    let mut code = Asm::new();
    let callback = code.label();
    lookup(&mut code);
    init(&mut code);
    code.mov(1, R(6))
        .add(1, 8)
        .function(2, callback)
        .call(HelperId::TIMER_SET_CALLBACK);
    call(&mut code, HelperId::TIMER_START, 0, 0);
    code.exit().bind(callback).mov(6, R(3));
    call(&mut code, HelperId::TIMER_CANCEL, 0, 0);
    code.store(MemSize::Dw, 6, 0, R(0)).mov(0, 0).exit();
    for kind in KINDS {
        let mut machine = Machine::new(kind, timed(MapType::Array), &[("main", &code)]);
        assert_eq!(machine.run("main"), 0);
        assert_eq!(machine.at(50), 1);
        assert_eq!(machine.seen().0, Errno(35).as_return());
    }
}

/// Pointer arithmetic leads from a large value to the timer of a small one, of another map.
#[test]
fn a_timer_of_another_map_lends_no_larger_value() {
    let small = MapDef {
        name: "small".to_owned(),
        max_entries: 1024,
        ..timed(MapType::Array)
    };
    let large = MapDef {
        name: "large".to_owned(),
        value_size: 4096,
        ..timed(MapType::Array)
    };
    let mut code = Asm::new();
    let (callback, found) = (code.label(), code.label());
    lookup(&mut code);
    init(&mut code);
    code.map(1, 1)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, found)
        .mov(0, 78)
        .exit()
        .bind(found)
        .mov(7, R(6))
        .alu(o::SUB, 7, R(0))
        .mov(1, R(0))
        .add(1, R(7))
        .add(1, 8)
        .function(2, callback)
        .call(HelperId::TIMER_SET_CALLBACK);
    call(&mut code, HelperId::TIMER_START, 0, 0);
    code.exit()
        .bind(callback)
        // Over the end of a small value, inside a large one.
        .store(MemSize::Dw, 3, 4028, -1)
        .mov(0, 0)
        .exit();
    for kind in KINDS {
        let now = Arc::new(AtomicU64::new(50));
        let programs = vec![("main".to_owned(), code.finish())];
        let vm = VmBuilder::assembled(vec![small.clone(), large.clone()], programs)
            .engine(kind)
            .clock(Clock::Manual(Arc::clone(&now)))
            .build()
            .unwrap();
        let mut machine = Machine { vm, now };
        machine
            .vm
            .test_run("main", &TestRun::once(&[0; 60]))
            .unwrap();
        // Compiled code finds the timer by its address; the interpreter knows that it is no part of the value.
        assert_eq!(machine.at(60), usize::from(kind == EngineKind::Jit));
        for key in 0..1024u32 {
            let value = machine.vm.lookup("small".into(), &key.to_ne_bytes());
            assert_eq!(value.unwrap().unwrap(), [0; 32], "{kind:?}: {key}");
        }
    }
}

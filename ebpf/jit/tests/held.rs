//! What a run holds: spin locks and ring buffer records, interpreted and compiled alike.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{Loaded, Ran, agree, compile_all, link, run_interp, run_jit};
use squalus_isa::{HelperId, MapDef, MapType, MemSize, ValueFields, opcode as o};
use squalus_jit::Options;
use squalus_runtime::asm::{Asm, Label, R};
use squalus_runtime::{MAX_RECORDS, TrapReason};

const PACKET: [u8; 64] = [0; 64];

fn map(kind: MapType, value_size: u32, entries: u32, fields: ValueFields) -> MapDef {
    MapDef {
        fields,
        ..MapDef::new("m", kind, (4, value_size), entries)
    }
}

/// Values of 16 bytes with a spin lock at offset 8.
fn locked() -> MapDef {
    let fields = ValueFields {
        spin_lock: Some(8),
        timer: None,
    };
    map(MapType::Array, 16, 2, fields)
}

fn ring() -> MapDef {
    MapDef {
        key_size: 0,
        ..map(MapType::RingBuf, 0, 4096, ValueFields::default())
    }
}

/// r6 = the value under `key` of map 0, or leaves with 77.
fn lookup(code: &mut Asm, key: i32) {
    let found = code.label();
    code.store(MemSize::W, 10, -4, key)
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

fn lock(code: &mut Asm, helper: HelperId, off: i32) {
    code.mov(1, R(6)).add(1, off).call(helper);
}

/// r7 = a record of `len` bytes of map 0, or leaves with 66.
fn reserve(code: &mut Asm, len: i32) {
    let reserved = code.label();
    code.map(1, 0)
        .mov(2, len)
        .mov(3, 0)
        .call(HelperId::RINGBUF_RESERVE)
        .mov(7, R(0))
        .jump_if(o::JNE, 7, 0, reserved)
        .mov(0, 66)
        .exit()
        .bind(reserved);
}

fn give(code: &mut Asm, helper: HelperId) {
    code.mov(1, R(7)).mov(2, 0).call(helper);
}

fn written(write: impl FnOnce(&mut Asm)) -> Asm {
    let mut code = Asm::new();
    write(&mut code);
    code
}

fn result(code: &Asm, def: MapDef) -> Result<u64, TrapReason> {
    agree(&[code.finish()], &[def], &PACKET).result
}

#[test]
fn a_lock_guards_and_is_given_back() {
    let code = written(|c| {
        lookup(c, 0);
        for _ in 0..2 {
            lock(c, HelperId::SPIN_LOCK, 8);
            c.load(MemSize::Dw, 7, 6, 0)
                .add(7, 21)
                .store(MemSize::Dw, 6, 0, R(7));
            lock(c, HelperId::SPIN_UNLOCK, 8);
        }
        c.load(MemSize::Dw, 0, 6, 0).exit();
    });
    assert_eq!(result(&code, locked()), Ok(42));
}

#[test]
fn a_lock_is_not_taken_twice_nor_held_over_a_call() {
    let cases: [fn(&mut Asm); 4] = [
        |c| lock(c, HelperId::SPIN_LOCK, 8),
        |c| {
            c.call(HelperId::KTIME_GET_NS);
        },
        |c| {
            c.map(1, 0)
                .mov(2, R(10))
                .add(2, -4)
                .call(HelperId::MAP_LOOKUP_ELEM);
        },
        |c| {
            lock(c, HelperId::SPIN_UNLOCK, 8);
            lock(c, HelperId::SPIN_UNLOCK, 8);
        },
    ];
    for wrong in cases {
        let code = written(|c| {
            lookup(c, 1);
            lock(c, HelperId::SPIN_LOCK, 8);
            wrong(c);
            c.mov(0, 0).exit();
        });
        assert_eq!(result(&code, locked()), Err(TrapReason::SpinLock));
    }
}

#[test]
fn the_lock_of_another_value_is_another_lock() {
    let code = written(|c| {
        lookup(c, 0);
        c.mov(8, R(6));
        lookup(c, 1);
        lock(c, HelperId::SPIN_LOCK, 8);
        c.mov(6, R(8));
        lock(c, HelperId::SPIN_UNLOCK, 8);
        c.mov(0, 0).exit();
    });
    assert_eq!(result(&code, locked()), Err(TrapReason::SpinLock));
}

#[test]
fn only_the_lock_is_a_lock_and_only_for_its_helpers() {
    for off in [0, 4, 12] {
        let code = written(|c| {
            lookup(c, 0);
            lock(c, HelperId::SPIN_LOCK, off);
            c.mov(0, 0).exit();
        });
        assert_eq!(result(&code, locked()), Err(TrapReason::Argument), "{off}");
    }
    for (off, size, allowed) in [
        (0, MemSize::Dw, true),
        (8, MemSize::W, false),
        (11, MemSize::B, false),
        (12, MemSize::W, true),
        (8, MemSize::Dw, false),
    ] {
        for write in [false, true] {
            let code = written(|c| {
                lookup(c, 0);
                if write {
                    c.store(size, 6, off, 1);
                } else {
                    c.load(size, 7, 6, off);
                }
                c.mov(0, 0).exit();
            });
            let expected = if allowed {
                Ok(0)
            } else {
                Err(TrapReason::Field)
            };
            assert_eq!(result(&code, locked()), expected, "{off} {size:?}");
        }
    }
}

#[test]
fn fields_are_guarded_where_nothing_is_proved() {
    // Through another function's frame, the analysis loses what the pointer is.
    for (off, expected) in [(0, Ok(0)), (8, Err(TrapReason::Field))] {
        let code = written(|c| {
            let sub = c.label();
            lookup(c, 0);
            c.store(MemSize::Dw, 10, -16, R(6))
                .mov(1, R(10))
                .add(1, -16)
                .call_local(sub)
                .mov(0, 0)
                .exit()
                .bind(sub)
                .load(MemSize::Dw, 1, 1, 0)
                .load(MemSize::W, 0, 1, off)
                .exit();
        });
        assert_eq!(result(&code, locked()), expected);
    }
}

/// Runs a program twice in each engine, which hangs or fails if the first run kept something.
fn twice(loaded: &Loaded) -> Vec<Result<u64, TrapReason>> {
    let compiled = compile_all(loaded, Options::default());
    let mut results = Vec::new();
    for _ in 0..2 {
        results.push(run_interp(loaded, &PACKET).result);
        results.push(run_jit(loaded, &compiled, &PACKET).result);
    }
    results
}

#[test]
fn a_run_that_ends_with_a_lock_gives_it_back() {
    for traps in [false, true] {
        let code = written(|c| {
            lookup(c, 0);
            lock(c, HelperId::SPIN_LOCK, 8);
            if traps {
                c.mov(1, 0).load(MemSize::Dw, 0, 1, 0);
            }
            c.mov(0, 5).exit();
        });
        let expected = if traps {
            Err(TrapReason::NullPointer)
        } else {
            Ok(5)
        };
        let loaded = link(&[code.finish()], &[locked()]);
        assert!(twice(&loaded).iter().all(|result| *result == expected));
    }
}

fn records(loaded: &Loaded) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let ring = loaded.maps[0].ring().unwrap();
    ring.consume(|record| records.push(record.to_vec()));
    records
}

#[test]
fn records_are_written_and_submitted() {
    let code = written(|c| {
        reserve(c, 12);
        c.store(MemSize::Dw, 7, 0, 0x1122)
            .store(MemSize::W, 7, 8, 0x33)
            .load(MemSize::W, 8, 7, 8);
        give(c, HelperId::RINGBUF_SUBMIT);
        c.mov(0, R(8)).exit();
    });
    assert_eq!(result(&code, ring()), Ok(0x33));
    let loaded = link(&[code.finish()], &[ring()]);
    assert_eq!(twice(&loaded), [Ok(0x33); 4]);
    let record = [0x22, 0x11, 0, 0, 0, 0, 0, 0, 0x33, 0, 0, 0].to_vec();
    assert_eq!(records(&loaded), vec![record; 4]);
}

#[test]
fn records_have_bounds() {
    for (off, expected) in [
        (4, Ok(0)),
        (5, Err(TrapReason::Record)),
        (-1, Err(TrapReason::Record)),
    ] {
        let code = written(|c| {
            reserve(c, 12);
            c.store(MemSize::Dw, 7, off, 0);
            give(c, HelperId::RINGBUF_DISCARD);
            c.mov(0, 0).exit();
        });
        assert_eq!(result(&code, ring()), expected, "{off}");
    }
}

#[test]
fn a_record_is_gone_once_it_was_given_back() {
    for helper in [HelperId::RINGBUF_SUBMIT, HelperId::RINGBUF_DISCARD] {
        let code = written(|c| {
            reserve(c, 16);
            give(c, helper);
            c.load(MemSize::Dw, 0, 7, 0).exit();
        });
        assert_eq!(result(&code, ring()), Err(TrapReason::NotPointer));
        let code = written(|c| {
            reserve(c, 16);
            give(c, helper);
            give(c, helper);
            c.mov(0, 0).exit();
        });
        assert_eq!(result(&code, ring()), Err(TrapReason::Argument));
    }
}

#[test]
fn only_the_start_of_a_record_is_given_back() {
    let code = written(|c| {
        reserve(c, 16);
        c.add(7, 8);
        give(c, HelperId::RINGBUF_SUBMIT);
        c.mov(0, 0).exit();
    });
    assert_eq!(result(&code, ring()), Err(TrapReason::Argument));
}

#[test]
fn records_given_back_by_a_subprogram_are_gone_for_its_caller() {
    let code = written(|c| {
        let sub = c.label();
        reserve(c, 16);
        c.mov(1, R(7))
            .call_local(sub)
            .load(MemSize::Dw, 0, 7, 0)
            .exit()
            .bind(sub)
            .mov(2, 0)
            .call(HelperId::RINGBUF_DISCARD)
            .mov(0, 0)
            .exit();
    });
    assert_eq!(result(&code, ring()), Err(TrapReason::NotPointer));
}

#[test]
fn a_run_that_ends_with_records_discards_them() {
    let code = written(|c| {
        reserve(c, 2000);
        c.store(MemSize::Dw, 7, 0, 1).mov(0, 5).exit();
    });
    let loaded = link(&[code.finish()], &[ring()]);
    // Two of them fill the ring until its reader passes by.
    assert_eq!(twice(&loaded), [Ok(5), Ok(5), Ok(66), Ok(66)]);
    assert_eq!(records(&loaded), Vec::<Vec<u8>>::new());
    assert_eq!(run_interp(&loaded, &PACKET).result, Ok(5));
}

#[test]
fn so_many_records_can_be_reserved_at_once() {
    for (count, expected) in [(MAX_RECORDS, 5), (MAX_RECORDS + 1, 66)] {
        let code = written(|c| {
            for _ in 0..count {
                reserve(c, 8);
            }
            c.mov(0, 5).exit();
        });
        assert_eq!(result(&code, ring()), Ok(expected));
    }
}

#[test]
fn records_reach_callbacks() {
    let code = written(|c| {
        let callback: Label = c.label();
        reserve(c, 16);
        c.mov(1, 4)
            .function(2, callback)
            .mov(3, R(7))
            .mov(4, 0)
            .call(HelperId::LOOP)
            .load(MemSize::Dw, 8, 7, 8);
        give(c, HelperId::RINGBUF_DISCARD);
        c.mov(0, R(8)).exit();
        c.bind(callback)
            .store(MemSize::Dw, 2, 8, R(1))
            .mov(0, 0)
            .exit();
    });
    let ran: Ran = agree(&[code.finish()], &[ring()], &PACKET);
    assert_eq!(ran.result, Ok(3));
}

#[test]
fn a_lock_that_a_program_leaves_behind_is_found_by_its_caller() {
    let mut caller = Asm::new();
    let replaced = caller.label();
    caller
        .mov(6, R(1))
        .call_local(replaced)
        .call(HelperId::KTIME_GET_NS)
        .mov(0, 0)
        .exit()
        .bind(replaced)
        .map(2, 1)
        .mov(3, 0)
        .call(HelperId::TAIL_CALL)
        .mov(0, 1)
        .exit();
    let locks = written(|c| {
        lookup(c, 0);
        lock(c, HelperId::SPIN_LOCK, 8);
        c.mov(0, 0).exit();
    });
    let programs = map(MapType::ProgArray, 4, 1, ValueFields::default());
    let loaded = link(&[caller.finish(), locks.finish()], &[locked(), programs]);
    loaded.maps[1].set_program(0, Some(1)).unwrap();
    let interp = run_interp(&loaded, &PACKET);
    assert_eq!(interp.result, Err(TrapReason::SpinLock));
    let programs = compile_all(&loaded, Options::default());
    assert_eq!(run_jit(&loaded, &programs, &PACKET), interp);
}

#[test]
fn a_key_in_a_record_is_read_anew() {
    let array = map(MapType::Array, 8, 4, ValueFields::default());
    let code = written(|c| {
        let (one, two) = (c.label(), c.label());
        reserve(c, 8);
        c.store(MemSize::W, 7, 0, 1)
            .map(1, 1)
            .mov(2, R(7))
            .call(HelperId::MAP_LOOKUP_ELEM)
            .mov(8, R(0))
            .jump_if(o::JNE, 8, 0, one)
            .bind(one)
            .store(MemSize::W, 7, 0, 3)
            .map(1, 1)
            .mov(2, R(7))
            .call(HelperId::MAP_LOOKUP_ELEM)
            .mov(9, R(0))
            .jump_if(o::JNE, 9, 0, two)
            .bind(two);
        give(c, HelperId::RINGBUF_DISCARD);
        c.mov(0, R(9)).alu(o::SUB, 0, R(8)).exit();
    });
    let ran = agree(&[code.finish()], &[ring(), array], &PACKET);
    assert_eq!(ran.result, Ok(16));
}

//! Random sequences of what programs and consumers do with a ring buffer.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapType};
use squalus_maps::{Map, MapEnv, Ring};

use crate::common::{cases, def};
use crate::program::Code;
use crate::sys::KernelMap;
use crate::{Mapping, kernel_available};

const OUTPUT: i32 = 130;
const RESERVE: i32 = 131;
const SUBMIT: i32 = 132;
const DISCARD: i32 = 133;
const QUERY: i32 = 134;

const LEN: u32 = 4096;
/// Bytes that programs can output.
const DATA: usize = 8192;
const PAGE: usize = 4096;
const FRAME: [u8; 64] = [0; 64];

#[derive(Clone, Copy, Debug)]
enum Op {
    Output {
        len: u32,
        flags: u64,
    },
    Record(Record),
    /// Two records open at the same time; the second one is finished first.
    Two(Record, Record),
    Query(u64),
    Consume,
}

/// A record that is reserved, filled and finished.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// In words.
    words: u32,
    byte: u8,
    discard: bool,
    flags: u64,
}

fn record() -> impl Strategy<Value = Record> {
    let flags =
        prop_oneof![4 => Just(0_u64), 1 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4)];
    (0_u32..12, any::<u8>(), any::<bool>(), flags).prop_map(|(words, byte, discard, flags)| {
        Record {
            words,
            byte,
            discard,
            flags,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let len =
        prop_oneof![6 => 0_u32..100, 3 => 100_u32..2000, 1 => 4070_u32..4100, 1 => Just(8192)];
    let flags = prop_oneof![6 => Just(0_u64), 1 => 1_u64..4, 1 => Just(4), 1 => Just(1 << 40)];
    prop_oneof![
        5 => (len, flags).prop_map(|(len, flags)| Op::Output { len, flags }),
        3 => record().prop_map(Op::Record),
        2 => (record(), record()).prop_map(|(first, second)| Op::Two(first, second)),
        2 => prop_oneof![Just(0_u64), Just(1), Just(2), Just(3), Just(4), Just(u64::MAX)]
            .prop_map(Op::Query),
        2 => Just(Op::Consume),
    ]
}

/// The kernel's ring, the array that programs output from, and a consumer.
struct Theirs {
    ring: KernelMap,
    data: KernelMap,
    consumer: Mapping,
    /// The producers' page and the data, twice.
    producer: Mapping,
}

fn data() -> Vec<u8> {
    (0..DATA).map(|at| (at % 251) as u8).collect()
}

impl Theirs {
    fn new() -> Theirs {
        let ring = KernelMap::new(&def(MapType::RingBuf, 0, 0, LEN)).unwrap();
        let array = KernelMap::new(&def(MapType::Array, 4, DATA as u32, 1)).unwrap();
        array.update(&[0; 4], &data(), 0).unwrap();
        let fd = ring.fd.as_raw_fd();
        let both = libc::PROT_READ | libc::PROT_WRITE;
        Theirs {
            consumer: Mapping::new(fd, 0, PAGE, both),
            producer: Mapping::new(fd, PAGE, PAGE + 2 * LEN as usize, libc::PROT_READ),
            ring,
            data: array,
        }
    }

    fn run(&self, op: Op) -> i64 {
        let code = Code::default();
        let code = match op {
            Op::Output { len, flags } => code
                .element(&self.data)
                .copy(2, 0)
                .map(1, &self.ring)
                .set(3, len.into())
                .set(4, flags)
                .call(OUTPUT),
            Op::Record(record) => self
                .finish(self.reserve(code, 6, record), 6, record)
                .set(0, 0),
            Op::Two(first, second) => {
                let code = self.reserve(code, 6, first).map(1, &self.ring);
                let code = code
                    .set(2, u64::from(second.words) * 8)
                    .set(3, 0)
                    .call(RESERVE)
                    .copy(7, 0);
                // Without room for the second one, the first is finished alone.
                let alone = self.finish(Code::default(), 6, first).set(0, 2).end();
                let code = alone.guard(code, 7);
                let code = (0..second.words as i16)
                    .fold(code, |code, at| code.store(7, at * 8, second.byte));
                let code = self.finish(code, 7, second);
                self.finish(code, 6, first).set(0, 0)
            }
            Op::Query(what) => code.map(1, &self.ring).set(2, what).call(QUERY),
            Op::Consume => return 0,
        };
        code.end().load().run(&FRAME).into()
    }

    fn reserve(&self, code: Code, register: u8, record: Record) -> Code {
        let code = code
            .map(1, &self.ring)
            .set(2, u64::from(record.words) * 8)
            .set(3, 0)
            .call(RESERVE)
            .copy(register, 0)
            .end_if_null(register, 1);
        (0..record.words as i16).fold(code, |code, at| code.store(register, at * 8, record.byte))
    }

    fn finish(&self, code: Code, register: u8, record: Record) -> Code {
        code.copy(1, register)
            .set(2, record.flags)
            .call(if record.discard { DISCARD } else { SUBMIT })
    }

    fn consume(&self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let produced = self.producer.word(0).load(Acquire);
        let mut at = self.consumer.word(0).load(Acquire);
        while at < produced {
            let offset = PAGE + (at % u64::from(LEN)) as usize;
            let len = self.producer.word(offset).load(Acquire) as u32;
            assert_eq!(len >> 31, 0, "no program runs");
            let size = (len & !(1 << 30)) as usize;
            if len >> 30 == 0 {
                records.push(self.producer.bytes(offset + 8, size));
            }
            at += (size as u64 + 8).next_multiple_of(8);
            self.consumer.word(0).store(at, Release);
        }
        records
    }
}

impl Code {
    /// `code`, then this if `register` is null.
    fn guard(self, code: Code, register: u8) -> Code {
        let skip = self.len() as i16;
        code.raw(0x55, register, 0, skip, 0).then(self)
    }
}

fn result(result: Result<(), Errno>) -> i64 {
    result.map_or_else(|errno| -i64::from(errno.0), |()| 0)
}

/// The same on our ring.
fn run(ring: &Ring, op: Op) -> i64 {
    let reserve = |record: Record| {
        let len = record.words as usize * 8;
        let at = ring.reserve(len as u64);
        if !at.is_null() {
            // SAFETY: a record of that length, which is ours.
            unsafe {
                let before = std::slice::from_raw_parts(at, len);
                assert!(before.iter().all(|&byte| byte == 0));
                at.write_bytes(record.byte, len);
                assert!(ring.record_contains(at, at.addr(), len));
                assert!(!ring.record_contains(at, at.addr(), len + 1));
            }
        }
        at
    };
    // SAFETY: a record just reserved.
    let finish = |at: *mut u8, record: Record| unsafe {
        if record.discard {
            ring.discard(at, record.flags);
        } else {
            ring.submit(at, record.flags);
        }
    };
    match op {
        Op::Output { len, flags } => result(ring.output(&data()[..len as usize], flags)),
        Op::Record(record) => {
            let at = reserve(record);
            if at.is_null() {
                return 1;
            }
            finish(at, record);
            0
        }
        Op::Two(first, second) => {
            let one = reserve(first);
            if one.is_null() {
                return 1;
            }
            let two = reserve(second);
            if !two.is_null() {
                finish(two, second);
            }
            finish(one, first);
            if two.is_null() { 2 } else { 0 }
        }
        Op::Query(what) => (ring.query(what) as i32).into(),
        Op::Consume => 0,
    }
}

fn ours() -> Arc<Map> {
    Map::new(&def(MapType::RingBuf, 0, 0, LEN), &MapEnv::with_seed(1, 7)).unwrap()
}

fn consume(ring: &Ring) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let count = ring.consume(|record| records.push(record.to_vec()));
    assert_eq!(count, records.len());
    records
}

#[test]
fn the_same_records_and_answers() {
    if !kernel_available() {
        return;
    }
    let ops = prop::collection::vec(op(), 1..40);
    TestRunner::new(cases(60))
        .run(&ops, |ops| {
            let (ours, theirs) = (ours(), Theirs::new());
            let ring = ours.ring().unwrap();
            for (step, &op) in ops.iter().enumerate() {
                prop_assert_eq!(run(ring, op), theirs.run(op), "step {}: {:?}", step, op);
                if matches!(op, Op::Consume) {
                    prop_assert_eq!(consume(ring), theirs.consume(), "step {}", step);
                }
            }
            prop_assert_eq!(consume(ring), theirs.consume());
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_full_ring_refuses_as_much() {
    if !kernel_available() {
        return;
    }
    for len in [
        0, 1, 8, 9, 24, 1000, 1360, 2040, 4080, 4087, 4088, 4089, 5000,
    ] {
        let (ours, theirs) = (ours(), Theirs::new());
        let ring = ours.ring().unwrap();
        let op = Op::Output { len, flags: 0 };
        for round in 0..600 {
            let done = run(ring, op);
            assert_eq!(done, theirs.run(op), "record {round} of {len} bytes");
            if done != 0 {
                break;
            }
        }
        assert_eq!(consume(ring), theirs.consume());
        assert_eq!(run(ring, op), theirs.run(op));
    }
}

/// The kernel's verifier would not let programs do this; our maps answer all the same.
#[test]
fn rings_are_no_maps_for_programs() {
    let map = ours();
    // SAFETY: keys and values have no bytes.
    unsafe {
        let nothing = std::ptr::NonNull::dangling().as_ptr();
        assert!(map.lookup(nothing, 0).is_null());
        assert_eq!(map.update(nothing, nothing, 0, 0), Err(Errno::EOPNOTSUPP));
        assert_eq!(map.delete(nothing), Err(Errno::EOPNOTSUPP));
    }
    assert!(map.perf().is_none() && map.array_base().is_none());
}

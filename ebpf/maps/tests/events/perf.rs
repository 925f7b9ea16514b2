//! What programs send to perf event arrays, and what consumers find.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapType};
use squalus_maps::{Map, MapEnv, PERF_CURRENT_CPU};

use crate::common::{cases, def};
use crate::program::Code;
use crate::sys::{KernelMap, cpus, owned};
use crate::{Mapping, kernel_available};

const PERF_EVENT_OUTPUT: i32 = 25;
const PAGE: usize = 4096;
/// Bytes that programs can send, besides the frame's.
const DATA: usize = 1 << 17;
const ENTRIES: u32 = 4;

fn data() -> Vec<u8> {
    (0..DATA).map(|at| (at % 251) as u8).collect()
}

fn frame() -> Vec<u8> {
    (0..200).map(|at| 255 - at as u8).collect()
}

/// A sample, or a count of lost ones before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    lost: u64,
    data: Vec<u8>,
}

/// A perf event of one CPU with its ring.
struct Event {
    fd: OwnedFd,
    ring: Mapping,
    pages: usize,
}

#[repr(C)]
#[derive(Default)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

impl Event {
    fn new(cpu: u32, pages: usize) -> Event {
        let attr = EventAttr {
            kind: 1,
            size: size_of::<EventAttr>() as u32,
            config: 10,
            sample_period: 1,
            sample_type: 1 << 10,
            wakeup_events: 1,
            ..EventAttr::default()
        };
        // SAFETY: a description of the length it says.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, 8) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let fd = owned(fd as i32);
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let ring = Mapping::new(fd.as_raw_fd(), 0, PAGE * (1 + pages), both);
        Event { fd, ring, pages }
    }

    fn drain(&self) -> Vec<Sample> {
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        let mut samples = Vec::new();
        let mut lost = 0;
        let head = self.ring.word(HEAD).load(Acquire);
        let mut tail = self.ring.word(TAIL).load(Acquire);
        while tail < head {
            let header = self.read(tail, 8);
            let kind = u32::from_ne_bytes(header[..4].try_into().unwrap());
            let size = u16::from_ne_bytes(header[6..].try_into().unwrap());
            let record = self.read(tail, size.into());
            match kind {
                2 => lost += u64::from_ne_bytes(record[16..24].try_into().unwrap()),
                9 => {
                    let len = u32::from_ne_bytes(record[8..12].try_into().unwrap());
                    assert_eq!(len as usize + 12, record.len());
                    samples.push(Sample {
                        lost: std::mem::take(&mut lost),
                        data: record[12..].to_vec(),
                    });
                }
                other => panic!("a record of kind {other}"),
            }
            tail += u64::from(size);
            self.ring.word(TAIL).store(tail, Release);
        }
        samples
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let all = PAGE * self.pages;
        let at = at as usize % all;
        let first = len.min(all - at);
        let mut bytes = self.ring.bytes(PAGE + at, first);
        bytes.extend(self.ring.bytes(PAGE, len - first));
        bytes
    }
}

struct Both {
    ours: Arc<Map>,
    theirs: KernelMap,
    data: KernelMap,
    events: Vec<Event>,
}

impl Both {
    /// Maps with rings of a page at the indices of `rings`, for the CPUs that go with them.
    fn new(rings: &[(u32, u32)]) -> Both {
        Both::with_pages(rings, 1)
    }

    fn with_pages(rings: &[(u32, u32)], pages: u32) -> Both {
        let def_of = def(MapType::PerfEventArray, 4, 4, ENTRIES);
        let ours = Map::new(&def_of, &MapEnv::with_seed(cpus(), 7)).unwrap();
        let theirs = KernelMap::new(&def_of).unwrap();
        let array = KernelMap::new(&def(MapType::Array, 4, DATA as u32, 1)).unwrap();
        array.update(&[0; 4], &data(), 0).unwrap();
        let mut events = Vec::new();
        for &(index, cpu) in rings {
            ours.perf().unwrap().open(index, cpu, pages).unwrap();
            let event = Event::new(cpu, pages as usize);
            let fd = event.fd.as_raw_fd().to_ne_bytes();
            theirs.update(&index.to_ne_bytes(), &fd, 0).unwrap();
            events.push(event);
        }
        Both {
            ours,
            theirs,
            data: array,
            events,
        }
    }

    /// Sends on both sides, from CPU 0, and returns what both answered.
    fn send(&self, index: u32, len: u32, of_frame: u32) -> [i32; 2] {
        let flags = u64::from(index) | u64::from(of_frame) << 32;
        let code = Code::default()
            .copy(6, 1)
            .element(&self.data)
            .copy(4, 0)
            .copy(1, 6)
            .map(2, &self.theirs)
            .set(3, flags)
            .set(5, len.into())
            .call(PERF_EVENT_OUTPUT)
            .end();
        let theirs = code.load().run(&frame());
        let parts = [&data()[..len as usize], &frame()[..of_frame as usize]];
        let ours = self.ours.perf().unwrap().output(index, 0, &parts);
        [ours.map_or_else(|errno| -errno.0, |()| 0), theirs]
    }

    fn drain(&self, index: u32, sent: &[u32]) -> [Vec<Sample>; 2] {
        let mut ours = Vec::new();
        let count = self.ours.perf().unwrap().drain(index, |record| {
            assert_eq!(record.cpu, 0);
            ours.push(Sample {
                lost: record.lost,
                data: record.data.to_vec(),
            });
        });
        assert_eq!(count, ours.len());
        let mut theirs = self.events[index as usize].drain();
        // What is behind the data is padding, which the kernel does not write.
        for (sample, &sent) in theirs.iter_mut().zip(sent) {
            sample.data[sent as usize..].fill(0);
        }
        [ours, theirs]
    }
}

/// Runs the rest of the test on CPU 0.
fn on_first_cpu() {
    // SAFETY: a set of CPUs on the stack.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        assert_eq!(
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set),
            0
        );
    }
}

fn assert_same(answers: [i32; 2]) -> i32 {
    let [ours, theirs] = answers;
    assert_eq!(ours, theirs);
    ours
}

#[test]
fn errors() {
    if !kernel_available() {
        return;
    }
    on_first_cpu();
    let last = cpus() - 1;
    let both = Both::new(&[(0, 0), (1, last)]);
    assert_eq!(assert_same(both.send(0, 8, 0)), 0);
    assert_eq!(assert_same(both.send(PERF_CURRENT_CPU, 8, 0)), 0);
    let other = if last == 0 { 0 } else { -Errno::EOPNOTSUPP.0 };
    assert_eq!(assert_same(both.send(1, 8, 0)), other);
    assert_eq!(assert_same(both.send(2, 8, 0)), -Errno::ENOENT.0);
    assert_eq!(assert_same(both.send(ENTRIES, 8, 0)), -Errno::E2BIG.0);
    assert_eq!(assert_same(both.send(u32::MAX - 1, 8, 0)), -Errno::E2BIG.0);
    for len in [4073, 4074, 4080, 4081, 4084, 4085, 4096, 10_000] {
        let both = Both::new(&[(0, 0)]);
        assert_same(both.send(0, len, 0));
        assert_same(both.send(0, 8, 0));
    }
    // Elements come and go.
    let perf = both.ours.perf().unwrap();
    let zero = 0_u32.to_ne_bytes();
    assert_eq!(perf.close(0), both.theirs.delete(&zero));
    assert_eq!(perf.close(0), both.theirs.delete(&zero));
    assert_eq!(assert_same(both.send(0, 8, 0)), -Errno::ENOENT.0);
}

#[test]
fn the_same_samples() {
    if !kernel_available() {
        return;
    }
    on_first_cpu();
    let send = (
        prop_oneof![4 => 0_u32..60, 1 => 60_u32..1500],
        prop_oneof![Just(0_u32), 0_u32..200],
    );
    // Drains after some of the samples.
    let steps = prop::collection::vec((send, prop::bool::weighted(0.1)), 1..60);
    TestRunner::new(cases(30))
        .run(&steps, |steps| {
            let both = Both::new(&[(0, 0)]);
            let mut sent = Vec::new();
            for ((len, of_frame), drain) in steps {
                let [ours, theirs] = both.send(0, len, of_frame);
                prop_assert_eq!(ours, theirs, "{} + {} bytes", len, of_frame);
                if ours == 0 {
                    sent.push(len + of_frame);
                }
                if drain {
                    let [ours, theirs] = both.drain(0, &sent);
                    prop_assert_eq!(ours, theirs);
                    sent.clear();
                }
            }
            let [ours, theirs] = both.drain(0, &sent);
            prop_assert_eq!(ours, theirs);
            Ok(())
        })
        .unwrap();
}

#[test]
fn lost_samples_are_counted_before_the_next() {
    if !kernel_available() {
        return;
    }
    on_first_cpu();
    let both = Both::new(&[(0, 0)]);
    let mut sent = 0;
    while assert_same(both.send(0, 100, 0)) == 0 {
        sent += 1;
    }
    assert_same(both.send(0, 100, 0));
    let [ours, theirs] = both.drain(0, &vec![100; sent]);
    assert_eq!(ours, theirs);
    assert_eq!(assert_same(both.send(0, 100, 0)), 0);
    let [ours, theirs] = both.drain(0, &[100]);
    assert_eq!(ours, theirs);
    assert_eq!(ours[0].lost, 2);
    assert_eq!(both.ours.perf().unwrap().lost(0), 2);
}

/// Samples as large as a record's length can say. (Beyond that the kernel's length wraps around, and it
/// writes over other records; we refuse.)
#[test]
fn samples_near_64_kib() {
    if !kernel_available() {
        return;
    }
    on_first_cpu();
    for len in [10_000, 65_508, 65_515, 65_516] {
        let both = Both::with_pages(&[(0, 0)], 32);
        assert_eq!(assert_same(both.send(0, len, 0)), 0);
        let [ours, theirs] = both.drain(0, &[len]);
        assert_eq!(ours, theirs, "{len} bytes");
        let parts: [&[u8]; 1] = [&data()[..65_517]];
        let refused = both.ours.perf().unwrap().output(0, 0, &parts);
        assert_eq!(refused, Err(Errno::ENOSPC));
    }
}

//! Ring buffers and perf event arrays: every record comes out once, whole, in its producer's order.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use squalus_isa::{Errno, MapDef, MapType};
use squalus_maps::{Map, MapEnv, PerfEvents, RING_FORCE_WAKEUP, RING_NO_WAKEUP, Ring};

use crate::common::def;
use crate::{CPUS, Random, Step, parse, soak, word, words};

/// How many words a record has, by its number.
fn len(number: u64) -> usize {
    1 + (number.wrapping_mul(0x9e37_79b9) >> 8) as usize % 40
}

fn record(producer: u32, number: u64) -> Vec<u8> {
    word(producer.into(), number)
        .to_ne_bytes()
        .repeat(len(number & 0xffff_ffff))
}

/// The producer and the number of a record, which must be whole.
fn check(record: &[u8]) -> (usize, u64) {
    let mut words = words(record);
    let first = words.next().unwrap();
    assert!(words.all(|word| word == first), "pieces of two records");
    let (producer, number) = parse(first);
    assert_eq!(record.len(), 8 * len(number));
    (producer as usize, number)
}

/// What comes from producers, each of which numbers its records.
#[derive(Default)]
struct Seen {
    last: [Option<u64>; 8],
    count: u64,
}

impl Seen {
    fn add(&mut self, data: &[u8]) {
        let (producer, number) = check(data);
        let last = self.last[producer].replace(number);
        // Numbers wrap around; some are left out.
        let step = last.map_or(1, |last| (number as u32).wrapping_sub(last as u32));
        assert!((1..1 << 31).contains(&step), "out of order or twice");
        self.count += 1;
    }
}

/// One record: copied, or reserved, filled and submitted or discarded. Whether it was submitted.
fn produce(ring: &Ring, producer: u32, number: u64, random: &mut Random) -> bool {
    let flags = [0, 0, 0, RING_NO_WAKEUP, RING_FORCE_WAKEUP][random.below(5) as usize];
    let bytes = record(producer, number);
    if random.below(2) == 0 {
        return ring.output(&bytes, flags).is_ok();
    }
    let at = ring.reserve(bytes.len() as u64);
    if at.is_null() {
        return false;
    }
    // SAFETY: a record of that length, this thread's until it is finished.
    unsafe {
        let record = std::slice::from_raw_parts_mut(at, bytes.len());
        assert!(record.iter().all(|&byte| byte == 0), "somebody else's");
        record.copy_from_slice(&bytes);
        if random.below(16) == 0 {
            std::thread::yield_now();
        }
        let discards = random.below(4) == 0;
        if discards {
            ring.discard(at, flags);
        } else {
            ring.submit(at, flags);
        }
        !discards
    }
}

#[test]
fn rings() {
    for (name, size) in [("small ring", 4096), ("large ring", 1 << 18)] {
        let map = Map::new(
            &def(MapType::RingBuf, 0, 0, size),
            &MapEnv::with_seed(CPUS, 5),
        );
        let map = map.unwrap();
        let (ring, sent) = (map.ring().unwrap(), &AtomicU64::new(0));
        let producers = (0..CPUS).map(|producer| -> Step<'_> {
            Box::new(move |random: &mut Random, number| {
                let done = produce(ring, producer, number, random);
                sent.fetch_add(done.into(), Relaxed);
            })
        });
        let seen = &mut Seen::default();
        let consumer: Step<'_> = Box::new(|random: &mut Random, _| {
            if random.below(2) == 0 {
                ring.wait(Some(Duration::from_millis(1))).unwrap();
            }
            ring.consume(|record| seen.add(record));
            assert!(ring.query(0) < ring.query(1));
        });
        soak(name, 100_000, producers.collect(), vec![consumer]);
        ring.consume(|record| seen.add(record));
        assert_eq!((seen.count, ring.query(0)), (sent.load(Relaxed), 0));
    }
}

/// A sleeping consumer is woken for every record that it waits for: with a single record at a time, nothing
/// but the wakeup can end the consumer's sleep.
#[test]
fn wakeups() {
    let map = Map::new(&def(MapType::RingBuf, 0, 0, 4096), &MapEnv::with_seed(1, 5)).unwrap();
    let (ring, taken) = (map.ring().unwrap(), &AtomicU64::new(0));
    let mut sent = 0;
    let producer: Step<'_> = Box::new(move |_, _| {
        if taken.load(Relaxed) == sent {
            ring.output(&record(0, sent), 0).unwrap();
            sent += 1;
        } else {
            std::thread::yield_now();
        }
    });
    let consumer: Step<'_> = Box::new(move |_, _| {
        let woken = ring.wait(Some(Duration::from_secs(60))).unwrap();
        assert!(woken, "slept beside a record");
        let count = ring.consume(|record| {
            check(record);
        });
        taken.fetch_add(count as u64, Relaxed);
    });
    soak("wakeups", 20_000, vec![consumer], vec![producer]);
}

fn send(perf: &PerfEvents, index: u32, cpu: u32, producer: u32, number: u64) -> Result<(), Errno> {
    let bytes = record(producer, number);
    let (one, two) = bytes.split_at(bytes.len() / 2);
    // Padding comes behind: four bytes less are whole words.
    perf.output(index, cpu, &[one, two, &[0; 4]])
}

/// Two threads stand in for CPU 0, as a test run beside a worker does.
#[test]
fn perf_events() {
    let env = MapEnv::with_seed(CPUS, 5);
    let map = Map::new(&def(MapType::PerfEventArray, 4, 4, CPUS), &env).unwrap();
    let perf = map.perf().unwrap();
    perf.open_all(2).unwrap();
    let (sent, lost) = (&AtomicU64::new(0), &AtomicU64::new(0));
    let producers = (0..=CPUS).map(|producer| -> Step<'_> {
        let worker = env.reclaimer.register();
        Box::new(move |_, number| {
            let cpu = producer % CPUS;
            match send(perf, u32::MAX, cpu, producer, number) {
                Ok(()) => sent.fetch_add(1, Relaxed),
                Err(errno) => {
                    assert_eq!(errno, Errno::ENOSPC);
                    lost.fetch_add(1, Relaxed)
                }
            };
            worker.quiescent();
        })
    });
    let (seen, reported) = (&mut Seen::default(), &mut 0);
    let mut drain = || {
        for cpu in 0..CPUS {
            perf.drain(cpu, |record| {
                assert_eq!(record.cpu, cpu);
                seen.add(&record.data[..record.data.len() - 4]);
                *reported += record.lost;
            });
        }
    };
    let consumer: Step<'_> = Box::new(|random: &mut Random, _| {
        if random.below(2) == 0 {
            perf.wait(Some(Duration::from_millis(1))).unwrap();
        }
        drain();
    });
    soak("perf events", 100_000, producers.collect(), vec![consumer]);
    drain();
    assert_eq!(seen.count, sent.load(Relaxed));
    let ever: u64 = (0..CPUS).map(|cpu| perf.lost(cpu)).sum();
    assert_eq!(ever, lost.load(Relaxed));
    assert!(*reported <= ever, "more lost than there were");
}

/// Rings are opened and closed under programs and consumers, alone and as inner maps.
#[test]
fn rings_that_come_and_go() {
    let env = MapEnv::with_seed(CPUS, 5);
    let map = Map::new(&def(MapType::PerfEventArray, 4, 4, 1), &env).unwrap();
    let ring = def(MapType::RingBuf, 0, 0, 4096);
    let outer = MapDef {
        inner: Some(Box::new(ring.clone())),
        ..def(MapType::ArrayOfMaps, 4, 4, 1)
    };
    let outer = Map::new(&outer, &env).unwrap();
    let (perf, outer, env) = (map.perf().unwrap(), &*outer, &env);
    let workers = (0..2).map(|producer| -> Step<'_> {
        let worker = env.reclaimer.register();
        Box::new(move |random: &mut Random, number| {
            let _ = send(perf, 0, 0, producer, number);
            // SAFETY: the key has its size; a registered worker may use inner maps.
            let inner = unsafe { outer.lookup([0; 4].as_ptr(), 0).cast::<Map>().as_ref() };
            if let Some(inner) = inner {
                produce(inner.ring().unwrap(), producer, number, random);
            }
            worker.quiescent();
        })
    });
    let control: Step<'_> = Box::new(move |random: &mut Random, _| match random.below(4) {
        0 => perf.open(0, 0, 1).unwrap(),
        1 => drop(perf.close(0)),
        2 => {
            let new = Map::new(&ring, env).unwrap();
            outer.set_inner(&[0; 4], new).unwrap();
        }
        _ => {
            perf.drain(0, |record| {
                check(&record.data[..record.data.len() - 4]);
            });
            if let Some(inner) = outer.get_inner(&[0; 4]).unwrap() {
                inner.ring().unwrap().consume(|record| {
                    check(record);
                });
            }
        }
    });
    soak(
        "rings that come and go",
        50_000,
        workers.collect(),
        vec![control],
    );
    assert_eq!(env.reclaimer.collect(), 0);
}

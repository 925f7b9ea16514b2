//! Ring buffers: producers, the consumer, and its sleep.

use std::sync::Arc;

use super::{explore, spawn};
use crate::ring::buffer::{Buffer, Header};
use crate::ring::wakeup::Wakeup;
use crate::sync::atomic::Ordering::Relaxed;
use crate::words;

/// A header alone, and one with a word of data.
const SHORT: u64 = 8;
const LONG: u64 = 16;
/// Never is every byte in use: three short records, or a long and a short one.
const LEN: u32 = 32;

/// Headers say how long the record is, and beside it what it means.
fn read(header: u64) -> Header {
    match header as u32 {
        0 => Header::Busy,
        len => Header::Ready(len),
    }
}

/// A buffer all of whose memory was used once. Records in it may not run over its end.
fn buffer() -> Arc<Buffer> {
    let memory = Box::leak(Box::new([0_u64; LEN as usize / 8]));
    let buffer = Arc::new(Buffer::over(memory.as_mut_ptr().cast(), LEN, None));
    for _ in 0..2 {
        assert!(put(&buffer, LONG, 1));
        assert_eq!(take(&buffer), [1]);
    }
    buffer
}

/// Frees the memory of a [`buffer`] that nobody else has any more.
fn free(buffer: Arc<Buffer>) {
    let memory = buffer.at(0).cast::<[u64; LEN as usize / 8]>();
    drop(Arc::into_inner(buffer).expect("all threads are done"));
    // SAFETY: the box leaked by `buffer`, which nobody uses any more.
    drop(unsafe { Box::from_raw(memory) });
}

fn put(buffer: &Buffer, len: u64, number: u64) -> bool {
    let Some(at) = buffer.claim(len) else {
        return false;
    };
    assert_eq!(buffer.header(at).load(Relaxed), 0, "not ours yet");
    if len == LONG {
        buffer.fill(at, 8, &number.to_ne_bytes());
    }
    buffer.commit(at, number << 32 | len);
    true
}

fn take(buffer: &Buffer) -> Vec<u64> {
    let mut taken = Vec::new();
    buffer.consume(read, |header, bytes| {
        let number = header >> 32;
        if header as u32 == LONG as u32 {
            let mut word = [0; 8];
            // SAFETY: both have 8 bytes. Through atomics, so that loom sees it.
            unsafe { words::load(word.as_mut_ptr(), bytes.as_ptr(), 8) };
            assert_eq!(u64::from_ne_bytes(word), number);
        }
        taken.push(number);
    });
    taken
}

/// All of `records` (length and number) that there is room for. Returns the numbers.
fn put_all(buffer: &Buffer, records: &[(u64, u64)]) -> Vec<u64> {
    let sent = records
        .iter()
        .filter(|(len, number)| put(buffer, *len, *number));
    sent.map(|(_, number)| *number).collect()
}

#[test]
fn a_consumer_takes_what_one_producer_put() {
    explore("ring: a producer laps the consumer", 3, || {
        let buffer = buffer();
        let producer = Arc::clone(&buffer);
        let records = [(LONG, 1), (SHORT, 2), (SHORT, 3), (SHORT, 4)];
        let thread = spawn(move || put_all(&producer, &records));
        let mut taken = take(&buffer);
        taken.extend(take(&buffer));
        let sent = thread.join().unwrap();
        taken.extend(take(&buffer));
        assert_eq!(taken, sent);
        assert!(sent.len() >= 2);
        free(buffer);
    });
}

#[test]
fn producers_never_share_a_record() {
    explore("ring: two producers and the consumer", 2, || {
        let buffer = buffer();
        let threads = [10, 20].map(|number| {
            let producer = Arc::clone(&buffer);
            let records = [0, 1, 2].map(|record| (SHORT, number + record));
            spawn(move || put_all(&producer, &records))
        });
        let mut taken = take(&buffer);
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        taken.extend(take(&buffer));
        let of = |producer: u64| {
            taken
                .iter()
                .copied()
                .filter(move |number| number / 10 == producer)
        };
        assert!(of(1).eq(first.iter().copied()) && of(2).eq(second.iter().copied()));
        assert_eq!(taken.len(), first.len() + second.len());
        assert!(taken.len() >= 3);
        free(buffer);
    });
}

#[test]
fn no_wakeup_is_lost() {
    explore("ring: sleep against commit", 3, || {
        let shared = Arc::new((buffer(), Wakeup::new()));
        // Touches the flag.
        assert!(shared.1.may_sleep(|| false) && shared.1.must_wake());
        let producer = Arc::clone(&shared);
        let thread = spawn(move || {
            let (buffer, wakeup) = &*producer;
            let at = buffer.produced();
            assert!(put(buffer, SHORT, 7));
            // As `Ring::commit` decides.
            buffer.consumed() == at && wakeup.must_wake()
        });
        let (buffer, wakeup) = &*shared;
        let mut taken = take(buffer);
        let sleeps = taken.is_empty() && wakeup.may_sleep(|| buffer.is_ready(read));
        let woken = thread.join().unwrap();
        assert!(!sleeps || woken, "sleeps beside a record");
        taken.extend(take(buffer));
        assert_eq!(taken, [7]);
        free(Arc::into_inner(shared).expect("the thread is done").0);
    });
}

/// A consumer that is behind is not woken; it must find the record itself before it sleeps.
#[test]
fn a_consumer_that_catches_up_finds_the_record() {
    explore("ring: catching up against commit", 3, || {
        let shared = Arc::new((buffer(), Wakeup::new()));
        assert!(shared.1.may_sleep(|| false) && shared.1.must_wake());
        assert!(put(&shared.0, SHORT, 1));
        let producer = Arc::clone(&shared);
        let thread = spawn(move || {
            let (buffer, wakeup) = &*producer;
            let at = buffer.produced();
            assert!(put(buffer, SHORT, 2));
            buffer.consumed() == at && wakeup.must_wake()
        });
        let (buffer, wakeup) = &*shared;
        let mut taken = take(buffer);
        let left = taken == [1];
        let sleeps = wakeup.may_sleep(|| buffer.is_ready(read));
        let woken = thread.join().unwrap();
        assert!(!(sleeps && left) || woken, "sleeps beside a record");
        taken.extend(take(buffer));
        assert_eq!(taken, [1, 2]);
        free(Arc::into_inner(shared).expect("the thread is done").0);
    });
}

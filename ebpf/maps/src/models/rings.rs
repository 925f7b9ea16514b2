//! Ring buffers: producers, the consumer, and its sleep.

use std::sync::Arc;

use super::{explore, spawn};
use crate::ring::buffer::{Buffer, Header};
use crate::ring::wakeup::Wakeup;
use crate::words;

/// Header and one word of data.
const RECORD: u64 = 16;
/// Three records: never is every byte in use.
const LEN: u32 = 64;

fn read(header: u64) -> Header {
    if header == 0 {
        Header::Busy
    } else {
        Header::Ready(RECORD as u32)
    }
}

/// A buffer all of whose memory was used once. Records of this size never run over its end.
fn buffer() -> Arc<Buffer> {
    let memory = Box::leak(Box::new([0_u64; LEN as usize / 8]));
    let buffer = Arc::new(Buffer::over(memory.as_mut_ptr().cast(), LEN, None));
    for _ in 0..2 {
        assert!(put(&buffer, 1) && put(&buffer, 1));
        assert_eq!(take(&buffer), [1, 1]);
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

fn put(buffer: &Buffer, word: u64) -> bool {
    let Some(at) = buffer.claim(RECORD) else {
        return false;
    };
    buffer.fill(at, 8, &word.to_ne_bytes());
    buffer.commit(at, 1);
    true
}

fn take(buffer: &Buffer) -> Vec<u64> {
    let mut taken = Vec::new();
    buffer.consume(read, |_, bytes| {
        let mut word = [0; 8];
        // SAFETY: both have 8 bytes. Through atomics, so that loom sees it.
        unsafe { words::load(word.as_mut_ptr(), bytes.as_ptr(), 8) };
        taken.push(u64::from_ne_bytes(word));
    });
    taken
}

#[test]
fn a_consumer_takes_what_one_producer_put() {
    explore("ring: a producer laps the consumer", 3, || {
        let buffer = buffer();
        let producer = Arc::clone(&buffer);
        let thread = spawn(move || {
            (1..=4)
                .filter(|&word| put(&producer, word))
                .collect::<Vec<_>>()
        });
        let mut taken = take(&buffer);
        taken.extend(take(&buffer));
        let sent = thread.join().unwrap();
        taken.extend(take(&buffer));
        assert_eq!(taken, sent);
        assert!(sent.len() >= 3);
        free(buffer);
    });
}

#[test]
fn producers_never_share_a_record() {
    explore("ring: two producers and the consumer", 2, || {
        let buffer = buffer();
        let threads = [10, 20].map(|word| {
            let producer = Arc::clone(&buffer);
            spawn(move || [put(&producer, word), put(&producer, word + 1)])
        });
        let mut taken = take(&buffer);
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        taken.extend(take(&buffer));
        let mut sent = Vec::new();
        for (base, done) in [(10, first), (20, second)] {
            let words: Vec<_> = (base..).zip(done).filter(|(_, done)| *done).collect();
            let words: Vec<u64> = words.into_iter().map(|(word, _)| word).collect();
            let of: Vec<_> = taken
                .iter()
                .filter(|&&word| word / 10 == base / 10)
                .collect();
            assert!(of.into_iter().eq(&words));
            sent.extend(words);
        }
        assert_eq!(taken.len(), sent.len());
        assert!(sent.len() >= 3);
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
            let at = buffer.claim(RECORD).unwrap();
            buffer.fill(at, 8, &7_u64.to_ne_bytes());
            buffer.commit(at, 1);
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
        assert!(put(&shared.0, 1));
        let producer = Arc::clone(&shared);
        let thread = spawn(move || {
            let (buffer, wakeup) = &*producer;
            let at = buffer.claim(RECORD).unwrap();
            buffer.fill(at, 8, &2_u64.to_ne_bytes());
            buffer.commit(at, 1);
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

//! The pool of free slots.

use std::sync::Arc;

use super::{explore, spawn};
use crate::pool::Pool;

/// A pool whose `slots` were all in use once and are free.
fn pool(slots: u32) -> Arc<Pool> {
    let pool = Arc::new(Pool::new(slots).unwrap());
    let all: Vec<_> = std::iter::from_fn(|| pool.pop()).collect();
    all.into_iter().rev().for_each(|slot| pool.push(slot));
    pool
}

#[test]
fn no_slot_has_two_owners() {
    explore("pool: pop, pop, push against pop", 3, || {
        let pool = pool(3);
        let other = Arc::clone(&pool);
        // The classic mistake: the other thread's pop sleeps while its slot comes back with another below.
        let thread = spawn(move || other.pop());
        let (first, second) = (pool.pop().unwrap(), pool.pop().unwrap());
        pool.push(first);
        let third = pool.pop();
        let theirs = thread.join().unwrap();
        let mut mine: Vec<_> = [Some(second), third, theirs]
            .into_iter()
            .flatten()
            .collect();
        mine.extend(std::iter::from_fn(|| pool.pop()));
        mine.sort_unstable();
        assert_eq!(mine, [0, 1, 2]);
    });
}

#[test]
fn fresh_slots_go_to_one() {
    explore("pool: fresh slots", 3, || {
        let pool = Arc::new(Pool::new(2).unwrap());
        // Touches all there is.
        let slot = pool.pop().unwrap();
        pool.push(slot);
        let other = Arc::clone(&pool);
        let thread = spawn(move || other.pop().unwrap());
        let mine = pool.pop().unwrap();
        assert_ne!(mine, thread.join().unwrap());
        assert_eq!(pool.pop(), None);
    });
}

//! Models: the real code, with few threads that do little, in every order and with every value that memory
//! may show them (see [`crate::sync`]).
//!
//!     cargo test -p squalus-maps --features model --lib models
//!
//! Each test says on stderr how many executions it explored; with `SQUALUS_MORE_PREEMPTIONS=1` it allows
//! each thread one more interruption, and takes its time. What a model's threads use is touched before
//! they start; if something is not, loom stops with a causality violation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hashes;
mod locks;
mod references;
mod rings;
mod slots;
mod tries;

use std::sync::Arc;

use loom::thread::JoinHandle;
use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

use crate::sync::check;
use crate::{Map, MapEnv};

/// Explores `model` and says how much there was. A model with a single execution explores nothing.
fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let more = std::env::var("SQUALUS_MORE_PREEMPTIONS").map_or(0, |more| more.parse().unwrap());
    let runs = check(preemptions + more, model);
    eprintln!("{name}: {runs} executions");
    assert!(runs > 1, "{name}: its threads never meet");
}

fn spawn<R: 'static>(thread: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    loom::thread::spawn(thread)
}

fn def(kind: MapType, max_entries: u32) -> MapDef {
    MapDef {
        flags: if kind == MapType::LpmTrie {
            MapFlags::NO_PREALLOC
        } else {
            MapFlags(0)
        },
        ..MapDef::new(kind.name(), kind, (8, 8), max_entries)
    }
}

fn map(def: &MapDef) -> Arc<Map> {
    Map::new(def, &MapEnv::with_seed(1, 7)).unwrap()
}

fn update(map: &Map, key: u64, value: u64, flags: UpdateFlags) -> bool {
    let (key, value) = (key.to_ne_bytes(), value.to_ne_bytes());
    map.sys_update(&key, &value, flags).is_ok()
}

fn lookup(map: &Map, key: u64) -> Option<u64> {
    let value = map.sys_lookup(&key.to_ne_bytes()).unwrap()?;
    Some(u64::from_ne_bytes(value.try_into().unwrap()))
}

fn delete(map: &Map, key: u64) -> bool {
    map.sys_delete(&key.to_ne_bytes()).is_ok()
}

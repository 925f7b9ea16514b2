//! Which programs have a function beside them that announces their lookups.

mod common;

use common::{compile_all, link, load};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize};
use squalus_jit::{Options, Pass, Passes};
use squalus_runtime::asm::{Asm, R};

fn map(kind: MapType) -> MapDef {
    MapDef::new("map", kind, (4, 8), 8)
}

/// Looks up 0, perhaps after a number was drawn.
fn looking(draw: bool) -> Vec<Insn> {
    let mut c = Asm::new();
    if draw {
        c.call(HelperId::GET_PRANDOM_U32);
    }
    c.store(MemSize::W, 10, -4, 0)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(0, 2)
        .exit();
    c.finish()
}

fn announces(code: Vec<Insn>, kind: MapType, passes: Passes) -> bool {
    let options = Options {
        passes,
        ..Options::default()
    };
    compile_all(&link(&[code], &[map(kind)]), options)[0].announces()
}

#[test]
fn lookups_in_lru_maps_are_announced_unless_something_is_done_before() {
    for passes in [Passes::ALL, Passes::NONE.with(Pass::Prefetch)] {
        assert!(announces(looking(false), MapType::LruHash, passes));
        assert!(!announces(looking(true), MapType::LruHash, passes));
        assert!(!announces(looking(false), MapType::Hash, passes));
        assert!(!announces(looking(false), MapType::Array, passes));
    }
    let without = Passes::ALL.without(Pass::Prefetch);
    assert!(!announces(looking(false), MapType::LruHash, without));
}

#[test]
fn the_balancers_are() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bpf/objects/balancer.bpf.o"
    );
    let bytes = std::fs::read(path).expect("the repository holds its objects");
    let compiled = compile_all(&load(&bytes, 2), Options::default());
    assert!(compiled[0].announces());
}

//! The packet loop does not allocate: neither engine, on our own balancer.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use squalus_engine::{Engine, MapAccess};
use squalus_isa::{HelperId, MapDef, MapType, MemSize, Verdict};
use squalus_object::Object;
use squalus_runtime::FrameRef;
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{EngineKind, VmBuilder};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: forwards everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn bursts_do_not_allocate() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects/balancer.bpf.o");
    let bytes = std::fs::read(path).unwrap();
    for kind in [EngineKind::Interp, EngineKind::Jit] {
        let object = Object::parse(&bytes).unwrap();
        let vm = VmBuilder::new(object).engine(kind).build().unwrap();
        let mut worker = vm.worker(&vm.programs()[0], 0).unwrap();
        let mut buffers = vec![[0u8; 512]; 16];
        for (n, buffer) in buffers.iter_mut().enumerate() {
            let ether_type: u16 = if n % 2 == 0 { 0x0800 } else { 0x86dd };
            buffer[268..270].copy_from_slice(&ether_type.to_be_bytes());
            (buffer[270], buffer[279]) = (if n % 2 == 0 { 0x45 } else { 0x60 }, 6);
        }
        let frames = buffers
            .iter_mut()
            .map(|b| FrameRef::new(b, 256, 128).unwrap());
        let mut frames: Vec<FrameRef<'_>> = frames.collect();
        let mut verdicts = vec![Verdict::Aborted; 16];
        let before = ALLOCATIONS.get();
        for _ in 0..10 {
            worker.run_burst(&mut frames, &mut verdicts);
        }
        assert_eq!(ALLOCATIONS.get(), before, "{}", kind.name());
        assert_eq!(worker.stats().runs(), 160);
        assert!(worker.last_trap().is_none());
    }
}

fn map(kind: MapType, value_size: u32, inner: Option<MapDef>) -> MapDef {
    MapDef {
        inner: inner.map(Box::new),
        ..MapDef::new(kind.name(), kind, (4, value_size), 4)
    }
}

/// The value is used without a comparison with null, so compiled code has it looked for in all maps.
#[test]
fn checks_in_maps_of_maps_do_not_allocate() {
    for (kind, outer) in [EngineKind::Interp, EngineKind::Jit]
        .into_iter()
        .flat_map(|kind| [(kind, MapType::ArrayOfMaps), (kind, MapType::HashOfMaps)])
    {
        let inner = map(MapType::Array, 8, None);
        let mut asm = Asm::new();
        let out = asm.label();
        asm.store(MemSize::W, 10, -4, 1)
            .mov(2, R(10))
            .add(2, -4)
            .map(1, 0)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, out)
            .mov(1, R(0))
            .mov(2, R(10))
            .add(2, -4)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .load(MemSize::Dw, 0, 0, 0)
            .add(0, 2)
            .bind(out)
            .exit();
        let maps = vec![map(outer, 4, Some(inner.clone()))];
        let vm = VmBuilder::assembled(maps, vec![("reads".into(), asm.finish())])
            .engine(kind)
            .build()
            .unwrap();
        vm.create_inner(outer.name(), &1u32.to_ne_bytes(), &inner)
            .unwrap();
        let mut worker = vm.worker("reads", 0).unwrap();
        let mut buffer = [0; 400];
        let mut frames = [FrameRef::new(&mut buffer, 256, 60).unwrap()];
        let mut verdicts = [Verdict::Aborted];
        let before = ALLOCATIONS.get();
        worker.run_burst(&mut frames, &mut verdicts);
        assert_eq!(ALLOCATIONS.get(), before, "{} {outer}", kind.name());
        assert_eq!(verdicts, [Verdict::Pass]);
    }
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.get() > before);
}

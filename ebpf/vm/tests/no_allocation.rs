//! The packet loop does not allocate: neither engine, on our own balancer.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use squalus_engine::Engine;
use squalus_isa::Verdict;
use squalus_object::Object;
use squalus_runtime::FrameRef;
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

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.get() > before);
}

//! Frames at low addresses, from which a pointer reaches below zero. That wraps around and stays an access
//! outside the packet.

mod common;

use common::{compile_all, link};
use squalus_isa::{MemSize, opcode as o};
use squalus_jit::{Options, run_linked};
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{Clock, Env, FrameRef, Rng, TrapReason};

const LEN: usize = 4096;

/// A page that a program which is not position-independent could have its heap at.
fn low_page() -> Option<&'static mut [u8]> {
    let wanted: *mut libc::c_void = std::ptr::without_provenance_mut(0x1000_0000);
    // SAFETY: a new private mapping that replaces none.
    let page = unsafe {
        libc::mmap(
            wanted,
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    // SAFETY: if it is there, the mapping has this length, is zeroed and nobody else's, and stays.
    (page == wanted).then(|| unsafe { std::slice::from_raw_parts_mut(page.cast(), LEN) })
}

#[test]
fn addresses_below_zero_are_outside_the_packet() {
    let Some(page) = low_page() else {
        eprintln!("SKIPPED: the address is not free");
        return;
    };
    let mut asm = Asm::new();
    let out = asm.label();
    asm.load(MemSize::W, 2, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(4, R(2))
        .add(4, 14)
        .mov(0, 0)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::W, 5, 2, 0)
        .alu(o::SUB, 2, R(5))
        .load(MemSize::Dw, 0, 2, 0)
        .bind(out)
        .exit();
    let loaded = link(&[asm.finish()], &[]);
    let programs = compile_all(&loaded, Options::default());
    let _worker = loaded.env.reclaimer.register();
    let data = page.as_ptr().addr() as u32 + 256;
    for below in [1, 4, 8, 9] {
        page[256..260].copy_from_slice(&(data + below).to_ne_bytes());
        let mut frame = FrameRef::new(page, 256, 64).expect("the packet is inside the page");
        let mut env = Env::new(0, Clock::Fixed(0), Rng::seeded(1));
        env.begin(frame.place());
        // SAFETY: environment and frame are live and ours; the worker is registered; `compile_all` made
        // the program from its own facts.
        unsafe { run_linked(&programs, 0, &raw mut env) };
        assert_eq!(env.trap_reason(), Some(TrapReason::Packet), "{below}");
    }
}

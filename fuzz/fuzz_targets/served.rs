//! Programs of the conformance suite's generator, whose choices the input makes: interpreted, compiled, and as `squalus
//! serve` has them, in bursts and with code made anew in between, they do the same.
#![no_main]

use squalus_conformance::engines::Kind;
use squalus_conformance::{Rng, programs};

/// Frames for each program: running costs little, compiling much.
const FRAMES: usize = 12;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let rng = &mut Rng::of_choices(input);
    if let Err(error) = programs::compare_random(rng, &[Kind::Interp, Kind::Jit], FRAMES) {
        panic!("{error}");
    }
});

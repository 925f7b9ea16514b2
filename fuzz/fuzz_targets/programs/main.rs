//! Any program the loader and the analysis take runs safely compiled, and does what it does interpreted.
#![no_main]

mod bytes;
mod check;
mod engines;
mod generate;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));

//! Random programs in every engine.

use squalus_conformance::engines::{self, Kind};
use squalus_conformance::{Rng, programs};

const PROGRAMS: u64 = 400;
const FRAMES: usize = 12;

#[test]
fn random_programs_agree() {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    for seed in 0..PROGRAMS {
        if let Err(error) = programs::compare_random(&mut Rng::new(seed), &kinds, FRAMES) {
            panic!("program {seed}: {error}");
        }
    }
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    let runs = PROGRAMS * FRAMES as u64;
    eprintln!(
        "{PROGRAMS} random programs, {runs} runs, on {}",
        names.join(", ")
    );
}

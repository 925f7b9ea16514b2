//! Random programs in every engine.

use squalus_conformance::engines::{self, Kind};
use squalus_conformance::{Rng, programs};

const PROGRAMS: u64 = 100;
const FRAMES: usize = 12;
/// Most programs of a hundred that may be too much for the kernel's verifier: with those it says nothing.
const NOT_JUDGED: u64 = 10;

#[test]
fn random_programs_agree() {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    let mut not_judged = 0;
    for seed in 0..PROGRAMS {
        match programs::compare_random(&mut Rng::new(seed), &kinds, FRAMES) {
            Ok(agreed) => not_judged += u64::from(agreed.without_kernel),
            Err(error) => panic!("program {seed}: {error}"),
        }
    }
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    let runs = PROGRAMS * FRAMES as u64;
    eprintln!(
        "{PROGRAMS} random programs, {not_judged} of them too much for the kernel, {runs} runs, on {}",
        names.join(", ")
    );
    assert!(not_judged * 100 <= PROGRAMS * NOT_JUDGED);
}

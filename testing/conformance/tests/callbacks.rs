//! Callbacks, spin locks and ring buffer records in every engine, by a program that does what frames say.

use squalus_conformance::engines::{self, Kind, Subject};
use squalus_conformance::{Case, Hunt, Rng, Step, Tally, Watch};

static OBJECT: &[u8] = include_bytes!("../objects/callbacks.o");
const OPERATIONS: u64 = 17;

/// A frame that asks for an operation; arguments are mostly small.
fn frame(rng: &mut Rng) -> Step {
    let mut frame = vec![0u8; 64];
    for byte in &mut frame {
        *byte = rng.word() as u8;
    }
    let operation = rng.word() % OPERATIONS;
    let small = |rng: &mut Rng| match rng.word() % 16 {
        0 => u32::MAX - rng.word() as u32 % 3,
        1 => rng.word() as u32 % 5000,
        _ => rng.word() as u32 % 24,
    };
    frame[0] = operation as u8;
    let (a, b) = (small(rng), small(rng));
    frame[2..6].copy_from_slice(&a.to_ne_bytes());
    frame[6..10].copy_from_slice(&b.to_ne_bytes());
    Step::Run {
        program: "callbacks".to_owned(),
        cpu: 0,
        frame,
    }
}

#[test]
fn callbacks_locks_and_records_agree() {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    let subject = Subject::new(OBJECT);
    let watch = Watch::default();
    let hunt = Hunt {
        subject: &subject,
        kinds: &kinds,
        watch: &watch,
    };
    let mut total = Tally::default();
    for seed in 0..4 {
        let mut rng = Rng::new(seed);
        let case = Case {
            steps: (0..1500).map(|_| frame(&mut rng)).collect(),
        };
        match hunt.run(case.steps.into_iter()) {
            Ok(tally) => total += tally,
            Err(error) => panic!("case {seed}: {error}"),
        }
    }
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    eprintln!(
        "callbacks, locks and records on {}: {total}",
        names.join(", ")
    );
}

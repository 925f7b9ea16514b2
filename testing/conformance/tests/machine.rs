//! Every map type and helper, from the program's and the control plane's side, in every engine.

use squalus_conformance::engines::{self, Kind, Subject};
use squalus_conformance::{Case, Hunt, Watch, maps, maps_kinds};

fn hunt(what: &str, (object, watch): (&[u8], Watch), cases: impl Iterator<Item = Case>) {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    let subject = Subject::new(object);
    let hunt = Hunt {
        subject: &subject,
        kinds: &kinds,
        watch: &watch,
    };
    let mut total = squalus_conformance::Tally::default();
    for (seed, case) in cases.enumerate() {
        match hunt.run(case.steps.into_iter()) {
            Ok(tally) => total += tally,
            Err(error) => panic!("{what}, case {seed}: {error}"),
        }
    }
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    eprintln!("{what} on {}: {total}", names.join(", "));
}

fn cpus() -> usize {
    squalus_kernel::possible_cpus().expect("the kernel counts its CPUs")
}

#[test]
fn map_operations_agree() {
    let case = |seed| maps::Generator::new(seed, cpus()).map_case(2000);
    hunt(
        "map operations",
        (maps::OBJECT, maps::watch()),
        (0..12).map(case),
    );
}

#[test]
fn helpers_agree() {
    let case = |seed| maps::Generator::new(seed, cpus()).helper_case(3000);
    hunt("helpers", (maps::OBJECT, maps::watch()), (0..4).map(case));
}

#[test]
fn other_kinds_of_maps_agree() {
    let case = |seed| maps_kinds::Generator::new(seed, cpus()).case(2000);
    let what = (maps_kinds::OBJECT, maps_kinds::watch());
    hunt("other kinds of maps", what, (0..8).map(case));
}

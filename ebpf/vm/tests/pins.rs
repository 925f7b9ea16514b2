//! Maps shared by name among machines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{MapType, Verdict};
use squalus_object::{Object, Pinning};
use squalus_vm::{EngineKind, PinnedMaps, Vm, VmBuilder, VmError};

fn object(name: &str) -> Object {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../object/tests/objects");
    Object::parse(&std::fs::read(format!("{folder}/{name}")).unwrap()).unwrap()
}

fn machine(pins: &PinnedMaps, kind: EngineKind) -> Vm {
    let builder = VmBuilder::new(object("pins.o"));
    builder.engine(kind).pins(pins).build().unwrap()
}

/// What `map` counted under key 0.
fn count(vm: &Vm, map: &str) -> u64 {
    let value = vm.lookup(map.into(), &[0; 4]).unwrap();
    value.map_or(0, |v| u64::from_ne_bytes(v.try_into().unwrap()))
}

fn run(vm: &mut Vm) {
    let result = vm.test_run("counts", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Pass);
}

#[test]
fn machines_share_the_maps_that_the_object_wants_pinned() {
    let pins = PinnedMaps::new(2);
    let mut first = machine(&pins, EngineKind::Interp);
    run(&mut first);
    let mut second = machine(&pins, EngineKind::Jit);
    run(&mut second);
    run(&mut second);
    let counts = |vm: &Vm| ["seen", "fresh", "own"].map(|map| count(vm, map));
    assert_eq!(counts(&first), [3, 1, 1]);
    // A map that is to be replaced begins anew, and its name is the new one's.
    assert_eq!(counts(&second), [3, 2, 2]);
    let mut third = machine(&pins, EngineKind::Interp);
    run(&mut third);
    assert_eq!(counts(&third), [4, 1, 1]);
    assert_eq!(counts(&second), [4, 2, 2]);

    assert_eq!(pins.names(), ["fresh", "seen"]);
    assert_eq!(pins.def("seen").unwrap().kind, MapType::Hash);
    assert_eq!(first.cpus(), 2);
    drop((first, second, third));
    // A pinned map outlives its machines, as the kernel's do.
    assert_eq!(count(&machine(&pins, EngineKind::Interp), "seen"), 4);
    assert!(pins.unpin("seen") && !pins.unpin("seen"));
    assert_eq!(count(&machine(&pins, EngineKind::Interp), "seen"), 0);
}

#[test]
fn without_a_namespace_every_machine_has_its_own_maps() {
    let build = || VmBuilder::new(object("pins.o")).build().unwrap();
    let mut first = build();
    run(&mut first);
    assert_eq!((count(&first, "seen"), count(&build(), "seen")), (1, 0));
}

#[test]
fn other_maps_of_the_same_name_are_refused_and_nothing_remains() {
    let pins = PinnedMaps::new(1);
    let _first = machine(&pins, EngineKind::Interp);
    pins.unpin("fresh");
    let mut other = object("pins.o");
    let seen = other
        .maps
        .iter_mut()
        .find(|m| m.def.name == "seen")
        .unwrap();
    seen.def.max_entries = 17;
    let error = VmBuilder::new(other).pins(&pins).build().unwrap_err();
    assert!(matches!(error, VmError::Pinned { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "map `seen` is pinned already and can't be shared: its number of entries is 16, not 17; change the object, or unpin the map first"
    );
    assert_eq!(pins.names(), ["seen"]);
}

#[test]
fn programs_are_not_shared() {
    let pins = PinnedMaps::new(1);
    let build = || {
        let mut object = object("legacy_tails.o");
        for map in &mut object.maps {
            map.pinning = Pinning::ByObject;
        }
        VmBuilder::new(object).pins(&pins).build()
    };
    let _first = build().unwrap();
    let error = build().unwrap_err().to_string();
    assert!(
        error.starts_with("map `jumps` is pinned already"),
        "{error}"
    );
    let names = pins.names();
    assert!(names.iter().all(|name| name.contains('/')), "{names:?}");
}

#[test]
fn tail_calls_by_the_names_of_sections_work() {
    let mut vm = VmBuilder::new(object("legacy_tails.o")).build().unwrap();
    let result = vm.test_run("entry", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Pass);
}

#[test]
fn a_program_alone_brings_those_that_its_maps_refer_to() {
    let builder = VmBuilder::new(object("legacy_tails.o"));
    let mut vm = builder.only(&["entry"]).build().unwrap();
    assert_eq!(vm.programs(), ["entry", "second", "third"]);
    let result = vm.test_run("entry", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Pass);
}

#[test]
fn a_program_of_a_nameless_section_runs_when_asked_for() {
    let unasked = VmBuilder::new(object("pins.o")).build().unwrap();
    assert_eq!(unasked.programs(), ["counts"]);
    let builder = VmBuilder::new(object("pins.o"));
    let mut vm = builder.only(&["unnamed"]).build().unwrap();
    let result = vm.test_run("unnamed", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Drop);
}

#[test]
fn kernel_functions_are_named_where_a_program_reaches_them() {
    let build = |program: &str| VmBuilder::new(object("ksyms.o")).only(&[program]).build();
    // All it calls may be absent, and is.
    for program in ["hash", "maybe"] {
        build(program).unwrap();
    }
    let error = build("required").unwrap_err().to_string();
    assert!(
        error.contains("it calls `bpf_xdp_required_and_missing` of the kernel"),
        "{error}"
    );
}

#[test]
fn configuration_is_what_the_host_says_or_nothing_runs() {
    let error = VmBuilder::new(object("kconfig.o")).build().unwrap_err();
    assert!(error.to_string().contains("resolve_config"), "{error}");
    let mut fitted = object("kconfig.o");
    fitted.fit_to_host().unwrap();
    let mut vm = VmBuilder::new(fitted).only(&["version"]).build().unwrap();
    let result = vm.test_run("version", &TestRun::once(&[0; 60])).unwrap();
    assert_eq!(result.verdict(), Verdict::Pass);
}

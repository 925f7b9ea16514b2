//! Whole objects: those of this repository, and katran's own when they are here.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::path::{Path, PathBuf};

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{MapFlags, UpdateFlags};
use squalus_object::Object;
use squalus_vm::{EngineKind, Vm, VmBuilder, VmError};

fn load(path: &Path, kind: EngineKind) -> Result<Vm, VmError> {
    let bytes = std::fs::read(path).unwrap();
    let object =
        Object::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    VmBuilder::new(object).engine(kind).cpus(2).seed(7).build()
}

/// Runs every program of an object on every frame with both engines.
fn run_both(name: &str, engines: &mut [Vm; 2]) {
    for program in engines[0].programs() {
        for frame in frames() {
            let results = engines.each_mut().map(|vm| {
                let result = vm.test_run(&program, &TestRun::once(&frame)).unwrap();
                if let Some(trap) = vm.last_trap(0) {
                    panic!("{name} {program}, {}: {trap}", vm.name());
                }
                (result.return_value, result.frame)
            });
            assert_eq!(results[0], results[1], "{name} {program}, {frame:02x?}");
        }
    }
}

fn objects(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "o"));
    paths.sort();
    paths
}

fn own_objects() -> Vec<PathBuf> {
    let paths = objects(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects"));
    assert!(!paths.is_empty(), "the repository holds its objects");
    paths
}

/// Frames of every length and header kind that a parser may trip over.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for ether_type in [0x0800u16, 0x86dd, 0x0806, 0x8100] {
        for protocol in [1u8, 4, 6, 17, 41, 58] {
            let mut frame = [0u8; 160];
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            match ether_type {
                0x86dd => (frame[14], frame[20]) = (0x60, protocol),
                _ => (frame[14], frame[23]) = (0x45, protocol),
            }
            frames.extend((14..=160).map(|len| frame[..len].to_vec()));
        }
    }
    frames
}

#[test]
fn own_objects_run_without_a_trap() {
    for path in own_objects() {
        let kinds = [EngineKind::Interp, EngineKind::Jit];
        let mut engines = kinds.map(|kind| load(&path, kind).unwrap());
        run_both(&path.display().to_string(), &mut engines);
    }
}

#[test]
fn constants_of_an_object_are_frozen() {
    let mut seen = false;
    for path in own_objects() {
        let vm = load(&path, EngineKind::Interp).unwrap();
        for def in vm.maps() {
            if !def.name.starts_with(".rodata") {
                continue;
            }
            seen = true;
            assert!(def.flags.contains(MapFlags::RDONLY_PROG), "{}", def.name);
            let key = [0; 4];
            let value = vm.lookup(def.name.as_str().into(), &key).unwrap().unwrap();
            let error = vm.update(def.name.as_str().into(), &key, &value, UpdateFlags::ANY);
            assert!(error.unwrap_err().to_string().contains("EPERM"));
        }
    }
    assert!(seen, "the balancer has switches in .rodata");
}

#[test]
fn katrans_objects_load_and_run() {
    let Some(directory) = std::env::var_os("SQUALUS_KATRAN_OBJECTS") else {
        eprintln!("SKIPPED: set SQUALUS_KATRAN_OBJECTS to a directory with built katran objects");
        return;
    };
    let paths = objects(Path::new(&directory));
    assert!(!paths.is_empty(), "SQUALUS_KATRAN_OBJECTS holds no objects");
    for path in paths {
        let name = path.display().to_string();
        let interp = match load(&path, EngineKind::Interp) {
            Ok(vm) => vm,
            Err(error) => {
                // Introspection writes perf events, which only the kernel has.
                assert!(error.to_string().contains("perf_event"), "{name}: {error}");
                eprintln!("{name}: {error}");
                continue;
            }
        };
        let jit = load(&path, EngineKind::Jit).unwrap();
        run_both(&name, &mut [interp, jit]);
    }
}

/// One of the object crate's test objects.
fn sample(name: &str) -> Object {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../object/tests/objects");
    Object::parse(&std::fs::read(directory.join(name)).unwrap()).unwrap()
}

#[test]
fn variables_live_in_data_maps() {
    for kind in [EngineKind::Interp, EngineKind::Jit] {
        let mut object = sample("data.o");
        object.set_global("limit", &100u32.to_ne_bytes()).unwrap();
        let hits = object.global("hits").unwrap().clone();
        let mut vm = VmBuilder::new(object).engine(kind).build().unwrap();
        vm.test_run(
            "sum",
            &TestRun {
                frame: &[0; 60],
                repeat: 3,
                cpu: 0,
            },
        )
        .unwrap();
        let section = vm.lookup(hits.section.as_str().into(), &[0; 4]).unwrap();
        let section = section.unwrap();
        let value = &section[hits.offset..hits.offset + hits.size];
        assert_eq!(value, 340u64.to_ne_bytes(), "40 + 3 * limit");
    }
}

#[test]
fn static_initialisers_fill_maps_of_maps_and_program_arrays() {
    let mut object = sample("btf_maps.o");
    // Only the kernel has these types, and the program below does without them.
    object
        .maps
        .retain(|map| !["events", "bloom", "ring"].contains(&map.def.name.as_str()));
    let vm = VmBuilder::new(object).only(&["second"]).build().unwrap();
    assert_eq!(vm.programs(), ["second"]);
    let program = vm.lookup("jumps".into(), &2u32.to_ne_bytes()).unwrap();
    assert_eq!(program, Some(0u32.to_ne_bytes().to_vec()));
    for (index, set) in [(0u32, false), (1, true), (2, false), (3, true)] {
        let inner = vm.lookup("outer".into(), &index.to_ne_bytes()).unwrap();
        assert_eq!(inner.is_some(), set, "{index}");
    }
}

#[test]
fn programs_can_be_chosen_and_are_listed_when_missing() {
    let object = || sample("calls.o");
    let vm = VmBuilder::new(object()).only(&["one"]).build().unwrap();
    assert_eq!(vm.programs(), ["one"]);
    let error = vm.worker("two", 0).unwrap_err().to_string();
    assert!(
        error.contains("it has: one") && error.contains("`two` (not asked for)"),
        "{error}"
    );
    let error = VmBuilder::new(object()).only(&["six"]).build().unwrap_err();
    assert!(
        error.to_string().contains("no XDP program `six`"),
        "{error}"
    );
    let error = VmBuilder::new(sample("legacy_iproute2.o"))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("section classifier"), "{error}");
}

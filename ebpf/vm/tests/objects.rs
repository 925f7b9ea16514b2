//! Whole objects: those of this repository, and katran's own when they are here.

use std::path::{Path, PathBuf};

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{MapFlags, UpdateFlags, Verdict};
use squalus_object::Object;
use squalus_vm::{EngineKind, Vm, VmBuilder};

fn load(path: &Path) -> Vm {
    let bytes = std::fs::read(path).unwrap();
    let object =
        Object::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    VmBuilder::new(object)
        .engine(EngineKind::Interp)
        .cpus(2)
        .seed(7)
        .build()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
            let mut frame = vec![0u8; 160];
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
        let mut vm = load(&path);
        for program in vm.programs() {
            for frame in frames() {
                let result = vm.test_run(&program, &TestRun::once(&frame)).unwrap();
                let trap = vm.last_trap(0);
                let name = path.display();
                assert!(trap.is_none(), "{name} {program}: {}", trap.unwrap());
                assert_ne!(result.verdict(), Verdict::Redirect);
            }
        }
    }
}

#[test]
fn constants_of_an_object_are_frozen() {
    let mut seen = false;
    for path in own_objects() {
        let vm = load(&path);
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
        let object = Object::parse(&std::fs::read(&path).unwrap()).unwrap();
        let vm = VmBuilder::new(object)
            .engine(EngineKind::Interp)
            .seed(7)
            .build();
        let mut vm = match vm {
            Ok(vm) => vm,
            Err(error) => {
                // Introspection writes perf events, which only the kernel has.
                assert!(error.to_string().contains("perf_event"), "{name}: {error}");
                eprintln!("{name}: {error}");
                continue;
            }
        };
        for program in vm.programs() {
            for frame in frames() {
                vm.test_run(&program, &TestRun::once(&frame)).unwrap();
                let trap = vm.last_trap(0);
                assert!(trap.is_none(), "{name} {program}: {}", trap.unwrap());
            }
        }
    }
}

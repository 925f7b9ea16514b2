//! Objects of every kind in the running kernel. Needs root; says so where it has to skip.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{BpfFs, frame, root};
use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestRun};
use squalus_isa::{Errno, MapType, UpdateFlags, Verdict};
use squalus_kernel::{KernelEngine, KernelError, LiveMaps, LoadOptions};
use squalus_object::Object;

const FEATURES: &[u8] = include_bytes!("objects/features.o");

fn only(programs: &[&str]) -> LoadOptions {
    LoadOptions {
        only: programs.iter().map(|name| (*name).to_owned()).collect(),
        ..LoadOptions::default()
    }
}

fn load(programs: &[&str]) -> KernelEngine {
    KernelEngine::load(FEATURES, &only(programs)).unwrap_or_else(|error| panic!("{error}"))
}

fn verdict(engine: &mut KernelEngine, program: &str) -> Verdict {
    let result = engine.test_run(program, &TestRun::once(&frame(64)));
    result.unwrap().verdict()
}

fn lookup(engine: &KernelEngine, map: &str, key: u32) -> Option<Vec<u8>> {
    engine.lookup(map.into(), &key.to_ne_bytes()).unwrap()
}

/// An object of the loader's own tests.
fn loaders(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../object/tests/objects");
    fs::read(folder.join(name)).unwrap()
}

#[test]
fn objects_of_the_loaders_tests_load() {
    if !root("objects_of_the_loaders_tests_load") {
        return;
    }
    // `legacy_samples` is not among them: it wants a second NUMA node.
    let names = ["btf_maps", "calls", "data", "legacy"];
    for name in names {
        let object = Object::parse(&loaders(&format!("{name}.o"))).unwrap();
        let maps = object.maps.len();
        let engine = KernelEngine::load_object(object, &LoadOptions::default());
        let engine = engine.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!engine.programs().is_empty(), "{name}");
        assert_eq!(engine.maps().len(), maps, "{name}");
    }
}

#[test]
fn every_generation_of_section_names_loads() {
    if !root("every_generation_of_section_names_loads") {
        return;
    }
    let bytes = loaders("sections.o");
    let programs = [
        "plain",
        "slashed",
        "fragments",
        "fragments_cpumap",
        "devmap",
        "old",
        "dashed",
        "optional",
        "configured",
    ];
    let engine = KernelEngine::load(&bytes, &only(&programs)).unwrap_or_else(|e| panic!("{e}"));
    let mut loaded = engine.programs();
    loaded.sort_by_key(|name| programs.iter().position(|program| program == name));
    assert_eq!(loaded, programs);
    // A section of iproute2's, for another kind of program, is no hindrance to one asked for by name.
    KernelEngine::load(&loaders("legacy_iproute2.o"), &only(&["prog"])).unwrap();
    KernelEngine::load(&loaders("text.o"), &only(&["pass"])).unwrap();
    let refused = KernelEngine::load(&bytes, &only(&["replacement"])).unwrap_err();
    assert!(refused.to_string().contains("freplace"), "{refused}");
    let unknown = KernelEngine::load(&bytes, &only(&["nothing"])).unwrap_err();
    assert!(unknown.to_string().contains("`nothing`"), "{unknown}");
}

#[test]
fn static_initialisers_are_there_at_the_first_packet() {
    if !root("static_initialisers_are_there_at_the_first_packet") {
        return;
    }
    let bytes = loaders("btf_maps.o");
    let mut engine = KernelEngine::load(&bytes, &LoadOptions::default()).unwrap();
    // `first` tail-calls what the array holds under 2.
    assert_eq!(verdict(&mut engine, "first"), Verdict::Pass);
    for (place, there) in [false, true, false, true].into_iter().enumerate() {
        let key = (place as u32).to_ne_bytes();
        let inner = MapRef::Inner {
            outer: "outer",
            key: &key,
        };
        let found = engine.lookup(inner, &0u32.to_ne_bytes());
        assert_eq!(found.is_ok(), there, "{place}: {found:?}");
    }
    // The inner map is the object's own map of that name.
    let (key, value) = (3u32.to_ne_bytes(), 77u64.to_ne_bytes());
    engine
        .update("inner_a".into(), &key, &value, UpdateFlags::ANY)
        .unwrap();
    let inner = MapRef::Inner {
        outer: "outer",
        key: &key,
    };
    assert_eq!(engine.lookup(inner, &key).unwrap(), Some(value.to_vec()));
}

#[test]
fn a_program_brings_those_it_jumps_to() {
    if !root("a_program_brings_those_it_jumps_to") {
        return;
    }
    let mut engine = load(&["jumping"]);
    assert_eq!(engine.programs(), ["jumping", "target"]);
    assert_eq!(verdict(&mut engine, "jumping"), Verdict::Tx);
    // Others don't, and a section's name is no hindrance to a program asked for by name.
    let mut engine = load(&["other_section"]);
    assert_eq!(engine.programs(), ["other_section"]);
    assert_eq!(verdict(&mut engine, "other_section"), Verdict::Drop);
}

#[test]
fn locks_and_timers_have_their_types() {
    if !root("locks_and_timers_have_their_types") {
        return;
    }
    let mut engine = load(&["lock", "alarm"]);
    assert_eq!(verdict(&mut engine, "lock"), Verdict::Pass);
    let account = lookup(&engine, "accounts", 0).unwrap();
    assert_eq!(account[4..], 3u32.to_ne_bytes());
    assert_eq!(
        lookup(&engine, "second", 1).unwrap()[4..],
        5u32.to_ne_bytes()
    );
    assert_eq!(lookup(&engine, "first", 1), None);
    assert_eq!(verdict(&mut engine, "alarm"), Verdict::Pass);
    let fired = || lookup(&engine, "alarms", 0).unwrap()[16] != 0;
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while !fired() {
        assert!(
            std::time::Instant::now() < patience,
            "the timer never fired"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn externs_are_the_running_kernels() {
    if !root("externs_are_the_running_kernels") {
        return;
    }
    let mut engine = load(&["version", "functions"]);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    let (major, minor) = (next(), next());
    let result = engine
        .test_run("version", &TestRun::once(&frame(64)))
        .unwrap();
    assert_eq!(result.return_value >> 8, major << 8 | minor);
    assert_eq!(verdict(&mut engine, "functions"), Verdict::Tx);
}

#[test]
fn queues_stacks_and_blooms_take_elements_without_keys() {
    if !root("queues_stacks_and_blooms_take_elements_without_keys") {
        return;
    }
    let mut engine = load(&["queues"]);
    let value = |n: u32| n.to_ne_bytes();
    let push =
        |engine: &KernelEngine, n| engine.update("queue".into(), &[], &value(n), UpdateFlags::ANY);
    assert_eq!(engine.lookup("queue".into(), &[]).unwrap(), None);
    for n in [2, 3, 4, 5] {
        push(&engine, n).unwrap();
    }
    let full = push(&engine, 6).unwrap_err();
    assert!(
        matches!(
            full,
            EngineError::Map {
                errno: Errno::E2BIG,
                ..
            }
        ),
        "{full}"
    );
    // The program takes the first and puts it on the stack.
    let result = engine
        .test_run("queues", &TestRun::once(&frame(64)))
        .unwrap();
    assert_eq!(result.return_value, 2);
    assert_eq!(
        engine.lookup("queue".into(), &[]).unwrap(),
        Some(value(3).to_vec())
    );
    assert_eq!(
        engine.lookup("stack".into(), &[]).unwrap(),
        Some(value(2).to_vec())
    );
    engine
        .update("bloom".into(), &[], &value(9), UpdateFlags::ANY)
        .unwrap();
    let ring = engine
        .maps()
        .into_iter()
        .find(|map| map.name == "ring")
        .unwrap();
    assert_eq!((ring.kind, ring.max_entries), (MapType::RingBuf, 4096));
    let no_lookup = engine.lookup("ring".into(), &[]).unwrap_err();
    assert!(matches!(no_lookup, EngineError::Map { .. }), "{no_lookup}");
}

#[test]
fn redirect_maps_take_interfaces_and_cpus() {
    if !root("redirect_maps_take_interfaces_and_cpus") {
        return;
    }
    let engine = load(&["redirected", "leaving"]);
    // The loopback interface is number 1 everywhere.
    let one = 1u32.to_ne_bytes();
    engine
        .update("devices".into(), &one, &one, UpdateFlags::ANY)
        .unwrap();
    assert_eq!(lookup(&engine, "devices", 1), Some(one.to_vec()));
    let absent = engine.update(
        "devices".into(),
        &one,
        &u32::MAX.to_ne_bytes(),
        UpdateFlags::ANY,
    );
    assert!(
        matches!(
            absent,
            Err(EngineError::Map {
                errno: Errno::EINVAL,
                ..
            })
        ),
        "{absent:?}"
    );
    engine
        .update(
            "cpus".into(),
            &[0; 4],
            &192u32.to_ne_bytes(),
            UpdateFlags::ANY,
        )
        .unwrap();
    assert_eq!(
        lookup(&engine, "cpus", 0),
        Some(192u32.to_ne_bytes().to_vec())
    );
    engine.delete("devices".into(), &one).unwrap();
    let events = engine
        .maps()
        .into_iter()
        .find(|map| map.name == "events")
        .unwrap();
    assert_eq!(events.max_entries as usize, engine.cpus());
}

#[test]
fn programs_in_maps_are_named_by_their_place() {
    if !root("programs_in_maps_are_named_by_their_place") {
        return;
    }
    let engine = load(&["redirected", "leaving", "jumping"]);
    let place = |name: &str| {
        let found = engine.programs().iter().position(|program| program == name);
        u32::try_from(found.unwrap()).unwrap()
    };
    assert_eq!(
        lookup(&engine, "jumps", 1),
        Some(place("target").to_ne_bytes().to_vec())
    );
    let target = |program: u32| [1u32.to_ne_bytes(), program.to_ne_bytes()].concat();
    let set = |program| {
        let map = "devices_by_hash".into();
        engine.update(map, &[0; 4], &target(program), UpdateFlags::ANY)
    };
    set(place("leaving") + 1).unwrap();
    assert_eq!(
        lookup(&engine, "devices_by_hash", 0),
        Some(target(place("leaving") + 1))
    );
    set(0).unwrap();
    assert_eq!(lookup(&engine, "devices_by_hash", 0), Some(target(0)));
    let absent = set(99).unwrap_err();
    let bad = matches!(
        absent,
        EngineError::Map {
            errno: Errno::EBADF,
            ..
        }
    );
    assert!(bad, "{absent}");
    // One that is for interfaces is refused by the kernel.
    let wrong = set(place("redirected") + 1).unwrap_err();
    let invalid = matches!(
        wrong,
        EngineError::Map {
            errno: Errno::EINVAL,
            ..
        }
    );
    assert!(invalid, "{wrong}");
}

#[test]
fn a_refusal_names_the_source_line() {
    if !root("a_refusal_names_the_source_line") {
        return;
    }
    let bytes = include_bytes!("objects/refused.o");
    let error = KernelEngine::load(bytes, &LoadOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("refused.c:14"), "{text}");
    assert!(text.contains("RUST_LOG=squalus_kernel=debug"), "{text}");
    assert!(!text.contains("processed "), "{text}");
}

#[test]
fn maps_are_shared_by_name_where_the_object_says_so() {
    if !root("maps_are_shared_by_name_where_the_object_says_so") {
        return;
    }
    let mounted = BpfFs::mount("shared");
    let options = LoadOptions {
        shared: Some(mounted.path().join("maps")),
        ..only(&["redirected", "leaving"])
    };
    let first = KernelEngine::load(FEATURES, &options).unwrap();
    let names = fs::read_dir(mounted.path().join("maps")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["devices_by_hash"]);
    let value = [1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    first
        .update("devices_by_hash".into(), &[0; 4], &value, UpdateFlags::ANY)
        .unwrap();
    drop(first);
    let second = KernelEngine::load(FEATURES, &options).unwrap();
    assert_eq!(lookup(&second, "devices_by_hash", 0), Some(value));
}

#[test]
fn live_maps_have_types_and_inner_maps() {
    if !root("live_maps_have_types_and_inner_maps") {
        return;
    }
    let mounted = BpfFs::mount("live");
    let options = LoadOptions {
        pin: Some(mounted.path().join("all")),
        ..only(&["lock"])
    };
    let mut engine = KernelEngine::load(FEATURES, &options).unwrap();
    verdict(&mut engine, "lock");
    let live = LiveMaps::pinned(&mounted.path().join("all")).unwrap();
    let (btf, _, value) = live.types("accounts").expect("its types");
    assert_eq!(btf.type_name(value), "locked");
    let defs = live.access().maps();
    let tables = defs.iter().find(|def| def.name == "tables").unwrap();
    assert_eq!(tables.inner.as_deref().unwrap().kind, MapType::Hash);
    let key = 1u32.to_ne_bytes();
    let inner = MapRef::Inner {
        outer: "tables",
        key: &key,
    };
    assert_eq!(
        live.access().lookup(inner, &key).unwrap().unwrap()[4..],
        5u32.to_ne_bytes()
    );
    let id = live.id("accounts").unwrap();
    assert_eq!(LiveMaps::by_ids(&[id]).unwrap().access().maps().len(), 1);
    let maps = engine.program_info("lock").unwrap().maps;
    assert!(maps.contains(&id));
    let absent = LiveMaps::by_ids(&[u32::MAX - 1]).unwrap_err();
    assert!(matches!(absent, KernelError::NoObject { .. }), "{absent}");
    let nothing = LiveMaps::pinned(&mounted.path().join("nothing")).unwrap_err();
    assert!(
        nothing.to_string().contains("nothing of this name"),
        "{nothing}"
    );
}

//! The kernel engine against the running kernel. Needs root; says so where it has to skip.

mod common;

use common::{BpfFs, frame, in_namespace, ip, root};
use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestRun};
use squalus_isa::{Errno, Insn, MapDef, MapFlags, MapType, UpdateFlags, Verdict};
use squalus_kernel::{KernelEngine, KernelError, LoadOptions, Mode, attached_program};

const ENGINE: &[u8] = include_bytes!("objects/engine.o");
const REJECTED: &[u8] = include_bytes!("objects/rejected.o");

fn load(options: &LoadOptions) -> KernelEngine {
    KernelEngine::load(ENGINE, options).expect("the object loads")
}

#[test]
fn maps_have_full_names_and_sizes() {
    if !root("maps_have_full_names_and_sizes") {
        return;
    }
    let engine = load(&LoadOptions {
        max_entries: vec![("big_array".into(), 77)],
        ..LoadOptions::default()
    });
    let maps = engine.maps();
    let find = |name: &str| maps.iter().find(|map| map.name == name).expect(name);
    let hash = find("a_hash_with_a_long_name");
    assert_eq!(
        (hash.kind, hash.key_size, hash.value_size),
        (MapType::Hash, 4, 8)
    );
    assert_eq!(find("big_array").max_entries, 77);
    assert_eq!(find("prefixes").flags, MapFlags::NO_PREALLOC);
    let inner = find("sessions").inner.as_deref().expect("an inner map");
    assert_eq!(
        (inner.kind, inner.key_size, inner.max_entries),
        (MapType::LruHash, 8, 16)
    );
    assert!(find(".rodata").value_size >= 5);
    let mut programs = engine.programs();
    programs.sort();
    assert_eq!(
        programs,
        ["count", "cut", "jump", "push", "ruin", "session"]
    );
}

#[test]
fn elements_come_and_go() {
    if !root("elements_come_and_go") {
        return;
    }
    let engine = load(&LoadOptions::default());
    let map = MapRef::Name("a_hash_with_a_long_name");
    let key = 5u32.to_ne_bytes();
    assert_eq!(engine.lookup(map, &key).unwrap(), None);
    assert_eq!(engine.next_key(map, None).unwrap(), None);
    engine
        .update(map, &key, &9u64.to_ne_bytes(), UpdateFlags::NOEXIST)
        .unwrap();
    assert_eq!(
        engine.lookup(map, &key).unwrap(),
        Some(9u64.to_ne_bytes().to_vec())
    );
    let again = engine.update(map, &key, &9u64.to_ne_bytes(), UpdateFlags::NOEXIST);
    assert!(matches!(
        again,
        Err(EngineError::Map {
            errno: Errno::EEXIST,
            ..
        })
    ));
    assert_eq!(engine.next_key(map, None).unwrap(), Some(key.to_vec()));
    assert_eq!(engine.next_key(map, Some(&key)).unwrap(), None);
    engine.delete(map, &key).unwrap();
    let again = engine.delete(map, &key);
    assert!(matches!(
        again,
        Err(EngineError::Map {
            errno: Errno::ENOENT,
            ..
        })
    ));
    let short = engine.lookup(map, &[1, 2]);
    assert!(matches!(
        short,
        Err(EngineError::Size {
            got: 2,
            want: 4,
            ..
        })
    ));
    let absent = engine.lookup(MapRef::Name("no_such_map"), &key);
    assert!(matches!(absent, Err(EngineError::NoMap(_))));
}

#[test]
fn batches_write_all_or_stop() {
    if !root("batches_write_all_or_stop") {
        return;
    }
    let engine = load(&LoadOptions::default());
    let keys: Vec<u8> = (0..1000u32).flat_map(u32::to_ne_bytes).collect();
    let values: Vec<u8> = (0..1000u32).flat_map(|n| (n * n).to_ne_bytes()).collect();
    let map = MapRef::Name("big_array");
    engine.update_batch(map, &keys, &values).unwrap();
    let last = engine.lookup(map, &999u32.to_ne_bytes()).unwrap();
    assert_eq!(last, Some(998_001u32.to_ne_bytes().to_vec()));
    let beyond: Vec<u8> = [1u32, 5000]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let error = engine.update_batch(map, &beyond, &[0xff; 8]).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::Map {
                errno: Errno::E2BIG,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        engine.lookup(map, &1u32.to_ne_bytes()).unwrap(),
        Some(vec![0xff; 4])
    );
    // Tries have batches only in newer kernels; elsewhere the elements are written one by one.
    let prefix = [&24u32.to_ne_bytes()[..], &[10, 0, 0, 0]].concat();
    engine
        .update_batch(MapRef::Name("prefixes"), &prefix, &[1, 2, 3, 4])
        .unwrap();
    let host = [&32u32.to_ne_bytes()[..], &[10, 0, 0, 9]].concat();
    let found = engine.lookup(MapRef::Name("prefixes"), &host).unwrap();
    assert_eq!(found, Some(vec![1, 2, 3, 4]));
    engine.update_batch(map, &[], &[]).unwrap();
}

#[test]
fn globals_choose_the_verdict_and_each_cpu_counts_for_itself() {
    if !root("globals_choose_the_verdict_and_each_cpu_counts_for_itself") {
        return;
    }
    let mut engine = load(&LoadOptions {
        globals: vec![(
            "verdict".into(),
            (Verdict::Drop as u32).to_ne_bytes().to_vec(),
        )],
        ..LoadOptions::default()
    });
    let frame = frame(64);
    let (cpus, usable) = (engine.cpus(), squalus_kernel::usable_cpus());
    for &cpu in &usable {
        let run = TestRun {
            frame: &frame,
            repeat: cpu + 1,
            cpu,
        };
        let result = engine.test_run("count", &run).unwrap();
        assert_eq!(result.verdict(), Verdict::Drop);
        assert_eq!(result.frame, frame);
    }
    let value = engine
        .lookup(MapRef::Name("per_cpu"), &[0; 4])
        .unwrap()
        .unwrap();
    assert_eq!(value.len(), 8 * cpus);
    for (cpu, value) in (0..).zip(value.chunks(8)) {
        let ran = if usable.contains(&cpu) { cpu + 1 } else { 0 };
        assert_eq!(value[..4], ran.to_ne_bytes(), "CPU {cpu}");
    }
    let data = engine
        .lookup(MapRef::Name(".data"), &[0; 4])
        .unwrap()
        .unwrap();
    let runs: u64 = 7 + usable.iter().map(|cpu| u64::from(*cpu) + 1).sum::<u64>();
    assert_eq!(data, runs.to_ne_bytes());
}

#[test]
fn options_must_fit_the_object() {
    if !root("options_must_fit_the_object") {
        return;
    }
    let failing = |options: LoadOptions| {
        KernelEngine::load(ENGINE, &options)
            .unwrap_err()
            .to_string()
    };
    let text = failing(LoadOptions {
        globals: vec![("verdikt".into(), vec![0; 4])],
        ..LoadOptions::default()
    });
    assert!(text.contains("verdikt"), "{text}");
    let text = failing(LoadOptions {
        globals: vec![("verdict".into(), vec![0; 3])],
        ..LoadOptions::default()
    });
    assert!(text.contains("verdict"), "{text}");
    let text = failing(LoadOptions {
        max_entries: vec![("nothing".into(), 1)],
        ..LoadOptions::default()
    });
    assert!(
        text.contains("`nothing`") && text.contains("no such map"),
        "{text}"
    );
}

#[test]
fn frames_grow_and_shrink() {
    if !root("frames_grow_and_shrink") {
        return;
    }
    let mut engine = load(&LoadOptions::default());
    let frame = frame(60);
    let result = engine.test_run("push", &TestRun::once(&frame)).unwrap();
    assert_eq!(result.verdict(), Verdict::Tx);
    assert_eq!(result.frame, [&[0x45; 20][..], &frame].concat());
    let cut = engine.test_run("cut", &TestRun::once(&frame)).unwrap();
    assert_eq!(cut.frame, frame[..14]);
    let long = vec![7; squalus_kernel::MAX_TEST_FRAME];
    assert_eq!(
        engine
            .test_run("count", &TestRun::once(&long))
            .unwrap()
            .frame,
        long
    );
    let short = engine
        .test_run("count", &TestRun::once(&[0; 13]))
        .unwrap_err();
    assert!(short.to_string().contains("14 to 3520"), "{short}");
    let unknown = engine
        .test_run("nothing", &TestRun::once(&frame))
        .unwrap_err();
    assert!(unknown.to_string().contains("push"), "{unknown}");
    let cpu = TestRun {
        frame: &frame,
        repeat: 1,
        cpu: 9999,
    };
    assert!(engine.test_run("count", &cpu).is_err());
}

fn table(entries: u32, flags: MapFlags) -> MapDef {
    MapDef {
        flags,
        ..MapDef::new("table", MapType::LruHash, (8, 8), entries)
    }
}

#[test]
fn inner_maps_are_created_found_and_replaced() {
    if !root("inner_maps_are_created_found_and_replaced") {
        return;
    }
    let mut engine = load(&LoadOptions::default());
    let key = 0u32.to_ne_bytes();
    let inner = MapRef::Inner {
        outer: "sessions",
        key: &key,
    };
    let none = engine.lookup(inner, &1u64.to_ne_bytes()).unwrap_err();
    assert!(matches!(none, EngineError::NoMap(_)), "{none}");
    let frame = frame(64);
    let run = TestRun::once(&frame);
    assert_eq!(
        engine.test_run("session", &run).unwrap().verdict(),
        Verdict::Drop
    );
    // Of another size than the prototype's, as session tables are.
    engine
        .create_inner("sessions", &key, &table(5000, MapFlags::default()))
        .unwrap();
    assert_eq!(
        engine.test_run("session", &run).unwrap().verdict(),
        Verdict::Pass
    );
    let found = engine.lookup(inner, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(found, Some(0x1234u64.to_ne_bytes().to_vec()));
    assert_eq!(
        engine.next_key(inner, None).unwrap(),
        Some(1u64.to_ne_bytes().to_vec())
    );
    engine
        .create_inner("sessions", &key, &table(100, MapFlags::default()))
        .unwrap();
    assert_eq!(engine.lookup(inner, &1u64.to_ne_bytes()).unwrap(), None);
    let mut other = table(100, MapFlags::default());
    other.value_size = 16;
    let error = engine.create_inner("sessions", &key, &other).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::Map {
                errno: Errno::EINVAL,
                ..
            }
        ),
        "{error}"
    );
    let error = engine.create_inner("big_array", &key, &other).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::Map {
                errno: Errno::EINVAL,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_prototype_allows_other_flags() {
    if !root("a_prototype_allows_other_flags") {
        return;
    }
    let numa = table(64, MapFlags::NUMA_NODE);
    let plain = load(&LoadOptions::default());
    assert!(plain.create_inner("sessions", &[0; 4], &numa).is_err());
    let engine = load(&LoadOptions {
        inner: vec![("sessions".into(), numa.clone())],
        ..LoadOptions::default()
    });
    engine
        .create_inner_on("sessions", &[0; 4], &numa, 0)
        .unwrap();
    let wrong = LoadOptions {
        inner: vec![("big_array".into(), numa)],
        ..LoadOptions::default()
    };
    assert!(matches!(
        KernelEngine::load(ENGINE, &wrong),
        Err(KernelError::Option { .. })
    ));
}

#[test]
fn tail_calls_reach_the_program_set() {
    if !root("tail_calls_reach_the_program_set") {
        return;
    }
    let mut engine = load(&LoadOptions::default());
    let frame = frame(60);
    let run = TestRun::once(&frame);
    assert_eq!(
        engine.test_run("jump", &run).unwrap().verdict(),
        Verdict::Aborted
    );
    let push = engine.programs().iter().position(|name| name == "push");
    let push = u32::try_from(push.expect("the program is there")).unwrap();
    let targets = MapRef::Name("targets");
    engine
        .update(targets, &[0; 4], &push.to_ne_bytes(), UpdateFlags::ANY)
        .unwrap();
    let error = engine.update(targets, &[0; 4], &99u32.to_ne_bytes(), UpdateFlags::ANY);
    assert!(matches!(
        error,
        Err(EngineError::Map {
            errno: Errno::EBADF,
            ..
        })
    ));
    let result = engine.test_run("jump", &run).unwrap();
    assert_eq!((result.verdict(), result.frame.len()), (Verdict::Tx, 80));
}

#[test]
fn hand_made_programs_name_maps_by_their_place() {
    if !root("hand_made_programs_name_maps_by_their_place") {
        return;
    }
    let array = |name: &str| MapDef::new(name, MapType::Array, (4, 4), 1);
    // r0 = *(u32 *)second[0]; exit
    let code: [u64; 4] = [
        0x0000_0001_0000_2118,
        0,
        0x0000_0000_0000_1061,
        0x0000_0000_0000_0095,
    ];
    let code = Insn::parse_all(&code.map(u64::to_le_bytes).concat()).expect("whole slots");
    let maps = vec![array("first"), array("second")];
    let programs = vec![("read".to_owned(), code.clone())];
    let mut engine = KernelEngine::assembled(maps, programs).expect("it loads");
    let value = 3u32.to_ne_bytes();
    engine
        .update("second".into(), &[0; 4], &value, UpdateFlags::ANY)
        .unwrap();
    let result = engine.test_run("read", &TestRun::once(&frame(64))).unwrap();
    assert_eq!(result.verdict(), Verdict::Tx);
    let programs = vec![("read".to_owned(), code)];
    let error = KernelEngine::assembled(vec![array("first")], programs).unwrap_err();
    assert!(error.to_string().contains("map 1"), "{error}");
}

#[test]
fn rejection_shows_the_verifiers_words() {
    if !root("rejection_shows_the_verifiers_words") {
        return;
    }
    let error = KernelEngine::load(REJECTED, &LoadOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            KernelError::Verifier {
                errno: Errno::EACCES,
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains("`unbounded`") && text.contains("invalid access to packet"),
        "{text}"
    );
}

#[test]
fn garbage_is_refused() {
    if !root("garbage_is_refused") {
        return;
    }
    for bytes in [&b""[..], b"\x7fELF", &ENGINE[..600], b"hello, world"] {
        let error = KernelEngine::load(bytes, &LoadOptions::default()).unwrap_err();
        assert!(
            matches!(error, KernelError::Object(_) | KernelError::NoXdpProgram(_)),
            "{error}"
        );
    }
    // Unaligned bytes are no garbage.
    let shifted = [&[0][..], ENGINE].concat();
    KernelEngine::load(&shifted[1..], &LoadOptions::default()).unwrap();
}

#[test]
fn measuring_restores_the_frame() {
    if !root("measuring_restores_the_frame") {
        return;
    }
    let engine = load(&LoadOptions::default());
    let frames: Vec<_> = [14, 60, 64, 65, 1514, 1536, 590].map(frame).into();
    // Without restoring, `push` would run out of headroom after a dozen frames and drop.
    let push = engine.measure("push", &frames, 20_000, 0).unwrap();
    assert_eq!(push.verdict, Verdict::Tx);
    assert!(push.with_nothing.iter().all(|nanos| *nanos > 0.0));
    let cut = engine.measure("cut", &frames, 20_000, 0).unwrap();
    assert_eq!(cut.verdict, Verdict::Pass);
    let value = engine
        .lookup(MapRef::Name("per_cpu"), &[0; 4])
        .unwrap()
        .unwrap();
    assert!(value.iter().all(|byte| *byte == 0), "another program ran");
    engine.measure("count", &frames[..1], 1000, 0).unwrap();
    let value = engine
        .lookup(MapRef::Name("per_cpu"), &[0; 4])
        .unwrap()
        .unwrap();
    assert_eq!(value[..4], 7000u32.to_ne_bytes());
    eprintln!(
        "push takes {:.1} ns, cut {:.1} ns",
        push.nanos(),
        cut.nanos()
    );
}

#[test]
fn what_cannot_be_measured_is_refused() {
    if !root("what_cannot_be_measured_is_refused") {
        return;
    }
    let engine = load(&LoadOptions::default());
    for frames in [vec![], vec![frame(13)], vec![frame(60), frame(1537)]] {
        let error = engine.measure("push", &frames, 10, 0).unwrap_err();
        assert!(matches!(error, KernelError::Measure(_)), "{error}");
    }
    let error = engine.measure("ruin", &[frame(60)], 10, 0).unwrap_err();
    assert!(error.to_string().contains("restored"), "{error}");
}

#[test]
fn attaching_lasts_as_long_as_the_value() {
    if !root("attaching_lasts_as_long_as_the_value") {
        return;
    }
    in_namespace(|| {
        ip("link add sqa type veth peer name sqb");
        let engine = load(&LoadOptions::default());
        assert_eq!(attached_program("sqa").unwrap(), None);
        let attached = engine.attach("count", "sqa", Mode::Auto).unwrap();
        assert_eq!((attached.mode(), attached.fallback()), (Mode::Native, None));
        let seen = attached_program("sqa").unwrap().unwrap();
        assert_eq!((seen.name.as_str(), seen.mode), ("count", Mode::Native));
        let error = engine.attach("push", "sqa", Mode::Generic).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, KernelError::Occupied { .. }), "{text}");
        assert!(text.contains(&format!("id {} `count`", seen.id)), "{text}");
        let other = load(&LoadOptions::default());
        attached.replace(&other, "push").unwrap();
        drop(other);
        assert_eq!(attached_program("sqa").unwrap().unwrap().name, "push");
        attached.detach();
        assert_eq!(attached_program("sqa").unwrap(), None);
        let generic = engine.attach("count", "sqa", Mode::Generic).unwrap();
        assert_eq!(generic.mode(), Mode::Generic);
        assert_eq!(
            attached_program("sqa").unwrap().unwrap().mode,
            Mode::Generic
        );
    });
}

#[test]
fn auto_falls_back_to_generic_and_says_so() {
    if !root("auto_falls_back_to_generic_and_says_so") {
        return;
    }
    in_namespace(|| {
        let engine = load(&LoadOptions::default());
        let native = engine.attach("count", "lo", Mode::Native).unwrap_err();
        assert!(
            matches!(
                native,
                KernelError::Attach {
                    mode: Mode::Native,
                    ..
                }
            ),
            "{native}"
        );
        let attached = engine.attach("count", "lo", Mode::Auto).unwrap();
        assert_eq!(attached.mode(), Mode::Generic);
        assert_eq!(attached.fallback(), Some(Errno::EOPNOTSUPP));
        let absent = engine.attach("count", "sqnone", Mode::Auto).unwrap_err();
        assert!(absent.to_string().contains("`sqnone`"), "{absent}");
        assert!(matches!(
            attached_program("sqnone"),
            Err(KernelError::NoInterface { .. })
        ));
    });
}

#[test]
fn pinned_maps_outlive_the_engine() {
    if !root("pinned_maps_outlive_the_engine") {
        return;
    }
    let mounted = BpfFs::mount("pinned");
    let options = LoadOptions {
        pin: Some(mounted.path().join("one")),
        ..LoadOptions::default()
    };
    let map = MapRef::Name("a_hash_with_a_long_name");
    let (key, value) = (1u32.to_ne_bytes(), 2u64.to_ne_bytes());
    let first = load(&options);
    first.update(map, &key, &value, UpdateFlags::ANY).unwrap();
    drop(first);
    assert!(mounted.path().join("one/a_hash_with_a_long_name").exists());
    assert_eq!(
        load(&options).lookup(map, &key).unwrap(),
        Some(value.to_vec())
    );
    let other = LoadOptions {
        max_entries: vec![("big_array".into(), 3)],
        ..options
    };
    let error = KernelEngine::load(ENGINE, &other).unwrap_err();
    assert!(error.to_string().contains("entries 1000, not 3"), "{error}");
    let nowhere = LoadOptions {
        pin: Some(std::env::temp_dir()),
        ..LoadOptions::default()
    };
    let error = KernelEngine::load(ENGINE, &nowhere).unwrap_err();
    assert!(matches!(error, KernelError::NotBpfFs(_)), "{error}");
}

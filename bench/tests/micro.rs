//! Every micro program answers the same in the kernel, the interpreter and the JIT: verdict, bytes, maps.

use std::collections::BTreeMap;

use squalus_bench::engines::CodeArgs;
use squalus_bench::micro::programs::{EMPTY, ENTRY, PROGRAMS, Program};
use squalus_bench::micro::repeated::{repeated, side_by_side};
use squalus_bench::micro::{Answer, EngineName, Subject};
use squalus_engine::{Engine, MapAccess, MapRef, TestRun};
use squalus_isa::{MapType, Verdict};
use squalus_object::Object;
use squalus_vm::{EngineKind, VmBuilder};

/// What is in the maps, by name, then by key.
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Programs that keep the time of day in maps.
const TIMED: &[&str] = &["map_token_bucket"];

#[test]
fn engines_agree() {
    let engines = engines();
    for program in PROGRAMS.iter().chain([&EMPTY]) {
        let mut runs = engines.iter().map(|engine| (engine, run(*engine, program)));
        let (first, expected) = runs.next().expect("there are engines");
        for (engine, outcome) in runs {
            let names = format!("{} in {first:?} and {engine:?}", program.name);
            assert_eq!(outcome.0, expected.0, "{names}");
            if !TIMED.contains(&program.name) {
                assert_eq!(outcome.1, expected.1, "maps of {names}");
            }
        }
    }
}

fn engines() -> Vec<EngineName> {
    let mut engines = vec![EngineName::Interp, EngineName::Jit];
    let (empty, frames) = (&EMPTY, EMPTY.traffic.frames());
    match Subject::load(
        EngineName::Kernel,
        empty,
        &frames,
        None,
        CodeArgs::default(),
    ) {
        Ok(_) => engines.insert(0, EngineName::Kernel),
        Err(error) => eprintln!("SKIPPED the kernel: loading programs needs root ({error:#})"),
    }
    engines
}

/// Runs all frames twice. The second time, every one must take the way that the program is about.
fn run(engine: EngineName, program: &Program) -> (Vec<Answer>, Contents) {
    let frames = program.traffic.frames();
    let mut subject =
        Subject::load(engine, program, &frames, None, CodeArgs::default()).expect(program.name);
    let mut answers = subject.check(&frames).expect(program.name);
    let second = subject.check(&frames).expect(program.name);
    for (at, answer) in second.iter().enumerate() {
        let verdict = Verdict::from_return(answer.value.into());
        assert_eq!(
            verdict,
            Verdict::Tx,
            "{} in {engine:?}: frame {at}",
            program.name
        );
    }
    answers.extend(second);
    let contents = match &subject {
        Subject::Kernel(kernel) => contents(&kernel.engine),
        Subject::Userspace(vm) => contents(&**vm),
        Subject::Native(_) | Subject::Rbpf(_) => Contents::new(),
    };
    (answers, contents)
}

/// All entries of all plain maps; of per-CPU ones the first CPU's values, on which the test ran.
fn contents(maps: &dyn MapAccess) -> Contents {
    let plain = maps.maps().into_iter();
    let plain = plain.filter(|def| def.kind != MapType::ArrayOfMaps);
    let mut contents = Contents::new();
    for def in plain {
        let map = MapRef::Name(&def.name);
        let mut entries = BTreeMap::new();
        let mut key = None;
        while let Some(next) = maps.next_key(map, key.as_deref()).expect(&def.name) {
            let mut value = maps.lookup(map, &next).expect(&def.name).expect("a value");
            value.truncate(def.value_size as usize);
            entries.insert(next.clone(), value);
            key = Some(next);
        }
        contents.insert(def.name.clone(), entries);
    }
    contents
}

/// What the kernel is measured with is the program, several times: packet, answer and maps are as after so many runs.
#[test]
fn several_in_a_row_are_several_runs() {
    for program in PROGRAMS.iter().chain([&EMPTY]) {
        let mut object = Object::parse(program.object).expect(program.name);
        let once = object.require_program(ENTRY).expect(program.name);
        let together = repeated(once, "together", TIMES, program.stride());
        object.programs.push(together.expect(program.name));
        let load = || {
            let builder = VmBuilder::new(object.clone()).engine(EngineKind::Interp);
            builder.build().expect(program.name)
        };
        let (mut together, mut apart) = (load(), load());
        for frame in program.traffic.frames() {
            let expected = several(&mut apart, &frame, program.stride());
            let frame = match program.stride() {
                0 => frame,
                stride => side_by_side(&[frame], TIMES, stride).concat(),
            };
            let result = together.test_run("together", &TestRun::once(&frame));
            let result = result.expect(program.name);
            let result = (result.return_value, result.frame);
            assert_eq!(result, expected, "{}", program.name);
        }
        if !TIMED.contains(&program.name) {
            assert_eq!(contents(&together), contents(&apart), "{}", program.name);
        }
    }
}

const TIMES: usize = 3;

/// What so many runs leave of a frame, or of as many frames so far apart, and the last answer.
fn several(engine: &mut dyn Engine, frame: &[u8], stride: usize) -> (u32, Vec<u8>) {
    let mut run = |frame: &[u8]| {
        let result = engine.test_run(ENTRY, &TestRun::once(frame));
        let result = result.expect("the program runs");
        (result.return_value, result.frame)
    };
    if stride == 0 {
        return (0..TIMES).fold((0, frame.to_vec()), |(_, frame), _| run(&frame));
    }
    let (value, mut left) = run(frame);
    left.resize(stride, 0);
    (value, left.repeat(TIMES))
}

#[test]
fn rbpf_runs_what_has_neither_maps_nor_helpers() {
    if !cfg!(target_arch = "x86_64") {
        return eprintln!("SKIPPED: rbpf compiles for x86-64 only");
    }
    let mut right = 0;
    for program in PROGRAMS {
        let frames = program.traffic.frames();
        let load = |engine| Subject::load(engine, program, &frames, None, CodeArgs::default());
        let mut rbpf = match load(EngineName::Rbpf) {
            Err(error) if error.downcast_ref::<squalus_rbpf::Unfit>().is_some() => {
                eprintln!("{error:#}");
                continue;
            }
            loaded => loaded.expect(program.name),
        };
        let answers = rbpf.check(&frames).expect(program.name);
        let expected = load(EngineName::Interp).and_then(|mut own| own.check(&frames));
        if answers == expected.expect(program.name) {
            right += 1;
        } else {
            eprintln!("{}: rbpf answers otherwise", program.name);
        }
    }
    assert!(right >= 20, "rbpf ran only {right} programs like us");
}

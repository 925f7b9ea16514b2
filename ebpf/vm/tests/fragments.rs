//! Frames longer than a page: what helpers make of fragments, beside the kernel.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_runtime::{TEST_RUN_MAX, TEST_RUN_MAX_FRAGMENTED};
use squalus_vm::{Engine, EngineKind, Object, TestResult, TestRun, VmBuilder};

const OBJECT: &[u8] = include_bytes!("objects/fragments.o");

/// A frame that asks for an operation with two arguments.
fn frame(len: usize, operation: u8, one: i64, two: i64) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| (n / 256 + n) as u8).collect();
    frame[14] = operation;
    frame[16..20].copy_from_slice(&(one as u32).to_ne_bytes());
    frame[20..24].copy_from_slice(&(two as u32).to_ne_bytes());
    frame
}

/// Lengths around every boundary, operations around them.
fn frames() -> Vec<Vec<u8>> {
    let page = 4096_i64;
    let linear = TEST_RUN_MAX as i64;
    let longest = TEST_RUN_MAX_FRAGMENTED as i64;
    let mut lengths = vec![
        60,
        linear - 1,
        linear,
        linear + 1,
        9014,
        20_000,
        longest - 1,
        longest,
    ];
    lengths.extend([linear + page - 1, linear + page, linear + page + 1]);
    let mut frames = Vec::new();
    for &len in &lengths {
        let mut add = |operation, one, two| frames.push(frame(len as usize, operation, one, two));
        for from in [
            0,
            40,
            linear - 101,
            linear - 50,
            linear,
            linear + page - 50,
            len - 100,
            len - 99,
        ] {
            for to in [40, linear - 99, linear, len - 100] {
                add(0, from, to);
            }
        }
        add(0, 65_535, 40);
        add(0, 65_536, 40);
        let rest = len - linear;
        let changes = [
            0,
            1,
            50,
            100,
            page - rest % page,
            page - rest % page + 1,
            page,
        ];
        for change in changes {
            add(1, change, 0);
            add(1, -change, 0);
        }
        for change in [
            rest - 1,
            rest,
            rest + 1,
            rest + 100,
            rest + linear - 14,
            rest + linear - 13,
        ] {
            add(1, -change, 0);
            add(2, -change, 30);
            add(2, -change, -30);
            add(5, -change, 20);
        }
        for change in [-40, -216, -217, 14, linear - 14, linear - 13] {
            add(3, change, 0);
        }
        add(4, -32, 0);
    }
    frames
}

fn ours(kind: EngineKind) -> impl Engine {
    let object = Object::parse(OBJECT).unwrap();
    VmBuilder::new(object).engine(kind).build().unwrap()
}

fn outcome(result: TestResult) -> (u32, Vec<u8>) {
    (result.return_value, result.frame)
}

#[test]
fn both_engines_answer_as_the_kernel() {
    let mut kernel = match KernelEngine::load(OBJECT, &LoadOptions::default()) {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            eprintln!("SKIPPED the comparison with the kernel: {error}");
            None
        }
    };
    let (mut interp, mut jit) = (ours(EngineKind::Interp), ours(EngineKind::Jit));
    let frames = frames();
    for frame in &frames {
        let run = TestRun::once(frame);
        let name = format!("{} bytes, {:?}", frame.len(), &frame[14..24]);
        let expected = outcome(interp.test_run("fragments", &run).unwrap());
        let compiled = outcome(jit.test_run("fragments", &run).unwrap());
        assert!(compiled == expected, "the engines differ: {name}");
        let Some(kernel) = &mut kernel else { continue };
        let theirs = outcome(kernel.test_run("fragments", &run).unwrap());
        assert_eq!(
            head(&expected),
            head(&theirs),
            "ours and the kernel's: {name}"
        );
        assert!(
            expected == theirs,
            "{name}: bytes differ at {:?}",
            difference(&expected.1, &theirs.1)
        );
    }
    assert!(frames.len() > 500);
}

/// What the program noted.
fn head((value, frame): &(u32, Vec<u8>)) -> (u32, usize, Vec<u32>) {
    let words = frame.get(24..40).unwrap_or_default().chunks(4);
    let words = words.map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
    (*value, frame.len(), words.collect())
}

fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// A test run gives long frames to any program, as the kernel's does; only interfaces tell programs apart.
#[test]
fn test_runs_give_fragments_to_any_program() {
    let frame = vec![7; 5000];
    let run = TestRun::once(&frame);
    let ran = |engine: &mut dyn Engine| outcome(engine.test_run("one_piece", &run).unwrap());
    let interp = ran(&mut ours(EngineKind::Interp));
    assert_eq!(ran(&mut ours(EngineKind::Jit)), interp);
    match KernelEngine::load(OBJECT, &LoadOptions::default()) {
        Ok(mut kernel) => assert_eq!(ran(&mut kernel), interp),
        Err(error) => eprintln!("SKIPPED the comparison with the kernel: {error}"),
    }
}

//! Jumps in compiled code are short, in every object of the repository: none has code in it that is left as it is.
#![cfg(target_arch = "x86_64")]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::load;
use iced_x86::{Decoder, DecoderOptions};
use squalus_jit::{CompiledProgram, Options, Pass, Passes};

fn objects() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = ["bpf/objects", "bench/programs/objects"].map(|directory| {
        let entries = std::fs::read_dir(root.join(directory)).expect("the directory can be read");
        entries.map(|entry| entry.expect("the directory can be read").path())
    });
    let files = files.into_iter().flatten();
    files
        .filter(|path| path.extension().is_some_and(|e| e == "o"))
        .collect()
}

/// Jumps of code that could be shorter: their number.
fn too_long(program: &CompiledProgram) -> usize {
    let map = program.map().expect("the text is kept");
    let jump = |code: &[u8]| match code {
        [0xe9, distance @ ..] | [0x0f, 0x80..=0x8f, distance @ ..] => {
            let distance: Option<[u8; 4]> = distance.try_into().ok();
            // What alignment comes between is left out.
            distance.is_some_and(|bytes| (-100..100).contains(&i32::from_le_bytes(bytes)))
        }
        _ => false,
    };
    let count = |function: &Range<usize>| {
        let code = &program.code()[function.clone()];
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        let mut count = 0;
        while decoder.can_decode() {
            let start = decoder.position();
            let _ = decoder.decode();
            count += usize::from(jump(&code[start..decoder.position()]));
        }
        count
    };
    map.functions().iter().map(count).sum()
}

#[test]
fn jumps_are_short() {
    let mut unrelaxed = 0;
    for path in objects() {
        let loaded = load(&std::fs::read(&path).expect("the object can be read"), 1);
        let too_long_with = |passes| {
            let options = Options {
                keep_text: true,
                passes,
                ..Options::default()
            };
            let programs = common::compile_all(&loaded, options);
            programs.iter().map(too_long).sum::<usize>()
        };
        assert_eq!(too_long_with(Passes::ALL), 0, "{}", path.display());
        unrelaxed += too_long_with(Passes::ALL.without(Pass::Relax));
    }
    assert!(unrelaxed > 100, "{unrelaxed}");
}

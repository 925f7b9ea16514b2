//! Our maps and instructions against what libbpf makes of the same objects (see `objects/README.md`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use squalus_isa::opcode::{LD_IMM64, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE};
use squalus_isa::{Insn, MapDef, MapType};
use squalus_object::btf::Btf;
use squalus_object::{MapSpec, Object, Program, sized};

fn objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects")
}

fn load(path: &Path) -> Object {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Object::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The words that libbpf_dump.c prints of a map.
fn map_line(def: &MapDef) -> String {
    // libbpf sizes perf event arrays only when it creates them.
    let def = sized(def, 0, 4096);
    format!(
        "{} {} {} {} {:x}",
        def.kind as u32, def.key_size, def.value_size, def.max_entries, def.flags.0
    )
}

fn maps(object: &Object) -> Vec<String> {
    let mut lines = Vec::new();
    for map in &object.maps {
        lines.push(format!("map {} {}", map.def.name, map_line(&map.def)));
        if let Some(inner) = &map.def.inner {
            lines.push(format!("inner {}", map_line(inner)));
        }
    }
    lines
}

fn program(maps: &[MapSpec], program: &Program) -> Vec<String> {
    let mut lines = vec![format!("program {} {}", program.name, program.insns.len())];
    for insn in &program.insns {
        let Insn {
            op,
            dst,
            src,
            off,
            imm,
        } = *insn;
        let mut line = format!("{op:02x} {dst:x} {src:x} {off} ");
        if op == LD_IMM64 && (src == PSEUDO_MAP_FD || src == PSEUDO_MAP_VALUE) {
            line += &maps[imm as usize].def.name;
        } else {
            write!(line, "{imm}").unwrap();
        }
        lines.push(line);
    }
    lines
}

/// Compares an object with the file libbpf_dump.c wrote for it; gives how many programs were compared.
fn compare(path: &Path, reference: &Path, object: &Object) -> usize {
    let reference = fs::read_to_string(reference).unwrap();
    let (is_map, rest): (Vec<_>, Vec<_>) = reference
        .lines()
        .partition(|l| l.starts_with("map ") || l.starts_with("inner "));
    assert_eq!(maps(object), is_map, "{}", path.display());

    let mut programs = 0;
    let starts: Vec<_> = rest
        .iter()
        .enumerate()
        .filter(|(_, l)| l.starts_with("program "))
        .map(|(i, _)| i)
        .chain([rest.len()])
        .collect();
    for range in starts.windows(2) {
        let theirs = &rest[range[0]..range[1]];
        let name = theirs[0].split(' ').nth(1).unwrap();
        let ours = program(&object.maps, object.require_program(name).unwrap());
        for (slot, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert_eq!(ours, theirs, "{} {name} line {slot}", path.display());
        }
        assert_eq!(ours.len(), theirs.len(), "{} {name}", path.display());
        programs += 1;
    }
    programs
}

#[test]
fn objects_are_linked_as_libbpf_links_them() {
    for (name, programs) in [
        ("btf_maps", 2),
        ("data", 2),
        ("calls", 4),
        ("kconfig", 3),
        ("fields", 1),
    ] {
        let path = objects().join(name).with_extension("o");
        let object = load(&path);
        assert_eq!(
            compare(&path, &path.with_extension("libbpf"), &object),
            programs
        );
    }
}

#[test]
fn core_relocations_agree_with_libbpf() {
    let path = objects().join("core.o");
    let mut object = load(&path);
    let target: Option<Btf> = load(&objects().join("core_target.o")).btf;
    assert!(object.needs_core());
    object.relocate_core(target.as_ref()).unwrap();
    assert!(!object.needs_core());
    assert_eq!(compare(&path, &path.with_extension("libbpf"), &object), 5);
    let guarded = object.program("guarded").unwrap();
    assert_eq!(guarded.poisoned.len(), 1);
    assert_eq!(&*guarded.poisoned[0].1, "offset of `outer`.gone");
}

/// Objects of others, which are not part of this repository.
#[test]
fn objects_elsewhere_are_linked_as_libbpf_links_them() {
    let Some(directory) = std::env::var_os("SQUALUS_OBJECTS") else {
        eprintln!("SKIPPED: set SQUALUS_OBJECTS to a directory of *.o with *.libbpf beside them");
        return;
    };
    let mut compared = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "o") {
            let mut object = load(&path);
            object.fit_to_kernel().unwrap();
            let reference = path.with_extension("libbpf");
            if reference.exists() {
                let programs = compare(&path, &reference, &object);
                eprintln!("{}: {programs} programs as libbpf's", path.display());
                compared += programs;
            }
        }
    }
    assert!(compared > 0, "no object with a reference in the directory");
}

#[test]
fn perf_event_arrays_leave_their_size_to_the_loader() {
    let object = load(&objects().join("btf_maps.o"));
    let events = object.map("events").unwrap();
    assert_eq!(events.def.kind, MapType::PerfEventArray);
    assert_eq!(events.def.max_entries, 0);
}

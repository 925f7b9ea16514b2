//! Functions and sections that are programs, and those that are refused.

use squalus_isa::{CallTarget, ImmSource, Inst, decode};
use squalus_object::{ObjectError, ProgramKind, XdpAttach};

use crate::load;

#[test]
fn subprograms_are_linked_into_each_program_that_reaches_them() {
    let object = load("calls.o");
    let functions = |name: &str| -> Vec<String> {
        let program = object.program(name).unwrap();
        program
            .subprograms
            .iter()
            .map(|s| s.name.to_string())
            .collect()
    };
    assert_eq!(functions("one"), ["one", "shared", "twice", "leaf"]);
    assert_eq!(functions("two"), ["two", "tick", "leaf"]);
    assert_eq!(functions("three"), ["three", "shared", "twice", "leaf"]);
    assert_eq!(functions("alone"), ["alone"]);

    let two = object.program("two").unwrap();
    let tick = two.subprograms[1].start;
    let decoded = decode(&two.insns).unwrap();
    assert!(decoded.iter().any(|d| matches!(
        d.inst,
        Inst::LoadImm { imm: ImmSource::Func(target), .. } if target == tick
    )));
    for program in &object.programs {
        let starts: Vec<_> = program.subprograms.iter().map(|s| s.start).collect();
        for d in decode(&program.insns).unwrap() {
            if let Inst::Call(CallTarget::Local(target)) = d.inst {
                assert!(starts.contains(&target), "{} slot {}", program.name, d.slot);
            }
        }
    }
}

#[test]
fn source_lines_follow_the_code_they_belong_to() {
    let object = load("calls.o");
    let three = object.program("three").unwrap();
    for subprogram in &three.subprograms {
        let line = three.line(subprogram.start).unwrap();
        assert!(line.file.ends_with("calls.c"), "{line:?}");
        assert_eq!(three.subprogram(subprogram.start), Some(subprogram));
    }
    let leaf = three.subprograms.last().unwrap();
    let text: Vec<_> = (leaf.start..three.insns.len())
        .filter_map(|slot| three.line(slot))
        .map(|l| l.text.to_string())
        .collect();
    assert!(text.iter().any(|t| t == "return x * 3 + seed;"), "{text:?}");
    assert_eq!(three.line(three.insns.len()), None);
}

#[test]
fn section_names_of_all_times_are_understood() {
    let object = load("sections.o");
    let kind = |name: &str| object.program(name).unwrap().kind.clone();
    for name in ["plain", "slashed", "devmap", "old", "dashed", "optional"] {
        assert_eq!(kind(name), ProgramKind::Xdp { frags: false }, "{name}");
    }
    for name in ["fragments", "fragments_cpumap"] {
        assert_eq!(kind(name), ProgramKind::Xdp { frags: true }, "{name}");
    }
    assert_eq!(kind("traffic"), ProgramKind::Tc);
    assert_eq!(kind("classify"), ProgramKind::Tc);
    assert_eq!(kind("probe"), ProgramKind::Other("kprobe".into()));
    assert_eq!(kind("tail"), ProgramKind::Xdp { frags: false });
    assert!(!object.program("optional").unwrap().autoload);
    assert!(object.program("plain").unwrap().autoload);
}

#[test]
fn what_only_the_kernel_has_is_refused_by_name() {
    let object = load("sections.o");
    for (program, culprit) in [
        (
            "dangling",
            "`missing` (./sections.c:35), which the object does not define",
        ),
        ("replacement", "(freplace)"),
    ] {
        assert!(object.program(program).is_none());
        let error = object.require_program(program).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{program}` (section")),
            "{error}"
        );
        assert!(error.contains(culprit), "{error}");
    }
    assert_eq!(object.refused.len(), 2);
    let error = object.require_program("nothing").unwrap_err();
    assert!(matches!(error, ObjectError::NoProgram { .. }));
}

#[test]
fn without_section_names_exported_functions_are_programs() {
    let object = load("text.o");
    let names: Vec<_> = object.programs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["pass", "compute"]);
    let compute = object.program("compute").unwrap();
    assert_eq!(compute.kind, ProgramKind::Unknown(".text".into()));
    assert_eq!(compute.subprograms.len(), 2);
}

#[test]
fn programs_tell_the_kernel_where_and_how_they_run() {
    let object = load("fields.o");
    let out = object.program("out").unwrap();
    assert_eq!(out.attach, XdpAttach::DevMap);
    assert_eq!((out.attach.attach_type(), out.prog_flags()), (33, 1 << 5));
    let names: Vec<_> = out.subprograms.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["out", "replaceable", "helper"]);
    assert_eq!(out.func_info().len(), 3 * 8);
    assert_eq!(out.line_info().len(), 16 * out.lines.len());
}

#[test]
fn implementations_of_kernel_interfaces_are_refused_beside_programs_that_load() {
    let object = load("struct_ops.o");
    assert!(object.program("pass").is_some());
    let refused: Vec<_> = object.refused.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(refused, ["begin", "control"]);
}

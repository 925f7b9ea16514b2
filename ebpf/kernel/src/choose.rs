//! Which of an object's programs are loaded.

use squalus_isa::opcode;
use squalus_object::{InitialTarget, MapSpec, Object, Program, ProgramKind};

use crate::KernelError;

/// The programs to load, in the object's order: those named and what their program arrays hold from the
/// start, or, without names, all XDP programs that load by themselves.
pub(crate) fn choose<'o>(
    object: &'o Object,
    only: &[String],
) -> Result<Vec<&'o Program>, KernelError> {
    let programs = &object.programs;
    if only.is_empty() {
        let chosen = programs.iter().filter(|program| loads_itself(program));
        let chosen: Vec<&Program> = chosen.collect();
        return match chosen[..] {
            [] => Err(KernelError::NoXdpProgram(listing(object))),
            _ => Ok(chosen),
        };
    }
    let mut wanted = vec![false; programs.len()];
    let mut open = Vec::new();
    for name in only {
        let program = object.require_program(name)?;
        open.push(place(object, &program.name));
    }
    while let Some(place) = open.pop().flatten() {
        if std::mem::replace(&mut wanted[place], true) {
            continue;
        }
        let targets = initial_targets(object, &programs[place]);
        open.extend(
            targets
                .map(|name| self::place(object, name))
                .filter(Option::is_some),
        );
    }
    let chosen = programs.iter().zip(wanted);
    Ok(chosen
        .filter(|(_, wanted)| *wanted)
        .map(|(p, _)| p)
        .collect())
}

fn loads_itself(program: &Program) -> bool {
    program.autoload && matches!(program.kind, ProgramKind::Xdp { .. })
}

fn place(object: &Object, name: &str) -> Option<usize> {
    object
        .programs
        .iter()
        .position(|program| program.name == name)
}

/// The programs that stand in program arrays which this one refers to.
fn initial_targets<'o>(object: &'o Object, program: &'o Program) -> impl Iterator<Item = &'o str> {
    let refers = |insn: &squalus_isa::Insn| {
        let map = insn.op == opcode::LD_IMM64 && insn.src == opcode::PSEUDO_MAP_FD;
        map.then_some(usize::try_from(insn.imm).ok()).flatten()
    };
    let maps = program.insns.iter().filter_map(refers);
    let maps = maps.filter_map(|map| object.maps.get(map));
    maps.flat_map(programs_of)
}

/// The programs in a map's static initialiser.
fn programs_of(map: &MapSpec) -> impl Iterator<Item = &str> {
    map.values.iter().filter_map(|value| match &value.target {
        InitialTarget::Program(name) => Some(name.as_str()),
        InitialTarget::Map(_) => None,
    })
}

/// What the object has instead of XDP programs.
fn listing(object: &Object) -> String {
    let others = object.programs.iter();
    let others = others.map(|p| format!("`{}` in section `{}`", p.name, p.section));
    let refused = object.refused.iter();
    let refused = refused.map(|r| format!("`{}`, which is refused: {}", r.name, r.reason));
    let all: Vec<String> = others.chain(refused).collect();
    all.join("; ")
}

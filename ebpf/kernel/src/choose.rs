//! Which of an object's programs are loaded.

use squalus_object::{Object, Program, ProgramKind};

use crate::KernelError;

/// The programs to load, in the object's order: those named and what they jump to, or, without names, all XDP
/// programs that load by themselves.
pub(crate) fn choose<'o>(
    object: &'o Object,
    only: &[String],
) -> Result<Vec<&'o Program>, KernelError> {
    if !only.is_empty() {
        return Ok(object.with_jump_targets(only)?);
    }
    let chosen = object
        .programs
        .iter()
        .filter(|program| loads_itself(program));
    let chosen: Vec<&Program> = chosen.collect();
    match chosen[..] {
        [] => Err(KernelError::NoXdpProgram(listing(object))),
        _ => Ok(chosen),
    }
}

fn loads_itself(program: &Program) -> bool {
    program.autoload && matches!(program.kind, ProgramKind::Xdp { .. })
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

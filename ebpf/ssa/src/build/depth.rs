//! Whether code must keep the depth of calls while it runs.

use squalus_analysis::{Facts, FuncId};
use squalus_isa::{CallTarget, Inst};
use squalus_runtime::{Iterates, LinkedProgram, MAX_CALL_FRAMES, proto};

/// Whether somebody wants to know at run time how deep calls are nested: to end calls that are too deep, where
/// that is not known beforehand, or to tell frames apart.
#[must_use]
pub fn counts_depth(program: &LinkedProgram, facts: &Facts) -> bool {
    facts.checks_stack() || lends_keys(program, facts) || deepest(facts).is_none()
}

/// Whether elements of maps are walked over: frames own the keys that callbacks are lent.
fn lends_keys(program: &LinkedProgram, facts: &Facts) -> bool {
    let mut insts = program.insts().iter().enumerate();
    insts.any(|(n, decoded)| match decoded.inst {
        Inst::Call(CallTarget::Helper(id)) if facts.inst(n).is_some() => {
            proto(id).and_then(|proto| proto.iterates()) == Some(Iterates::Elements)
        }
        _ => false,
    })
}

/// How many frames there are at once at most, if that is allowed.
fn deepest(facts: &Facts) -> Option<usize> {
    let cfg = facts.cfg();
    let mut depth = vec![1; cfg.functions()];
    let mut changed = true;
    // Each round finds chains of calls that are longer by one.
    while std::mem::take(&mut changed) {
        for func in 0..cfg.functions() as FuncId {
            let below = cfg.callees(func).iter().map(|&f| depth[f as usize]).max();
            let own = 1 + below.unwrap_or(0);
            if own > MAX_CALL_FRAMES {
                return None;
            }
            changed |= std::mem::replace(&mut depth[func as usize], own) != own;
        }
    }
    depth.into_iter().max()
}

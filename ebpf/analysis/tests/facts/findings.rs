//! What a programmer is told: refusals, checks and code that is never run.

use squalus_analysis::{AnalysisError, analyse};
use squalus_isa::{HelperId, MemSize, Reg};
use squalus_runtime::asm::{Asm, R};

use crate::{end, facts, hash, link, packet};

#[test]
fn refusals_name_the_instruction() {
    let mut asm = Asm::new();
    asm.load(MemSize::Dw, 0, 1, 0).exit();
    let error: AnalysisError = analyse(&link(&asm, &[]))
        .err()
        .expect("it reads two fields at once");
    assert_eq!(
        error.to_string(),
        "program `test`, instruction 0: it reads 8 bytes at offset 0 of the context; \
         `struct xdp_md` has 4-byte fields at offsets 0 to 20"
    );
}

/// Pointers of the context are longer than what is read of them: a number of 32 bits with a sign is not what
/// the register would hold.
#[test]
fn pointers_of_the_context_have_no_sign() {
    for field in [0, 4, 8] {
        let mut asm = Asm::new();
        asm.load_signed(MemSize::W, 2, 1, field).mov(0, 0).exit();
        let error: AnalysisError = analyse(&link(&asm, &[]))
            .err()
            .expect("it extends the sign of a field");
        assert_eq!(
            error.to_string(),
            format!(
                "program `test`, instruction 0: it sign-extends what it reads at offset {field} of the \
                 context, which is a pointer"
            )
        );
    }
}

#[test]
fn checks_say_what_to_do() {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    asm.load(MemSize::H, 0, 7, 12)
        .store(MemSize::W, 10, -4, 1)
        .mov(2, R(10))
        .add(2, -4)
        .map(1, 0)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .load(MemSize::Dw, 1, 0, 0)
        .jump_eq(0, 0, out)
        .load(MemSize::Dw, 1, 0, 12);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[hash(16)]);
    let checks = facts.checks(&program);
    let reasons: Vec<&str> = checks.iter().map(|check| &*check.reason).collect();
    assert_eq!(
        reasons,
        [
            "the access may reach up to 14 bytes past data_end: compare data + 14 with data_end first",
            "r0 may be null: compare it with 0 first",
            "8 bytes at offset 12 of a value of `map`, which has 16: bound the offset with a comparison or `&`",
        ]
    );
    let r7 = Reg::new(7).expect("r7 exists");
    assert_eq!(checks[0].registers, [(r7, "data".to_owned())]);
    assert_eq!(
        checks[1].registers,
        [(Reg::R0, "value of map `map`, or null".to_owned())]
    );
}

#[test]
fn code_that_no_path_reaches_is_told() {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.mov(1, 1).jump_eq(1, 1, out).imm64(0, 1 << 40).mov(0, 1);
    end(&mut asm, out);
    let (program, facts) = facts(&asm, &[]);
    let unreachable = facts.unreachable(&program);
    assert_eq!(unreachable, vec![std::ops::Range { start: 2, end: 5 }]);
}

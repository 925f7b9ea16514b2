//! Every instruction and corner, in every engine that can run here.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use squalus_conformance::engines;
use squalus_conformance::instructions::{cases, reference};

const FILES: [(&str, &str); 5] = [
    ("arithmetic", include_str!("../cases/arithmetic.txt")),
    ("jumps", include_str!("../cases/jumps.txt")),
    ("memory", include_str!("../cases/memory.txt")),
    ("calls", include_str!("../cases/calls.txt")),
    ("malformed", include_str!("../cases/malformed.txt")),
];

#[test]
fn cases_hold() {
    let kinds = engines::available().unwrap();
    let mut wrong = Vec::new();
    for (file, text) in FILES {
        for case in cases(text).unwrap_or_else(|error| panic!("{file}: {error}")) {
            for kind in &kinds {
                let answer = case.run(*kind).unwrap_or_else(|error| {
                    panic!("{file}, line {}, {}: {error}", case.line, case.name)
                });
                if let Some(problem) = case.judge(*kind, &answer) {
                    wrong.push(format!(
                        "{file}.txt:{}: {}: {problem}",
                        case.line, case.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operations_are_the_specifications() {
    let kinds = engines::available().unwrap();
    let mut wrong = Vec::new();
    let mut runs = 0;
    for group in reference::groups() {
        for kind in &kinds {
            match group.check(*kind) {
                Ok(done) => runs += done,
                Err(problem) => wrong.push(problem),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{runs} runs on {} engines", kinds.len());
}

//! The text form of cases.

use squalus_isa::Insn;

use crate::assemble::{SyntaxError, assemble, number};
use crate::parse_hex;

/// What follows a program's last instruction, to which its `exit`s lead: `r0` goes into the result map.
const END: &str = "__end: r1 = map[0][0]+0 ll; *(u64 *)(r1 + 0) = r0; r0 = 2; exit";

/// A program, or several, and what is expected of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Line on which it begins.
    pub line: usize,
    /// Texts of its programs; the first one is run.
    pub programs: Vec<String>,
    /// What the frame begins with.
    pub packet: Vec<u8>,
    /// What must hold afterwards, all of it.
    pub expected: Vec<Expected>,
    /// Whether the kernel's verifier takes it.
    pub kernel_refuses: bool,
}

/// What must hold after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The whole of `r0`.
    Result(u64),
    /// What the frame begins with.
    Frame(Vec<u8>),
    /// What the `memory` map's value begins with.
    Memory(Vec<u8>),
    /// A check ended the run.
    Aborted,
    /// It did not load, and our reason contains this.
    Refused(String),
}

/// A file of cases is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CaseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Reads a file of cases.
///
/// # Errors
/// The first line that is wrong. Programs are assembled later.
pub fn cases(text: &str) -> Result<Vec<Case>, CaseError> {
    let mut cases: Vec<Case> = Vec::new();
    for (line, whole) in (1..).zip(text.lines()) {
        let content = whole.split('#').next().unwrap_or_default().trim();
        let error = |problem: &str| CaseError {
            line,
            problem: format!("`{content}`: {problem}"),
        };
        if content.is_empty() {
            continue;
        }
        if let Some(name) = content.strip_prefix("case ") {
            cases.push(Case {
                name: name.to_owned(),
                line,
                programs: vec![String::new()],
                packet: Vec::new(),
                expected: Vec::new(),
                kernel_refuses: false,
            });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| error("no case begins"))?;
        if !case
            .expectation(content)
            .map_err(|problem| error(&problem))?
        {
            if !case.expected.is_empty() {
                return Err(error("instructions after what is expected"));
            }
            case.code(content);
        }
    }
    match cases.iter().find(|case| case.expected.is_empty()) {
        None => Ok(cases),
        Some(case) => Err(CaseError {
            line: case.line,
            problem: format!("`{}` expects nothing", case.name),
        }),
    }
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    parse_hex(&text.replace(' ', "")).ok_or_else(|| "not hexadecimal".to_owned())
}

impl Case {
    /// Whether a line says what is expected.
    fn expectation(&mut self, line: &str) -> Result<bool, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let expected = match word {
            "packet" => {
                self.packet = hex(rest)?;
                return Ok(true);
            }
            "kernel" if rest == "refuses" => {
                self.kernel_refuses = true;
                return Ok(true);
            }
            "is" => Expected::Result(number(rest)?),
            "leaves" => Expected::Frame(hex(rest)?),
            "memory" => Expected::Memory(hex(rest)?),
            "aborted" => Expected::Aborted,
            "refused" => Expected::Refused(rest.to_owned()),
            _ => return Ok(false),
        };
        self.expected.push(expected);
        Ok(true)
    }

    fn code(&mut self, line: &str) {
        if line == "program" {
            self.programs.push(String::new());
            return;
        }
        let program = self.programs.last_mut().expect("a case has a program");
        program.push_str(line);
        program.push('\n');
    }

    /// Its programs, by the names `p0`, `p1` and so on.
    ///
    /// # Errors
    /// If a text is no program; the line is counted from the program's first.
    pub fn assemble(&self) -> Result<Vec<(String, Vec<Insn>)>, SyntaxError> {
        let programs = self.programs.iter().enumerate();
        programs
            .map(|(at, text)| Ok((format!("p{at}"), assemble(&with_end(text))?)))
            .collect()
    }
}

/// A program whose `exit`s outside functions lead to [`END`].
fn with_end(text: &str) -> String {
    let (main, functions) = match text.find("fn ") {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let main = main.replace("exit", "goto __end");
    let functions = functions
        .lines()
        .map(|line| match line.strip_prefix("fn ") {
            Some(name) => format!("{name}:\n"),
            None => format!("{line}\n"),
        });
    format!("{main}\n{END}\n{}", functions.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = "
            # Two cases.
            case the first   # with a comment
              call one
              exit
            fn one
              r0 = 1; exit
            packet 01 02
            is -1
            case the second
              exit
            program
              r0 = 3
            kernel refuses
            refused because
        ";
        let cases = cases(text).unwrap();
        assert_eq!(cases[0].name, "the first");
        assert_eq!(cases[0].packet, [1, 2]);
        assert_eq!(cases[0].expected, [Expected::Result(u64::MAX)]);
        let programs = cases[0].assemble().unwrap();
        assert_eq!((programs.len(), programs[0].1.len()), (1, 9));
        assert_eq!(cases[1].programs.len(), 2);
        assert!(cases[1].kernel_refuses);
        assert_eq!(cases[1].expected, [Expected::Refused("because".to_owned())]);
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text| cases(text).unwrap_err().to_string();
        assert!(error("\nis 3").starts_with("line 2: `is 3`: no case begins"));
        assert!(error("case a\nexit").contains("`a` expects nothing"));
        assert!(error("case a\nis 3\nr0 = 1").contains("after what is expected"));
        assert!(error("case a\nis x").contains("`x` is no number"));
    }
}

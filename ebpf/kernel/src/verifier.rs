//! What the verifier wrote about a program it refused.

use squalus_object::Program;

use crate::KernelError;

/// How much of a verifier log is kept; newer kernels keep the end of longer ones.
const LOG_BYTES: usize = 4 << 20;
/// How many lines of it an error message shows.
const SHOWN_LINES: usize = 12;

/// The text that `ask` makes the kernel write.
pub(crate) fn log(ask: impl FnOnce(&mut [u8])) -> String {
    let mut buffer = vec![0; LOG_BYTES];
    ask(&mut buffer);
    let end = buffer.iter().position(|&b| b == 0).unwrap_or(LOG_BYTES);
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

/// Adds the source line of the instruction that was refused.
pub(crate) fn with_source(error: KernelError, program: &Program) -> KernelError {
    match error {
        KernelError::Verifier {
            program: name,
            errno,
            line: None,
            log,
        } => {
            let line = last_instruction(&log).and_then(|slot| program.line(slot));
            let line = line.map(|line| match &*line.text {
                "" => format!("{}:{}", line.file, line.line),
                text => format!("{}:{}: {text}", line.file, line.line),
            });
            KernelError::Verifier {
                program: name,
                errno,
                line,
                log,
            }
        }
        error => error,
    }
}

/// The last instruction that the log speaks of: `12: (61) r2 = *(u32 *)(r1 +0)`.
fn last_instruction(log: &str) -> Option<usize> {
    log.lines().rev().find_map(|line| {
        let (slot, rest) = line.split_once(": (")?;
        let opcode = rest.get(..3)?.strip_suffix(')')?;
        u8::from_str_radix(opcode, 16).ok()?;
        slot.parse().ok()
    })
}

/// What an error message shows of a log: the end, where the refusal stands, without the statistics after it,
/// and how to see the rest.
pub(crate) fn excerpt(log: &str) -> String {
    let statistics = |line: &&str| {
        let words = [
            "processed ",
            "verification time ",
            "stack depth ",
            "mark_precise",
        ];
        words.iter().any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.trim().is_empty() && !statistics(line))
        .collect();
    if lines.is_empty() {
        return "(the verifier wrote nothing: the program was refused before its instructions were looked at)"
            .to_owned();
    }
    let hidden = lines.len().saturating_sub(SHOWN_LINES);
    let shown = lines[hidden..].join("\n  ");
    if hidden == 0 {
        return format!("  {shown}");
    }
    format!(
        "  {shown}\n(the end of the verifier's log; RUST_LOG=squalus_kernel=debug shows the {hidden} lines before)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_the_end_without_statistics() {
        let mut log: String = (0..100).map(|n| format!("line {n}\n")).collect();
        log += "processed 5 insns (limit 1000000) max_states_per_insn 0\n\n";
        let text = excerpt(&log);
        assert!(
            text.contains("line 88") && !text.contains("line 87\n"),
            "{text}"
        );
        assert!(
            text.contains("line 99\n(") && !text.contains("processed"),
            "{text}"
        );
        assert!(text.contains("the 88 lines before"), "{text}");
        assert_eq!(excerpt("one\ntwo\n"), "  one\n  two");
        assert!(excerpt("processed 0 insns\n").contains("wrote nothing"));
    }

    #[test]
    fn the_last_instruction_is_found() {
        let log = "0: (bf) r6 = r1\n; a line @ x.c:3\n12: (61) r2 = *(u32 *)(r1 +0)   ; R1=ctx()\n\
                   invalid access to packet, off=0 size=8\nR2 offset is outside\n";
        assert_eq!(last_instruction(log), Some(12));
        assert_eq!(last_instruction("func#0 @0\nat: (ok)\n"), None);
    }
}

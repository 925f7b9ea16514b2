//! A program several times in a row, as one program.
//!
//! The kernel enters and leaves a program by jumps that are kept from being predicted, where the processor waits some
//! twenty cycles for each, and what a driver does between two packets takes longer still. It goes on meanwhile with
//! what it has in flight, so that a short program takes next to no time beside an empty one. On the machine where this
//! was tried, one turn of `BPF_PROG_TEST_RUN` took 22 ns with an empty program, 24 with a checksum over 64 bytes, 23
//! with one over an IPv4 header: as if they took 2 ns and 1. Eight times in a row they took 51 and 47: 3.9 ns and 3.4
//! for each time more, which is what they do take of the processor.
//!
//! So the kernel's figures are the difference between several times and once, with no stall between. That is made from
//! the bytecode alone, and nothing is translated otherwise than in the original, since the kernel's compiler takes one
//! instruction after the other:
//!
//! - A program without loops stands there so often, its exits leading to the next one.
//! - One with loops is in a loop of its own, which counts on the stack: that takes a nanosecond at most, where the
//!   program takes tens. Written out so often, each of its branches would have to be learnt by the processor so often,
//!   too, other than in engines that run the same code for each packet: one of the programs then took twice as long.

use anyhow::{Context, Result, ensure};
use squalus_isa::{Insn, opcode as o};
use squalus_object::Program;

const R1: u8 = 1;
const FP: u8 = 10;
/// Bytes of stack that a program has.
const STACK: i16 = 512;

/// A program called `name` that runs `program` so many times, and returns what the last time returns. Each time has a
/// frame of its own, `stride` bytes after the one before: what it wrote there would keep the next one waiting, if that
/// reads it, or have it do other work. Such a program is written out even if it has loops. With 0, for programs that
/// don't, all have the same frame, and its end.
///
/// # Errors
/// If the program leaves no eight bytes of stack, or is too long for jumps across it, or if frames of their own are
/// wanted and it does not begin with reading where its frame is.
pub fn repeated(program: &Program, name: &str, times: usize, stride: usize) -> Result<Program> {
    ensure!(times > 0, "a program that runs no time is none");
    let second = program.subprograms.get(1);
    let len = second.map_or(program.insns.len(), |second| second.start);
    let (main, others) = program.insns.split_at(len);
    ensure!(i16::try_from(len).is_ok(), "{} is too long", program.name);
    let slot = free_slot(main).with_context(|| format!("{} uses all its stack", program.name))?;
    let insns = if stride == 0 && has_loop(main) {
        in_a_loop(main, times, slot)
    } else {
        written_out(main, times, stride, slot)
    };
    let mut insns = insns.with_context(|| format!("{} cannot be repeated", program.name))?;
    let moved = insns.len() - len;
    insns.extend(others);
    let mut whole = program.clone();
    whole.name = name.to_owned();
    whole.insns = insns;
    whole.lines.clear();
    for function in whole.subprograms.iter_mut().skip(1) {
        function.start += moved;
    }
    Ok(whole)
}

/// The function so often, one behind the other. `None` if it needs frames of its own and does not begin with its frame.
fn written_out(main: &[Insn], times: usize, stride: usize, slot: i16) -> Option<Vec<Insn>> {
    // From the last to the first, since what follows the main function is as far away as those between are long.
    let mut insns = Vec::new();
    for round in (0..times).rev() {
        let mut copy = copy(main, insns.len() as i32, round + 1 == times);
        if stride * round != 0 {
            let (at, frame) = frame_start(main)?;
            let offset = i32::try_from(stride * round).ok()?;
            copy.insert(at + 1, immediate(o::ALU64 | o::ADD | o::K, frame, offset));
        }
        copy.insert(0, plain(o::LDX | o::MEM | o::DW, R1, FP, slot));
        insns.splice(0..0, copy);
    }
    insns.insert(0, plain(o::STX | o::MEM | o::DW, FP, R1, slot));
    Some(insns)
}

/// The function in a loop that counts on the stack. `None` if there is no place for the count.
fn in_a_loop(main: &[Insn], times: usize, slot: i16) -> Option<Vec<Insn>> {
    let count = slot.checked_sub(8).filter(|count| *count >= -STACK)?;
    let mut tail = vec![
        plain(o::LDX | o::MEM | o::DW, R1, FP, count),
        immediate(o::ALU64 | o::ADD | o::K, R1, -1),
        plain(o::STX | o::MEM | o::DW, FP, R1, count),
    ];
    let back = -(i16::try_from(1 + main.len() + tail.len() + 1).ok()?);
    tail.push(plain(o::JMP | o::JNE | o::K, R1, 0, back));
    tail.push(plain(EXIT, 0, 0, 0));
    let mut insns = vec![
        plain(o::STX | o::MEM | o::DW, FP, R1, slot),
        Insn {
            imm: i32::try_from(times).ok()?,
            ..plain(o::ST | o::MEM | o::DW, FP, 0, count)
        },
        plain(o::LDX | o::MEM | o::DW, R1, FP, slot),
    ];
    insns.extend(copy(main, tail.len() as i32, false));
    insns.extend(tail);
    Some(insns)
}

/// Whether a function jumps back.
fn has_loop(main: &[Insn]) -> bool {
    let jumps = |insn: &Insn| match insn.op & 7 {
        o::JMP32 => true,
        o::JMP => insn.op != EXIT && insn.op != o::JMP | o::CALL,
        _ => false,
    };
    main.iter().any(|insn| jumps(insn) && insn.off < 0)
}

/// The function with `after` more instructions between it and those it names; unless it is the last, its exits lead to
/// what follows.
fn copy(main: &[Insn], after: i32, last: bool) -> Vec<Insn> {
    let insns = main.iter().enumerate().map(|(at, insn)| match *insn {
        Insn { op: EXIT, .. } if !last => plain(o::JMP | o::JA, 0, 0, (main.len() - at - 1) as i16),
        insn if refers(&insn) => Insn {
            imm: insn.imm + after,
            ..insn
        },
        insn => insn,
    });
    insns.collect()
}

/// Where a function reads, before its first jump, the start of its frame, and the register that it then has it in.
fn frame_start(main: &[Insn]) -> Option<(usize, u8)> {
    let is_jump = |insn: &Insn| matches!(insn.op & 7, o::JMP | o::JMP32);
    let straight = main.iter().take_while(|insn| !is_jump(insn));
    let reads = |insn: &Insn| insn.op == o::LDX | o::MEM | o::W && (insn.src, insn.off) == (R1, 0);
    let mut found = straight.enumerate().filter(|(_, insn)| reads(insn));
    found.next().map(|(at, insn)| (at, insn.dst))
}

/// Each frame so often beside itself, `stride` bytes from one to the next.
///
/// # Panics
/// If one is longer than that.
#[must_use]
pub fn side_by_side(frames: &[Vec<u8>], times: usize, stride: usize) -> Vec<Vec<u8>> {
    let beside = |frame: &Vec<u8>| {
        let mut padded = frame.clone();
        assert!(padded.len() <= stride, "a frame is longer than its place");
        padded.resize(stride, 0);
        padded.repeat(times)
    };
    frames.iter().map(beside).collect()
}

const EXIT: u8 = o::JMP | o::EXIT;

fn plain(op: u8, dst: u8, src: u8, off: i16) -> Insn {
    let imm = 0;
    Insn {
        op,
        dst,
        src,
        off,
        imm,
    }
}

fn immediate(op: u8, dst: u8, imm: i32) -> Insn {
    Insn {
        imm,
        ..plain(op, dst, 0, 0)
    }
}

/// Whether an instruction names another function by its distance.
fn refers(insn: &Insn) -> bool {
    let call = insn.op == o::JMP | o::CALL && insn.src == o::PSEUDO_CALL;
    call || insn.op == o::LD_IMM64 && insn.src == o::PSEUDO_FUNC
}

/// Eight bytes of stack below all that the function uses. Where it makes an address in its stack, it does so by
/// adding a constant to a copy of the frame pointer.
fn free_slot(main: &[Insn]) -> Option<i16> {
    let accessed = main.iter().filter_map(|insn| {
        let base = match insn.op & 7 {
            o::LDX => insn.src,
            o::ST | o::STX => insn.dst,
            _ => return None,
        };
        (base == FP).then_some(i32::from(insn.off))
    });
    let made = main.windows(2).filter_map(|pair| {
        let copied = pair[0].op == o::ALU64 | o::MOV | o::X && pair[0].src == FP;
        let added = pair[1].op == o::ALU64 | o::ADD | o::K && pair[1].dst == pair[0].dst;
        (copied && added).then_some(pair[1].imm)
    });
    let lowest = accessed.chain(made).min().unwrap_or(0).min(0);
    let slot = i16::try_from(lowest.div_euclid(8) * 8 - 8).ok()?;
    (slot >= -STACK).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_below_all_that_the_program_uses() {
        let store = plain(o::STX | o::MEM | o::W, FP, R1, -12);
        let load = plain(o::LDX | o::MEM | o::B, R1, FP, -17);
        let elsewhere = plain(o::STX | o::MEM | o::DW, R1, FP, -400);
        let address = [
            plain(o::ALU64 | o::MOV | o::X, 3, FP, 0),
            immediate(o::ALU64 | o::ADD | o::K, 3, -64),
        ];
        assert_eq!(free_slot(&[]), Some(-8));
        assert_eq!(free_slot(&[store, elsewhere]), Some(-24));
        assert_eq!(free_slot(&[store, load]), Some(-32));
        assert_eq!(free_slot(&[load, address[0], address[1]]), Some(-72));
        assert_eq!(
            free_slot(&[plain(o::ST | o::MEM | o::DW, FP, 0, -504)]),
            Some(-512)
        );
        assert_eq!(
            free_slot(&[plain(o::ST | o::MEM | o::DW, FP, 0, -512)]),
            None
        );
    }

    #[test]
    fn frames_lie_side_by_side() {
        let frames = side_by_side(&[vec![1, 2], vec![3]], 2, 4);
        assert_eq!(frames, [[1, 2, 0, 0, 1, 2, 0, 0], [3, 0, 0, 0, 3, 0, 0, 0]]);
    }
}

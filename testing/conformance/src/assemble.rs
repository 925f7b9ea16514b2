//! Text to instructions, in the notation of the kernel's verifier (and of [`squalus_isa::disassemble`]).
//!
//! One instruction a line or between semicolons, `#` begins a comment. Jumps and calls name labels
//! (`again:`) or slots by number; `gotol` is the jump with a 32-bit offset. `raw` is followed by the eight
//! bytes of an instruction slot, for what has no notation.

use std::collections::HashMap;

use squalus_isa::{HelperId, Insn, opcode as o};

/// A line that is no instruction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`: {problem}")]
pub struct SyntaxError {
    /// Its number in the text, from 1.
    pub line: usize,
    /// The instruction.
    pub text: String,
    /// What is wrong.
    pub problem: String,
}

/// An instruction, and where it jumps.
struct Item {
    insns: Vec<Insn>,
    /// The label or slot, and the field that gets the distance.
    target: Option<(String, Field)>,
    line: usize,
    text: String,
}

#[derive(Clone, Copy)]
enum Field {
    Off,
    Imm,
}

type Parsed<T> = Result<T, String>;

/// Assembles a program.
///
/// # Errors
/// The first line that is wrong.
pub fn assemble(text: &str) -> Result<Vec<Insn>, SyntaxError> {
    let mut items: Vec<Item> = Vec::new();
    let mut labels = HashMap::new();
    let mut slot = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        for mut part in line.split(';').map(str::trim) {
            if let Some((label, rest)) = part.split_once(':') {
                labels.insert(label.trim().to_owned(), slot);
                part = rest.trim();
            }
            if part.is_empty() {
                continue;
            }
            let error = |problem| SyntaxError {
                line: number,
                text: part.to_owned(),
                problem,
            };
            let (insns, target) = instruction(part).map_err(error)?;
            slot += insns.len();
            items.push(Item {
                insns,
                target,
                line: number,
                text: part.to_owned(),
            });
        }
    }
    link(items, &labels)
}

fn link(items: Vec<Item>, labels: &HashMap<String, usize>) -> Result<Vec<Insn>, SyntaxError> {
    let mut code = Vec::new();
    for mut item in items {
        if let Some((target, field)) = &item.target {
            let known = labels.get(target).copied();
            let to = known.or_else(|| target.parse().ok());
            let distance = to.map(|to: usize| to as i64 - code.len() as i64 - 1);
            let set = match (distance, field) {
                (Some(distance), Field::Imm) => i32::try_from(distance)
                    .map(|imm| item.insns[0].imm = imm)
                    .is_ok(),
                (Some(distance), Field::Off) => i16::try_from(distance)
                    .map(|off| item.insns[0].off = off)
                    .is_ok(),
                (None, _) => false,
            };
            if !set {
                return Err(SyntaxError {
                    line: item.line,
                    text: item.text,
                    problem: format!("`{target}` is no label in reach"),
                });
            }
        }
        code.extend(item.insns);
    }
    Ok(code)
}

type Instruction = (Vec<Insn>, Option<(String, Field)>);

fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        op,
        dst,
        src,
        off,
        imm,
    }
}

fn plain(insn: Insn) -> Parsed<Instruction> {
    Ok((vec![insn], None))
}

fn instruction(text: &str) -> Parsed<Instruction> {
    if let Some(bytes) = text.strip_prefix("raw ") {
        let bytes = crate::parse_hex(&bytes.replace(' ', "")).ok_or("not hexadecimal")?;
        let bytes = bytes.try_into().map_err(|_| "a slot has eight bytes")?;
        return plain(Insn::from_bytes(bytes));
    }
    if text == "exit" {
        return plain(insn(o::JMP | o::EXIT, 0, 0, 0, 0));
    }
    if let Some(target) = text.strip_prefix("gotol ") {
        let insn = insn(o::JMP32 | o::JA, 0, 0, 0, 0);
        return Ok((vec![insn], Some((target.trim().to_owned(), Field::Imm))));
    }
    if let Some(target) = text.strip_prefix("goto ") {
        let insn = insn(o::JMP | o::JA, 0, 0, 0, 0);
        return Ok((vec![insn], Some((target.trim().to_owned(), Field::Off))));
    }
    if let Some(rest) = text.strip_prefix("if ") {
        return conditional(rest);
    }
    if let Some(rest) = text.strip_prefix("call ") {
        return call(rest.trim());
    }
    if let Some(rest) = text.strip_prefix("lock *") {
        return locked(rest);
    }
    if text.starts_with("*(") {
        return store(text);
    }
    assignment(text)
}

/// A register and whether it is written as 32 bits wide.
fn register(text: &str) -> Parsed<(u8, bool)> {
    let wrong = || format!("`{text}` is no register");
    let narrow = text.starts_with('w');
    let number = text.strip_prefix(['r', 'w']).ok_or_else(wrong)?;
    match number.parse() {
        Ok(number @ 0..=10) => Ok((number, narrow)),
        _ => Err(wrong()),
    }
}

/// Any 64-bit number: decimal or hexadecimal, signed or not.
pub(crate) fn number(text: &str) -> Parsed<u64> {
    let wrong = |_| format!("`{text}` is no number");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse::<u64>(),
    };
    let value = value.map_err(wrong)?;
    Ok(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

fn immediate(text: &str) -> Parsed<i32> {
    let value = number(text)? as i64;
    // 32-bit operations are also written with unsigned numbers.
    let fits = i32::try_from(value).or_else(|_| u32::try_from(value).map(|value| value as i32));
    fits.map_err(|_| format!("{text} has more than 32 bits"))
}

/// Source bit, register and immediate of an operand.
fn operand(text: &str) -> Parsed<(u8, u8, i32)> {
    match register(text) {
        Ok((register, _)) => Ok((o::X, register, 0)),
        Err(_) => Ok((o::K, 0, immediate(text)?)),
    }
}

fn conditional(text: &str) -> Parsed<Instruction> {
    let (condition, target) = text.split_once(" goto ").ok_or("`if` without `goto`")?;
    let words: Vec<&str> = condition.split_whitespace().collect();
    let [dst, sign, src] = words[..] else {
        return Err("expected `if rX == rY goto label`".to_owned());
    };
    let op = match sign {
        "==" => o::JEQ,
        "!=" => o::JNE,
        ">" => o::JGT,
        ">=" => o::JGE,
        "<" => o::JLT,
        "<=" => o::JLE,
        "&" => o::JSET,
        "s>" => o::JSGT,
        "s>=" => o::JSGE,
        "s<" => o::JSLT,
        "s<=" => o::JSLE,
        _ => return Err(format!("`{sign}` compares nothing")),
    };
    let (dst, narrow) = register(dst)?;
    let class = if narrow { o::JMP32 } else { o::JMP };
    let (source, src, imm) = operand(src)?;
    let insn = insn(class | op | source, dst, src, 0, imm);
    Ok((vec![insn], Some((target.trim().to_owned(), Field::Off))))
}

fn call(target: &str) -> Parsed<Instruction> {
    let op = o::JMP | o::CALL;
    let helper = (1..300).find(|id| HelperId(*id).to_string() == target);
    let helper = helper.or_else(|| target.strip_prefix("helper#")?.parse().ok());
    if let Some(id) = helper {
        return plain(insn(op, 0, 0, 0, id as i32));
    }
    let insn = insn(op, 0, o::PSEUDO_CALL, 0, 0);
    Ok((vec![insn], Some((target.to_owned(), Field::Imm))))
}

/// `(u32 *)(r1 + 4)`: mode and size bits, register, offset; and what follows.
fn place(text: &str) -> Parsed<((u8, u8, i16), &str)> {
    let wrong = || format!("`{text}` is no place in memory");
    let rest = text.trim().strip_prefix('(').ok_or_else(wrong)?;
    let (size, rest) = rest.split_once('*').ok_or_else(wrong)?;
    let rest = rest.trim().strip_prefix(')').ok_or_else(wrong)?;
    let rest = rest.trim().strip_prefix('(').ok_or_else(wrong)?;
    let (address, rest) = rest.split_once(')').ok_or_else(wrong)?;
    let words: Vec<&str> = address.split_whitespace().collect();
    let (base, off) = match words[..] {
        [base] => (base, 0),
        [base, "+", off] => (base, number(off)? as i64),
        [base, "-", off] => (base, -(number(off)? as i64)),
        _ => return Err(wrong()),
    };
    let off = i16::try_from(off).map_err(|_| format!("{off} is no 16-bit offset"))?;
    let mode = match size.trim() {
        "u8" => o::MEM | o::B,
        "u16" => o::MEM | o::H,
        "u32" => o::MEM | o::W,
        "u64" => o::MEM | o::DW,
        "s8" => o::MEMSX | o::B,
        "s16" => o::MEMSX | o::H,
        "s32" => o::MEMSX | o::W,
        _ => return Err(wrong()),
    };
    Ok(((mode, register(base)?.0, off), rest))
}

fn store(text: &str) -> Parsed<Instruction> {
    let ((mode, base, off), rest) = place(&text[1..])?;
    let value = rest.trim().strip_prefix('=').ok_or("expected `= value`")?;
    let (source, src, imm) = operand(value.trim())?;
    let class = if source == o::X { o::STX } else { o::ST };
    plain(insn(class | mode, base, src, off, imm))
}

/// What follows the `|` of an atomic operation's place.
fn atomic(place: (u8, u8, i16), src: u8, op: i32) -> Parsed<Instruction> {
    let (mode, base, off) = place;
    let size = mode & o::SIZE_MASK;
    plain(insn(o::STX | o::ATOMIC | size, base, src, off, op))
}

fn arithmetic(name: &str) -> Parsed<i32> {
    Ok(i32::from(match name {
        "add" => o::ADD,
        "or" => o::OR,
        "and" => o::AND,
        "xor" => o::XOR,
        _ => return Err(format!("no atomic operation `{name}`")),
    }))
}

/// `lock *(u64 *)(r1 + 0) add= r2`.
fn locked(text: &str) -> Parsed<Instruction> {
    let (place, rest) = place(text)?;
    let (name, src) = rest.split_once("= ").ok_or("expected `add= rX`")?;
    atomic(place, register(src.trim())?.0, arithmetic(name.trim())?)
}

/// `atomic_fetch_add((u64 *)(r1 + 0), r2)`, `xchg(...)` and `cmpxchg(..., r0, r2)`.
fn fetching(name: &str, arguments: &str) -> Parsed<Instruction> {
    let (place, rest) = place(arguments)?;
    let src = rest.trim_end_matches(')').rsplit(',').next();
    let (src, _) = register(src.unwrap_or_default().trim())?;
    let op = match name.strip_prefix("atomic_fetch_") {
        Some(operation) => arithmetic(operation)? | o::ATOMIC_FETCH,
        None if name == "xchg" => o::ATOMIC_XCHG,
        None if name == "cmpxchg" => o::ATOMIC_CMPXCHG,
        None => return Err(format!("no operation `{name}`")),
    };
    atomic(place, src, op)
}

/// `rX = ...` and `rX op= ...`.
fn assignment(text: &str) -> Parsed<Instruction> {
    let (left, value) = text.split_once("= ").ok_or("no instruction")?;
    let value = value.trim();
    let (name, sign) = left.trim().split_once(' ').unwrap_or((left.trim(), ""));
    let (dst, narrow) = register(name)?;
    let class = if narrow { o::ALU } else { o::ALU64 };
    let (op, off) = match sign.trim() {
        "" => return set(class, dst, value),
        "+" => (o::ADD, 0),
        "-" => (o::SUB, 0),
        "*" => (o::MUL, 0),
        "/" => (o::DIV, 0),
        "s/" => (o::DIV, 1),
        "%" => (o::MOD, 0),
        "s%" => (o::MOD, 1),
        "|" => (o::OR, 0),
        "&" => (o::AND, 0),
        "^" => (o::XOR, 0),
        "<<" => (o::LSH, 0),
        ">>" => (o::RSH, 0),
        "s>>" => (o::ARSH, 0),
        other => return Err(format!("no operation `{other}=`")),
    };
    let (source, src, imm) = operand(value)?;
    plain(insn(class | op | source, dst, src, off, imm))
}

/// What a register is set to.
fn set(class: u8, dst: u8, value: &str) -> Parsed<Instruction> {
    if let Some(rest) = value.strip_prefix('*') {
        let ((mode, base, off), _) = place(rest)?;
        return plain(insn(o::LDX | mode, dst, base, off, 0));
    }
    if let Some(wide) = value.strip_suffix(" ll") {
        return wide_immediate(dst, wide.trim());
    }
    if let Some((name, arguments)) = value.split_once('(')
        && !name.is_empty()
    {
        return fetching(name, arguments);
    }
    if let Some((bits, register_)) = value.strip_prefix("(s").and_then(|v| v.split_once(')')) {
        let bits = i16::try_from(number(bits)?).map_err(|_| "no width")?;
        return plain(insn(
            class | o::MOV | o::X,
            dst,
            register(register_.trim())?.0,
            bits,
            0,
        ));
    }
    if let Some(of) = value.strip_prefix('-')
        && register(of).is_ok_and(|(of, _)| of == dst)
    {
        return plain(insn(class | o::NEG, dst, 0, 0, 0));
    }
    if let Some(swap) = byte_swap(dst, value) {
        return plain(swap?);
    }
    let (source, src, imm) = operand(value)?;
    plain(insn(class | o::MOV | source, dst, src, 0, imm))
}

/// `be16 rX` and the like.
fn byte_swap(dst: u8, value: &str) -> Option<Parsed<Insn>> {
    let (name, of) = value.split_once(' ')?;
    let at = name.find(|c: char| c.is_ascii_digit())?;
    let op = match &name[..at] {
        "le" => o::ALU | o::END,
        "be" => o::ALU | o::END | o::X,
        "bswap" => o::ALU64 | o::END,
        _ => return None,
    };
    let bits = match immediate(&name[at..]) {
        Ok(bits) => bits,
        Err(error) => return Some(Err(error)),
    };
    Some(match register(of) {
        Ok((of, _)) if of == dst => Ok(insn(op, dst, 0, 0, bits)),
        _ => Err("bytes are swapped in place".to_owned()),
    })
}

/// A 64-bit number, `map[0]`, `map[0][0]+8` or `func label`.
fn wide_immediate(dst: u8, value: &str) -> Parsed<Instruction> {
    let two = |src: u8, low: i32, high: i32| {
        vec![insn(o::LD_IMM64, dst, src, 0, low), insn(0, 0, 0, 0, high)]
    };
    if let Some(label) = value.strip_prefix("func ") {
        let target = (label.trim().to_owned(), Field::Imm);
        return Ok((two(o::PSEUDO_FUNC, 0, 0), Some(target)));
    }
    let Some(map) = value.strip_prefix("map[") else {
        let value = number(value)?;
        return Ok((two(o::PSEUDO_IMM, value as i32, (value >> 32) as i32), None));
    };
    let (map, rest) = map.split_once(']').ok_or("expected `map[N]`")?;
    let map = immediate(map)?;
    let insns = match rest.strip_prefix("[0]+") {
        Some(offset) => two(o::PSEUDO_MAP_VALUE, map, immediate(offset)?),
        None if rest.is_empty() => two(o::PSEUDO_MAP_FD, map, 0),
        None => return Err("expected `map[N]` or `map[N][0]+OFFSET`".to_owned()),
    };
    Ok((insns, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::programs::Program;
    use squalus_isa::disassemble;

    /// What a listing says without the slots in front.
    fn lines(listing: &str) -> String {
        let lines = listing.lines().map(|line| line.split_once(": ").unwrap().1);
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn disassembled_programs_assemble_to_themselves() {
        for seed in 0..200 {
            let code = Program::random(&mut Rng::new(seed), 60).assemble();
            let text = disassemble(&code).unwrap();
            // The disassembler numbers slots; labels are counted in lines here.
            assert_eq!(assemble(&lines(&text)).unwrap(), code, "{text}");
        }
    }

    #[test]
    fn notation_beyond_generated_programs() {
        for text in [
            "r1 = map[3] ll",
            "r1 = map[3][0]+16 ll",
            "r1 = 0xfedcba9876543210 ll",
            "call bpf_map_lookup_elem",
            "call 0\nexit",
            "r2 = func 0 ll\nexit",
        ] {
            let code = assemble(text).unwrap();
            assert_eq!(lines(disassemble(&code).unwrap().trim_end()), text);
        }
        let code = assemble("again: gotol again; raw 95 00 00 00 00 00 00 00").unwrap();
        assert_eq!((code[0].op, code[0].imm), (o::JMP32 | o::JA, -1));
        assert_eq!(code[1], assemble("exit").unwrap()[0]);
    }

    #[test]
    fn errors_name_the_line() {
        let error = assemble("exit\nr11 = 3").unwrap_err();
        assert_eq!(error.to_string(), "line 2: `r11 = 3`: `r11` is no register");
        let error = assemble("goto nowhere").unwrap_err();
        assert!(error.to_string().contains("no label"), "{error}");
    }
}

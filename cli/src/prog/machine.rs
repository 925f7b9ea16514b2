//! Machine code as text.

use squalus_jit::CodeMap;

/// One machine instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInst {
    /// Offset from the program's first byte.
    pub at: usize,
    pub len: usize,
    /// As other tools write it for this processor, and what addresses in it are.
    pub text: String,
    /// Slot of the eBPF instruction that it comes from, if it comes from one.
    pub slot: Option<usize>,
}

/// All instructions of a program's machine code, in order; what only fills gaps between functions is left out.
pub fn disassemble(code: &[u8], map: &CodeMap) -> Vec<MachineInst> {
    let mut found = Vec::new();
    for function in map.functions() {
        let end = function.end.min(code.len());
        decode(code, function.start..end, map, &mut found);
    }
    found
}

#[cfg(target_arch = "x86_64")]
fn decode(code: &[u8], range: std::ops::Range<usize>, map: &CodeMap, found: &mut Vec<MachineInst>) {
    use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_small_hex_numbers_in_decimal(true);
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    let start = range.start as u64;
    let decoder = Decoder::with_ip(64, &code[range], start, DecoderOptions::NONE);
    for inst in decoder {
        let mut text = String::new();
        formatter.format(&inst, &mut text);
        if let Some(name) = immediate(&inst).and_then(|address| map.symbol(address)) {
            text += &format!("  # {name}");
        }
        let at = inst.ip() as usize;
        found.push(MachineInst {
            at,
            len: inst.len(),
            text,
            slot: map.slot_at(at),
        });
    }
}

/// The number of 64 bits that an instruction loads.
#[cfg(target_arch = "x86_64")]
fn immediate(inst: &iced_x86::Instruction) -> Option<usize> {
    let kind = inst
        .op_kinds()
        .find(|kind| *kind == iced_x86::OpKind::Immediate64);
    kind.map(|_| inst.immediate64() as usize)
}

#[cfg(target_arch = "aarch64")]
fn decode(code: &[u8], range: std::ops::Range<usize>, map: &CodeMap, found: &mut Vec<MachineInst>) {
    use yaxpeax_arch::{Decoder, U8Reader};
    let decoder = yaxpeax_arm::armv8::a64::InstDecoder::default();
    for at in range.step_by(4) {
        let Some(word) = code.get(at..at + 4) else {
            return;
        };
        let text = match decoder.decode(&mut U8Reader::new(word)) {
            Ok(inst) => inst.to_string(),
            Err(_) => {
                let word = [word[0], word[1], word[2], word[3]];
                format!(".inst {:#010x}", u32::from_le_bytes(word))
            }
        };
        found.push(MachineInst {
            at,
            len: 4,
            text,
            slot: map.slot_at(at),
        });
    }
}

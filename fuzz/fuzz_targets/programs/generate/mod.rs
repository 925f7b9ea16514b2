//! Programs from bytes: nearly right, so that they get far.
//!
//! The generator knows what each register and stack slot holds and mostly uses it as such: accesses stay
//! inside, pointers are not turned into numbers, so that a result never depends on an address. Now and
//! then it errs on purpose, and where paths join it does not know: what comes of that is never used as a
//! number.

mod calls;
mod effects;
mod memory;
mod numbers;

use squalus_isa::{HelperId, Insn, MapDef, MapFlags, MapType, MemSize, ValueFields, opcode as o};
use squalus_runtime::asm::{Asm, Label, R, Src};

use crate::bytes::Bytes;

/// Registers that hold whatever the program computes; `r6` is the context, `r9` counts loops.
const REGS: [u8; 8] = [0, 1, 2, 3, 4, 5, 7, 8];
/// Those that survive a call or are not arguments: sources of arguments.
const SOURCES: [u8; 3] = [0, 7, 8];
const CTX: u8 = 6;
const COUNTER: u8 = 9;
const FP: u8 = 10;
/// Stack slots that hold numbers or spilled pointers, below the frame pointer.
const SLOTS: usize = 8;
/// Bytes below those that hold numbers only.
const SCRATCH: i16 = 64;
const SCRATCH_AT: i16 = -(8 * SLOTS as i16) - SCRATCH;
/// Every packet has at least as many bytes.
pub const PACKET: i16 = 40;

const ARRAY: u32 = 0;
const READ_ONLY: u32 = 6;
const QUEUE: u32 = 10;
const STACK: u32 = 11;
const BLOOM: u32 = 12;
const RING: u32 = 13;
const DEVICES: u32 = 14;
const DEVICE_HASH: u32 = 15;
const CPUS: u32 = 16;
const SOCKETS: u32 = 17;
const LOCKED: u32 = 18;
const EVENTS: u32 = 19;
const ARRAY_OF_MAPS: u32 = 5;
const HASH_OF_MAPS: u32 = 9;
const PROGRAMS: u32 = 7;
/// Maps whose values programs look up, update and delete.
const DATA: [u32; 6] = [0, 1, 2, 3, 4, 8];

/// The maps of every program.
pub fn maps() -> Vec<MapDef> {
    let map = |kind, key_size, value_size, max_entries| {
        MapDef::new("map", kind, (key_size, value_size), max_entries)
    };
    let of_maps = |kind, inner| MapDef {
        inner: Some(Box::new(inner)),
        ..map(kind, 4, 4, 2)
    };
    vec![
        map(MapType::Array, 4, 16, 4),
        map(MapType::Hash, 4, 8, 8),
        map(MapType::PerCpuArray, 4, 16, 2),
        map(MapType::LruHash, 4, 24, 8),
        MapDef {
            flags: MapFlags::NO_PREALLOC,
            ..map(MapType::LpmTrie, 8, 4, 8)
        },
        of_maps(MapType::ArrayOfMaps, map(MapType::Array, 4, 16, 2)),
        MapDef {
            flags: MapFlags::RDONLY_PROG,
            ..map(MapType::Array, 4, 8, 2)
        },
        map(MapType::ProgArray, 4, 4, 4),
        map(MapType::PerCpuHash, 8, 8, 4),
        of_maps(MapType::HashOfMaps, map(MapType::Hash, 4, 8, 4)),
        map(MapType::Queue, 0, 8, 4),
        map(MapType::Stack, 0, 8, 4),
        map(MapType::BloomFilter, 0, 8, 8),
        map(MapType::RingBuf, 0, 0, 4096),
        map(MapType::DevMap, 4, 4, 4),
        map(MapType::DevMapHash, 4, 8, 4),
        map(MapType::CpuMap, 4, 4, 2),
        map(MapType::XskMap, 4, 4, 4),
        MapDef {
            fields: ValueFields {
                spin_lock: Some(0),
                timer: None,
            },
            ..map(MapType::Hash, 4, 16, 4)
        },
        map(MapType::PerfEventArray, 4, 4, 2),
    ]
}

/// What a register or slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unset,
    Number,
    Ctx,
    Packet,
    End,
    /// Address of the first of so many bytes that hold numbers.
    Buffer(u8),
    Map(u32),
    /// Different things on different paths, or nothing sensible.
    Mixed,
}

#[derive(Clone, Copy)]
struct State {
    regs: [Kind; 11],
    slots: [Kind; SLOTS],
}

impl State {
    fn join(&mut self, other: &State) {
        let join = |a: &mut Kind, b: &Kind| {
            *a = match (*a, *b) {
                (a, b) if a == b => a,
                (Kind::Buffer(a), Kind::Buffer(b)) => Kind::Buffer(a.min(b)),
                _ => Kind::Mixed,
            };
        };
        self.regs
            .iter_mut()
            .zip(&other.regs)
            .for_each(|(a, b)| join(a, b));
        self.slots
            .iter_mut()
            .zip(&other.slots)
            .for_each(|(a, b)| join(a, b));
    }

    /// The packet may have moved.
    fn packet_moved(&mut self) {
        for kind in self.regs.iter_mut().chain(&mut self.slots) {
            if matches!(kind, Kind::Packet | Kind::End) {
                *kind = Kind::Mixed;
            }
        }
    }
}

/// What a function that is called back gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callback {
    /// A number and a buffer (`bpf_loop`).
    Number,
    /// A map, a key, a value and a buffer (`bpf_for_each_map_elem`).
    Element,
}

struct Generator<'a, 'b> {
    bytes: &'a mut Bytes<'b>,
    asm: Asm,
    state: State,
    /// Jumps whose target is so many operations away.
    pending: Vec<(Label, usize, State)>,
    /// Where code goes that gives up.
    out: Label,
    callees: Vec<Label>,
    /// Whether callees may move the packet.
    callees_move: bool,
    /// Whether the code being generated may.
    may_move: bool,
    in_loop: bool,
    /// Without the context.
    in_callback: bool,
    /// Functions that are called back from code so far.
    callbacks: Vec<(Callback, Label)>,
}

/// A program with up to two subprograms.
pub fn program(bytes: &mut Bytes<'_>) -> Vec<Insn> {
    let mut asm = Asm::new();
    let out = asm.label();
    let callees: Vec<Label> = (0..bytes.below(3)).map(|_| asm.label()).collect();
    let callees_move = bytes.one_in(3);
    // Compiling takes nearly all of the time: most programs are short.
    let length = if bytes.one_in(8) {
        bytes.below(64)
    } else {
        bytes.below(20)
    };
    let mut generator = Generator {
        bytes,
        asm,
        state: State {
            regs: [Kind::Unset; 11],
            slots: [Kind::Number; SLOTS],
        },
        pending: Vec::new(),
        out,
        callees: callees.clone(),
        callees_move,
        may_move: true,
        in_loop: false,
        in_callback: false,
        callbacks: Vec::new(),
    };
    generator.main(length);
    generator.may_move = callees_move;
    for (n, callee) in callees.iter().enumerate() {
        // Each may call those after it.
        generator.callees = callees[n + 1..].to_vec();
        generator.callee(*callee);
    }
    for (kind, label) in generator.callbacks.clone() {
        generator.callback_body(kind, label);
    }
    generator.asm.finish()
}

impl Generator<'_, '_> {
    fn main(&mut self, length: usize) {
        self.asm.mov(CTX, R(1));
        self.state.regs[1] = Kind::Ctx;
        self.state.regs[usize::from(CTX)] = Kind::Ctx;
        for reg in [0, 2, 3, 7, 8] {
            let value = self.bytes.number();
            self.asm.imm64(reg, value);
            self.set(reg, Kind::Number);
        }
        self.operations(length);
        self.finish();
        self.asm.bind(self.out).mov(0, 2).exit();
    }

    /// It gets the context, two numbers and a buffer in its caller's frame.
    fn callee(&mut self, at: Label) {
        self.out = self.asm.label();
        self.asm.bind(at);
        self.state = State {
            regs: [Kind::Unset; 11],
            slots: [Kind::Number; SLOTS],
        };
        self.state.regs[1..5].copy_from_slice(&[
            Kind::Ctx,
            Kind::Number,
            Kind::Buffer(SCRATCH as u8),
            Kind::Number,
        ]);
        self.asm.mov(CTX, R(1));
        self.set(CTX, Kind::Ctx);
        let length = self.bytes.below(16);
        self.operations(length);
        self.finish();
        self.asm.bind(self.out).mov(0, 3).exit();
    }

    fn operations(&mut self, length: usize) {
        for _ in 0..length {
            if self.bytes.is_empty() {
                break;
            }
            self.operation();
            self.arrive(1);
        }
        self.arrive(usize::MAX);
    }

    /// Binds the jumps that end here, `steps` operations later.
    fn arrive(&mut self, steps: usize) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain_mut(|(label, left, state)| {
            *left = left.saturating_sub(steps);
            if *left == 0 {
                self.asm.bind(*label);
                self.state.join(state);
            }
            *left != 0
        });
        self.pending = pending;
    }

    /// Mixes all numbers into the result.
    fn finish(&mut self) {
        let (regs, slots) = (self.state.regs, self.state.slots);
        if regs[0] != Kind::Number {
            self.asm.mov(0, 1);
        }
        for reg in REGS.into_iter().skip(1) {
            if regs[usize::from(reg)] == Kind::Number {
                self.asm.alu(o::MUL, 0, 31).alu(o::XOR, 0, R(reg));
            }
        }
        for off in (SCRATCH_AT..SCRATCH_AT + SCRATCH).step_by(8) {
            self.mix_slot(off);
        }
        for (slot, kind) in slots.into_iter().enumerate() {
            if kind == Kind::Number {
                self.mix_slot(slot_at(slot));
            }
        }
        self.asm.exit();
    }

    fn mix_slot(&mut self, off: i16) {
        self.asm
            .load(MemSize::Dw, 1, FP, off)
            .alu(o::MUL, 0, 31)
            .alu(o::XOR, 0, R(1));
    }

    fn operation(&mut self) {
        match self.bytes.below(36) {
            0..6 => self.alu(),
            6 => self.unary(),
            7 => self.constant(),
            8..11 => self.jump(),
            11..14 => self.load(),
            14..17 => self.store(),
            17 => self.spill(),
            18 => self.fill(),
            19 => self.atomic(),
            20 => self.step_pointer(),
            21 | 22 => self.lookup(),
            23 => self.change_map(),
            24 => self.index(),
            25..29 => self.effect(),
            _ if self.in_callback => self.alu(),
            29 | 30 => self.packet(),
            31 | 32 => self.helper(),
            33 => self.call(),
            34 => self.loop_(),
            _ => self.tail_call(),
        }
    }

    fn set(&mut self, reg: u8, kind: Kind) {
        self.state.regs[usize::from(reg)] = kind;
    }

    fn kind(&self, reg: u8) -> Kind {
        self.state.regs[usize::from(reg)]
    }

    fn any(&mut self) -> u8 {
        self.bytes.pick(&REGS)
    }

    /// A register that fits, if there is one.
    fn find(&mut self, fits: impl Fn(Kind) -> bool) -> Option<u8> {
        let first = self.bytes.below(REGS.len());
        let order = REGS.iter().cycle().skip(first).take(REGS.len());
        order.copied().find(|reg| fits(self.kind(*reg)))
    }

    /// A register with a number.
    fn number(&mut self) -> u8 {
        if let Some(reg) = self.find(|kind| kind == Kind::Number) {
            return reg;
        }
        let reg = self.any();
        let value = self.imm();
        self.asm.mov(reg, value);
        self.set(reg, Kind::Number);
        reg
    }

    fn imm(&mut self) -> i32 {
        self.bytes.number() as i32
    }

    fn operand(&mut self) -> Src {
        if self.bytes.one_in(2) {
            Src::Imm(self.imm())
        } else {
            Src::Reg(self.number())
        }
    }

    fn size(&mut self) -> (MemSize, i16) {
        self.bytes.pick(&[
            (MemSize::B, 1),
            (MemSize::H, 2),
            (MemSize::W, 4),
            (MemSize::Dw, 8),
        ])
    }
}

/// Offset of a slot from the frame pointer.
fn slot_at(slot: usize) -> i16 {
    -8 * SLOTS as i16 + 8 * slot as i16
}

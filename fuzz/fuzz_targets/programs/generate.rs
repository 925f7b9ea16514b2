//! Programs from bytes: nearly right, so that they get far.
//!
//! The generator knows what each register and stack slot holds and mostly uses it as such: accesses stay
//! inside, pointers are not turned into numbers, so that a result never depends on an address. Now and
//! then it errs on purpose, and where paths join it does not know: what comes of that is never used as a
//! number.

use squalus_isa::{HelperId, Insn, MapDef, MapFlags, MapType, MemSize, opcode as o};
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
const ARRAY_OF_MAPS: u32 = 5;
const HASH_OF_MAPS: u32 = 9;
const PROGRAMS: u32 = 7;
/// Maps whose values programs look up, update and delete.
const DATA: [u32; 6] = [0, 1, 2, 3, 4, 8];

/// The maps of every program.
pub fn maps() -> Vec<MapDef> {
    let map = |kind, key_size, value_size, max_entries| MapDef {
        name: "map".to_owned(),
        kind,
        key_size,
        value_size,
        max_entries,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: Default::default(),
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
}

/// A program with up to two subprograms.
pub fn program(bytes: &mut Bytes<'_>) -> Vec<Insn> {
    let mut asm = Asm::new();
    let out = asm.label();
    let callees: Vec<Label> = (0..bytes.below(3)).map(|_| asm.label()).collect();
    let callees_move = bytes.one_in(3);
    let length = bytes.below(48);
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
    };
    generator.main(length);
    generator.may_move = callees_move;
    for (n, callee) in callees.iter().enumerate() {
        // Each may call those after it.
        generator.callees = callees[n + 1..].to_vec();
        generator.callee(*callee);
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
        match self.bytes.below(32) {
            0..6 => self.alu(),
            6 => self.unary(),
            7 => self.constant(),
            8..11 => self.jump(),
            11..14 => self.load(),
            14..17 => self.store(),
            17 => self.spill(),
            18 => self.fill(),
            19 => self.atomic(),
            20 | 21 => self.packet(),
            22 => self.step_pointer(),
            23 | 24 => self.lookup(),
            25 => self.change_map(),
            26 | 27 => self.helper(),
            28 => self.call(),
            29 => self.loop_(),
            30 => self.index(),
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

    fn alu(&mut self) {
        let (op, off) = self.bytes.pick(&[
            (o::ADD, 0),
            (o::SUB, 0),
            (o::MUL, 0),
            (o::DIV, 0),
            (o::DIV, 1),
            (o::MOD, 0),
            (o::MOD, 1),
            (o::OR, 0),
            (o::AND, 0),
            (o::AND, 0),
            (o::XOR, 0),
            (o::LSH, 0),
            (o::RSH, 0),
            (o::ARSH, 0),
            (o::MOV, 0),
        ]);
        let wide = self.bytes.one_in(2);
        let dst = if op == o::MOV {
            self.any()
        } else {
            self.number()
        };
        let mut src = self.operand();
        if let Src::Imm(imm) = &mut src {
            // The decoder refuses others, as the kernel does.
            match op {
                o::LSH | o::RSH | o::ARSH => *imm &= if wide { 63 } else { 31 },
                o::DIV | o::MOD if *imm == 0 => *imm = 3,
                _ => {}
            }
        }
        if wide {
            self.asm.alu_off(op, dst, src, off);
        } else {
            self.asm.alu32_off(op, dst, src, off);
        }
        self.set(dst, Kind::Number);
    }

    fn unary(&mut self) {
        let reg = self.number();
        match self.bytes.below(8) {
            0 | 1 => {
                let class = self.bytes.pick(&[o::ALU, o::ALU64]);
                self.asm.raw(Insn {
                    op: class | o::NEG,
                    dst: reg,
                    ..Insn::default()
                });
            }
            2..5 => {
                let op = self.bytes.pick(&[o::ALU, o::ALU | o::X, o::ALU64]);
                let bits = self.bytes.pick(&[16, 32, 64]);
                self.asm.endian(op, reg, bits);
            }
            5 => {
                let (dst, bits) = (self.any(), self.bytes.pick(&[8, 16]));
                self.asm.alu32_off(o::MOV, dst, R(reg), bits);
                self.set(dst, Kind::Number);
            }
            _ => {
                let (dst, bits) = (self.any(), self.bytes.pick(&[8, 16, 32]));
                self.asm.alu_off(o::MOV, dst, R(reg), bits);
                self.set(dst, Kind::Number);
            }
        }
    }

    fn constant(&mut self) {
        let reg = self.any();
        let kind = match self.bytes.below(6) {
            0 => {
                let map = self.bytes.below(maps().len()) as u32;
                self.asm.map(reg, map);
                Kind::Map(map)
            }
            1 => {
                let off = self.bytes.below(16) as u8;
                self.asm.map_value(reg, ARRAY, u32::from(off));
                Kind::Buffer(16 - off)
            }
            2 => {
                self.asm.map_value(reg, READ_ONLY, 0);
                // Stores there are refused; let it be a number's address for loads.
                Kind::Buffer(8)
            }
            3 => {
                self.asm.mov(reg, R(FP)).add(reg, i32::from(SCRATCH_AT));
                Kind::Buffer(SCRATCH as u8)
            }
            _ => {
                let value = self.bytes.number();
                self.asm.imm64(reg, value);
                Kind::Number
            }
        };
        self.set(reg, kind);
    }

    /// A jump over the next few operations. What the comparison says of numbers is for the analysis.
    fn jump(&mut self) {
        let cond = self.bytes.pick(&[
            o::JEQ,
            o::JNE,
            o::JGT,
            o::JGE,
            o::JLT,
            o::JLE,
            o::JSET,
            o::JSGT,
            o::JSGE,
            o::JSLT,
            o::JSLE,
        ]);
        let wide = self.bytes.one_in(2);
        let (dst, src) = (self.number(), self.operand());
        let label = if self.bytes.one_in(8) {
            self.out
        } else {
            let label = self.asm.label();
            let skip = 2 + self.bytes.below(5);
            self.pending.push((label, skip, self.state));
            label
        };
        if wide {
            self.asm.jump_if(cond, dst, src, label);
        } else {
            self.asm.jump_if32(cond, dst, src, label);
        }
    }

    /// Memory with numbers: a base, an offset, and whether nothing is known of it.
    fn place(&mut self, len: i16) -> (u8, i16, bool) {
        if self.bytes.one_in(64) {
            let off = self.bytes.number() as i16;
            return (self.bytes.below(11) as u8, off, true);
        }
        let within = |bytes: &mut Bytes<'_>, size: i16| {
            let off = bytes.below(usize::from((size - len).max(0).unsigned_abs()) + 1) as i16;
            // Aligned more often than not, at times a bit outside.
            match bytes.below(32) {
                0..20 => off & -len,
                20..31 => off,
                _ => off - len,
            }
        };
        if self.bytes.one_in(2)
            && let Some(base) = self.find(|kind| matches!(kind, Kind::Packet | Kind::Buffer(_)))
        {
            let size = match self.kind(base) {
                Kind::Buffer(size) => i16::from(size),
                _ => PACKET,
            };
            return (base, within(self.bytes, size), false);
        }
        let off = within(self.bytes, SCRATCH).max(0);
        (FP, SCRATCH_AT + off.min(SCRATCH - len), false)
    }

    fn load(&mut self) {
        let (size, len) = self.size();
        if self.bytes.one_in(4) {
            return self.load_slot(size, len);
        }
        let (base, off, wild) = self.place(len);
        let dst = self.any();
        self.emit_load(size, dst, base, off);
        self.set(dst, if wild { Kind::Mixed } else { Kind::Number });
    }

    fn emit_load(&mut self, size: MemSize, dst: u8, base: u8, off: i16) {
        if size != MemSize::Dw && self.bytes.one_in(4) {
            self.asm.load_signed(size, dst, base, off);
        } else {
            self.asm.load(size, dst, base, off);
        }
    }

    fn load_slot(&mut self, size: MemSize, len: i16) {
        let off = self.slot_place(len);
        let numbers = self.touched(off, len).all(|kind| *kind == Kind::Number);
        let dst = self.any();
        self.emit_load(size, dst, FP, off);
        self.set(dst, if numbers { Kind::Number } else { Kind::Mixed });
    }

    /// A place among the slots.
    fn slot_place(&mut self, len: i16) -> i16 {
        let off = -8 * SLOTS as i16 + self.bytes.below(8 * SLOTS - len as usize + 1) as i16;
        if self.bytes.one_in(3) {
            off
        } else {
            off & -len
        }
    }

    fn touched(&mut self, off: i16, len: i16) -> impl Iterator<Item = &mut Kind> {
        let first = (off + 8 * SLOTS as i16) / 8;
        let last = (off + len - 1 + 8 * SLOTS as i16) / 8;
        self.state.slots[first as usize..=last as usize].iter_mut()
    }

    fn store(&mut self) {
        let (size, len) = self.size();
        let src = self.operand();
        if self.bytes.one_in(3) {
            let off = self.slot_place(len);
            self.asm.store(size, FP, off, src);
            let whole = len == 8 && off % 8 == 0;
            self.touched(off, len).for_each(|kind| {
                // Parts of a pointer depend on where things are.
                *kind = match *kind {
                    Kind::Number => Kind::Number,
                    _ if whole => Kind::Number,
                    _ => Kind::Mixed,
                }
            });
            return;
        }
        let (base, off, wild) = self.place(len);
        self.asm.store(size, base, off, src);
        if wild {
            self.state.slots = [Kind::Mixed; SLOTS];
        }
    }

    fn spill(&mut self) {
        let (slot, reg) = (self.bytes.below(SLOTS), self.any());
        if self.kind(reg) == Kind::Unset {
            return;
        }
        self.asm.store(MemSize::Dw, FP, slot_at(slot), R(reg));
        self.state.slots[slot] = self.kind(reg);
    }

    fn fill(&mut self) {
        let (slot, reg) = (self.bytes.below(SLOTS), self.any());
        self.asm.load(MemSize::Dw, reg, FP, slot_at(slot));
        self.set(reg, self.state.slots[slot]);
    }

    fn atomic(&mut self) {
        let fetch = if self.bytes.one_in(2) {
            o::ATOMIC_FETCH
        } else {
            0
        };
        let op = match self.bytes.below(6) {
            0 => i32::from(o::ADD) | fetch,
            1 => i32::from(o::OR) | fetch,
            2 => i32::from(o::AND) | fetch,
            3 => i32::from(o::XOR) | fetch,
            4 => o::ATOMIC_XCHG,
            _ => o::ATOMIC_CMPXCHG,
        };
        let (size, len) = self.bytes.pick(&[(MemSize::W, 4), (MemSize::Dw, 8)]);
        if op == o::ATOMIC_CMPXCHG && self.kind(0) != Kind::Number {
            let value = self.imm();
            self.asm.mov(0, value);
            self.set(0, Kind::Number);
        }
        let src = self.number();
        let (base, mut off, wild) = self.place(len);
        if !self.bytes.one_in(8) {
            off &= -len;
        }
        self.asm.atomic(size, op, base, off, src);
        if wild {
            self.state.slots = [Kind::Mixed; SLOTS];
            let changed = if op == o::ATOMIC_CMPXCHG { 0 } else { src };
            self.set(changed, Kind::Mixed);
        }
    }

    /// A packet pointer, or what the context says of the packet, at times with a check of its length.
    fn packet(&mut self) {
        let reg = self.any();
        let (off, kind) = self.bytes.pick(&[
            (0, Kind::Packet),
            (0, Kind::Packet),
            (0, Kind::Packet),
            (4, Kind::End),
            (12, Kind::Number),
            (16, Kind::Number),
        ]);
        self.asm.load(MemSize::W, reg, CTX, off);
        self.set(reg, kind);
        if kind != Kind::Packet || !self.bytes.one_in(2) {
            return;
        }
        let (end, bound) = (self.any(), self.any());
        if end == bound || end == reg || bound == reg {
            return;
        }
        let len = self.bytes.below(48) as i32;
        self.asm
            .load(MemSize::W, end, CTX, 4)
            .mov(bound, R(reg))
            .add(bound, len);
        self.set(end, Kind::End);
        self.set(bound, Kind::Packet);
        let out = self.out;
        match self.bytes.below(4) {
            0 => self.asm.jump_if(o::JGT, bound, R(end), out),
            1 => self.asm.jump_if(o::JGE, bound, R(end), out),
            2 => self.asm.jump_if(o::JLT, end, R(bound), out),
            _ => self.asm.jump_if(o::JLE, end, R(bound), out),
        };
    }

    /// Moves a pointer by a number that is known to be small.
    fn step_pointer(&mut self) {
        let Some(pointer) = self.find(|kind| matches!(kind, Kind::Packet | Kind::Buffer(_))) else {
            return self.constant();
        };
        let room = match self.kind(pointer) {
            Kind::Buffer(size) => size,
            _ => 16,
        };
        if self.bytes.one_in(2) {
            let step = (self.bytes.byte() % room.max(1)).min(room);
            self.asm.add(pointer, i32::from(step));
            if let Kind::Buffer(size) = self.kind(pointer) {
                self.set(pointer, Kind::Buffer(size - step));
            }
            return;
        }
        let by = self.number();
        let out = self.out;
        match self.bytes.below(4) {
            0 => self.asm.alu(o::AND, by, 7),
            1 => self.asm.alu32(o::AND, by, 15),
            2 => self.asm.alu(o::MOD, by, 9),
            _ => self.asm.jump_if(o::JGT, by, 8, out),
        };
        self.asm.add(pointer, R(by));
        if let Kind::Buffer(size) = self.kind(pointer) {
            self.set(pointer, Kind::Buffer(size.saturating_sub(15)));
        }
    }

    /// A number as index of the scratch memory, under a condition that bounds it.
    fn index(&mut self) {
        let by = self.number();
        let dst = self.any();
        if dst == by {
            return;
        }
        let out = self.out;
        match self.bytes.below(5) {
            0 => self.asm.jump_if(o::JGT, by, 56, out),
            1 => self
                .asm
                .jump_if32(o::JGE, by, 57, out)
                .alu32(o::MOV, by, R(by)),
            2 => self
                .asm
                .jump_if(o::JSLT, by, 0, out)
                .jump_if(o::JSGT, by, 56, out),
            3 => self.asm.alu(o::RSH, by, 59),
            _ => self.asm.alu(o::AND, by, 0x38),
        };
        let (size, _) = self.size();
        self.asm.mov(dst, R(FP)).add(dst, R(by));
        if self.bytes.one_in(2) {
            self.asm.load(size, dst, dst, SCRATCH_AT);
            self.set(dst, Kind::Number);
        } else {
            self.asm.store(size, dst, SCRATCH_AT, R(by));
            self.set(dst, Kind::Mixed);
        }
    }

    /// Puts a buffer's address in an argument register: of the scratch memory, or one that is at hand.
    fn buffer_arg(&mut self, reg: u8, need: u8) {
        let at_hand = self.bytes.pick(&SOURCES);
        if self.bytes.one_in(3) && matches!(self.kind(at_hand), Kind::Buffer(size) if size >= need)
        {
            self.asm.mov(reg, R(at_hand));
            return;
        }
        if self.bytes.one_in(4) && self.kind(at_hand) == Kind::Packet {
            self.asm.mov(reg, R(at_hand));
            return;
        }
        let room = (SCRATCH as u8 - need) / 4 + 1;
        let off = 4 * self.bytes.below(usize::from(room)) as i32;
        self.asm
            .mov(reg, R(FP))
            .add(reg, i32::from(SCRATCH_AT) + off);
    }

    fn number_arg(&mut self, reg: u8) {
        let at_hand = self.bytes.pick(&SOURCES);
        if self.kind(at_hand) == Kind::Number && self.bytes.one_in(2) {
            self.asm.mov(reg, R(at_hand));
        } else {
            let value = self.imm();
            self.asm.mov(reg, value);
        }
    }

    /// Writes a key that may well be there.
    fn key(&mut self) {
        let key = self.bytes.pick(&[0, 1, 0, 1, 2, 3, 5, 32]);
        let off = SCRATCH_AT + 4 * self.bytes.below(4) as i16;
        self.asm.store(MemSize::W, FP, off, key);
    }

    fn after_call(&mut self, result: Kind) {
        for reg in 1..=5 {
            self.set(reg, Kind::Unset);
        }
        self.set(0, result);
    }

    fn lookup(&mut self) {
        if self.bytes.one_in(2) {
            self.key();
        }
        if self.bytes.one_in(5) {
            return self.lookup_inner();
        }
        let map = if self.bytes.one_in(8) {
            READ_ONLY
        } else {
            self.bytes.pick(&DATA)
        };
        let def = &maps()[map as usize];
        self.buffer_arg(2, def.key_size as u8);
        self.asm.map(1, map);
        if def.kind.is_per_cpu() && self.bytes.one_in(3) {
            let cpu = self.bytes.below(3) as i32;
            self.asm.mov(3, cpu).call(HelperId::MAP_LOOKUP_PERCPU_ELEM);
        } else {
            self.asm.call(HelperId::MAP_LOOKUP_ELEM);
        }
        self.after_call(Kind::Buffer(def.value_size as u8));
        self.check_null();
    }

    fn lookup_inner(&mut self) {
        let outer = self.bytes.pick(&[ARRAY_OF_MAPS, HASH_OF_MAPS]);
        self.buffer_arg(2, 4);
        let out = self.out;
        self.asm
            .map(1, outer)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_eq(0, 0, out);
        self.after_call(Kind::Map(outer));
        if self.bytes.one_in(4) {
            return;
        }
        self.buffer_arg(2, 4);
        self.asm.mov(1, R(0)).call(HelperId::MAP_LOOKUP_ELEM);
        let size = if outer == ARRAY_OF_MAPS { 16 } else { 8 };
        self.after_call(Kind::Buffer(size));
        self.check_null();
    }

    /// `r0` came from a lookup.
    fn check_null(&mut self) {
        let (out, on) = (self.out, self.asm.label());
        match self.bytes.below(12) {
            0..7 => self.asm.jump_eq(0, 0, out),
            7..11 => {
                self.asm.jump_if(o::JNE, 0, 0, on).map_value(0, ARRAY, 0);
                if let Kind::Buffer(size) = self.kind(0) {
                    self.set(0, Kind::Buffer(size.min(16)));
                }
                self.asm.bind(on)
            }
            // As it is: an access may trap.
            _ => &mut self.asm,
        };
    }

    fn change_map(&mut self) {
        if self.bytes.one_in(2) {
            self.key();
        }
        let map = if self.bytes.one_in(16) {
            self.bytes.below(maps().len()) as u32
        } else {
            self.bytes.pick(&DATA)
        };
        let def = &maps()[map as usize];
        self.buffer_arg(2, def.key_size as u8);
        if self.bytes.one_in(3) {
            self.asm.map(1, map).call(HelperId::MAP_DELETE_ELEM);
        } else {
            self.buffer_arg(3, def.value_size as u8);
            let flags = self.bytes.pick(&[0, 0, 0, 1, 2, 3]);
            self.asm
                .mov(4, flags)
                .map(1, map)
                .call(HelperId::MAP_UPDATE_ELEM);
        }
        self.after_call(Kind::Number);
    }

    fn helper(&mut self) {
        self.asm.mov(1, R(CTX));
        match self.bytes.below(12) {
            0 => self.csum_diff(),
            1 | 2 if self.may_move => {
                let (helper, by) = (
                    self.bytes.pick(&[
                        HelperId::XDP_ADJUST_HEAD,
                        HelperId::XDP_ADJUST_TAIL,
                        HelperId::XDP_ADJUST_META,
                    ]),
                    self.bytes.pick(&[-20, -8, -4, 4, 8, -1, 1, -300, 300, 0]),
                );
                self.asm.mov(2, by).call(helper);
                self.state.packet_moved();
            }
            3 | 4 => {
                let len = 1 + self.bytes.below(16) as u8;
                let off = self.bytes.below(48) as i32;
                let helper = self
                    .bytes
                    .pick(&[HelperId::XDP_LOAD_BYTES, HelperId::XDP_STORE_BYTES]);
                self.buffer_arg(3, len);
                self.asm.mov(2, off).mov(4, i32::from(len)).call(helper);
            }
            5 => {
                self.asm.call(HelperId::XDP_GET_BUFF_LEN);
            }
            6 => {
                self.asm.call(HelperId::GET_PRANDOM_U32);
            }
            7 => {
                self.asm.call(HelperId::GET_SMP_PROCESSOR_ID);
            }
            8 => {
                self.asm.call(HelperId::KTIME_GET_NS);
            }
            9 => {
                self.number_arg(1);
                self.number_arg(2);
                self.asm.call(HelperId::REDIRECT);
            }
            10 => {
                self.buffer_arg(1, 8);
                self.asm.mov(2, 8).call(HelperId::TRACE_PRINTK);
            }
            _ => {
                self.asm.call(HelperId::GET_NUMA_NODE_ID);
            }
        }
        self.after_call(Kind::Number);
    }

    fn csum_diff(&mut self) {
        for reg in [1, 3] {
            let len = 4 * self.bytes.below(6) as u8;
            if self.bytes.one_in(3) {
                self.asm.mov(reg, 0).mov(reg + 1, 0);
            } else {
                self.buffer_arg(reg, len);
                self.asm.mov(reg + 1, i32::from(len));
            }
        }
        self.number_arg(5);
        self.asm.call(HelperId::CSUM_DIFF);
    }

    fn call(&mut self) {
        let Some(callee) = self.callees.first().copied() else {
            return self.alu();
        };
        let callee = if self.bytes.one_in(2) {
            callee
        } else {
            let n = self.bytes.below(self.callees.len());
            self.callees[n]
        };
        self.number_arg(2);
        self.number_arg(4);
        self.asm
            .mov(1, R(CTX))
            .mov(3, R(FP))
            .add(3, i32::from(SCRATCH_AT))
            .call_local(callee);
        self.after_call(Kind::Number);
        if self.callees_move {
            self.state.packet_moved();
        }
    }

    /// A few operations, a few times. At the end all registers are what they were at the start.
    fn loop_(&mut self) {
        if self.in_loop {
            return self.alu();
        }
        // Nothing jumps into a loop, or out of it but to the end.
        self.arrive(usize::MAX);
        let (rounds, length) = (1 + self.bytes.below(6), 1 + self.bytes.below(8));
        let head = self.asm.label();
        self.asm.mov(COUNTER, rounds as i32).bind(head);
        let before = self.state;
        self.in_loop = true;
        self.operations(length);
        self.in_loop = false;
        for reg in REGS {
            let kind = before.regs[usize::from(reg)];
            if kind != self.kind(reg) {
                self.remake(reg, kind);
            }
        }
        for (slot, kind) in before.slots.into_iter().enumerate() {
            if kind != self.state.slots[slot] && kind == Kind::Number {
                self.asm.store(MemSize::Dw, FP, slot_at(slot), 5);
                self.state.slots[slot] = kind;
            } else if kind != self.state.slots[slot] {
                self.state.slots[slot] = Kind::Mixed;
            }
        }
        self.asm.add(COUNTER, -1).jump_if(o::JNE, COUNTER, 0, head);
    }

    /// Makes a register what it has to be.
    fn remake(&mut self, reg: u8, kind: Kind) {
        match kind {
            Kind::Unset | Kind::Mixed => {}
            Kind::Number => {
                self.asm.mov(reg, 9);
            }
            Kind::Ctx => {
                self.asm.mov(reg, R(CTX));
            }
            Kind::Packet => {
                self.asm.load(MemSize::W, reg, CTX, 0);
            }
            Kind::End => {
                self.asm.load(MemSize::W, reg, CTX, 4);
            }
            Kind::Buffer(_) => {
                self.asm.mov(reg, R(FP)).add(reg, i32::from(SCRATCH_AT));
            }
            Kind::Map(map) => {
                self.asm.map(reg, map);
            }
        }
        self.set(reg, kind);
    }

    fn tail_call(&mut self) {
        let index = self.bytes.below(5) as i32;
        self.asm
            .mov(1, R(CTX))
            .map(2, PROGRAMS)
            .mov(3, index)
            .call(HelperId::TAIL_CALL);
        self.after_call(Kind::Unset);
    }
}

/// Offset of a slot from the frame pointer.
fn slot_at(slot: usize) -> i16 {
    -8 * SLOTS as i16 + 8 * slot as i16
}

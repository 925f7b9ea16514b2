//! Branch relaxation: jumps as short as they can be, and loops where the processor fetches them well.
//!
//! The code generator writes every jump with a distance of 32 bits, six bytes where two do, and puts blocks wherever
//! the one before ends. Both are felt where branches follow each other closely: processors fetch instructions by
//! aligned pieces of code, and remember only so many branches for each. A machine of 48 steps with eight ways took
//! between 65 and 90 ns, by where its blocks happened to lie.
//!
//! This is done on finished machine code, and asks as little of it as possible: it is decoded from the start to the
//! last instruction that can be reached; what only stands there is copied; jumps, jump tables and places named by their
//! distance are written anew. Code that has anything else in it stays as it is: `None` is always a right answer.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Bytes of a cache line, by which decoded instructions are kept.
const LINE: usize = 64;
/// Bytes that are fetched at once: what is jumped to in a loop begins with one.
const FETCH: usize = 16;
/// Constants need no more.
const CONSTANT: usize = 64;

/// A function's machine code: instructions and jump tables, then constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Original<'a> {
    /// All of it.
    pub(crate) bytes: &'a [u8],
    /// Where blocks begin, in order.
    pub(crate) blocks: &'a [usize],
    /// Where the linker will write.
    pub(crate) fixups: &'a [usize],
}

/// The same code, shorter.
#[derive(Clone, Debug)]
pub(crate) struct Relaxed {
    /// All of it, to be placed at the beginning of a cache line.
    pub(crate) bytes: Vec<u8>,
    pieces: Vec<Piece>,
    constants: Moved,
}

impl Relaxed {
    /// Where a byte is now.
    pub(crate) fn place(&self, old: usize) -> usize {
        if old >= self.constants.old {
            return self.constants.new + (old - self.constants.old);
        }
        let after = self.pieces.partition_point(|piece| piece.old <= old);
        let piece = &self.pieces[after - 1];
        piece.new + (old - piece.old).min(piece.len())
    }
}

/// Something that lay in one place and lies in another.
#[derive(Clone, Copy, Debug)]
struct Moved {
    old: usize,
    new: usize,
}

/// An instruction or a jump table.
#[derive(Clone, Debug)]
struct Piece {
    old: usize,
    new: usize,
    old_len: usize,
    what: What,
    /// How it is aligned.
    aligned: Aligned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aligned {
    Nowhere,
    /// To what is fetched at once.
    Fetch,
    /// So that so many bytes lie in one line, or else to a line.
    Loop(usize),
}

#[derive(Clone, Debug)]
enum What {
    /// Copied as it is. Whether what follows is reached from here, is for the decoder to know.
    Plain,
    /// A jump, with the condition's four bits if it has one.
    Jump {
        condition: Option<u8>,
        target: usize,
        short: bool,
    },
    /// An instruction that names a place by its distance, which stands at this byte of it.
    Relative { at: usize, target: usize },
    /// Distances of blocks from where the table is.
    Table { targets: Vec<usize> },
}

impl Piece {
    fn len(&self) -> usize {
        match self.what {
            What::Jump { short: true, .. } => 2,
            What::Jump {
                condition: None, ..
            } => 5,
            What::Jump { .. } => 6,
            _ => self.old_len,
        }
    }

    fn end(&self) -> usize {
        self.new + self.len()
    }

    fn is_table(&self) -> bool {
        matches!(self.what, What::Table { .. })
    }
}

/// Pieces as they lie: jump tables behind the code, where nothing fetches them as instructions.
fn in_order(pieces: &[Piece]) -> impl Iterator<Item = &Piece> {
    let code = pieces.iter().filter(|piece| !piece.is_table());
    code.chain(pieces.iter().filter(|piece| piece.is_table()))
}

/// The code with the shortest jumps, or nothing if there is something in it that is not understood.
pub(crate) fn relax(original: &Original<'_>) -> Option<Relaxed> {
    let mut pieces = decode(original)?;
    let end = pieces.last().map(|last| last.old + last.old_len)?;
    let inside = |fixup: &&usize| **fixup < end;
    let fixed_up = original.fixups.iter().filter(inside).all(|&fixup| {
        let at = pieces.partition_point(|piece| piece.old <= fixup) - 1;
        matches!(pieces[at].what, What::Plain)
    });
    if !fixed_up || !all_known(&pieces, original, end) {
        return None;
    }
    align_loops(&mut pieces);
    settle(&mut pieces);
    let code_end = in_order(&pieces).last().map(Piece::end)?;
    let behind = (end as isize - code_end as isize).rem_euclid(CONSTANT as isize);
    let relaxed = Relaxed {
        bytes: Vec::new(),
        pieces,
        constants: Moved {
            old: end,
            new: code_end + behind as usize,
        },
    };
    Some(written(relaxed, original))
}

/// All instructions and tables from the start to where nothing leads on any more.
fn decode(original: &Original<'_>) -> Option<Vec<Piece>> {
    let bytes = original.bytes;
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut farthest, mut named) = (0, 0);
    loop {
        let old = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        let end = decoder.position();
        let own = &bytes[old..end];
        let what = understand(original, &decoder, &instruction, own, old)?;
        match &what {
            What::Jump { target, .. } => farthest = farthest.max(*target),
            What::Relative { target, .. } => named = *target,
            _ => {}
        }
        pieces.push(Piece::new(old, end, what));
        match ends(own) {
            End::Next => continue,
            End::Leaves => {}
            End::Table => {
                let table = table(original, end).filter(|_| named == end)?;
                let (end, targets) = table;
                farthest = targets.iter().copied().fold(farthest, usize::max);
                pieces.push(Piece::new(decoder.position(), end, What::Table { targets }));
                decoder.set_position(end).ok()?;
                decoder.set_ip(end as u64);
            }
        }
        if decoder.position() > farthest {
            return Some(pieces);
        }
    }
}

impl Piece {
    fn new(old: usize, end: usize, what: What) -> Piece {
        Piece {
            old,
            new: old,
            old_len: end - old,
            what,
            aligned: Aligned::Nowhere,
        }
    }
}

/// How code goes on after an instruction.
enum End {
    Next,
    Leaves,
    Table,
}

fn ends(own: &[u8]) -> End {
    match own {
        [0xc3] | [0xe9, ..] | [0x0f, 0x0b] => End::Leaves,
        // `jmp` to what a register holds, with or without a prefix for the upper ones.
        [0xff, mode] | [0x40..=0x4f, 0xff, mode] if mode & 0xf8 == 0xe0 => End::Table,
        _ => End::Next,
    }
}

/// What an instruction is to us; `None` if it may be one that we would have to know.
fn understand(
    original: &Original<'_>,
    decoder: &Decoder<'_>,
    instruction: &Instruction,
    own: &[u8],
    old: usize,
) -> Option<What> {
    let fixup = |at: usize| original.fixups.binary_search(&(old + at)).is_ok();
    let to = |distance: &[u8]| {
        let distance = i32::from_le_bytes(distance.try_into().ok()?);
        usize::try_from((old + own.len()) as i64 + i64::from(distance)).ok()
    };
    let jump = |condition, distance| {
        let (target, short) = (to(distance)?, true);
        Some(What::Jump {
            condition,
            target,
            short,
        })
    };
    match own {
        [0xe9, distance @ ..] if !fixup(1) => jump(None, distance),
        [0x0f, op @ 0x80..=0x8f, distance @ ..] => jump(Some(op & 15), distance),
        [0xe8, ..] => fixup(1).then_some(What::Plain),
        // Jumps by what memory holds, short ones, loops, and jumps between privileges: none is ever generated.
        [
            0xe9 | 0xeb | 0x70..=0x7f | 0xe0..=0xe3 | 0xea | 0xcb | 0xca | 0xc2,
            ..,
        ] => None,
        _ if instruction.is_ip_rel_memory_operand() => {
            let at = decoder.get_constant_offsets(instruction);
            let at = at.displacement_offset();
            let target = usize::try_from(instruction.ip_rel_memory_address()).ok()?;
            match fixup(at) {
                true => Some(What::Plain),
                false => Some(What::Relative { at, target }),
            }
        }
        _ => Some(What::Plain),
    }
}

/// The jump table at `start`: where it ends, and the blocks that it names. It is as long as there is room before the
/// next block.
fn table(original: &Original<'_>, start: usize) -> Option<(usize, Vec<usize>)> {
    let next = original.blocks.partition_point(|block| *block <= start);
    let end = *original.blocks.get(next)?;
    let words = original.bytes.get(start..end)?.chunks_exact(4);
    if !words.remainder().is_empty() {
        return None;
    }
    let target = |word: &[u8]| {
        let distance = i32::from_le_bytes(word.try_into().ok()?);
        usize::try_from(start as i64 + i64::from(distance)).ok()
    };
    Some((end, words.map(target).collect::<Option<_>>()?))
}

/// Whether all that code names begins an instruction or a table, or lies behind the code.
fn all_known(pieces: &[Piece], original: &Original<'_>, end: usize) -> bool {
    let begins = |place: usize| {
        pieces
            .binary_search_by_key(&place, |piece| piece.old)
            .is_ok()
    };
    let constant = |place: usize| (end..original.bytes.len()).contains(&place);
    pieces.iter().all(|piece| match &piece.what {
        What::Plain => true,
        What::Jump { target, .. } => begins(*target),
        What::Relative { target, .. } => begins(*target) || constant(*target),
        What::Table { targets } => targets.iter().all(|target| begins(*target)),
    })
}

/// Aligns the beginnings of loops, and what in them is reached by jumps alone: what is reached from before, too, would
/// have to go through what fills the gap.
fn align_loops(pieces: &mut [Piece]) {
    let at = |pieces: &[Piece], old| pieces.partition_point(|piece| piece.old < old);
    let jumps: Vec<(usize, usize)> = (0..pieces.len())
        .filter_map(|from| match pieces[from].what {
            What::Jump { target, .. } => Some((from, at(pieces, target))),
            _ => None,
        })
        .collect();
    let back: Vec<Range<usize>> = jumps
        .iter()
        .filter(|(from, to)| to <= from)
        .map(|(from, to)| *to..*from + 1)
        .collect();
    // How many loops begin at a piece, less those that end there.
    let mut change = vec![0; pieces.len() + 1];
    for own in &back {
        change[own.start] += 1;
        change[own.end] -= 1;
    }
    let mut jumped_to = vec![false; pieces.len()];
    let tables = pieces.iter().filter_map(|piece| match &piece.what {
        What::Table { targets } => Some(targets),
        _ => None,
    });
    let by_table = tables.flatten().map(|&target| at(pieces, target));
    for to in jumps.iter().map(|(_, to)| *to).chain(by_table) {
        jumped_to[to] = true;
    }
    let (mut depth, mut falls_through) = (0, true);
    for (at, piece) in pieces.iter_mut().enumerate() {
        depth += change[at];
        if depth > 0 && !falls_through && jumped_to[at] {
            piece.aligned = Aligned::Fetch;
        }
        falls_through = !matches!(
            piece.what,
            What::Table { .. }
                | What::Jump {
                    condition: None,
                    ..
                }
        );
    }
    for own in &back {
        let bytes = own.clone().map(|n| pieces[n].len()).sum();
        pieces[own.start].aligned = Aligned::Loop(bytes);
    }
}

/// Gives all pieces their places. Jumps that turn out not to reach become long ones, until all reach.
fn settle(pieces: &mut [Piece]) {
    loop {
        let mut end = 0;
        for tables in [false, true] {
            for piece in pieces.iter_mut().filter(|piece| piece.is_table() == tables) {
                piece.new = end + padding(end, piece.aligned);
                end = piece.end();
            }
        }
        let mut grown = false;
        for at in 0..pieces.len() {
            if !reaches(pieces, at) {
                let What::Jump { short, .. } = &mut pieces[at].what else {
                    unreachable!("only jumps are too short");
                };
                (*short, grown) = (false, true);
            }
        }
        if !grown {
            return;
        }
    }
}

fn padding(at: usize, aligned: Aligned) -> usize {
    let to = |step: usize| at.next_multiple_of(step) - at;
    match aligned {
        Aligned::Nowhere => 0,
        Aligned::Fetch => to(FETCH),
        Aligned::Loop(len) if at % LINE + len <= LINE => 0,
        Aligned::Loop(_) => to(LINE),
    }
}

/// Whether the jump there, if it is a short one, is not too short.
fn reaches(pieces: &[Piece], at: usize) -> bool {
    match pieces[at].what {
        What::Jump {
            target,
            short: true,
            ..
        } => i8::try_from(distance(&pieces[at], place(pieces, target))).is_ok(),
        _ => true,
    }
}

/// Where a piece is now.
fn place(pieces: &[Piece], old: usize) -> usize {
    pieces[pieces.partition_point(|piece| piece.old < old)].new
}

/// From the end of a piece to a place.
fn distance(from: &Piece, to: usize) -> i64 {
    to as i64 - from.end() as i64
}

/// The bytes.
fn written(mut relaxed: Relaxed, original: &Original<'_>) -> Relaxed {
    let mut bytes = Vec::with_capacity(original.bytes.len());
    for piece in in_order(&relaxed.pieces) {
        fill(&mut bytes, piece.new);
        let own = &original.bytes[piece.old..piece.old + piece.old_len];
        match &piece.what {
            What::Plain => bytes.extend_from_slice(own),
            What::Jump {
                condition,
                target,
                short,
            } => {
                let distance = distance(piece, relaxed.place(*target));
                write_jump(&mut bytes, *condition, distance, *short);
            }
            What::Relative { at, target } => {
                let distance = distance(piece, relaxed.place(*target)) as i32;
                bytes.extend_from_slice(&own[..*at]);
                bytes.extend_from_slice(&distance.to_le_bytes());
                bytes.extend_from_slice(&own[at + 4..]);
            }
            What::Table { targets } => {
                for target in targets {
                    let distance = relaxed.place(*target) as i64 - piece.new as i64;
                    bytes.extend_from_slice(&(distance as i32).to_le_bytes());
                }
            }
        }
    }
    fill(&mut bytes, relaxed.constants.new);
    bytes.extend_from_slice(&original.bytes[relaxed.constants.old..]);
    relaxed.bytes = bytes;
    relaxed
}

fn write_jump(bytes: &mut Vec<u8>, condition: Option<u8>, distance: i64, short: bool) {
    match (condition, short) {
        (None, true) => bytes.push(0xeb),
        (None, false) => bytes.push(0xe9),
        (Some(condition), true) => bytes.push(0x70 | condition),
        (Some(condition), false) => bytes.extend([0x0f, 0x80 | condition]),
    }
    let len = if short { 1 } else { 4 };
    bytes.extend_from_slice(&distance.to_le_bytes()[..len]);
}

/// Does nothing up to a place.
fn fill(bytes: &mut Vec<u8>, end: usize) {
    /// The longest instruction that does nothing, as the processor's makers recommend it, and shorter ones.
    const NOTHING: [&[u8]; 9] = [
        &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
        &[0x0f, 0x1f, 0x44, 0, 0],
        &[0x0f, 0x1f, 0x40, 0],
        &[0x0f, 0x1f, 0],
        &[0x66, 0x90],
        &[0x90],
    ];
    for nothing in NOTHING {
        while bytes.len() + nothing.len() <= end {
            bytes.extend_from_slice(nothing);
        }
    }
}

#[cfg(test)]
mod tests;

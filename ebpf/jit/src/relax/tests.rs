//! Code before and after, followed step by step: each instruction adds a number of its own, so what is run is known by
//! the numbers that come by.

use proptest::prelude::*;

use super::*;

/// Code of which it is known where its blocks begin.
#[derive(Clone, Debug, Default)]
struct Code {
    bytes: Vec<u8>,
    blocks: Vec<usize>,
    fixups: Vec<usize>,
}

/// A block: so many additions, then where it leads.
#[derive(Clone, Debug)]
struct Body {
    additions: usize,
    end: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Through,
    Return,
    Jump(usize),
    Branch(usize),
    Table(Vec<usize>),
}

/// `add eax, tag`.
fn addition(tag: u32) -> Vec<u8> {
    [&[0x05][..], &tag.to_le_bytes()].concat()
}

fn length(body: &Body) -> usize {
    let end = match &body.end {
        Way::Through => 0,
        Way::Return => 1,
        Way::Jump(_) => 5,
        Way::Branch(_) => 6,
        Way::Table(targets) => 7 + 2 + 4 * targets.len(),
    };
    5 * body.additions + end
}

/// The blocks one after the other, as a code generator lays them out that knows long jumps only, and eight bytes of
/// constants, which the first instruction reads.
fn assemble(bodies: &[Body]) -> Code {
    const READS: usize = 7;
    let mut starts = vec![READS];
    for body in bodies {
        starts.push(starts.last().unwrap() + length(body));
    }
    let end = *starts.last().unwrap();
    let constants = end.next_multiple_of(8);
    let mut bytes = vec![0x48, 0x8b, 0x05];
    bytes.extend(((constants - READS) as i32).to_le_bytes());
    let mut tag = 0;
    for (body, start) in bodies.iter().zip(&starts) {
        for _ in 0..body.additions {
            tag += 1;
            bytes.extend(addition(tag));
        }
        let from = start + length(body);
        let distance = |to: usize| (starts[to] as i32 - from as i32).to_le_bytes();
        match &body.end {
            Way::Through => {}
            Way::Return => bytes.push(0xc3),
            Way::Jump(to) => bytes.extend([&[0xe9][..], &distance(*to)].concat()),
            Way::Branch(to) => bytes.extend([&[0x0f, 0x84][..], &distance(*to)].concat()),
            Way::Table(targets) => {
                let table = from - 4 * targets.len();
                bytes.extend([0x48, 0x8d, 0x35, 2, 0, 0, 0, 0xff, 0xe6]);
                let distance = |to: &usize| (starts[*to] as i32 - table as i32).to_le_bytes();
                bytes.extend(targets.iter().flat_map(distance));
            }
        }
    }
    bytes.resize(constants, 0);
    bytes.extend(CONSTANTS);
    starts.dedup();
    Code {
        bytes,
        blocks: starts,
        fixups: Vec::new(),
    }
}

const CONSTANTS: [u8; 8] = *b"constant";

fn relaxed(code: &Code) -> Option<Relaxed> {
    relax(&Original {
        bytes: &code.bytes,
        blocks: &code.blocks,
        fixups: &code.fixups,
    })
}

/// The numbers that come by, if conditions and indices are these in turn.
fn followed(bytes: &[u8], choices: &[u8]) -> Vec<u32> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let (mut tags, mut table) = (Vec::new(), 0);
    let mut choices = choices.iter();
    loop {
        let at = decoder.position();
        let instruction = decoder.decode();
        let own = &bytes[at..decoder.position()];
        let mut to = None;
        match own {
            [0x05, tag @ ..] => tags.push(u32::from_le_bytes(tag.try_into().unwrap())),
            [0xc3] => return tags,
            [0xe9 | 0xeb, ..] => to = Some(instruction.near_branch64() as usize),
            [0x74, ..] | [0x0f, 0x84, ..] => match choices.next() {
                None => return tags,
                Some(choice) if choice % 2 == 0 => {}
                Some(_) => to = Some(instruction.near_branch64() as usize),
            },
            [0x48, 0x8d, ..] => table = instruction.ip_rel_memory_address() as usize,
            [0x48, 0x8b, ..] => {
                let constants = instruction.ip_rel_memory_address() as usize;
                assert_eq!(bytes[constants..][..8], CONSTANTS);
            }
            [0xff, 0xe6] => {
                let Some(choice) = choices.next() else {
                    return tags;
                };
                let word = &bytes[table + 4 * usize::from(*choice % TABLE)..][..4];
                let distance = i32::from_le_bytes(word.try_into().unwrap());
                to = Some((table as i64 + i64::from(distance)) as usize);
            }
            [0x66, 0x90] | [0x90] | [0x0f, 0x1f, ..] | [0x66, 0x0f, 0x1f, ..] => {}
            other => panic!("unknown instruction {other:x?}"),
        }
        if let Some(to) = to {
            decoder.set_position(to).unwrap();
            decoder.set_ip(to as u64);
        }
        // Circles without a choice lead nowhere.
        if tags.len() > 2000 {
            return tags;
        }
    }
}

/// Entries of all tables.
const TABLE: u8 = 3;

fn way(blocks: usize) -> impl Strategy<Value = Way> {
    let to = 0..blocks;
    prop_oneof![
        2 => Just(Way::Through),
        1 => Just(Way::Return),
        2 => to.clone().prop_map(Way::Jump),
        4 => to.clone().prop_map(Way::Branch),
        1 => prop::collection::vec(to, usize::from(TABLE)).prop_map(Way::Table),
    ]
}

fn bodies() -> impl Strategy<Value = Vec<Body>> {
    (1usize..40).prop_flat_map(|blocks| {
        let additions = prop_oneof![4 => 1usize..5, 1 => 20usize..40];
        let body = (additions, way(blocks)).prop_map(|(additions, end)| Body { additions, end });
        prop::collection::vec(body, blocks).prop_map(|mut bodies| {
            bodies.last_mut().unwrap().end = Way::Return;
            bodies
        })
    })
}

proptest! {
    #[test]
    fn the_same_is_run(bodies in bodies(), choices in prop::collection::vec(any::<u8>(), 200)) {
        let code = assemble(&bodies);
        let relaxed = relaxed(&code).expect("all of it is known");
        prop_assert_eq!(followed(&relaxed.bytes, &choices), followed(&code.bytes, &choices));
        prop_assert_eq!(&relaxed.bytes[relaxed.place(code.bytes.len() - 8)..], &CONSTANTS);
    }

    #[test]
    fn anything_is_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        blocks in prop::collection::btree_set(0usize..220, 0..8),
        fixups in prop::collection::btree_set(0usize..220, 0..8),
    ) {
        let code = Code {
            bytes,
            blocks: blocks.into_iter().collect(),
            fixups: fixups.into_iter().collect(),
        };
        relaxed(&code);
    }
}

fn body(additions: usize, end: Way) -> Body {
    Body { additions, end }
}

#[test]
fn jumps_are_as_short_as_they_can_be() {
    for (additions, long) in [(25, false), (26, true)] {
        let code = assemble(&[
            body(1, Way::Branch(2)),
            body(additions, Way::Through),
            body(1, Way::Return),
        ]);
        let relaxed = relaxed(&code).unwrap();
        let branch = &relaxed.bytes[12..14];
        assert_eq!(branch == [0x0f, 0x84], long, "{additions}: {branch:x?}");
    }
}

#[test]
fn a_short_loop_lies_in_one_line() {
    let code = assemble(&[
        body(9, Way::Through),
        body(5, Way::Branch(1)),
        body(1, Way::Return),
    ]);
    let relaxed = relaxed(&code).unwrap();
    let head = relaxed.place(code.blocks[1]);
    assert_eq!(head, 64);
    assert_eq!(relaxed.place(code.blocks[2]), head + 5 * 5 + 2);
}

#[test]
fn tables_stand_behind_the_code() {
    let code = assemble(&[
        body(1, Way::Table(vec![1, 2, 1])),
        body(1, Way::Return),
        body(2, Way::Return),
    ]);
    let relaxed = relaxed(&code).unwrap();
    // The jump is the last instruction of its block.
    let jump = relaxed.place(code.blocks[1]);
    assert_eq!(relaxed.bytes[jump - 2..jump], [0xff, 0xe6]);
}

#[test]
fn what_is_not_known_stays() {
    let known = assemble(&[body(1, Way::Branch(0)), body(1, Way::Return)]);
    assert!(relaxed(&known).is_some());
    let with = |change: &dyn Fn(&mut Code)| {
        let mut code = known.clone();
        change(&mut code);
        relaxed(&code).is_none()
    };
    // Into the middle of an instruction, a short one, one that the linker writes, and a call that it does not write.
    assert!(with(&|code| code.bytes[14] = 0xf9));
    assert!(with(
        &|code| code.bytes[12..18].copy_from_slice(&[0x74, 0, 0x90, 0x90, 0x90, 0x90])
    ));
    assert!(with(&|code| code.fixups.push(14)));
    assert!(with(&|code| code.bytes[7] = 0xe8));
}

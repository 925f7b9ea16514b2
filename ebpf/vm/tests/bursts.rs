//! Frames of a burst know nothing of each other: whatever one run does, the next one is as if it were alone.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use proptest::prelude::*;
use squalus_engine::MapAccess;
use squalus_isa::{
    HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, ValueFields, Verdict, opcode as o,
};
use squalus_runtime::asm::{Asm, Label, R};
use squalus_runtime::{FrameRef, TrapReason};
use squalus_vm::{Destination, EngineKind, Vm, VmBuilder, Worker};

const PROGRAMS: u32 = 0;
const VALUES: u32 = 1;
/// Where the lock is in a value.
const LOCK: i32 = 8;
const BUDGET: u64 = 1000;
const HEADROOM: usize = 256;

/// What a run does, as the packet's first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Pass,
    /// Reads before the packet.
    Trap,
    /// Leaves by the interface that the second byte names.
    Redirect,
    /// Returns `XDP_REDIRECT` and says not whereto.
    RedirectNowhere,
    /// Chooses an interface, and passes.
    RedirectNot,
    /// Returns a number that is no verdict.
    Unknown,
    /// Goes on in a program that moves the head, and sends back.
    TailMoving,
    /// The same in the place of a subprogram; drops.
    NestedMoving,
    /// Goes on in a program that reads before the packet.
    TailTrap,
    /// The same in the place of a subprogram.
    NestedTrap,
    /// Goes on in a program that leaves by interface 9.
    TailRedirect,
    /// Goes on where no program is; drops.
    TailNowhere,
    /// Goes on in a program that goes on in itself as often as may be, and passes.
    TailForever,
    /// Loops until the budget is used up.
    Forever,
    /// Loops for most of the budget; sends back.
    Long,
    // From here on only programs that move the packet, or hold something.
    Head,
    Tail,
    Meta,
    /// Takes a lock, adds to the value, gives the lock back; passes.
    Lock,
    /// Takes the lock and reads before the packet.
    LockTrap,
}

use Kind::*;

const KINDS: [Kind; 20] = [
    Pass,
    Trap,
    Redirect,
    RedirectNowhere,
    RedirectNot,
    Unknown,
    TailMoving,
    NestedMoving,
    TailTrap,
    NestedTrap,
    TailRedirect,
    TailNowhere,
    TailForever,
    Forever,
    Long,
    Head,
    Tail,
    Meta,
    Lock,
    LockTrap,
];

/// How many kinds a program knows that neither moves packets itself nor holds anything.
const STILL: usize = 15;

impl Kind {
    fn expected(self) -> (Verdict, Option<TrapReason>) {
        let verdict = match self {
            Pass | RedirectNot | TailForever | Lock => Verdict::Pass,
            Redirect | RedirectNowhere | TailRedirect => Verdict::Redirect,
            TailMoving | Long | Head | Tail | Meta => Verdict::Tx,
            NestedMoving | TailNowhere => Verdict::Drop,
            Trap | Unknown | TailTrap | NestedTrap | Forever | LockTrap => Verdict::Aborted,
        };
        let trap = match self {
            Trap | TailTrap | NestedTrap | LockTrap => Some(TrapReason::Packet),
            Forever => Some(TrapReason::Budget),
            _ => None,
        };
        (verdict, trap)
    }

    /// Start and length of a packet of 60 bytes afterwards, and the length of its metadata.
    fn place(self) -> (usize, usize, usize) {
        match self {
            TailMoving | NestedMoving => (HEADROOM - 4, 64, 0),
            Head => (HEADROOM + 8, 52, 0),
            Tail => (HEADROOM, 54, 0),
            Meta => (HEADROOM, 60, 8),
            _ => (HEADROOM, 60, 0),
        }
    }
}

fn map(name: &str, kind: MapType, value_size: u32, spin_lock: Option<u32>) -> MapDef {
    MapDef {
        fields: ValueFields {
            spin_lock,
            ..ValueFields::default()
        },
        ..MapDef::new(name, kind, (4, value_size), 8)
    }
}

fn code(build: impl FnOnce(&mut Asm)) -> Vec<Insn> {
    let mut code = Asm::new();
    build(&mut code);
    code.finish()
}

fn leave(c: &mut Asm, value: i32) {
    c.mov(0, value).exit();
}

/// `r2` is the packet, and `r6` the context.
fn read_before(c: &mut Asm) {
    c.load(MemSize::W, 2, 6, 0)
        .load(MemSize::B, 0, 2, -1)
        .exit();
}

fn adjust(c: &mut Asm, helper: HelperId, by: i32) {
    c.mov(1, R(6)).mov(2, by).call(helper);
    leave(c, 3);
}

fn tail_call(c: &mut Asm, index: i32, otherwise: i32) {
    c.mov(1, R(6))
        .map(2, PROGRAMS)
        .mov(3, index)
        .call(HelperId::TAIL_CALL);
    leave(c, otherwise);
}

fn nested(c: &mut Asm, function: Label) {
    c.mov(1, R(6)).call_local(function);
    leave(c, 1);
}

fn redirect(c: &mut Asm) {
    c.mov(2, 0).call(HelperId::REDIRECT);
}

fn count_up(c: &mut Asm, to: i32) {
    let again = c.label();
    c.mov(1, 0).bind(again).add(1, 1);
    c.jump_if(o::JNE, 1, to, again);
}

/// Leaves with 0 if there is no value.
fn lock(c: &mut Asm) {
    let found = c.label();
    c.store(MemSize::W, 10, -4, 0)
        .map(1, VALUES)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(7, R(0))
        .jump_if(o::JNE, 7, 0, found);
    leave(c, 0);
    c.bind(found)
        .mov(1, R(7))
        .add(1, LOCK)
        .call(HelperId::SPIN_LOCK);
}

fn act(c: &mut Asm, kind: Kind, [moving, trapping]: [Label; 2]) {
    match kind {
        Pass => leave(c, 2),
        Trap => read_before(c),
        Redirect => {
            c.load(MemSize::B, 1, 2, 1);
            redirect(c);
            c.exit();
        }
        RedirectNowhere => leave(c, 4),
        RedirectNot => {
            c.mov(1, 5);
            redirect(c);
            leave(c, 2);
        }
        Unknown => leave(c, 77),
        TailMoving => tail_call(c, 0, 0),
        NestedMoving => nested(c, moving),
        TailTrap => tail_call(c, 1, 0),
        NestedTrap => nested(c, trapping),
        TailRedirect => tail_call(c, 2, 0),
        TailNowhere => tail_call(c, 7, 1),
        TailForever => tail_call(c, 3, 0),
        Forever => {
            let again = c.label();
            c.mov(1, 0).bind(again).add(1, 1).jump(again);
        }
        Long => {
            count_up(c, BUDGET as i32 / 4);
            leave(c, 3);
        }
        Head => adjust(c, HelperId::XDP_ADJUST_HEAD, 8),
        Tail => adjust(c, HelperId::XDP_ADJUST_TAIL, -6),
        Meta => adjust(c, HelperId::XDP_ADJUST_META, -8),
        Lock => {
            lock(c);
            c.load(MemSize::Dw, 1, 7, 0)
                .add(1, 1)
                .store(MemSize::Dw, 7, 0, R(1));
            c.mov(1, R(7)).add(1, LOCK).call(HelperId::SPIN_UNLOCK);
            leave(c, 2);
        }
        LockTrap => {
            lock(c);
            read_before(c);
        }
    }
}

/// Does what the packet's first byte says, if it is one of these kinds.
fn acting(kinds: &[Kind]) -> Vec<Insn> {
    code(|c| {
        let (out, moving, trapping) = (c.label(), c.label(), c.label());
        c.mov(6, R(1))
            .load(MemSize::W, 2, 6, 0)
            .load(MemSize::W, 3, 6, 4)
            .mov(4, R(2))
            .add(4, 14)
            .jump_if(o::JGT, 4, R(3), out)
            .load(MemSize::B, 5, 2, 0);
        for &kind in kinds {
            let next = c.label();
            c.jump_if(o::JNE, 5, kind as i32, next);
            act(c, kind, [moving, trapping]);
            c.bind(next);
        }
        c.bind(out);
        leave(c, 0);
        for (function, index) in [(moving, 0), (trapping, 1)] {
            c.bind(function).mov(6, R(1));
            tail_call(c, index, 0);
        }
    })
}

fn machine(kind: EngineKind) -> Vm {
    let start = |c: &mut Asm| {
        c.mov(6, R(1));
    };
    let moving = code(|c| {
        start(c);
        adjust(c, HelperId::XDP_ADJUST_HEAD, -4);
    });
    let trapping = code(|c| {
        start(c);
        read_before(c);
    });
    let redirecting = code(|c| {
        c.mov(1, 9);
        redirect(c);
        c.exit();
    });
    let forever = code(|c| {
        start(c);
        tail_call(c, 3, 2);
    });
    let programs = [
        ("moving", moving),
        ("trapping", trapping),
        ("redirecting", redirecting),
        ("forever", forever),
        ("still", acting(&KINDS[..STILL])),
        ("all", acting(&KINDS)),
    ];
    let maps = vec![
        map("programs", MapType::ProgArray, 4, None),
        map("values", MapType::Array, 16, Some(LOCK as u32)),
    ];
    let programs = programs.map(|(name, code)| (name.to_owned(), code));
    let vm = VmBuilder::assembled(maps, programs.to_vec())
        .engine(kind)
        .budget(BUDGET)
        .build()
        .unwrap();
    for program in 0..4u32 {
        let (key, value) = (program.to_ne_bytes(), program.to_ne_bytes());
        let any = UpdateFlags::ANY;
        vm.update("programs".into(), &key, &value, any).unwrap();
    }
    vm
}

/// What came of one frame.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    verdict: Verdict,
    whereto: Option<Destination>,
    place: (usize, usize, usize),
    packet: Vec<u8>,
}

fn run(worker: &mut Worker, kinds: &[Kind]) -> Vec<Ran> {
    let buffer = |(n, kind): (usize, &Kind)| {
        let mut buffer = [n as u8; 512];
        buffer[HEADROOM] = *kind as u8;
        buffer
    };
    let mut buffers: Vec<[u8; 512]> = kinds.iter().enumerate().map(buffer).collect();
    let frames = buffers.iter_mut();
    let frames = frames.map(|buffer| FrameRef::new(buffer, HEADROOM, 60).unwrap());
    let mut frames: Vec<FrameRef<'_>> = frames.collect();
    let mut verdicts = vec![Verdict::Drop; kinds.len()];
    assert_eq!(worker.run_burst(&mut frames, &mut verdicts), kinds.len());
    let ran = |(n, frame): (usize, &FrameRef<'_>)| Ran {
        verdict: verdicts[n],
        whereto: (verdicts[n] == Verdict::Redirect && n < 64).then(|| worker.redirect(n)),
        place: (frame.data_offset(), frame.len(), frame.metadata().len()),
        packet: frame.packet().to_vec(),
    };
    frames.iter().enumerate().map(ran).collect()
}

/// Runs these in one burst, and compares each with what it is to be alone.
fn check(vm: &Vm, program: &str, kinds: &[Kind]) {
    let mut worker = vm.worker(program, 0).unwrap();
    let ran = run(&mut worker, kinds);
    for (n, (kind, ran)) in kinds.iter().zip(&ran).enumerate() {
        let device = |ifindex| Destination::Device {
            ifindex,
            program: None,
        };
        let whereto = match kind {
            Redirect => Some(device(n as u32 & 0xff)),
            TailRedirect => Some(device(9)),
            RedirectNowhere => Some(Destination::Nowhere),
            _ => None,
        };
        let what = format!("{kind:?} at {n} of {kinds:?}");
        assert_eq!(ran.verdict, kind.expected().0, "{what}");
        assert_eq!(ran.place, kind.place(), "{what}");
        if n < 64 {
            assert_eq!(ran.whereto, whereto, "{what}");
        }
        let last = ran.packet.last();
        assert_eq!(last, Some(&(n as u8)), "{what}");
    }
    check_counters(&worker, kinds);
}

fn check_counters(worker: &Worker, kinds: &[Kind]) {
    let stats = worker.stats();
    let count = |is: &dyn Fn(Kind) -> bool| kinds.iter().filter(|kind| is(**kind)).count() as u64;
    for verdict in Verdict::ALL {
        let expected = count(&|kind| kind.expected().0 == verdict);
        assert_eq!(stats.verdict(verdict), expected, "{verdict}");
    }
    for &reason in TrapReason::ALL {
        let expected = count(&|kind| kind.expected().1 == Some(reason));
        assert_eq!(stats.trap(reason), expected, "{reason}");
    }
    assert_eq!(stats.unknown_verdicts(), count(&|kind| kind == Unknown));
    let last = kinds.iter().rev().find_map(|kind| kind.expected().1);
    assert_eq!(worker.last_trap().map(|trap| trap.reason), last);
}

const ENGINES: [EngineKind; 2] = [EngineKind::Interp, EngineKind::Jit];

#[test]
fn every_kind_of_run_may_follow_every_other() {
    for engine in ENGINES {
        let vm = machine(engine);
        for (program, kinds) in [("still", &KINDS[..STILL]), ("all", &KINDS)] {
            for &first in kinds {
                for &second in kinds {
                    check(&vm, program, &[Pass, first, second, Pass, first]);
                }
            }
        }
    }
}

#[test]
fn a_program_that_is_replaced_is_named_in_the_trap() {
    for engine in ENGINES {
        let vm = machine(engine);
        let mut worker = vm.worker("still", 0).unwrap();
        for (kinds, program) in [
            ([Pass, Trap], 4),
            ([TailMoving, Trap], 4),
            ([Trap, TailTrap], 1),
        ] {
            run(&mut worker, &kinds);
            assert_eq!(
                worker.last_trap().unwrap().program,
                program,
                "{engine:?} {kinds:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Also in bursts longer than what is done at once.
    #[test]
    fn runs_of_a_burst_are_as_if_alone(
        all in any::<bool>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..150),
    ) {
        let (program, kinds) = match all {
            true => ("all", &KINDS[..]),
            false => ("still", &KINDS[..STILL]),
        };
        let kinds: Vec<Kind> = picks.iter().map(|pick| *pick.get(kinds)).collect();
        for engine in ENGINES {
            check(&machine(engine), program, &kinds);
        }
    }
}

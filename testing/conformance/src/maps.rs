//! Cases for every map type and helper, by the object `objects/machine.c`: its programs do what the frame
//! says, so that the same operations can come from the control plane and from a program, in any order.

use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

use crate::compare::{Mask, Watch};
use crate::{Case, MapName, Rng, Step};

/// The object.
pub const OBJECT: &[u8] = include_bytes!("../objects/machine.o");

/// Length of the command in a frame; it starts with the Ethernet header.
const COMMAND: usize = 80;

/// A map of the object: its number in commands, name, key and value size, and whether each CPU has a
/// value of its own.
struct Target {
    number: u8,
    name: &'static str,
    key: usize,
    value: usize,
    per_cpu: bool,
}

const fn target(number: u8, name: &'static str, key: usize, value: usize, per_cpu: bool) -> Target {
    Target {
        number,
        name,
        key,
        value,
        per_cpu,
    }
}

const TARGETS: [Target; 9] = [
    target(0, "m_hash", 12, 16, false),
    target(1, "m_hash_lazy", 4, 8, false),
    target(2, "m_percpu_hash", 4, 12, true),
    target(3, "m_array", 4, 16, false),
    target(4, "m_percpu_array", 4, 12, true),
    target(5, "m_lru", 16, 8, false),
    target(6, "m_percpu_lru", 4, 4, true),
    target(7, "m_prefixes", 8, 8, false),
    target(8, "m_long_prefixes", 20, 4, false),
];
const ARRAY_OF_MAPS: u8 = 9;
const HASH_OF_MAPS: u8 = 10;
const PROGRAMS: [&str; 4] = ["maps", "helpers", "chain", "compute"];

/// Nothing may differ but this: the verifier lets a program write only part of an eight-byte value slot
/// of a per-CPU map, and what the rest holds is nobody's business.
#[must_use]
pub fn watch() -> Watch {
    let padding = |map: &str, bytes| Mask {
        map: map.to_owned(),
        key: None,
        bytes,
    };
    Watch {
        masks: vec![
            padding("m_percpu_hash", 12..16),
            padding("m_percpu_array", 12..16),
            padding("m_percpu_lru", 4..8),
        ],
        clock: None,
    }
}

/// A generator of cases.
pub struct Generator {
    rng: Rng,
    cpus: usize,
    /// Those that programs can be run on.
    usable: Vec<u32>,
}

impl Generator {
    /// The generator for `seed`; engines have `cpus` CPUs.
    #[must_use]
    pub fn new(seed: u64, cpus: usize) -> Generator {
        Generator {
            rng: Rng::new(seed),
            cpus,
            usable: squalus_kernel::usable_cpus(),
        }
    }

    /// Steps on the maps: two thirds by frames, one by the control plane.
    pub fn map_case(&mut self, steps: usize) -> Case {
        let mut case = Case::default();
        for index in 0..2 {
            case.steps.push(self.create_inner(index));
        }
        for _ in 0..steps {
            let step = match self.rng.below(30) {
                0 => {
                    let array = self.rng.percent(50);
                    self.create_inner(array.into())
                }
                1..10 => self.control(),
                _ => self.map_command(),
            };
            case.steps.push(step);
        }
        case
    }

    /// Frames for the helpers, tail calls and arithmetic.
    pub fn helper_case(&mut self, steps: usize) -> Case {
        let mut case = Case::default();
        for (index, program) in (0..).zip(["chain", "maps", "compute"]) {
            case.steps.push(Step::SetProgram {
                map: "m_programs".to_owned(),
                index,
                program: program.to_owned(),
            });
        }
        case.steps.extend((0..steps).map(|_| self.helper_command()));
        case
    }

    /// Few keys, so that they are met again; some the map cannot have.
    fn key(&mut self, name: &str, len: usize) -> Vec<u8> {
        let small = self.rng.below(12) as u32;
        let mut key = match name {
            "m_prefixes" | "m_long_prefixes" => {
                let bits = (len as u32 - 4) * 8;
                let bits = match self.rng.below(12) {
                    0 => 0,
                    1 => bits,
                    2 => bits + 1,
                    3 => u32::MAX,
                    _ => self.rng.below(bits as usize + 1) as u32,
                };
                let mut key = bits.to_ne_bytes().to_vec();
                key.extend([10, *self.rng.pick(&[0, 128, 129, 255])]);
                key
            }
            _ => small.to_ne_bytes().to_vec(),
        };
        key.resize(len, if self.rng.percent(90) { 0 } else { 1 });
        key
    }

    fn flags(&mut self) -> u64 {
        match self.rng.below(20) {
            0..10 => 0,
            10..13 => 1,
            13..16 => 2,
            16 => 3,
            17 => 4,
            18 => 8,
            _ => self.rng.word(),
        }
    }

    /// An operation through the map's handle.
    fn control(&mut self) -> Step {
        let target = &TARGETS[self.rng.below(TARGETS.len())];
        let mut key = self.key(target.name, target.key);
        if self.rng.percent(2) {
            key.pop();
        }
        let (map, value) = if self.rng.percent(15) {
            key.resize(4, 0);
            (self.inner_name(), 8)
        } else if target.per_cpu {
            let value = target.value.next_multiple_of(8) * self.cpus;
            (target.name.into(), value)
        } else {
            (target.name.into(), target.value)
        };
        match self.rng.below(4) {
            0 => Step::Lookup { map, key },
            1 => Step::Delete { map, key },
            _ => {
                let len = if self.rng.percent(2) {
                    value + 8
                } else {
                    value
                };
                Step::Update {
                    map,
                    key,
                    value: self.rng.bytes(len),
                    flags: UpdateFlags(self.flags()),
                }
            }
        }
    }

    fn inner_name(&mut self) -> MapName {
        let slot = self.rng.below(5) as u8;
        let mut key = vec![slot, 0, 0, 0];
        if self.rng.percent(50) {
            return MapName::Inner("m_array_of_maps".to_owned(), key);
        }
        key.resize(8, 0);
        MapName::Inner("m_hash_of_maps".to_owned(), key)
    }

    /// An inner map, sometimes of a kind that the outer one must refuse.
    fn create_inner(&mut self, array: usize) -> Step {
        let slot = self.rng.below(5) as u8;
        let mut def = MapDef::new(
            "inner",
            MapType::LruHash,
            (4, 8),
            *self.rng.pick(&[256, 1024]),
        );
        let mut key = vec![slot, 0, 0, 0];
        if array != 0 {
            key.resize(8, 0);
            def.kind = MapType::Hash;
            def.flags = MapFlags::NO_PREALLOC;
            def.max_entries = *self.rng.pick(&[1, 6, 30]);
        }
        match self.rng.below(12) {
            0 => def.value_size = 4,
            1 => def.key_size = 8,
            2 => def.flags = MapFlags(def.flags.0 ^ 1),
            3 => def.kind = MapType::PerCpuHash,
            _ => {}
        }
        let outer = ["m_array_of_maps", "m_hash_of_maps"][array];
        Step::CreateInner {
            outer: outer.to_owned(),
            key,
            def,
        }
    }

    fn run(&mut self, program: &str, frame: Vec<u8>) -> Step {
        Step::Run {
            program: program.to_owned(),
            cpu: *self.rng.pick(&self.usable),
            frame,
        }
    }

    /// A whole command with nothing in it but noise where a result goes.
    fn command(&mut self, op: u8, map: u8, key: &[u8], flags: u64, (a, b): (u32, u32)) -> Vec<u8> {
        let mut frame = self.rng.bytes(COMMAND);
        frame[14] = op;
        frame[15] = map;
        frame[16..40].fill(0);
        frame[16..16 + key.len()].copy_from_slice(key);
        frame[56..64].copy_from_slice(&flags.to_ne_bytes());
        frame[72..76].copy_from_slice(&a.to_ne_bytes());
        frame[76..80].copy_from_slice(&b.to_ne_bytes());
        frame
    }

    fn map_command(&mut self) -> Step {
        let op = self.rng.below(4) as u8;
        let flags = self.flags();
        let a = self.rng.below(16) as u32;
        let b = self.rng.word() as u32;
        let (number, key) = match self.rng.below(14) {
            n @ 0..9 => (TARGETS[n].number, self.key(TARGETS[n].name, TARGETS[n].key)),
            9 => (ARRAY_OF_MAPS, self.key("", 4)),
            10 => (HASH_OF_MAPS, self.key("", 4)),
            n => (n as u8, self.key("", 4)),
        };
        // Inner maps and CPUs are named by `a`.
        let a = if number >= ARRAY_OF_MAPS { a % 5 } else { a };
        let frame = self.command(op, number, &key, flags, (a, b));
        self.run("maps", frame)
    }

    fn helper_command(&mut self) -> Step {
        let program = *self.rng.pick(&PROGRAMS);
        let op = self.rng.below(16) as u8;
        let edge = *self.rng.pick(&[
            0i32, 1, -1, 4, -4, 20, -20, 40, 64, -64, 66, 67, 200, -216, -217, -256, 256,
        ]);
        let a = match self.rng.below(4) {
            0 => self.rng.word() as u32,
            1 => self.rng.below(5) as u32,
            2 => self.rng.below(100) as u32,
            _ => edge.cast_unsigned(),
        };
        let b = self.rng.word() as u32;
        let flags = if self.rng.percent(50) {
            0
        } else {
            self.rng.word()
        };
        let key = self.rng.bytes(24);
        let mut frame = self.command(op, op, &key, flags, (a, b));
        let more = match self.rng.below(4) {
            0 => self.rng.between(0, 3000),
            1 => self.rng.between(0, 100),
            _ => 0,
        };
        frame.extend(self.rng.bytes(more));
        if self.rng.percent(3) {
            let len = self.rng.between(14, COMMAND);
            frame.truncate(len);
        }
        self.run(program, frame)
    }
}

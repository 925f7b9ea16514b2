//! Cases for the maps that are not plain tables, by the object `objects/kinds.c`: without keys, for
//! redirection, with locks in their values, forbidden to programs in part; and walks over elements.

use squalus_isa::UpdateFlags;

use crate::compare::Watch;
use crate::{Case, Rng, Step};

/// The object.
pub const OBJECT: &[u8] = include_bytes!("../objects/kinds.o");

/// Length of the command in a frame.
const COMMAND: usize = 80;

/// What each program's frames may ask for: its name, how many maps it knows, and how often it is chosen.
const PROGRAMS: [(&str, usize, usize); 5] = [
    ("keyless", 3, 8),
    ("targets", 4, 4),
    ("walk", 7, 3),
    ("tables", 8, 6),
    ("locks", 2, 4),
];

/// Maps that the control plane changes: name, key and value size, and whether each CPU has a value.
const TABLES: [(&str, usize, usize, bool); 10] = [
    ("k_hash", 12, 8, false),
    ("k_percpu_hash", 4, 8, true),
    ("k_array", 4, 8, false),
    ("k_percpu_array", 4, 8, true),
    ("k_own_lru", 4, 8, false),
    ("k_own_percpu_lru", 4, 8, true),
    ("k_read_only", 4, 8, false),
    ("k_write_only", 4, 8, false),
    ("k_locked_array", 4, 16, false),
    ("k_locked_hash", 4, 16, false),
];

/// Maps for redirection whose entries the control plane can make: name, value size, first words.
const REDIRECTION: [(&str, usize, &[u32]); 3] = [
    ("k_devices", 8, &[0, 1]),
    ("k_device_hash", 4, &[0, 1]),
    ("k_cpus", 4, &[0, 1, 64, 16384, 16385]),
];

/// Nothing may differ.
#[must_use]
pub fn watch() -> Watch {
    Watch::default()
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

    /// Steps on the maps: most by frames, some by the control plane.
    pub fn case(&mut self, steps: usize) -> Case {
        let step = |_| match self.rng.below(12) {
            0..2 => self.control(),
            2 => self.redirection(),
            _ => self.frame(),
        };
        Case {
            steps: (0..steps).map(step).collect(),
        }
    }

    /// Few keys, so that they are met again; some no array has.
    fn key(&mut self, len: usize) -> Vec<u8> {
        let mut key = (self.rng.below(7) as u32).to_ne_bytes().to_vec();
        key.resize(len, 0);
        key
    }

    fn flags(&mut self) -> u64 {
        match self.rng.below(20) {
            0..10 => 0,
            10..12 => 1,
            12..14 => 2,
            14..18 => 4 + self.rng.below(4) as u64,
            18 => 8,
            _ => self.rng.word(),
        }
    }

    fn control(&mut self) -> Step {
        let (name, key, value, per_cpu) = *self.rng.pick(&TABLES);
        let (map, key) = (name.into(), self.key(key));
        let value = value * if per_cpu { self.cpus } else { 1 };
        match self.rng.below(4) {
            0 => Step::Lookup { map, key },
            1 => Step::Delete { map, key },
            _ => Step::Update {
                map,
                key,
                value: self.rng.bytes(value),
                flags: UpdateFlags(self.flags()),
            },
        }
    }

    /// Interface 1 exists in every network namespace.
    fn redirection(&mut self) -> Step {
        let (name, size, first) = *self.rng.pick(&REDIRECTION);
        let (map, key) = (name.into(), self.key(4));
        let mut value = self.rng.pick(first).to_ne_bytes().to_vec();
        value.resize(size, 0);
        match self.rng.below(5) {
            0 => Step::Lookup { map, key },
            1 => Step::Delete { map, key },
            _ => Step::Update {
                map,
                key,
                value,
                flags: UpdateFlags(self.flags()),
            },
        }
    }

    fn program(&mut self) -> (&'static str, usize) {
        let all = PROGRAMS.iter().map(|(_, _, often)| often).sum();
        let mut at = self.rng.below(all);
        for (name, maps, often) in PROGRAMS {
            match at.checked_sub(often) {
                Some(left) => at = left,
                None => return (name, maps),
            }
        }
        (PROGRAMS[0].0, PROGRAMS[0].1)
    }

    fn frame(&mut self) -> Step {
        let (program, maps) = self.program();
        let mut frame = self.rng.bytes(COMMAND);
        frame[14] = self.rng.below(4) as u8;
        frame[15] = self.rng.below(maps) as u8;
        let key = self.key(24);
        frame[16..40].copy_from_slice(&key);
        // Values are met again, too: a filter must find some.
        let value = (self.rng.below(30) as u64).to_ne_bytes();
        frame[40..48].copy_from_slice(&value);
        frame[48..56].fill(0);
        let flags = match program {
            // Verdicts for empty entries, and flags of broadcasts.
            "targets" if self.rng.percent(90) => *self.rng.pick(&[0, 1, 2, 3, 4, 8, 9, 16, 24]),
            "walk" if self.rng.percent(95) => 0,
            _ => self.flags(),
        };
        frame[56..64].copy_from_slice(&flags.to_ne_bytes());
        let a = self.rng.below(8) as u32;
        frame[72..76].copy_from_slice(&a.to_ne_bytes());
        Step::Run {
            program: program.to_owned(),
            cpu: *self.rng.pick(&self.usable),
            frame,
        }
    }
}

//! Frames through the balancer, byte for byte the object that is shipped, interpreted and compiled: same
//! verdict, same bytes, same map contents.
//!
//! An input is a list of frames with the time that passes before each. A frame is given by its bytes, or
//! by a number from which the conformance suite's generator makes one, with a few bytes changed. Both
//! engines live as long as the process, so sessions of earlier inputs are there for later ones; when maps
//! differ, the message holds all the inputs that may have caused it, as one input.
//!
//! The interpreter's visits of instructions are libFuzzer's coverage, so it searches the balancer's own
//! paths. `SQUALUS_FUZZ_OBJECT` names another object with the same maps, katran's for instance.
#![no_main]

mod engines;

use std::cell::RefCell;

use engines::{Engines, Outcome};
use libfuzzer_sys::fuzz_target;
use squalus_conformance::balancer::Generator;

/// Frames in one input.
const FRAMES: usize = 12;
/// Longest frame: what a test run of the kernel takes.
const LONGEST: usize = 3520;
/// How often, in inputs, maps are compared.
const MAPS_EVERY: usize = 32;

struct World {
    engines: Engines,
    /// Inputs since maps were compared.
    recent: Vec<u8>,
    inputs: usize,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World {
        engines: Engines::new(),
        recent: Vec::new(),
        inputs: 0,
    });
}

fuzz_target!(|input: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let mut rest = input;
        for _ in 0..FRAMES {
            let Some(step) = Step::read(&mut rest) else {
                break;
            };
            world.frame(&step);
        }
        world.end_of_input(&input[..input.len() - rest.len()]);
    });
});

impl World {
    fn frame(&mut self, step: &Step) {
        let [interpreted, compiled] = self.engines.run(step.cpu, step.nanos, &step.frame);
        assert!(
            !matches!(interpreted, Outcome::Trapped(_)),
            "a check failed: {interpreted:x?}, frame {:02x?}",
            step.frame
        );
        assert_eq!(
            interpreted, compiled,
            "interpreted (left), compiled (right); frame {:02x?}, after {:02x?}",
            step.frame, self.recent
        );
    }

    fn end_of_input(&mut self, input: &[u8]) {
        self.recent.extend_from_slice(input);
        self.inputs += 1;
        if self.inputs.is_multiple_of(MAPS_EVERY) {
            if let Some(difference) = self.engines.map_difference() {
                panic!("{difference}; the inputs were {:02x?}", self.recent);
            }
            self.recent.clear();
        }
    }
}

struct Step {
    cpu: usize,
    /// Time that passes before the frame.
    nanos: u64,
    frame: Vec<u8>,
}

impl Step {
    /// The next step of an input: a byte of choices, then the frame.
    fn read(input: &mut &[u8]) -> Option<Step> {
        let choices = take(input, 1)?[0];
        let frame = if choices & 0x80 == 0 {
            generated(input, usize::from(choices >> 3 & 3))?
        } else {
            let len = word(input)? as usize % LONGEST;
            let len = len.max(14).min(input.len());
            take(input, len)?.to_vec()
        };
        if frame.len() < 14 || frame.len() > LONGEST {
            return None;
        }
        Some(Step {
            cpu: usize::from(choices & 1),
            nanos: match choices >> 1 & 3 {
                0 => 1_000,
                1 => 1_000_000,
                2 => 1_000_000_000,
                _ => 30_000_000_000,
            },
            frame,
        })
    }
}

/// A frame of the generator with `changes` bytes changed.
fn generated(input: &mut &[u8], changes: usize) -> Option<Vec<u8>> {
    let mut frame = Generator::new(word(input)?.into()).frame();
    for _ in 0..changes {
        let change = take(input, 2)?;
        if let Some(byte) = frame.get_mut(usize::from(change[0])) {
            *byte = change[1];
        }
    }
    Some(frame)
}

fn word(input: &mut &[u8]) -> Option<u16> {
    let bytes = take(input, 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (first, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(first)
}

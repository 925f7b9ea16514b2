//! How to unit-test an XDP program: no root, no interface, no kernel; the object is the one you ship.
//!
//! ```text
//! cargo test -p squalus-vm --example unit_test
//! ```
//!
//! The program under test is the decapsulator of this repository; only its names (program, maps, variables)
//! and its frames are particular to it. With a fixed seed and clock every run is the same.

use squalus_vm::{
    Clock, Engine, EngineKind, MapAccess, Object, TestResult, TestRun, Vm, VmBuilder,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const OBJECT: &[u8] = include_bytes!("../../../bpf/objects/decap.bpf.o");
const PROGRAM: &str = "xdpdecap";

/// The program as the tests want it.
struct Fixture {
    vm: Vm,
    /// The object stays at hand for the types of its maps.
    object: Object,
}

impl Fixture {
    /// Loads the object with its variable `any_destination` set.
    fn new(kind: EngineKind, any_destination: bool) -> Outcome<Fixture> {
        let mut object = Object::parse(OBJECT)?;
        object.set_global("any_destination", &[u8::from(any_destination)])?;
        let vm = VmBuilder::new(object.clone())
            .engine(kind)
            .clock(Clock::Fixed(0))
            .seed(1)
            .build()?;
        Ok(Fixture { vm, object })
    }

    /// Runs the program once; a failed check in it is an error with the source line.
    fn run(&mut self, frame: &[u8]) -> Outcome<TestResult> {
        let result = self.vm.test_run(PROGRAM, &TestRun::once(frame))?;
        let Some(trap) = self.vm.last_trap(0) else {
            return Ok(result);
        };
        let line = self.vm.linked()[trap.program].line(trap.slot);
        let line = line.map_or_else(String::new, ToString::to_string);
        Err(format!("{trap} ({line})").into())
    }

    /// What a map holds under `key`, as its BTF describes it.
    fn show(&self, map: &str, key: &[u8]) -> Outcome<String> {
        let bytes = self.vm.lookup(map.into(), key)?.ok_or("no such key")?;
        let spec = self.object.map(map).ok_or("no such map")?;
        let types = self.object.btf.as_ref().zip(spec.value_type);
        let value = types.and_then(|(btf, ty)| btf.value(ty, &bytes));
        Ok(value.ok_or("the map's values have no type")?.to_string())
    }
}

const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// An IPv4 header without options to 10.0.0.2.
fn ipv4(protocol: u8) -> [u8; 20] {
    let mut header = [0; 20];
    (header[0], header[8], header[9]) = (0x45, 64, protocol);
    header[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

/// UDP in IPv4 in IPv4.
fn tunnelled() -> Vec<u8> {
    [&ETHERNET[..], &ipv4(4), &ipv4(17), &[0; 8]].concat()
}

fn main() -> Outcome<()> {
    let mut fixture = Fixture::new(EngineKind::Jit, true)?;
    let result = fixture.run(&tunnelled())?;
    println!("{}, {} bytes", result.verdict(), result.frame.len());
    println!("{}", fixture.show("decap_counters", &[0; 4])?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use squalus_vm::{UpdateFlags, Verdict};

    const KINDS: [EngineKind; 2] = [EngineKind::Interp, EngineKind::Jit];

    #[test]
    fn tunnels_end_here() {
        for kind in KINDS {
            let mut fixture = Fixture::new(kind, true).unwrap();
            let result = fixture.run(&tunnelled()).unwrap();
            assert_eq!(result.verdict(), Verdict::Pass);
            assert_eq!(result.frame, [&ETHERNET[..], &ipv4(17), &[0; 8]].concat());
            let counters = fixture.show("decap_counters", &[0; 4]).unwrap();
            assert!(counters.contains("\"total\": 1"), "{counters}");
        }
    }

    #[test]
    fn only_tunnels_to_known_destinations_do() {
        for kind in KINDS {
            let mut fixture = Fixture::new(kind, false).unwrap();
            let result = fixture.run(&tunnelled()).unwrap();
            assert_eq!(result.frame, tunnelled(), "untouched");

            let mut destination = [0; 16];
            destination[..4].copy_from_slice(&[10, 0, 0, 2]);
            let map = "decap_dst".into();
            let value = 1u32.to_ne_bytes();
            fixture
                .vm
                .update(map, &destination, &value, UpdateFlags::ANY)
                .unwrap();
            let result = fixture.run(&tunnelled()).unwrap();
            assert_eq!(result.frame.len(), tunnelled().len() - 20);
        }
    }

    #[test]
    fn no_length_trips_it() {
        for kind in KINDS {
            let mut fixture = Fixture::new(kind, true).unwrap();
            let whole = tunnelled();
            for len in 14..whole.len() {
                fixture.run(&whole[..len]).unwrap();
            }
        }
    }
}

//! Loads an object, fills one of its maps, runs packets through it, and reads what it counted.
//!
//! ```text
//! cargo run -p squalus-vm --example run_packets
//! ```
//!
//! The object takes IP in IP tunnels off that end at addresses in its map `decap_dst`, and counts in
//! `decap_counters`. It needs neither root nor an interface.

use squalus_vm::{FrameRef, MapAccess, Object, UpdateFlags, Verdict, Vm, VmBuilder};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const OBJECT: &[u8] = include_bytes!("../../../bpf/objects/decap.bpf.o");

/// Packets per burst, and room for each.
const BURST: usize = 32;
const CHUNK: usize = 2048;
/// Free bytes in front of a packet, as in the kernel.
const HEADROOM: usize = 256;

fn main() -> Outcome<()> {
    let vm = load()?;
    let passed = run(&vm, 10)?;
    println!("{passed} of {} packets passed", 10 * BURST);
    println!("the program counted {:?}", counters(&vm)?);
    Ok(())
}

/// The object, with 10.0.0.2 as an address where tunnels end.
fn load() -> Outcome<Vm> {
    let vm = VmBuilder::new(Object::parse(OBJECT)?).build()?;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, 2]);
    let flags = 1_u32.to_ne_bytes();
    vm.update("decap_dst".into(), &address, &flags, UpdateFlags::ANY)?;
    Ok(vm)
}

/// Runs bursts of tunnelled packets; returns how many passed, and checks that they lost their outer header.
fn run(vm: &Vm, bursts: usize) -> Outcome<usize> {
    let mut worker = vm.worker("xdpdecap", 0)?;
    let mut memory = vec![[0_u8; CHUNK]; BURST];
    let packet = tunnelled();
    let mut passed = 0;
    for _ in 0..bursts {
        for chunk in &mut memory {
            chunk[HEADROOM..HEADROOM + packet.len()].copy_from_slice(&packet);
        }
        let frames = memory
            .iter_mut()
            .map(|chunk| FrameRef::new(chunk, HEADROOM, packet.len()));
        let mut frames = frames.collect::<Result<Vec<_>, _>>()?;
        let mut verdicts = [Verdict::Aborted; BURST];
        worker.run_burst(&mut frames, &mut verdicts);
        let bare = |frame: &FrameRef<'_>| frame.packet() == untunnelled();
        let pairs = frames.iter().zip(verdicts);
        passed += pairs
            .filter(|(frame, verdict)| *verdict == Verdict::Pass && bare(frame))
            .count();
    }
    Ok(passed)
}

/// What the program counted: 64-bit numbers, one set for each CPU.
fn counters(vm: &Vm) -> Outcome<Vec<u64>> {
    let bytes = vm.lookup("decap_counters".into(), &0_u32.to_ne_bytes())?;
    let bytes = bytes.ok_or("the map is empty")?;
    let words = bytes
        .chunks_exact(8)
        .map(|word| word.try_into().map(u64::from_ne_bytes));
    Ok(words.collect::<Result<_, _>>()?)
}

const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// An IPv4 header without options from 10.0.0.1 to 10.0.0.2.
fn ipv4(protocol: u8) -> [u8; 20] {
    let mut header = [0; 20];
    (header[0], header[8], header[9]) = (0x45, 64, protocol);
    header[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

fn tunnelled() -> Vec<u8> {
    [&ETHERNET[..], &ipv4(4), &ipv4(17), &[0; 8]].concat()
}

fn untunnelled() -> Vec<u8> {
    [&ETHERNET[..], &ipv4(17), &[0; 8]].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn all_packets_pass_and_are_counted() {
        let vm = load().unwrap();
        assert_eq!(run(&vm, 3).unwrap(), 3 * BURST);
        assert_eq!(counters(&vm).unwrap()[0], 3 * BURST as u64);
    }
}

//! The program that does what frames say, and frames.
#![allow(dead_code, reason = "every test file uses its part")]

use squalus_engine::Engine;
use squalus_vm::{MapAccess, UpdateFlags};

pub const OBJECT: &[u8] = include_bytes!("../objects/verdicts.o");

/// The program's actions beyond the verdicts.
pub struct Actions;

impl Actions {
    pub const REDIRECT: u8 = 5;
    pub const PORT: u8 = 6;
    pub const HASHED: u8 = 7;
    pub const ALL_PORTS: u8 = 8;
    pub const ALL_HASHED_BUT_INGRESS: u8 = 9;
    pub const CPU: u8 = 10;
    pub const SOCKET: u8 = 11;
    pub const GROW_AND_PORT: u8 = 12;
    pub const SHRINK_AND_HASHED: u8 = 13;
    pub const PORT_OR_TX: u8 = 14;
    pub const PORT_OR_DROP: u8 = 15;
    pub const WITH_METADATA: u8 = 16;
    pub const WRONG_FLAGS: u8 = 17;
    pub const NO_TARGET: u8 = 18;
    pub const UNKNOWN_VERDICT: u8 = 19;
}

/// A frame of 80 bytes for an action.
pub fn frame(action: u8, argument: u8, last: u8) -> Vec<u8> {
    let mut frame = vec![0; 80];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x0a]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x0b]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&[action, argument, 0, last]);
    for (n, byte) in frame[24..].iter_mut().enumerate() {
        *byte = n as u8;
    }
    frame
}

/// The number by which a device map's value names a program: its place, plus one.
pub fn set_program(engine: &impl Engine, name: &str) -> u32 {
    let programs = engine.programs();
    programs.iter().position(|program| program == name).unwrap() as u32 + 1
}

/// Fills the maps: interfaces, ports and hashed lead to the first two interfaces; entry 2 of ports leads to the
/// third, through `egress` (the kernel does not tell apart entries of one interface with several programs);
/// CPU 0 has a program.
pub fn setup(maps: &impl MapAccess, interfaces: [u32; 3], program: impl Fn(&str) -> u32) {
    let [one, two, three] = interfaces;
    let set = |map: &str, key: u32, value: &[u8]| {
        maps.update(map.into(), &key.to_ne_bytes(), value, UpdateFlags::ANY)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    for (key, ifindex) in [(0, one), (1, two)] {
        set("interfaces", key, &ifindex.to_ne_bytes());
        let entry = [ifindex.to_ne_bytes(), [0; 4]].concat();
        set("ports", key, &entry);
        set("hashed", key, &entry);
    }
    let egress = program("egress").to_ne_bytes();
    set("ports", 2, &[three.to_ne_bytes(), egress].concat());
    let remote = program("remote").to_ne_bytes();
    set("cpus", 0, &[192_u32.to_ne_bytes(), remote].concat());
}

/// CPU 1 has no program. On a machine of one CPU its entry stays empty.
pub fn add_plain_cpu(maps: &impl MapAccess) {
    if squalus_kernel::possible_cpus().unwrap_or(1) < 2 {
        return;
    }
    let entry = [192_u32.to_ne_bytes(), [0; 4]].concat();
    let key = 1_u32.to_ne_bytes();
    maps.update("cpus".into(), &key, &entry, UpdateFlags::ANY)
        .unwrap_or_else(|error| panic!("{error}"));
}

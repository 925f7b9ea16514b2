//! Maps for redirection: `DEVMAP`, `DEVMAP_HASH`, `CPUMAP`, `XSKMAP`.
//!
//! Interfaces exist in a network namespace of the test's own thread. Where the kernel takes descriptors, ours
//! takes ids: programs are compared after translation, sockets by whether there is one.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};
use squalus_maps::{Cursor, Target};

use crate::common::{self, def};
use crate::kernel_available;
use crate::pair::Pair;
use crate::sys::{self, Program};

/// Two words of a value, the second one a program: 0 for none, else its number plus one.
#[derive(Clone, Debug)]
enum Step {
    Update {
        key: u32,
        first: u32,
        program: u32,
        flags: u64,
    },
    Delete {
        key: u32,
    },
    Compare,
}

fn steps(first: impl Strategy<Value = u32> + Clone + 'static) -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![6 => Just(0_u64), 1 => 1..4_u64, 1 => Just(4), 1 => Just(1 << 33)];
    let step = prop_oneof![
        6 => (0..7_u32, first, 0..3_u32, flags)
            .prop_map(|(key, first, program, flags)| Step::Update { key, first, program, flags }),
        2 => (0..7_u32).prop_map(|key| Step::Delete { key }),
        1 => Just(Step::Compare),
    ];
    proptest::collection::vec(step, 1..50)
}

struct Subject<'a> {
    pair: Pair,
    programs: &'a [Program],
}

impl Subject<'_> {
    fn run(&self, step: &Step) {
        let size = self.pair.theirs.def.value_size as usize;
        match *step {
            Step::Update {
                key,
                first,
                program,
                flags,
            } => {
                let fd = match program {
                    0 => 0,
                    number => self.programs[number as usize - 1].fd.as_raw_fd(),
                };
                let ours = [first.to_ne_bytes(), program.to_ne_bytes()].concat();
                let theirs = [first.to_ne_bytes(), fd.to_ne_bytes()].concat();
                let key = key.to_ne_bytes();
                assert_eq!(
                    self.pair
                        .ours
                        .sys_update(&key, &ours[..size], UpdateFlags(flags)),
                    self.pair.theirs.update(&key, &theirs[..size], flags),
                    "{step:?}"
                );
            }
            Step::Delete { key } => {
                let key = key.to_ne_bytes();
                assert_eq!(
                    self.pair.ours.sys_delete(&key),
                    self.pair.theirs.delete(&key)
                );
            }
            Step::Compare => self.compare(),
        }
    }

    /// The same keys, values, and ways for frames.
    fn compare(&self) {
        let (ours, theirs) = self.pair.keys();
        let sorted = |mut keys: Vec<Vec<u8>>| {
            keys.sort();
            keys
        };
        assert_eq!(sorted(ours), sorted(theirs));
        let mut targets = Vec::new();
        for key in 0..7_u32 {
            let bytes = key.to_ne_bytes();
            let ours = self.pair.ours.sys_lookup(&bytes);
            let theirs = self.pair.theirs.lookup(&bytes, 0);
            let theirs = theirs.map(|value| value.map(|value| self.translated(value)));
            assert_eq!(ours, theirs);
            let target = self.pair.ours.redirect(key);
            assert_eq!(target, ours.unwrap().map(|value| self.target(key, &value)));
            targets.extend(target);
        }
        let mut cursor = Cursor::default();
        let mut listed = Vec::new();
        while let Some(target) = self.pair.ours.next_device(&mut cursor) {
            listed.push(target);
        }
        if self.pair.theirs.def.kind == MapType::DevMapHash {
            listed.sort_by_key(|target| format!("{target:?}"));
            targets.sort_by_key(|target| format!("{target:?}"));
        }
        assert_eq!(listed, targets);
    }

    /// A kernel's value with our number of the program.
    fn translated(&self, mut value: Vec<u8>) -> Vec<u8> {
        if let Some(id) = value.get_mut(4..8) {
            let known = (1_u32..)
                .zip(self.programs)
                .find(|(_, program)| program.id.to_ne_bytes() == *id);
            id.copy_from_slice(&known.map_or(0, |(number, _)| number).to_ne_bytes());
        }
        value
    }

    fn target(&self, key: u32, value: &[u8]) -> Target {
        let word = |at: usize| {
            value
                .get(at..at + 4)
                .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
        };
        let program = word(4).unwrap_or(0).checked_sub(1);
        match self.pair.theirs.def.kind {
            MapType::CpuMap => Target::Cpu {
                cpu: key,
                qsize: word(0).unwrap(),
                program,
            },
            _ => Target::Device {
                ifindex: word(0).unwrap(),
                program,
            },
        }
    }
}

fn compare(
    defs: &[MapDef],
    programs: &[Program],
    first: impl Strategy<Value = u32> + Clone + 'static,
) {
    for def in defs {
        TestRunner::new(common::cases(40))
            .run(&steps(first.clone()), |steps| {
                let pair = Pair::new(def);
                let subject = Subject { pair, programs };
                steps.iter().for_each(|step| subject.run(step));
                subject.compare();
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn devices() {
    if !kernel_available() {
        return;
    }
    let thread = std::thread::spawn(|| {
        let Some(interfaces) = interfaces() else {
            eprintln!(
                "SKIPPED: cannot make interfaces in a network namespace; nothing was compared"
            );
            return;
        };
        let indices: Vec<u32> = interfaces
            .iter()
            .map(|&(_, index)| index)
            .chain([0, 1])
            .collect();
        let programs = [sys::FOR_DEVICES, sys::FOR_DEVICES].map(Program::new);
        let defs = [
            def(MapType::DevMap, 4, 4, 5),
            def(MapType::DevMap, 4, 8, 5),
            def(MapType::DevMapHash, 4, 4, 3),
            def(MapType::DevMapHash, 4, 8, 4),
        ];
        compare(&defs, &programs, proptest::sample::select(indices));
    });
    thread.join().unwrap();
}

/// Two interfaces in a new network namespace, which this thread enters; they live as long as the
/// descriptors.
fn interfaces() -> Option<Vec<(OwnedFd, u32)>> {
    // SAFETY: no memory is involved; only this thread changes its namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return None;
    }
    ["sqa", "sqb"].into_iter().map(tap).collect()
}

fn tap(name: &str) -> Option<(OwnedFd, u32)> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let path = std::ffi::CString::new("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    // IFF_TAP without IFF_NO_PI's absence mattering: nothing is read.
    request[16..18].copy_from_slice(&0x1002_u16.to_ne_bytes());
    // SAFETY: the path ends in a zero, and the request is as long as the kernel's structure.
    let (fd, result) = unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        (fd, libc::ioctl(fd, TUNSETIFF as _, request.as_mut_ptr()))
    };
    if fd < 0 || result < 0 {
        return None;
    }
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a descriptor of our own, and a name that ends in a zero.
    unsafe {
        Some((
            OwnedFd::from_raw_fd(fd),
            libc::if_nametoindex(name.as_ptr()),
        ))
    }
}

#[test]
fn cpu_maps() {
    if !kernel_available() {
        return;
    }
    let programs = [sys::FOR_CPUS, sys::FOR_CPUS].map(Program::new);
    let defs = [def(MapType::CpuMap, 4, 4, 2), def(MapType::CpuMap, 4, 8, 5)];
    compare(
        &defs,
        &programs,
        proptest::sample::select(&[0, 1, 64, 16384, 16385, u32::MAX][..]),
    );
}

/// Sockets are not read back; what is there shows in what updates with flags answer.
#[test]
fn socket_maps() {
    if !kernel_available() {
        return;
    }
    const AF_XDP: i32 = 44;
    let sockets: Vec<OwnedFd> = (0..2)
        .filter_map(|_| {
            // SAFETY: no memory is involved; the descriptor is new.
            unsafe {
                let fd = libc::socket(AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
                (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
            }
        })
        .collect();
    if sockets.len() < 2 {
        eprintln!("SKIPPED: cannot create AF_XDP sockets; nothing was compared");
        return;
    }
    let steps = steps(0..2_u32);
    TestRunner::new(common::cases(40))
        .run(&steps, |steps| {
            let pair = Pair::new(&def(MapType::XskMap, 4, 4, 5));
            for step in &steps {
                socket_step(&pair, &sockets, step);
            }
            Ok(())
        })
        .unwrap();
}

fn socket_step(pair: &Pair, sockets: &[OwnedFd], step: &Step) {
    match *step {
        Step::Update {
            key, first, flags, ..
        } => {
            let before = pair.ours.redirect(key);
            let bytes = key.to_ne_bytes();
            let fd = sockets[first as usize].as_raw_fd();
            let ours = pair
                .ours
                .sys_update(&bytes, &first.to_ne_bytes(), UpdateFlags(flags));
            assert_eq!(
                ours,
                pair.theirs.update(&bytes, &fd.to_ne_bytes(), flags),
                "{step:?}"
            );
            let after = if ours.is_ok() {
                Some(Target::Socket { id: first })
            } else {
                before
            };
            assert_eq!(pair.ours.redirect(key), after);
        }
        Step::Delete { key } => {
            let key = key.to_ne_bytes();
            assert_eq!(pair.ours.sys_delete(&key), pair.theirs.delete(&key));
        }
        Step::Compare => {
            assert_eq!(pair.ours.sys_lookup(&[0; 4]), Err(Errno::EOPNOTSUPP));
            assert_eq!(
                pair.ours.sys_lookup(&[0; 4]),
                pair.theirs.lookup(&[0; 4], 0)
            );
            let (ours, theirs) = pair.keys();
            assert_eq!(ours, theirs);
        }
    }
}

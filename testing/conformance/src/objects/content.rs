//! What maps of unknown meaning are filled with: keys cut from frames, small numbers and random bytes, the
//! same on every engine.

use squalus_isa::{MapDef, MapType, UpdateFlags};

use crate::{MapName, Rng, Step};

/// Entries made for one map.
const ENTRIES: u32 = 24;
/// The loopback interface: the one that is there wherever tests run.
const LOOPBACK: u32 = 1;
/// Where in an Ethernet frame keys are found: addresses of either family, ports, protocols.
const KEY_PLACES: [usize; 10] = [0, 6, 12, 23, 26, 30, 34, 36, 22, 38];

/// How maps are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// As the object declares them.
    Empty,
    /// With values of small numbers, such as indices, flags and counters have.
    Small,
    /// With random values.
    Random,
}

impl Filling {
    /// All there are.
    pub const ALL: [Filling; 3] = [Filling::Empty, Filling::Small, Filling::Random];
}

/// What fills `maps`; `programs` go into program arrays. Engines may refuse a step, then all must.
#[must_use]
pub fn fill(
    rng: &mut Rng,
    filling: Filling,
    maps: &[MapDef],
    programs: &[String],
    frames: &[Vec<u8>],
    cpus: usize,
) -> Vec<Step> {
    if filling == Filling::Empty {
        return Vec::new();
    }
    let mut out = Vec::new();
    for def in maps.iter().filter(|def| !def.name.starts_with('.')) {
        let mut filler = Filler {
            rng,
            filling,
            frames,
            cpus,
        };
        filler.map(def, programs, &mut out);
    }
    out
}

struct Filler<'a> {
    rng: &'a mut Rng,
    filling: Filling,
    frames: &'a [Vec<u8>],
    cpus: usize,
}

impl Filler<'_> {
    fn map(&mut self, def: &MapDef, programs: &[String], out: &mut Vec<Step>) {
        if def.kind == MapType::ProgArray {
            let places = (0..def.max_entries.min(16)).zip(programs.iter().cycle());
            out.extend(places.map(|(index, program)| Step::SetProgram {
                map: def.name.clone(),
                index,
                program: program.clone(),
            }));
            return;
        }
        for number in 0..ENTRIES.min(def.max_entries) {
            let key = self.key(def, number);
            if let Some(inner) = &def.inner {
                self.inner(def, inner, key, out);
            } else if let Some(value) = self.value(def) {
                out.push(update(def.name.as_str().into(), key, value));
            }
        }
    }

    /// An inner map with a few entries.
    fn inner(&mut self, def: &MapDef, inner: &MapDef, key: Vec<u8>, out: &mut Vec<Step>) {
        out.push(Step::CreateInner {
            outer: def.name.clone(),
            key: key.clone(),
            def: inner.clone(),
        });
        for number in 0..4.min(inner.max_entries) {
            let inner_key = self.key(inner, number);
            if let Some(value) = self.value(inner) {
                let map = MapName::Inner(def.name.clone(), key.clone());
                out.push(update(map, inner_key, value));
            }
        }
    }

    fn key(&mut self, def: &MapDef, number: u32) -> Vec<u8> {
        let size = def.key_size as usize;
        match def.kind {
            MapType::Hash
            | MapType::LruHash
            | MapType::PerCpuHash
            | MapType::LruPerCpuHash
            | MapType::HashOfMaps => self.cut(size),
            MapType::LpmTrie => {
                let bits = 8 * (def.key_size - 4);
                let prefix = *self.rng.pick(&[0, 8, 16, 24, 32, bits]);
                let mut key = prefix.min(bits).to_ne_bytes().to_vec();
                key.extend(self.cut(size - 4));
                key
            }
            // Indices, and the keys of hashes of interfaces.
            _ => number.to_ne_bytes()[..size.min(4)].to_vec(),
        }
    }

    /// A key as a program would cut it from a frame, or a small number.
    fn cut(&mut self, size: usize) -> Vec<u8> {
        let mut key = vec![0; size];
        if self.rng.percent(30) {
            key[0] = self.rng.between(0, 20) as u8;
            return key;
        }
        let frame = self.rng.pick(self.frames);
        let place = *self.rng.pick(&KEY_PLACES);
        let bytes = frame.get(place..).unwrap_or_default();
        // Structures pad their fields: sometimes only the first one is set.
        let len = if self.rng.percent(40) { 4 } else { size };
        for (to, from) in key.iter_mut().zip(bytes).take(len) {
            *to = *from;
        }
        key
    }

    /// A value, unless there is none that means something in every engine.
    fn value(&mut self, def: &MapDef) -> Option<Vec<u8>> {
        let size = def.value_size as usize;
        Some(match def.kind {
            MapType::DevMap | MapType::DevMapHash => padded(LOOPBACK, size),
            // The length of the CPU's queue.
            MapType::CpuMap => padded(64, size),
            // Sockets and perf buffers belong to whoever opened them.
            MapType::XskMap | MapType::PerfEventArray | MapType::RingBuf => return None,
            kind if kind.is_per_cpu() => {
                let mut one = self.bytes(size);
                // The kernel keeps what it finds between values, we don't.
                one.resize(size.next_multiple_of(8), 0);
                one.repeat(self.cpus)
            }
            _ => self.bytes(size),
        })
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        if self.filling == Filling::Random {
            return self.rng.bytes(size);
        }
        let mut out = Vec::with_capacity(size + 4);
        while out.len() < size {
            let number = *self.rng.pick(&[0u32, 0, 1, 1, 2, 3, 4, 16, 64, 1500]);
            out.extend(number.to_ne_bytes());
        }
        out.truncate(size);
        out
    }
}

fn padded(number: u32, size: usize) -> Vec<u8> {
    let mut value = number.to_ne_bytes().to_vec();
    value.resize(size, 0);
    value
}

fn update(map: MapName, key: Vec<u8>, value: Vec<u8>) -> Step {
    Step::Update {
        map,
        key,
        value,
        flags: UpdateFlags::ANY,
    }
}

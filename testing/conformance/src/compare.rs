//! The same steps on several engines, and every difference.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use squalus_engine::{Engine, EngineError, MapAccess};
use squalus_isa::{MapDef, MapType, Verdict};

use crate::case::{Case, MapName, Outcome, Step};

/// Maps with more entries than this are not read back: programs here don't write them.
const MAX_WATCHED: u32 = 100_000;

/// Bytes of a map that may differ between engines.
#[derive(Clone, Debug)]
pub struct Mask {
    /// Name of the map; of the outer one for inner maps.
    pub map: String,
    /// The only key concerned, or all.
    pub key: Option<Vec<u8>>,
    /// Which bytes of the value; of each CPU's value in per-CPU maps.
    pub bytes: Range<usize>,
}

/// How engines are compared: everything but what is masked.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// The exceptions.
    pub masks: Vec<Mask>,
    /// The clock that all the engines were made with ([`crate::engines::Subject::clock`]), if it can be
    /// set: [`Step::Time`] does.
    pub clock: Option<Arc<AtomicU64>>,
}

/// Two engines that did not do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step after which it showed; `None` for map contents at the end.
    pub step: Option<usize>,
    /// Where: the frame's fate, or a map and key.
    pub what: String,
    /// What the first engine has, and its name.
    pub left: (&'static str, String),
    /// What the other has.
    pub right: (&'static str, String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => writeln!(f, "step {step}: {}", self.what)?,
            None => writeln!(f, "at the end: {}", self.what)?,
        }
        writeln!(f, "  {:8} {}", self.left.0, self.left.1)?;
        write!(f, "  {:8} {}", self.right.0, self.right.1)
    }
}

/// Does the case on each engine, and compares all with the first.
///
/// The engines must be freshly loaded (or in the same state) from the same object. Map contents are
/// compared once, after the last step.
pub fn compare(engines: &mut [&mut dyn Engine], case: &Case, watch: &Watch) -> Vec<Difference> {
    watch.reset_clock();
    let mut differences = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        differences.extend(compare_step(engines, (index, step), watch).1);
    }
    differences.extend(compare_maps(&shared(engines), watch));
    differences
}

/// What the first engine made of a step, and where others differ.
pub(crate) fn compare_step(
    engines: &mut [&mut dyn Engine],
    (index, step): (usize, &Step),
    watch: &Watch,
) -> (Option<Outcome>, Vec<Difference>) {
    let Some((first, others)) = engines.split_first_mut() else {
        return (None, Vec::new());
    };
    if let (Step::Time { nanos }, Some(clock)) = (step, &watch.clock) {
        clock.store(*nanos, Ordering::Relaxed);
    }
    let expected = watch.masked_outcome(*first, step);
    let mut differences = Vec::new();
    for other in others {
        let outcome = watch.masked_outcome(*other, step);
        if outcome != expected {
            differences.push(Difference {
                step: Some(index),
                what: describe(step, &expected, &outcome),
                left: (first.name(), expected.to_string()),
                right: (other.name(), outcome.to_string()),
            });
        }
    }
    (Some(expected), differences)
}

fn describe(step: &Step, left: &Outcome, right: &Outcome) -> String {
    match (left, right) {
        (Outcome::Ran(a, _), Outcome::Ran(b, _)) if a != b => "the verdict".to_owned(),
        (Outcome::Ran(_, a), Outcome::Ran(_, b)) => {
            let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            format!("the frame from byte {same} on")
        }
        _ => format!("the result of {step}"),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ran(value, frame) => {
                let verdict = Verdict::from_return((*value).into());
                write!(f, "{value} {verdict} ")?;
                write!(f, "{} bytes {}", frame.len(), Hex(frame))
            }
            Outcome::Found(None) => f.write_str("nothing"),
            Outcome::Found(Some(value)) => write!(f, "{}", Hex(value)),
            Outcome::Done => f.write_str("done"),
            Outcome::Refused(errno) => write!(f, "{errno}"),
            Outcome::Failed(reason) => f.write_str(reason),
        }
    }
}

/// Bytes in hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Engines to look at only.
pub(crate) fn shared<'a>(engines: &'a [&mut dyn Engine]) -> Vec<&'a dyn Engine> {
    engines.iter().map(|engine| &**engine).collect()
}

/// Differences in what the maps hold.
pub(crate) fn compare_maps(engines: &[&dyn Engine], watch: &Watch) -> Vec<Difference> {
    let mut differences = Vec::new();
    let Some((first, others)) = engines.split_first() else {
        return differences;
    };
    for map in watched(*first) {
        let expected = contents(*first, &map, watch);
        for other in others {
            let found = contents(*other, &map, watch);
            let names = (first.name(), other.name());
            differences.extend(content_difference(&map, names, &expected, &found));
        }
    }
    differences
}

/// All maps to read back, inner maps too.
pub(crate) fn watched(engine: &dyn MapAccess) -> Vec<(MapName, MapDef)> {
    let mut maps = Vec::new();
    for def in engine.maps() {
        let name = MapName::Name(def.name.clone());
        if let Some(inner) = &def.inner {
            let keys = keys(engine, &name, &def).unwrap_or_default();
            for key in keys {
                maps.push((MapName::Inner(def.name.clone(), key), (**inner).clone()));
            }
        } else if is_readable(def.kind) && def.max_entries <= MAX_WATCHED {
            maps.push((name, def));
        }
    }
    maps
}

fn is_readable(kind: MapType) -> bool {
    use MapType as T;
    matches!(
        kind,
        T::Hash
            | T::Array
            | T::PerCpuHash
            | T::PerCpuArray
            | T::LruHash
            | T::LruPerCpuHash
            | T::LpmTrie
    )
}

fn keys(engine: &dyn MapAccess, map: &MapName, def: &MapDef) -> Result<Vec<Vec<u8>>, EngineError> {
    if matches!(
        def.kind,
        MapType::Array | MapType::PerCpuArray | MapType::ArrayOfMaps
    ) {
        return Ok((0..def.max_entries)
            .map(|index| index.to_ne_bytes().to_vec())
            .collect());
    }
    let mut keys = Vec::new();
    let mut next = engine.next_key(map.as_ref(), None)?;
    while let Some(key) = next {
        next = engine.next_key(map.as_ref(), Some(&key))?;
        keys.push(key);
    }
    Ok(keys)
}

/// What a map holds, masked; an absent inner map holds nothing, as does one that cannot be read.
pub(crate) fn contents(
    engine: &dyn MapAccess,
    map: &(MapName, MapDef),
    watch: &Watch,
) -> Result<Contents, String> {
    let (name, def) = map;
    let read = || -> Result<Contents, EngineError> {
        let mut contents = Contents::new();
        for key in keys(engine, name, def)? {
            if let Some(value) = engine.lookup(name.as_ref(), &key)? {
                let value = watch.masked(name, def, &key, value, engine.cpus());
                contents.insert(key, value);
            }
        }
        Ok(contents)
    };
    read().map_err(|error| Outcome::from(error).to_string())
}

impl Watch {
    /// Every case starts at time 0.
    pub(crate) fn reset_clock(&self) {
        if let Some(clock) = &self.clock {
            clock.store(0, Ordering::Relaxed);
        }
    }

    /// Does a step; what a lookup finds is masked as map contents are.
    fn masked_outcome(&self, engine: &mut dyn Engine, step: &Step) -> Outcome {
        match (step.apply(engine), step) {
            (Outcome::Found(Some(value)), Step::Lookup { map, key }) => {
                let (MapName::Name(name) | MapName::Inner(name, _)) = map;
                let def = engine.maps().into_iter().find(|def| def.name == *name);
                let cpus = engine.cpus();
                let masked = match def {
                    Some(def) => self.masked(map, &def, key, value, cpus),
                    None => value,
                };
                Outcome::Found(Some(masked))
            }
            (outcome, _) => outcome,
        }
    }

    fn masked(
        &self,
        map: &MapName,
        def: &MapDef,
        key: &[u8],
        mut value: Vec<u8>,
        cpus: usize,
    ) -> Vec<u8> {
        let (MapName::Name(name) | MapName::Inner(name, _)) = map;
        let parts = if def.kind.is_per_cpu() { cpus } else { 1 };
        let len = value.len() / parts.max(1);
        for mask in &self.masks {
            let hits = mask.map == *name && mask.key.as_ref().is_none_or(|only| only == key);
            for part in value.chunks_mut(len.max(1)).filter(|_| hits) {
                if let Some(bytes) = part.get_mut(mask.bytes.clone()) {
                    bytes.fill(0);
                }
            }
        }
        value
    }
}

fn content_difference(
    map: &(MapName, MapDef),
    names: (&'static str, &'static str),
    left: &Result<Contents, String>,
    right: &Result<Contents, String>,
) -> Vec<Difference> {
    let difference = |what, a: Option<String>, b: Option<String>| Difference {
        step: None,
        what,
        left: (names.0, a.unwrap_or_else(|| "nothing".to_owned())),
        right: (names.1, b.unwrap_or_else(|| "nothing".to_owned())),
    };
    let (left, right) = match (left, right) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(a), Err(b)) if a == b => return Vec::new(),
        (a, b) => {
            let text = |r: &Result<Contents, String>| match r {
                Ok(contents) => format!("{} entries", contents.len()),
                Err(error) => error.clone(),
            };
            let what = format!("reading map {}", map.0);
            return vec![difference(what, Some(text(a)), Some(text(b)))];
        }
    };
    let all: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let differing = all
        .into_iter()
        .filter(|key| left.get(*key) != right.get(*key));
    differing
        .map(|key| {
            let value = |c: &Contents| c.get(key).map(|value| Hex(value).to_string());
            let what = format!("map {} key {}", map.0, Hex(key));
            difference(what, value(left), value(right))
        })
        .collect()
}

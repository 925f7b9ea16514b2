//! Cases as text: one step a line, numbers decimal, bytes in hexadecimal.
//!
//! ```text
//! fill ch_rings 65537 65537 7 41
//! inner lru_mapping 00000000 lru_hash 40 16 65536 0
//! update vip_map 0a000001... 00000000... 0
//! lookup reals 01000000
//! delete lru_mapping/00000000 0a...
//! program subprograms 0 balancer_ingress
//! time 1000000000
//! run balancer_ingress 0 0200...
//! ```
//! An inner map is `OUTER/KEY`. Empty lines and lines starting with `#` say nothing.

use std::fmt;

use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

use crate::compare::Hex;
use crate::{Case, MapName, Step};

/// Why a text is no case.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}: {text}")]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The line.
    pub text: String,
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapName::Name(name) => f.write_str(name),
            MapName::Inner(outer, key) => write!(f, "{outer}/{}", Hex(key)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Run {
                program,
                cpu,
                frame,
            } => write!(f, "run {program} {cpu} {}", Hex(frame)),
            Step::Update {
                map,
                key,
                value,
                flags,
            } => write!(f, "update {map} {} {} {}", Hex(key), Hex(value), flags.0),
            Step::Lookup { map, key } => write!(f, "lookup {map} {}", Hex(key)),
            Step::Delete { map, key } => write!(f, "delete {map} {}", Hex(key)),
            Step::CreateInner { outer, key, def } => write!(
                f,
                "inner {outer} {} {} {} {} {} {}",
                Hex(key),
                def.kind,
                def.key_size,
                def.value_size,
                def.max_entries,
                def.flags.0
            ),
            Step::SetProgram {
                map,
                index,
                program,
            } => write!(f, "program {map} {index} {program}"),
            Step::Time { nanos } => write!(f, "time {nanos}"),
            Step::Fill {
                map,
                first,
                count,
                seed,
                modulo,
            } => write!(f, "fill {map} {first} {count} {seed} {modulo}"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Case {
    /// Reads what [`Case`]'s `Display` writes.
    ///
    /// # Errors
    /// The first line that is no step.
    pub fn parse(text: &str) -> Result<Case, ParseError> {
        let mut steps = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let step = step(line).map_err(|reason| ParseError {
                line: number + 1,
                reason,
                text: line.to_owned(),
            })?;
            steps.push(step);
        }
        Ok(Case { steps })
    }
}

fn step(line: &str) -> Result<Step, &'static str> {
    // Keys, values and frames may be empty: two spaces in a row.
    let fields: Vec<&str> = line.split(' ').collect();
    let bytes = |text: &str| parse_hex(text).ok_or("not hexadecimal");
    Ok(match fields.as_slice() {
        ["run", program, cpu, frame] => Step::Run {
            program: (*program).to_owned(),
            cpu: number(cpu)?,
            frame: bytes(frame)?,
        },
        ["update", map, key, value, flags] => Step::Update {
            map: map_name(map)?,
            key: bytes(key)?,
            value: bytes(value)?,
            flags: UpdateFlags(number(flags)?),
        },
        ["lookup", map, key] => Step::Lookup {
            map: map_name(map)?,
            key: bytes(key)?,
        },
        ["delete", map, key] => Step::Delete {
            map: map_name(map)?,
            key: bytes(key)?,
        },
        ["inner", outer, key, kind, rest @ ..] => Step::CreateInner {
            outer: (*outer).to_owned(),
            key: bytes(key)?,
            def: definition(kind, rest)?,
        },
        ["program", map, index, program] => Step::SetProgram {
            map: (*map).to_owned(),
            index: number(index)?,
            program: (*program).to_owned(),
        },
        ["time", nanos] => Step::Time {
            nanos: number(nanos)?,
        },
        ["fill", map, first, count, seed, modulo] => Step::Fill {
            map: (*map).to_owned(),
            first: number(first)?,
            count: number(count)?,
            seed: number(seed)?,
            modulo: number(modulo)?,
        },
        _ => return Err("no such step, or not with these fields"),
    })
}

fn definition(kind: &str, sizes: &[&str]) -> Result<MapDef, &'static str> {
    let [key_size, value_size, max_entries, flags] = sizes else {
        return Err("an inner map needs key size, value size, entries and flags");
    };
    let kind = (0..64)
        .filter_map(MapType::from_id)
        .find(|k| k.name() == kind);
    Ok(MapDef {
        flags: MapFlags(number(flags)?),
        ..MapDef::new(
            "inner",
            kind.ok_or("no such map type")?,
            (number(key_size)?, number(value_size)?),
            number(max_entries)?,
        )
    })
}

fn map_name(text: &str) -> Result<MapName, &'static str> {
    match text.split_once('/') {
        None => Ok(MapName::Name(text.to_owned())),
        Some((outer, key)) => {
            let key = parse_hex(key).ok_or("the inner map's key is not hexadecimal")?;
            Ok(MapName::Inner(outer.to_owned(), key))
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "not a number in range")
}

/// Bytes from hexadecimal digits, two each.
#[must_use]
pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    digits.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_a_round_trip() {
        let text = "fill ch_rings 65537 65537 7 41\n\
                    inner lru_mapping 00000000 lru_hash 40 16 65536 0\n\
                    update lru_mapping/01000000 0a0b  1\n\
                    lookup reals 01000000\n\
                    delete a/ff 0a\n\
                    program subprograms 0 balancer_ingress\n\
                    time 1000000000\n\
                    run balancer_ingress 1 00ff\n";
        let case = Case::parse(text).unwrap();
        assert_eq!(case.steps.len(), 8);
        assert_eq!(case.to_string(), text);
    }

    #[test]
    fn errors_name_the_line() {
        let error = Case::parse("# fine\n\nrun p 0 0g").unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.to_string().contains("hexadecimal"));
        assert!(Case::parse("jump").is_err());
        assert!(Case::parse("inner a 00 no_such_type 1 1 1 0").is_err());
    }
}

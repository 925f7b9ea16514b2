//! What is in the maps of a loaded object, as `bpftool map dump` shows it.

use std::fmt;

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};
use squalus_engine::{MapAccess, MapRef};
use squalus_isa::{MapDef, MapType};
use squalus_kernel::LiveMaps;
use squalus_object::btf::{Btf, Kind, TypeId, Value};
use squalus_object::{MapOrigin, Object};

/// Arrays with more entries than this are looked through only if named.
const LONG_ARRAY: u32 = 1 << 20;

/// Who knows the types of maps by their names.
pub trait Types {
    /// The types of a map's entries.
    fn types(&self, map: &str) -> Option<MapTypes<'_>>;
}

/// The types of a map's entries.
pub struct MapTypes<'t> {
    btf: &'t Btf,
    entries: EntryTypes,
}

enum EntryTypes {
    Pair {
        key: TypeId,
        value: TypeId,
    },
    /// Of a data section: its variables by their offsets.
    Variables(Vec<(String, TypeId, usize)>),
}

/// Nobody knows.
pub struct NoTypes;

impl Types for NoTypes {
    fn types(&self, _: &str) -> Option<MapTypes<'_>> {
        None
    }
}

impl Types for Object {
    fn types(&self, map: &str) -> Option<MapTypes<'_>> {
        let spec = self.map(map)?;
        let btf = self.btf.as_ref()?;
        if spec.origin != MapOrigin::Data {
            let (key, value) = spec.key_type.zip(spec.value_type)?;
            let entries = EntryTypes::Pair { key, value };
            return Some(MapTypes { btf, entries });
        }
        let globals = self.globals().iter().filter(|g| g.section == spec.def.name);
        let variables = globals.filter_map(|g| Some((g.name.clone(), g.ty?, g.offset)));
        MapTypes::of_section(btf, variables.collect())
    }
}

impl Types for LiveMaps {
    fn types(&self, map: &str) -> Option<MapTypes<'_>> {
        let (btf, key, value) = LiveMaps::types(self, map)?;
        let Kind::DataSec { vars, .. } = &btf.get(value)?.kind else {
            let entries = EntryTypes::Pair { key, value };
            return Some(MapTypes { btf, entries });
        };
        let variables = vars.iter().filter_map(|var| {
            let Kind::Var { ty, .. } = btf.get(var.var)?.kind else {
                return None;
            };
            Some((btf.type_name(var.var).to_owned(), ty, var.offset as usize))
        });
        MapTypes::of_section(btf, variables.collect())
    }
}

impl<'t> MapTypes<'t> {
    fn of_section(btf: &'t Btf, mut variables: Vec<(String, TypeId, usize)>) -> Option<Self> {
        variables.sort_by_key(|(_, _, offset)| *offset);
        let entries = EntryTypes::Variables(variables);
        Some(MapTypes { btf, entries })
    }

    /// An entry as bpftool shows it if it knows the types of both sides.
    fn format(&self, map: &str, key: &[u8], content: &Content) -> Option<Value> {
        let (key_type, value_type) = match &self.entries {
            EntryTypes::Pair { key, value } => (*key, *value),
            EntryTypes::Variables(variables) => return self.section(map, variables, content),
        };
        let key = self.btf.value(key_type, key)?;
        let (name, value) = match content {
            Content::Value(bytes) => ("value", self.btf.value(value_type, bytes)?),
            Content::Values(values) => {
                let of_cpu = |of: &OfCpu| {
                    Some(Value::Struct(vec![
                        ("cpu".to_owned(), Value::Unsigned(of.cpu as u64)),
                        ("value".to_owned(), self.btf.value(value_type, &of.value)?),
                    ]))
                };
                let values = values.iter().map(of_cpu).collect::<Option<_>>()?;
                ("values", Value::List(values))
            }
        };
        Some(Value::Struct(vec![
            ("key".to_owned(), key),
            (name.to_owned(), value),
        ]))
    }

    fn section(
        &self,
        map: &str,
        variables: &[(String, TypeId, usize)],
        content: &Content,
    ) -> Option<Value> {
        let Content::Value(bytes) = content else {
            return None;
        };
        let variable = |(name, ty, offset): &(String, TypeId, usize)| {
            let value = self.btf.value(*ty, bytes.get(*offset..)?)?;
            Some(Value::Struct(vec![(name.clone(), value)]))
        };
        let variables: Vec<Value> = variables.iter().filter_map(variable).collect();
        if variables.is_empty() {
            return None;
        }
        let section = Value::Struct(vec![(map.to_owned(), Value::List(variables))]);
        Some(Value::Struct(vec![("value".to_owned(), section)]))
    }
}

/// A map's entries.
#[derive(Debug, Serialize)]
pub struct MapDump {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    elements: Vec<Element>,
}

#[derive(Debug, Serialize)]
struct Element {
    #[serde(serialize_with = "hex_strings")]
    key: Vec<u8>,
    #[serde(flatten)]
    content: Content,
    /// Keys and values as their types see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    formatted: Option<Formatted>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    #[serde(serialize_with = "hex_strings")]
    Value(Vec<u8>),
    Values(Vec<OfCpu>),
}

#[derive(Debug, Serialize)]
struct OfCpu {
    cpu: usize,
    #[serde(serialize_with = "hex_strings")]
    value: Vec<u8>,
}

/// Whether these maps can be dumped.
///
/// # Errors
/// The first that is not there or cannot be listed.
pub fn check(access: &dyn MapAccess, names: &[&str]) -> Result<()> {
    let defs = access.maps();
    for name in names {
        let Some(def) = defs.iter().find(|def| def.name == *name) else {
            let all: Vec<&str> = defs.iter().map(|def| def.name.as_str()).collect();
            bail!("the object has no map `{name}`; it has: {}", all.join(", "));
        };
        if !can_be_listed(def.kind) {
            bail!("map `{name}` is a {}: it has no entries to list", def.kind);
        }
    }
    Ok(())
}

/// Which maps to dump.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'n> {
    /// Those with these names.
    Named(&'n [&'n str]),
    /// All that are not empty.
    Filled,
    /// All.
    All,
}

impl<'n> Wanted<'n> {
    /// These maps, or, if there are none, `otherwise`.
    pub fn or(names: &'n [&'n str], otherwise: Wanted<'n>) -> Wanted<'n> {
        match names {
            [] => otherwise,
            names => Wanted::Named(names),
        }
    }
}

/// The maps that are wanted, as far as they have entries to list.
///
/// # Errors
/// If the engine refuses to read a map.
pub fn all(access: &dyn MapAccess, types: &dyn Types, wanted: Wanted<'_>) -> Result<Vec<MapDump>> {
    let defs = access.maps();
    let mut dumps = Vec::new();
    for def in defs.iter().filter(|def| can_be_listed(def.kind)) {
        let named = match wanted {
            Wanted::Named(names) if !names.contains(&def.name.as_str()) => continue,
            Wanted::Named(_) => true,
            Wanted::Filled | Wanted::All => false,
        };
        if def.max_entries > LONG_ARRAY && is_array(def.kind) && !named {
            let (name, entries) = (&def.name, def.max_entries);
            eprintln!("map {name}: {entries} entries are not searched unless it is named");
            continue;
        }
        let found = dump(access, def, types.types(&def.name))?.into_iter();
        let only_filled = matches!(wanted, Wanted::Filled);
        dumps.extend(found.filter(|dump| !only_filled || !dump.elements.is_empty()));
    }
    Ok(dumps)
}

fn is_array(kind: MapType) -> bool {
    matches!(
        kind,
        MapType::Array
            | MapType::PerCpuArray
            | MapType::ArrayOfMaps
            | MapType::ProgArray
            | MapType::DevMap
            | MapType::CpuMap
    )
}

/// Whether every entry is there from the start, with zeros.
fn starts_zeroed(kind: MapType) -> bool {
    matches!(kind, MapType::Array | MapType::PerCpuArray)
}

fn can_be_listed(kind: MapType) -> bool {
    let hash = matches!(
        kind,
        MapType::Hash
            | MapType::PerCpuHash
            | MapType::LruHash
            | MapType::LruPerCpuHash
            | MapType::LpmTrie
            | MapType::HashOfMaps
            | MapType::DevMapHash
    );
    hash || is_array(kind)
}

/// One map; of a map of maps every inner map.
fn dump(access: &dyn MapAccess, def: &MapDef, types: Option<MapTypes<'_>>) -> Result<Vec<MapDump>> {
    let map = MapRef::Name(&def.name);
    let Some(inner) = def.inner.as_deref().filter(|_| def.kind.is_map_in_map()) else {
        let elements = elements(access, map, def, |key, content| {
            types.as_ref()?.format(&def.name, key, content)
        })?;
        return Ok(vec![MapDump {
            name: def.name.clone(),
            kind: def.kind.name(),
            elements,
        }]);
    };
    let mut dumps = Vec::new();
    for key in keys(access, map, def)? {
        if access.lookup(map, &key)?.is_none() {
            continue;
        }
        let reference = MapRef::Inner {
            outer: &def.name,
            key: &key,
        };
        dumps.push(MapDump {
            name: format!("{}[{}]", def.name, hex::encode(&key)),
            kind: inner.kind.name(),
            elements: elements(access, reference, inner, |_, _| None)?,
        });
    }
    Ok(dumps)
}

fn keys(access: &dyn MapAccess, map: MapRef<'_>, def: &MapDef) -> Result<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Some(key) = access.next_key(map, keys.last().map(Vec::as_slice))? {
        keys.push(key);
        if keys.len() == def.max_entries as usize {
            break;
        }
    }
    Ok(keys)
}

fn elements(
    access: &dyn MapAccess,
    map: MapRef<'_>,
    def: &MapDef,
    format: impl Fn(&[u8], &Content) -> Option<Value>,
) -> Result<Vec<Element>> {
    let mut elements = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(key) = access.next_key(map, last.as_deref())? {
        let value = access.lookup(map, &key)?;
        let is_shown = |value: &Vec<u8>| !starts_zeroed(def.kind) || value.iter().any(|b| *b != 0);
        let value = value.filter(is_shown);
        if let Some(value) = value {
            let content = Content::of(def, value);
            let formatted = format(&key, &content).map(Formatted);
            elements.push(Element {
                key: key.clone(),
                content,
                formatted,
            });
        }
        last = Some(key);
    }
    Ok(elements)
}

impl Content {
    fn of(def: &MapDef, mut bytes: Vec<u8>) -> Content {
        let size = def.value_size as usize;
        if !def.kind.is_per_cpu() {
            bytes.truncate(size);
            return Content::Value(bytes);
        }
        let values = bytes.chunks(size.next_multiple_of(8)).enumerate();
        let of_cpu = |(cpu, value): (usize, &[u8])| OfCpu {
            cpu,
            value: value[..size.min(value.len())].to_vec(),
        };
        Content::Values(values.map(of_cpu).collect())
    }
}

impl fmt::Display for MapDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "map {} ({}):", self.name, self.kind)?;
        let formatted = self
            .elements
            .iter()
            .map(|e| Some(e.formatted.as_ref()?.0.clone()));
        match formatted.collect::<Option<Vec<Value>>>() {
            Some(list) if !list.is_empty() => writeln!(f, "{}", Value::List(list)),
            _ => self.plain(f),
        }
    }
}

impl MapDump {
    /// Bytes in hexadecimal.
    fn plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for element in &self.elements {
            element.plain(f)?;
        }
        let count = self.elements.len();
        let s = if count == 1 { "" } else { "s" };
        writeln!(f, "Found {count} element{s}")
    }
}

impl Element {
    /// Short entries stand on one line, long ones below their names.
    fn plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value_len = match &self.content {
            Content::Value(value) => value.len(),
            Content::Values(values) => values.first().map_or(0, |of| of.value.len()),
        };
        let after = |long: bool| if long { '\n' } else { ' ' };
        let long = self.key.len() > 16 || value_len > 16;
        write!(f, "key:{}{}", after(long), hex_bytes(&self.key))?;
        match &self.content {
            Content::Value(value) => {
                let one_line = !long && self.key.len() + value.len() <= 24;
                f.write_str(if one_line { "  " } else { "\n" })?;
                writeln!(f, "value:{}{}", after(long), hex_bytes(value))
            }
            Content::Values(values) => {
                writeln!(f)?;
                for OfCpu { cpu, value } in values {
                    let after = after(value.len() > 16);
                    writeln!(f, "value (CPU {cpu:02}):{after}{}", hex_bytes(value))?;
                }
                Ok(())
            }
        }
    }
}

/// Sixteen bytes a line, with a gap after eight.
fn hex_bytes(bytes: &[u8]) -> String {
    let half = |half: &[u8]| {
        let bytes: Vec<String> = half.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(" ")
    };
    let line = |line: &[u8]| line.chunks(8).map(half).collect::<Vec<_>>().join("  ");
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}

fn hex_strings<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(bytes.iter().map(|byte| format!("{byte:#04x}")))
}

/// A value as JSON, in bpftool's choice of types.
#[derive(Debug)]
struct Formatted(Value);

impl Serialize for Formatted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Json(&self.0).serialize(serializer)
    }
}

struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Unsigned(value) | Value::Pointer(value) => serializer.serialize_u64(*value),
            Value::Signed(value) => serializer.serialize_i64(*value),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Hex(_) | Value::Raw(_) => serializer.collect_str(self.0),
            Value::List(elements) => serializer.collect_seq(elements.iter().map(Json)),
            Value::Struct(members) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, Json(value))))
            }
        }
    }
}

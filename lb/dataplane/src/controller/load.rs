//! Taking over a freshly loaded object.

use std::collections::BTreeSet;

use squalus_abi::maps::{self, MapSpec, name};
use squalus_abi::{GlobalCounter, consts};
use squalus_core::{Balancer, Config, MapOp};
use squalus_engine::MapAccess;
use squalus_isa::{MapDef, MapFlags, MapType};

use super::SessionTables;
use super::apply;
use crate::error::ControlError;

/// The maps without which katran refuses an object.
const REQUIRED: [&str; 10] = [
    name::CTL_ARRAY,
    name::VIP_MAP,
    name::CH_RINGS,
    name::REALS,
    name::STATS,
    name::LRU_MAPPING,
    name::SERVER_ID_MAP,
    name::LRU_MISS_STATS,
    name::VIP_MISS_STATS,
    name::VIP_TO_DOWN_REALS_MAP,
];

/// What the control plane needs to know of a loaded balancer object.
pub(super) struct Object {
    pub server_ids_are_hashed: bool,
    pub shows_sources: bool,
    pub lru_mapping: MapDef,
}

impl Object {
    /// Checks the object's maps against the layouts and the balancer's limits.
    pub fn check(maps: &[MapDef], config: &Config) -> Result<Object, ControlError> {
        let find = |name| maps.iter().find(|def| def.name == name);
        for name in REQUIRED {
            let def = find(name).ok_or(ControlError::MissingMap(name))?;
            check_layout(name, def)?;
            check_room(name, def, config)?;
        }
        let lru_mapping =
            find(name::LRU_MAPPING).ok_or(ControlError::MissingMap(name::LRU_MAPPING))?;
        Ok(Object {
            server_ids_are_hashed: find(name::SERVER_ID_MAP)
                .is_some_and(|def| def.kind == MapType::Hash),
            shows_sources: find(name::PCKT_SRCS).is_some(),
            lru_mapping: lru_mapping.clone(),
        })
    }
}

fn check_layout(name: &'static str, def: &MapDef) -> Result<(), ControlError> {
    let Some(spec) = maps::find(name) else {
        return Ok(());
    };
    let sizes = [
        ("a key size of", def.key_size, spec.key_size),
        ("a value size of", def.value_size, spec.value_size),
    ];
    let wrong = sizes.into_iter().find(|(_, got, want)| got != want);
    match wrong {
        None => Ok(()),
        Some((what, got, want)) => Err(ControlError::MapShape {
            map: name,
            what,
            got: got.into(),
            want: want.into(),
        }),
    }
}

/// Checks that a map has room for all VIPs and reals there can be.
fn check_room(name: &'static str, def: &MapDef, config: &Config) -> Result<(), ControlError> {
    let (vips, reals) = (u64::from(config.max_vips), u64::from(config.max_reals));
    let want = match name {
        name::VIP_MAP => vips,
        name::CH_RINGS => vips * u64::from(config.ring_size.get()),
        name::REALS | name::LRU_MISS_STATS => reals,
        name::STATS => vips + GlobalCounter::ALL.len() as u64,
        _ => 0,
    };
    let got = u64::from(def.max_entries);
    match got < want {
        true => Err(ControlError::MapShape {
            map: name,
            what: "room for",
            got,
            want,
        }),
        false => Ok(()),
    }
}

/// The definition an engine creates a map from.
pub(crate) fn map_def(spec: &MapSpec) -> MapDef {
    // The specification knows the few types the balancer has, by the kernel's numbers.
    let kind = MapType::from_id(spec.kind as u32).unwrap_or(MapType::Hash);
    MapDef {
        flags: MapFlags(spec.flags),
        ..MapDef::new(
            spec.name.to_owned(),
            kind,
            (spec.key_size, spec.value_size),
            spec.max_entries,
        )
    }
}

/// Creates the session table of each forwarding CPU, as katran's `initLrus` and `attachLrus`.
pub(super) fn create_session_tables(
    maps: &dyn MapAccess,
    object: &Object,
    sessions: &SessionTables,
) -> Result<(), ControlError> {
    let slots = object.lru_mapping.max_entries;
    check_cpus(&sessions.cpus, slots)?;
    let Some(entries) = sessions.entries.checked_div(sessions.cpus.len() as u64) else {
        return Ok(());
    };
    let entries = u32::try_from(entries)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| {
            ControlError::Sessions(format!(
                "{} entries for {} CPUs leave {entries} each; that must be 1 to 4294967295",
                sessions.entries,
                sessions.cpus.len()
            ))
        })?;
    for &cpu in &sessions.cpus {
        let def = MapDef {
            name: format!("{}{cpu}", consts::LRU_NAME_PREFIX),
            max_entries: entries,
            ..map_def(&maps::SESSION_TABLE)
        };
        maps.create_inner(name::LRU_MAPPING, &cpu.to_ne_bytes(), &def)
            .map_err(|source| ControlError::SessionTable {
                cpu,
                entries,
                source,
            })?;
    }
    Ok(())
}

fn check_cpus(cpus: &[u32], slots: u32) -> Result<(), ControlError> {
    if let Some(cpu) = cpus.iter().find(|&&cpu| cpu >= slots) {
        let problem = format!(
            "CPU {cpu} is above {}, the last one the program knows",
            slots - 1
        );
        return Err(ControlError::Sessions(problem));
    }
    let distinct: BTreeSet<_> = cpus.iter().collect();
    if distinct.len() != cpus.len() {
        return Err(ControlError::Sessions(
            "a CPU is listed twice; list each once".to_owned(),
        ));
    }
    Ok(())
}

/// Writes what the program must know before its first packet.
///
/// Sources go into `pckt_srcs`, if the object has it; katran then refuses to start without any.
pub(super) fn write_first_contents(
    maps: &dyn MapAccess,
    object: &Object,
    balancer: &Balancer,
) -> Result<(), ControlError> {
    let sources = balancer.config().sources;
    if object.shows_sources && sources.v4.is_none() && sources.v6.is_none() {
        return Err(ControlError::NoSource);
    }
    let wanted = |op: &MapOp| object.shows_sources || op.map() != name::PCKT_SRCS;
    let ops: Vec<MapOp> = balancer.load_ops().into_iter().filter(wanted).collect();
    apply::apply(maps, &ops).map_err(|failure| ControlError::Load(failure.refusal))
}

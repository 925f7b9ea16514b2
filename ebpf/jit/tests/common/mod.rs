//! What the tests share: object files to linked programs with maps.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use squalus_isa::UpdateFlags;
use squalus_maps::{Map, MapEnv};
use squalus_object::{InitialTarget, Object, ProgramKind};
use squalus_runtime::{LinkedProgram, SourceLine};

/// All maps of an object, and its XDP programs linked to them.
pub struct Loaded {
    pub maps: Arc<[Arc<Map>]>,
    pub programs: Vec<Arc<LinkedProgram>>,
    pub env: MapEnv,
}

/// Loads an object file's bytes for `cpus` workers.
pub fn load(bytes: &[u8], cpus: u32) -> Loaded {
    let object = Object::parse(bytes).expect("the object is well-formed");
    let env = MapEnv::with_seed(cpus, 7);
    let maps: Arc<[Arc<Map>]> = object
        .maps
        .iter()
        .map(|spec| Map::new(&spec.def, &env).expect("the map's definition is valid"))
        .collect();
    let programs: Vec<_> = object
        .programs
        .iter()
        .filter(|program| matches!(program.kind, ProgramKind::Xdp { .. }))
        .collect();
    for (spec, map) in object.maps.iter().zip(&*maps) {
        if let Some(bytes) = &spec.initial {
            map.sys_update(&0u32.to_ne_bytes(), bytes, UpdateFlags::ANY)
                .expect("a data section fits its map");
        }
        for value in &spec.values {
            let key = value.index.to_ne_bytes();
            match &value.target {
                InitialTarget::Map(name) => {
                    let inner = object.maps.iter().position(|m| m.def.name == *name);
                    let inner = Arc::clone(&maps[inner.expect("the inner map exists")]);
                    map.set_inner(&key, inner).expect("the inner map fits");
                }
                InitialTarget::Program(name) => {
                    let id = programs.iter().position(|p| p.name == *name);
                    map.set_program(value.index, id.map(|id| id as u32))
                        .expect("the index is inside");
                }
            }
        }
        if spec.frozen {
            map.freeze();
        }
    }
    let programs = programs
        .iter()
        .map(|program| {
            let lines = program.lines.iter().map(|line| SourceLine {
                slot: line.slot,
                file: Arc::clone(&line.file),
                line: line.line,
                text: Arc::clone(&line.text),
            });
            let linked = LinkedProgram::new(
                &program.name,
                &program.insns,
                Arc::clone(&maps),
                lines.collect(),
            );
            Arc::new(linked.expect("the program links"))
        })
        .collect();
    Loaded {
        maps,
        programs,
        env,
    }
}

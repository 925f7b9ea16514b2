//! Maps of all forms of definition.

use squalus_isa::{MapFlags, MapType};
use squalus_object::{InitialTarget, InitialValue, MapOrigin, Pinning, ProgramKind, sized};

use crate::{load, maps_used};

#[test]
fn legacy_maps_load_without_btf() {
    let object = load("legacy.o");
    assert!(object.btf.is_none());
    assert_eq!(object.license, "Dual MIT/GPL");
    let names: Vec<_> = object.maps.iter().map(|m| m.def.name.as_str()).collect();
    assert_eq!(names, ["flows", "counters", "hidden"]);
    let flows = object.map("flows").unwrap();
    assert_eq!(flows.origin, MapOrigin::Legacy);
    assert_eq!(flows.def.kind, MapType::Hash);
    assert_eq!((flows.def.key_size, flows.def.value_size), (12, 8));
    assert_eq!(flows.def.max_entries, 1000);
    assert_eq!(flows.def.flags, MapFlags::NO_PREALLOC);

    let count = object.program("count").unwrap();
    assert_eq!(count.section, "xdp_prog1");
    assert_eq!(count.kind, ProgramKind::Xdp { frags: false });
    assert_eq!(maps_used(&object, count), ["counters", "hidden", "flows"]);
    assert!(count.lines.is_empty());
}

#[test]
fn inner_maps_of_the_kernels_samples_are_found_by_index() {
    let object = load("legacy_samples.o");
    let outer = object.map("outer").unwrap();
    let inner = outer.def.inner.as_ref().unwrap();
    assert_eq!((inner.kind, inner.max_entries), (MapType::Array, 16));
    assert_eq!(
        object
            .map("elsewhere")
            .unwrap()
            .def
            .inner
            .as_ref()
            .unwrap()
            .name,
        "hash"
    );
    assert_eq!(object.map("near").unwrap().numa_node, Some(1));
    assert_eq!(object.map("inner").unwrap().numa_node, None);
}

#[test]
fn inner_maps_of_iproute2_are_found_by_id() {
    let object = load("legacy_iproute2.o");
    let out = object.map("out").unwrap();
    assert_eq!(out.def.inner.as_ref().unwrap().name, "in");
    assert_eq!(out.pinning, Pinning::ByName);
    let values = [InitialValue {
        index: 2,
        target: InitialTarget::Map("in".into()),
    }];
    assert_eq!(out.values, values);
    let late = object.map("late").unwrap();
    assert_eq!(late.def.inner.as_ref().unwrap().name, "late_in");
    assert_eq!(late.values, [], "-1 is no index");
    assert_eq!(object.map("jmp").unwrap().pinning, Pinning::ByObject);
    assert_eq!(object.program("prog").unwrap().kind, ProgramKind::Tc);
}

#[test]
fn initial_values_name_maps_and_programs() {
    let object = load("btf_maps.o");
    let entry = |index, name: &str| InitialValue {
        index,
        target: InitialTarget::Map(name.into()),
    };
    assert_eq!(
        object.map("outer").unwrap().values,
        [entry(1, "inner_b"), entry(3, "inner_a")]
    );
    assert_eq!(
        object.map("jumps").unwrap().values,
        [InitialValue {
            index: 2,
            target: InitialTarget::Program("second".into())
        }]
    );
    let inner = object.map("by_addr").unwrap().def.inner.clone().unwrap();
    assert_eq!(inner.name, "by_addr.inner");
    assert_eq!((inner.key_size, inner.value_size), (4, 1));
    assert_eq!(object.map("bloom").unwrap().def.extra, 5);
    assert_eq!(object.map("sized").unwrap().numa_node, Some(0));
    assert_eq!(object.map("sessions").unwrap().pinning, Pinning::ByName);
}

#[test]
fn key_and_value_types_lead_to_their_members() {
    let object = load("btf_maps.o");
    let btf = object.btf.as_ref().unwrap();
    let sessions = object.map("sessions").unwrap();
    let key = sessions.key_type.unwrap();
    assert_eq!(btf.type_name(key), "key");
    assert_eq!(btf.size_of(key), Ok(20));
    assert_eq!(btf.member(key, "port").unwrap().bit_offset, 128);
    let value = sessions.value_type.unwrap();
    assert_eq!(btf.type_name(value), "stats_t");
    assert_eq!(btf.members(value).unwrap().len(), 2);
    assert_eq!(btf.member(value, "bytes").unwrap().bit_offset, 64);
    assert_eq!(btf.member(value, "absent"), None);
}

#[test]
fn tail_calls_of_iproute2_follow_the_names_of_sections() {
    let object = load("legacy_tails.o");
    let entry = |index, name: &str| InitialValue {
        index,
        target: InitialTarget::Program(name.into()),
    };
    assert_eq!(
        object.map("jumps").unwrap().values,
        [entry(2, "second"), entry(3, "third")]
    );
    for name in ["entry", "second", "elsewhere"] {
        let kind = &object.program(name).unwrap().kind;
        assert_eq!(*kind, ProgramKind::Xdp { frags: false }, "{name}");
    }
    let counters = object.map("counters").unwrap();
    assert_eq!(counters.pinning, Pinning::ByName);
    let btf = object.btf.as_ref().unwrap();
    assert_eq!(btf.type_name(counters.value_type.unwrap()), "counter");
    // An annotation of other sizes than the map's is passed over.
    assert_eq!(object.map("untyped").unwrap().value_type, None);
}

#[test]
fn definitions_of_early_samples_and_gobpf_are_understood() {
    let object = load("legacy_early.o");
    let outer = object.map("outer").unwrap();
    assert_eq!(outer.def.inner.as_ref().unwrap().name, "inner");
    assert_eq!(object.map("events").unwrap().pinning, Pinning::ByName);
    assert_eq!(object.kern_version, 263_680);
    assert_eq!(object.program("early").unwrap().func_info(), []);
}

#[test]
fn locks_and_timers_in_values_are_found_by_their_types() {
    let object = load("fields.o");
    let flows = object.map("flows").unwrap().def.fields;
    assert_eq!((flows.spin_lock, flows.timer), (Some(8), Some(24)));
    let by_tenant = object.map("by_tenant").unwrap();
    assert_eq!(by_tenant.def.inner.as_ref().unwrap().fields, flows);
    assert!(by_tenant.def.fields.is_empty() && by_tenant.inner_value_type.is_some());
    let guarded = object.map(".data.guarded").unwrap().def.fields;
    assert_eq!((guarded.spin_lock, guarded.timer), (Some(0), None));
}

#[test]
fn loaders_fill_in_sizes_that_objects_leave_out() {
    let object = load("fields.o");
    let entries = |name: &str| sized(&object.map(name).unwrap().def, 6, 4096).max_entries;
    assert_eq!(entries("events"), 6);
    assert_eq!(entries("ring"), 8192);
    assert_eq!(entries("flows"), 16);
    // What is too large to be rounded is for the engine to refuse.
    let mut ring = object.map("ring").unwrap().def.clone();
    ring.max_entries = u32::MAX;
    assert_eq!(sized(&ring, 1, 4096).max_entries, u32::MAX);
}

#[test]
fn pinning_is_what_the_object_says() {
    let object = load("pins.o");
    let pinning = |name: &str| object.map(name).unwrap().pinning;
    assert_eq!(pinning("seen"), Pinning::ByName);
    assert_eq!(pinning("fresh"), Pinning::Replace);
    assert_eq!(pinning("own"), Pinning::None);
    let unnamed = &object.program("unnamed").unwrap().kind;
    assert_eq!(*unnamed, ProgramKind::Unknown("frontend".into()));
    assert_eq!(object.identity, load("pins.o").identity);
    assert_ne!(object.identity, load("data.o").identity);
}

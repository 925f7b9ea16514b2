//! What the loader makes of each form of map, variable, function and section.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use squalus_isa::{CallTarget, ImmSource, Inst, MapFlags, MapType, decode};
use squalus_object::btf::Btf;
use squalus_object::{
    HostConfig, InitialTarget, InitialValue, MapOrigin, Object, ObjectError, POISON_HELPER,
    Pinning, Program, ProgramKind, XdpAttach, sized,
};

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    fs::read(path.join(name)).unwrap()
}

fn load(name: &str) -> Object {
    Object::parse(&bytes(name)).unwrap()
}

/// Names of the maps a program refers to, in the order of its instructions.
fn maps_used<'o>(object: &'o Object, program: &Program) -> Vec<&'o str> {
    decode(&program.insns)
        .unwrap()
        .iter()
        .filter_map(|d| match d.inst {
            Inst::LoadImm {
                imm: ImmSource::Map(map) | ImmSource::MapValue { map, .. },
                ..
            } => Some(object.maps[map as usize].def.name.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn every_accepted_program_decodes() {
    for name in [
        "legacy.o",
        "legacy_samples.o",
        "legacy_iproute2.o",
        "btf_maps.o",
        "data.o",
        "calls.o",
        "sections.o",
        "core.o",
        "kconfig.o",
        "ksyms.o",
        "legacy_tails.o",
        "legacy_early.o",
        "fields.o",
        "pins.o",
        "struct_ops.o",
    ] {
        for program in &load(name).programs {
            decode(&program.insns).unwrap_or_else(|e| panic!("{name} {}: {e}", program.name));
        }
    }
}

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
fn members_of_anonymous_unions_are_found_through_them() {
    let object = load("core_target.o");
    let btf = object.btf.as_ref().unwrap();
    let outer = btf.find_composite("outer").unwrap();
    assert_eq!(btf.member(outer, "left").unwrap().bit_offset, 20 * 8);
    let bits = btf.member(outer, "bits").unwrap();
    assert_eq!((bits.bit_offset % 64, bits.bit_width), (20, 5));
}

#[test]
fn data_sections_are_maps_with_their_contents() {
    let object = load("data.o");
    let rodata = object.map(".rodata").unwrap();
    assert!(rodata.frozen && rodata.def.flags.contains(MapFlags::RDONLY_PROG));
    assert_eq!(rodata.origin, MapOrigin::Data);
    assert_eq!(rodata.def.kind, MapType::Array);
    let initial = rodata.initial.as_ref().unwrap();
    assert_eq!(initial[..4], 7u32.to_le_bytes());
    assert_eq!(initial[4..10], [1, 2, 3, 4, 5, 6]);

    let data = object.map(".data").unwrap();
    assert!(!data.frozen);
    assert_eq!(data.initial.as_ref().unwrap()[32..40], 40u64.to_le_bytes());
    let bss = object.map(".bss").unwrap();
    assert_eq!(bss.initial.as_deref(), Some(&[0; 14][..]));
    let literals = object.map(".rodata.str1.1").unwrap();
    assert_eq!(
        literals.initial.as_deref(),
        Some(&b"abcdefg\0hijklmn\0"[..])
    );
    for name in [".data.mine", ".rodata.sel", ".bss.cold"] {
        assert_eq!(object.map(name).unwrap().def.value_size, 4, "{name}");
    }
}

#[test]
fn addresses_of_variables_include_their_addends() {
    let object = load("data.o");
    let sum = object.program("sum").unwrap();
    let offsets: Vec<_> = decode(&sum.insns)
        .unwrap()
        .iter()
        .filter_map(|d| match d.inst {
            Inst::LoadImm {
                imm: ImmSource::MapValue { map, offset },
                ..
            } => Some((object.maps[map as usize].def.name.as_str(), offset)),
            _ => None,
        })
        .collect();
    // Statics are relocated against their section, with their offset as the addend.
    assert!(offsets.contains(&(".data", 32)), "{offsets:?}");
    assert!(offsets.contains(&(".bss", 8)), "{offsets:?}");
    assert!(offsets.contains(&(".rodata.str1.1", 8)), "{offsets:?}");
}

#[test]
fn variables_can_be_set_by_name_before_loading() {
    let mut object = load("data.o");
    object.set_global("limit", &9u32.to_le_bytes()).unwrap();
    object.set_global("mac", &[6; 6]).unwrap();
    object.set_global("small", &[1; 6]).unwrap();
    let rodata = object.map(".rodata").unwrap().initial.as_ref().unwrap();
    assert_eq!(rodata[..10], [9, 0, 0, 0, 6, 6, 6, 6, 6, 6]);
    let bss = object.map(".bss").unwrap().initial.as_ref().unwrap();
    assert_eq!(bss[8..], [1; 6]);
    let limit = object.global("limit").unwrap();
    assert_eq!(
        (limit.section.as_str(), limit.offset, limit.size),
        (".rodata", 0, 4)
    );
}

#[test]
fn variables_have_their_types() {
    let object = load("data.o");
    let btf = object.btf.as_ref().unwrap();
    for global in object.globals() {
        let ty = global.ty.unwrap();
        assert_eq!(btf.size_of(ty), Ok(global.size as u64), "{}", global.name);
    }
    let section = object.map(".rodata").unwrap().value_type.unwrap();
    assert_eq!(btf.type_name(section), ".rodata");
}

#[test]
fn wrong_names_and_sizes_of_variables_are_refused_and_change_nothing() {
    let mut object = load("data.o");
    let before = object.map(".rodata").unwrap().initial.clone();
    assert_eq!(
        object.set_global("limit", &[1; 8]).unwrap_err().to_string(),
        "variable `limit` in `.rodata` has 4 bytes, the value given has 8"
    );
    let unknown = object.set_global("limits", &[1; 4]).unwrap_err();
    assert!(matches!(unknown, ObjectError::NoGlobal { .. }));
    assert!(
        unknown.to_string().contains("limit, mac, hits"),
        "{unknown}"
    );
    assert_eq!(object.map(".rodata").unwrap().initial, before);
}

#[test]
fn subprograms_are_linked_into_each_program_that_reaches_them() {
    let object = load("calls.o");
    let functions = |name: &str| -> Vec<String> {
        let program = object.program(name).unwrap();
        program
            .subprograms
            .iter()
            .map(|s| s.name.to_string())
            .collect()
    };
    assert_eq!(functions("one"), ["one", "shared", "twice", "leaf"]);
    assert_eq!(functions("two"), ["two", "tick", "leaf"]);
    assert_eq!(functions("three"), ["three", "shared", "twice", "leaf"]);
    assert_eq!(functions("alone"), ["alone"]);

    let two = object.program("two").unwrap();
    let tick = two.subprograms[1].start;
    let decoded = decode(&two.insns).unwrap();
    assert!(decoded.iter().any(|d| matches!(
        d.inst,
        Inst::LoadImm { imm: ImmSource::Func(target), .. } if target == tick
    )));
    for program in &object.programs {
        let starts: Vec<_> = program.subprograms.iter().map(|s| s.start).collect();
        for d in decode(&program.insns).unwrap() {
            if let Inst::Call(CallTarget::Local(target)) = d.inst {
                assert!(starts.contains(&target), "{} slot {}", program.name, d.slot);
            }
        }
    }
}

#[test]
fn source_lines_follow_the_code_they_belong_to() {
    let object = load("calls.o");
    let three = object.program("three").unwrap();
    for subprogram in &three.subprograms {
        let line = three.line(subprogram.start).unwrap();
        assert!(line.file.ends_with("calls.c"), "{line:?}");
        assert_eq!(three.subprogram(subprogram.start), Some(subprogram));
    }
    let leaf = three.subprograms.last().unwrap();
    let text: Vec<_> = (leaf.start..three.insns.len())
        .filter_map(|slot| three.line(slot))
        .map(|l| l.text.to_string())
        .collect();
    assert!(text.iter().any(|t| t == "return x * 3 + seed;"), "{text:?}");
    assert_eq!(three.line(three.insns.len()), None);
}

#[test]
fn section_names_of_all_times_are_understood() {
    let object = load("sections.o");
    let kind = |name: &str| object.program(name).unwrap().kind.clone();
    for name in ["plain", "slashed", "devmap", "old", "dashed", "optional"] {
        assert_eq!(kind(name), ProgramKind::Xdp { frags: false }, "{name}");
    }
    for name in ["fragments", "fragments_cpumap"] {
        assert_eq!(kind(name), ProgramKind::Xdp { frags: true }, "{name}");
    }
    assert_eq!(kind("traffic"), ProgramKind::Tc);
    assert_eq!(kind("classify"), ProgramKind::Tc);
    assert_eq!(kind("probe"), ProgramKind::Other("kprobe".into()));
    assert_eq!(kind("tail"), ProgramKind::Xdp { frags: false });
    assert!(!object.program("optional").unwrap().autoload);
    assert!(object.program("plain").unwrap().autoload);
}

#[test]
fn what_only_the_kernel_has_is_refused_by_name() {
    let object = load("sections.o");
    for (program, culprit) in [
        (
            "dangling",
            "`missing` (./sections.c:35), which the object does not define",
        ),
        ("replacement", "(freplace)"),
    ] {
        assert!(object.program(program).is_none());
        let error = object.require_program(program).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{program}` (section")),
            "{error}"
        );
        assert!(error.contains(culprit), "{error}");
    }
    assert_eq!(object.refused.len(), 2);
    let error = object.require_program("nothing").unwrap_err();
    assert!(matches!(error, ObjectError::NoProgram { .. }));
}

#[test]
fn core_without_a_target_is_refused_and_changes_nothing() {
    let mut object = load("core.o");
    let before = object.program("ask").unwrap().insns.clone();
    let error = object.relocate_core(None).unwrap_err().to_string();
    assert_eq!(
        error,
        "program `ask`, instruction 0: CO-RE relocation offset of `outer`.first: it needs the types of the kernel; give its BTF (/sys/kernel/btf/vmlinux)"
    );
    assert_eq!(object.program("ask").unwrap().insns, before);
    assert!(object.needs_core());
}

#[test]
fn types_of_the_target_that_disagree_are_refused_and_nothing_changes() {
    let mut object = load("core.o");
    let before: Vec<_> = object.programs.iter().map(|p| p.insns.clone()).collect();
    // The object's own BTF has `outer` and `outer___flavored`, of different sizes.
    let own = object.btf.clone();
    let error = object.relocate_core(own.as_ref()).unwrap_err().to_string();
    assert!(
        error.ends_with("CO-RE relocation size of type `outer`: several types of the target have this name and disagree"),
        "{error}"
    );
    let after: Vec<_> = object.programs.iter().map(|p| p.insns.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn poisoned_instructions_call_a_helper_that_does_not_exist() {
    let mut object = load("core.o");
    let target = load("core_target.o").btf;
    object.relocate_core(target.as_ref()).unwrap();
    let guarded = object.program("guarded").unwrap();
    let (slot, _) = guarded.poisoned[0];
    let decoded = decode(&guarded.insns).unwrap();
    let poison = decoded.iter().find(|d| d.slot == slot).unwrap();
    assert!(matches!(poison.inst, Inst::Call(CallTarget::Helper(id)) if id.0 == POISON_HELPER));
}

#[test]
fn objects_without_core_need_no_target() {
    let mut object = load("calls.o");
    assert!(!object.needs_core());
    object.relocate_core(None).unwrap();
}

#[test]
fn files_that_are_no_bpf_objects_are_named_for_what_they_are() {
    let error = |bytes: &[u8]| Object::parse(bytes).unwrap_err().to_string();
    assert!(error(b"").starts_with("not an eBPF object: no ELF file"));
    assert!(error(b"#!/bin/sh").starts_with("not an eBPF object: no ELF file"));

    let mut foreign = bytes("legacy.o");
    foreign[18] = 62;
    assert!(error(&foreign).contains("machine 62"));
    let mut big = bytes("legacy.o");
    big[5] = 2;
    big.swap(18, 19);
    assert_eq!(Object::parse(&big).unwrap_err(), ObjectError::BigEndian);
}

#[test]
fn a_btf_map_without_btf_says_how_to_get_it() {
    let mut stripped = bytes("btf_maps.o");
    let at = stripped
        .windows(5)
        .position(|w| w == b".BTF\0")
        .expect("the section's name");
    stripped[at + 1] = b'_';
    let error = Object::parse(&stripped).unwrap_err().to_string();
    assert_eq!(
        error,
        "section `.maps`: its maps are described by BTF, which the object lacks; compile with -g"
    );
}

#[test]
fn a_file_cut_short_says_so() {
    let whole = bytes("legacy.o");
    let error = Object::parse(&whole[..whole.len() / 2]).unwrap_err();
    assert!(matches!(error, ObjectError::NotBpf(_)), "{error}");
}

#[test]
fn the_running_kernels_types_can_be_read() {
    let Ok(bytes) = fs::read("/sys/kernel/btf/vmlinux") else {
        eprintln!("SKIPPED: this kernel has no /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::from_sysfs_bytes(&bytes).unwrap();
    let list = btf.find_composite("list_head").unwrap();
    assert_eq!(btf.size_of(list), Ok(16));
    assert_eq!(btf.member(list, "prev").unwrap().bit_offset, 64);
    let context = btf.find_composite("xdp_md").unwrap();
    assert_eq!(btf.member(context, "data_end").unwrap().bit_offset, 32);
}

#[test]
fn without_section_names_exported_functions_are_programs() {
    let object = load("text.o");
    let names: Vec<_> = object.programs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["pass", "compute"]);
    let compute = object.program("compute").unwrap();
    assert_eq!(compute.kind, ProgramKind::Unknown(".text".into()));
    assert_eq!(compute.subprograms.len(), 2);
}

/// A kernel with a few options set.
fn host() -> HostConfig {
    let mut host = HostConfig::new(HostConfig::version_of("6.1.2").unwrap());
    host.add_options(
        "CONFIG_HZ=250\nCONFIG_BPF_SYSCALL=y\nCONFIG_BPF_JIT=m\nCONFIG_NET=y\nCONFIG_DEFAULT_HOSTNAME=\"(none)\"\n",
    );
    host
}

#[test]
fn configuration_values_are_a_read_only_map() {
    let mut object = load("kconfig.o");
    assert!(object.needs_config());
    object.resolve_config(&host()).unwrap();
    assert!(!object.needs_config());
    let map = object.map(".kconfig").unwrap();
    assert!(map.frozen && map.def.flags.contains(MapFlags::RDONLY_PROG));
    let ty = map.value_type.unwrap();
    assert_eq!(object.btf.as_ref().unwrap().type_name(ty), ".kconfig");
    // Largest alignment first, then by size, then by name.
    let mut want = 250u64.to_le_bytes().to_vec();
    want.extend(2u32.to_le_bytes()); // CONFIG_BPF_JIT, a tristate
    want.extend([0; 4]); // CONFIG_NO_SUCH_THING
    want.extend((6u32 << 16 | 1 << 8 | 2).to_le_bytes());
    want.extend([0; 2]); // LINUX_NO_SUCH_THING
    want.extend([1, b'y', 1]); // CONFIG_BPF_SYSCALL, CONFIG_NET, LINUX_HAS_BPF_COOKIE
    want.extend(b"(none)\0\0");
    assert_eq!(map.initial.as_deref(), Some(&want[..]));
}

#[test]
fn programs_that_need_other_configuration_are_refused_by_name() {
    let mut object = load("kconfig.o");
    let mut other = HostConfig::new(HostConfig::version_of("5.4.0").unwrap());
    other.set_option("CONFIG_BPF_SYSCALL", "m");
    object.resolve_config(&other).unwrap();
    let names: Vec<_> = object.programs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["version", "absent"]);
    let error = object.require_program("options").unwrap_err().to_string();
    assert!(
        error.contains(
            "`CONFIG_HZ` of the kernel's configuration: the kernel's configuration does not set it"
        ),
        "{error}"
    );
}

#[test]
fn nothing_runs_on_configuration_that_nobody_looked_up() {
    let mut object = load("kconfig.o");
    let error = object.refuse_unresolved().unwrap_err().to_string();
    assert!(error.contains("resolve_config"), "{error}");
    let mut object = load("data.o");
    object.refuse_unresolved().unwrap();
    assert!(object.refused.is_empty());
}

#[test]
fn kernel_functions_stay_symbolic_until_the_kernel_is_known() {
    let object = load("ksyms.o");
    let calls = |name: &str| -> Vec<(String, bool)> {
        decode(&object.program(name).unwrap().insns)
            .unwrap()
            .iter()
            .filter_map(|d| match d.inst {
                Inst::Call(CallTarget::Kfunc(at)) => {
                    let kfunc = &object.kfuncs[at as usize];
                    Some((kfunc.name.clone(), kfunc.weak))
                }
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        calls("hash"),
        [("bpf_xdp_metadata_rx_hash".to_owned(), true)]
    );
    assert_eq!(calls("maybe").len(), 2);
    assert_eq!(
        calls("required"),
        [("bpf_xdp_required_and_missing".to_owned(), false)]
    );
    let error = object.require_program("variable").unwrap_err().to_string();
    assert!(error.contains("`required_variable`"), "{error}");
}

#[test]
fn kernel_functions_get_the_numbers_of_the_kernels_types() {
    let mut object = load("ksyms.o");
    // The object's own BTF stands in for a kernel that has all but two functions.
    let mut kernel = load("sections.o");
    let kernel = kernel.btf.take().unwrap();
    object.resolve_kfuncs(&kernel).unwrap();
    assert!(object.kfuncs.is_empty());
    let number = kernel.find("bpf_xdp_metadata_rx_hash", |k| {
        matches!(k, squalus_object::btf::Kind::Func { .. })
    });
    let hash = object.program("hash").unwrap();
    let called = |program: &Program| -> Vec<CallTarget> {
        let decoded = program.insns.iter().filter(|i| i.op == 0x85);
        decoded
            .map(|i| match i.src {
                2 => CallTarget::Kfunc(i.imm),
                _ => CallTarget::Helper(squalus_isa::HelperId(i.imm.cast_unsigned())),
            })
            .collect()
    };
    let id = number.unwrap().0.cast_signed();
    assert_eq!(called(hash), [CallTarget::Kfunc(id)]);
    let address = hash.insns.iter().find(|i| i.op == 0x18).unwrap();
    assert_eq!((address.src, address.imm), (3, id));
    let poison = CallTarget::Helper(squalus_isa::HelperId(POISON_HELPER));
    assert_eq!(called(object.program("maybe").unwrap()), [poison, poison]);
    let error = object.require_program("required").unwrap_err().to_string();
    assert!(
        error.contains("`bpf_xdp_required_and_missing` of the kernel"),
        "{error}"
    );
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
fn programs_tell_the_kernel_where_and_how_they_run() {
    let object = load("fields.o");
    let out = object.program("out").unwrap();
    assert_eq!(out.attach, XdpAttach::DevMap);
    assert_eq!((out.attach.attach_type(), out.prog_flags()), (33, 1 << 5));
    let names: Vec<_> = out.subprograms.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["out", "replaceable", "helper"]);
    assert_eq!(out.func_info().len(), 3 * 8);
    assert_eq!(out.line_info().len(), 16 * out.lines.len());
}

#[test]
fn types_for_the_kernel_have_sizes_offsets_and_definitions() {
    use squalus_object::btf::{BtfFeatures, Kind, Linkage};
    let object = load("fields.o");
    let written = object.kernel_btf(BtfFeatures::ALL).unwrap().unwrap();
    let written = Btf::parse(&written).unwrap();
    let section = |name: &str| {
        let (id, vars) = written.section(name).unwrap();
        let end = vars.iter().map(|v| v.offset + v.size).max();
        (written.size_of(id).unwrap(), end.unwrap())
    };
    assert_eq!(section(".data.guarded"), (16, 16));
    assert_eq!(section(".bss"), (8, 8));
    let linkage = |name: &str| {
        let id = written
            .find(name, |k| matches!(k, Kind::Func { .. }))
            .unwrap();
        match written.get(id).unwrap().kind {
            Kind::Func { linkage, .. } => linkage,
            _ => unreachable!("it was found as a function"),
        }
    };
    // Hidden functions are verified with their callers.
    assert_eq!(linkage("helper"), Linkage::Static);
    assert_eq!(linkage("replaceable"), Linkage::Global);

    let object = load("ksyms.o");
    let written = object.kernel_btf(BtfFeatures::ALL).unwrap().unwrap();
    let written = Btf::parse(&written).unwrap();
    let externs = written.types().filter(|(_, t)| {
        matches!(
            t.kind,
            Kind::Func {
                linkage: Linkage::Extern,
                ..
            } | Kind::Var {
                linkage: Linkage::Extern,
                ..
            }
        )
    });
    assert_eq!(externs.count(), 0);
}

#[test]
fn types_for_old_kernels_keep_their_numbers() {
    use squalus_object::btf::{BtfFeatures, Kind};
    for name in ["btf_maps.o", "core.o", "data.o", "ksyms.o", "kconfig.o"] {
        let object = load(name);
        let own = object.btf.as_ref().unwrap();
        let written = object.kernel_btf(BtfFeatures::OLDEST).unwrap().unwrap();
        let written = Btf::parse(&written).unwrap();
        assert!(written.len() > own.len());
        for (id, ty) in own.types() {
            let new = written.get(id).unwrap();
            assert!(!matches!(
                new.kind,
                Kind::Func { .. }
                    | Kind::FuncProto { .. }
                    | Kind::Var { .. }
                    | Kind::DataSec { .. }
            ));
            if let Kind::Composite { .. } | Kind::Array { .. } = ty.kind {
                assert_eq!(*new, *ty, "{name} {id}");
            }
        }
    }
}

#[test]
fn implementations_of_kernel_interfaces_are_refused_beside_programs_that_load() {
    let object = load("struct_ops.o");
    assert!(object.program("pass").is_some());
    let refused: Vec<_> = object.refused.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(refused, ["begin", "control"]);
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

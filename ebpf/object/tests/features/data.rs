//! Variables: sections that are maps, and values set by name.

use squalus_isa::{ImmSource, Inst, MapFlags, MapType, decode};
use squalus_object::{MapOrigin, ObjectError};

use crate::load;

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

//! BTF: the kernel's, and what is written for kernels.

use std::fs;

use squalus_object::btf::{Btf, BtfFeatures, Kind, Linkage};

use crate::load;

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
fn types_for_the_kernel_have_sizes_offsets_and_definitions() {
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

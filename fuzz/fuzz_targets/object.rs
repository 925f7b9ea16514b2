//! The loader on arbitrary bytes: parse, decode, set variables, relocate.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use squalus_isa::decode;
use squalus_object::Object;
use squalus_object::btf::Btf;

/// Types to relocate against, other than the object's own.
static TARGET: LazyLock<Btf> = LazyLock::new(|| {
    let object = include_bytes!("../../ebpf/object/tests/objects/core_target.o");
    Object::parse(object)
        .expect("the target is a committed test object")
        .btf
        .expect("it was compiled with BTF")
});

fuzz_target!(|bytes: &[u8]| {
    let _ = Btf::parse(bytes);
    let Ok(mut object) = Object::parse(bytes) else {
        return;
    };
    check(&object);
    for global in object.globals().to_vec() {
        // Static variables may share a name; then it is refused.
        let _ = object.set_global(&global.name, &vec![0xff; global.size]);
    }
    if object.needs_core() {
        let own = object.btf.clone();
        let _ = object.clone().relocate_core(None);
        let _ = object.clone().relocate_core(own.as_ref());
        let _ = object.relocate_core(Some(&TARGET));
        check(&object);
    }
});

/// What engines rely on in every object.
fn check(object: &Object) {
    assert!(!object.programs.is_empty());
    for map in &object.maps {
        if let Some(initial) = &map.initial {
            assert_eq!(initial.len(), map.def.value_size as usize);
        }
    }
    for program in &object.programs {
        let _ = decode(&program.insns);
        assert_eq!(program.subprograms.first().map(|s| s.start), Some(0));
        assert!(program.subprograms.is_sorted_by(|a, b| a.start < b.start));
        assert!(program.lines.is_sorted_by(|a, b| a.slot < b.slot));
        for line in &program.lines {
            assert_eq!(program.line(line.slot), Some(line));
        }
    }
}

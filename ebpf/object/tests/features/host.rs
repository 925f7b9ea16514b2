//! What depends on the kernel that the object meets: CO-RE, configuration, kernel functions.

use squalus_isa::{CallTarget, Inst, MapFlags, decode};
use squalus_object::{HostConfig, POISON_HELPER, Program};

use crate::load;

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

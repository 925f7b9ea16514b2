//! Objects that ask for the running kernel's types.

use squalus_object::Object;
use squalus_object::btf::Btf;

use crate::VmError;

/// Where the kernel shows its types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Resolves the object's CO-RE relocations against the running kernel, as a loader into that kernel does. An
/// object without any is returned as it is, and the kernel is not looked at.
///
/// # Errors
/// If the object needs the kernel's types and they can't be read, or don't fit.
pub fn for_host(mut object: Object) -> Result<Object, VmError> {
    if object.needs_core() {
        let failed = |reason: String| VmError::Types {
            file: KERNEL_TYPES,
            reason,
        };
        let bytes = std::fs::read(KERNEL_TYPES).map_err(|error| failed(error.to_string()))?;
        let types = Btf::from_sysfs_bytes(&bytes).map_err(|error| failed(error.to_string()))?;
        object
            .relocate_core(Some(&types))
            .map_err(|error| failed(error.to_string()))?;
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str) -> Object {
        let file = format!(
            "{}/../object/tests/objects/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        Object::parse(&std::fs::read(file).unwrap()).unwrap()
    }

    #[test]
    fn relocations_are_resolved_once() {
        if !std::path::Path::new(KERNEL_TYPES).exists() {
            eprintln!("SKIPPED: this kernel does not show its types in {KERNEL_TYPES}");
            return;
        }
        let object = load("core.o");
        assert!(object.needs_core());
        assert!(!for_host(object).unwrap().needs_core());
    }

    #[test]
    fn without_relocations_nothing_changes() {
        let object = load("data.o");
        let before = object.programs[0].insns.clone();
        assert_eq!(for_host(object).unwrap().programs[0].insns, before);
    }
}

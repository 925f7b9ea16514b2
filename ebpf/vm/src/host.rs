//! Objects that ask for the running kernel.

use squalus_object::Object;

use crate::VmError;

/// Fits the object to the running kernel, as a loader into that kernel does: its CO-RE relocations and
/// `.kconfig` externs are resolved ([`Object::fit_to_host`]). An object without any is returned as it is, and the
/// kernel is not looked at.
///
/// # Errors
/// If the object needs what the kernel does not show, or does not have.
pub fn for_host(mut object: Object) -> Result<Object, VmError> {
    object.fit_to_host()?;
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
        if !std::path::Path::new(squalus_object::host::TYPES).exists() {
            eprintln!("SKIPPED: this kernel does not show its types");
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

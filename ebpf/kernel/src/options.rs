//! What a caller may change of an object before it is loaded.

use std::path::PathBuf;

use squalus_isa::MapDef;
use squalus_object::Object;

use crate::KernelError;

/// Changes to an object before loading. The default loads it as it is.
///
/// Every name must exist in the object: a misspelt switch is an error, not a default.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// New contents of global variables (in `.rodata`, the constants that switch features), as many
    /// bytes as the variable has.
    pub globals: Vec<(String, Vec<u8>)>,
    /// New sizes of maps.
    pub max_entries: Vec<(String, u32)>,
    /// For maps of maps: inner maps are like this, not as the object declares.
    ///
    /// The kernel accepts only inner maps of the same type, key size, value size and flags as the
    /// prototype given when the outer map is created. Whoever wants inner maps on a NUMA node, or of
    /// another type than declared (katran's `global_lru_maps`), states it here.
    pub inner: Vec<(String, MapDef)>,
    /// Load these programs only, and those that their program arrays are initialised with. Empty: all XDP
    /// programs that load by themselves. A program named here is loaded for XDP whatever its section.
    pub only: Vec<String>,
    /// Directory in a bpf file system for maps that the object itself wants shared by name
    /// (`LIBBPF_PIN_BY_NAME`). Maps pinned there under their full name are taken as they are (if they fit the
    /// object); the others are created and pinned.
    pub shared: Option<PathBuf>,
    /// The same for all other maps, and for these too if `shared` is not given. Data sections stay private.
    /// Without either nothing is pinned, whatever the object declares.
    pub pin: Option<PathBuf>,
    /// Number of an interface: programs and maps are for its hardware and go to its driver.
    pub offload: Option<u32>,
}

impl LoadOptions {
    /// Changes the object.
    pub(crate) fn apply(&self, object: &mut Object) -> Result<(), KernelError> {
        for (name, bytes) in &self.globals {
            object.set_global(name, bytes)?;
        }
        for (name, entries) in &self.max_entries {
            map(object, name)?.max_entries = *entries;
        }
        for (name, prototype) in &self.inner {
            let def = map(object, name)?;
            if !def.kind.is_map_in_map() {
                return Err(KernelError::Option {
                    name: name.clone(),
                    reason: format!("it is of type {}, no map of maps", def.kind),
                });
            }
            def.inner = Some(Box::new(prototype.clone()));
        }
        Ok(())
    }
}

fn map<'o>(object: &'o mut Object, name: &str) -> Result<&'o mut MapDef, KernelError> {
    let found = object.maps.iter_mut().find(|map| map.def.name == name);
    let found = found.ok_or_else(|| KernelError::Option {
        name: name.to_owned(),
        reason: "the object has no such map".to_owned(),
    })?;
    Ok(&mut found.def)
}

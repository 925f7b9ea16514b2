//! What to load, for either backend.

use squalus_abi::consts::BALANCER_PROGRAM;
use squalus_object::Object;

use crate::error::DataplaneError;

/// What of an object to load, and with which changes. The default loads it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The program that frames go to: [`BALANCER_PROGRAM`], or the object's only one, if absent.
    pub program: Option<String>,
    /// New contents of global variables, such as the `.rodata` switches of features: as many bytes as the
    /// variable has.
    pub globals: Vec<(String, Vec<u8>)>,
    /// New numbers of entries of maps.
    pub max_entries: Vec<(String, u32)>,
}

impl LoadOptions {
    /// The object with these changes.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Result<Object, DataplaneError> {
        let failed =
            |error| DataplaneError::caused(format!("not a usable BPF object: {error}"), error);
        let mut object = Object::parse(bytes).map_err(failed)?;
        for (name, value) in &self.globals {
            object.set_global(name, value).map_err(|error| {
                DataplaneError::caused(format!("global variable `{name}`: {error}"), error)
            })?;
        }
        for (name, entries) in &self.max_entries {
            let map = object.maps.iter_mut().find(|map| map.def.name == *name);
            let map = map.ok_or_else(|| {
                DataplaneError::new(format!("the object has no map `{name}` to resize"))
            })?;
            map.def.max_entries = *entries;
        }
        Ok(object)
    }

    /// The program to run of those there are.
    pub(crate) fn choose(&self, programs: &[String]) -> Result<String, DataplaneError> {
        let has = |name: &str| programs.iter().any(|program| program == name);
        match (&self.program, programs) {
            (Some(name), _) if has(name) => Ok(name.clone()),
            (None, _) if has(BALANCER_PROGRAM) => Ok(BALANCER_PROGRAM.to_owned()),
            (None, [only]) => Ok(only.clone()),
            (Some(name), _) => Err(DataplaneError::new(format!(
                "the object has no program `{name}`; it has: {}",
                programs.join(", ")
            ))),
            (None, _) => Err(DataplaneError::new(format!(
                "the object has several programs, name one of: {}",
                programs.join(", ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balancer_is_found_and_others_must_be_named() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let default = LoadOptions::default();
        let both = names(&["xdp_root", "balancer_ingress"]);
        assert_eq!(default.choose(&both).unwrap(), "balancer_ingress");
        assert_eq!(default.choose(&names(&["decap"])).unwrap(), "decap");
        let two = names(&["a", "b"]);
        assert!(
            default
                .choose(&two)
                .unwrap_err()
                .to_string()
                .contains("a, b")
        );
        let asked = LoadOptions {
            program: Some("c".into()),
            ..LoadOptions::default()
        };
        assert!(
            asked
                .choose(&two)
                .unwrap_err()
                .to_string()
                .contains("no program `c`")
        );
    }
}

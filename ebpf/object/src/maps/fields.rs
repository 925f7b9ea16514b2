//! Fields of values that the kernel keeps for itself, found by their types.

use squalus_isa::ValueFields;

use super::map_error;
use crate::ObjectError;
use crate::btf::{Btf, Kind, TypeId};
use crate::limits::TYPE_DEPTH;

/// Fields of a value of this type. A struct within a struct counts, a union or an array does not, as in the kernel.
pub(super) fn of_value(
    btf: &Btf,
    map: &str,
    ty: Option<TypeId>,
) -> Result<ValueFields, ObjectError> {
    let mut search = Search {
        btf,
        map,
        found: ValueFields::default(),
        steps: 4096,
    };
    if let Some(ty) = ty {
        search.visit(ty, 0, TYPE_DEPTH)?;
    }
    Ok(search.found)
}

struct Search<'b> {
    btf: &'b Btf,
    map: &'b str,
    found: ValueFields,
    /// Members that may still be looked at.
    steps: usize,
}

impl Search<'_> {
    fn visit(&mut self, ty: TypeId, offset: u32, depth: usize) -> Result<(), ObjectError> {
        let resolved = self.btf.resolve(ty).map(|(id, t)| (id, &t.kind));
        let (
            Some((
                id,
                Kind::Composite {
                    union: false,
                    size,
                    members,
                },
            )),
            Some(depth),
        ) = (resolved, depth.checked_sub(1))
        else {
            return Ok(());
        };
        let (slot, name, align) = match (self.btf.type_name(id), *size) {
            ("bpf_spin_lock", ValueFields::SPIN_LOCK_SIZE) => {
                (&mut self.found.spin_lock, "bpf_spin_lock", 4)
            }
            ("bpf_timer", ValueFields::TIMER_SIZE) => (&mut self.found.timer, "bpf_timer", 8),
            _ => {
                for member in members {
                    let Some(steps) = self.steps.checked_sub(1) else {
                        return Ok(());
                    };
                    self.steps = steps;
                    let inner = offset.saturating_add(member.bit_offset / 8);
                    self.visit(member.ty, inner, depth)?;
                }
                return Ok(());
            }
        };
        let wrong = |what: String| Err(map_error(self.map, what));
        if !offset.is_multiple_of(align) {
            return wrong(format!(
                "the struct {name} in its value is not aligned to {align} bytes"
            ));
        }
        if slot.replace(offset).is_some() {
            return wrong(format!(
                "its value has two fields of struct {name}; the kernel takes one"
            ));
        }
        Ok(())
    }
}

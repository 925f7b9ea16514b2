//! What the code generator is told of memory.

use cranelift_codegen::ir::{AliasRegion, AliasRegionData, MemFlagsData};
use cranelift_frontend::FunctionBuilder;
use squalus_ssa::ir::{Function, Op, Region};

/// Kinds of memory that the code generator may take for separate.
pub(super) struct Regions {
    known: Vec<(Region, AliasRegion)>,
    /// Whether some access can be anywhere.
    anywhere: bool,
    /// Whether some value's map is not known.
    any_map: bool,
}

impl Regions {
    pub(super) fn new(function: &Function, b: &mut FunctionBuilder<'_>) -> Regions {
        let mut regions = Regions {
            known: Vec::new(),
            anywhere: false,
            any_map: false,
        };
        let mut used = Vec::new();
        for block in function.reverse_postorder() {
            for &inst in &function.block(block).insts {
                let (Op::Load { region, .. }
                | Op::Store { region, .. }
                | Op::Atomic { region, .. }) = function.value(inst).op
                else {
                    continue;
                };
                regions.anywhere |= region == Region::Any;
                regions.any_map |= region == Region::MapValue(None);
                used.push(region);
            }
        }
        for region in used {
            let Some(region) = regions.merged(region) else {
                continue;
            };
            if !regions.known.iter().any(|(known, _)| *known == region) {
                let data = AliasRegionData {
                    user_id: regions.known.len() as u32,
                    description: region.to_string().into(),
                };
                let alias = b.func.dfg.alias_regions.insert(data);
                regions.known.push((region, alias));
            }
        }
        regions
    }

    /// The region as far as it is told apart from others.
    fn merged(&self, region: Region) -> Option<Region> {
        match region {
            Region::Env | Region::Temp(_) | Region::MapIndex | Region::Counts => Some(region),
            _ if self.anywhere => None,
            Region::MapValue(_) if self.any_map => Some(Region::MapValue(None)),
            other => Some(other),
        }
    }

    /// Flags of an access that cannot fault.
    pub(super) fn flags(&self, region: Region) -> MemFlagsData {
        let merged = self.merged(region);
        let alias = self.known.iter().find(|(known, _)| Some(*known) == merged);
        MemFlagsData::new()
            .with_notrap()
            .with_alias_region(alias.map(|(_, alias)| *alias))
    }
}

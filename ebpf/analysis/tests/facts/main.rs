//! What the analysis proves, and what it must not claim.

mod findings;
mod frames;
mod loops;
mod maps;
mod packets;
mod written;

use std::sync::Arc;

use squalus_analysis::{Access, Area, Facts, analyse};
use squalus_isa::{MapDef, MapType, MemSize, opcode as o};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::LinkedProgram;
use squalus_runtime::asm::{Asm, Label, R};

fn def(kind: MapType, value_size: u32) -> MapDef {
    MapDef::new("map", kind, (4, value_size), 4)
}

fn hash(value_size: u32) -> MapDef {
    def(MapType::Hash, value_size)
}

fn link(asm: &Asm, defs: &[MapDef]) -> LinkedProgram {
    let env = MapEnv::with_seed(1, 7);
    let maps: Vec<Arc<Map>> = defs
        .iter()
        .map(|def| Map::new(def, &env).expect("the definition is valid"))
        .collect();
    LinkedProgram::new("test", &asm.finish(), maps.into(), Vec::new()).expect("the program links")
}

fn facts(asm: &Asm, defs: &[MapDef]) -> (LinkedProgram, Facts) {
    let program = link(asm, defs);
    let facts = analyse(&program).expect("the program can be right");
    (program, facts)
}

/// All memory accesses but those of the context and the stack, in order.
fn accesses(program: &LinkedProgram, facts: &Facts) -> Vec<Access> {
    (0..program.insts().len())
        .filter_map(|n| facts.inst(n)?.access)
        .filter(|access| !matches!(access, Access::Context(_) | Access::Proved(Area::Stack)))
        .collect()
}

/// r6 is the context, r7 the packet, r8 its end.
fn packet(asm: &mut Asm) {
    asm.mov(6, R(1))
        .load(MemSize::W, 7, 6, 0)
        .load(MemSize::W, 8, 6, 4);
}

/// Goes to `out` unless `bytes` bytes follow `pointer`.
fn require(asm: &mut Asm, pointer: u8, bytes: i32, out: Label) {
    asm.mov(9, R(pointer))
        .add(9, bytes)
        .jump_if(o::JGT, 9, R(8), out);
}

fn end(asm: &mut Asm, out: Label) {
    asm.bind(out).mov(0, 2).exit();
}

const PACKET: Access = Access::Proved(Area::Packet);
const CHECKED: Access = Access::Checked(Area::Packet);

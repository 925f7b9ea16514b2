//! Machine code by Cranelift.

use std::ops::Range;

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExternalName, UserExternalName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{CompiledCode, Context, Final, FinalizedRelocTarget, MachSrcLoc};
use cranelift_frontend::FunctionBuilderContext;
use squalus_ssa::ir::Function;

use crate::backend::{Backend, Code, Module, Refused};
use crate::code_map::Origin;
use crate::host;
use crate::lower;
use crate::relax::{Original, Relaxed, relax};

/// The backend that is always there.
#[derive(Clone, Copy, Debug)]
pub struct Cranelift;

// SAFETY: `lower` translates each instruction into ones with the same meaning, and Cranelift is trusted.
unsafe impl Backend for Cranelift {
    fn generate(&self, module: &Module<'_>) -> Result<Code, Refused> {
        let isa = host::isa().map_err(|error| Refused {
            func: 0,
            reason: error.to_string(),
        })?;
        let mut image = Image::default();
        let mut builder = FunctionBuilderContext::new();
        for (func, function) in module.functions.iter().enumerate() {
            image.align();
            let mut place = image.code.bytes.len()..image.code.bytes.len();
            if let Some(function) = function {
                let added = image.add(function, module, &*isa, &mut builder);
                place = added.map_err(|reason| Refused { func, reason })?;
            }
            image.code.starts.push(place.start);
            image.code.ends.push(place.end);
        }
        image.link()
    }
}

/// Bytes of a cache line. Processors fetch decoded instructions by such lines, too.
const LINE: usize = 64;
/// What functions are aligned to at least.
const STEP: usize = 16;

/// How far behind the beginning of a line a function begins best, so that few loops that fit into one line lie in
/// two: a short one would take twice as long there. The code generator knows nothing of lines.
fn best_shift(compiled: &CompiledCode) -> usize {
    let loops = short_loops(compiled);
    let split = |shift: &usize| {
        let lines = |place: usize| (place + shift) / LINE;
        let loops = loops.iter();
        loops
            .filter(|own| lines(own.start) != lines(own.end - 1))
            .count()
    };
    (0..LINE).step_by(STEP).min_by_key(split).unwrap_or(0)
}

/// Where the loops are that fit into one line.
fn short_loops(compiled: &CompiledCode) -> Vec<Range<usize>> {
    let (starts, edges) = compiled.get_code_bb_layout();
    let end_of = |block: usize| {
        let next = starts.iter().copied().filter(|start| *start > block).min();
        next.unwrap_or(compiled.buffer.data().len())
    };
    let back = edges.into_iter().filter(|(from, to)| to <= from);
    let loops = back.map(|(from, to)| to..end_of(from));
    loops.filter(|own| own.len() <= LINE).collect()
}

/// A function's machine code as it will stand in memory.
struct Placed<'a> {
    compiled: &'a CompiledCode,
    relaxed: Option<Relaxed>,
    /// How far behind the beginning of a line.
    shift: usize,
}

impl Placed<'_> {
    fn new(compiled: &CompiledCode, relax: bool) -> Placed<'_> {
        let relaxed = relax.then(|| relaxed(compiled)).flatten();
        Placed {
            compiled,
            shift: match relaxed {
                Some(_) => 0,
                None => best_shift(compiled),
            },
            relaxed,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.relaxed {
            Some(relaxed) => &relaxed.bytes,
            None => self.compiled.buffer.data(),
        }
    }

    /// Where a byte of the code generator's is.
    fn place(&self, old: usize) -> usize {
        self.relaxed
            .as_ref()
            .map_or(old, |relaxed| relaxed.place(old))
    }
}

/// The code with short jumps, where that can be made.
fn relaxed(compiled: &CompiledCode) -> Option<Relaxed> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let (mut blocks, _) = compiled.get_code_bb_layout();
    blocks.sort_unstable();
    let relocs = compiled.buffer.relocs().iter();
    let mut fixups: Vec<usize> = relocs.map(|reloc| reloc.offset as usize).collect();
    fixups.sort_unstable();
    relax(&Original {
        bytes: compiled.buffer.data(),
        blocks: &blocks,
        fixups: &fixups,
    })
}

/// Machine code of all functions, one after the other.
#[derive(Default)]
struct Image {
    code: Code,
    calls: Vec<Fixup>,
}

/// A call of another function of the program.
struct Fixup {
    caller: usize,
    at: usize,
    kind: Reloc,
    addend: i64,
    callee: usize,
}

impl Image {
    fn align(&mut self) {
        let bytes = &mut self.code.bytes;
        bytes.resize(bytes.len().next_multiple_of(LINE), 0);
    }

    /// Appends a function, and returns where its code is: constants come after it.
    fn add(
        &mut self,
        function: &Function,
        module: &Module<'_>,
        isa: &dyn TargetIsa,
        builder: &mut FunctionBuilderContext,
    ) -> Result<Range<usize>, String> {
        let caller = function.id as usize;
        let mut codegen = Context::for_function(lower::lower(function, module, isa, builder));
        if module.keep_text {
            self.code.intermediate += &format!("{}\n", codegen.func.display());
        }
        codegen
            .compile(isa, &mut ControlPlane::default())
            .map_err(|error| error.inner.to_string())?;
        let compiled = codegen.compiled_code().ok_or("no code came out")?;
        let placed = Placed::new(compiled, module.relax);
        let base = self.code.bytes.len() + placed.shift;
        self.code.bytes.resize(base, 0);
        let mut addresses = Vec::new();
        for reloc in compiled.buffer.relocs() {
            let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else {
                return Err(format!("unknown relocation {:?}", reloc.kind));
            };
            let UserExternalName { index, namespace } =
                codegen.func.params.user_named_funcs()[name].clone();
            let at = base + placed.place(reloc.offset as usize);
            if reloc.kind == Reloc::Abs8 && namespace >= lower::ADDRESS {
                let upper = u64::from(namespace - lower::ADDRESS) << 32;
                let address = (upper | u64::from(index)).wrapping_add_signed(reloc.addend);
                addresses.push((at, address));
                continue;
            }
            self.calls.push(Fixup {
                caller,
                at,
                kind: reloc.kind,
                addend: reloc.addend,
                callee: index as usize,
            });
        }
        let marks = compiled.buffer.get_srclocs_sorted();
        self.add_origins(marks, base, &placed);
        self.code.bytes.extend_from_slice(placed.bytes());
        for (at, address) in addresses {
            self.code.bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
        }
        let last = marks.last().map(|mark| placed.place(mark.end as usize));
        Ok(base..base + last.unwrap_or(placed.bytes().len()))
    }

    /// Says what the code of a function at `base` comes from. What has lost its mark comes from what is before it.
    fn add_origins(&mut self, marks: &[MachSrcLoc<Final>], base: usize, placed: &Placed<'_>) {
        let mut slot = None;
        for mark in marks {
            if !mark.loc.is_default() {
                slot = Some(mark.loc.bits()).filter(|slot| *slot != lower::NO_SLOT);
            }
            self.code.origins.extend(slot.map(|slot| Origin {
                start: base + placed.place(mark.start as usize),
                end: base + placed.place(mark.end as usize),
                slot: slot as usize,
            }));
        }
    }

    /// Writes the distances of calls between functions.
    fn link(mut self) -> Result<Code, Refused> {
        for fixup in &self.calls {
            let target = self.code.starts[fixup.callee] as i64;
            let distance = target + fixup.addend - fixup.at as i64;
            let place = &mut self.code.bytes[fixup.at..fixup.at + 4];
            let word = match fixup.kind {
                Reloc::X86CallPCRel4 | Reloc::X86PCRel4 => distance as u32,
                Reloc::Arm64Call => {
                    let old = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
                    old & !0x03ff_ffff | (distance >> 2) as u32 & 0x03ff_ffff
                }
                kind => {
                    return Err(Refused {
                        func: fixup.caller,
                        reason: format!("unknown relocation {kind:?}"),
                    });
                }
            };
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(self.code)
    }
}

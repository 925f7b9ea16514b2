//! Programs of one or a few helper calls, run everywhere.

use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::{HelperId, Insn, MapDef, MapFlags, MapType, MemSize, disassemble};
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::{MapOrigin, MapSpec, Object, Pinning};
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{EngineKind, Vm, VmBuilder};

const TEMPLATE: &[u8] = include_bytes!("template.o");
pub const PROGRAM: &str = "entry";

/// Places of the maps that every program has.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const CONST: u32 = 2;
/// Place of the first map that a test adds.
pub const FIRST: u32 = 3;
/// Length of the value of the maps for data.
pub const LEN: u32 = 2048;
/// Where in the output map results of calls are noted, from here on.
pub const RESULTS: u32 = 1024;

/// An argument of a helper.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    Ctx,
    Num(u64),
    /// A map by its place.
    Map(u32),
    /// An offset in the input map's value.
    In(u32),
    /// An offset in the output map's value.
    Out(u32),
    /// An offset in the constant map's value.
    Const(u32),
    /// An offset from the end of the stack, negative.
    Stack(i32),
    /// What call `n` returned, from 0; it must be one of the last two.
    Result(usize),
}

pub fn plain(name: &str, kind: MapType, sizes: (u32, u32), max_entries: u32) -> MapDef {
    MapDef::new(name, kind, sizes, max_entries)
}

fn spec(def: MapDef) -> MapSpec {
    MapSpec {
        def,
        origin: MapOrigin::Btf,
        initial: None,
        frozen: false,
        pinning: Pinning::None,
        numa_node: None,
        inner_key_type: None,
        inner_value_type: None,
        key_type: None,
        value_type: None,
        values: Vec::new(),
    }
}

fn data(name: &str, bytes: &[u8]) -> MapSpec {
    let mut initial = bytes.to_vec();
    initial.resize(LEN as usize, 0);
    MapSpec {
        initial: Some(initial),
        ..spec(plain(name, MapType::Array, (4, LEN), 1))
    }
}

/// A program and its maps.
pub struct Program {
    pub code: Asm,
    /// What each call does, for a failure's message.
    pub notes: Vec<String>,
    input: Vec<u8>,
    constants: Vec<u8>,
    maps: Vec<MapDef>,
}

impl Program {
    pub fn new() -> Program {
        let mut code = Asm::new();
        code.mov(6, R(1));
        Program {
            code,
            notes: Vec::new(),
            input: Vec::new(),
            constants: Vec::new(),
            maps: Vec::new(),
        }
    }

    /// Adds bytes to the input map; returns where.
    pub fn input(&mut self, bytes: &[u8]) -> Arg {
        let at = self.input.len();
        self.input.extend(bytes);
        Arg::In(at as u32)
    }

    /// Adds a constant string; returns where.
    pub fn constant(&mut self, text: &[u8]) -> Arg {
        let at = self.constants.len();
        self.constants.extend(text);
        self.constants.push(0);
        Arg::Const(at as u32)
    }

    /// Adds a map; returns its place.
    pub fn map(&mut self, def: MapDef) -> Arg {
        self.maps.push(def);
        Arg::Map(FIRST + self.maps.len() as u32 - 1)
    }

    pub fn set(&mut self, register: u8, arg: Arg) {
        let code = &mut self.code;
        match arg {
            Arg::Ctx => code.mov(register, R(6)),
            Arg::Num(number) => code.imm64(register, number),
            Arg::Map(place) => code.map(register, place),
            Arg::In(at) => code.map_value(register, IN, at),
            Arg::Out(at) => code.map_value(register, OUT, at),
            Arg::Const(at) => code.map_value(register, CONST, at),
            Arg::Stack(at) => code.mov(register, R(10)).add(register, at),
            Arg::Result(call) => code.mov(register, R(7 + (call % 2) as u8)),
        };
    }

    /// Calls a helper and notes its result.
    pub fn call(&mut self, helper: HelperId, args: &[Arg]) -> usize {
        for (n, arg) in args.iter().enumerate() {
            self.set(n as u8 + 1, *arg);
        }
        let number = self.notes.len();
        self.notes.push(format!("{helper}{args:?}"));
        let at = RESULTS + 8 * number as u32;
        let keep = 7 + (number % 2) as u8;
        self.code.call(helper).mov(keep, R(0));
        self.code.map_value(1, OUT, at);
        self.code.store(MemSize::Dw, 1, 0, R(keep));
        number
    }

    fn object(&self) -> (Object, Vec<Insn>) {
        let mut object = Object::parse(TEMPLATE).unwrap();
        let mut constants = data("const", &self.constants);
        constants.def.flags = MapFlags::RDONLY_PROG;
        constants.frozen = true;
        object.maps = vec![data("in", &self.input), data("out", &[]), constants];
        object.maps.extend(self.maps.iter().cloned().map(spec));
        let mut code = self.code.clone();
        code.mov(0, 2).exit();
        let code = code.finish();
        object.programs[0].insns.clone_from(&code);
        (object, code)
    }

    /// The program in our own engine.
    pub fn vm(&self, kind: EngineKind) -> Vm {
        let built = VmBuilder::new(self.object().0).engine(kind).build();
        built.unwrap_or_else(|error| panic!("{error}\n{}", self.listing()))
    }

    pub fn listing(&self) -> String {
        disassemble(&self.object().1).unwrap()
    }

    pub fn kernel(&self) -> KernelEngine {
        let engine = KernelEngine::load_object(self.object().0, &LoadOptions::default());
        engine.unwrap_or_else(|error| panic!("{error}\n{}", self.listing()))
    }

    /// Runs the program everywhere, after `prepare`, and compares.
    pub fn compare_after(&self, frame: &[u8], prepare: &dyn Fn(&dyn MapAccess)) -> Outcome {
        let mut kernel = self.kernel();
        prepare(&kernel);
        let want = run(&mut kernel, frame);
        for kind in [EngineKind::Interp, EngineKind::Jit] {
            let mut vm = self.vm(kind);
            prepare(&vm);
            let got = run(&mut vm, frame);
            let trap = vm.last_trap(0);
            assert!(trap.is_none(), "{}\n{}", trap.unwrap(), self.listing());
            for ((note, got), want) in self.notes.iter().zip(got.results()).zip(want.results()) {
                assert_eq!(got, want, "{kind:?}: {note}");
            }
            assert_eq!(got, want, "{kind:?}\n{}", self.listing());
        }
        want
    }

    /// Runs the program everywhere and compares.
    pub fn compare(&self) -> Outcome {
        self.compare_after(&frame(), &|_| {})
    }
}

/// What a run left.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: u32,
    pub frame: Vec<u8>,
    pub out: Vec<u8>,
}

impl Outcome {
    /// What the calls returned.
    pub fn results(&self) -> Vec<i64> {
        let results = self.out[RESULTS as usize..].as_chunks::<8>().0;
        results
            .iter()
            .map(|bytes| i64::from_ne_bytes(*bytes))
            .collect()
    }
}

pub fn run(engine: &mut dyn Engine, frame: &[u8]) -> Outcome {
    let result = engine.test_run(PROGRAM, &TestRun::once(frame)).unwrap();
    let out = engine.lookup("out".into(), &[0; 4]).unwrap().unwrap();
    Outcome {
        verdict: result.return_value,
        frame: result.frame,
        out,
    }
}

pub fn frame() -> Vec<u8> {
    (0..64u8).map(|n| n.wrapping_mul(37)).collect()
}

/// Whether the kernel can be asked; says so loudly if not.
pub fn may_use_bpf() -> bool {
    let mut code = Asm::new();
    code.mov(0, 0).exit();
    match KernelEngine::assembled(Vec::new(), vec![("probe".to_owned(), code.finish())]) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: no comparison with the kernel: {error}");
            false
        }
    }
}

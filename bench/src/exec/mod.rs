//! `squalus bench exec`: nanoseconds per packet of one object in the kernel, the interpreter and the JIT.

mod cases;
mod measure;
mod report;
mod traffic;

use anyhow::{Context, Result, ensure};
use clap::Args;
use squalus_abi::consts::BALANCER_PROGRAM;
use squalus_abi::{GlobalCounter, Layout, RealPosLru, maps::name};
use squalus_dataplane::{Controller, Offline, SessionTables, Settings};
use squalus_engine::{MapAccess, MapRef};
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;
use squalus_vm::{EngineKind, Tiering, Vm, VmBuilder};

use crate::Machine;
use crate::engines::{CodeArgs, EngineName};
pub use cases::{CASES, Case};
pub(crate) use measure::Sample;
use measure::{Measure, Pinned, Rounds};
pub use report::{Report, Row};
use traffic::Traffic;

/// Options of `squalus bench exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Numbers of sessions, each measured on its own.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,100000",
        value_name = "N"
    )]
    pub sessions: Vec<u32>,
    /// Only these cases.
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    pub cases: Vec<String>,
    /// Only these engines.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "ENGINE")]
    pub engines: Vec<EngineName>,
    /// Rounds in which the engines take turns.
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub rounds: usize,
    /// Packets a round; the interpreter runs a twentieth of it.
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    pub packets: u32,
    /// How our compiler does its work.
    #[command(flatten)]
    pub code: CodeArgs,
    /// Compile once, whatever traffic comes.
    #[arg(long)]
    pub no_tiering: bool,
    /// Keep the contents of maps out of the code.
    #[arg(long)]
    pub no_specialise: bool,
}

impl ExecArgs {
    /// The cases that are wanted.
    pub(crate) fn check(&self) -> Result<Vec<&'static Case>> {
        ensure!(
            self.rounds > 0 && self.packets > 0,
            "--rounds and --packets must be at least 1"
        );
        ensure!(
            self.sessions.iter().all(|n| *n > 0),
            "--sessions must be at least 1"
        );
        chosen_cases(&self.cases)
    }

    /// Our engine as it forwards, but for what is switched off.
    fn machine(&self, object: Object, kind: EngineKind) -> Result<Vm> {
        let tiering = if self.no_tiering {
            Tiering::Off
        } else {
            Tiering::On
        };
        let builder = self.code.apply(VmBuilder::new(object).engine(kind));
        let builder = builder.tiering(tiering).specialise(!self.no_specialise);
        let builder = builder.time_per_burst(true);
        Ok(builder.build()?)
    }
}

/// Measures `object` (named `label` in the report); `progress` hears of each step.
///
/// # Errors
/// If an engine cannot load the object, a program answers otherwise than the case demands, or sessions that
/// must be known are not.
pub fn run(args: &ExecArgs, object: &[u8], label: &str, progress: impl Fn(&str)) -> Result<Report> {
    let cases = args.check()?;
    let engines = if args.engines.is_empty() {
        EngineName::ALL.to_vec()
    } else {
        args.engines.clone()
    };
    let mut machine = Machine::observe();
    let mut rows = Vec::new();
    for case in cases {
        for &sessions in &args.sessions {
            progress(&format!("{}, {sessions} sessions", case.name));
            rows.extend(measure_case(args, object, case, sessions, &engines)?);
        }
    }
    machine.observe_after();
    Ok(Report {
        version: 2,
        object: label.to_owned(),
        machine,
        rows,
    })
}

fn chosen_cases(names: &[String]) -> Result<Vec<&'static Case>> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        CASES
            .iter()
            .find(|case| case.name == name)
            .with_context(|| format!("no case `{name}`; there are: {}", all.join(", ")))
    };
    names.iter().map(find).collect()
}

fn measure_case(
    args: &ExecArgs,
    object: &[u8],
    case: &Case,
    sessions: u32,
    engines: &[EngineName],
) -> Result<Vec<Row>> {
    let subjects = engines
        .iter()
        .map(|engine| Subject::new(args, *engine, object, case, sessions));
    let subjects = subjects.collect::<Result<Vec<_>>>()?;
    let samples = take_turns(args, &subjects, case, sessions)?;
    let rows: Vec<_> = engines.iter().zip(&samples).collect();
    let kernel = rows
        .iter()
        .find(|(engine, _)| **engine == EngineName::Kernel);
    let kernel = kernel.map(|(_, samples)| &***samples);
    let row = |(engine, samples): &(&EngineName, &Vec<Sample>)| {
        Row::new(case.name, **engine, sessions, samples, kernel)
    };
    Ok(rows.iter().map(row).collect())
}

/// Times balancers in turns; gives the rounds of each.
pub(crate) fn take_turns(
    args: &ExecArgs,
    subjects: &[Subject],
    case: &Case,
    sessions: u32,
) -> Result<Vec<Vec<Sample>>> {
    let traffic = case.traffic(sessions);
    // Only now, so that threads in the background may be elsewhere.
    let _pinned = Pinned::to_first()?;
    let runs = subjects.iter().map(|subject| Run::new(subject, &traffic));
    let mut runs = runs.collect::<Result<Vec<_>>>()?;
    for run in &mut runs {
        run.warm_up(args.packets)?;
    }
    for _ in 0..args.rounds {
        for run in &mut runs {
            run.round(args.packets)?;
        }
    }
    for run in &runs {
        run.check(case)?;
    }
    Ok(runs.into_iter().map(|run| run.samples).collect())
}

/// A balancer that is being timed.
struct Run<'a> {
    subject: &'a Subject,
    rounds: Box<dyn Rounds + 'a>,
    frames: usize,
    samples: Vec<Sample>,
}

impl<'a> Run<'a> {
    fn new(subject: &'a Subject, traffic: &'a Traffic) -> Result<Run<'a>> {
        let engine = &subject.balancer.dataplane().0;
        Ok(Run {
            subject,
            rounds: engine.rounds(BALANCER_PROGRAM, traffic)?,
            frames: traffic.len(),
            samples: Vec::new(),
        })
    }

    /// Shows every frame to the program, and more packets than a round has.
    fn warm_up(&mut self, packets: u32) -> Result<()> {
        self.rounds.warm_up(packets.max(self.frames as u32))
    }

    fn round(&mut self, packets: u32) -> Result<()> {
        // The interpreter is for truth, not for speed: fewer packets tell as much.
        let packets = match self.subject.engine {
            EngineName::Interp => packets.div_ceil(20),
            _ => packets,
        };
        self.samples.push(self.rounds.round(packets)?);
        Ok(())
    }

    /// Whether the packets took the paths that the case is about: the ring routes those it should, and no others.
    fn check(&self, case: &Case) -> Result<()> {
        let counter = |counter| self.subject.balancer.global(counter);
        let packets = counter(GlobalCounter::XdpTotalCntr)?.v1;
        let routed = counter(GlobalCounter::LruCntrs)?.v2;
        let expected = case.routed() * packets as f64;
        ensure!(
            (routed as f64 - expected).abs() <= packets as f64 / 1000.0,
            "{}: {routed} of {packets} packets were routed by the ring of the {} engine, instead of {expected:.0}: \
             sessions got lost, and the figure would be wrong",
            case.name,
            self.subject.engine.name()
        );
        Ok(())
    }
}

/// A balancer in our compiler, provisioned for a case, to look at what it does.
pub struct Prepared {
    subject: Subject,
    /// The case's frames.
    pub frames: Vec<Vec<u8>>,
}

impl Prepared {
    /// # Errors
    /// If there is no such case, or the engine cannot load the object.
    pub fn new(object: &[u8], case: &str, sessions: u32, code: CodeArgs) -> Result<Prepared> {
        let args = ExecArgs {
            sessions: vec![sessions],
            cases: vec![case.to_owned()],
            engines: Vec::new(),
            rounds: 1,
            packets: 1,
            code,
            no_tiering: false,
            no_specialise: false,
        };
        let case = args.check()?[0];
        let traffic = case.traffic(sessions);
        let frames = (0..traffic.len()).map(|n| traffic.frame(n).to_vec());
        Ok(Prepared {
            subject: Subject::new(&args, EngineName::Jit, object, case, sessions)?,
            frames: frames.collect(),
        })
    }

    /// The machine.
    ///
    /// # Panics
    /// Never: it is ours.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        let vm = self.subject.balancer.dataplane().0.vm();
        vm.expect("the subject was made for our compiler")
    }

    /// The program to run.
    #[must_use]
    pub fn program(&self) -> &'static str {
        BALANCER_PROGRAM
    }
}

/// A provisioned balancer in one engine.
pub(crate) struct Subject {
    engine: EngineName,
    balancer: Controller<Offline<Box<dyn Measure>>>,
}

impl Subject {
    /// # Errors
    /// If the engine cannot load the object, or the balancer refuses what the case needs.
    pub(crate) fn new(
        args: &ExecArgs,
        engine: EngineName,
        object: &[u8],
        case: &Case,
        sessions: u32,
    ) -> Result<Subject> {
        let loaded = load(args, engine, object)
            .with_context(|| format!("cannot load the object into {}", engine.name()))?;
        // A kernel table of N entries evicts before it holds N; with a quarter more it holds them all.
        let entries = (u64::from(sessions) * 5 / 4).max(1000);
        let settings = Settings {
            balancer: cases::config(),
            sessions: SessionTables {
                entries,
                cpus: vec![0],
            },
        };
        let mut balancer = Controller::load(Offline(loaded), settings)?;
        cases::provision(&mut balancer)?;
        let subject = Subject { engine, balancer };
        subject.fill(case, sessions)?;
        Ok(subject)
    }

    /// Puts all sessions into the table of CPU 0, as if each had sent a packet just now.
    fn fill(&self, case: &Case, sessions: u32) -> Result<()> {
        let atime = squalus_runtime::Clock::Real.now(squalus_runtime::ClockId::Monotonic);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, pos) in case.known_sessions(sessions) {
            let (pad, session) = (0, &mut values);
            append(&mut keys, &key);
            append(session, &RealPosLru { pos, pad, atime });
        }
        let table = MapRef::Inner {
            outer: name::LRU_MAPPING,
            key: &0u32.to_ne_bytes(),
        };
        Ok(self
            .balancer
            .dataplane()
            .0
            .update_batch(table, &keys, &values)?)
    }
}

fn load(args: &ExecArgs, engine: EngineName, bytes: &[u8]) -> Result<Box<dyn Measure>> {
    let mut object = Object::parse(bytes)?;
    let unlimited = u64::MAX.to_ne_bytes();
    // With the guard on new connections, a bench would measure the guard. katran's is compiled in.
    let guarded = object
        .globals()
        .iter()
        .any(|global| global.name == "max_conn_rate");
    let Some(kind) = engine.userspace() else {
        let mut options = LoadOptions::default();
        if guarded {
            let global = ("max_conn_rate".to_owned(), unlimited.to_vec());
            options.globals.push(global);
        }
        return Ok(Box::new(KernelEngine::load(bytes, &options)?));
    };
    if guarded {
        object.set_global("max_conn_rate", &unlimited)?;
    }
    let object = squalus_vm::for_host(object)?;
    Ok(Box::new(args.machine(object, kind)?))
}

fn append<T: Layout>(bytes: &mut Vec<u8>, value: &T) {
    let at = bytes.len();
    bytes.resize(at + T::SIZE, 0);
    value.write_to(&mut bytes[at..]);
}

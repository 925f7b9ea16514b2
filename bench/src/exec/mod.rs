//! `squalus bench exec`: nanoseconds per packet of one object in the kernel, the interpreter and the JIT.

mod cases;
mod measure;
mod report;

use anyhow::{Context, Result, ensure};
use clap::Args;
use squalus_abi::consts::BALANCER_PROGRAM;
use squalus_abi::{Layout, RealPosLru, maps::name};
use squalus_dataplane::{Controller, Offline, SessionTables, Settings};
use squalus_engine::{MapAccess, MapRef};
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;
use squalus_vm::VmBuilder;

use crate::Machine;
use crate::engines::EngineName;
pub use cases::{CASES, Case};
use measure::Measure;
pub use report::{Report, Row};

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
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub rounds: usize,
    /// Packets a round; the interpreter runs a twentieth of it.
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    pub packets: u32,
}

/// Measures `object` (named `label` in the report); `progress` hears of each step.
///
/// # Errors
/// If an engine cannot load the object, a program answers otherwise than the case demands, or sessions that
/// must be known are not.
pub fn run(args: &ExecArgs, object: &[u8], label: &str, progress: impl Fn(&str)) -> Result<Report> {
    let cases = chosen_cases(&args.cases)?;
    let engines = if args.engines.is_empty() {
        EngineName::ALL.to_vec()
    } else {
        args.engines.clone()
    };
    ensure!(
        args.rounds > 0 && args.packets > 0,
        "--rounds and --packets must be at least 1"
    );
    ensure!(
        args.sessions.iter().all(|n| *n > 0),
        "--sessions must be at least 1"
    );
    let mut machine = Machine::observe();
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: 0 }),
        "cannot pin the measuring thread to CPU 0: allow it that CPU (taskset, cpuset)"
    );
    let mut rows = Vec::new();
    for case in cases {
        for &sessions in &args.sessions {
            progress(&format!("{}, {sessions} sessions", case.name));
            rows.extend(measure_case(args, object, case, sessions, &engines)?);
        }
    }
    machine.observe_after();
    Ok(Report {
        version: 1,
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
    let frames: Vec<Vec<u8>> = (0..sessions).map(|session| case.frame(session)).collect();
    let mut subjects = Vec::new();
    for &engine in engines {
        subjects.push((Subject::new(engine, object, case, sessions)?, Vec::new()));
    }
    for (subject, _) in &mut subjects {
        subject.round(case, &frames, args.packets)?;
    }
    for _ in 0..args.rounds {
        for (subject, samples) in &mut subjects {
            samples.push(subject.round(case, &frames, args.packets)?);
        }
    }
    for (subject, _) in &subjects {
        subject.check(case)?;
    }
    let row = |(subject, samples): &(Subject, Vec<f64>)| {
        Row::new(case.name, subject.engine, sessions, samples)
    };
    Ok(subjects.iter().map(row).collect())
}

/// A provisioned balancer in one engine.
struct Subject {
    engine: EngineName,
    balancer: Controller<Offline<Box<dyn Measure>>>,
}

impl Subject {
    fn new(engine: EngineName, object: &[u8], case: &Case, sessions: u32) -> Result<Subject> {
        let loaded = load(engine, object)
            .with_context(|| format!("cannot load the object into {}", engine.name()))?;
        // A kernel table of N entries evicts before it holds N; with a quarter more it holds them all.
        let entries = (u64::from(sessions) * 5 / 4).max(1000);
        let settings = Settings {
            sessions: SessionTables {
                entries,
                cpus: vec![0],
            },
            ..Settings::default()
        };
        let mut balancer = Controller::load(Offline(loaded), settings)?;
        cases::provision(&mut balancer)?;
        let subject = Subject { engine, balancer };
        if case.known {
            subject.fill(case, sessions)?;
        }
        Ok(subject)
    }

    /// Puts all sessions into the table of CPU 0, as if each had sent a packet just now.
    fn fill(&self, case: &Case, sessions: u32) -> Result<()> {
        let atime = squalus_runtime::Clock::Real.now(squalus_runtime::ClockId::Monotonic);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for session in 0..sessions {
            append(&mut keys, &case.session_key(session));
            append(
                &mut values,
                &RealPosLru {
                    pos: cases::real_of(case, session),
                    pad: 0,
                    atime,
                },
            );
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

    fn round(&mut self, case: &Case, frames: &[Vec<u8>], packets: u32) -> Result<f64> {
        // The interpreter is for truth, not for speed: fewer packets tell as much. But every session has its turn.
        let packets = if self.engine == EngineName::Interp {
            packets / 20
        } else {
            packets
        };
        let packets = packets.max(frames.len() as u32);
        let engine = &mut self.balancer.dataplane_mut().0;
        Measure::measure(
            &mut **engine,
            BALANCER_PROGRAM,
            frames,
            packets,
            case.verdict,
        )
    }

    /// Whether the packets took the path that the case is about.
    fn check(&self, case: &Case) -> Result<()> {
        let lru = self.balancer.global(squalus_abi::GlobalCounter::LruCntrs)?;
        ensure!(
            !case.known || lru.v2 == 0,
            "{}: {} of {} packets were not in the session table of the {} engine, so the figure would be wrong",
            case.name,
            lru.v2,
            lru.v1,
            self.engine.name()
        );
        Ok(())
    }
}

fn load(engine: EngineName, bytes: &[u8]) -> Result<Box<dyn Measure>> {
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
    Ok(Box::new(VmBuilder::new(object).engine(kind).build()?))
}

fn append<T: Layout>(bytes: &mut Vec<u8>, value: &T) {
    let at = bytes.len();
    bytes.resize(at + T::SIZE, 0);
    value.write_to(&mut bytes[at..]);
}

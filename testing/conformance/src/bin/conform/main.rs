//! Compares engines on generated cases for as long as wanted, or on a case from a file.
//!
//! `SQUALUS_ENGINES=kernel,interp,jit` chooses the engines (default: all that can run here).

mod objects;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use squalus_conformance::engines::{self, Kind, Subject};
use squalus_conformance::{Case, Hunt, Rng, Tally, Watch, balancer, maps, maps_kinds, programs};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Runs the same steps in several engines and reports every difference.
#[derive(Parser)]
struct Options {
    /// First seed; each further round has the next one.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// How long to go on, in seconds; without it, one round.
    #[arg(long, global = true, default_value_t = 0)]
    seconds: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Traffic of every kind through a balancer.
    Balancer(Balancer),
    /// Map operations and helpers, from programs and the control plane.
    Maps {
        /// The maps that are not plain tables: without keys, for redirection, with locks; and walks.
        #[arg(long)]
        kinds: bool,
        /// Run the steps in this file instead of generated ones.
        #[arg(long)]
        replay: Option<PathBuf>,
    },
    /// Random programs.
    Programs,
    /// All XDP programs of objects: who takes them, and whether they do the same everywhere. Prints a row of a
    /// table for each folder.
    Objects(objects::Objects),
}

#[derive(Args)]
struct Balancer {
    /// The object: squalus's balancer, or katran's.
    object: PathBuf,
    /// Frames in one round (with one set of maps).
    #[arg(long, default_value_t = 10_000)]
    frames: usize,
    /// Value of a global variable before loading: NAME=HEX, bytes as in memory.
    #[arg(long, value_parser = global)]
    set: Vec<(String, Vec<u8>)>,
    /// Run the steps in this file instead of generated ones.
    #[arg(long)]
    replay: Option<PathBuf>,
}

fn global(text: &str) -> Result<(String, Vec<u8>), String> {
    let (name, digits) = text.split_once('=').ok_or("expected NAME=HEX")?;
    let value = squalus_conformance::parse_hex(digits).ok_or("not hexadecimal")?;
    Ok((name.to_owned(), value))
}

fn main() -> std::process::ExitCode {
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let kinds = engines::available()?;
    match &options.what {
        What::Balancer(balancer) => run_balancer(options, &kinds, balancer),
        What::Maps {
            kinds: true,
            replay,
        } => run_kinds(options, &kinds, replay.as_ref()),
        What::Maps { replay, .. } => run_maps(options, &kinds, replay.as_ref()),
        What::Programs => run_programs(options, &kinds),
        What::Objects(what) => objects::run(options.seed, &kinds, what),
    }
}

/// One round after the other, each with the next seed, until the time is up.
fn rounds(options: &Options, mut round: impl FnMut(u64) -> Outcome<String>) -> Outcome<()> {
    let start = Instant::now();
    let limit = Duration::from_secs(options.seconds);
    for seed in options.seed.. {
        let done = round(seed).map_err(|error| format!("seed {seed}: {error}"))?;
        println!(
            "seed {seed}, {:.0?}: {done}: no difference",
            start.elapsed()
        );
        if start.elapsed() >= limit {
            break;
        }
    }
    Ok(())
}

fn compare(
    options: &Options,
    (kinds, subject, watch): (&[Kind], &Subject, &Watch),
    replay: Option<&PathBuf>,
    mut case: impl FnMut(u64) -> Case,
) -> Outcome<()> {
    let hunt = Hunt {
        subject,
        kinds,
        watch,
    };
    if let Some(file) = replay {
        let case = Case::parse(&std::fs::read_to_string(file)?)?;
        println!("{}: no difference", hunt.run(case.steps.into_iter())?);
        return Ok(());
    }
    let mut total = Tally::default();
    rounds(options, |seed| {
        total += hunt.run(case(seed).steps.into_iter())?;
        Ok(total.to_string())
    })
}

fn run_balancer(options: &Options, kinds: &[Kind], what: &Balancer) -> Outcome<()> {
    let object = std::fs::read(&what.object)?;
    let switches = what.set.iter();
    let switches: Vec<_> = switches.map(|(name, value)| (&**name, &**value)).collect();
    let subject = balancer::subject(&object, &switches);
    let with = (kinds, &subject, &balancer::watch());
    compare(options, with, what.replay.as_ref(), |seed| {
        balancer::Generator::new(seed).case(what.frames)
    })
}

fn run_maps(options: &Options, kinds: &[Kind], replay: Option<&PathBuf>) -> Outcome<()> {
    const STEPS: usize = 3000;
    let cpus = squalus_kernel::possible_cpus()?;
    let subject = Subject::new(maps::OBJECT);
    let with = (kinds, &subject, &maps::watch());
    compare(options, with, replay, |seed| {
        let mut generator = maps::Generator::new(seed, cpus);
        let mut case = generator.map_case(STEPS);
        case.steps.extend(generator.helper_case(STEPS).steps);
        case
    })
}

fn run_kinds(options: &Options, kinds: &[Kind], replay: Option<&PathBuf>) -> Outcome<()> {
    const STEPS: usize = 6000;
    let cpus = squalus_kernel::possible_cpus()?;
    let subject = Subject::new(maps_kinds::OBJECT);
    let with = (kinds, &subject, &maps_kinds::watch());
    compare(options, with, replay, |seed| {
        maps_kinds::Generator::new(seed, cpus).case(STEPS)
    })
}

fn run_programs(options: &Options, kinds: &[Kind]) -> Outcome<()> {
    const PROGRAMS: u64 = 100;
    const FRAMES: usize = 12;
    let (mut total, mut not_judged) = (0, 0);
    rounds(options, |seed| {
        for part in 0..PROGRAMS {
            let mut rng = Rng::new(seed * PROGRAMS + part);
            let agreed = programs::compare_random(&mut rng, kinds, FRAMES)?;
            not_judged += u64::from(agreed.without_kernel);
        }
        total += PROGRAMS;
        Ok(format!(
            "{total} random programs, {not_judged} of them too much for the kernel"
        ))
    })
}

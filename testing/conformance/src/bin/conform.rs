//! Compares engines on generated frames for as long as wanted, or on a case from a file.
//!
//! `SQUALUS_ENGINES=kernel,interp,jit` chooses the engines (default: all that can run here).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use squalus_conformance::{Case, Hunt, Tally, balancer, engines};

/// Runs a balancer object in several engines on the same frames and reports every difference.
#[derive(Parser)]
struct Options {
    /// The object: squalus's balancer, or katran's.
    object: PathBuf,
    /// First seed; each further world of frames has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Frames in one world (with one set of maps).
    #[arg(long, default_value_t = 10_000)]
    frames: usize,
    /// How long to go on, in seconds; without it, one world.
    #[arg(long)]
    seconds: Option<u64>,
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let object = std::fs::read(&options.object)?;
    let switches = options.set.iter();
    let switches: Vec<_> = switches
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect();
    let subject = balancer::subject(&object, &switches);
    let kinds = engines::available()?;
    let hunt = Hunt {
        subject: &subject,
        kinds: &kinds,
        watch: &balancer::watch(),
    };
    match &options.replay {
        Some(file) => {
            let case = Case::parse(&std::fs::read_to_string(file)?)?;
            println!("{}: no difference", hunt.run(case.steps.into_iter())?);
            Ok(())
        }
        None => hunt_worlds(&hunt, &options),
    }
}

fn hunt_worlds(hunt: &Hunt<'_>, options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let limit = Duration::from_secs(options.seconds.unwrap_or(0));
    let mut total = Tally::default();
    let mut seed = options.seed;
    loop {
        let case = balancer::Generator::new(seed).case(options.frames);
        let tally = hunt.run(case.steps.into_iter());
        total += tally.map_err(|error| format!("seed {seed}: {error}"))?;
        println!(
            "seed {seed}, {:.0?}: {total}: no difference",
            start.elapsed()
        );
        seed += 1;
        if start.elapsed() >= limit {
            return Ok(());
        }
    }
}

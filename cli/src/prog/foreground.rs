//! `squalus prog attach --engine jit|interp`: a program on an interface, in our engine, as long as the command
//! runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use squalus_afxdp::AttachMode;
use squalus_forward::{Forwarder, Options, PortOptions, WorkerReport};
use squalus_isa::Verdict;
use squalus_object::Object;
use squalus_port::PortRequest;
use squalus_server::Termination;
use squalus_vm::{EngineKind, Tiering, VmBuilder};

use super::attach::AttachArgs;
use super::place::ModeWord;
use super::{print, print_json};

/// Options of userspace engines.
#[derive(Debug, Args)]
#[command(next_help_heading = "With a userspace engine")]
pub struct ForegroundArgs {
    /// Stop after this time; without, on Ctrl-C.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Print the counts so far every S seconds.
    #[arg(long, value_name = "S")]
    interval: Option<f64>,
    /// How frames come: auto (the best that works), afxdp, afxdp-zc, afxdp-copy or packet.
    #[arg(long, value_name = "PORT")]
    io: Option<PortRequest>,
    /// The cores that run it, one worker each, pinned.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    cores: Vec<usize>,
}

impl ForegroundArgs {
    /// Whether any was given.
    pub fn is_given(&self) -> bool {
        self.seconds.is_some()
            || self.interval.is_some()
            || self.io.is_some()
            || !self.cores.is_empty()
    }
}

/// Runs the program on the interface until it is time to stop, and prints what became of the frames. False if
/// a failed check ended a run.
///
/// # Errors
/// If the engine does not take the object, or the interface can't be opened.
pub fn run(args: &AttachArgs, kind: EngineKind, object: Object, program: &str) -> Result<bool> {
    let seconds = |value: Option<f64>| value.map(Duration::try_from_secs_f64).transpose();
    let (time, interval) = (
        seconds(args.foreground.seconds).context("--seconds")?,
        seconds(args.foreground.interval).context("--interval")?,
    );
    let mut forwarder = load(args, kind, object, program)?;
    for port in forwarder.attach(&[port(args)])? {
        eprintln!("{port}");
        port.notices.iter().for_each(|notice| eprintln!("{notice}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(watch(args, &forwarder, time, interval))?;
    let result = forwarder.stop();
    let counts = Counts::of(&forwarder.reports());
    show(args, &forwarder, &counts)?;
    result?;
    Ok(counts.traps.is_empty())
}

fn load(args: &AttachArgs, kind: EngineKind, object: Object, program: &str) -> Result<Forwarder> {
    let object = squalus_vm::for_host(object)?;
    let together = object.with_jump_targets(&[program])?;
    let names: Vec<String> = together.iter().map(|p| p.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cores = args.foreground.cores.clone();
    let vm = VmBuilder::new(object)
        .engine(kind)
        .cpus(cores.len().max(1) as u32)
        .tiering(Tiering::On)
        .only(&names)
        .build()
        .with_context(|| {
            let (object, engine) = (args.object.display(), kind.name());
            format!("cannot load {object} into the {engine} engine")
        })?;
    let options = Options {
        cores,
        ..Options::default()
    };
    Ok(Forwarder::new(vm, program, options)?)
}

fn port(args: &AttachArgs) -> PortOptions {
    PortOptions {
        request: args.foreground.io.unwrap_or_default(),
        attach: match args.mode {
            ModeWord::Unspecified => AttachMode::Auto,
            ModeWord::Native | ModeWord::Hw => AttachMode::Native,
            ModeWord::Skb => AttachMode::Generic,
        },
        ..PortOptions::everything(&args.interface)
    }
}

/// Waits for the end, a signal or the time; shows the counts and what programs trace meanwhile.
async fn watch(
    args: &AttachArgs,
    forwarder: &Forwarder,
    time: Option<Duration>,
    interval: Option<Duration>,
) -> Result<()> {
    /// How often traced text is fetched.
    const TICK: Duration = Duration::from_millis(100);
    let mut termination = Termination::listen().context("cannot listen for signals")?;
    let start = Instant::now();
    let mut shown = start;
    loop {
        let left = time.map(|time| time.saturating_sub(start.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let pause = left.unwrap_or(TICK).min(TICK).min(interval.unwrap_or(TICK));
        if tokio::time::timeout(pause, termination.next())
            .await
            .is_ok()
        {
            break;
        }
        print_trace(forwarder);
        if interval.is_some_and(|interval| shown.elapsed() >= interval) {
            shown = Instant::now();
            show(args, forwarder, &Counts::of(&forwarder.reports()))?;
        }
    }
    print_trace(forwarder);
    Ok(())
}

fn print_trace(forwarder: &Forwarder) {
    let maps = forwarder.vm().handle();
    maps.trace(|cpu, line| eprintln!("cpu {cpu}: {}", line.trim_end()));
}

fn show(args: &AttachArgs, forwarder: &Forwarder, counts: &Counts) -> Result<()> {
    if !args.json {
        return print(&counts.text());
    }
    #[derive(Serialize)]
    struct Line<'a> {
        ifname: &'a str,
        program: &'a str,
        engine: &'static str,
        #[serde(flatten)]
        counts: &'a Counts,
    }
    print_json(&Line {
        ifname: &args.interface,
        program: forwarder.program(),
        engine: forwarder.vm().kind().name(),
        counts,
    })
}

/// What became of the frames, of all workers together.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Counts {
    received: u64,
    verdicts: BTreeMap<&'static str, u64>,
    redirected: u64,
    /// Runs that a failed check ended, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    traps: BTreeMap<&'static str, u64>,
    /// Frames lost, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn of(reports: &[WorkerReport]) -> Counts {
        let mut counts = Counts::default();
        reports.iter().for_each(|report| counts.add(report));
        counts
    }

    fn add(&mut self, report: &WorkerReport) {
        for (verdict, count) in &report.verdicts {
            *self.verdicts.entry(verdict.name()).or_default() += count;
        }
        for (reason, count) in &report.aborts {
            *self.traps.entry(reason.name()).or_default() += count;
        }
        self.redirected += report.redirected;
        for (reason, count) in &report.redirect_drops {
            *self.dropped.entry(reason.name()).or_default() += count;
        }
        for lane in &report.lanes {
            let stats = &lane.stats;
            self.received += stats.rx_frames;
            for (reason, count) in [
                ("runt", lane.runts),
                ("rx_dropped", stats.rx_dropped),
                ("rx_too_long", stats.rx_too_long),
                ("tx_dropped", stats.tx_dropped),
                ("tx_too_long", stats.tx_too_long),
                ("pass_dropped", stats.pass_dropped),
            ] {
                if count > 0 {
                    *self.dropped.entry(reason).or_default() += count;
                }
            }
        }
    }

    fn text(&self) -> String {
        let mut out = format!("{} frames", self.received);
        for verdict in Verdict::ALL {
            let count = self.verdicts.get(verdict.name()).copied().unwrap_or(0);
            if count > 0 {
                let _ = write!(out, "  {} {count}", verdict.name());
            }
        }
        if self.redirected > 0 {
            let _ = write!(out, "  redirected {}", self.redirected);
        }
        for (title, counts) in [("trapped", &self.traps), ("lost", &self.dropped)] {
            for (reason, count) in counts {
                let _ = write!(out, "  {title}: {reason} {count}");
            }
        }
        out + "\n"
    }
}

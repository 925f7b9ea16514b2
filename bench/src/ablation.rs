//! `squalus bench ablation`: what each pass of the optimizer is worth.
//!
//! The same object is measured with all passes, with each one left out, and with none, all in turns in one process
//! on the traffic of `bench exec`, with the kernel beside them. A pass is worth the time that comes back without
//! it. The shares don't add up: one pass makes work for another.

use std::fmt::Write;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use squalus_vm::{Pass, Passes};

use crate::Machine;
use crate::engines::{CodeArgs, EngineName};
use crate::exec::{self, Case, ExecArgs, Sample, Subject};

/// Options of `squalus bench ablation`.
#[derive(Debug, Args)]
pub struct AblationArgs {
    /// Numbers of sessions, each measured on its own.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N")]
    pub sessions: Vec<u32>,
    /// Only these cases.
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    pub cases: Vec<String>,
    /// Only these passes are left out; `all` with all and with none is always measured.
    #[arg(long, value_delimiter = ',', value_name = "PASS")]
    pub without: Vec<Pass>,
    /// Rounds in which the variants take turns.
    #[arg(long, default_value_t = 21, value_name = "N")]
    pub rounds: usize,
    /// Packets a round.
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    pub packets: u32,
}

/// All figures of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub version: u32,
    /// The object's file, or `built-in`.
    pub object: String,
    /// The machine.
    pub machine: Machine,
    /// One table for each case and number of sessions.
    pub tables: Vec<Table>,
}

/// One kind of traffic.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The kind of traffic.
    pub case: String,
    /// Sessions in turn.
    pub sessions: u32,
    /// One row for each variant.
    pub rows: Vec<Row>,
}

/// One variant.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `kernel`, or which passes there were.
    pub variant: String,
    /// Median over the rounds.
    pub ns_per_packet: f64,
    /// From the fastest rounds: what the rest of the machine disturbed least.
    pub best: f64,
    /// Times what it takes with all passes: median over the rounds, each compared with the one beside it.
    pub times_all: f64,
}

/// What is measured: the kernel, or our compiler with some passes.
#[derive(Clone, Copy, Debug)]
enum Variant {
    Kernel,
    Code(Passes),
}

impl Variant {
    /// The first one is what the others are compared with.
    fn all(without: &[Pass]) -> Vec<Variant> {
        let each = match without {
            [] => &Pass::ALL[..],
            some => some,
        };
        let less = each.iter().map(|pass| Passes::ALL.without(*pass));
        let code = [Passes::ALL].into_iter().chain(less).chain([Passes::NONE]);
        let code = code.map(Variant::Code);
        code.chain([Variant::Kernel]).collect()
    }

    fn name(self) -> String {
        match self {
            Variant::Kernel => "kernel".to_owned(),
            Variant::Code(passes) => passes.to_string(),
        }
    }
}

/// Measures `object` (named `label` in the report); `progress` hears of each step.
///
/// # Errors
/// As those of [`exec::run`].
pub fn run(
    args: &AblationArgs,
    object: &[u8],
    label: &str,
    progress: impl Fn(&str),
) -> Result<Report> {
    let exec = args.as_of_exec();
    let cases = exec.check()?;
    let mut machine = Machine::observe();
    let mut tables = Vec::new();
    for case in cases {
        for &sessions in &args.sessions {
            progress(&format!("{}, {sessions} sessions", case.name));
            tables.push(table(args, object, case, sessions)?);
        }
    }
    machine.observe_after();
    Ok(Report {
        version: 1,
        object: label.to_owned(),
        machine,
        tables,
    })
}

impl AblationArgs {
    fn as_of_exec(&self) -> ExecArgs {
        ExecArgs {
            sessions: self.sessions.clone(),
            cases: self.cases.clone(),
            engines: Vec::new(),
            rounds: self.rounds,
            packets: self.packets,
            code: CodeArgs::default(),
            no_tiering: false,
            no_specialise: false,
        }
    }
}

fn table(args: &AblationArgs, object: &[u8], case: &Case, sessions: u32) -> Result<Table> {
    let variants = Variant::all(&args.without);
    let mut exec = args.as_of_exec();
    let mut subjects = Vec::new();
    for variant in &variants {
        let engine = match variant {
            Variant::Kernel => EngineName::Kernel,
            Variant::Code(passes) => {
                exec.code.passes = *passes;
                EngineName::Jit
            }
        };
        subjects.push(Subject::new(&exec, engine, object, case, sessions)?);
    }
    let samples = exec::take_turns(&exec, &subjects, case, sessions)?;
    let rows = variants.iter().zip(&samples);
    let rows = rows.map(|(variant, own)| Row::new(variant.name(), own, &samples[0]));
    Ok(Table {
        case: case.name.to_owned(),
        sessions,
        rows: rows.collect(),
    })
}

impl Row {
    fn new(variant: String, own: &[Sample], all: &[Sample]) -> Row {
        let least = |figures: &mut dyn Iterator<Item = f64>| figures.fold(f64::INFINITY, f64::min);
        let whole = least(&mut own.iter().map(|sample| sample.whole));
        let restoring = least(&mut own.iter().map(|sample| sample.restoring));
        let times = own
            .iter()
            .zip(all)
            .map(|(own, all)| own.nanos() / all.nanos());
        Row {
            variant,
            ns_per_packet: median(own.iter().map(Sample::nanos)),
            best: whole - restoring,
            times_all: median(times),
        }
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// The tables.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = self.machine.heading("ns per packet", &self.object);
        for Table {
            case,
            sessions,
            rows,
        } in &self.tables
        {
            let _ = writeln!(
                out,
                "\n{:<24} {:>9} {:>9} {:>9}",
                format!("{case}, {sessions}"),
                "median",
                "best",
                "/ all"
            );
            for row in rows {
                let _ = writeln!(
                    out,
                    "{:<24} {:>9.1} {:>9.1} {:>8.2}x",
                    row.variant, row.ns_per_packet, row.best, row.times_all
                );
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_is_left_out_once() {
        let names: Vec<String> = Variant::all(&[]).into_iter().map(Variant::name).collect();
        assert_eq!(names.len(), Pass::ALL.len() + 3);
        assert_eq!(
            (&*names[0], names.last().map(|n| &**n)),
            ("all", Some("kernel"))
        );
        assert!(names.contains(&"all,-merge".to_owned()));
        let some = Variant::all(&[Pass::Hot]);
        let names: Vec<String> = some.into_iter().map(Variant::name).collect();
        assert_eq!(names, ["all", "all,-hot", "none", "kernel"]);
    }

    #[test]
    fn a_row_is_compared_round_by_round() {
        let samples = |nanos: [f64; 3]| {
            nanos.map(|whole| Sample {
                whole,
                restoring: 2.0,
            })
        };
        let row = Row::new(
            "x".to_owned(),
            &samples([12.0, 22.0, 8.0]),
            &samples([7.0, 12.0, 5.0]),
        );
        assert_eq!(
            (row.ns_per_packet, row.best, row.times_all),
            (10.0, 6.0, 2.0)
        );
    }
}

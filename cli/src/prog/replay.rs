//! `squalus prog replay`: a recorded balancer, packet by packet, on any engine.
//!
//! The recording's control-plane calls go through our own control plane; then its frames run in order on
//! the one balancer, and verdicts, bytes, rings and counters are compared with what was recorded.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use squalus_abi::consts::BALANCER_PROGRAM;
use squalus_bench::engines::EngineName;
use squalus_core::{Action, HashFunction, Mac, NewReal, RealNum, ServerId, VipKey};
use squalus_dataplane::{Controller, Offline, Settings};
use squalus_engine::{Engine, MapAccess, TestRun};
use squalus_isa::UpdateFlags;

use super::compare::{self, Balancer};
use super::recording::{Case, Op, Phase, Recording, VipName};
use crate::objects;

/// Options of `squalus prog replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording: JSON, gzipped or not.
    pub recording: PathBuf,
    /// The object to run; the built-in balancer if not given.
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
    /// Where to run it.
    #[arg(long, value_enum, default_value = "jit")]
    pub engine: EngineName,
    /// How many mismatches to print in full.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub show: usize,
    /// Print JSON.
    #[arg(short, long)]
    pub json: bool,
}

/// Replays; prints mismatches and a last line `matched M of N`. False if anything did not match.
///
/// # Errors
/// If the recording or the object cannot be used at all.
pub fn run(args: &ReplayArgs) -> Result<bool> {
    let recording = Recording::read(&args.recording)?;
    let object = objects::balancer(args.object.as_deref())?;
    let engine = args.engine.load(&object)?;
    let mut replay = Replay::new(engine, &recording, args)?;
    for phase in &recording.phases {
        replay.phase(phase)?;
    }
    if args.json {
        super::print_json(&replay.report)?;
    } else {
        let Report {
            counters, frames, ..
        } = &replay.report;
        println!(
            "counters and rings: {} of {} agree",
            counters.matched, counters.total
        );
        println!("matched {} of {}", frames.matched, frames.total);
    }
    Ok(replay.report.all())
}

/// What came of a replay.
#[derive(Debug, Default, Serialize)]
struct Report {
    frames: Tally,
    /// Counters and rings.
    counters: Tally,
    /// Control-plane calls that our control plane refused.
    refused: usize,
    /// What did not match, as far as it was to be shown; only collected for JSON.
    mismatches: Vec<String>,
}

impl Report {
    fn all(&self) -> bool {
        self.frames.all() && self.counters.all() && self.refused == 0
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Tally {
    matched: usize,
    total: usize,
}

impl Tally {
    fn add(&mut self, matched: bool) {
        self.total += 1;
        self.matched += usize::from(matched);
    }

    fn all(self) -> bool {
        self.matched == self.total
    }
}

/// A replay under way.
struct Replay {
    balancer: Balancer,
    report: Report,
    /// How many mismatches may still be shown.
    show: usize,
    json: bool,
}

impl Replay {
    fn new(engine: Box<dyn Engine>, recording: &Recording, args: &ReplayArgs) -> Result<Replay> {
        if !engine
            .programs()
            .iter()
            .any(|name| name == BALANCER_PROGRAM)
        {
            bail!("the object has no program `{BALANCER_PROGRAM}`: it is no balancer");
        }
        let settings = settings(recording)?;
        let balancer =
            Controller::load(Offline(engine), settings).context("cannot provision the object")?;
        write_rest(&balancer, recording)?;
        Ok(Replay {
            balancer,
            report: Report::default(),
            show: args.show,
            json: args.json,
        })
    }

    fn phase(&mut self, phase: &Phase) -> Result<()> {
        for op in &phase.provisioning_ops {
            if let Err(error) = apply(&mut self.balancer, op) {
                self.report.refused += 1;
                let (phase, op) = (&phase.phase, op.name());
                self.say(format!("phase {phase}: {op} failed: {error:#}"));
            }
        }
        for finding in compare::state(&self.balancer, &phase.state)? {
            self.count(finding);
        }
        for case in &phase.cases {
            self.case(case)?;
        }
        for finding in compare::counters(&self.balancer, &phase.counters_after, &phase.state)? {
            self.count(finding);
        }
        Ok(())
    }

    fn case(&mut self, case: &Case) -> Result<()> {
        let expected = case.expected()?;
        let run = TestRun::once(&case.input);
        let outcome = self
            .balancer
            .dataplane_mut()
            .0
            .test_run(BALANCER_PROGRAM, &run);
        let fault = match outcome {
            Ok(result) if result.verdict().name() != case.verdict => {
                Some(format!("verdict {}", result.verdict()))
            }
            Ok(result) if result.frame != expected => Some(format!(
                "{} {}",
                result.verdict(),
                hex::encode(&result.frame)
            )),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        self.report.frames.add(fault.is_none());
        if let Some(fault) = fault
            && self.may_show()
        {
            let (input, expected) = (hex::encode(&case.input), hex::encode(&expected));
            self.say(format!(
                "case {} ({}): {input}\n  expected {} {expected}\n  got      {fault}",
                case.n, case.kind, case.verdict
            ));
        }
        Ok(())
    }

    fn count(&mut self, finding: compare::Finding) {
        self.report.counters.add(finding.matches());
        if !finding.matches() && self.may_show() {
            self.say(format!(
                "{}: expected {}, got {}",
                finding.what, finding.expected, finding.got
            ));
        }
    }

    fn say(&mut self, mismatch: String) {
        match self.json {
            true => self.report.mismatches.push(mismatch),
            false => println!("{mismatch}"),
        }
    }

    fn may_show(&mut self) -> bool {
        let may = self.show > 0;
        self.show = self.show.saturating_sub(1);
        may
    }
}

/// The router's MAC and this host's addresses, as the recording's first writes have them.
fn settings(recording: &Recording) -> Result<Settings> {
    let mut settings = Settings::default();
    // The default of katran's library, which made the recordings; its server sets V2.
    settings.balancer.hash_function = HashFunction::MaglevV1;
    for (map, key, value) in &recording.load_map_writes {
        let Ok(bytes) = hex::decode(value) else {
            continue;
        };
        match (map.as_str(), key.as_str()) {
            ("ctl_array", "00000000") => {
                let mac = bytes
                    .first_chunk::<6>()
                    .context("the recorded MAC address is too short")?;
                settings.balancer.mac = Mac(*mac);
            }
            ("pckt_srcs", "00000000") => {
                settings.balancer.sources.v4 =
                    bytes.first_chunk::<4>().map(|octets| (*octets).into());
            }
            ("pckt_srcs", "01000000") => {
                settings.balancer.sources.v6 =
                    bytes.first_chunk::<16>().map(|octets| (*octets).into());
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// What the recorder wrote that our control plane does not write by itself: the balancer's own place in `subprograms`.
fn write_rest(balancer: &Balancer, recording: &Recording) -> Result<()> {
    let engine = &balancer.dataplane().0;
    for (map, key, _) in recording
        .load_map_writes
        .iter()
        .filter(|(_, _, value)| value == "<fd>")
    {
        if !engine.maps().iter().any(|def| def.name == *map) {
            continue;
        }
        let number = engine
            .programs()
            .iter()
            .position(|name| name == BALANCER_PROGRAM);
        let number = number.context("a balancer has its program")? as u32;
        let key = hex::decode(key)?;
        engine.update(
            map.as_str().into(),
            &key,
            &number.to_ne_bytes(),
            UpdateFlags::ANY,
        )?;
    }
    Ok(())
}

fn vip_key((address, port, proto): VipName) -> VipKey {
    VipKey {
        address,
        port,
        proto,
    }
}

/// Carries out one recorded call.
fn apply(balancer: &mut Balancer, op: &Op) -> Result<()> {
    match *op {
        Op::AddVip {
            address,
            port,
            proto,
            flags,
            cidr_vip_prefix_len,
        } => {
            if cidr_vip_prefix_len != 0 {
                bail!("CIDR VIPs are not supported yet");
            }
            balancer.add_vip(
                VipKey {
                    address,
                    port,
                    proto,
                },
                flags,
            )?;
        }
        Op::ModifyVip {
            address,
            port,
            proto,
            flag,
            set,
        } => {
            balancer.modify_vip(
                VipKey {
                    address,
                    port,
                    proto,
                },
                flag,
                set,
            )?;
        }
        Op::AddReal { vip, real, weight } => add_real(balancer, vip, real, weight)?,
        Op::ModifyReal {
            address,
            flags,
            set,
        } => balancer.modify_real(address, flags, set)?,
        Op::AddServerId { address, id } => {
            let refused = balancer.modify_server_ids(Action::Add, &[ServerId { id, address }])?;
            refused.into_iter().next().map_or(Ok(()), Err)?;
        }
        Op::AddDownReal { vip, real_index } => {
            balancer.add_down_real(vip_key(vip), RealNum(real_index))?
        }
        // Health checks have a program and maps of their own; nothing of them is in the balancer's.
        Op::AddHealthcheckerDst { .. } => {}
        Op::AddSrcRoutingRule { .. }
        | Op::AddInlineDecapDst { .. }
        | Op::AddEgressDecapDst { .. } => {
            bail!("not supported yet")
        }
    }
    Ok(())
}

fn add_real(balancer: &mut Balancer, vip: VipName, address: IpAddr, weight: u32) -> Result<()> {
    let real = NewReal {
        address,
        weight,
        flags: 0,
    };
    let refused = balancer.modify_reals(Action::Add, &[real], vip_key(vip))?;
    refused.into_iter().next().map_or(Ok(()), Err)?;
    Ok(())
}

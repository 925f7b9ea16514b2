//! Sessions by range of source ports: which packets the balancer knew, and which opened a session.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use squalus_testkit::traffic::{self, Flow, Macs, RawSender, Transport};
use squalus_testkit::{Host, Lab};

use super::HTTP_PORT;
use super::balancer::{Balancer, LruCounters};
use super::report::SweepRow;

/// Last source port of each range above the range's first.
const RANGES: [u16; 6] = [0, 100, 1000, 2000, 6000, 8000];
/// First source port of the first range; each range has ports of its own, so its sessions are new.
const FIRST_PORT: u16 = 10_000;
/// Packets sent back to back before a pause.
const BURST: u32 = 32;
/// Packets per second: far below what any backend takes, since this counts and does not measure.
const RATE: u32 = 40_000;
/// How long to wait for the last packets to be counted.
const SETTLE: Duration = Duration::from_secs(3);

/// Sends all ranges over UDP and TCP.
pub fn observe(
    lab: &Lab,
    balancer: &Balancer,
    packets: u32,
    progress: impl Fn(&str),
) -> Result<Vec<SweepRow>> {
    let mut rows = Vec::new();
    for (transport, name) in [(Transport::Udp, "udp"), (Transport::TcpData, "tcp")] {
        let mut first = FIRST_PORT;
        for last in RANGES {
            let ports = if last == 0 {
                "0".to_owned()
            } else {
                format!("0-{last}")
            };
            let sessions = u32::from(last) + 1;
            let sent = packets.max(sessions);
            progress(&format!("{sent} {name} packets, source ports {ports}"));
            let before = balancer.lru_counters()?;
            send(lab, transport, first, sessions, sent)?;
            let counted = settle(balancer, before, sent.into())?;
            rows.push(SweepRow {
                transport: name.to_owned(),
                source_ports: ports,
                sessions,
                sent: sent.into(),
                packets: counted.packets,
                lru_hits: counted.packets - counted.misses,
                lru_misses: counted.misses,
            });
            first += last + 1;
        }
    }
    Ok(rows)
}

/// Sends `packets` packets over `sessions` sessions in turn, from the client's interface.
fn send(lab: &Lab, transport: Transport, first: u16, sessions: u32, packets: u32) -> Result<()> {
    let macs = Macs {
        source: lab.client.mac,
        destination: lab.client.gateway_mac,
    };
    let (source, destination): (Ipv4Addr, Ipv4Addr) = (lab.client.ipv4, Lab::VIP4);
    let frames: Vec<Vec<u8>> = (0..sessions)
        .map(|session| {
            let source_port = first + session as u16;
            let flow = Flow {
                source,
                destination,
                source_port,
                destination_port: HTTP_PORT,
            };
            traffic::ipv4(macs, flow, transport, 6)
        })
        .collect();
    lab.client.namespace.run(|| -> Result<()> {
        let sender = RawSender::open(Host::INTERFACE)?;
        let start = Instant::now();
        for n in 0..packets {
            sender.send(&frames[(n % sessions) as usize])?;
            if n % BURST == BURST - 1 {
                let due = Duration::from_secs(1) * (n + 1) / RATE;
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        Ok(())
    })?
}

/// Waits until the balancer has counted all packets, or until nothing more can be expected.
fn settle(balancer: &Balancer, before: LruCounters, sent: u64) -> Result<LruCounters> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = balancer.lru_counters()?;
        ensure!(
            now.packets >= before.packets,
            "the balancer's counters went backwards"
        );
        let counted = LruCounters {
            packets: now.packets - before.packets,
            misses: now.misses - before.misses,
        };
        if counted.packets >= sent || Instant::now() > deadline {
            return Ok(counted);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

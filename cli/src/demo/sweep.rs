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
/// Packets sent and not yet counted, at most: what the smallest queue on the way holds (256 of a veth), so
/// that nothing is lost however slowly the machine gets to it.
const WINDOW: u32 = 128;
/// How long to wait for packets to be counted.
const SETTLE: Duration = Duration::from_secs(60);

/// Sends all ranges over UDP and TCP.
pub fn observe(
    lab: &Lab,
    balancer: &Balancer,
    packets: u32,
    progress: impl Fn(&str),
) -> Result<Vec<SweepRow>> {
    let mut rows = Vec::new();
    await_quiet(lab, balancer)?;
    for (transport, name, protocol) in [(Transport::Udp, "udp", 17), (Transport::TcpData, "tcp", 6)]
    {
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
            let frames = frames(lab, transport, first, sessions);
            let counted = send(lab, &Counts::new(balancer, protocol)?, &frames, sent)?;
            rows.push(SweepRow {
                transport: name.to_owned(),
                source_ports: ports,
                sessions,
                sent: sent.into(),
                packets: counted.packets,
                lru_hits: counted.packets.saturating_sub(counted.misses),
                lru_misses: counted.misses,
            });
            first += last + 1;
        }
    }
    Ok(rows)
}

/// Waits until all that went before has passed the balancer, whose counters tell nobody's packets apart: until no
/// connection is open, and a packet has come through that was sent then.
fn await_quiet(lab: &Lab, balancer: &Balancer) -> Result<()> {
    let start = Instant::now();
    for host in std::iter::once(&lab.client).chain(&lab.reals) {
        while host.has_connections()? && start.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let frame = frames(lab, Transport::Udp, FIRST_PORT - 1, 1);
    send(lab, &Counts::new(balancer, 17)?, &frame, 1)?;
    Ok(())
}

/// A frame for each session, from the client to the VIP.
fn frames(lab: &Lab, transport: Transport, first: u16, sessions: u32) -> Vec<Vec<u8>> {
    let macs = Macs {
        source: lab.client.mac,
        destination: lab.client.gateway_mac,
    };
    let (source, destination): (Ipv4Addr, Ipv4Addr) = (lab.client.ipv4, Lab::VIP4);
    let frame = |session| {
        let flow = Flow {
            source,
            destination,
            source_port: first + session as u16,
            destination_port: HTTP_PORT,
        };
        traffic::ipv4(macs, flow, transport, 6)
    };
    (0..sessions).map(frame).collect()
}

/// Sends `packets` packets, one session after the other, from the client's interface; returns what the balancer
/// counted of them.
fn send(lab: &Lab, counts: &Counts<'_>, frames: &[Vec<u8>], packets: u32) -> Result<LruCounters> {
    lab.client.namespace.run(|| {
        stay_on_one_cpu();
        let sender = RawSender::open(Host::INTERFACE)?;
        let mut patience = SETTLE;
        for (n, frame) in (1..=packets).zip(frames.iter().cycle()) {
            sender.send(frame)?;
            if n % WINDOW == 0 {
                counts.await_forwarded(n, &mut patience)?;
            }
        }
        counts.await_forwarded(packets, &mut patience)?;
        counts.sessions()
    })?
}

/// Between network namespaces the sender's CPU carries packets all the way, and each CPU of the kernel backend
/// knows its own sessions only: a sender that moved would open them again. Pins the calling thread.
fn stay_on_one_cpu() {
    if let Some(last) = core_affinity::get_core_ids().and_then(|cpus| cpus.last().copied()) {
        // Where pinning is forbidden the demo still works, unless the thread is moved.
        let _ = core_affinity::set_for_current(last);
    }
}

/// What the balancer counts from now on.
struct Counts<'a> {
    balancer: &'a Balancer<'a>,
    protocol: i32,
    before: LruCounters,
    forwarded_before: u64,
}

impl<'a> Counts<'a> {
    fn new(balancer: &'a Balancer<'a>, protocol: i32) -> Result<Counts<'a>> {
        Ok(Counts {
            balancer,
            protocol,
            before: balancer.lru_counters()?,
            forwarded_before: balancer.forwarded(Lab::VIP4.into(), protocol)?,
        })
    }

    /// Waits until the balancer has sent on `sent` packets, or until patience is lost: what is missing then
    /// has been lost, and is not waited for again.
    fn await_forwarded(&self, sent: u32, patience: &mut Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = self.balancer.forwarded(Lab::VIP4.into(), self.protocol)?;
            if now.saturating_sub(self.forwarded_before) >= u64::from(sent) {
                return Ok(());
            }
            if start.elapsed() >= *patience {
                *patience = Duration::ZERO;
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn sessions(&self) -> Result<LruCounters> {
        let (now, before) = (self.balancer.lru_counters()?, self.before);
        ensure!(
            now.packets >= before.packets && now.misses >= before.misses,
            "the balancer's counters went backwards"
        );
        Ok(LruCounters {
            packets: now.packets - before.packets,
            misses: now.misses - before.misses,
        })
    }
}

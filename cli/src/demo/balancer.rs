//! The balancer of the demo: `squalus serve` as a process of its own, told what to do over gRPC.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use squalus_proto::katran as proto;
use squalus_proto::katran::katran_service_client::KatranServiceClient;
use squalus_testkit::{Host, Lab, Namespace};
use tonic::transport::Channel;

use super::{Backend, HTTP_PORT};
use crate::serve::READY;

/// Where the balancer listens, inside its own host.
const SERVER: &str = "127.0.0.1:50051";
const SERVER_URI: &str = "http://127.0.0.1:50051";
/// Sessions the balancer can know: several times what the demo opens.
const LRU_SIZE: &str = "100000";
/// How long the balancer may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: i32 = 6;
const UDP: i32 = 17;

/// A running balancer. Dropping it kills it; the kernel then detaches its program.
pub struct Balancer<'a> {
    child: Child,
    host: &'a Namespace,
    service: Option<Service>,
    mode: String,
}

/// A connection to the balancer's service, and what drives it.
struct Service {
    runtime: tokio::runtime::Runtime,
    client: KatranServiceClient<Channel>,
}

/// What the balancer counted at its session tables.
#[derive(Clone, Copy, Debug)]
pub struct LruCounters {
    /// Packets to VIPs.
    pub packets: u64,
    /// Of these, session not known.
    pub misses: u64,
}

impl<'a> Balancer<'a> {
    /// Starts it on the balancer's host and waits until it forwards.
    pub fn start(
        lab: &'a Lab,
        backend: Backend,
        io: &str,
        object: Option<&Path>,
    ) -> Result<Balancer<'a>> {
        let mut command =
            Command::new(std::env::current_exe().context("cannot find this program's own file")?);
        command.args([
            "serve",
            "--backend",
            backend.name(),
            "--intf",
            Host::INTERFACE,
            "--server",
            SERVER,
        ]);
        command.args([
            "--default_mac",
            &mac(lab.balancer.gateway_mac),
            "--lru_size",
            LRU_SIZE,
            "--io",
            io,
        ]);
        command.args([
            "--forwarding_cores",
            &cores(backend),
            "--shutdown_delay",
            "0",
            "--hc_forwarding=false",
        ]);
        if let Some(object) = object {
            command.arg("--balancer_prog").arg(object);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let host = &lab.balancer.namespace;
        let mut child = host.spawn_command(&mut command)?;
        let mode = wait_until_ready(&mut child)?;
        let mut balancer = Balancer {
            child,
            host,
            service: None,
            mode,
        };
        balancer.service = Some(host.run(Service::connect)??);
        Ok(balancer)
    }

    /// How packets reach it, in its own words.
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// Adds the VIPs (TCP and UDP over IPv4, TCP over IPv6) and all reals.
    pub fn provision(&self, lab: &Lab) -> Result<()> {
        let v4 = |real: &Host| IpAddr::from(real.ipv4);
        let v6 = |real: &Host| IpAddr::from(real.ipv6);
        self.add_vip(Lab::VIP4.into(), TCP, lab.reals.iter().map(v4))?;
        self.add_vip(Lab::VIP4.into(), UDP, lab.reals.iter().map(v4))?;
        self.add_vip(Lab::VIP6.into(), TCP, lab.reals.iter().map(v6))
    }

    fn add_vip(
        &self,
        address: IpAddr,
        protocol: i32,
        reals: impl Iterator<Item = IpAddr>,
    ) -> Result<()> {
        let vip = proto::Vip {
            address: address.to_string(),
            port: HTTP_PORT.into(),
            protocol,
        };
        let reals: Vec<String> = reals.map(|real| real.to_string()).collect();
        self.call(async |mut client| {
            client
                .add_vip(proto::VipMeta {
                    vip: Some(vip.clone()),
                    ..Default::default()
                })
                .await?;
            for address in reals {
                let real = proto::Real {
                    address,
                    weight: 1,
                    ..Default::default()
                };
                client
                    .add_real_for_vip(proto::RealForVip {
                        vip: Some(vip.clone()),
                        real: Some(real),
                    })
                    .await?;
            }
            Ok(())
        })
    }

    /// Reads the counters of the session tables.
    pub fn lru_counters(&self) -> Result<LruCounters> {
        self.call(async |mut client| {
            let stats = client.get_lru_stats(proto::Empty {}).await?.into_inner();
            Ok(LruCounters {
                packets: stats.v1,
                misses: stats.v2,
            })
        })
    }

    /// How many packets were sent on for a VIP of the demo. The balancer counts that last: what it knows of
    /// sessions is counted by then.
    pub fn forwarded(&self, address: IpAddr, protocol: i32) -> Result<u64> {
        let vip = proto::Vip {
            address: address.to_string(),
            port: HTTP_PORT.into(),
            protocol,
        };
        self.call(async |mut client| {
            let stats = client.get_stats_for_vip(vip.clone()).await?.into_inner();
            Ok(stats.v1)
        })
    }

    fn call<T>(
        &self,
        work: impl AsyncFnOnce(KatranServiceClient<Channel>) -> Result<T, tonic::Status>,
    ) -> Result<T> {
        let service = self.service.as_ref().context("the balancer was stopped")?;
        let outcome = service.runtime.block_on(work(service.client.clone()));
        outcome.map_err(|status| anyhow!("the balancer refuses: {}", status.message()))
    }

    /// Asks it to end and waits; nothing may remain attached.
    pub fn stop(mut self) -> Result<()> {
        // It waits for clients that stay.
        self.service = None;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot stop the balancer")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the balancer ended with {status}");
                break;
            }
            ensure!(Instant::now() < deadline, "the balancer does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        match self
            .host
            .run(|| squalus_kernel::attached_program(Host::INTERFACE))??
        {
            None => Ok(()),
            Some(left) => bail!("the balancer left its XDP program attached: {left:?}"),
        }
    }
}

impl Drop for Balancer<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Connects from inside the balancer's host, since it listens on loopback there.
    fn connect() -> Result<Service> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let endpoint = tonic::transport::Endpoint::from_static(SERVER_URI);
        let channel = runtime
            .block_on(endpoint.connect())
            .context("cannot reach the balancer's gRPC service")?;
        let client = KatranServiceClient::new(channel);
        Ok(Service { runtime, client })
    }
}

/// Reads the balancer's output until it says that it forwards, and how.
fn wait_until_ready(child: &mut Child) -> Result<String> {
    let output = child
        .stdout
        .take()
        .context("the balancer's output is a pipe")?;
    let (said, ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(how) = line.strip_prefix(READY) {
                // Nobody listens any more if the demo has given up.
                let _ = said.send(how.to_owned());
            }
        }
    });
    ready.recv_timeout(PATIENCE).map_err(|_| {
        let _ = child.kill();
        match child.wait() {
            Ok(status) => anyhow!("the balancer did not start ({status}); its messages are above"),
            Err(error) => error.into(),
        }
    })
}

/// How many CPUs (workers) have a session table.
pub fn session_tables(backend: Backend) -> u32 {
    cpus(backend).len() as u32
}

/// The CPUs with a session table: the kernel runs the program on whatever CPU the packet arrives, of those that this
/// process may use; the user backend has one worker.
fn cpus(backend: Backend) -> Vec<usize> {
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    let mut usable: Vec<usize> = usable.into_iter().map(|cpu| cpu.id).collect();
    if usable.is_empty() {
        usable.push(0);
    }
    if backend == Backend::User {
        usable.truncate(1);
    }
    usable
}

fn cores(backend: Backend) -> String {
    let cores: Vec<String> = cpus(backend).iter().map(usize::to_string).collect();
    cores.join(",")
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

//! `squalus demo`: the whole path on one machine, in the kernel and in userspace.
//!
//! Client, router, balancer and reals are network namespaces without names, and the balancer is this very
//! program started as `squalus serve` inside one of them, driven over its gRPC service. Namespaces,
//! cables, routes and XDP programs end with the process, however it ends, so there is nothing to clean up.

mod balancer;
mod http;
mod report;
mod sweep;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use squalus_testkit::http::WebServer;
use squalus_testkit::{Host, Lab, LabOptions, enter_user_namespace};

use crate::decap::Decap;
use crate::objects;
use balancer::Balancer;
use report::BackendReport;
pub use report::Report;

/// Port of the web servers.
const HTTP_PORT: u16 = 80;
/// Length of every answer: long against the requests, so that bytes show which way replies went.
const BODY_BYTES: usize = 50_000;

/// Where the balancer's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// In the kernel.
    Kernel,
    /// In userspace.
    User,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::Kernel => "kernel",
            Backend::User => "user",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Options of `squalus demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Run only these backends.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "BACKEND")]
    pub backends: Vec<Backend>,
    /// HTTP requests to each VIP.
    #[arg(long, default_value_t = 50)]
    pub requests: u32,
    /// Packets sent for each range of source ports.
    #[arg(long, default_value_t = 16_000)]
    pub packets: u32,
    /// How many reals to make.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub reals: u8,
    /// How the user backend gets frames: auto, af_xdp, af_xdp_zc, af_packet.
    #[arg(long, default_value = "auto", value_name = "KIND")]
    pub io: String,
    /// The balancer object to load instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
}

/// Runs the demo. False if something was not as it must be; the report says what.
///
/// # Errors
/// If hosts cannot be made or a backend cannot be started.
pub fn run(args: &DemoArgs) -> Result<bool> {
    let (backends, left_out) = choose_backends(args)?;
    let report = observe(args, &backends, left_out)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(report.passed())
}

/// What can run with the rights this process has. Without root only userspace can, inside a user namespace.
fn choose_backends(args: &DemoArgs) -> Result<(Vec<Backend>, Vec<String>)> {
    let wanted = if args.backends.is_empty() {
        vec![Backend::Kernel, Backend::User]
    } else {
        args.backends.clone()
    };
    if squalus_testkit::is_root() {
        return Ok((wanted, vec![]));
    }
    if wanted == [Backend::Kernel] {
        bail!("the kernel backend needs root (CAP_BPF and CAP_NET_ADMIN): run `sudo squalus demo`");
    }
    progress("not root: making a user namespace, in which only the userspace half can run");
    enter_user_namespace()
        .context("without root, the demo needs user namespaces; or run `sudo squalus demo`")?;
    let left_out = wanted.contains(&Backend::Kernel).then(|| {
        "the kernel backend: loading XDP programs needs root (CAP_BPF and CAP_NET_ADMIN); run `sudo squalus demo`".to_owned()
    });
    Ok((vec![Backend::User], left_out.into_iter().collect()))
}

fn observe(args: &DemoArgs, backends: &[Backend], left_out: Vec<String>) -> Result<Report> {
    progress("making hosts: client, router, balancer and reals");
    let lab = Lab::new(LabOptions { reals: args.reals })?;
    let _reals = start_reals(&lab)?;
    let _passing = lab
        .router
        .run(|| Decap::pass_all(Lab::TOWARDS_BALANCER))??;
    let object = objects::balancer(args.object.as_deref())?;
    let mut reports = Vec::new();
    for backend in backends {
        reports.push(observe_backend(args, &lab, *backend)?);
    }
    Ok(Report {
        version: 1,
        object_sha256: objects::sha256(&object),
        left_out,
        backends: reports,
    })
}

fn observe_backend(args: &DemoArgs, lab: &Lab, backend: Backend) -> Result<BackendReport> {
    progress(&format!(
        "starting the balancer: squalus serve --backend {backend}"
    ));
    let balancer = Balancer::start(lab, backend, &args.io, args.object.as_deref())?;
    balancer.provision(lab)?;
    progress(&format!(
        "{backend}: HTTP over TCP from the client to the VIPs"
    ));
    let http = http::observe(lab, args.requests)?;
    let sweep = sweep::observe(lab, &balancer, args.packets, |what| {
        progress(&format!("{backend}: {what}"))
    })?;
    let mode = balancer.mode().to_owned();
    balancer.stop()?;
    Ok(BackendReport {
        backend: backend.to_string(),
        mode,
        http,
        sweep,
    })
}

/// A real's web servers and its decapsulation.
struct Real {
    _web: Vec<WebServer>,
    _decap: Decap,
}

fn start_reals(lab: &Lab) -> Result<Vec<Real>> {
    lab.reals.iter().map(start_real).collect()
}

fn start_real(real: &Host) -> Result<Real> {
    let listen = |address: IpAddr| {
        WebServer::start(&real.namespace, (address, HTTP_PORT).into(), BODY_BYTES)
    };
    let web = vec![listen(Lab::VIP4.into())?, listen(Lab::VIP6.into())?];
    let decap = real.namespace.run(|| Decap::start(Host::INTERFACE))??;
    Ok(Real {
        _web: web,
        _decap: decap,
    })
}

/// One line on standard error, so that progress is visible and standard output stays data.
fn progress(what: &str) {
    eprintln!("demo: {what}");
}

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

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use squalus_testkit::http::WebServer;
use squalus_testkit::{Host, Lab, LabOptions, Rights, enter_user_namespace};

use crate::decap::Decap;
use crate::objects;
use balancer::Balancer;
use report::BackendReport;
pub use report::Report;

/// Port of the web servers.
const HTTP_PORT: u16 = 80;
/// Length of every answer: long against the requests, so that bytes show which way replies went.
const BODY_BYTES: usize = 50_000;

/// What the kernel half takes.
const KERNEL_NEEDS: &str = "loading XDP programs needs root (CAP_SYS_ADMIN, CAP_BPF and CAP_NET_ADMIN): run `sudo squalus demo`";

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
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// Packets sent for each range of source ports.
    #[arg(long, default_value_t = 16_000)]
    pub packets: u32,
    /// How many reals to make.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub reals: u8,
    /// How the user backend gets frames.
    #[arg(long, default_value = "auto", value_name = "KIND", value_parser = ["auto", "af_xdp", "af_xdp_zc", "af_packet"])]
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
    let plan = choose_backends(args)?;
    let report = observe(args, plan)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(report.passed)
}

/// What can run with the rights this process has.
struct Plan {
    backends: Vec<Backend>,
    /// Whether programs may be loaded into the kernel: the balancer's, and the decapsulation of the reals.
    kernel: bool,
    left_out: Vec<String>,
}

/// Without root only userspace can run, inside a user namespace.
fn choose_backends(args: &DemoArgs) -> Result<Plan> {
    let wanted = if args.backends.is_empty() {
        vec![Backend::Kernel, Backend::User]
    } else {
        args.backends.clone()
    };
    let rights = Rights::of_process();
    if rights == Rights::Kernel {
        return Ok(Plan {
            backends: wanted,
            kernel: true,
            left_out: vec![],
        });
    }
    ensure!(
        wanted.contains(&Backend::User),
        "{KERNEL_NEEDS}; or leave out `--backends kernel`"
    );
    if rights == Rights::None {
        progress("not root: making a user namespace, in which only the userspace half can run");
        enter_user_namespace().context(
            "without root the demo needs a user namespace, and cannot have one; run `sudo squalus demo`",
        )?;
    } else {
        progress("root of a user namespace only: only the userspace half can run");
    }
    let left_out = wanted
        .contains(&Backend::Kernel)
        .then(|| format!("the kernel backend: {KERNEL_NEEDS}"));
    Ok(Plan {
        backends: vec![Backend::User],
        kernel: false,
        left_out: left_out.into_iter().collect(),
    })
}

fn observe(args: &DemoArgs, plan: Plan) -> Result<Report> {
    let object = objects::balancer(args.object.as_deref())?;
    progress("making hosts: client, router, balancer and reals");
    let lab = Lab::new(LabOptions { reals: args.reals })?;
    let _reals = start_reals(&lab, plan.kernel)?;
    let _passing = match plan.kernel {
        true => Some(
            lab.router
                .run(|| Decap::pass_all(Lab::TOWARDS_BALANCER))??,
        ),
        false => None,
    };
    let backends: Result<Vec<_>> = plan
        .backends
        .into_iter()
        .map(|backend| observe_backend(args, &lab, backend))
        .collect();
    Ok(Report::new(
        objects::sha256(&object),
        plan.left_out,
        backends?,
    ))
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
        session_tables: balancer::session_tables(backend),
        http,
        sweep,
    })
}

/// A real's web servers and its decapsulation.
struct Real {
    _web: Vec<WebServer>,
    _decap: Decap,
}

fn start_reals(lab: &Lab, kernel: bool) -> Result<Vec<Real>> {
    lab.reals
        .iter()
        .map(|real| start_real(real, kernel))
        .collect()
}

fn start_real(real: &Host, kernel: bool) -> Result<Real> {
    let listen = |address: IpAddr| {
        WebServer::start(&real.namespace, (address, HTTP_PORT).into(), BODY_BYTES)
    };
    let web = vec![listen(Lab::VIP4.into())?, listen(Lab::VIP6.into())?];
    let decap = if kernel {
        real.namespace.run(|| Decap::in_kernel(Host::INTERFACE))?
    } else {
        real.add_inlet()?;
        real.namespace
            .run(|| Decap::in_userspace(Host::INTERFACE, Host::INLET))?
    };
    Ok(Real {
        _web: web,
        _decap: decap?,
    })
}

/// One line on standard error, so that progress is visible and standard output stays data.
fn progress(what: &str) {
    eprintln!("demo: {what}");
}

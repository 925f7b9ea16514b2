//! `katran_goclient`: katran's client, flag for flag and line for line.
//!
//! What goes to stdout and what to stderr, and how it is laid out, is as katran's client does it, because
//! scripts read it; messages on stderr carry Go's time stamps (in UTC). Two things are better: a
//! failure ends with status 1 (katran's often says `exiting` and ends with 0), and input that cannot be is
//! refused with status 2 before the server is asked.
//!
//! One thing is kept although it is odd: the shares behind `lru miss` are fractions of all packets, printed
//! with a percent sign (`0.25%` is a quarter), and the one of UDP is what TCP's leave of 1, whether those
//! packets missed or not.

mod flags;
mod list;
mod log;
mod stats;
mod target;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use squalus_proto::katran as proto;
use squalus_proto::katran::katran_service_client::KatranServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use flags::{Command, Invocation};
use log::Log;
use target::{RealTarget, Service};

pub use flags::command;

/// Runs the client with the process' own arguments, output and clock.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let status = run(
        args,
        &mut out,
        &mut err,
        Duration::from_secs(1),
        SystemTime::now,
    );
    ExitCode::from(status)
}

/// Runs the client and returns its exit status: 0 for success, 1 for failure, 2 for wrong usage.
///
/// `interval` is the time between lines of statistics, `clock` what messages are stamped with.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    interval: Duration,
    clock: fn() -> SystemTime,
) -> u8 {
    let invocation = match Invocation::parse(args) {
        Ok(invocation) => invocation,
        Err(refusal) => return refuse(&refusal, out, err),
    };
    let mut log = Log::new(err, clock);
    match execute(&invocation, out, &mut log, interval) {
        Ok(()) => 0,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            log.line(&format!("Error: {failure}"));
            1
        }
    }
}

/// Prints clap's refusal, or its help, where it belongs.
fn refuse(refusal: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    // Nothing is left to tell anybody if writing fails.
    let _ = match refusal.use_stderr() {
        true => write!(err, "{refusal}"),
        false => write!(out, "{refusal}"),
    };
    u8::try_from(refusal.exit_code()).unwrap_or(2)
}

/// Why the client ends with status 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No connection.
    #[error(
        "cannot reach a katran server at {server}: {reason}; is it running, and is -server right?"
    )]
    Connect { server: String, reason: String },
    /// The server refused; printed as Go prints it.
    #[error("rpc error: code = {} desc = {}", go_code(.0.code()), .0.message())]
    Call(#[from] Status),
    /// A VIP or health check could not be deleted; which is said already.
    #[error("not everything could be deleted")]
    Clear,
    /// Output failed.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The event loop could not be made.
    #[error("cannot set up the client: {0}")]
    Setup(io::Error),
}

/// Go's name for a status code.
fn go_code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn execute(
    invocation: &Invocation,
    out: &mut dyn Write,
    log: &mut Log<'_>,
    interval: Duration,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(Failure::Setup)?.block_on(async {
        let client = connect(&invocation.server).await?;
        let mut session = Session {
            client,
            out,
            log,
            interval,
        };
        session.execute(&invocation.command).await?;
        writeln!(session.out, "exiting")?;
        Ok(session.out.flush()?)
    })
}

async fn connect(server: &str) -> Result<KatranServiceClient<Channel>, Failure> {
    let unreachable = |reason: String| Failure::Connect {
        server: server.to_owned(),
        reason,
    };
    let endpoint = Channel::from_shared(format!("http://{server}"));
    let endpoint = endpoint.map_err(|error| unreachable(error.to_string()))?;
    let channel = endpoint
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await;
    channel
        .map(KatranServiceClient::new)
        .map_err(|error| unreachable(root_cause(&error)))
}

/// The innermost error, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A connection, and where its answers go.
struct Session<'a, 'b> {
    client: KatranServiceClient<Channel>,
    out: &'a mut dyn Write,
    log: &'a mut Log<'b>,
    interval: Duration,
}

impl Session<'_, '_> {
    async fn execute(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::ChangeMac(mac) => self.change_mac(mac).await,
            Command::ListMac => self.list_mac().await,
            Command::AddVip { service, flags } => self.add_vip(service, *flags).await,
            Command::EditVip {
                service,
                flags,
                set,
            } => self.edit_vip(service, *flags, *set).await,
            Command::DelVip(service) => self.del_vip(service).await,
            Command::List => self.list().await,
            Command::AddReal { service, real } => {
                self.change_real(service, real, proto::Action::Add).await
            }
            Command::DelReal { service, real } => {
                self.change_real(service, real, proto::Action::Del).await
            }
            Command::MapQuic(real) => self.change_quic(real, proto::Action::Add).await,
            Command::UnmapQuic(real) => self.change_quic(real, proto::Action::Del).await,
            Command::ListQuic => self.list_quic().await,
            Command::Clear => self.clear().await,
            Command::AddHealth { somark, address } => self.add_health(*somark, address).await,
            Command::DelHealth { somark } => self.del_health(*somark).await,
            Command::ListHealth => self.list_health().await,
            Command::Stats { what, count } => self.stats(*what, *count).await,
        }
    }

    async fn change_mac(&mut self, mac: &str) -> Result<(), Failure> {
        let changed = self
            .client
            .change_mac(proto::Mac {
                mac: mac.to_owned(),
            })
            .await?;
        self.done(changed.get_ref(), "Mac address changed!")
    }

    async fn list_mac(&mut self) -> Result<(), Failure> {
        let mac = self.client.get_mac(proto::Empty {}).await?.into_inner().mac;
        self.log.line(&format!("Mac address is {mac}"));
        Ok(())
    }

    async fn add_vip(&mut self, service: &Service, flags: i64) -> Result<(), Failure> {
        let meta = self.vip_meta(service, flags, true);
        let added = self.client.add_vip(meta).await?;
        self.done(added.get_ref(), "Vip modified")
    }

    async fn edit_vip(&mut self, service: &Service, flags: i64, set: bool) -> Result<(), Failure> {
        let meta = self.vip_meta(service, flags, set);
        let modified = self.client.modify_vip(meta).await?;
        self.done(modified.get_ref(), "Vip modified")
    }

    /// What to ask for; says what katran says whether the VIP is new or not.
    fn vip_meta(&mut self, service: &Service, flags: i64, set_flag: bool) -> proto::VipMeta {
        self.log.line(&format!(
            "Adding service: {} {}",
            service.spelled, service.vip.protocol
        ));
        proto::VipMeta {
            vip: Some(service.vip.clone()),
            flags,
            set_flag,
        }
    }

    async fn del_vip(&mut self, service: &Service) -> Result<(), Failure> {
        self.log.line(&format!(
            "Deleting service: {} {}",
            service.spelled, service.vip.protocol
        ));
        let deleted = self.client.del_vip(service.vip.clone()).await?;
        self.done(deleted.get_ref(), "Vip modified")
    }

    async fn change_real(
        &mut self,
        service: &Service,
        real: &RealTarget,
        action: proto::Action,
    ) -> Result<(), Failure> {
        let real = proto::Real {
            address: real.address.clone(),
            weight: real.weight,
            flags: real.flags,
        };
        let batch = proto::ModifiedRealsForVip {
            action: action.into(),
            real: Some(proto::Reals { reals: vec![real] }),
            vip: Some(service.vip.clone()),
        };
        let modified = self.client.modify_reals_for_vip(batch).await?;
        self.done(modified.get_ref(), "Reals modified")
    }

    async fn change_quic(
        &mut self,
        real: &proto::QuicReal,
        action: proto::Action,
    ) -> Result<(), Failure> {
        let reals = Some(proto::QuicReals {
            qreals: vec![real.clone()],
        });
        let batch = proto::ModifiedQuicReals {
            action: action.into(),
            reals,
        };
        let modified = self.client.modify_quic_reals_mapping(batch).await?;
        self.done(modified.get_ref(), "Quic mapping modified")
    }

    async fn add_health(&mut self, somark: u32, address: &str) -> Result<(), Failure> {
        let check = proto::Healthcheck {
            somark,
            address: address.to_owned(),
        };
        let added = self.client.add_healthchecker_dst(check).await?;
        self.check(added.get_ref())
    }

    async fn del_health(&mut self, somark: u32) -> Result<(), Failure> {
        let deleted = self
            .client
            .del_healthchecker_dst(proto::Somark { somark })
            .await?;
        self.check(deleted.get_ref())
    }

    /// Says what was done.
    fn done(&mut self, answer: &proto::Bool, message: &str) -> Result<(), Failure> {
        self.check(answer)?;
        self.log.line(message);
        Ok(())
    }

    /// Other servers may answer a failure with success=false instead of a status.
    fn check(&self, answer: &proto::Bool) -> Result<(), Failure> {
        match answer.success {
            true => Ok(()),
            false => Err(Status::unknown("the server refused without saying why").into()),
        }
    }
}

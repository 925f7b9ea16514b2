//! Listening and serving.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use squalus_dataplane::Dataplane;
use squalus_proto::katran::katran_service_server::KatranServiceServer;
use tokio::sync::Notify;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::error::ServerError;
use crate::service::{KatranService, Options, SharedController};
use crate::termination::Termination;

/// Where the server listens unless told otherwise: katran's port, on loopback only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:50051";

/// How long calls under way may take once the server stops.
const GRACE: Duration = Duration::from_secs(3);

/// A port taken, not yet served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes a port: `address:port`, where the address may be a host name, and port 0 any free one.
    ///
    /// # Errors
    /// If the address is none, or the port cannot be had.
    pub fn bind(address: &str) -> Result<Self, ServerError> {
        let resolved = resolve(address)?;
        let socket = TcpListener::bind(resolved).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::InUse(resolved),
            _ => ServerError::Bind {
                address: resolved,
                source,
            },
        })?;
        socket.set_nonblocking(true).map_err(ServerError::Setup)?;
        let address = socket.local_addr().map_err(ServerError::Setup)?;
        if !address.ip().is_loopback() {
            tracing::warn!(
                "listening on {address} without authentication: whoever reaches it controls the balancer"
            );
        }
        Ok(Listener { socket, address })
    }

    /// The address, with the port that was given.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done; then calls under way may finish for a few seconds.
    ///
    /// # Errors
    /// If serving fails. The dataplane is left as it is in any case.
    pub async fn serve<D: Dataplane + 'static>(
        self,
        controller: SharedController<D>,
        options: Options,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let socket = tokio::net::TcpListener::from_std(self.socket).map_err(ServerError::Setup)?;
        let service = KatranServiceServer::new(KatranService::new(controller, options));
        let stopping = Arc::new(Notify::new());
        let noted = Arc::clone(&stopping);
        let shutdown = async move {
            shutdown.await;
            noted.notify_one();
        };
        let serving = Server::builder().serve_with_incoming_shutdown(
            service,
            TcpIncoming::from(socket).with_nodelay(Some(true)),
            shutdown,
        );
        let overdue = async {
            stopping.notified().await;
            tokio::time::sleep(GRACE).await;
        };
        first(serving, overdue)
            .await
            .unwrap_or(Ok(()))
            .map_err(ServerError::Serve)
    }

    /// Serves on this thread until `SIGINT` or `SIGTERM` and `delay` after it, then detaches the
    /// dataplane, whether serving went well or not.
    ///
    /// `ready` is called once a signal would end it in order.
    ///
    /// # Errors
    /// If serving or detaching fails.
    pub fn run<D: Dataplane + 'static>(
        self,
        controller: SharedController<D>,
        options: Options,
        delay: Duration,
        ready: impl FnOnce(),
    ) -> Result<(), ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let outcome = runtime.map_err(ServerError::Setup).and_then(|runtime| {
            runtime.block_on(async {
                let signals = Termination::listen().map_err(ServerError::Setup)?;
                ready();
                self.serve(Arc::clone(&controller), options, signals.wait(delay))
                    .await
            })
        });
        let mut controller = controller.lock().unwrap_or_else(PoisonError::into_inner);
        let detached = controller
            .dataplane_mut()
            .detach()
            .map_err(ServerError::Detach);
        outcome.and(detached)
    }
}

fn resolve(text: &str) -> Result<SocketAddr, ServerError> {
    let refuse = |reason: String| ServerError::Address {
        text: text.to_owned(),
        reason,
    };
    let mut addresses = text
        .to_socket_addrs()
        .map_err(|error| refuse(error.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| refuse("the name has no address".to_owned()))
}

/// What `work` returns, or `None` if `limit` is done before.
async fn first<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut limit) = (std::pin::pin!(work), std::pin::pin!(limit));
    std::future::poll_fn(|context| {
        use std::task::Poll;
        match work.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => limit.as_mut().poll(context).map(|()| None),
        }
    })
    .await
}

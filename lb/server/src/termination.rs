//! Ending on a signal, after a delay.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for `SIGINT` and `SIGTERM` from its creation on.
#[derive(Debug)]
pub struct Termination {
    interrupt: Signal,
    terminate: Signal,
}

impl Termination {
    /// Takes over the two signals. Needs a running event loop.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Termination {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Returns `delay` after the first signal, or at the second one.
    ///
    /// katran ignores further signals; here the second one is for whoever does not want to wait.
    pub async fn wait(mut self, delay: Duration) {
        self.next().await;
        let seconds = delay.as_secs_f64();
        tracing::info!("stopping in {seconds} seconds; a second signal stops at once");
        if tokio::time::timeout(delay, self.next()).await.is_ok() {
            tracing::info!("second signal: stopping at once");
        }
    }

    /// Returns at the next signal.
    pub async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let interrupted = self.interrupt.poll_recv(context).is_ready();
            let terminated = self.terminate.poll_recv(context).is_ready();
            match interrupted || terminated {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}

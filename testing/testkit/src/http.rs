//! A small web server for reals and a client that opens a connection for each request.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tiny_http::{Header, Response, Server};

use crate::{Namespace, TestkitError};

/// Header in which a real names itself.
const SERVED_BY: &str = "X-Served-By";
/// Header in which a real says whose connection it saw.
const CLIENT_SEEN: &str = "X-Client";
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running web server; dropping it stops it.
pub struct WebServer {
    server: Arc<Server>,
    served: Arc<AtomicU64>,
}

impl WebServer {
    /// Serves `body_bytes` bytes on `address` to every request, from inside `namespace`.
    ///
    /// # Errors
    /// If the address cannot be bound there.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        body_bytes: usize,
    ) -> Result<WebServer, TestkitError> {
        let what = format!("listening on {address} on {}", namespace.label());
        let listener = namespace
            .run(|| TcpListener::bind(address))?
            .map_err(TestkitError::system(what.clone()))?;
        let server = Server::from_listener(listener, None)
            .map_err(|error| TestkitError::system(what)(io::Error::other(error)))?;
        let (server, served) = (Arc::new(server), Arc::new(AtomicU64::new(0)));
        let (worker, count, name) = (server.clone(), served.clone(), namespace.label().to_owned());
        namespace.spawn(move || {
            let body = vec![b'.'; body_bytes];
            for request in worker.incoming_requests() {
                count.fetch_add(1, Ordering::Relaxed);
                let seen = request
                    .remote_addr()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let response = Response::from_data(body.clone())
                    .with_header(header(SERVED_BY, &name))
                    .with_header(header(CLIENT_SEEN, &seen));
                // A client that went away is its own business.
                let _ = request.respond(response);
            }
        })?;
        Ok(WebServer { server, served })
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

impl std::fmt::Debug for WebServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebServer")
            .field("served", &self.served())
            .finish_non_exhaustive()
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and socket addresses are valid header text")
}

/// What a real answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which real answered.
    pub served_by: String,
    /// The client's address and port as the real saw it.
    pub client_seen: String,
    /// Length of the body in bytes.
    pub body_bytes: usize,
}

/// Sends one request over a new connection from the calling thread's namespace.
///
/// # Errors
/// If no complete answer comes within a minute.
pub fn get(address: SocketAddr) -> Result<Answer, TestkitError> {
    let url = format!("http://{address}/");
    let failed = |error: ureq::Error| TestkitError::Http {
        url: url.clone(),
        reason: error.to_string(),
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let mut response = agent
        .get(&url)
        .header("Connection", "close")
        .call()
        .map_err(failed)?;
    let text = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (served_by, client_seen) = (text(SERVED_BY), text(CLIENT_SEEN));
    let body = response.body_mut().read_to_vec().map_err(failed)?;
    Ok(Answer {
        served_by,
        client_seen,
        body_bytes: body.len(),
    })
}

//! A stand-in for an Azure VM's MSI endpoint, for development and tests. Its tokens look real, and Azure accepts none.
//!
//! One listener speaks the instance metadata service's token protocol (`GET /metadata/identity/oauth2/token`, and two
//! routes beside it that SDKs ask first), that of the 2017 VM extension (`GET` or `POST /oauth2/token`), that of the
//! Azure Arc agent (at `/arc/metadata/identity/oauth2/token`), and as much of Resource Manager as the tutorial needs
//! (`POST /subscriptions/…/listKeys`). A [`Script`] makes it fail in chosen ways.
//!
//! | control route | |
//! |---|---|
//! | `GET /emulator/requests` | `{"count", "in_flight", "requests": [{"path", "query", "method", "headers", "resource", "identity", "at_ms", "concurrent"}]}`: the token requests and all others under `/metadata/`, malformed ones too; the last 10,000 are listed |
//! | `DELETE /emulator/requests` | forgets them and the peaks |
//! | `GET /emulator/peak` | `{"max_concurrent", "max_in_one_second"}` |
//! | `PUT /emulator/script` | replaces the fault script by the TOML in the body; 400 and the reason for a bad one |
//! | `PUT /emulator/identities` | likewise the identities |

mod arc;
mod arm;
mod control;
pub mod demo;
mod endpoint;
mod identity;
mod imds;
mod issue;
mod jwt;
mod metadata;
mod reply;
mod request;
pub mod script;
mod state;
mod storage_account;
mod traffic;
mod vm_extension;
mod wall_clock;

pub use identity::{DEFAULT_CLIENT_ID, DEFAULT_OBJECT_ID, DEFAULT_RESOURCE_ID, IdentitySet, ManagedIdentity};
pub use issue::TENANT_ID;
pub use jwt::{Canary, claims};
pub use script::Script;
pub use storage_account::StorageAccount;

use endpoint::EndpointKind;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use issue::Issuer;
use parking_lot::Mutex;
use reply::{Body, Reply, Reset};
use state::{EmulatorState, Inner};
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use traffic::Traffic;

/// The longest body of a request.
const BODY_LIMIT: usize = 1024 * 1024;

/// How the stand-in is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Whether an address that is not loopback is allowed.
    pub any_address: bool,
    /// How long tokens live.
    pub lifetime: Duration,
    /// The identities of the pretended VM.
    pub identities: IdentitySet,
    /// The faults.
    pub script: Script,
    /// A text in every token, for tests that search for it.
    pub canary: Option<Canary>,
    /// The accounts whose keys Resource Manager lists.
    pub storage_accounts: Vec<StorageAccount>,
    /// The directory of the Arc agent's challenges.
    pub arc_tokens: PathBuf,
}

/// A running stand-in; it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    state: Arc<EmulatorState>,
    accepting: AbortOnDropHandle<Infallible>,
}

/// Why the stand-in does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The stand-in gives tokens to every caller, so by default it listens on loopback only.
    #[error("{0} is not a loopback address; another one needs --any-address")]
    NotLoopback(SocketAddr),
    /// The system refuses the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// A free loopback port, the one identity, 24 hours, no faults.
impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            any_address: false,
            lifetime: Duration::from_hours(24),
            identities: IdentitySet::default(),
            script: Script::default(),
            canary: None,
            storage_accounts: Vec::new(),
            arc_tokens: "/var/opt/azcmagent/tokens".into(),
        }
    }
}

impl Emulator {
    /// Starts the stand-in, which accepts connections from then on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        if !address.ip().is_loopback() && !options.any_address {
            return Err(StartError::NotLoopback(address));
        }
        let cannot = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let state = Arc::new(EmulatorState {
            storage_accounts: options.storage_accounts,
            inner: Mutex::new(Inner {
                identities: options.identities,
                script: options.script,
                issuer: Issuer::new(options.lifetime, options.canary),
                traffic: Traffic::new(tokio::time::Instant::now()),
                challenges: arc::Challenges::new(options.arc_tokens),
            }),
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::clone(&state))));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// The stand-in's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for `upstream.endpoint` of kind `imds`.
    pub fn imds_endpoint(&self) -> String {
        format!("http://{}{}", self.address, imds::PATH)
    }

    /// How many requests have come for paths under `/metadata/` and the other token routes.
    pub fn request_count(&self) -> u64 {
        self.state.inner.lock().traffic.count()
    }

    /// Closes the listener and all connections.
    pub async fn stop(self) {
        self.accepting.abort();
        // The error only says that the task was aborted.
        let _ = self.accepting.await;
    }
}

/// Accepts connections until this task ends, and they end with it.
async fn accept(listener: TcpListener, state: Arc<EmulatorState>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            // The peer has left, or there is no free descriptor at the moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<EmulatorState>) {
    let service = service_fn(move |request| Box::pin(answer(Arc::clone(&state), request)));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let stream = connection.into_parts().io.into_inner();
    if ended.is_err_and(|error| error.source().is_some_and(<dyn Error>::is::<Reset>)) {
        // Zero linger time makes the close a reset. If it cannot be set, the close is an ordinary one.
        let _ = stream.set_zero_linger();
    }
}

async fn answer(state: Arc<EmulatorState>, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return Ok(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "").into_response());
    };
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let path = head.uri.path();
    let reply = if let Some(kind) = EndpointKind::at(path) {
        endpoint::answer(kind, &state, &head, &text).await?
    } else if metadata::is_here(path) {
        metadata::answer(&state, &head)
    } else if path.starts_with(control::PREFIX) {
        control::answer(&state, &head, &text)
    } else if arm::is_here(path) {
        arm::answer(&state, &head)
    } else {
        reply::error(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path")
    };
    Ok(reply.into_response())
}

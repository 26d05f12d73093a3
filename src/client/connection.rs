//! A connection to the daemon: whose it is, one request, one answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::Empty;
use hyper::header::HOST;
use hyper::{Method, Request};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{User, geteuid};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::error::{ClientError, Exit};
use crate::http::{self, ExchangeError, Response};

/// The user that the packaged service runs as.
const SERVICE_USER: &str = "msi-tokend";
/// `/status` and `/metrics` of ten thousand tokens.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// A daemon that is being restarted is back within about this time.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// Where the daemon is to be found.
#[derive(Clone, Debug)]
pub struct Daemon {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nothing is at the socket's path.
    #[error("there is no socket")]
    NoSocket,
    /// A socket is left, and its server is gone.
    #[error("the socket is there and nobody serves it")]
    NotServing,
    /// The socket's queue is full.
    #[error("the socket's queue is full")]
    QueueFull,
    /// The file's mode, or a directory's, keeps us out.
    #[error("permission denied")]
    NoPermission,
    /// Somebody serves there whom we do not trust.
    #[error(
        "its server runs as uid {0}, which is neither root, nor the user {SERVICE_USER}, nor yourself: \
         nothing was asked of it"
    )]
    Foreign(u32),
    /// Nothing came in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The connection ended before the answer did.
    #[error("the connection broke: {0}")]
    Broken(#[from] ExchangeError),
    /// Anything else that the kernel says.
    #[error("{0}")]
    System(io::Error),
}

impl Daemon {
    /// Asks nothing yet.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends one GET, waits for the whole answer, at most `patience` in all.
    pub async fn ask(&self, target: &str, patience: Duration) -> Result<Response, NoAnswer> {
        timeout(patience, self.exchange(Method::GET, target))
            .await
            .unwrap_or(Err(NoAnswer::Silent(patience)))
    }

    /// As [`Daemon::ask`], for those who need not know the reasons apart.
    pub async fn answer(&self, target: &str, patience: Duration) -> Result<Response, ClientError> {
        self.ask(target, patience)
            .await
            .map_err(|reason| self.unreachable(&reason))
    }

    /// As [`Daemon::answer`], but a POST, without a body.
    pub async fn post(&self, target: &str, patience: Duration) -> Result<Response, ClientError> {
        timeout(patience, self.exchange(Method::POST, target))
            .await
            .unwrap_or(Err(NoAnswer::Silent(patience)))
            .map_err(|reason| self.unreachable(&reason))
    }

    async fn exchange(&self, method: Method, target: &str) -> Result<Response, NoAnswer> {
        let stream = UnixStream::connect(&self.socket).await?;
        check_server(&stream)?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "localhost")
            .header("Metadata", "true")
            .body(Empty::new())
            .map_err(|error| NoAnswer::System(io::Error::other(error)))?;
        Ok(http::exchange(stream, request, MAX_BODY).await?)
    }

    /// What to say about it.
    pub fn unreachable(&self, reason: &NoAnswer) -> ClientError {
        let cause = format!("cannot reach msi-tokend at {}: {reason}", self.socket.display());
        let failure = |exit, advice: &'static str| ClientError::new(exit, cause, advice);
        match reason {
            NoAnswer::NoSocket => failure(
                Exit::Unreachable,
                "Start it (`systemctl start msi-tokend.socket`), or name another socket with --socket or \
                 MSI_TOKEND_SOCKET.",
            )
            .retry_in(RESTART_PAUSE),
            NoAnswer::NotServing | NoAnswer::Broken(_) | NoAnswer::System(_) => failure(
                Exit::Unreachable,
                "See `systemctl status msi-tokend` and `journalctl -u msi-tokend` for why it is not running.",
            )
            .retry_in(RESTART_PAUSE),
            NoAnswer::QueueFull | NoAnswer::Silent(_) => failure(
                Exit::Unreachable,
                "It hangs or is overloaded: see `systemctl status msi-tokend`, and `systemctl restart msi-tokend` if it \
                 stays so.",
            )
            .retry_in(RESTART_PAUSE),
            NoAnswer::NoPermission => failure(
                Exit::NotAllowed,
                "An administrator can open the socket (listen.socket_mode and its directory's mode); the rules decide \
                 who gets a token.",
            ),
            NoAnswer::Foreign(_) => failure(
                Exit::Other,
                "Find out who put it there; name the daemon's own socket with --socket or MSI_TOKEND_SOCKET.",
            ),
        }
    }
}

/// The uid of the packaged service, where it is installed.
pub fn service_uid() -> Option<u32> {
    Some(User::from_name(SERVICE_USER).ok()??.uid.as_raw())
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::NotServing,
            io::ErrorKind::WouldBlock => Self::QueueFull,
            io::ErrorKind::PermissionDenied => Self::NoPermission,
            _ => Self::System(error),
        }
    }
}

/// A token request names what a token is wanted for, and its answer is believed: only whoever may be the daemon gets
/// the one and gives the other. The kernel tells who called listen(2); with socket activation that is root.
fn check_server(stream: &UnixStream) -> Result<(), NoAnswer> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|errno| NoAnswer::System(errno.into()))?;
    let uid = peer.uid();
    let is_service =
        || User::from_name(SERVICE_USER).is_ok_and(|user| user.is_some_and(|user| user.uid.as_raw() == uid));
    if uid == 0 || uid == geteuid().as_raw() || is_service() {
        Ok(())
    } else {
        Err(NoAnswer::Foreign(uid))
    }
}

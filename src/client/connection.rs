//! One exchange with the daemon, after a check of who serves the socket.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::error::{ClientError, Exit};
use crate::access::NOBODY;
use crate::access::loopback::{self, Unowned};
use crate::config::{SERVICE_USER, service_user};
use crate::http::{self, ExchangeError, Response};

/// `/status` and `/metrics` of ten thousand tokens.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// A restart of the daemon takes about this long.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// A daemon that has not answered `/live` for so long hangs. A restart takes less, with the 10 s for what runs.
const HANGS: Duration = Duration::from_secs(20);
/// Between two looks at a daemon that holds us.
const LIVE_PAUSE: Duration = Duration::from_secs(1);

/// The daemon, by its socket's path.
#[derive(Clone, Debug)]
pub struct Daemon {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The socket's path does not exist.
    #[error("there is no socket")]
    NoSocket,
    /// The socket's file exists, and no process listens on it.
    #[error("no process listens on the socket")]
    NotServing,
    /// The socket's queue is full.
    #[error("the socket's queue is full")]
    QueueFull,
    /// The mode of the socket's file, or of a directory, denies it.
    #[error("permission denied")]
    NoPermission,
    /// An untrusted user's process listens on the socket.
    #[error("its server runs as uid {0}, and only root, the user {SERVICE_USER} and your own user are trusted; {1}")]
    Foreign(u32, &'static str),
    /// Nothing came in time.
    #[error("no answer within {}", humantime::format_duration(in_seconds(*.0)))]
    Silent(Duration),
    /// The kernel does not tell whose process listens on the port.
    #[error("whose process listens there is not known: {0}")]
    Unowned(#[from] Unowned),
    /// The connection ended before the answer did.
    #[error("the connection broke: {0}")]
    Broken(#[from] ExchangeError),
    /// Any other error of a system call.
    #[error("{0}")]
    System(io::Error),
}

/// What is left of a longer wait is no round number, and nobody reads its nanoseconds.
fn in_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

impl Daemon {
    /// Where the packaged service is.
    pub const SERVICE_SOCKET: &str = "/run/msi-tokend/msi-tokend.sock";

    /// Asks nothing yet.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends one GET and reads the whole answer, within `patience`.
    pub async fn ask(&self, target: &str, patience: Duration) -> Result<Response, NoAnswer> {
        timeout(patience, self.exchange(Method::GET, target))
            .await
            .unwrap_or(Err(NoAnswer::Silent(patience)))
    }

    /// As [`Daemon::ask`], with the client's error.
    pub async fn answer(&self, target: &str, patience: Duration) -> Result<Response, ClientError> {
        self.ask(target, patience)
            .await
            .map_err(|reason| self.unreachable(&reason))
    }

    /// As [`Daemon::answer`], for a token: how long a caller is held is the daemon's to say, so this waits until there is an
    /// answer or the daemon hangs.
    pub async fn held(&self, target: &str) -> Result<Response, ClientError> {
        let answer = tokio::select! {
            answer = self.exchange(Method::GET, target) => answer,
            silent = self.hangs() => Err(silent),
        };
        answer.map_err(|reason| self.unreachable(&reason))
    }

    /// As [`Daemon::held`], at the loopback listener.
    pub async fn held_at(&self, address: SocketAddr, target: &str) -> Result<Response, ClientError> {
        let answer = tokio::select! {
            answer = exchange_at(address, target) => answer,
            silent = self.hangs() => Err(silent),
        };
        answer.map_err(|reason| unreachable(&address, &reason))
    }

    /// Ends when the daemon has not answered `/live` for too long.
    async fn hangs(&self) -> NoAnswer {
        let mut heard = Instant::now();
        loop {
            sleep(LIVE_PAUSE).await;
            let live = self.ask("/live", HANGS.saturating_sub(heard.elapsed())).await;
            if live.is_ok_and(|answer| answer.status != StatusCode::SERVICE_UNAVAILABLE) {
                heard = Instant::now();
            } else if heard.elapsed() >= HANGS {
                return NoAnswer::Silent(HANGS);
            }
        }
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
        Ok(http::exchange(stream, request(method, target, "localhost")?, MAX_BODY).await?)
    }

    /// The client's error for this reason.
    pub fn unreachable(&self, reason: &NoAnswer) -> ClientError {
        unreachable(&self.socket.display(), reason)
    }
}

fn request(method: Method, target: &str, host: &str) -> Result<Request<Empty<Bytes>>, NoAnswer> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, host)
        .header("Metadata", "true");
    request
        .body(Empty::new())
        .map_err(|error| NoAnswer::System(io::Error::other(error)))
}

/// Who serves is known once the answer begins: an accepted socket is its server's.
async fn exchange_at(address: SocketAddr, target: &str) -> Result<Response, NoAnswer> {
    let stream = TcpStream::connect(address).await?;
    let ours = stream.local_addr()?;
    let request = request(Method::GET, target, &address.to_string())?;
    let answer = http::begin(http1::Builder::new(), stream, request).await;
    let answer = answer.map_err(ExchangeError::from)?;
    check_uid(loopback::owner(address, ours)?.uid, "its answer was not taken")?;
    Ok(http::whole(answer, MAX_BODY).await?)
}

fn unreachable(place: &impl Display, reason: &NoAnswer) -> ClientError {
    let cause = format!("cannot reach msi-tokend at {place}: {reason}");
    let failure = |exit, advice: &'static str| ClientError::new(exit, cause, advice);
    match reason {
        NoAnswer::NoSocket => failure(
            Exit::Unreachable,
            "Start it (`systemctl start msi-tokend.socket`), or name another socket with --socket or \
             MSI_TOKEND_SOCKET.",
        )
        .retry_in(RESTART_PAUSE),
        NoAnswer::NotServing | NoAnswer::Broken(_) | NoAnswer::Unowned(Unowned::Gone) | NoAnswer::System(_) => failure(
            Exit::Unreachable,
            "`systemctl status msi-tokend` and `journalctl -u msi-tokend` show why it is not running.",
        )
        .retry_in(RESTART_PAUSE),
        NoAnswer::QueueFull | NoAnswer::Silent(_) => failure(
            Exit::Unreachable,
            "The daemon hangs, is overloaded, or cannot start with its configuration. Look at `systemctl status msi-tokend` \
             and `msi-tokend --check`; if it does not recover, run `systemctl restart msi-tokend`.",
        )
        .retry_in(RESTART_PAUSE),
        NoAnswer::NoPermission => failure(
            Exit::NotAllowed,
            "An administrator can change listen.socket_mode and the mode of the socket's directory. Who gets a token \
             is decided by the rules.",
        ),
        NoAnswer::Unowned(Unowned::Kernel(_)) => failure(
            Exit::Other,
            "A sandbox may forbid the question: systemd's RestrictAddressFamilies= has to have AF_NETLINK.",
        ),
        NoAnswer::Foreign(NOBODY, _) => failure(
            Exit::Other,
            "In a container, or elsewhere in a user namespace, 65534 stands for every user of the host, so that it cannot be \
             told whose process listens there. Ask with `curl --unix-socket`.",
        ),
        NoAnswer::Foreign(..) => failure(
            Exit::Other,
            "Find out which process listens there. Name the daemon's own socket with --socket or MSI_TOKEND_SOCKET.",
        ),
    }
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

/// The client sends requests to a trusted server only, since it believes the answers. The kernel tells who called
/// listen(2); with socket activation that is root.
fn check_server(stream: &UnixStream) -> Result<(), NoAnswer> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|errno| NoAnswer::System(errno.into()))?;
    check_uid(peer.uid(), "no request was sent")
}

fn check_uid(uid: u32, so: &'static str) -> Result<(), NoAnswer> {
    let is_service = || service_user().is_some_and(|user| user.uid.as_raw() == uid);
    if uid == 0 || uid == geteuid().as_raw() || is_service() {
        Ok(())
    } else {
        Err(NoAnswer::Foreign(uid, so))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[test]
    fn a_wait_is_told_in_whole_seconds() {
        for (wait, told) in [
            (Duration::from_nanos(4_999_999_980), "5s"),
            (Duration::from_millis(250), "1s"),
            (Duration::from_secs(90), "1m 30s"),
            (Duration::from_nanos(59_000_000_001), "1m"),
        ] {
            assert_eq!(NoAnswer::Silent(wait).to_string(), format!("no answer within {told}"));
        }
    }

    /// A daemon that holds a caller for `held`, and answers `/live` for `alive`.
    fn daemon(held: Duration, alive: Duration, live: &'static str) -> (TempDir, Daemon) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 1024];
                    let length = stream.read(&mut bytes).await.unwrap();
                    let is_live = bytes[..length].starts_with(b"GET /live ");
                    if !is_live {
                        sleep(held).await;
                    } else if start.elapsed() > alive {
                        std::future::pending::<()>().await;
                    }
                    let status = if is_live { live } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                    _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        (directory, Daemon::at(socket))
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_held_as_long_as_the_daemon_likes_unless_it_hangs() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        for (held, alive, live, answered) in [
            (Duration::ZERO, Duration::ZERO, "200 OK", true),
            (minute * 3 / 2, hour, "200 OK", true),
            (minute * 10, hour, "200 OK", true),
            (minute, hour, "429 Too Many Requests", true),
            (minute, Duration::ZERO, "200 OK", false),
            (minute * 2, minute, "200 OK", false),
            (minute, hour, "503 Service Unavailable", false),
        ] {
            let (_directory, daemon) = daemon(held, alive, live);
            let start = Instant::now();
            let answer = daemon.held("/oauth2/token").await;
            assert_eq!(
                answer.is_ok(),
                answered,
                "held for {held:?}, alive for {alive:?}, {live}"
            );
            if let Err(failure) = answer {
                assert_eq!(failure.exit, Exit::Unreachable);
                assert!(failure.cause.contains("no answer within 20s"), "{failure}");
                assert!(start.elapsed() < held, "{:?}", start.elapsed());
            }
        }
    }
}

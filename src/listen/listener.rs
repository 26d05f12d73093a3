//! A listening socket of either kind, and the errors of opening one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::either::Either;

use super::own_file::OwnFile;
use super::unix_acceptor::UnixAcceptor;
use crate::access::{Socket, bound_unread};
use crate::directory::Untrusted;

/// Accepts callers over the Unix socket or over loopback; from here on both take one way.
pub type Acceptor = Either<UnixAcceptor, TcpListener>;
/// One caller's connection.
pub type Stream = Either<Socket, TcpStream>;

/// What the kernel may hold of requests that wait over TCP, in bytes, as [`SEND_BUFFER`](crate::access::SEND_BUFFER) for answers. Over the Unix socket they
/// are charged to the caller. The kernel takes no less.
pub const RECEIVE_BUFFER: usize = 2304;

/// A listener, and whose it is.
#[derive(Debug)]
pub struct Listener {
    acceptor: Acceptor,
    /// The socket's file, or `sdk.env`, which is removed with the listener if this process made it.
    _file: Option<OwnFile>,
    from_systemd: bool,
}

/// Why there is no socket. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else could put a file of his own in place of the socket or of `sdk.env`, or the directory is not there.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// Something is there that we did not make.
    #[error("{path}: {why}: move it away or set {setting} to another path")]
    Occupied {
        /// The path of the socket or of `sdk.env`.
        path: String,
        /// What is at the path.
        why: &'static str,
        /// The key that names the path.
        setting: &'static str,
    },
    /// Another daemon serves there.
    #[error(
        "{0}: another process is already serving on this socket. If that is the service, it needs no second one \
         (`systemctl status msi-tokend`); else stop it, or set listen.socket to another path"
    )]
    Live(String),
    /// Another process has the port.
    #[error(
        "{address}: another process already listens on this port: stop it (`ss -ltnp` names it) or set {setting} to another port"
    )]
    PortTaken {
        /// The address wanted.
        address: SocketAddr,
        /// The key that names it.
        setting: &'static str,
    },
    /// This process's user may not make a socket there.
    #[error(
        "{path}: uid {uid} may not make a socket there: give it the directory, or set listen.socket to another path"
    )]
    NoPermission {
        /// The socket's path.
        path: String,
        /// The uid of this process.
        uid: u32,
    },
    /// The kernel refused.
    #[error("{place}: cannot listen: {source}")]
    Refused {
        /// The socket's path or address.
        place: String,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon's own requests would come in at this listener.
    #[error("{0}: this is upstream.endpoint as well, so the daemon would ask itself: choose another port")]
    Loop(SocketAddr),
    /// `sdk.env` cannot be written.
    #[error("{path}: cannot write the environment file for Azure SDKs: {source}")]
    Unwritable {
        /// Of `sdk.env`.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel does not name the user behind a loopback connection.
    #[error(
        "a TCP listener cannot tell who calls: {0}: load the kernel's tcp_diag module, or switch that listener off"
    )]
    CallersUnknown(io::Error),
    /// The lock is about the metadata service, and tokens come from elsewhere.
    #[error(
        "the lock needs upstream.kind = \"imds\" with its own endpoint at 169.254.169.254: set them so, or switch \
         msi-tokend-lock.socket off"
    )]
    NotLockable,
}

impl Listener {
    /// A socket that systemd keeps for the next process, with the callers in its queue.
    pub(super) fn from_systemd(acceptor: Acceptor) -> Self {
        Self {
            acceptor,
            _file: None,
            from_systemd: true,
        }
    }

    /// A socket that ends with this process, together with its file.
    pub(super) fn ours(acceptor: Acceptor, file: Option<OwnFile>) -> Self {
        Self {
            acceptor,
            _file: file,
            from_systemd: false,
        }
    }

    /// With a file that leads callers here, which goes with the socket.
    pub(super) fn announced_by(self, file: OwnFile) -> Self {
        Self {
            _file: Some(file),
            ..self
        }
    }

    /// Whether systemd keeps the socket for the next process.
    pub fn is_from_systemd(&self) -> bool {
        self.from_systemd
    }

    /// Where callers are accepted.
    pub fn acceptor(&mut self) -> &mut Acceptor {
        &mut self.acceptor
    }
}

/// Bounds what the kernel holds for each connection of a TCP listener. A connection inherits it when it is made, also
/// where it waits in the queue and data comes in before it is accepted, so this comes before `listen(2)`.
pub(super) fn set_buffers(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    bound_unread(socket)
}

//! Loopback TCP listeners, passed by systemd or bound by the daemon.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::either::Either;

use super::listener::{ListenError, Listener, set_buffers};

/// The longest queue that the kernel allows (`net.core.somaxconn`): a full one makes callers wait.
const BACKLOG: u32 = u16::MAX as u32;

/// A listener at the loopback address that `setting` names. To be called inside the runtime.
pub fn bind(address: SocketAddr, setting: &'static str) -> Result<(Listener, SocketAddr), ListenError> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Lingering connections of a former process do not block the port then; another listener still does.
        socket.set_reuseaddr(true)?;
        set_buffers(&socket)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((Listener::ours(Either::Right(listener), None), address))
    };
    listen().map_err(|source: io::Error| {
        if source.kind() == io::ErrorKind::AddrInUse {
            ListenError::PortTaken { address, setting }
        } else {
            let place = address.to_string();
            ListenError::Refused { place, source }
        }
    })
}

/// The listener that systemd passed. To be called inside the runtime.
pub fn adopt(listener: StdListener, name: &str) -> Result<(Listener, SocketAddr), ListenError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        // For connections to come; those in the queue have the unit's values.
        set_buffers(&listener)?;
        let address = listener.local_addr()?;
        Ok((
            Listener::from_systemd(Either::Right(TcpListener::from_std(listener)?)),
            address,
        ))
    };
    adopt().map_err(|source: io::Error| ListenError::Refused {
        place: format!("the socket \"{name}\" from systemd"),
        source,
    })
}

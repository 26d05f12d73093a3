//! The lock's listener: firewall rules lead to it what programs send to the metadata service. It is there only where systemd
//! passes a socket for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};

use super::listener::{ListenError, Listener};
use super::tcp;
use crate::access::loopback;
use crate::config::Config;

/// Where programs meant to connect.
pub const METADATA_SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);
/// Its `Host`.
pub const METADATA_HOST: &str = "169.254.169.254";

/// Takes the listener over; `None` where the lock is off. To be called inside the runtime.
pub fn open(config: &Config, passed: Option<TcpListener>) -> Result<Option<Listener>, ListenError> {
    let Some(passed) = passed else { return Ok(None) };
    if !config.upstream.is_metadata_service() {
        return Err(ListenError::NotLockable);
    }
    loopback::try_out().map_err(ListenError::CallersUnknown)?;
    let (listener, _) = tcp::adopt(passed, "lock")?;
    Ok(Some(listener))
}

/// Where the client of this connection meant to go, if the lock led it here (`docs/protocol.md`, "The kernel and systemd", row
/// "Address before a redirect"). Whoever dials the listener by itself is no
/// such client: it may come from the port from which root talks to the metadata service, and be taken for root.
pub fn dialled(stream: &impl AsFd) -> io::Result<SocketAddr> {
    let original = getsockopt(stream, sockopt::OriginalDst)?;
    let address = Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
    let original = SocketAddrV4::new(address, u16::from_be(original.sin_port));
    if original == METADATA_SERVICE {
        Ok(original.into())
    } else {
        Err(io::Error::other(format!(
            "the lock did not redirect it: it went to {original}"
        )))
    }
}

//! The loopback listener for unmodified Azure SDKs and other programs: off unless `listen.sdk` is set or systemd passes a
//! socket for it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tracing::{info, warn};

use super::listener::{ListenError, Listener};
use super::{sdk_env, tcp};
use crate::access::loopback;
use crate::config::{self, Config};

/// The listener, and where it is.
pub struct Sdk {
    /// Accepts callers.
    pub listener: Listener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Opens the listener, and writes `sdk.env` for one that ends with this process; `None` where it is off. To be called inside
/// the runtime.
pub fn open(config: &Config, passed: Option<TcpListener>) -> Result<Option<Sdk>, ListenError> {
    let is_ours = passed.is_none();
    let opened = open_or_not(config, passed);
    // Whoever takes the port that a former file names would answer the programs that it leads there.
    if !(is_ours && matches!(opened, Ok(Some(_)))) {
        take_stale_away(&config.listen.sdk_env);
    }
    opened
}

fn take_stale_away(path: &Path) {
    match sdk_env::remove_stale(path) {
        Ok(true) => {
            info!(file = %path.display(), "removed an old environment file: it names a port on which this daemon does not listen");
        }
        Ok(false) => {}
        Err(error) => {
            warn!(file = %path.display(), "an old environment file names a port on which this daemon does not listen, and cannot be removed: {error}; remove it");
        }
    }
}

fn open_or_not(config: &Config, passed: Option<TcpListener>) -> Result<Option<Sdk>, ListenError> {
    let listen = &config.listen;
    let (listener, address) = match (passed, listen.sdk) {
        (Some(listener), _) => tcp::adopt(listener, "sdk")?,
        (None, Some(address)) => tcp::bind(address, "listen.sdk")?,
        (None, None) => return Ok(None),
    };
    // Only the socket itself tells the address that systemd has bound.
    if config::reaches(&config.upstream.endpoint, address) {
        return Err(ListenError::Loop(address));
    }
    loopback::try_out().map_err(ListenError::CallersUnknown)?;
    let listener = if listener.is_from_systemd() {
        listener
    } else {
        listener.announced_by(sdk_env::publish(&listen.sdk_env, address)?)
    };
    Ok(Some(Sdk { listener, address }))
}

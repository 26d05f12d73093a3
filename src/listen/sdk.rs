//! The loopback listener for unmodified Azure SDKs: off unless `listen.sdk` is set or systemd passes a socket for it.

use std::net::{SocketAddr, TcpListener};

use super::listener::{ListenError, Listener};
use super::secret::Secret;
use super::{sdk_env, tcp};
use crate::access::loopback;
use crate::config::{self, Config};

/// The listener, and what its callers must know.
pub struct Sdk {
    /// Accepts callers.
    pub listener: Listener,
    /// What `X-IDENTITY-HEADER` must hold.
    pub secret: Secret,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Opens the listener and writes `sdk.env`; `None` where it is off. To be called inside the runtime.
pub fn open(config: &Config, passed: Option<TcpListener>) -> Result<Option<Sdk>, ListenError> {
    let listen = &config.listen;
    let (listener, address) = match (passed, listen.sdk) {
        (Some(listener), _) => tcp::adopt(listener, "sdk")?,
        (None, Some(address)) => tcp::bind(address, "listen.sdk")?,
        (None, None) => return Ok(None),
    };
    // Only here is it known where systemd's socket listens.
    if config::reaches(&config.upstream.endpoint, address) {
        return Err(ListenError::Loop(address));
    }
    loopback::try_out().map_err(ListenError::CallersUnknown)?;
    let secret = sdk_env::publish(&listen.sdk_env, address)?;
    Ok(Some(Sdk {
        listener,
        secret,
        address,
    }))
}

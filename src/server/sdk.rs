//! The loopback listener for unmodified Azure SDKs: off unless `listen.sdk` is set or systemd passes a socket for it.

use std::net::{SocketAddr, TcpListener};

use super::bound::{BindError, Bound};
use super::gate::Gate;
use super::{sdk_env, tcp};
use crate::access::loopback;
use crate::config::{self, Config};

/// The listener that is ready to serve, with its rules.
pub struct Sdk {
    /// Accepts callers.
    pub bound: Bound,
    /// What their requests must show.
    pub gate: Gate,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Opens the listener and writes `sdk.env`; `None` where it is off. To be called inside the runtime.
pub fn open(config: &Config, passed: Option<TcpListener>) -> Result<Option<Sdk>, BindError> {
    let listen = &config.listen;
    let (bound, address) = match (passed, listen.sdk) {
        (Some(listener), _) => tcp::adopt(listener, "sdk")?,
        (None, Some(address)) => tcp::bind(address, "listen.sdk")?,
        (None, None) => return Ok(None),
    };
    // Only here is it known where systemd's socket listens.
    if config::reaches(&config.upstream.endpoint, address) {
        return Err(BindError::Loop(address));
    }
    loopback::try_out().map_err(BindError::CallersUnknown)?;
    let secret = sdk_env::publish(&listen.sdk_env, address)?;
    let port = address.port();
    Ok(Some(Sdk {
        bound,
        gate: Gate::Sdk { port, secret },
        address,
    }))
}

//! The sockets that systemd passed.

use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{getsockopt, sockopt};

use super::fdstore;

/// What `FileDescriptorName=` calls the loopback listener for SDKs.
const SDK: &str = "sdk";

/// And the lock's listener.
const LOCK: &str = "lock";

/// systemd passed something else than what belongs under its name.
#[derive(Debug, thiserror::Error)]
#[error("systemd passed {what}, which is no {wanted}: check ListenStream= in {unit}")]
pub struct ActivationError {
    /// What was passed.
    what: String,
    /// What is wanted there.
    wanted: &'static str,
    /// Where it is set.
    unit: &'static str,
}

/// systemd's sockets by what they are for.
#[derive(Debug, Default)]
pub struct Activation {
    /// The daemon's own socket, under whatever name.
    pub unix: Option<UnixListener>,
    /// The loopback listener for SDKs.
    pub sdk: Option<TcpListener>,
    /// The lock's listener.
    pub lock: Option<TcpListener>,
    /// What the previous process left in the descriptor store, not checked yet.
    pub tokens: Option<OwnedFd>,
}

impl Activation {
    /// Takes over every descriptor that systemd passed to this process. To be called once.
    pub fn take() -> Result<Self, ActivationError> {
        let descriptors = sd_notify::listen_fds_with_names().map_err(|error| foreign_unix(error.to_string()))?;
        let mut passed = Self::default();
        for (descriptor, name) in descriptors {
            #[expect(
                unsafe_code,
                reason = "systemd passes descriptors by number; each is taken over here once and for all"
            )]
            // SAFETY: sd_listen_fds(3) says that this process owns the descriptor, and nobody else here takes it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            passed.sort_in(descriptor, &name)?;
        }
        Ok(passed)
    }

    fn sort_in(&mut self, descriptor: OwnedFd, name: &str) -> Result<(), ActivationError> {
        let what = format!("a descriptor named \"{name}\"");
        let listens = getsockopt(&descriptor, sockopt::AcceptConn) == Ok(true);
        if name == fdstore::NAME {
            self.tokens = Some(descriptor);
        } else if let Some((place, unit)) = self.loopback(name) {
            let listener = TcpListener::from(descriptor);
            let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
            if !listens || !is_loopback || place.is_some() {
                return Err(foreign_tcp(what, unit));
            }
            *place = Some(listener);
        } else {
            let listener = UnixListener::from(descriptor);
            if !listens || listener.local_addr().is_err() || self.unix.is_some() {
                return Err(foreign_unix(what));
            }
            self.unix = Some(listener);
        }
        Ok(())
    }

    /// Where a loopback listener of this name goes, and the unit that sets it.
    fn loopback(&mut self, name: &str) -> Option<(&mut Option<TcpListener>, &'static str)> {
        match name {
            SDK => Some((&mut self.sdk, "msi-tokend-sdk.socket")),
            LOCK => Some((&mut self.lock, "msi-tokend-lock.socket")),
            _ => None,
        }
    }
}

fn foreign_unix(what: String) -> ActivationError {
    ActivationError {
        what,
        wanted: "listening Unix stream socket, or one too many",
        unit: "msi-tokend.socket",
    }
}

fn foreign_tcp(what: String, unit: &'static str) -> ActivationError {
    ActivationError {
        what,
        wanted: "listening TCP socket on a loopback address, or one too many",
        unit,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_is_passed_is_sorted_by_name_and_judged_by_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let unix = || UnixListener::bind(directory.path().join(fastrand::u32(..).to_string())).unwrap();
        let tcp = |address| TcpListener::bind((address, 0)).unwrap();
        let mut passed = Activation::default();
        passed.sort_in(unix().into(), "msi-tokend.socket").unwrap();
        passed.sort_in(tcp("127.0.0.1").into(), "sdk").unwrap();
        passed.sort_in(tcp("127.0.0.1").into(), "lock").unwrap();
        assert!(passed.unix.is_some() && passed.sdk.is_some() && passed.lock.is_some());
        assert!(passed.sort_in(unix().into(), "other").is_err(), "a second one");
        assert!(passed.sort_in(tcp("127.0.0.1").into(), "sdk").is_err(), "a second one");
        assert!(passed.sort_in(tcp("127.0.0.1").into(), "lock").is_err(), "a second one");

        let refused = |descriptor: OwnedFd, name| Activation::default().sort_in(descriptor, name).is_err();
        assert!(refused(tcp("0.0.0.0").into(), "sdk"), "open to other machines");
        assert!(refused(tcp("127.0.0.1").into(), "msi-tokend.socket"));
        assert!(refused(tcp("0.0.0.0").into(), "lock"), "open to other machines");
        assert!(refused(unix().into(), "sdk"));
        assert!(refused(unix().into(), "lock"));
        assert!(
            refused(UdpSocket::bind("127.0.0.1:0").unwrap().into(), "sdk"),
            "no stream"
        );
        assert!(refused(std::fs::File::open("/dev/null").unwrap().into(), "x"));
    }
}

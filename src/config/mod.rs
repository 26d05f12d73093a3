//! What the administrator wants: the typed configuration, each value with the place it came from.

mod account;
mod doubts;
mod effective;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keep;
mod load;
mod names;
mod numbers;
mod read;
mod schema;
mod service;
#[cfg(test)]
mod tests;
mod values;
mod violation;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

pub use self::account::Account;
pub use self::effective::Effective;
pub use self::load::{Loaded, load, reaches};
pub use self::names::is_unit_name;
pub use self::numbers::{digits, duration};
pub use self::service::{SERVICE_USER, load_as_service, service_user};
pub use self::violation::{Violation, Violations};
use crate::key::{Identity, Key, Resource};

/// Where the packaged service has it.
pub const DEFAULT_PATH: &str = "/etc/msi-tokend/config.toml";

/// The effective configuration: defaults, then `config.toml`, then `conf.d/*.toml` in name order.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[upstream]`
    pub upstream: UpstreamSettings,
    /// `[listen]`
    pub listen: Listen,
    /// `[cache]`
    pub cache: Cache,
    /// `[limits]`
    pub limits: Limits,
    /// `[access]`
    pub access: Access,
    /// `[lock]`
    pub lock: Lock,
    /// `[log]`
    pub log: Log,
    /// `[[warm]]`: fetched at start, kept for ever.
    pub warm: Vec<Key>,
    /// `[[allow]]`, in the order in which they were read.
    pub allow: Vec<Allow>,
}

/// The endpoint that tokens come from, and how hard it may be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Which protocol it speaks.
    pub kind: Kind,
    /// Its `http` address; the kind's own default unless set.
    pub endpoint: Uri,
    /// Requests under way at once, at least 1.
    pub max_concurrent: usize,
    /// Requests started within any one second, at least 1.
    pub max_per_second: usize,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// For a whole request, connection included.
    pub request_timeout: Duration,
}

/// The protocols of `docs/protocol.md`, "Endpoints", that a VM's endpoint may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The instance metadata service, <http://169.254.169.254/metadata/identity/oauth2/token>.
    Imds,
    /// The VM extension of 2017, <http://localhost:50342/oauth2/token>.
    VmExtension,
    /// The Azure Arc agent, <http://localhost:40342/metadata/identity/oauth2/token>.
    Arc,
}

/// Where callers are heard. Fixed for the life of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// The Unix socket; ignored when systemd passes one.
    pub socket: PathBuf,
    /// Its permission bits.
    pub socket_mode: u32,
    /// Loopback HTTP for unmodified Azure SDKs.
    pub sdk: Option<SocketAddr>,
    /// The environment file for such applications; beside the socket unless set.
    pub sdk_env: PathBuf,
    /// `/live`, `/ready` and `/metrics` over loopback TCP.
    pub monitor: Option<SocketAddr>,
}

/// Bounds of the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Keys in all, at least 1 and at least the warm ones.
    pub max_tokens: usize,
    /// Bytes of all tokens together.
    pub max_bytes: usize,
    /// Keys first asked for by one uid, at least 1.
    pub max_tokens_per_uid: usize,
    /// After this long without a request a key is dropped.
    pub idle_drop: Duration,
}

/// Bounds on callers.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections at once, at least 1.
    pub max_connections: usize,
    /// Connections at once of one uid, at least 1.
    pub max_connections_per_uid: usize,
    /// A whole request head must come within it; it also ends idle keep-alive.
    pub header_timeout: Duration,
    /// How long a caller without a token is held.
    pub caller_wait: Duration,
}

/// Who may have tokens besides those whom rules allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// What root may have.
    pub root: RootAccess,
}

/// What root may have: root of a container is uid 0 like the VM's own, unless it has a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootAccess {
    /// Every token.
    Any,
    /// What rules allow.
    Rules,
}

/// What the lock does with those that would ask the metadata service by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    /// What callers without a rule get.
    pub mode: LockMode,
    /// Who goes on asking the metadata service itself, beside root and the daemon.
    pub exempt_users: Vec<Account>,
    /// What is passed on of the rest of the metadata service.
    pub pass: Pass,
}

/// Whether rules are only tried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Nobody is denied anything.
    Observe,
    /// The rules hold.
    Enforce,
}

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// All but what a token could be had from.
    All,
    /// Nothing.
    None,
}

/// What is written to the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// One record per (uid, key) and hour, and per refusal.
    pub audit: bool,
}

/// One `[[allow]]` table as written: names are not looked up yet. An absent list is `None`; across the lists that are
/// given all must match, within one list any entry does.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// Users.
    pub users: Option<Vec<Account>>,
    /// Groups.
    pub groups: Option<Vec<Account>>,
    /// systemd units, by full name.
    pub units: Option<Vec<String>>,
    /// Audiences, where one slash at the end makes no difference. `None` allows any.
    pub resources: Option<Vec<Resource>>,
    /// `client_ids`, `object_ids`, `resource_ids` and `default_identity` in one list, with the identity of `default`. `None`
    /// allows any.
    pub identities: Option<Vec<Identity>>,
    /// `default_client_id`, `default_object_id` or `default_resource_id`: whom callers get that name no identity.
    pub default: Option<Identity>,
    /// Where it stands, for explanations and audit records.
    pub origin: Origin,
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file, as it was opened.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
}

impl Kind {
    /// Where this kind of endpoint listens unless the administrator says otherwise (`docs/protocol.md`, "Endpoints").
    pub fn default_endpoint(self) -> Uri {
        Uri::from_static(match self {
            Self::Imds => "http://169.254.169.254/metadata/identity/oauth2/token",
            Self::VmExtension => "http://localhost:50342/oauth2/token",
            Self::Arc => "http://localhost:40342/metadata/identity/oauth2/token",
        })
    }
}

impl LockMode {
    const NAMES: [(&str, Self); 2] = [("observe", Self::Observe), ("enforce", Self::Enforce)];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, mode)| *mode)
    }
}

impl UpstreamSettings {
    /// Whether tokens come from the metadata service at its own address.
    pub fn is_metadata_service(&self) -> bool {
        self.kind == Kind::Imds
            && self.endpoint.host() == Some("169.254.169.254")
            && self.endpoint.port_u16().unwrap_or(80) == 80
    }
}

impl Listen {
    /// The environment file's place unless set: beside the socket.
    fn sdk_env_beside(socket: &Path) -> PathBuf {
        socket.with_file_name("sdk.env")
    }
}

/// No warm tokens and no rules: only root and the daemon's own uid are served.
impl Default for Config {
    fn default() -> Self {
        let socket = PathBuf::from("/run/msi-tokend/msi-tokend.sock");
        Self {
            upstream: UpstreamSettings {
                kind: Kind::Imds,
                endpoint: Kind::Imds.default_endpoint(),
                max_concurrent: 4,
                max_per_second: 10,
                connect_timeout: Duration::from_secs(2),
                request_timeout: Duration::from_secs(30),
            },
            listen: Listen {
                sdk_env: Listen::sdk_env_beside(&socket),
                socket,
                socket_mode: 0o666,
                sdk: None,
                monitor: None,
            },
            cache: Cache {
                max_tokens: 1000,
                max_bytes: 8_000_000,
                max_tokens_per_uid: 64,
                idle_drop: Duration::from_hours(24),
            },
            limits: Limits {
                max_connections: 1024,
                max_connections_per_uid: 256,
                header_timeout: Duration::from_secs(30),
                caller_wait: Duration::from_secs(20),
            },
            access: Access { root: RootAccess::Any },
            lock: Lock {
                mode: LockMode::Observe,
                exempt_users: vec![Account::Name("root".to_owned())],
                pass: Pass::All,
            },
            log: Log {
                level: tracing::Level::INFO,
                audit: true,
            },
            warm: Vec::new(),
            allow: Vec::new(),
        }
    }
}

/// `file:line`, on one line whatever the file is called.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", violation::printable(&self.file), self.line)
    }
}

//! The list of all keys, used for reading, for printing and for suggestions.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use tracing::Level;

use super::names::{Audience, Selector, Unit, UserOrGroup};
use super::read::Visit;
use super::values::{
    AbsolutePath, Choice, Count, EndpointUrl, List, Loopback, OctalMode, Optional, Period, Size, Switch,
};
use super::{
    Access, Account, Cache, Config, Kind, Limits, Listen, Lock, LockMode, Log, Origin, Pass, RootAccess,
    UpstreamSettings,
};
use crate::key::{Identity, Resource};

/// The configuration while files are merged into it.
pub(super) struct Draft {
    pub(super) upstream: UpstreamSettings,
    /// If it is set. Otherwise it depends on the kind, which a later file may change.
    pub(super) endpoint: Option<Uri>,
    pub(super) listen: Listen,
    /// If it is set. Otherwise it depends on the socket's path.
    pub(super) sdk_env: Option<PathBuf>,
    pub(super) cache: Cache,
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) lock: Lock,
    pub(super) log: Log,
    pub(super) warm: Vec<(Origin, Warm)>,
    pub(super) allow: Vec<(Origin, AllowTable)>,
}

/// One `[[warm]]` table as written.
#[derive(Default)]
pub(super) struct Warm {
    pub(super) resource: Option<Resource>,
    pub(super) client_id: Option<Identity>,
    pub(super) object_id: Option<Identity>,
    pub(super) resource_id: Option<Identity>,
}

/// One `[[allow]]` table as written.
#[derive(Default)]
pub(super) struct AllowTable {
    pub(super) users: Option<Vec<Account>>,
    pub(super) groups: Option<Vec<Account>>,
    pub(super) units: Option<Vec<String>>,
    pub(super) resources: Option<Vec<Resource>>,
    pub(super) client_ids: Option<Vec<Identity>>,
    pub(super) object_ids: Option<Vec<Identity>>,
    pub(super) resource_ids: Option<Vec<Identity>>,
    pub(super) default_identity: Option<bool>,
    pub(super) default_client_id: Option<Identity>,
    pub(super) default_object_id: Option<Identity>,
    pub(super) default_resource_id: Option<Identity>,
}

impl Draft {
    pub(super) fn new(defaults: Config) -> Self {
        Self {
            upstream: defaults.upstream,
            endpoint: None,
            listen: defaults.listen,
            sdk_env: None,
            cache: defaults.cache,
            limits: defaults.limits,
            access: defaults.access,
            lock: defaults.lock,
            log: defaults.log,
            warm: Vec::new(),
            allow: Vec::new(),
        }
    }

    pub(super) fn upstream_keys(&mut self, v: &mut impl Visit) {
        let kinds = Choice(&[
            ("imds", Kind::Imds),
            ("vm-extension", Kind::VmExtension),
            ("arc", Kind::Arc),
        ]);
        let upstream = &mut self.upstream;
        v.value("kind", &mut upstream.kind, &kinds);
        v.value("endpoint", &mut self.endpoint, &Optional(EndpointUrl));
        v.value("max_concurrent", &mut upstream.max_concurrent, &Count);
        v.value("max_per_second", &mut upstream.max_per_second, &Count);
        v.value("connect_timeout", &mut upstream.connect_timeout, &up_to(MINUTE));
        v.value("request_timeout", &mut upstream.request_timeout, &up_to(10 * MINUTE));
    }

    pub(super) fn listen_keys(&mut self, v: &mut impl Visit) {
        let listen = &mut self.listen;
        v.value("socket", &mut listen.socket, &AbsolutePath { max: MAX_SOCKET_PATH });
        v.value("socket_mode", &mut listen.socket_mode, &OctalMode);
        v.value("sdk", &mut listen.sdk, &Optional(Loopback));
        v.value("sdk_env", &mut self.sdk_env, &Optional(AbsolutePath { max: MAX_PATH }));
        v.value("monitor", &mut listen.monitor, &Optional(Loopback));
    }

    pub(super) fn cache_keys(&mut self, v: &mut impl Visit) {
        let cache = &mut self.cache;
        v.value("max_tokens", &mut cache.max_tokens, &Count);
        v.value("max_bytes", &mut cache.max_bytes, &TOKENS);
        v.value("max_tokens_per_uid", &mut cache.max_tokens_per_uid, &Count);
        v.value("idle_drop", &mut cache.idle_drop, &up_to(365 * 24 * 60 * MINUTE));
    }

    pub(super) fn limits_keys(&mut self, v: &mut impl Visit) {
        let limits = &mut self.limits;
        v.value("max_connections", &mut limits.max_connections, &Count);
        v.value("max_connections_per_uid", &mut limits.max_connections_per_uid, &Count);
        v.value("header_timeout", &mut limits.header_timeout, &up_to(60 * MINUTE));
        v.value("caller_wait", &mut limits.caller_wait, &up_to(10 * MINUTE));
    }

    pub(super) fn access_keys(&mut self, v: &mut impl Visit) {
        let words = Choice(&[("any", RootAccess::Any), ("rules", RootAccess::Rules)]);
        v.value("root", &mut self.access.root, &words);
    }

    pub(super) fn lock_keys(&mut self, v: &mut impl Visit) {
        v.value("mode", &mut self.lock.mode, &Choice(&LockMode::NAMES));
        v.value("exempt_users", &mut self.lock.exempt_users, &List(UserOrGroup));
        let passes = Choice(&[("all", Pass::All), ("none", Pass::None)]);
        v.value("pass", &mut self.lock.pass, &passes);
    }

    pub(super) fn log_keys(&mut self, v: &mut impl Visit) {
        let levels = Choice(&[
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
        ]);
        v.value("level", &mut self.log.level, &levels);
        v.value("audit", &mut self.log.audit, &Switch);
    }
}

impl Warm {
    pub(super) fn keys(&mut self, v: &mut impl Visit) {
        v.value("resource", &mut self.resource, &Optional(Audience));
        v.value("client_id", &mut self.client_id, &Optional(CLIENT_ID));
        v.value("object_id", &mut self.object_id, &Optional(OBJECT_ID));
        v.value("resource_id", &mut self.resource_id, &Optional(RESOURCE_ID));
    }
}

impl AllowTable {
    pub(super) fn keys(&mut self, v: &mut impl Visit) {
        v.value("users", &mut self.users, &Optional(List(UserOrGroup)));
        v.value("groups", &mut self.groups, &Optional(List(UserOrGroup)));
        v.value("units", &mut self.units, &Optional(List(Unit)));
        v.value("resources", &mut self.resources, &Optional(List(Audience)));
        v.value("client_ids", &mut self.client_ids, &Optional(List(CLIENT_ID)));
        v.value("object_ids", &mut self.object_ids, &Optional(List(OBJECT_ID)));
        v.value("resource_ids", &mut self.resource_ids, &Optional(List(RESOURCE_ID)));
        v.value("default_identity", &mut self.default_identity, &Optional(Switch));
        v.value("default_client_id", &mut self.default_client_id, &Optional(CLIENT_ID));
        v.value("default_object_id", &mut self.default_object_id, &Optional(OBJECT_ID));
        v.value(
            "default_resource_id",
            &mut self.default_resource_id,
            &Optional(RESOURCE_ID),
        );
    }
}

const MINUTE: Duration = Duration::from_mins(1);
/// Bytes of tokens: at least one token of the largest size, and at most what a restart can hand over.
const TOKENS: Size = Size {
    min: 1_000_000,
    max: 48_000_000,
};
/// `sun_path` of unix(7) less its NUL.
const MAX_SOCKET_PATH: usize = 107;
/// `PATH_MAX` of linux/limits.h less its NUL.
const MAX_PATH: usize = 4095;

pub(super) const CLIENT_ID: Selector = Selector(Identity::client_id);
pub(super) const OBJECT_ID: Selector = Selector(Identity::object_id);
pub(super) const RESOURCE_ID: Selector = Selector(Identity::resource_id);

/// A duration that is long enough to be meant and not longer than `max`.
fn up_to(max: Duration) -> Period {
    Period {
        min: Duration::from_millis(10),
        max,
    }
}

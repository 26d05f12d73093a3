//! What is cached, as a document for people and programs. Never a token.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::{Break, Gap, MissingRule, Tally};
use super::listed::Listed;
use crate::access::{Caller, Rules, UnitsUnknown};
use crate::broker::Entry;
use crate::clock::Now;
use crate::config::LockMode;
use crate::engine::Engine;
use crate::failure::Codes;
use crate::key::{Identity, Resource};

/// The form of `/status`: counts up when a member changes its meaning or goes; new ones may come at any time.
const FORMAT: u32 = 1;

/// `/status`
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The form of this document, 1.
    pub format: u32,
    /// The daemon's version.
    pub version: Cow<'static, str>,
    /// The daemon's wall clock, seconds since 1970.
    pub now: u64,
    /// The endpoint that tokens come from.
    pub endpoint: String,
    /// What the daemon goes by; versions before 0.2.0 do not say.
    pub configuration: Option<ConfigurationStatus>,
    /// Where the loopback listener for programs is; null where it is off.
    pub sdk: Option<SocketAddr>,
    /// Why rules with units match nobody on the Unix socket; null where they do, and where there are none.
    pub units_unknown: Option<UnitsUnknown>,
    /// Who asks.
    pub caller: CallerStatus,
    /// What the lock saw, where it is switched on; for root and the daemon's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockStatus>,
    /// Soonest trouble first: what cannot be served, then by expiry. The last, so that they can be written one by one.
    pub tokens: Vec<TokenStatus>,
}

/// The lock, by the configuration in effect.
#[derive(Debug, Serialize, Deserialize)]
pub struct LockStatus {
    /// What the daemon does; the firewall rules may be of another mode for a moment.
    pub mode: LockMode,
    /// Seconds for which it has observed without a gap; null where it does not.
    pub observed: Option<u64>,
    /// What there was before that.
    pub gap: Gap,
    /// Who asked for what, and no rule allows it.
    pub missing: Vec<MissingRule>,
    /// Requests that the metadata service answers and the daemon would not.
    pub breaks: Vec<Break>,
    /// What users got, by uid.
    pub users: BTreeMap<u32, Tally>,
}

/// The configuration in effect.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Of the files: another one than `config::Loaded` has for those on disk says that they changed since.
    pub hash: String,
    /// Seconds since 1970.
    pub loaded_at: u64,
}

/// The caller, as the rules see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallerStatus {
    /// As the kernel says it.
    pub uid: u32,
    /// It may have every token, rules or not.
    pub privileged: bool,
    /// Rules that are for it, whatever the token.
    pub rules: usize,
}

/// One cached key.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenStatus {
    /// As asked.
    pub resource: Resource,
    /// `default`, `client_id:…`, `object_id:…` or `resource_id:…`.
    pub identity: Identity,
    /// Kept for ever by the configuration.
    pub warm: bool,
    /// Seconds since 1970; null without a token.
    pub expires_on: Option<u64>,
    /// Seconds for which it can still be served; 0 if it cannot.
    pub expires_in: u64,
    /// When the upstream is asked next, seconds since 1970.
    pub next_try: u64,
    /// A request to the upstream is under way or in line.
    pub fetching: bool,
    /// The last failure, null after a good reply.
    pub last_error: Option<String>,
    /// What that was, for programs.
    #[serde(flatten)]
    pub codes: Codes,
    /// Failures in a row.
    pub failures: u32,
    /// When somebody last asked, seconds since 1970.
    pub last_asked: u64,
    /// Answers given from the cache.
    pub hits: u64,
}

/// The document. All keys for root and the daemon's own uid, for others those that they may have.
pub async fn document(
    engine: &Engine,
    configuration: &ConfigurationStatus,
    sdk: Option<SocketAddr>,
    caller: &Caller,
    rules: &Rules,
    units_unknown: Option<UnitsUnknown>,
    lock: Option<LockStatus>,
) -> io::Result<Vec<u8>> {
    let now = engine.now();
    let status = Status {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        now: now.wall.as_secs(),
        endpoint: engine.endpoint(),
        configuration: Some(configuration.clone()),
        sdk,
        units_unknown,
        caller: CallerStatus {
            uid: caller.uid,
            privileged: rules.is_privileged(caller.uid),
            rules: rules.numbers_for(caller).len(),
        },
        lock,
        tokens: Vec::new(),
    };
    let sees_all = rules.is_administrator(caller.uid);
    let mut visible = Listed::default();
    let see = |entry: Entry| {
        if sees_all || rules.judge(caller, &entry.key).is_some() {
            visible.add(entry);
        }
    };
    engine.each_entry(now, see).await;
    visible.written(status, |entry| TokenStatus::new(entry, now)).await
}

impl TokenStatus {
    fn new(entry: &Entry, now: Now) -> Self {
        Self {
            resource: entry.key.resource.clone(),
            identity: entry.key.identity.clone(),
            warm: entry.warm,
            expires_on: entry.expires_on.as_ref().map(Duration::as_secs),
            expires_in: entry.left.as_secs(),
            next_try: now.wall.saturating_add(entry.next_in).as_secs(),
            fetching: entry.fetching,
            last_error: entry.last_failure.as_ref().map(|failure| failure.text.clone()),
            codes: entry
                .last_failure
                .as_ref()
                .map(|failure| failure.codes())
                .unwrap_or_default(),
            failures: entry.failures,
            last_asked: now.wall.saturating_sub(entry.asked_ago).as_secs(),
            hits: entry.hits,
        }
    }
}

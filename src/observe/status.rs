//! What is cached and whether it can be served, as documents for people and agents. Never a token.

use std::time::Duration;

use serde::Serialize;

use crate::access::{Caller, Rules};
use crate::broker::Entry;
use crate::clock::Now;
use crate::engine::Engine;
use crate::key::{Identity, Resource};

/// A key that is not warm is watched by monitoring for so long after its last request.
const WATCHED: Duration = Duration::from_hours(1);
/// The form of `/status`: counts up when a member changes its meaning or goes; new ones may come at any time.
const FORMAT: u32 = 1;

/// `/status`
#[derive(Debug, Serialize)]
pub struct Status {
    /// The form of this document, 1.
    pub format: u32,
    /// The daemon's version.
    pub version: &'static str,
    /// The daemon's wall clock, seconds since 1970.
    pub now: u64,
    /// The endpoint that tokens come from.
    pub endpoint: String,
    /// Who asks.
    pub caller: CallerStatus,
    /// Soonest trouble first: what cannot be served, then by expiry.
    pub tokens: Vec<TokenStatus>,
}

/// The caller, as the rules see it.
#[derive(Debug, Serialize)]
pub struct CallerStatus {
    /// As the kernel says it.
    pub uid: u32,
    /// It may have every token, rules or not.
    pub privileged: bool,
    /// Rules that are for it, whatever the token.
    pub rules: usize,
}

/// One cached key.
#[derive(Debug, Serialize)]
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
    /// Failures in a row.
    pub failures: u32,
    /// When somebody last asked, seconds since 1970.
    pub last_asked: u64,
    /// Answers given from the cache.
    pub hits: u64,
}

/// `/ready`
#[derive(Debug, Serialize)]
pub struct Ready {
    /// Every warm token can be served now.
    pub ready: bool,
    /// The warm tokens, and those that somebody asked for within the last hour.
    pub tokens: Vec<TokenReady>,
}

/// One key that is watched. Monitoring runs as a user that may have no token, so this is told to everybody, as the
/// metrics are.
#[derive(Debug, Serialize)]
pub struct TokenReady {
    /// As asked.
    pub resource: Resource,
    /// As asked.
    pub identity: Identity,
    /// Kept for ever by the configuration.
    pub warm: bool,
    /// It can be served now.
    pub ready: bool,
    /// Seconds for which it can still be served; 0 if it cannot.
    pub expires_in: u64,
    /// Failures in a row since the last good reply.
    pub failures: u32,
    /// Why, or what is wrong with it.
    pub reason: String,
}

/// The keys that the caller may have.
pub fn status(engine: &Engine, caller: &Caller, rules: &Rules) -> Status {
    let (now, entries) = engine.entries();
    let mut visible: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| rules.judge(caller, &entry.key).is_some())
        .collect();
    visible.sort_by(|a, b| (a.left, &a.key).cmp(&(b.left, &b.key)));
    Status {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        now: now.wall.as_secs(),
        endpoint: engine.endpoint(),
        caller: CallerStatus {
            uid: caller.uid,
            privileged: rules.is_privileged(caller.uid),
            rules: rules.count_for(caller),
        },
        tokens: visible.iter().map(|entry| TokenStatus::new(entry, now)).collect(),
    }
}

/// The line of `systemctl status`: how many tokens can be served, and what ails the first of those in trouble.
pub fn line(engine: &Engine) -> String {
    let (_, mut entries) = engine.entries();
    entries.sort_by(|a, b| (a.left, &a.key).cmp(&(b.left, &b.key)));
    summary(&entries)
}

fn summary(entries: &[Entry]) -> String {
    let all = entries.len();
    let served = entries.iter().filter(|entry| !entry.left.is_zero()).count();
    let mut failing = entries
        .iter()
        .filter_map(|entry| Some((&entry.key, entry.last_failure.as_ref()?)));
    let tokens = if all == 1 { "token" } else { "tokens" };
    let trouble = failing.next().map_or_else(String::new, |(key, failure)| {
        let more = match failing.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        format!("; failing: {key}: {}{more}", failure.cause)
    });
    format!("serving {served} of {all} {tokens}{trouble}")
}

/// Whether the warm tokens can be served, and how those fare that are in use.
pub fn ready(engine: &Engine) -> Ready {
    let (_, mut entries) = engine.entries();
    entries.retain(|entry| entry.warm || entry.asked_ago <= WATCHED);
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let tokens: Vec<TokenReady> = entries.iter().map(TokenReady::new).collect();
    Ready {
        ready: tokens.iter().all(|token| token.ready || !token.warm),
        tokens,
    }
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
            last_error: entry.last_failure.as_ref().map(|failure| failure.cause.clone()),
            failures: entry.failures,
            last_asked: now.wall.saturating_sub(entry.asked_ago).as_secs(),
            hits: entry.hits,
        }
    }
}

impl TokenReady {
    fn new(entry: &Entry) -> Self {
        let reason = match (&entry.last_failure, entry.left.as_secs()) {
            (None, 0) => "the first request to the endpoint is under way".to_owned(),
            (None, left) => format!("can be served for {left} s"),
            (Some(failure), 0) => format!("no token; the last request failed: {}", failure.cause),
            (Some(failure), left) => format!("can be served for {left} s; the last refresh failed: {}", failure.cause),
        };
        Self {
            resource: entry.key.resource.clone(),
            identity: entry.key.identity.clone(),
            warm: entry.warm,
            ready: !entry.left.is_zero(),
            expires_in: entry.left.as_secs(),
            failures: entry.failures,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::{Class, Failure};
    use crate::key::Key;

    fn entry(resource: &str, left: u64, failure: Option<&str>) -> Entry {
        let key = Key::new(Resource::new(resource).unwrap(), Identity::Default);
        Entry {
            key: Arc::new(key),
            warm: false,
            expires_on: None,
            left: Duration::from_secs(left),
            next_in: Duration::ZERO,
            fetching: false,
            last_failure: failure.map(|cause| Arc::new(Failure::new(Class::Faulty, cause))),
            failures: 0,
            asked_ago: Duration::ZERO,
            hits: 0,
        }
    }

    #[test]
    fn the_status_line_says_what_is_served_and_what_is_wrong() {
        assert_eq!(summary(&[]), "serving 0 of 0 tokens");
        assert_eq!(summary(&[entry("https://a", 5, None)]), "serving 1 of 1 token");
        let troubled = [
            entry("https://a", 0, Some("connection refused")),
            entry("https://b", 5, Some("HTTP 503")),
            entry("https://c", 6, None),
        ];
        assert_eq!(
            summary(&troubled),
            "serving 2 of 3 tokens; failing: https://a for default: connection refused, and 1 more"
        );
    }
}

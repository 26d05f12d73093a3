//! What is counted. A request that is served from the cache touches plain atomics at places that are known beforehand: no
//! look-up by labels, and no lock that another thread takes. How it reads is in [`super::scrape`].

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::{Denial, Fetched, Label, Outcome, PassedThrough, Rejection, Route};
use super::lock::LockHealth;

/// In seconds. A cached token is served within the first, one that must be fetched takes up to `caller_wait`.
const REQUEST_BUCKETS: [f64; 11] = [0.000_1, 0.000_5, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0];
/// In seconds. The endpoint answers in 50 ms to seconds; `request_timeout` ends what takes longer.
const UPSTREAM_BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// All that is counted since the start.
#[derive(Debug)]
pub struct Metrics {
    /// Requests, by how they ended.
    pub requests: Counters<(Route, Outcome)>,
    /// Requests to the upstream, by how they ended.
    pub upstream: Counters<Fetched>,
    /// Tokens that could not be fetched or renewed.
    pub refresh_failures: Counters<Fetched>,
    /// Requests that were denied (403).
    pub denied: Counters<Denial>,
    /// Connections that were closed before a request was read.
    pub rejected: Counters<Rejection>,
    /// The lock, where it is switched on.
    pub lock: RwLock<Option<LockHealth>>,
    /// Tokens given that no rule allows, because the lock observes.
    pub would_deny: AtomicU64,
    /// What came in at the lock's listener beside token requests.
    pub passed_through: Counters<PassedThrough>,
    /// Of requests for tokens, in seconds.
    pub request_duration: Histogram,
    /// Of requests to the upstream, in seconds.
    pub upstream_duration: Histogram,
    /// Kept by the log itself.
    pub log_dropped: Counter,
    /// When the process started, since 1970.
    pub started: Duration,
}

/// One counter for each label.
#[derive(Debug)]
pub struct Counters<L>(Box<[AtomicU64]>, PhantomData<fn(L)>);

impl Metrics {
    /// Nothing is counted yet, but for the records that the log dropped.
    pub fn new(log_dropped: Counter, started: Duration) -> Self {
        Self {
            requests: Counters::default(),
            upstream: Counters::default(),
            refresh_failures: Counters::default(),
            denied: Counters::default(),
            rejected: Counters::default(),
            lock: RwLock::default(),
            would_deny: AtomicU64::default(),
            passed_through: Counters::default(),
            request_duration: Histogram::new(REQUEST_BUCKETS),
            upstream_duration: Histogram::new(UPSTREAM_BUCKETS),
            log_dropped,
            started,
        }
    }
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Self {
        Self(L::all().map(|_| AtomicU64::default()).collect(), PhantomData)
    }
}

impl<L: Label> Counters<L> {
    /// One more.
    pub fn inc(&self, label: L) {
        if let Some(counter) = self.0.get(label.place()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there were.
    pub fn get(&self, label: L) -> u64 {
        let counter = self.0.get(label.place());
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

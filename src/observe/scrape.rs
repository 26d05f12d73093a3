//! `/metrics`: what was counted, what is cached and how the process fares, in the Prometheus text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{Denial, Fetched, Label, Outcome, PassedThrough, Rejection, Route};
use super::lock::Standing;
use super::metrics::{Counters, Metrics};
use super::process::Process;
use crate::broker::Entry;
use crate::clock::Now;
use crate::engine::Engine;
use crate::key::{Identity, Resource};

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// The whole text as of now; `connections` are those open at this moment.
pub fn text(metrics: &Arc<Metrics>, engine: &Engine, connections: usize) -> String {
    let (now, entries) = engine.entries();
    let scrape = Scrape {
        metrics: Arc::clone(metrics),
        connections,
        servable: entries.iter().filter(|entry| !entry.left.is_zero()).count(),
        tokens: tokens(&entries, now),
        process: Process::look(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Writing to a string does not fail.
    _ = encode(&mut text, &registry);
    text
}

/// One moment.
#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    connections: usize,
    servable: usize,
    tokens: Vec<TokenTimes>,
    process: Process,
}

/// A key's moments, in seconds since 1970.
#[derive(Debug)]
struct TokenTimes {
    labels: [(&'static str, String); 2],
    expiry: Option<u64>,
    refresh: u64,
}

/// Keys that differ only in their client capabilities or authority have the same labels, which a scrape must not hold
/// twice: the one that ends first speaks for them.
fn tokens(entries: &[Entry], now: Now) -> Vec<TokenTimes> {
    let mut soonest: BTreeMap<(&Resource, &Identity), &Entry> = BTreeMap::new();
    for entry in entries {
        let first = soonest
            .entry((&entry.key.resource, &entry.key.identity))
            .or_insert(entry);
        if entry.left < first.left {
            *first = entry;
        }
    }
    let times = soonest.into_values().map(|entry| TokenTimes {
        labels: [
            ("resource", entry.key.resource.to_string()),
            ("identity", entry.key.identity.to_string()),
        ],
        expiry: expiry(entry, now),
        refresh: now.wall.saturating_add(entry.next_in).as_secs(),
    });
    times.collect()
}

/// When the token can be served no more: its own end, or sooner where the boot-time clock says so. Zero for a warm one that
/// is not there, so that an alert on little time left fires for it, too.
fn expiry(entry: &Entry, now: Now) -> Option<u64> {
    let Some(end) = entry.expires_on else {
        return entry.warm.then_some(0);
    };
    // What is left is rounded down to whole seconds, which the series must not follow to and fro.
    let sooner = now.wall.saturating_add(entry.left + Duration::from_secs(1));
    Some(end.min(sooner).as_secs())
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut to)?;
        self.upstream(&mut to)?;
        self.tokens(&mut to)?;
        self.connections(&mut to)?;
        self.process(&mut to)
    }
}

impl Scrape {
    fn requests(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let requests = &self.metrics.requests;
        let help = "Requests by what was asked for and how it ended.";
        let mut family = to.encode_descriptor("msi_tokend_requests", help, None, MetricType::Counter)?;
        let (mut hits, mut misses) = (0, 0);
        for (route, outcome) in <(Route, Outcome)>::all() {
            let count = requests.get((route, outcome));
            if outcome == Outcome::Hit {
                hits += count;
            }
            if outcome.is_miss() && route.has_tokens() {
                misses += count;
            }
            if count > 0 || route.can_end(outcome) {
                family
                    .encode_family(&[("route", route.name()), ("outcome", outcome.name())])?
                    .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
        }
        let help = "Time that answered requests for tokens waited; those from the cache count as 0.";
        histogram(
            to,
            "msi_tokend_request_duration_seconds",
            help,
            &self.metrics.request_duration,
        )?;
        let help = "Requests that were answered from the cache at once.";
        counter(to, "msi_tokend_cache_hits", help, hits)?;
        let help =
            "Requests that found no token in the cache, or one with so little left that a better one was waited for.";
        counter(to, "msi_tokend_cache_misses", help, misses)?;
        if let Some(lock) = *self.metrics.lock.read() {
            let help = "Whether the lock's firewall rules are there; not shown where the lock is off.";
            let loaded = u64::from(lock.state == Standing::Locked);
            gauge(to, "msi_tokend_lock_loaded", help, loaded)?;
        }
        let help = "Tokens given that no rule allows, because the lock observes.";
        let would_deny = self.metrics.would_deny.load(Ordering::Relaxed);
        counter(to, "msi_tokend_lock_would_deny", help, would_deny)?;
        let help = "Requests for anything but a token that the lock led here, by what became of them.";
        counters(
            to,
            "msi_tokend_passed_through",
            help,
            "outcome",
            &self.metrics.passed_through,
            PassedThrough::all(),
            PassedThrough::name,
        )?;
        let help = "Requests that were denied (403), by reason.";
        counters(
            to,
            "msi_tokend_denied",
            help,
            "reason",
            &self.metrics.denied,
            Denial::all(),
            Denial::name,
        )
    }

    fn upstream(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let help = "Requests to the VM's identity endpoint by how they ended.";
        counters(
            to,
            "msi_tokend_upstream_requests",
            help,
            "outcome",
            &metrics.upstream,
            Fetched::all().filter(|fetched| *fetched != Fetched::Full),
            Fetched::name,
        )?;
        let help = "Time that the VM's identity endpoint took.";
        histogram(
            to,
            "msi_tokend_upstream_request_duration_seconds",
            help,
            &metrics.upstream_duration,
        )?;
        let help = "Requests to the VM's identity endpoint that it answered with 429.";
        counter(
            to,
            "msi_tokend_upstream_throttled",
            help,
            metrics.upstream.get(Fetched::Throttled),
        )?;
        let help = "Tokens that could not be fetched or renewed, by reason.";
        counters(
            to,
            "msi_tokend_refresh_failures",
            help,
            "reason",
            &metrics.refresh_failures,
            Fetched::all().filter(|fetched| *fetched != Fetched::Ok),
            Fetched::name,
        )
    }

    fn tokens(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Tokens that can be served from the cache now.";
        gauge(to, "msi_tokend_cached_tokens", help, self.servable as u64)?;
        let help = "When the token can be served no more; 0 for a warm one that is not there.";
        self.each_token(to, "msi_tokend_token_expiry_timestamp_seconds", help, |token| {
            token.expiry
        })?;
        let help = "When the endpoint is asked for the token next.";
        self.each_token(to, "msi_tokend_token_refresh_timestamp_seconds", help, |token| {
            Some(token.refresh)
        })
    }

    fn each_token(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&TokenTimes) -> Option<u64>,
    ) -> fmt::Result {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for token in &self.tokens {
            if let Some(value) = value(token) {
                family.encode_family(&token.labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn connections(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let help = "Connections of callers that are open.";
        gauge(to, "msi_tokend_connections", help, self.connections as u64)?;
        let help = "Connections that were closed before a request was read, by reason.";
        counters(
            to,
            "msi_tokend_connections_rejected",
            help,
            "reason",
            &metrics.rejected,
            Rejection::all(),
            Rejection::name,
        )?;
        let help = "Log records that were lost.";
        counter(to, "msi_tokend_log_dropped", help, metrics.log_dropped.get())
    }

    fn process(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        to.encode_descriptor("msi_tokend_build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        if let Some(cpu) = self.process.cpu {
            let help = "Time spent on the CPU.";
            to.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&cpu.as_secs_f64(), None)?;
        }
        for (name, help, value) in [
            (
                "process_open_fds",
                "File descriptors that are open.",
                self.process.open_fds,
            ),
            (
                "process_max_fds",
                "File descriptors that may be open.",
                self.process.max_fds,
            ),
            (
                "process_virtual_memory_bytes",
                "Address space.",
                self.process.virtual_memory,
            ),
            (
                "process_resident_memory_bytes",
                "Memory in use.",
                self.process.resident_memory,
            ),
        ] {
            if let Some(value) = value {
                gauge(to, name, help, value)?;
            }
        }
        let help = "When the process started.";
        let started = self.metrics.started.as_secs_f64();
        to.encode_descriptor("process_start_time_seconds", help, None, MetricType::Gauge)?
            .encode_gauge(&started)
    }
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, f64>(&value, None)
}

fn counters<L: Label>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    key: &str,
    counters: &Counters<L>,
    shown: impl Iterator<Item = L>,
    label: impl Fn(L) -> &'static str,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for each in shown {
        family
            .encode_family(&[(key, label(each))])?
            .encode_counter::<NoLabelSet, _, f64>(&counters.get(each), None)?;
    }
    Ok(())
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

fn histogram(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
    histogram.encode(to.encode_descriptor(name, help, None, MetricType::Histogram)?)
}

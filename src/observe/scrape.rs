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
use crate::engine::{Engine, SLICE};
use crate::key::Key;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// A line with usual names has some 140 bytes.
const LINE: usize = 192;

/// The whole text as of now; `connections` are those open at this moment. Others have their turn after each slice of the
/// keys.
pub async fn text(metrics: &Arc<Metrics>, engine: &Engine, connections: usize) -> String {
    let (servable, slices) = tokens(engine).await;
    let scrape = Arc::new(Scrape {
        metrics: Arc::clone(metrics),
        connections,
        servable,
        process: Process::look(),
    });
    let mut text = part(&scrape, Scrape::before_tokens);
    // For two lines a token, so that a text of megabytes is not moved while it grows, which takes a millisecond.
    text.reserve(slices.len() * SLICE * 2 * LINE);
    let help = "When the token can be served no more; 0 for a warm one that is not there.";
    let name = "msi_tokend_token_expiry_timestamp_seconds";
    each_token(&mut text, name, help, slices.iter().cloned(), |token| token.expiry).await;
    let help = "When the endpoint is asked for the token next.";
    let name = "msi_tokend_token_refresh_timestamp_seconds";
    each_token(&mut text, name, help, slices, |token| Some(token.refresh)).await;
    text.push_str(&part(&scrape, Scrape::after_tokens));
    text
}

/// One moment, but for the tokens.
#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    connections: usize,
    servable: usize,
    process: Process,
}

/// A key's moments, in seconds since 1970.
#[derive(Debug)]
struct TokenTimes {
    key: Arc<Key>,
    left: Duration,
    expiry: Option<u64>,
    refresh: u64,
}

/// A part of the text, which the library writes of what is registered.
struct Part<T, F>(Arc<T>, F);

impl<T, F> fmt::Debug for Part<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

impl<T, F> Collector for Part<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&T, &mut DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.1(&self.0, &mut to)
    }
}

fn part<T, F>(of: &Arc<T>, write: F) -> String
where
    Part<T, F>: Collector,
{
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Part(Arc::clone(of), write)));
    let mut text = String::new();
    // Writing to a string does not fail.
    _ = encode(&mut text, &registry);
    text
}

/// How many tokens can be served, and the times of each key, in slices. Keys that differ only in their client capabilities
/// or authority have the same labels, which a scrape must not hold twice: the one that ends first speaks for them.
async fn tokens(engine: &Engine) -> (usize, Vec<Arc<Vec<TokenTimes>>>) {
    let now = engine.now();
    let mut servable = 0;
    // Sorted as they come, so that nobody waits for a sort.
    let mut sorted = BTreeMap::new();
    let add = |entry: Entry| {
        servable += usize::from(!entry.left.is_zero());
        let times = TokenTimes::new(&entry, now);
        sorted.insert(entry.key, times);
    };
    engine.each_entry(now, add).await;
    let (mut slices, mut slice) = (Vec::new(), Vec::<TokenTimes>::new());
    for token in sorted.into_values() {
        if let Some(last) = slice.last_mut().filter(|last| last.has_labels_of(&token)) {
            if token.left < last.left {
                *last = token;
            }
            continue;
        }
        if slice.len() == SLICE {
            slices.push(Arc::new(std::mem::take(&mut slice)));
            tokio::task::yield_now().await;
        }
        slice.push(token);
    }
    slices.push(Arc::new(slice));
    (servable, slices)
}

/// A family with a line for each token that has this value.
async fn each_token(
    text: &mut String,
    name: &'static str,
    help: &'static str,
    slices: impl IntoIterator<Item = Arc<Vec<TokenTimes>>>,
    value: fn(&TokenTimes) -> Option<u64>,
) {
    let lines = move |tokens: &Vec<TokenTimes>, to: &mut DescriptorEncoder<'_>| {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for token in tokens {
            if let Some(value) = value(token) {
                let identity = token.key.identity.to_string();
                let labels = [("resource", token.key.resource.as_str()), ("identity", &identity)];
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    };
    // The library begins each part with the head of the family, which stands once.
    let head = part(&Arc::default(), lines);
    text.push_str(&head);
    for slice in slices {
        let part = part(&slice, lines);
        text.push_str(part.strip_prefix(&head).unwrap_or_default());
        tokio::task::yield_now().await;
    }
}

impl TokenTimes {
    fn new(entry: &Entry, now: Now) -> Self {
        Self {
            key: Arc::clone(&entry.key),
            left: entry.left,
            expiry: expiry(entry, now),
            refresh: now.wall.saturating_add(entry.next_in).as_secs(),
        }
    }

    fn has_labels_of(&self, other: &Self) -> bool {
        (&self.key.resource, &self.key.identity) == (&other.key.resource, &other.key.identity)
    }
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

impl Scrape {
    fn before_tokens(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(to)?;
        self.upstream(to)?;
        let help = "Tokens that can be served from the cache now.";
        gauge(to, "msi_tokend_cached_tokens", help, self.servable as u64)
    }

    fn after_tokens(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.connections(to)?;
        self.process(to)
    }

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

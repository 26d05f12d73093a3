//! Records the requests: every one for a token or for another path under `/metadata/`, and how many came at once.

use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How many requests are kept; older ones are only counted.
const KEPT: usize = 10_000;

/// One request, also a malformed one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Seen {
    pub path: String,
    /// The query as it came, not decoded; empty if there is none.
    pub query: String,
    pub method: String,
    /// Names in lower case. Several headers of one name are joined by a comma.
    pub headers: BTreeMap<String, String>,
    /// Decoded; null if the request names none.
    pub resource: Option<String>,
    /// `default`, `client_id:…`, `object_id:…` or `resource_id:…`; null if the request is malformed.
    pub identity: Option<String>,
    /// Milliseconds since the stand-in started.
    pub at_ms: u64,
    /// How many requests were being answered at that moment, including this one.
    pub concurrent: usize,
}

/// The latest requests, with the peaks.
#[derive(Debug)]
pub(super) struct Traffic {
    started: Instant,
    seen: VecDeque<Seen>,
    count: u64,
    in_flight: usize,
    last_second: VecDeque<Instant>,
    peak: Peak,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Peak {
    pub max_concurrent: usize,
    /// The largest number of requests within any second.
    pub max_in_one_second: usize,
}

/// The answer to `GET /emulator/requests`.
#[derive(Debug, Serialize)]
pub(super) struct TrafficReport {
    /// All requests since the start or the last reset, also those that are no longer listed.
    pub count: u64,
    /// How many are being answered now.
    pub in_flight: usize,
    pub requests: Vec<Seen>,
}

impl Traffic {
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            seen: VecDeque::new(),
            count: 0,
            in_flight: 0,
            last_second: VecDeque::new(),
            peak: Peak::default(),
        }
    }

    /// A request begins; fills in `at_ms` and `concurrent`. Every `begin` needs an `end`.
    pub fn begin(&mut self, mut seen: Seen, now: Instant) {
        self.in_flight += 1;
        self.count += 1;
        seen.at_ms = u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        seen.concurrent = self.in_flight;
        self.last_second.push_back(now);
        while self
            .last_second
            .front()
            .is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1))
        {
            self.last_second.pop_front();
        }
        self.peak.max_concurrent = self.peak.max_concurrent.max(self.in_flight);
        self.peak.max_in_one_second = self.peak.max_in_one_second.max(self.last_second.len());
        self.seen.push_back(seen);
        if self.seen.len() > KEPT {
            self.seen.pop_front();
        }
    }

    pub fn end(&mut self) {
        self.in_flight -= 1;
    }

    /// Forgets requests and peaks, but not which requests are being answered.
    pub fn reset(&mut self) {
        self.seen.clear();
        self.last_second.clear();
        self.count = 0;
        self.peak = Peak::default();
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn peak(&self) -> Peak {
        self.peak
    }

    pub fn report(&self) -> TrafficReport {
        TrafficReport {
            count: self.count,
            in_flight: self.in_flight,
            requests: self.seen.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            path: "/p".into(),
            query: String::new(),
            method: "GET".into(),
            headers: BTreeMap::new(),
            resource: None,
            identity: None,
            at_ms: 0,
            concurrent: 0,
        }
    }

    #[test]
    fn peaks_are_those_of_any_moment_and_any_second() {
        let start = Instant::now();
        let mut traffic = Traffic::new(start);
        let begin = |traffic: &mut Traffic, at_ms| traffic.begin(seen(), start + Duration::from_millis(at_ms));
        for at_ms in [0, 400, 800] {
            begin(&mut traffic, at_ms);
        }
        traffic.end();
        begin(&mut traffic, 6200);
        assert_eq!(
            (traffic.peak().max_concurrent, traffic.peak().max_in_one_second),
            (3, 3)
        );
        let report = traffic.report();
        assert_eq!(
            report.requests.iter().map(|r| r.concurrent).collect::<Vec<_>>(),
            [1, 2, 3, 3]
        );
        assert_eq!(
            report.requests.iter().map(|r| r.at_ms).collect::<Vec<_>>(),
            [0, 400, 800, 6200]
        );
        traffic.reset();
        assert_eq!((traffic.count(), traffic.peak().max_concurrent), (0, 0));
        begin(&mut traffic, 6300);
        assert_eq!(traffic.report().requests[0].concurrent, 4);
    }

    #[test]
    fn the_list_is_bounded_and_the_count_is_not() {
        let now = Instant::now();
        let mut traffic = Traffic::new(now);
        for _ in 0..KEPT + 5 {
            traffic.begin(seen(), now);
            traffic.end();
        }
        assert_eq!(traffic.report().requests.len(), KEPT);
        assert_eq!(traffic.count(), KEPT as u64 + 5);
    }
}

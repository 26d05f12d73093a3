//! What the broker noticed, in the log and counted: one line for each change of state, not for each repeat. Repeats are counted, and
//! the line that ends a row of failures says how many there were.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{debug, error, info, warn};

use super::events;
use super::labels::Fetched;
use super::metrics::Metrics;
use crate::broker::Note;
use crate::clock::Now;
use crate::engine::Observer;
use crate::failure::Failure;
use crate::token::Token;

/// Writes the log and counts.
#[derive(Debug)]
pub struct Reporter {
    metrics: Arc<Metrics>,
}

impl Reporter {
    /// Counts there.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Observer for Reporter {
    fn note(&self, note: &Note, now: Now) {
        let now = utc(now.wall);
        if let Note::Failed { failure, .. } = note {
            self.metrics.refresh_failures.inc(Fetched::from(&failure.class));
        }
        match note {
            Note::Refreshed { .. } => refreshed(note, &now),
            Note::Failed { .. } => failed(note, &now),
            Note::Lapsed {
                key,
                expires_on,
                failure,
                failures,
            } => error!(
                message_id = events::TOKEN_EXPIRED, resource = %key.resource, identity = %key.identity,
                outcome = failure.class.name(), cause = failure.cause, failures, expires_on = utc(*expires_on), now,
                "the token has expired and could not be refreshed: callers are refused until the endpoint gives a new one"
            ),
            Note::Throttled {
                failure,
                rounds: 1,
                next_in,
            } => warn!(
                message_id = events::UPSTREAM_THROTTLED,
                outcome = failure.class.name(),
                cause = failure.cause,
                next_in = next_in.as_secs(),
                now,
                "the endpoint says that this VM asks too much: nothing is asked for a while, cached tokens are served"
            ),
            Note::Throttled {
                failure,
                rounds,
                next_in,
            } => debug!(
                cause = failure.cause,
                rounds,
                next_in = next_in.as_secs(),
                "the endpoint still says that this VM asks too much"
            ),
            Note::Unthrottled { rounds } => warn!(rounds, now, "the endpoint answers again and throttles no more"),
            Note::IdentityChanged { key, old, new } => warn!(
                message_id = events::DEFAULT_IDENTITY_CHANGED, resource = %key.resource, identity = %key.identity, old, new,
                "the VM's default identity is another one now: name the identity in requests and rules"
            ),
            Note::Dropped(key) => {
                debug!(resource = %key.resource, identity = %key.identity, "dropped: nobody asks for it");
            }
            Note::Evicted(key) => debug!(resource = %key.resource, identity = %key.identity, "evicted for another key"),
            Note::ClockStepped { by, forward } => {
                let direction = if *forward { "forward" } else { "back" };
                warn!(
                    seconds = by.as_secs(),
                    direction, now, "the wall clock was stepped; refreshes are planned anew"
                );
            }
        }
    }

    fn fetched(&self, outcome: Result<&Token, &Failure>, took: Duration) {
        let outcome = outcome.map_or_else(|failure| Fetched::from(&failure.class), |_| Fetched::Ok);
        self.metrics.upstream.inc(outcome);
        self.metrics.upstream_duration.observe(took.as_secs_f64());
        debug!(
            outcome = outcome.name(),
            milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "upstream request ended"
        );
    }
}

fn refreshed(note: &Note, now: &str) {
    let Note::Refreshed {
        key,
        left,
        expires_on,
        next_in,
        same,
        failures,
        after,
    } = note
    else {
        return;
    };
    let (expires_on, left, next_in) = (utc(*expires_on), left.as_secs(), next_in.as_secs());
    match after {
        None => info!(
            resource = %key.resource, identity = %key.identity, outcome = "ok", expires_in = left, expires_on, next_in, same,
            "token fetched"
        ),
        Some(failure) => warn!(
            message_id = events::REFRESH_RECOVERED, resource = %key.resource, identity = %key.identity, outcome = "ok",
            failures, cause = failure.cause, expires_in = left, expires_on, next_in, now, "token fetched again after failures"
        ),
    }
}

fn failed(note: &Note, now: &str) {
    let Note::Failed {
        key,
        failure,
        failures,
        first,
        left,
        expires_on,
        next_in,
    } = note
    else {
        return;
    };
    let (left, next_in) = (left.as_secs(), next_in.as_secs());
    let outcome = failure.class.name();
    match expires_on {
        _ if !first => debug!(
            resource = %key.resource, identity = %key.identity, outcome, cause = failure.cause, failures,
            expires_in = left, next_in, "still no token from the endpoint"
        ),
        Some(expires_on) if left > 0 => warn!(
            message_id = events::REFRESH_FAILING, resource = %key.resource, identity = %key.identity, outcome,
            cause = failure.cause, failures, expires_in = left, expires_on = utc(*expires_on), next_in, now,
            "the token could not be refreshed and is served on while it lives; retries are counted and not logged"
        ),
        _ => warn!(
            resource = %key.resource, identity = %key.identity, outcome, cause = failure.cause, failures, next_in, now,
            "no token from the endpoint, and none to serve; retries are counted and not logged"
        ),
    }
}

/// A time since 1970 for people; the bare seconds where no calendar reaches.
fn utc(since_1970: Duration) -> String {
    let mut text = String::new();
    let date = UNIX_EPOCH.checked_add(since_1970);
    match date.map(|date| write!(text, "{}", humantime::format_rfc3339_seconds(date))) {
        Some(Ok(())) => text,
        _ => since_1970.as_secs().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_utc_also_where_no_calendar_reaches() {
        assert_eq!(utc(Duration::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(utc(Duration::from_secs(1_764_009_000)), "2025-11-24T18:30:00Z");
        assert_eq!(utc(Duration::from_secs(u64::MAX)), u64::MAX.to_string());
    }
}

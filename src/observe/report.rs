//! What the broker noticed, in the log and counted: one line for each change of state, not for each repeat. Repeats are
//! counted, and the line that ends a row of failures says how many there were.

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
                outcome = failure.class.name(), cause = failure.cause.name(), error = failure.text, failures, expires_on = utc(*expires_on), now,
                "the token has expired and could not be refreshed: callers are refused until the endpoint gives a new one"
            ),
            Note::Throttled {
                failure,
                rounds: 1,
                next_in,
            } => warn!(
                message_id = events::UPSTREAM_THROTTLED,
                outcome = failure.class.name(),
                cause = failure.cause.name(),
                error = failure.text,
                next_in = next_in.as_secs(),
                now,
                "the endpoint throttles this VM (429): the daemon asks it nothing for a while and serves the cached tokens"
            ),
            Note::Throttled {
                failure,
                rounds,
                next_in,
            } => debug!(
                cause = failure.cause.name(),
                error = failure.text,
                rounds,
                next_in = next_in.as_secs(),
                "the endpoint still throttles this VM (429)"
            ),
            Note::Unthrottled { rounds } => warn!(rounds, now, "the endpoint answers again and throttles no more"),
            Note::IdentityChanged { key, old, new } => warn!(
                message_id = events::DEFAULT_IDENTITY_CHANGED, resource = %key.resource, identity = %key.identity, old, new,
                "the VM's default identity is another one now: name the identity in requests and rules"
            ),
            Note::Dropped(key) => {
                debug!(resource = %key.resource, identity = %key.identity, "token dropped: nobody asked for it within cache.idle_drop");
            }
            Note::Evicted(key) => {
                debug!(resource = %key.resource, identity = %key.identity, "token dropped to make room for another one");
            }
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
            failures, cause = failure.cause.name(), error = failure.text, expires_in = left, expires_on, next_in, now, "token fetched again after failures"
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
            resource = %key.resource, identity = %key.identity, outcome, cause = failure.cause.name(), error = failure.text, failures,
            expires_in = left, next_in, "still no token"
        ),
        Some(expires_on) if left > 0 => warn!(
            message_id = events::REFRESH_FAILING, resource = %key.resource, identity = %key.identity, outcome,
            cause = failure.cause.name(), error = failure.text, failures, expires_in = left, expires_on = utc(*expires_on), next_in, now,
            "the token could not be refreshed and is served on while it lives; retries are counted and not logged"
        ),
        _ => warn!(
            resource = %key.resource, identity = %key.identity, outcome, cause = failure.cause.name(), error = failure.text, failures, next_in, now,
            "no token could be had, and there is none to serve; retries are counted and not logged"
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
    use std::sync::Arc;

    use prometheus_client::metrics::counter::Counter;
    use tracing::Level;

    use super::super::record::testing::records;
    use super::*;
    use crate::failure::{Cause, Class, Refusal};
    use crate::key::{Identity, Key, Resource};

    const NOW: Now = Now {
        wall: Duration::from_secs(1_764_009_000),
        boot: Duration::from_secs(50),
    };

    /// Level and text of what an operator sees at the level `info`, with the message id where there is one.
    fn log(notes: &[Note]) -> Vec<(Level, String, Option<String>)> {
        let records = records(|| {
            let reporter = Reporter::new(Arc::new(Metrics::new(Counter::default(), Duration::ZERO)));
            for note in notes {
                reporter.note(note, NOW);
            }
        });
        let seen = records.into_iter().filter(|record| record.level <= Level::INFO);
        seen.map(|record| {
            let id = record.fields.iter().find(|(name, _)| *name == "message_id");
            (record.level, record.text(), id.map(|(_, id)| id.clone()))
        })
        .collect()
    }

    fn key() -> Arc<Key> {
        let resource = Resource::new("https://storage.azure.com/").unwrap();
        Arc::new(Key::new(resource, Identity::client_id("ABC").unwrap()))
    }

    fn failed(class: Class, cause: &str, nth: u32, first: bool, left: u64) -> Note {
        Note::Failed {
            key: key(),
            failure: Arc::new(Failure::new(class, Cause::Status, cause)),
            failures: nth,
            first,
            left: Duration::from_secs(left),
            expires_on: Some(Duration::from_secs(1_764_012_600)),
            next_in: Duration::from_secs(8),
        }
    }

    fn refreshed(failures: u32, after: Option<Failure>) -> Note {
        Note::Refreshed {
            key: key(),
            left: Duration::from_hours(24),
            expires_on: NOW.wall + Duration::from_hours(24),
            next_in: Duration::from_hours(12),
            same: false,
            failures,
            after: after.map(Arc::new),
        }
    }

    #[test]
    fn a_row_of_failures_is_a_line_at_its_start_and_one_at_its_end() {
        let mut notes = vec![failed(Class::Faulty, "HTTP 503", 1, true, 3600)];
        notes.extend((2..100).map(|nth| failed(Class::Faulty, "HTTP 503", nth, false, 3500)));
        let refusal = Refusal {
            error: Some("e".to_owned()),
            error_description: "d".to_owned(),
        };
        notes.push(failed(Class::Refused(refusal), "HTTP 400", 100, true, 3000));
        notes.push(refreshed(
            100,
            Some(Failure::new(Class::Faulty, Cause::Status, "HTTP 400")),
        ));
        let lines = log(&notes);
        let [start, another, end] = lines.as_slice() else {
            panic!("{lines:#?}")
        };
        assert_eq!(start.0, Level::WARN);
        assert_eq!(start.2.as_deref(), Some(events::REFRESH_FAILING));
        for part in [
            "resource=https://storage.azure.com/",
            "identity=client_id:abc",
            "outcome=faulty",
            "cause=status",
            "error=\"HTTP 503\"",
            "expires_in=3600",
            "expires_on=2025-11-24T19:30:00Z",
            "next_in=8",
            "now=2025-11-24T18:30:00Z",
        ] {
            assert!(start.1.contains(part), "{part} in {}", start.1);
        }
        assert!(
            another.1.contains("outcome=refused") && another.1.contains("HTTP 400"),
            "{}",
            another.1
        );
        assert_eq!(
            (end.0, end.2.as_deref()),
            (Level::WARN, Some(events::REFRESH_RECOVERED))
        );
        for part in [
            "failures=100",
            "cause=status",
            "error=\"HTTP 400\"",
            "expires_on=2025-11-25T18:30:00Z",
            "now=2025-11-24",
        ] {
            assert!(end.1.contains(part), "{part} in {}", end.1);
        }
    }

    #[test]
    fn a_key_that_never_had_a_token_is_no_failing_refresh() {
        let lines = log(&[failed(Class::Restarting, "connection refused", 1, true, 0)]);
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        assert_eq!((line.0, &line.2), (Level::WARN, &None));
        assert!(line.1.contains("connection refused"));
    }

    #[test]
    fn a_token_that_ends_for_want_of_a_refresh_is_an_error() {
        let lines = log(&[Note::Lapsed {
            key: key(),
            expires_on: NOW.wall,
            failure: Arc::new(Failure::new(Class::Restarting, Cause::Connect, "connection refused")),
            failures: 40,
        }]);
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        assert_eq!((line.0, line.2.as_deref()), (Level::ERROR, Some(events::TOKEN_EXPIRED)));
        for part in [
            "cause=connect",
            "error=\"connection refused\"",
            "failures=40",
            "expires_on=2025-11-24T18:30:00Z",
        ] {
            assert!(line.1.contains(part), "{part} in {}", line.1);
        }
    }

    #[test]
    fn throttles_are_one_state_of_the_endpoint_and_not_one_of_each_key() {
        let throttled = |rounds| Note::Throttled {
            failure: Arc::new(Failure::new(Class::Throttled(None), Cause::Status, "HTTP 429")),
            rounds,
            next_in: Duration::from_secs(9),
        };
        let mut notes = vec![failed(Class::Throttled(None), "HTTP 429", 1, false, 3600), throttled(1)];
        notes.extend((2..20).map(throttled));
        notes.push(Note::Unthrottled { rounds: 19 });
        notes.push(refreshed(19, None));
        let lines = log(&notes);
        let [start, end, fetched] = lines.as_slice() else {
            panic!("{lines:#?}")
        };
        assert_eq!(
            (start.0, start.2.as_deref()),
            (Level::WARN, Some(events::UPSTREAM_THROTTLED))
        );
        assert!(start.1.contains("next_in=9"), "{}", start.1);
        assert!(end.0 == Level::WARN && end.1.contains("rounds=19"), "{}", end.1);
        assert_eq!((fetched.0, &fetched.2), (Level::INFO, &None));
    }

    #[test]
    fn a_time_is_told_in_utc_also_where_no_calendar_reaches() {
        assert_eq!(utc(Duration::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(utc(Duration::from_secs(1_764_009_000)), "2025-11-24T18:30:00Z");
        assert_eq!(utc(Duration::from_secs(u64::MAX)), u64::MAX.to_string());
    }
}

//! What the broker noticed, in the log and counted: one line for each change of state, not for each repeat.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::events;
use super::labels::Fetched;
use super::metrics::Metrics;
use crate::broker::Note;
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
    fn note(&self, note: &Note) {
        if let Note::Failed { failure, .. } = note {
            self.metrics.refresh_failures.inc(Fetched::from(&failure.class));
        }
        match note {
            Note::Refreshed {
                key,
                left,
                next_in,
                failures: 0,
                same,
            } => {
                let (expires_in, next_in) = (left.as_secs(), next_in.as_secs());
                info!(resource = %key.resource, identity = %key.identity, outcome = "ok", expires_in, next_in, same, "token fetched");
            }
            Note::Refreshed {
                key,
                left,
                next_in,
                failures,
                ..
            } => {
                let (expires_in, next_in) = (left.as_secs(), next_in.as_secs());
                warn!(message_id = events::REFRESH_RECOVERED, resource = %key.resource, identity = %key.identity, outcome = "ok", failures, expires_in, next_in,
                    "token fetched again after failures");
            }
            Note::Failed {
                key,
                failure,
                failures: 1,
                left,
                next_in,
            } => {
                let (left, next_in) = (left.as_secs(), next_in.as_secs());
                warn!(message_id = events::REFRESH_FAILING, resource = %key.resource, identity = %key.identity, outcome = failure.class.name(),
                    cause = failure.cause, expires_in = left, next_in, "no token from the upstream; retries are counted and not logged");
            }
            Note::Failed {
                key,
                failure,
                failures,
                left,
                next_in,
            } => {
                let (left, next_in) = (left.as_secs(), next_in.as_secs());
                debug!(resource = %key.resource, identity = %key.identity, outcome = failure.class.name(),
                    cause = failure.cause, failures, expires_in = left, next_in, "still no token from the upstream");
            }
            Note::IdentityChanged { key, old, new } => {
                warn!(message_id = events::DEFAULT_IDENTITY_CHANGED, resource = %key.resource, identity = %key.identity, old, new,
                    "the VM's default identity is another one now: name the identity in requests and rules");
            }
            Note::Dropped(key) => {
                debug!(resource = %key.resource, identity = %key.identity, "dropped: nobody asks for it");
            }
            Note::Evicted(key) => debug!(resource = %key.resource, identity = %key.identity, "evicted for another key"),
            Note::ClockStepped { by, forward } => {
                let direction = if *forward { "forward" } else { "back" };
                warn!(
                    seconds = by.as_secs(),
                    direction, "the wall clock was stepped; refreshes are planned anew"
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

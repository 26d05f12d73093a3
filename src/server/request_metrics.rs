//! Counts a request when it is over, also when nobody waits for its answer any more.

use std::time::Duration;

use super::problem::Problem;
use super::protocol::Protocol;
use super::request::Route;
use crate::observe::labels::{self, Outcome};
use crate::observe::metrics::Metrics;

/// A request under way.
pub struct RequestMetrics<'a> {
    metrics: &'a Metrics,
    route: labels::Route,
    /// What had to be waited for; the rest of a request takes microseconds, less than a look at the clock is worth.
    waited: Duration,
    outcome: Outcome,
}

impl<'a> RequestMetrics<'a> {
    /// A request has come.
    pub fn start(metrics: &'a Metrics, route: Option<Route>) -> Self {
        Self {
            metrics,
            route: label(route),
            waited: Duration::ZERO,
            outcome: Outcome::Abandoned,
        }
    }

    /// The token had to be waited for.
    pub fn waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    /// There is an answer.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// There is an answer, and it says why not.
    pub fn fail(&mut self, problem: &Problem) {
        self.outcome = problem.outcome;
        if let Some(denial) = problem.denial {
            self.metrics.denied.inc(denial);
        }
    }
}

impl Drop for RequestMetrics<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        metrics.requests.inc((self.route, self.outcome));
        if self.route.has_tokens() && self.outcome != Outcome::Abandoned {
            metrics.request_duration.observe(self.waited.as_secs_f64());
        }
    }
}

fn label(route: Option<Route>) -> labels::Route {
    match route {
        Some(Route::Token(Protocol::Imds)) => labels::Route::Imds,
        Some(Route::Token(Protocol::VmExtension)) => labels::Route::VmExtension,
        Some(Route::Token(Protocol::AppService)) => labels::Route::AppService,
        Some(Route::Live) => labels::Route::Live,
        Some(Route::Ready) => labels::Route::Ready,
        Some(Route::Status) => labels::Route::Status,
        Some(Route::Metrics) => labels::Route::Metrics,
        Some(Route::Reload) => labels::Route::Reload,
        Some(Route::Metadata) => labels::Route::Metadata,
        None => labels::Route::Unknown,
    }
}

//! Why the upstream gave no token: a value that is shared by every caller it concerns.
//!
//! No text of an upstream's body gets in here, except `error` and `error_description` of a refusal, bounded and made
//! printable by whoever builds it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One failed request to the upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What it means for the next try.
    pub class: Class,
    /// What happened, for logs, `/status` and callers: "connection refused", "HTTP 503", "no answer within 30s".
    pub cause: String,
}

/// The rows of `docs/protocol.md`, "When the endpoint fails".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Connection refused, 404, 410: the endpoint restarts or is updated and will be back.
    Restarting,
    /// Reset, time-out, other 5xx, a 200 that is not a token, a redirect.
    Faulty,
    /// 429, with the upstream's `Retry-After` where it sent one. Counts for all keys.
    Throttled(Option<Duration>),
    /// Any other 4xx: asking again changes nothing until somebody changes the VM's identities or the request.
    Refused(Refusal),
    /// It gave a token, for which the cache has no room. The one class that is our own.
    Full,
}

/// The upstream's own words on why it will not issue a token; printable and bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// An OAuth error code, such as `invalid_request`.
    pub error: String,
    /// For people.
    pub error_description: String,
}

impl Failure {
    /// A failure with no more to it than its class and cause.
    pub fn new(class: Class, cause: impl Into<String>) -> Self {
        Self {
            class,
            cause: cause.into(),
        }
    }
}

impl Class {
    /// The class as a metric's label and a log field.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Restarting => "restarting",
            Self::Faulty => "faulty",
            Self::Throttled(_) => "throttled",
            Self::Refused(_) => "refused",
            Self::Full => "full",
        }
    }
}

//! Why the upstream gave no token: a value that is shared by every caller it concerns.
//!
//! Text is for people and codes are for programs: [`Codes`] stand beside the text in every JSON answer, and a client decides
//! by them alone. Of an upstream's body only what `upstream/quote.rs` lets through gets in here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One failed request to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means for the next try.
    pub class: Class,
    /// What happened.
    pub cause: Cause,
    /// The HTTP status of the upstream's answer, if there was one.
    pub status: Option<u16>,
    /// What happened, for people: "connection refused", "HTTP 503", "no answer within 30s".
    pub text: String,
}

/// What a failure means for the next try (`docs/protocol.md`, "When the endpoint fails").
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// An OAuth error code, such as `invalid_request`; none where the answer was no JSON.
    pub error: Option<String>,
    /// For people.
    pub error_description: String,
}

/// What happened, as a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There is no connection.
    Connect,
    /// The exchange broke off.
    Reset,
    /// No answer came in time.
    Timeout,
    /// The HTTP status says it.
    Status,
    /// A redirect, which is not followed.
    Redirect,
    /// A 200 whose body is no token.
    NotAToken,
    /// The body is larger than any token's.
    TooLarge,
    /// A token for another resource.
    WrongResource,
    /// A token for another identity.
    WrongIdentity,
    /// A token that is over by this machine's clock.
    Expired,
    /// One without a code here, or of another version.
    #[serde(other)]
    Other,
}

impl Cause {
    /// The code, for a log field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::NotAToken => "not_a_token",
            Self::TooLarge => "too_large",
            Self::WrongResource => "wrong_resource",
            Self::WrongIdentity => "wrong_identity",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }
}

/// Who must do something about an error, as a code: the first four are the endpoint's, the others the daemon's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// As [`Class::Restarting`].
    Restarting,
    /// As [`Class::Faulty`].
    Faulty,
    /// As [`Class::Throttled`].
    Throttled,
    /// As [`Class::Refused`].
    Refused,
    /// The request is wrong; asking the same again does not help.
    BadRequest,
    /// The caller may not.
    Denied,
    /// A bound is reached.
    Full,
    /// The caller's wait ran out and the endpoint has said nothing.
    Timeout,
    /// The daemon ends.
    Stopping,
    /// A class of another version.
    #[serde(other)]
    Other,
}

/// The codes of an error or a failure, as every JSON answer has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codes {
    /// Who must do something about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ErrorClass>,
    /// What happened, where that has a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The HTTP status of the endpoint's answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// The endpoint's own `error`, if it said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_error: Option<String>,
}

impl Failure {
    /// A failure without an answer.
    pub fn new(class: Class, cause: Cause, text: impl Into<String>) -> Self {
        Self {
            class,
            cause,
            status: None,
            text: text.into(),
        }
    }

    /// The failure that an answer with this status is.
    #[must_use]
    pub fn answered(self, status: u16) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    /// For programs.
    pub fn codes(&self) -> Codes {
        let (class, upstream_error) = match &self.class {
            Class::Restarting => (ErrorClass::Restarting, None),
            Class::Faulty => (ErrorClass::Faulty, None),
            Class::Throttled(_) => (ErrorClass::Throttled, None),
            Class::Refused(refusal) => (ErrorClass::Refused, refusal.error.clone()),
            Class::Full => (ErrorClass::Full, None),
        };
        Codes {
            class: Some(class),
            cause: (self.cause != Cause::Other).then_some(self.cause),
            upstream_status: self.status,
            upstream_error,
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

impl From<ErrorClass> for Codes {
    fn from(class: ErrorClass) -> Self {
        Self {
            class: Some(class),
            ..Self::default()
        }
    }
}

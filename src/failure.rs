//! Why the upstream gave no token. All callers that wait for the token get the same [`Failure`].
//!
//! Its text is for people and its codes are for programs: [`Codes`] are in every JSON error, and a client decides by them
//! alone. The text quotes an upstream's body only by way of `upstream/quote.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One failed request to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the failure means for the next try.
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
    /// 429, with the upstream's `Retry-After`, if any. Holds for all keys.
    Throttled(Option<Duration>),
    /// Any other 4xx: asking again changes nothing until somebody changes the VM's identities or the request.
    Refused(Refusal),
    /// The upstream gave a token, and the cache has no room for it. The only class that is not the endpoint's doing.
    Full,
}

/// The upstream's own words on why it issues no token; printable, and of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// An OAuth error code, such as `invalid_request`; none if the answer was no JSON.
    pub error: Option<String>,
    /// The text for people.
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
    /// The answer's HTTP status is an error.
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
    /// A token that has expired by this machine's clock.
    Expired,
    /// The kernel does not tell the caller's unit, which a rule asks for.
    UnitUnknown,
    /// A cause without a code, or with a code of another version.
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
            Self::UnitUnknown => "unit_unknown",
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
    /// The caller may not have the token.
    Denied,
    /// A bound is reached.
    Full,
    /// The caller's wait is over and the endpoint has not answered.
    Timeout,
    /// The daemon is stopping.
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
    /// What happened, if it has a code.
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

    /// The same failure with the answer's status.
    #[must_use]
    pub fn answered(self, status: u16) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    /// The codes of this failure.
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

//! Error answers: a status, an OAuth error code and a sentence that says what to do, in the protocol of the route.
//!
//! SDKs act on the status alone (`docs/protocol.md`, "What SDKs do", row "Statuses"): 400 and 403 end their tries, 429
//! and 503 with a small `Retry-After` start another soon. 404 and 410 make them hang for a minute, so no fault of our own is
//! answered with them.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;

use super::protocol::Protocol;
use crate::access::{Caller, NOBODY, UnitsUnknown};
use crate::broker::{Bound, Unserved};
use crate::failure::{Cause, Class, Codes, ErrorClass, Failure};
use crate::key::{Identity, Key};
use crate::observe::labels::{Denial, Outcome};

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// An OAuth error code.
    pub error: String,
    /// For people: what was wrong and what to do.
    pub description: String,
    /// Seconds, 1 to 10, where another try makes sense.
    pub retry_after: Option<u8>,
    /// The methods that would do, for a 405.
    pub allow: Option<&'static str>,
    /// Whether the connection's framing can no longer be trusted.
    pub close: bool,
    /// What it counts as.
    pub outcome: Outcome,
    /// Why the caller may not, for a 403.
    pub denial: Option<Denial>,
    /// For programs.
    pub codes: Codes,
    newest_versions: &'static [&'static str],
}

/// `docs/protocol.md`, "Errors", row "Form", with what App Service has besides.
#[derive(Serialize)]
struct ErrorJson<'a> {
    #[serde(rename = "statusCode", skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    error: &'a str,
    error_description: &'a str,
    #[serde(flatten)]
    codes: &'a Codes,
    #[serde(rename = "newest-versions", skip_serializing_if = "<[_]>::is_empty")]
    newest_versions: &'a [&'static str],
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            description: description.into(),
            retry_after: None,
            allow: None,
            close: false,
            outcome: match status {
                StatusCode::FORBIDDEN => Outcome::Denied,
                StatusCode::TOO_MANY_REQUESTS => Outcome::Throttled,
                StatusCode::CONFLICT => Outcome::Refused,
                StatusCode::SERVICE_UNAVAILABLE => Outcome::Unavailable,
                StatusCode::GATEWAY_TIMEOUT => Outcome::TimedOut,
                _ => Outcome::BadRequest,
            },
            denial: None,
            codes: Codes::from(match status {
                StatusCode::FORBIDDEN => ErrorClass::Denied,
                StatusCode::TOO_MANY_REQUESTS => ErrorClass::Full,
                StatusCode::SERVICE_UNAVAILABLE => ErrorClass::Stopping,
                StatusCode::GATEWAY_TIMEOUT => ErrorClass::Timeout,
                _ => ErrorClass::BadRequest,
            }),
            newest_versions: &[],
        }
    }

    /// 400: asking the same again will not help.
    pub fn invalid_request(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    /// 400 as the metadata service has it, with the versions to choose from.
    pub fn bad_api_version() -> Self {
        let description =
            "Bad request. api-version is invalid or was not specified in the request: use one from 2018-02-01 on.";
        Self {
            newest_versions: &["2025-04-07", "2021-02-01", "2018-02-01"],
            ..Self::invalid_request(description)
        }
    }

    /// 400 for the header that shows that no browser or proxy was tricked into this request.
    pub fn missing_header() -> Self {
        Self::invalid_request(
            "Required header not specified: Metadata: true, or X-IDENTITY-HEADER or secret with any value.",
        )
    }

    /// 403 for a request that a web page, or an application that fetches what it is told, may have caused.
    pub fn untrusted(denial: Denial, description: impl Into<String>) -> Self {
        Self::denied(denial, description)
    }

    fn denied(denial: Denial, description: impl Into<String>) -> Self {
        Self {
            denial: Some(denial),
            ..Self::new(StatusCode::FORBIDDEN, "access_denied", description)
        }
    }

    /// 403 that says who asked, for what, and where the administrator looks; what the rules are is not told. SDKs take a 403
    /// with the word "unreachable" in it for a VM without the endpoint (`docs/protocol.md`, "What SDKs do", row
    /// "unreachable"), so what holds the word is not repeated.
    pub fn forbidden(caller: &Caller, key: &Key) -> Self {
        let uid = caller.uid;
        let also_root = if uid == 0 {
            " Root needs a rule here, too: access.root is \"rules\"."
        } else {
            ""
        };
        // For a uid that stands for more than one user none is proposed.
        let and_rule = if uid == NOBODY {
            ""
        } else {
            ", and the rule that would allow it,"
        };
        // Over TCP a unit that no rule asks for takes a search, which is for the log's thread.
        let unit = caller.unit_or_cgroup().0.map(|unit| format!(" in {unit}"));
        let or_not = |text: String, otherwise: &str| {
            if text.to_ascii_lowercase().contains("unreachable") {
                otherwise.to_owned()
            } else {
                text
            }
        };
        let who = or_not(
            format!("{}{}", caller.user(), unit.unwrap_or_default()),
            &format!("uid {uid}"),
        );
        let what = or_not(key.to_string(), "this resource and identity");
        Self::denied(
            Denial::NoRule,
            format!(
                "No rule allows {who} a token for {what}.{also_root} An administrator finds this refusal{and_rule} by \
                 `journalctl -u msi-tokend OUTCOME=denied UID={uid}` and by `msi-token explain --uid {uid} --resource RESOURCE`."
            ),
        )
    }

    /// As [`Problem::forbidden`], where a rule might allow it by the caller's unit, which is not known.
    pub fn unit_unknown(caller: &Caller, key: &Key, unknown: &UnitsUnknown, sdk: Option<SocketAddr>) -> Self {
        let forbidden = Self::forbidden(caller, key);
        Self {
            description: format!(
                "{} A rule may be for the caller's unit, which is not known: {unknown}. {}.",
                forbidden.description,
                unknown.remedy(sdk)
            ),
            codes: Codes {
                cause: Some(Cause::UnitUnknown),
                ..forbidden.codes
            },
            ..forbidden
        }
    }

    /// 403 for what is not for every caller.
    pub fn not_root(uid: u32) -> Self {
        Self::denied(
            Denial::NotRoot,
            format!("Only root and the daemon's own user may do this, and uid {uid} is neither."),
        )
    }

    /// 409: the configuration on disk cannot take the place of the one in effect.
    pub fn configuration_refused(why: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "invalid_configuration",
            format!("The configuration was refused and the former one stays in effect: {why}"),
        )
    }

    /// 503 on the way out.
    pub fn stopping() -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "The daemon is stopping.",
            )
        }
    }

    /// Whether the daemon itself refuses what the endpoint may take.
    pub fn is_ours(&self) -> bool {
        matches!(self.status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN)
            && matches!(self.codes.class, Some(ErrorClass::BadRequest | ErrorClass::Denied))
            && self.newest_versions.is_empty()
    }

    /// 429 in place of a connection; there is room again as soon as this uid closes one.
    pub fn too_many_connections(uid: u32) -> Self {
        let description = format!(
            "uid {uid} has as many connections open as limits.max_connections_per_uid allows: close some, or keep one \
             alive for many requests."
        );
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", description)
        }
        .closing()
    }

    /// 429 in place of a connection, or of a wait, where all connections are taken.
    pub fn all_connections_taken(uid: u32) -> Self {
        let description = format!(
            "All connections that limits.max_connections allows are taken, and uid {uid} has no fewer of them than others: \
             close some, or keep one alive for many requests."
        );
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", description)
        }
        .closing()
    }

    /// 403 for a path under `/metadata/` where the listener serves nothing. Nobody is refused anything by it, so it counts
    /// as a request that makes no sense.
    pub fn not_served() -> Self {
        Self {
            outcome: Outcome::BadRequest,
            codes: ErrorClass::BadRequest.into(),
            ..Self::new(
                StatusCode::FORBIDDEN,
                "not_served",
                "This path is not served on this listener. Under /metadata/ msi-tokend serves access tokens and nothing \
                 else: at /metadata/identity/oauth2/token of its Unix socket and of its loopback listener.",
            )
        }
    }

    /// 403 for what the lock's listener does not pass on to the metadata service; counted as [`Problem::not_served`].
    pub fn not_passed_on(description: &str) -> Self {
        Self {
            description: description.to_owned(),
            ..Self::not_served()
        }
    }

    /// 429: so many requests of this user are being passed on to the metadata service, or of all.
    pub fn too_many_passed_through(uid: u32) -> Self {
        let description =
            format!("Too many requests of uid {uid}, or of all users, wait for the metadata service: try again.");
        Self {
            retry_after: Some(1),
            outcome: Outcome::Full,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", description)
        }
    }

    /// The metadata service gave no answer to a request that was passed on to it.
    pub fn not_relayed(status: StatusCode, failure: &Failure) -> Self {
        let description = format!("No answer of the metadata service: {}.", failure.text);
        Self {
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
            outcome: if status == StatusCode::GATEWAY_TIMEOUT {
                Outcome::TimedOut
            } else {
                Outcome::Unavailable
            },
            codes: failure.codes(),
            ..Self::new(status, "server_error", description)
        }
    }

    /// 508: the lock led a request of the daemon's own to the daemon, which is how it finds out that the lock is there.
    pub fn loop_detected() -> Self {
        let description = "The lock leads this request of msi-tokend's own back to it.";
        Self::new(StatusCode::LOOP_DETECTED, "loop_detected", description)
    }

    /// 404: there is no such route, which no configuration changes.
    pub fn no_such_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such route here.")
    }

    /// 405
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let description = format!("This route answers {allow} only.");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", description)
        }
    }

    /// What the broker answered in place of a token.
    pub fn unserved(key: &Key, unserved: &Unserved) -> Self {
        match unserved {
            Unserved::Failed(failure, retry_in) => Self::failed(key, failure, *retry_in),
            // What the endpoint last said tells more than that the wait is over.
            Unserved::TimedOut(Some(failure)) => Self::failed(key, failure, Duration::ZERO),
            Unserved::TimedOut(None) => Self {
                retry_after: Some(1),
                ..Self::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "server_error",
                    format!("No token for {key}: the VM's identity endpoint has not answered in time. Try again."),
                )
            },
            Unserved::Full(bound) => {
                let (what, setting) = match bound {
                    Bound::Total => ("all callers together", "max_tokens"),
                    Bound::PerUid => ("this user", "max_tokens_per_uid"),
                };
                let description = format!(
                    "No room for {key}: {what} ask for more different tokens at once than `cache.{setting}` allows."
                );
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", description);
                Self {
                    retry_after: Some(10),
                    outcome: Outcome::Full,
                    ..problem
                }
            }
        }
    }

    fn failed(key: &Key, failure: &Failure, retry_in: Duration) -> Self {
        let seconds = u8::try_from(retry_in.as_secs().saturating_add(1)).unwrap_or(10).min(10);
        let whose = if failure.class == Class::Full {
            ""
        } else {
            "the VM's identity endpoint: "
        };
        let why = format!("No token for {key}: {whose}{}.", failure.text);
        let retry = |status, error| Self {
            retry_after: Some(seconds),
            ..Self::new(status, error, why)
        };
        let problem = match &failure.class {
            Class::Full => Self {
                outcome: Outcome::Full,
                ..retry(StatusCode::TOO_MANY_REQUESTS, "too_many_requests")
            },
            Class::Refused(refusal) => Self {
                outcome: Outcome::Refused,
                ..Self::new(
                    StatusCode::BAD_REQUEST,
                    refusal.error.as_deref().unwrap_or("invalid_request"),
                    refused(key, &refusal.error_description),
                )
            },
            Class::Throttled(_) => retry(StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Class::Restarting | Class::Faulty => retry(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
        };
        Self {
            codes: failure.codes(),
            ..problem
        }
    }

    /// The connection closes after this answer: where framing is in doubt, nothing more is read.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The JSON body in the protocol of the route.
    pub fn body(&self, protocol: Protocol) -> Vec<u8> {
        let app_service = protocol == Protocol::AppService;
        let body = ErrorJson {
            status_code: app_service.then_some(self.status.as_u16()),
            message: app_service.then_some(&self.description),
            error: &self.error,
            error_description: &self.description,
            codes: &self.codes,
            newest_versions: self.newest_versions,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// The endpoint's own words (`docs/protocol.md`, "Errors", row "Identity"), which clients look for, and what may be behind
/// them: some programs, such as Microsoft's ODBC driver, send whatever id they are given as a client id.
fn refused(key: &Key, words: &str) -> String {
    if matches!(key.identity, Identity::ClientId(_)) && words.contains("Identity not found") {
        format!(
            "{}. The request named it by a client id: if the id is an object id (principal id), write the client id instead.",
            words.trim_end_matches('.')
        )
    } else {
        words.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Refusal;
    use crate::key::Resource;

    #[test]
    fn no_403_says_the_word_that_sdks_take_for_a_missing_endpoint() {
        let caller = |unit: &str| Caller::described(1000, vec![], Some(unit.to_owned()));
        let key = |resource, id| Key::new(Resource::new(resource).unwrap(), Identity::client_id(id).unwrap());
        for (unit, key) in [
            ("a.service", key("https://Unreachable/", "a")),
            ("a.service", key("https://a/", "UNREACHABLE")),
            ("host-unreachable@1.service", key("https://a/", "a")),
        ] {
            let problem = Problem::forbidden(&caller(unit), &key);
            let text = String::from_utf8(problem.body(Protocol::AppService)).unwrap();
            assert!(!text.to_lowercase().contains("unreachable"), "{text}");
        }
        let text = Problem::forbidden(&caller("a.service"), &key("https://a/", "b")).description;
        assert!(
            text.contains("uid 1000 in a.service") && text.contains("https://a/ for client_id:b"),
            "{text}"
        );
    }

    #[test]
    fn an_identity_that_is_not_found_by_a_client_id_may_be_meant_by_an_object_id() {
        let told = |identity, words: &str| {
            let key = Key::new(Resource::new("https://a/").unwrap(), identity);
            let refusal = Refusal {
                error: None,
                error_description: words.to_owned(),
            };
            let failure = Failure::new(Class::Refused(refusal), Cause::Status, words);
            Problem::unserved(&key, &Unserved::Failed(failure.into(), Duration::ZERO)).description
        };
        let client = || Identity::client_id("b").unwrap();
        let advised = told(client(), "Identity not found");
        assert!(
            advised.starts_with("Identity not found. ") && advised.contains("object id"),
            "{advised}"
        );
        for (identity, words) in [
            (Identity::Default, "Identity not found"),
            (Identity::object_id("b").unwrap(), "Identity not found"),
            (client(), "Resource not found"),
        ] {
            assert_eq!(told(identity, words), words);
        }
    }

    #[test]
    fn a_403_promises_the_rule_unless_none_is_proposed_for_the_uid() {
        let key = Key::new(Resource::new("https://a/").unwrap(), Identity::Default);
        let text = |uid| Problem::forbidden(&Caller::described(uid, vec![], None), &key).description;
        assert!(text(1000).contains("finds this refusal, and the rule that would allow it, by `journalctl"));
        assert!(
            text(NOBODY).contains("finds this refusal by `journalctl"),
            "{}",
            text(NOBODY)
        );
    }
}

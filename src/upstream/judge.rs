//! What a status code means: the specification's table of faults.

use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{HeaderValue, RETRY_AFTER, SERVER};
use serde::Deserialize;
use serde_json::Value;

use super::exchange::Answer;
use crate::clock::Now;
use crate::failure::{Class, Failure, Refusal};

/// Longest text taken over from a refusal, in characters.
const MAX_TEXT: usize = 600;

/// Passes a 200 on; anything else is a failure of the class that the table gives it.
pub fn status(answer: &Answer, now: Now) -> Result<(), Failure> {
    let status = answer.status;
    let class = match status.as_u16() {
        200 => return Ok(()),
        404 | 410 => Class::Restarting,
        429 => Class::Throttled(
            answer
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| retry_after(value, now)),
        ),
        400..=499 => Class::Refused(refusal(&answer.body)),
        _ => Class::Faulty,
    };
    let cause = match (&class, status.as_u16()) {
        (Class::Refused(refusal), _) => format!("HTTP {status}: {}: {}", refusal.error, refusal.error_description),
        (_, 300..=399) => format!("HTTP {status}: redirects are not followed"),
        // The host's proxy answers in place of a metadata service that restarts (`protocol.md` 1.3).
        (_, 500) if !is_metadata_service(answer) => {
            format!("HTTP {status} from the host, not from the metadata service: it is restarting")
        }
        _ => format!("HTTP {status}"),
    };
    Err(Failure { class, cause })
}

fn is_metadata_service(answer: &Answer) -> bool {
    answer
        .headers
        .get(SERVER)
        .and_then(|server| server.to_str().ok())
        .is_some_and(|server| server.contains("IMDS/"))
}

/// Seconds, or a date, as RFC 9110 10.2.3 has it.
fn retry_after(value: &HeaderValue, now: Now) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(now.wall))
}

/// `error` is a string for most endpoints, and an object with `code` and `message` for some (`protocol.md` 1.3).
#[derive(Deserialize)]
struct ErrorBody {
    error: Option<Value>,
    error_description: Option<String>,
    message: Option<String>,
}

fn refusal(body: &[u8]) -> Refusal {
    let (error, description) = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody {
            error: Some(Value::Object(nested)),
            ..
        }) => {
            let text = |name| nested.get(name).and_then(Value::as_str).map(str::to_owned);
            (text("code"), text("message"))
        }
        Ok(ErrorBody {
            error,
            error_description,
            message,
        }) => (
            error.as_ref().and_then(Value::as_str).map(str::to_owned),
            error_description.or(message),
        ),
        Err(_) => (None, None),
    };
    Refusal {
        error: printable(error.as_deref().unwrap_or("invalid_request")),
        error_description: printable(description.as_deref().unwrap_or("The endpoint gave no reason.")),
    }
}

/// Bounded, and without control characters: it goes to logs and to callers.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, StatusCode};
    use zeroize::Zeroizing;

    use super::*;

    const NOW: Now = Now {
        wall: Duration::from_secs(784_111_777 - 30),
        boot: Duration::ZERO,
    };

    fn judged(code: u16, headers: &[(&'static str, &'static str)], body: &str) -> Option<Failure> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v)))
            .collect();
        let status_code = StatusCode::from_u16(code).unwrap();
        status(
            &Answer {
                status: status_code,
                headers,
                body: Zeroizing::new(body.into()),
            },
            NOW,
        )
        .err()
    }

    #[test]
    fn every_row_of_the_table() {
        assert_eq!(judged(200, &[], ""), None);
        for (code, name) in [
            (404, "restarting"),
            (410, "restarting"),
            (500, "faulty"),
            (503, "faulty"),
            (302, "faulty"),
            (204, "faulty"),
            (429, "throttled"),
            (400, "refused"),
            (401, "refused"),
            (403, "refused"),
            (405, "refused"),
        ] {
            assert_eq!(judged(code, &[], "").unwrap().class.name(), name, "{code}");
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let class = |value| judged(429, &[("retry-after", value)], "").unwrap().class;
        assert_eq!(class("7"), Class::Throttled(Some(Duration::from_secs(7))));
        assert_eq!(
            class("Sun, 06 Nov 1994 08:49:37 GMT"),
            Class::Throttled(Some(Duration::from_secs(30)))
        );
        assert_eq!(
            class("Sun, 06 Nov 1994 08:00:00 GMT"),
            Class::Throttled(Some(Duration::ZERO))
        );
        assert_eq!(class("soon"), Class::Throttled(None));
    }

    #[test]
    fn a_refusal_keeps_the_endpoints_words_bounded_and_printable() {
        let class = |body: &str| judged(400, &[], body).unwrap().class;
        let refused = |error: &str, description: &str| {
            Class::Refused(Refusal {
                error: error.to_owned(),
                error_description: description.to_owned(),
            })
        };
        assert_eq!(
            class(r#"{"error":"invalid_resource","error_description":"AADSTS50001:\r\nno","error_codes":"50001"}"#),
            refused("invalid_resource", "AADSTS50001:  no")
        );
        assert_eq!(class(r#"{"error":{"code":"C","message":"m"}}"#), refused("C", "m"));
        assert_eq!(
            class("<html>"),
            refused("invalid_request", "The endpoint gave no reason.")
        );
        let long = format!(r#"{{"error_description":"{}"}}"#, "x".repeat(70_000));
        assert!(matches!(class(&long), Class::Refused(refusal) if refusal.error_description.len() == MAX_TEXT));
    }

    #[test]
    fn a_500_that_the_metadata_service_did_not_send_says_so() {
        assert!(
            judged(500, &[("server", "Microsoft-IIS/10.0")], "")
                .unwrap()
                .cause
                .contains("restarting")
        );
        assert!(
            !judged(500, &[("server", "IMDS/150.870.65.512")], "")
                .unwrap()
                .cause
                .contains("restarting")
        );
    }
}

//! What a status code means: `docs/protocol.md`, "When the endpoint fails".

use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{HeaderValue, RETRY_AFTER, SERVER};
use serde::Deserialize;
use serde_json::Value;

use crate::clock::Now;
use crate::failure::{Cause, Class, Failure, Refusal};
use crate::http::Response;

/// Longest text taken over from a refusal, in characters.
const MAX_TEXT: usize = 600;

/// Passes a 200 on; anything else is a failure of the class that the table gives it.
///
/// `server` is what the endpoint's own `Server` header begins with, where that is known.
pub fn check(answer: &Response, server: Option<&str>, now: Now) -> Result<(), Failure> {
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
    let text = match (&class, status.as_u16()) {
        (Class::Refused(refusal), _) => format!("HTTP {status}: {}: {}", refusal.error, refusal.error_description),
        (_, 300..=399) => format!("HTTP {status}: redirects are not followed"),
        // The host answers in place of a metadata service that restarts (`docs/protocol.md`, "Errors", row "Restart").
        (_, 500) if server.is_some_and(|name| !is_from(answer, name)) => {
            format!("HTTP {status} from the host, not from the metadata service: it is restarting")
        }
        _ => format!("HTTP {status}"),
    };
    let cause = if status.is_redirection() {
        Cause::Redirect
    } else {
        Cause::Status
    };
    Err(Failure::new(class, cause, text).answered(status.as_u16()))
}

fn is_from(answer: &Response, name: &str) -> bool {
    let servers = answer.headers.get_all(SERVER).iter();
    servers
        .filter_map(|server| server.to_str().ok())
        .any(|server| server.contains(name))
}

/// Seconds, or a date, as RFC 9110 10.2.3 has it.
fn retry_after(value: &HeaderValue, now: Now) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // What no number holds is for ever, which others bound.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(now.wall))
}

/// `error` is a string for most endpoints, and an object with `code` and `message` for some (`docs/protocol.md`,
/// "Errors", row "Nested error").
#[derive(Deserialize)]
struct EndpointError {
    error: Option<Value>,
    error_description: Option<Value>,
    message: Option<Value>,
}

fn refusal(body: &[u8]) -> Refusal {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let (error, description) = match serde_json::from_slice::<EndpointError>(body) {
        Ok(EndpointError {
            error: Some(Value::Object(nested)),
            ..
        }) => (text(nested.get("code")), text(nested.get("message"))),
        Ok(body) => (
            text(body.error.as_ref()),
            text(body.error_description.as_ref()).or(text(body.message.as_ref())),
        ),
        Err(_) => (None, None),
    };
    Refusal {
        error: printable(error.as_deref().unwrap_or("invalid_request")),
        error_description: printable(description.as_deref().unwrap_or("The endpoint gave no reason.")),
    }
}

/// Bounded, and without what a terminal or a reader could take for more than text: it goes to logs and to callers.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| match c {
            _ if c.is_ascii_graphic() || c.is_alphanumeric() => c,
            _ => ' ',
        })
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

    fn checked(code: u16, headers: &[(&'static str, &'static str)], body: &str) -> Option<Failure> {
        checked_of(Some("IMDS/"), code, headers, body)
    }

    fn checked_of(
        server: Option<&str>,
        code: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> Option<Failure> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v)))
            .collect();
        let status_code = StatusCode::from_u16(code).unwrap();
        check(
            &Response {
                status: status_code,
                headers,
                body: Zeroizing::new(body.into()),
            },
            server,
            NOW,
        )
        .err()
    }

    #[test]
    fn every_row_of_the_table() {
        assert_eq!(checked(200, &[], ""), None);
        for (code, name) in [
            (404, "restarting"),
            (410, "restarting"),
            (500, "faulty"),
            (502, "faulty"),
            (503, "faulty"),
            (599, "faulty"),
            (301, "faulty"),
            (302, "faulty"),
            (307, "faulty"),
            (304, "faulty"),
            (201, "faulty"),
            (204, "faulty"),
            (206, "faulty"),
            (429, "throttled"),
            (400, "refused"),
            (401, "refused"),
            (403, "refused"),
            (405, "refused"),
            (408, "refused"),
            (499, "refused"),
        ] {
            assert_eq!(checked(code, &[], "").unwrap().class.name(), name, "{code}");
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let class = |value| checked(429, &[("retry-after", value)], "").unwrap().class;
        assert_eq!(class("7"), Class::Throttled(Some(Duration::from_secs(7))));
        assert_eq!(
            class("Sun, 06 Nov 1994 08:49:37 GMT"),
            Class::Throttled(Some(Duration::from_secs(30)))
        );
        assert_eq!(
            class("Sun, 06 Nov 1994 08:00:00 GMT"),
            Class::Throttled(Some(Duration::ZERO))
        );
        assert_eq!(
            class("Sunday, 06-Nov-94 08:49:37 GMT"),
            Class::Throttled(Some(Duration::from_secs(30)))
        );
        assert_eq!(class(" 0 "), Class::Throttled(Some(Duration::ZERO)));
        assert_eq!(
            class("99999999999999999999999"),
            Class::Throttled(Some(Duration::from_secs(u64::MAX)))
        );
        for odd in ["soon", "", "-5", "+5", "1.5", "5s", "Sun, 06 Nov 1960 08:00:00 GMT"] {
            assert_eq!(class(odd), Class::Throttled(None), "{odd:?}");
        }
        assert_eq!(checked(429, &[], "").unwrap().class, Class::Throttled(None));
        let elsewhere = checked(503, &[("retry-after", "7")], "").unwrap();
        assert_eq!(elsewhere.class, Class::Faulty, "only a 429 silences us");
    }

    #[test]
    fn a_refusal_keeps_the_endpoints_words_bounded_and_printable() {
        let class = |body: &str| checked(400, &[], body).unwrap().class;
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
        assert_eq!(
            class(r#"{"error":"e","error_description":["x"],"message":"m"}"#),
            refused("e", "m")
        );
        assert_eq!(
            class(r#"{"statusCode":400,"message":"No MSI found for specified ClientId"}"#),
            refused("invalid_request", "No MSI found for specified ClientId")
        );
        assert_eq!(
            class(r#"{"error":"a\u001b[2Jb","error_description":"x\u202ey\u2028z\u0000ü"}"#),
            refused("a [2Jb", "x y z ü")
        );
        let long = format!(r#"{{"error_description":"{}"}}"#, "x".repeat(70_000));
        assert!(matches!(class(&long), Class::Refused(refusal) if refusal.error_description.len() == MAX_TEXT));
    }

    #[test]
    fn a_500_that_the_metadata_service_did_not_send_says_so() {
        let text = |server, headers: &[_]| checked_of(server, 500, headers, "").unwrap().text;
        let foreign = [("server", "Microsoft-IIS/10.0")];
        assert!(text(Some("IMDS/"), &foreign).contains("restarting"));
        assert!(text(Some("IMDS/"), &[]).contains("restarting"));
        assert!(!text(Some("IMDS/"), &[("server", "IMDS/150.870.65.512")]).contains("restarting"));
        assert!(
            !text(None, &foreign).contains("restarting"),
            "other endpoints have no such name"
        );
    }

    #[test]
    fn no_text_of_a_body_gets_into_a_cause_but_the_words_of_a_refusal() {
        let body = r#"{"access_token":"canary","error":"canary","error_description":"canary"}"#;
        for code in [201, 302, 404, 410, 429, 500, 503] {
            assert!(!format!("{:?}", checked(code, &[], body)).contains("canary"), "{code}");
        }
        assert!(!format!("{:?}", checked(400, &[], r#"{"access_token":"canary"}"#)).contains("canary"));
    }
}

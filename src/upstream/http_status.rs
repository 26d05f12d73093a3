//! The failure for each HTTP status: `docs/protocol.md`, "When the endpoint fails".

use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER};

use super::quote;
use crate::clock::Now;
use crate::failure::{Cause, Class, Failure, Refusal};
use crate::http::Response;

/// Accepts a 200. Any other status is a failure, of the class in the table.
///
/// `server` is what the endpoint's own `Server` header contains, if that is known.
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
        400..=499 => Class::Refused(refusal(answer)),
        _ => Class::Faulty,
    };
    let text = match (&class, status.as_u16()) {
        (Class::Refused(refusal), _) => match &refusal.error {
            Some(error) => format!("HTTP {status}: {error}: {}", refusal.error_description),
            None => refusal.error_description.clone(),
        },
        (_, 300..=399) => format!("HTTP {status}: redirects are not followed"),
        // The host answers in place of a metadata service that restarts (`docs/protocol.md`, "Errors", row "Restart").
        (_, 500) if server.is_some_and(|name| !is_from(answer, name)) => {
            let words = said_in(answer);
            format!("HTTP {status}{words} (from another program than the metadata service, which may be restarting)")
        }
        (_, 500..=599) => format!("HTTP {status}{}", said_in(answer)),
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

/// A number of seconds or a date (RFC 9110, 10.2.3).
fn retry_after(value: &HeaderValue, now: Now) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that is too large counts as the largest; the caller has a bound.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(now.wall))
}

/// The endpoint's own words if the body is JSON, else a description of the answer.
fn refusal(answer: &Response) -> Refusal {
    let Response { status, body, .. } = answer;
    let Some(said) = quote::json(body) else {
        return Refusal {
            error: None,
            error_description: not_json(answer),
        };
    };
    let nothing = || {
        format!(
            "The endpoint gave no reason: HTTP {status}, {} bytes of JSON.",
            body.len()
        )
    };
    Refusal {
        error: Some(said.error.unwrap_or_else(|| "invalid_request".to_owned())),
        error_description: said.description.unwrap_or_else(nothing),
    }
}

/// Describes an answer without JSON. Most of these come from an agent on the VM, a proxy or the host.
fn not_json(answer: &Response) -> String {
    let Response { status, body, .. } = answer;
    if body.is_empty() {
        return format!("The endpoint answered HTTP {status} with an empty body.");
    }
    let kind = answer
        .header(CONTENT_TYPE)
        .map_or_else(|| "no content type".to_owned(), quote::value);
    let what = format!(
        "The endpoint answered HTTP {status} without JSON ({kind}, {} bytes)",
        body.len()
    );
    match quote::excerpt(body) {
        Some(excerpt) => format!("{what}: {excerpt}"),
        None => format!("{what}, which is not shown because there may be a token in it."),
    }
}

/// The endpoint's words in an answer that is no refusal, if the body is JSON.
fn said_in(answer: &Response) -> String {
    let said = quote::json(&answer.body).unwrap_or_default();
    let words = [said.error, said.description];
    words
        .into_iter()
        .flatten()
        .fold(String::new(), |text, words| text + ": " + &words)
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
                error: Some(error.to_owned()),
                error_description: description.to_owned(),
            })
        };
        assert_eq!(
            class(r#"{"error":"invalid_resource","error_description":"AADSTS50001:\r\nno","error_codes":"50001"}"#),
            refused("invalid_resource", "AADSTS50001: no")
        );
        assert_eq!(class(r#"{"error":{"code":"C","message":"m"}}"#), refused("C", "m"));
        assert_eq!(
            class("{}"),
            refused(
                "invalid_request",
                "The endpoint gave no reason: HTTP 400 Bad Request, 2 bytes of JSON."
            )
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
        assert!(matches!(class(&long), Class::Refused(refusal) if refusal.error_description.len() == 600));
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
    fn a_refusal_that_is_no_json_is_told_by_status_type_length_and_beginning() {
        let refusal = |code, headers: &[_], body: &str| {
            let failure = checked(code, headers, body).unwrap();
            let Class::Refused(refusal) = &failure.class else {
                panic!("{failure:?}")
            };
            assert_eq!(
                failure.text, refusal.error_description,
                "the log has what the caller has"
            );
            assert_eq!(
                (&refusal.error, failure.codes().upstream_error),
                (&None, None),
                "the endpoint said no code"
            );
            refusal.error_description.clone()
        };
        let (text, html) = (
            [("content-type", "text/plain; charset=utf-8")],
            [("content-type", "text/html")],
        );
        assert_eq!(
            refusal(403, &text, "Blocked by WireServer rule 12.\r\n"),
            "The endpoint answered HTTP 403 Forbidden without JSON (text/plain; charset=utf-8, 32 bytes): \
             Blocked by WireServer rule 12."
        );
        assert_eq!(
            refusal(400, &html, "<html><h1>Bad   Request</h1></html>"),
            "The endpoint answered HTTP 400 Bad Request without JSON (text/html, 35 bytes): <html><h1>Bad Request</h1></html>"
        );
        assert_eq!(
            refusal(405, &[], "<?xml version='1.0'?><Error/>"),
            "The endpoint answered HTTP 405 Method Not Allowed without JSON (no content type, 29 bytes): <?xml version='1.0'?><Error/>"
        );
        assert_eq!(
            refusal(403, &html, ""),
            "The endpoint answered HTTP 403 Forbidden with an empty body."
        );
        assert!(refusal(400, &[], "access_token=canary").ends_with("not shown because there may be a token in it."));
        assert!(!refusal(400, &[("content-type", "eyJcanary")], "x").contains("canary"));
    }

    #[test]
    fn of_a_5xx_only_the_words_of_its_json_are_told() {
        let text = |code, body: &str| checked(code, &[("server", "IMDS/1")], body).unwrap().text;
        assert_eq!(
            text(
                500,
                r#"{"error":"unknown","error_description":"Failed to retrieve token","correlation_id":"7-a"}"#
            ),
            "HTTP 500 Internal Server Error: unknown: Failed to retrieve token correlation_id: 7-a"
        );
        assert_eq!(
            text(503, r#"{"error":{"code":"C","message":"m"}}"#),
            "HTTP 503 Service Unavailable: C: m"
        );
        assert_eq!(
            text(502, r#"{"message":"upstream eyJhbGci.x gone"}"#),
            "HTTP 502 Bad Gateway: upstream [masked] gone"
        );
        for body in [
            "<html>canary</html>",
            "canary",
            "",
            r#"{"detail":"canary"}"#,
            r#"["canary"]"#,
            r#"{"error":"canary"#,
        ] {
            assert_eq!(text(503, body), "HTTP 503 Service Unavailable", "{body}");
        }
        let elsewhere = checked(500, &[], r#"{"error":"e"}"#).unwrap().text;
        assert_eq!(
            elsewhere,
            "HTTP 500 Internal Server Error: e (from another program than the metadata service, which may be restarting)"
        );
    }

    #[test]
    fn no_text_of_a_body_gets_into_a_cause_but_the_words_of_an_error() {
        let body = r#"{"access_token":"canary","error":"canary","error_description":"canary"}"#;
        for code in [201, 302, 404, 410, 429] {
            assert!(!format!("{:?}", checked(code, &[], body)).contains("canary"), "{code}");
        }
        for code in [400, 500] {
            let body = r#"{"access_token":"canary","refresh_token":"canary"}"#;
            assert!(!format!("{:?}", checked(code, &[], body)).contains("canary"), "{code}");
        }
    }
}

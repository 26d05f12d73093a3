//! Quotes the text of an endpoint's error: of bounded length, printable, and with everything masked that could be a token.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The longest text, in bytes. With its code and ids it fits one value of a log record.
const MAX_TEXT: usize = 600;
/// The longest `error`, in bytes.
const MAX_CODE: usize = 100;
/// The longest `trace_id` or `correlation_id`, in bytes. Both are GUIDs.
const MAX_ID: usize = 64;
/// The longest excerpt of a body that is no JSON, in characters.
const MAX_EXCERPT: usize = 200;
/// An excerpt shows no run of this many characters that a secret may consist of.
const LONGEST_WORD: usize = 40;
const MASK: &str = "[masked]";
/// The ids that support asks for (`docs/protocol.md`, "Errors", row "Ids"): the member, and the label in a text.
const IDS: [(&str, &str); 2] = [("trace_id", "trace id:"), ("correlation_id", "correlation id:")];

/// The error in a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The body's `error`, or the `code` in it.
    pub error: Option<String>,
    /// The body's `error_description` or `message`, and its ids.
    pub description: Option<String>,
}

/// `error` is a string for most endpoints, and an object with members of its own for some (`docs/protocol.md`, "Errors",
/// row "Nested error").
#[derive(Default, Deserialize)]
struct UpstreamErrorJson {
    error: Option<Value>,
    code: Option<Value>,
    error_description: Option<Value>,
    message: Option<Value>,
    #[serde(alias = "traceId")]
    trace_id: Option<Value>,
    #[serde(alias = "correlationId")]
    correlation_id: Option<Value>,
}

/// Reads the error in a JSON body; `None` if the body is no JSON.
pub fn json(body: &[u8]) -> Option<Said> {
    serde_json::from_slice::<IgnoredAny>(body).ok()?;
    // serde accepts a JSON array for a struct, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Some(Said::default());
    }
    let outer: UpstreamErrorJson = serde_json::from_slice(body).unwrap_or_default();
    let inner: UpstreamErrorJson = match &outer.error {
        Some(nested @ Value::Object(_)) => UpstreamErrorJson::deserialize(nested).unwrap_or_default(),
        _ => UpstreamErrorJson::default(),
    };
    let first = |values: &[&Option<Value>]| {
        let texts = values.iter().filter_map(|value| value.as_ref()?.as_str());
        texts.map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
    };
    let error = first(&[&outer.error, &inner.code, &inner.error]);
    let text = first(&[
        &inner.error_description,
        &inner.message,
        &outer.error_description,
        &outer.message,
    ]);
    let ids = [
        first(&[&outer.trace_id, &inner.trace_id]),
        first(&[&outer.correlation_id, &inner.correlation_id]),
    ];
    Some(Said {
        error: error.map(|error| cut(&shown(&error, TextKind::Field), MAX_CODE)),
        description: described(text.as_deref(), ids),
    })
}

/// The text, followed by those ids that it does not show.
fn described(text: Option<&str>, ids: [Option<String>; 2]) -> Option<String> {
    let mut told = text.map(|text| cut(&shown(text, TextKind::Field), MAX_TEXT));
    for ((name, label), id) in IDS.into_iter().zip(ids) {
        let id = id.or_else(|| text.and_then(|text| id_after(text, label)).map(str::to_owned));
        let Some(id) = id.map(|id| cut(&shown(&id, TextKind::Field), MAX_ID)) else {
            continue;
        };
        let told = told.get_or_insert_default();
        if !told.contains(&id) {
            if !told.is_empty() {
                told.push(' ');
            }
            told.extend([name, ": ", &id]);
        }
    }
    told
}

/// The id after the last such label, in upper or lower case.
fn id_after<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let start = text.to_ascii_lowercase().rfind(label)? + label.len();
    let rest = text.get(start..)?.trim_start();
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .unwrap_or(rest.len());
    rest.get(..end).filter(|id| !id.is_empty())
}

/// The beginning of a body that is no JSON; `None` if it may hold a token.
pub fn excerpt(body: &[u8]) -> Option<String> {
    let letters: Vec<u8> = body
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(u8::to_ascii_lowercase)
        .collect();
    // In each spelling: access_token, accessToken, UTF-16.
    if letters.windows(b"accesstoken".len()).any(|name| name == b"accesstoken") {
        return None;
    }
    let text = shown(&String::from_utf8_lossy(body), TextKind::Excerpt);
    Some(text.chars().take(MAX_EXCERPT).collect())
}

/// A short text, such as a header's value.
pub fn value(text: &str) -> String {
    cut(&shown(text, TextKind::Excerpt), MAX_ID)
}

/// Where a text comes from.
#[derive(Clone, Copy, PartialEq)]
enum TextKind {
    /// A JSON member that is meant for people.
    Field,
    /// Any part of a body.
    Excerpt,
}

/// Masks what could be a token, and replaces what is not printable, since the text goes to logs and to callers.
fn shown(text: &str, kind: TextKind) -> String {
    let printable: String = masked(text, kind)
        .chars()
        .map(|c| if is_printable(c) { c } else { ' ' })
        .collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max - '…'.len_utf8());
    format!("{}…", text.get(..end).unwrap_or_default())
}

fn is_printable(c: char) -> bool {
    c.is_ascii_graphic() || c.is_alphanumeric()
}

/// Replaces the rest of a run by [`MASK`] from where it begins like a JWT. In an excerpt it replaces each long run.
fn masked(text: &str, kind: TextKind) -> Cow<'_, str> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut changed, mut at) = (String::new(), false, 0);
    while let Some(&c) = chars.get(at) {
        if !is_of_run(c) {
            out.push(c);
            at += 1;
            continue;
        }
        let end = end_of_run(&chars, at);
        let run = chars.get(at..end).unwrap_or_default();
        let is_long = kind == TextKind::Excerpt && run.iter().filter(|c| is_of_run(**c)).count() >= LONGEST_WORD;
        let secret = if is_long {
            Some(0)
        } else {
            (0..run.len()).find(|from| run.get(*from..).is_some_and(begins_like_jwt))
        };
        out.extend(run.iter().take(secret.unwrap_or(run.len())));
        if secret.is_some() {
            out.push_str(MASK);
            changed = true;
        }
        at = end;
    }
    if changed { out.into() } else { text.into() }
}

/// Whether tokens and other secrets may have this character, also when percent-encoded.
fn is_of_run(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._~+/=%-".contains(c)
}

/// The end of a run. A line break does not end it.
fn end_of_run(chars: &[char], mut at: usize) -> usize {
    loop {
        while chars.get(at).is_some_and(|c| is_of_run(*c)) {
            at += 1;
        }
        let next = after_break(chars, at);
        if next == at || !chars.get(next).is_some_and(|c| is_of_run(*c)) {
            return at;
        }
        at = next;
    }
}

/// The position after line breaks and other invisible characters, literal or escaped as in C, and after the indentation
/// of the next line; `at` if there are none.
fn after_break(chars: &[char], at: usize) -> usize {
    let mut next = at;
    loop {
        match (chars.get(next), chars.get(next + 1)) {
            (Some('\\'), Some('n' | 'r' | 't')) => next += 2,
            (Some(' '), _) if next > at => next += 1,
            (Some(c), _) if *c != ' ' && !is_printable(*c) => next += 1,
            _ => return next,
        }
    }
}

/// `eyJ`, which is `{"` in base64, percent-encoded any number of times or broken over lines.
fn begins_like_jwt(chars: &[char]) -> bool {
    let mut at = 0;
    for (n, expected) in "eyJ".chars().enumerate() {
        loop {
            let (c, next) = decoded(chars, at);
            if c == Some(expected) {
                at = next;
                break;
            }
            let is_encoded_break = next > at + 1 && c.is_some_and(|c| c.is_control() || c == ' ');
            let next = if is_encoded_break { next } else { after_break(chars, at) };
            if n == 0 || next == at {
                return false;
            }
            at = next;
        }
    }
    true
}

/// A character, percent-decoded, and the position of the next one.
fn decoded(chars: &[char], at: usize) -> (Option<char>, usize) {
    let literal = (chars.get(at).copied(), at + 1);
    if literal.0 != Some('%') {
        return literal;
    }
    let mut digits = at + 1;
    while chars.get(digits..digits + 2) == Some(&['2', '5']) {
        digits += 2;
    }
    let digit = |at: usize| chars.get(at).and_then(|c| c.to_digit(16));
    match (digit(digits), digit(digits + 1)) {
        (Some(high), Some(low)) => (char::from_u32(high * 16 + low), digits + 2),
        _ => literal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2EvIn0.c2lnbmF0dXJl-_x";

    fn said(body: &str) -> Said {
        json(body.as_bytes()).unwrap()
    }

    fn description(body: &str) -> String {
        said(body).description.unwrap()
    }

    #[test]
    fn what_is_no_json_says_nothing_in_it_and_other_json_nothing_that_is_told() {
        for body in [
            "",
            "<html>",
            "Blocked",
            "{\"error\":\"e\"",
            "{'error':'e'}",
            "\u{feff}{}",
            "null x",
        ] {
            assert_eq!(json(body.as_bytes()), None, "{body}");
        }
        for body in [
            "{}",
            "[]",
            "null",
            "\"error\"",
            "[{\"error\":\"e\"}]",
            "[\"e\",\"c\",\"d\",\"m\",\"t\",\"i\"]",
            "{\"error\":7}",
            "{\"error\":\"a\",\"error\":\"b\"}",
        ] {
            assert_eq!(said(body), Said::default(), "{body}");
        }
    }

    #[test]
    fn members_are_found_at_the_top_and_under_error() {
        for (body, error, text) in [
            (r#"{"error":"e","error_description":"d"}"#, Some("e"), Some("d")),
            (r#"{"error":{"code":"c","message":"m"}}"#, Some("c"), Some("m")),
            (
                r#"{"error":{"error":"e","error_description":"d"},"message":"outer"}"#,
                Some("e"),
                Some("d"),
            ),
            (r#"{"error":{},"message":"m"}"#, None, Some("m")),
            (
                r#"{"statusCode":400,"message":"No MSI found"}"#,
                None,
                Some("No MSI found"),
            ),
            (r#"{"error":"","error_description":" ","message":"m"}"#, None, Some("m")),
        ] {
            let said = said(body);
            assert_eq!(
                (said.error.as_deref(), said.description.as_deref()),
                (error, text),
                "{body}"
            );
        }
    }

    #[test]
    fn ids_survive_the_cut_wherever_they_stand() {
        let trace = "ab4c0f62-9bd9-4e37-9a0f-21a3c7c31500";
        let correlation = "f4d5e11c-7f4f-4ec1-8d1e-1f2d6f5f7a01";
        let long = "x ".repeat(400);
        for body in [
            format!(
                r#"{{"error_description":"{long}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: 2026"}}"#
            ),
            format!(r#"{{"error_description":"{long} trace id:{trace} y correlation id:  {correlation} {long}"}}"#),
            format!(r#"{{"error_description":"{long}","trace_id":"{trace}","correlation_id":"{correlation}"}}"#),
            format!(r#"{{"error":{{"message":"{long}","traceId":"{trace}","correlationId":"{correlation}"}}}}"#),
            format!(r#"{{"trace_id":"{trace}","correlation_id":"{correlation}"}}"#),
            format!(
                r#"{{"message":"\u0416{}","trace_id":"{trace}","correlation_id":"{correlation}"}}"#,
                "\u{416}".repeat(900)
            ),
        ] {
            let told = description(&body);
            assert!(told.contains(trace) && told.contains(correlation), "{told}");
            assert!(told.len() <= 800, "fits a log record: {}", told.len());
        }
        let short = format!(r#"{{"error_description":"no. Trace ID: {trace}","trace_id":"{trace}"}}"#);
        assert_eq!(description(&short).matches(trace).count(), 1, "said once");
        let odd = r#"{"message":"m","trace_id":"a\u001b[2J\nb","correlation_id":7}"#;
        assert_eq!(description(odd), "m trace_id: a [2J b");
    }

    #[test]
    fn what_could_be_a_token_is_masked_to_its_end_in_every_member() {
        let encoded = JWT.replace('.', "%2E").replace("eyJ", "%65yJ");
        let twice = JWT.replace("eyJ", "e%2579J");
        let broken = format!("{}\\r\\n  {}\\n{}", &JWT[..2], &JWT[2..40], &JWT[40..]);
        let broken_and_encoded = format!("{}%0d%0A%20{}", &JWT[..1], &JWT[1..]);
        for token in [JWT, &encoded, &twice, &broken, &broken_and_encoded, &JWT[..4]] {
            for body in [
                format!(r#"{{"error_description":"bad token {token}, said it"}}"#),
                format!(r#"{{"message":"Authorization=Bearer%20{token}, said it"}}"#),
                format!(r#"{{"error":{{"message":"x{token}, said it"}}}}"#),
            ] {
                let told = description(&body);
                assert!(told.contains("[masked], said it"), "{told}");
                for part in [&JWT[5..12], "c2ln", "%65", "yJ"] {
                    assert!(!told.contains(part), "{part} {told}");
                }
            }
            let said = said(&format!(r#"{{"error":"{token}","trace_id":"{token}"}}"#));
            assert_eq!(said.error.as_deref(), Some(MASK));
            assert_eq!(said.description.as_deref(), Some("trace_id: [masked]"));
        }
        let plain = "Identity not found: /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourcegroups/demo/x";
        assert_eq!(description(&format!(r#"{{"message":"{plain}"}}"#)), plain);
    }

    #[test]
    fn an_excerpt_has_no_token_and_no_long_run() {
        let shown = |text: &str| excerpt(text.as_bytes()).unwrap();
        assert_eq!(
            shown("Blocked by policy 7.\r\n\tAsk  it."),
            "Blocked by policy 7. Ask it."
        );
        assert_eq!(shown(&format!("<b>{JWT}</b> x")), "<b>[masked]</b> x");
        assert_eq!(
            shown(&format!("key {} end", "a".repeat(39))),
            format!("key {} end", "a".repeat(39))
        );
        for secret in [
            "a".repeat(40),
            "0.AXo-_~+/=%".repeat(4),
            format!("{}\n{}", "b".repeat(20), "c".repeat(20)),
        ] {
            assert_eq!(shown(&format!("key {secret} end")), "key [masked] end", "{secret}");
        }
        assert_eq!(shown(&"word ".repeat(100)).chars().count(), MAX_EXCERPT);
        assert_eq!(excerpt(&[0xff, 0, 0x1b, b'[', b'x']).unwrap(), "[x");
        for body in [
            "access_token=abc",
            "{\"Access_Token\": \"abc\"",
            "<accessToken>abc",
            "a\0c\0c\0e\0s\0s\0_\0t\0o\0k\0e\0n\0=\0abc",
        ] {
            assert_eq!(excerpt(body.as_bytes()), None, "{body:?}");
        }
    }
}

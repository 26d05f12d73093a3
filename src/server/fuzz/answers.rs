//! The daemon's side of a connection taken apart: well-formed answers and nothing else.

use std::str;

use serde_json::Value;

/// The one token that there is, and what it is for.
pub const TOKEN: &str = "e30.e30.U0VDUkVU";
pub const CACHED: &str = "https://storage.azure.com/";

/// For each answer, interim ones apart, whether it was the broker's.
pub fn answers(mut output: &[u8]) -> Vec<bool> {
    let mut answers = Vec::new();
    let mut closed = false;
    while !output.is_empty() {
        assert!(!closed, "an answer after the last one");
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = str::from_utf8(&output[..end]).unwrap();
        output = &output[end + 4..];
        let mut lines = head.split("\r\n");
        let status = status(lines.next().unwrap());
        if status == 100 {
            continue;
        }
        let headers: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").unwrap()).collect();
        let header = |name: &str| {
            let mut values = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            let value = values.next().map(|(_, value)| *value);
            assert!(values.next().is_none(), "{head}");
            value
        };
        closed = header("connection") == Some("close");
        let retry_after = header("retry-after").map(|text| text.parse::<u32>().unwrap());
        assert_eq!(retry_after.is_some(), [429, 503].contains(&status), "{head}");
        assert!(retry_after.is_none_or(|seconds| (1..=10).contains(&seconds)), "{head}");
        assert_eq!(header("allow").is_some(), status == 405, "{head}");
        let length: usize = header("content-length").unwrap().parse().unwrap();
        // An answer to HEAD has none of what it announces. A document begins with a brace, the metrics with a comment.
        let body = match output.first() {
            Some(b'{' | b'#') if length > 0 => &output[..length],
            _ => b"",
        };
        output = &output[body.len()..];
        if !body.is_empty() {
            assert_eq!(header("cache-control"), Some("no-store"));
        }
        answers.push(match header("content-type") {
            Some("application/json; charset=utf-8") if !body.is_empty() => {
                is_decided(status, &serde_json::from_slice(body).unwrap())
            }
            _ => {
                assert!(!str::from_utf8(body).unwrap().contains(TOKEN));
                false
            }
        });
    }
    answers
}

fn status(line: &str) -> u16 {
    let (version, rest) = line.split_once(' ').unwrap();
    assert!(["HTTP/1.1", "HTTP/1.0"].contains(&version), "{line}");
    let (code, reason) = rest.split_once(' ').unwrap();
    assert!(
        !reason.is_empty() && reason.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
        "{line}"
    );
    let code = code.parse().unwrap();
    assert!([100, 200, 400, 403, 404, 405, 414, 429, 431].contains(&code), "{line}");
    code
}

/// A token is the cached one, for the resource that it is for, and nothing else holds its secret.
fn is_decided(status: u16, body: &Value) -> bool {
    let token = body.get("access_token");
    if token.is_some() {
        assert_eq!((status, &body["resource"]), (200, &Value::from(CACHED)));
        assert_eq!(token, Some(&Value::from(TOKEN)));
    } else {
        assert!(!body.to_string().contains(TOKEN));
    }
    token.is_some() || status == 429
}

//! Odd HTTP, byte for byte: an error for each, the connection closed where framing is in doubt, nothing sent upstream, and
//! the daemon lives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{Read, Write};

use common::{Daemon, Emulator};

/// What comes behind each odd request: whoever answers it took the odd one for a whole request.
const NEXT: &str = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
/// A token request up to its last header.
const TOKEN: &str = "GET /oauth2/token?resource=https://storage.azure.com/ HTTP/1.1\r\nMetadata: true\r\nHost: x\r\n";
/// A form in chunks that would be served.
const WHOLE: &str = "23\r\nresource=https://storage.azure.com/\r\n0\r\n\r\n";
const FORM: &str = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n";

/// The connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Nothing more is read.
    Closes,
    /// The request was whole, if wrong: the next one is answered.
    GoesOn,
}
use Then::{Closes, GoesOn};

/// Status codes of all the answers, and whether the daemon closed the connection.
fn answers(daemon: &Daemon, request: &[u8]) -> Vec<u16> {
    let mut stream = daemon.connect();
    // The daemon may have closed before all is written.
    _ = stream.write_all(request);
    _ = stream.write_all(NEXT.as_bytes());
    _ = stream.write_all(&NEXT.as_bytes()[..NEXT.len() - 2]);
    _ = stream.write_all(b"Connection: close\r\n\r\n");
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // A connection closed over bytes that nobody read ends with an error.
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    statuses(&bytes)
}

/// Takes answers apart by their Content-Length, so that a body cannot pose as an answer.
fn statuses(mut bytes: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, _) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("half an answer: {text:?}"));
        found.push(head.split(' ').nth(1).unwrap().parse().unwrap());
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let rest = &bytes[head.len() + 4..];
        // The answer to HEAD has a length and no body.
        bytes = if rest.starts_with(b"HTTP/1.1 ") {
            rest
        } else {
            &rest[length..]
        };
    }
    found
}

struct Case(&'static str, Vec<u8>, u16, Then);

/// Statuses that say more than 400 are written out; everything else is a 400.
fn case(name: &'static str, bytes: impl Into<Vec<u8>>, then: Then) -> Case {
    Case(name, bytes.into(), 400, then)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n")
}

fn by(method: &str) -> String {
    format!("{method} /oauth2/token?resource=https://a/ HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n")
}

fn form(headers: &str, body: &str) -> String {
    format!("{FORM}{headers}\r\n{body}")
}

fn sized(body: &str) -> String {
    form(&format!("Content-Length: {}\r\n", body.len()), body)
}

#[rustfmt::skip]
fn targets() -> Vec<Case> {
    vec![
        case("two Hosts", format!("{TOKEN}Host: y\r\n\r\n"), Closes),
        case("the same Host twice", format!("{TOKEN}Host: x\r\n\r\n"), Closes),
        case("absolute form", get("http://x/oauth2/token?resource=https://a/"), Closes),
        case("absolute form, foreign scheme", get("file:///oauth2/token?resource=https://a/"), Closes),
        case("authority form", get("x:80"), Closes),
        case("an address for a target", get("169.254.169.254"), Closes),
        case("no slash", get("oauth2/token?resource=https://a/"), Closes),
        case("an empty target", get(""), Closes),
        case("a NUL in the target", get("/oauth2/token?resource=https://a/\0"), Closes),
        case("a space in the target", get("/oauth2/token?resource=https://a/ b"), Closes),
        case("a target that is not UTF-8", b"GET /oauth2/token?resource=\xff HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n", Closes),
        case("a target of 15 KB", get(&format!("/oauth2/token?resource={}", "b".repeat(15_000))), GoesOn),
        Case("a target of 300 KB", get(&format!("/oauth2/token?resource={}", "b".repeat(300_000))).into(), 431, Closes),
        Case("asterisk", get("*").into(), 404, GoesOn),
        Case("dots", get("/oauth2/token/../token?resource=https://a/").into(), 404, GoesOn),
        Case("an encoded path", get("/oauth2/%74oken?resource=https://a/").into(), 404, GoesOn),
        Case("a homoglyph in the path", get("/\u{43e}auth2/token?resource=https://a/").into(), 404, GoesOn),
    ]
}

#[rustfmt::skip]
fn methods_and_versions() -> Vec<Case> {
    let mut cases = vec![
        case("CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", Closes),
        case("no method", by(""), Closes),
        case("an odd method", by("G(T"), Closes),
        Case("POST where only GET is", by("POST").replace("/oauth2", "/metadata/identity/oauth2").into(), 405, GoesOn),
    ];
    cases.extend(
        ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "QUERY", "X"]
            .map(|name| Case("a wrong method", by(name).into(), 405, GoesOn)),
    );
    cases.extend(
        ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1", "HTTP/11", ""]
            .map(|version| case("an odd version", format!("GET /live {version}\r\nHost: x\r\n\r\n"), Closes)),
    );
    cases
}

#[rustfmt::skip]
fn headers() -> Vec<Case> {
    let mut cases = vec![
        case("a fold before the first header", "GET /live HTTP/1.1\r\n Host: x\r\n\r\n", Closes),
        case("X-Forwarded-For", format!("{TOKEN}X-Forwarded-For: 10.0.0.1\r\n\r\n"), GoesOn),
        case("Metadata twice", format!("{TOKEN}Metadata: true\r\n\r\n"), GoesOn),
        Case("a head of 300 KB", format!("{TOKEN}X-A: {}\r\n\r\n", "b".repeat(300_000)).into(), 431, Closes),
        Case("5,000 headers", format!("{TOKEN}{}\r\n", "A: b\r\n".repeat(5_000)).into(), 431, Closes),
        Case("101 headers", format!("{TOKEN}{}\r\n", "A: b\r\n".repeat(101)).into(), 431, Closes),
    ];
    cases.extend(
        [
            "X-A: b\r\n c", "X-A: b\r\n\tc", "X-A : b", "X-A", ": b", "X-A: b\0c", "X\0A: b", "X-A: b\rc",
            "X-A: \u{1b}[2J", "X-A: \u{7f}", "H\u{43e}st: b", "X A: b",
        ]
        .map(|line| case("an odd header line", format!("{TOKEN}{line}\r\n\r\n"), Closes)),
    );
    cases
}

#[rustfmt::skip]
fn framing() -> Vec<Case> {
    let (five, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    let mut cases = vec![
        case("two lengths", form(&format!("{five}Content-Length: 6\r\n"), "aaaaaa"), Closes),
        case("chunks twice", form(&format!("{chunked}{chunked}"), WHOLE), Closes),
        case("chunks in HTTP/1.0", form(chunked, WHOLE).replace("HTTP/1.1", "HTTP/1.0"), Closes),
        case("a form that is too long", sized(&"a".repeat(4097)), Closes),
        case("a form of a gigabyte", form("Content-Length: 1073741824\r\n", "a"), Closes),
        case("chunks that are too long", form(chunked, &format!("1001\r\n{}\r\n0\r\n\r\n", "a".repeat(4097))), Closes),
        case("too many small chunks", form(chunked, &"1\r\na\r\n".repeat(4097)), Closes),
        case("an endless chunk extension", form(chunked, &format!("1;{}\r\na\r\n", "b".repeat(40_000))), Closes),
        case("a GET with a body", format!("{TOKEN}{five}\r\naaaaa"), Closes),
        case("a GET in chunks", format!("{TOKEN}{chunked}\r\n0\r\n\r\n"), Closes),
        case("JSON for a form", form("Content-Type: application/json\r\nContent-Length: 2\r\n", "{}"), Closes),
        Case("a body where none is read", format!("DELETE /oauth2/token HTTP/1.1\r\nHost: x\r\n{five}\r\naaaaa").into(), 405, GoesOn),
    ];
    cases.extend(
        ["+5", "-5", "5, 5", "0x5", "5 5", "", "5.0", "18446744073709551616", "99999999999999999999999"]
            .map(|length| case("an odd length", form(&format!("Content-Length: {length}\r\n"), "aaaaa"), Closes)),
    );
    cases.extend(
        ["gzip", "gzip, chunked", "xchunked", "chunked, identity", "identity", "", "chunked;q=1", "\u{b}chunked"]
            .map(|encoding| case("an odd encoding", form(&format!("Transfer-Encoding: {encoding}\r\n"), WHOLE), Closes)),
    );
    cases.extend(
        ["x\r\n", "-1\r\n", "5\r\naaaaaaa\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n", "0x5\r\n", "5 5\r\n", "\r\n"]
            .map(|chunk| case("an odd chunk", form(chunked, chunk), Closes)),
    );
    cases
}

#[rustfmt::skip]
fn parameters() -> Vec<Case> {
    [
        "a%0d%0aX-A:%20b", "a%0a", "a%00", "a%", "a%4", "a%zz", "a%u0041", "%ff", "a%20b", "a%c0%af", "a%e2%80%8b",
        "https://storage.\u{430}zure.com/", "https://storage.%D0%B0zure.com/", "a&resource=b", "a&RESOURCE=b",
        "a&%72esource=b", "a&resource%5b%5d=b", "a&client_id=x&client_id=x", "a&client_id=x&object_id=y",
        "a&client_id=%0d%0a", "a&api-version=1&api-version=1", "a&scope=b", "a&bypass_cache=1", "a&=b",
        "a&&&client_id=&client_id=", "a&msi_res_id=%e2%80%ae", "a&msi_res_id=%c2%a0x", "",
    ]
    .iter()
    .flat_map(|value| {
        [
            case("an odd parameter", get(&format!("/oauth2/token?resource={value}")), GoesOn),
            case("an odd parameter in a form", sized(&format!("resource={value}")), GoesOn),
        ]
    })
    .collect()
}

fn no_http_at_all() -> Vec<Case> {
    vec![
        case("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Closes),
        case("an SSH banner", "SSH-2.0-OpenSSH_9.2\r\n", Closes),
        case("zeros", [0; 100], Closes),
        case("bytes beyond ASCII", [0xff; 100], Closes),
        case(
            "a byte-order mark",
            "\u{feff}GET /live HTTP/1.1\r\nHost: x\r\n\r\n",
            Closes,
        ),
    ]
}

#[test]
fn odd_requests_are_errors_and_reach_nobody() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let mut wrong = Vec::new();
    let tables = [
        targets,
        methods_and_versions,
        headers,
        framing,
        parameters,
        no_http_at_all,
    ];
    for Case(name, bytes, status, then) in tables.into_iter().flat_map(|table| table()) {
        let expected = match then {
            Closes => vec![status],
            GoesOn => vec![status, 200, 200],
        };
        let found = answers(&daemon, &bytes);
        if found != expected {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            wrong.push(format!("{name}: {found:?} and not {expected:?} for {start:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(daemon.get("/live").status, 200);
    assert_eq!(emulator.count(), 0);
}

/// RFC 9112 6.3: the chunks count, and the connection ends with the answer.
#[test]
fn after_a_request_with_chunks_beside_a_length_nothing_more_is_read() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let chunked = "Transfer-Encoding: chunked\r\n";
    for headers in [
        format!("Content-Length: 5\r\n{chunked}"),
        format!("{chunked}Content-Length: 5\r\n"),
        format!("Content-Length: 0\r\n{chunked}"),
        format!("{chunked}Content-Length: 5\r\nContent-Length: 6\r\n"),
    ] {
        assert_eq!(answers(&daemon, form(&headers, WHOLE).as_bytes()), [200], "{headers:?}");
    }
}

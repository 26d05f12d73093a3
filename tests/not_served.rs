//! What lies under `/metadata/` and is no route, on every listener; and the SDK that asks for it before its first token.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Daemon, Emulator, Reply, STORAGE, eventually, exchange, request};

/// Longer than any answer takes, shorter than an SDK's first pause and the next.
const HANGS: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";

/// A daemon with all its listeners, and where they are.
struct Listeners {
    daemon: Daemon,
    sdk: String,
    monitor: String,
}

impl Listeners {
    fn start(emulator: &Emulator) -> Self {
        let daemon = Daemon::start(emulator, "[listen]\nsdk = \"127.0.0.1:0\"\nmonitor = \"127.0.0.1:0\"\n");
        let address = |what: &str| {
            eventually("the daemon says where", || daemon.log().contains(what));
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains(what));
            let address = line.and_then(|line| line.split_once("address="));
            let address = address.unwrap_or_else(|| panic!("no {what}: {log}")).1;
            address.split(' ').next().unwrap().to_owned()
        };
        Self {
            sdk: address("serving Azure SDKs"),
            monitor: address("serving monitoring agents"),
            daemon,
        }
    }

    /// One request to each of them, by its name.
    fn ask(&self, text: &str) -> [(&'static str, Reply); 3] {
        let by_tcp = |address: &str| {
            let text = text.replace("Host: localhost", &format!("Host: {address}"));
            exchange(TcpStream::connect(address).unwrap(), &text)
        };
        [
            ("socket", exchange(self.daemon.connect(), text)),
            ("sdk", by_tcp(&self.sdk)),
            ("monitor", by_tcp(&self.monitor)),
        ]
    }

    fn count(&self, metric: &str) -> u64 {
        let text = self.daemon.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(metric));
        value
            .unwrap_or_else(|| panic!("{metric}: {text}"))
            .trim()
            .parse()
            .unwrap()
    }
}

#[test]
fn it_is_refused_at_once_by_every_method_and_is_no_denial() {
    let emulator = Emulator::start(&[]);
    let listeners = Listeners::start(&emulator);
    let mut asked = 0;
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get",
    ] {
        for path in [
            "/metadata",
            "/metadata/",
            "/metadata/identity/info?api-version=2018-02-01",
            "/metadata/identity/getplatformmetadata?cred-api-version=2.0",
            "/metadata/identity/issuecredential?cred-api-version=2.0",
            "/metadata/instance/compute?api-version=2021-02-01",
            "//METADATA///Instance//",
            "/metadata/%69dentity/oauth2/token?api-version=2018-02-01&resource=https://a/",
            "/metadata/identity/oauth2/token/x?unreachable",
        ] {
            for headers in [&[][..], &["Metadata: true"], &["X-IDENTITY-HEADER: x", "secret: x"]] {
                for (listener, reply) in listeners.ask(&request(method, path, headers, "")) {
                    let what = format!("{listener}: {method} {path} {headers:?}: {reply:?}");
                    assert_eq!(reply.status, 403, "{what}");
                    assert_eq!(reply.header("retry-after"), None, "{what}");
                    if method != "HEAD" {
                        assert_eq!(reply.json()["error"], "not_served", "{what}");
                        assert!(reply.json()["error_description"].is_string(), "{what}");
                    }
                    assert!(!reply.body.to_lowercase().contains("unreachable"), "{what}");
                    asked += 1;
                }
            }
        }
    }
    for (listener, reply) in listeners.ask(&request("POST", "/metadata/identity/issuecredential", &[], "{}")) {
        assert_eq!(reply.status, 403, "{listener}: {reply:?}");
        asked += 1;
    }

    let ended = |outcome: &str| {
        listeners.count(&format!(
            "msi_tokend_requests_total{{route=\"unknown\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((ended("bad_request"), ended("denied")), (asked, 0));
    let metrics = listeners.daemon.get("/metrics").body;
    let denied = metrics
        .lines()
        .filter(|line| line.starts_with("msi_tokend_denied_total{"));
    let denied: Vec<_> = denied.map(|line| line.rsplit_once(' ').unwrap().1).collect();
    assert!(
        !denied.is_empty() && denied.iter().all(|count| *count == "0"),
        "{denied:?}"
    );
    let log = listeners.daemon.log();
    assert!(!log.contains("denied") && !log.contains("not_served"), "{log}");
    assert_eq!(emulator.count(), 0, "nothing of it is sent on");
}

#[test]
fn routes_keep_their_405_and_other_paths_their_404() {
    let emulator = Emulator::start(&[]);
    let listeners = Listeners::start(&emulator);
    let token = format!("/Metadata//identity/oauth2/token/?api-version=2018-02-01&resource={STORAGE}");
    for (listener, reply) in listeners.ask(&request("POST", &token, &["Metadata: true"], "")) {
        // The monitor's listener has no token.
        let status = if listener == "monitor" { 403 } else { 405 };
        assert_eq!(reply.status, status, "{listener}: {reply:?}");
    }
    for path in [
        "/",
        "/metadatas/x",
        "/%6detadata/instance",
        "/x/metadata/instance",
        "/msi",
        "/oauth2",
    ] {
        for (listener, reply) in listeners.ask(&request("GET", path, &["Metadata: true"], "")) {
            assert_eq!(reply.status, 404, "{listener} {path}: {reply:?}");
        }
    }
    assert_eq!(emulator.count(), 0);
}

/// What Azure.Identity 1.21.0 for .NET sends before its first token (`DefaultAzureCredential`'s own probe among it), and
/// the status that each wants: a 404 or an answer that says to come back makes it pause.
fn sequence(selector: &str) -> [(String, &'static str, u16); 5] {
    let token = format!("/metadata/identity/oauth2/token?api-version=2018-02-01{selector}");
    let (encoded, metadata) = ("https%3A%2F%2Fstorage.azure.com", "Metadata: true\r\n");
    let platform = format!("/metadata/identity/getplatformmetadata?cred-api-version=2.0{selector}");
    let resource =
        |resource| format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{selector}");
    [
        (platform, "", 403),
        (token, "", 400),
        (
            "/metadata/instance/compute?api-version=2021-02-01".to_owned(),
            metadata,
            403,
        ),
        (resource(encoded), "", 400),
        (resource("https://storage.azure.com"), metadata, 200),
    ]
}

/// Sends it over one connection, each request once the one before is answered, and gives the last answer.
fn replay(stream: impl Read + Write, host: &str, selector: &str) -> String {
    let mut stream = BufReader::new(stream);
    let mut body = Vec::new();
    for (target, headers, status) in sequence(selector) {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        stream.get_mut().write_all(text.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_until(b'\n', &mut head).unwrap() > 0, "{target}: {head:?}");
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{target}: {head}");
        assert!(
            !head.contains("retry-after") && !head.contains("connection: close"),
            "{target}: {head}"
        );
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.resize(length.unwrap().parse().unwrap(), 0);
        stream.read_exact(&mut body).unwrap();
    }
    String::from_utf8(body).unwrap()
}

#[test]
fn the_sdk_for_dotnet_gets_its_first_token_without_a_pause() {
    for selector in [String::new(), format!("&client_id={CLIENT_ID}")] {
        for listener in ["socket", "sdk"] {
            let emulator = Emulator::start(&[]);
            let listeners = Listeners::start(&emulator);
            let last = if listener == "socket" {
                let stream = UnixStream::connect(listeners.daemon.socket()).unwrap();
                stream.set_read_timeout(Some(HANGS)).unwrap();
                // A transport keeps the address of the metadata service in the request.
                replay(stream, "169.254.169.254", &selector)
            } else {
                let stream = TcpStream::connect(&listeners.sdk).unwrap();
                stream.set_read_timeout(Some(HANGS)).unwrap();
                replay(stream, &listeners.sdk, &selector)
            };
            assert!(last.contains("access_token"), "{last}");
            assert_eq!(emulator.count(), 1, "{listener} {selector}: the token and nothing else");
        }
    }
}

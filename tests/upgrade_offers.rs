//! Clients that offer to go on in another protocol get their answer over HTTP/1.1, on every listener, and may ask again over
//! the same connection (RFC 9110 7.8): the JDK's own client and `curl --http2` offer it by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{Daemon, Emulator, MANAGEMENT, eventually};

const LISTENERS: &str = "[listen]\nsdk = \"127.0.0.1:0\"\nmonitor = \"127.0.0.1:0\"\n";
/// As the JDK's client and curl write it.
const H2C: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A daemon with all its listeners.
struct Stage {
    daemon: Daemon,
    emulator: Emulator,
    /// `127.0.0.1:PORT`
    sdk: String,
    monitor: String,
    secret: String,
}

impl Stage {
    fn start() -> Self {
        let emulator = Emulator::start(&[]);
        let daemon = Daemon::start(&emulator, LISTENERS);
        assert_eq!(daemon.get("/live").status, 200);
        let environment = std::fs::read_to_string(daemon.directory().join("sdk.env")).unwrap();
        let value = |name: &str| {
            let line = environment.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{environment}")).to_owned()
        };
        let says = "serving monitoring agents";
        eventually("the daemon says where", || daemon.log().contains(says));
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(says)).unwrap();
        let monitor = line.split_once("address=").unwrap().1.to_owned();
        Self {
            sdk: value("IDENTITY_ENDPOINT=http://").replace("/msi/token", ""),
            secret: value("IDENTITY_HEADER="),
            monitor,
            daemon,
            emulator,
        }
    }

    /// Each listener, with a path that it serves.
    fn listeners(&self) -> [(Box<dyn Stream>, &str, &'static str); 3] {
        let tcp = |address: &str| Box::new(TcpStream::connect(address).unwrap());
        let token = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/";
        [
            (Box::new(self.daemon.connect()), "x", token),
            (tcp(&self.sdk), &self.sdk, token),
            (tcp(&self.monitor), &self.monitor, "/live"),
        ]
    }
}

/// What comes back until the daemon closes.
fn exchange(mut stream: Box<dyn Stream>, bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_offer_is_ignored_and_the_connection_goes_on() {
    let stage = Stage::start();
    for offer in [
        H2C,
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.2, HTTP/2.0\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\nUpgrade: h2c\r\nHTTP2-Settings:\r\n",
        "Upgrade: h2c\r\n",
    ] {
        for (stream, host, path) in stage.listeners() {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n");
            let answer = exchange(stream, &format!("{head}{offer}\r\n{head}Connection: close\r\n\r\n"));
            assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{offer:?}: {answer}");
            assert!(!answer.contains("101"), "{offer:?}: {answer}");
        }
    }
    assert_eq!(stage.emulator.count(), 1);
}

#[test]
fn a_form_with_an_offer_is_read_and_a_refused_one_stays_refused() {
    let stage = Stage::start();
    let form = "resource=https%3A%2F%2Fmanagement.azure.com%2F";
    let length = form.len();
    for (proof, status) in [("Metadata: true\r\n", 200), ("", 400)] {
        let head = format!("POST /oauth2/token HTTP/1.1\r\nHost: x\r\n{proof}{H2C}Content-Length: {length}\r\n\r\n");
        let next = "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = exchange(Box::new(stage.daemon.connect()), &format!("{head}{form}{next}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "the next is answered: {answer}");
    }
}

#[test]
fn curl_with_http2_gets_its_answer() {
    let stage = Stage::start();
    let (sdk, monitor) = (&stage.sdk, &stage.monitor);
    let token = "/oauth2/token?resource=https://management.azure.com/";
    let socket = stage.daemon.socket();
    for (socket, url) in [
        (Some(socket), format!("http://x{token}")),
        (None, format!("http://{sdk}{token}")),
        (None, format!("http://{monitor}/ready")),
    ] {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "--noproxy",
            "*",
            "--http2",
            "-H",
            "Metadata: true",
            "-w",
            "%{http_version} %{http_code}\n",
        ]);
        // Twice over one connection.
        curl.args(["-o", "/dev/null", "-o", "/dev/null"]);
        if let Some(socket) = socket {
            curl.arg("--unix-socket").arg(socket);
        }
        let output = curl.args([&url, &url]).output().expect("curl");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "1.1 200\n1.1 200\n",
            "{url}: {output:?}"
        );
    }
}

#[test]
fn the_client_of_the_jdk_gets_its_answer() {
    if Command::new("java").arg("-version").output().is_err() {
        return eprintln!("not tried: there is no java");
    }
    let stage = Stage::start();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/java/Get.java");
    let resource = format!("resource={MANAGEMENT}");
    for (url, header) in [
        (
            format!("http://{}/msi/token?api-version=2019-08-01&{resource}", stage.sdk),
            ["X-IDENTITY-HEADER", &stage.secret],
        ),
        (
            format!(
                "http://{}/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}",
                stage.sdk
            ),
            ["Metadata", "true"],
        ),
        (format!("http://{}/live", stage.monitor), ["Metadata", "true"]),
    ] {
        let java = Command::new("java")
            .arg(program)
            .arg(&url)
            .args(header)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&java.stdout),
            "HTTP_1_1 200\nHTTP_1_1 200\n",
            "{url}: {java:?}"
        );
    }
}

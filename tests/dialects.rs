//! The requests of programs that are no Azure SDK, byte for byte as they send them, on both listeners.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::net::TcpStream;

use common::{Daemon, Emulator, Reply, eventually, exchange};

const CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";
const STORAGE: &str = "resource=https%3A%2F%2Fstorage.azure.com%2F";
/// What the endpoint is asked for each of them.
const ASKED: &str = "resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=73444643-8088-4d70-9532-c3a0fdc190fa";

/// One program's request, with the line ends to come; `HOST` stands for where it is sent.
struct Recorded {
    program: &'static str,
    text: String,
    /// After [`ASKED`].
    more: &'static str,
}

/// Recorded on 2026-11-27 from Go 1.26 and Java 17. Of go-azure-sdk and Hadoop the code that makes the request was run, by
/// itself.
fn recorded() -> [Recorded; 5] {
    let plain = |program, text| Recorded {
        program,
        text,
        more: "",
    };
    let agent = "User-Agent: Go/go1.26.8 (amd64-linux) go-autorest/adal/v1.0.0";
    [
        plain(
            "adal v0.9.24 by MSI_ENDPOINT",
            format!(
                "POST /oauth2/token HTTP/1.1\nHost: HOST\n{agent}\nTransfer-Encoding: chunked\n\
                 Content-Type: application/x-www-form-urlencoded\nMetadata: true\nAccept-Encoding: gzip\n\n\
                 5a\nclient_id={CLIENT_ID}&{STORAGE}\n0\n\n"
            ),
        ),
        plain(
            "adal v0.9.24 by MSI_ENDPOINT and MSI_SECRET",
            format!(
                "GET /oauth2/token?api-version=2017-09-01&clientid={CLIENT_ID}&{STORAGE} HTTP/1.1\nHost: HOST\n{agent}\n\
                 Secret: msi-tokend\nAccept-Encoding: gzip\n\n"
            ),
        ),
        plain(
            "adal v0.9.24 with MSI_ENDPOINT as App Service has it",
            format!(
                "GET /msi/token?api-version=2017-09-01&clientid={CLIENT_ID}&{STORAGE} HTTP/1.1\nHost: HOST\n{agent}\n\
                 Secret: msi-tokend\nAccept-Encoding: gzip\n\n"
            ),
        ),
        plain(
            "go-azure-sdk",
            format!(
                "GET /oauth2/token?api-version=2019-08-01&client_id={CLIENT_ID}&{STORAGE} HTTP/1.1\nHost: HOST\n\
                 User-Agent: Go-http-client/1.1\nMetadata: true\nx-ms-identity: msi-tokend\nAccept-Encoding: gzip\n\n"
            ),
        ),
        Recorded {
            program: "Hadoop's ABFS with a tenant",
            text: format!(
                "GET /metadata/identity/oauth2/token?api-version=2018-02-01&{STORAGE}&authority=https%3A%2F%2F\
                 login.microsoftonline.com%2F72f988bf-86f1-41af-91ab-2d7cd011db47&client_id={CLIENT_ID} HTTP/1.1\n\
                 Metadata: true\nConnection: close\nUser-Agent: Java/17.0.15\nHost: HOST\n\
                 Accept: text/html, image/gif, image/jpeg, */*; q=0.2\n\n"
            ),
            more: "&authority=https%3A%2F%2Flogin.microsoftonline.com%2F72f988bf-86f1-41af-91ab-2d7cd011db47",
        },
    ]
}

/// The answer to the first request; another one ends the connection.
fn first(stream: impl std::io::Read + std::io::Write, text: &str, host: &str) -> Reply {
    let text = text.replace('\n', "\r\n").replace("HOST", host);
    let last = format!("GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut reply = exchange(stream, &(text + &last));
    let length = reply.header("content-length").unwrap().parse().unwrap();
    reply.body.truncate(length);
    reply
}

#[test]
fn each_is_served_on_both_listeners_and_asked_for_as_it_is() {
    for recorded in recorded() {
        let emulator = Emulator::start(&[]);
        let daemon = Daemon::start(&emulator, "[listen]\nsdk = \"127.0.0.1:0\"\n");
        eventually("the daemon says where", || daemon.log().contains("serving Azure SDKs"));
        let log = daemon.log();
        let address = log
            .lines()
            .find_map(|line| line.split_once("serving Azure SDKs address="));
        let address = address.unwrap().1.split(' ').next().unwrap();
        for reply in [
            first(daemon.connect(), &recorded.text, "169.254.169.254"),
            first(TcpStream::connect(address).unwrap(), &recorded.text, address),
        ] {
            let what = format!("{}: {reply:?}", recorded.program);
            assert_eq!(reply.status, 200, "{what}");
            let json = reply.json();
            assert!(
                json["access_token"].is_string() && json["client_id"] == CLIENT_ID,
                "{what}"
            );
            // These clients read it first, and App Service of 2017 would have a date there.
            let expires_on = json["expires_on"].as_str().unwrap();
            assert!(expires_on.parse::<u64>().unwrap() > 1_700_000_000, "{what}");
        }
        let requests = emulator.requests();
        assert_eq!(requests["count"], 1, "one key for both: {requests}");
        let asked = requests["requests"][0]["query"].as_str().unwrap();
        let expected = format!("api-version=2018-02-01&{ASKED}{}", recorded.more);
        assert_eq!(asked, expected, "{}", recorded.program);
    }
}

#[test]
fn another_authority_is_another_token() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let ask = |more: &str| daemon.get(&format!("/oauth2/token?{STORAGE}{more}")).status;
    for more in [
        "",
        "&authority=https://login/a",
        "&authority=https://login/b",
        "&authority=https%3A%2F%2Flogin/a",
    ] {
        assert_eq!(ask(more), 200, "{more}");
    }
    assert_eq!(emulator.count(), 3);
    assert_eq!(ask("&authority=%20"), 400);
}

//! The stand-in endpoint from outside: the real program over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use msi_tokend::emulator::{DEFAULT_CLIENT_ID, DEFAULT_OBJECT_ID, DEFAULT_RESOURCE_ID, claims};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_msi-emulator");
const STORAGE: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/";
const BYPASS: &str =
    "/metadata/identity/oauth2/token?api-version=2018-10-01&resource=https://storage.azure.com/&bypass_cache=true";
const METADATA: &str = "Metadata: true\r\n";
/// In lower case.
const IMDS: &str = "server: imds/150.870.65.512";
const DEADLINE: Duration = Duration::from_secs(30);

/// A process that is told to end when the test is over (a demo then ends its daemon), and killed if it does not.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal(Signal::SIGTERM);
        }
        for _ in 0..DEADLINE.as_millis() / 20 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `msi-emulator serve`.
struct Emulator {
    process: Running,
    address: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// Lower-cased lines.
    headers: Vec<String>,
    body: String,
}

impl Emulator {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(PROGRAM)
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .strip_prefix("listening on ")
            .expect("the line that says where")
            .trim()
            .to_owned();
        Self {
            process: Running(process),
            address,
        }
    }

    /// Sends a request with `Connection: close` and reads until the connection ends.
    fn try_send(&self, method: &str, target: &str, headers: &str, body: &str) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: emulator\r\nConnection: close\r\n{headers}\r\n{body}"
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .unwrap()
            .parse()
            .unwrap();
        Ok(Answer {
            status,
            headers: lines.map(str::to_lowercase).collect(),
            body: body.to_owned(),
        })
    }

    fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let headers = if body.is_empty() {
            headers.to_owned()
        } else {
            format!("{headers}Content-Length: {}\r\n", body.len())
        };
        self.try_send(method, target, &headers, body).unwrap()
    }

    fn get(&self, target: &str) -> Answer {
        self.send("GET", target, METADATA, "")
    }

    fn token(&self, target: &str) -> String {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A token request whose answer nobody reads yet.
    fn ask_and_leave_waiting(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {STORAGE} HTTP/1.1\r\nHost: emulator\r\n{METADATA}\r\n").unwrap();
        stream
    }

    fn script(&self, script: &str) {
        let answer = self.send("PUT", "/emulator/script", "", script);
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    fn control(&self, route: &str) -> Value {
        self.get(&format!("/emulator/{route}")).json()
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line == header)
    }

    /// Status and `error` code.
    fn error(&self) -> (u16, String) {
        (
            self.status,
            self.json()["error"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// Runs a command that is expected to end by itself.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    let mut process = command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..DEADLINE.as_millis() / 20 {
        if process.try_wait().unwrap().is_some() {
            return process.wait_with_output().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    process.kill().unwrap();
    panic!("{arguments:?} still runs: {:?}", process.wait_with_output().unwrap());
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_token_reply_is_all_strings_and_the_token_has_the_same_facts() {
    let emulator = Emulator::start(&[]);
    let answer = emulator.get(STORAGE);
    assert!(answer.has(IMDS), "{answer:?}");
    assert!(
        answer.has("content-type: application/json; charset=utf-8"),
        "{answer:?}"
    );
    let body = answer.json();
    let names: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "access_token",
        "client_id",
        "expires_in",
        "expires_on",
        "ext_expires_in",
        "not_before",
        "resource",
        "token_type",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert!(body.as_object().unwrap().values().all(Value::is_string));
    assert_eq!(
        (&body["resource"], &body["token_type"]),
        (&json!("https://storage.azure.com/"), &json!("Bearer"))
    );
    let claims = claims(body["access_token"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&claims["appid"], &claims["oid"]),
        (&json!(DEFAULT_CLIENT_ID), &json!(DEFAULT_OBJECT_ID))
    );
    assert_eq!(claims["aud"], body["resource"]);
    assert_eq!(claims["exp"].to_string(), body["expires_on"].as_str().unwrap());
}

#[test]
fn the_endpoint_caches_until_told_to_bypass() {
    let emulator = Emulator::start(&[]);
    let first = emulator.token(STORAGE);
    assert_eq!(emulator.token(STORAGE), first);
    assert_ne!(emulator.token(&STORAGE.replace("storage", "vault")), first);
    let second = emulator.token(BYPASS);
    assert_ne!(second, first);
    assert_eq!(emulator.token(STORAGE), second);
}

#[test]
fn a_request_that_breaks_a_rule_is_refused() {
    let emulator = Emulator::start(&[]);
    let invalid = |code: &str| (400, code.to_owned());
    assert_eq!(
        emulator.send("GET", STORAGE, "", "").error(),
        invalid("invalid_request")
    );
    assert_eq!(
        emulator.send("GET", STORAGE, "Metadata: True\r\n", "").error(),
        invalid("invalid_request")
    );
    let forwarded = "Metadata: true\r\nX-Forwarded-For: 10.0.0.1\r\n";
    assert_eq!(
        emulator.send("GET", STORAGE, forwarded, "").error(),
        invalid("invalid_request")
    );
    assert_eq!(emulator.send("POST", STORAGE, METADATA, "").status, 405);
    for (change, code) in [
        (STORAGE.to_owned() + "&resource=https://a.example", "invalid_request"),
        (STORAGE.to_owned() + "&client_id=a&object_id=b", "invalid_request"),
        (STORAGE.to_owned() + "&client_id=%4", "invalid_request"),
        (STORAGE.to_owned() + "&client_id=nobody", "invalid_request"),
        (STORAGE.replace("&resource=", "&resources="), "invalid_request"),
        (BYPASS.replace("2018-10-01", "2018-02-01"), "invalid_request"),
        (BYPASS.replace("=true", "=false"), "invalid_request"),
        (
            STORAGE.replace("storage.azure.com", "nothing.invalid"),
            "invalid_resource",
        ),
    ] {
        let answer = emulator.get(&change);
        assert_eq!(answer.error(), invalid(code), "{change}");
        assert!(answer.json()["error_description"].is_string(), "{change}");
    }
    for query in [
        "resource=https://a.example",
        "api-version=2017-12-01&resource=https://a.example",
    ] {
        let answer = emulator.get(&format!("/metadata/identity/oauth2/token?{query}"));
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.json()["newest-versions"].as_array().unwrap().len(),
            3,
            "{answer:?}"
        );
        assert_eq!(answer.json()["error_description"], Value::Null);
    }
    assert_eq!(emulator.get("/metadata/identity/oauth2/tokens").status, 404);
}

#[test]
fn what_else_the_metadata_service_has_needs_its_header_too() {
    let emulator = Emulator::start(&[]);
    let compute = "/metadata/instance/compute?api-version=2021-02-01";
    let platform = "/metadata/identity/getplatformmetadata?cred-api-version=2.0";
    for target in [compute, platform, "/metadata/", "/metadata/identity/issuecredential"] {
        let answer = emulator.send("GET", target, "", "");
        assert_eq!(answer.error(), (400, "invalid_request".into()), "{target}");
        assert!(answer.has(IMDS), "{target}: {answer:?}");
    }
    assert_eq!(emulator.get(compute).json()["osType"], "Linux");
    let answer = emulator.get(platform);
    assert_eq!(answer.json()["clientId"], DEFAULT_CLIENT_ID, "{answer:?}");
    assert!(answer.has(IMDS), "{answer:?}");
    for (method, target, status) in [
        ("GET", "/metadata/instance/compute", 400),
        ("GET", "/metadata/identity/getplatformmetadata", 400),
        ("GET", &*format!("{platform}&client_id=x"), 400),
        ("GET", &*format!("{platform}&mi_res_id=x"), 400),
        ("GET", &*format!("{platform}&client_id=%zz"), 400),
        ("POST", compute, 405),
        ("GET", "/metadata/x", 404),
        ("POST", "/metadata/identity/issuecredential", 404),
    ] {
        assert_eq!(
            emulator.send(method, target, METADATA, "").status,
            status,
            "{method} {target}"
        );
    }
    assert_eq!(emulator.control("requests")["count"], 14, "all are written down");
}

#[test]
fn the_vm_extension_takes_query_form_and_chunks_and_drops_the_last_slash() {
    let emulator = Emulator::start(&[]);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let resource = "resource=https%3A%2F%2Fmanagement.azure.com%2F";
    let answers = [
        emulator.get(&format!("/oauth2/token?{resource}")),
        emulator.send("POST", "/oauth2/token", &format!("{METADATA}{form}"), resource),
        emulator
            .try_send(
                "POST",
                "/oauth2/token",
                &format!("{METADATA}{form}Transfer-Encoding: chunked\r\n"),
                &format!(
                    "9\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                    &resource[..9],
                    resource.len() - 9,
                    &resource[9..]
                ),
            )
            .unwrap(),
    ];
    for answer in answers {
        let body = answer.json();
        assert_eq!((answer.status, &body["refresh_token"]), (200, &json!("")), "{answer:?}");
        assert_eq!(body["resource"], "https://management.azure.com");
        let token = body["access_token"].as_str().unwrap();
        assert_eq!(claims(token).unwrap()["aud"], "https://management.azure.com/");
    }
    let refused = emulator.send("POST", "/oauth2/token", form, resource);
    assert_eq!(refused.error(), (400, "bad_request_102".to_owned()));
}

#[test]
fn identities_come_from_a_file_or_over_the_control_route() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("identities.toml");
    let two = "[[identity]]\nclient_id='AA-1'\nobject_id='o1'\nresource_id='/subscriptions/s/1'\n\
               [[identity]]\nclient_id='AA-2'\nobject_id='o2'\nresource_id='/subscriptions/s/2'\n";
    std::fs::write(&file, two).unwrap();
    let emulator = Emulator::start(&["--identities", file.to_str().unwrap()]);
    let answer = emulator.get(STORAGE);
    assert_eq!(answer.error(), (400, "invalid_request".to_owned()));
    let several = "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request";
    assert_eq!(answer.json()["error_description"], several);
    for (selector, echo) in [
        ("client_id=aa-2", "client_id"),
        ("object_id=O2", "object_id"),
        ("msi_res_id=/subscriptions/S/2", "msi_res_id"),
    ] {
        let body = emulator.get(&format!("{STORAGE}&{selector}")).json();
        assert_eq!(body["client_id"], "AA-2", "{selector}");
        assert!(
            body[echo]
                .as_str()
                .unwrap()
                .eq_ignore_ascii_case(selector.split_once('=').unwrap().1),
            "{body}"
        );
    }
    let vm = format!("{two}[[identity]]\nclient_id='vm'\nobject_id='ov'\nresource_id='/vm'\nsystem_assigned=true");
    assert_eq!(emulator.send("PUT", "/emulator/identities", "", &vm).status, 204);
    assert_eq!(emulator.get(STORAGE).json()["client_id"], "vm");
    let bad = emulator.send("PUT", "/emulator/identities", "", "[[identity]]\nclient_id='x'");
    assert_eq!(bad.status, 400);
    assert!(
        bad.json()["error"].as_str().unwrap().contains("missing field"),
        "{bad:?}"
    );
    assert_eq!(emulator.get(STORAGE).json()["client_id"], "vm");
}

#[test]
fn faults_of_the_connection() {
    let emulator = Emulator::start(&[]);
    emulator.script(
        "[[fault]]\nreset=true\n[[fault]]\nhalf_body=true\n[[fault]]\nhuge_body=300000\n[[fault]]\nno_body=true",
    );
    let error = emulator.try_send("GET", STORAGE, METADATA, "").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let half = emulator.get(STORAGE);
    let announced = half
        .headers
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    assert_eq!(half.body.len(), announced.parse::<usize>().unwrap() / 2);
    let huge = emulator.get(STORAGE);
    assert_eq!(
        (huge.body.len(), &huge.json()["token_type"]),
        (300_000, &json!("Bearer"))
    );
    assert_eq!(emulator.get(STORAGE).body, "");
    assert_eq!(emulator.get(STORAGE).status, 200);
}

#[test]
fn a_stalled_body_keeps_the_connection_open() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\nstall_body=true");
    let mut stream = emulator.ask_and_leave_waiting();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(String::from_utf8(bytes).unwrap().contains("access_token"));
    assert_eq!(emulator.get(STORAGE).status, 200);
}

#[test]
fn faults_of_the_answer() {
    let emulator = Emulator::start(&[]);
    emulator.script(
        r#"
        [[fault]]
        status = 429
        retry_after = "7"
        times = 2
        [[fault]]
        status = 500
        server = "nginx"
        body = "<html>"
        [[fault]]
        redirect = "http://127.0.0.1:9/x"
        server = ""
        [[fault]]
        match = { resource = "vault" }
        status = 404
        "#,
    );
    for _ in 0..2 {
        let answer = emulator.get(STORAGE);
        assert_eq!(answer.error(), (429, "too_many_requests".to_owned()));
        assert!(answer.has("retry-after: 7"), "{answer:?}");
    }
    let answer = emulator.get(STORAGE);
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.has("server: nginx")),
        (500, "<html>", true)
    );
    let answer = emulator.get(STORAGE);
    assert_eq!(
        (answer.status, answer.has("location: http://127.0.0.1:9/x")),
        (302, true)
    );
    assert!(
        !answer.headers.iter().any(|line| line.starts_with("server:")),
        "{answer:?}"
    );
    assert_eq!(emulator.get(STORAGE).status, 200);
    assert_eq!(emulator.get(&STORAGE.replace("storage", "vault")).status, 404);
    assert_eq!(emulator.get(&STORAGE.replace("storage", "vault")).status, 200);
}

#[test]
fn faults_of_the_token() {
    let emulator = Emulator::start(&["--lifetime", "1h"]);
    let first = emulator.token(STORAGE);
    emulator.script(
        r#"
        [[fault]]
        wrong_resource = "https://vault.azure.net"
        wrong_client_id = "somebody"
        token_type = "pop"
        [[fault]]
        numbers = true
        raw_expires_on = "11/24/2026 10:00:00 +00:00"
        [[fault]]
        empty_token = true
        [[fault]]
        same_token = true
        [[fault]]
        lifetime = "90s"
        "#,
    );
    let foreign = emulator.get(STORAGE).json();
    assert_eq!(
        (&foreign["resource"], &foreign["token_type"]),
        (&json!("https://vault.azure.net"), &json!("pop"))
    );
    assert_eq!(foreign["client_id"], "somebody");
    assert_ne!(foreign["access_token"], first);
    let typed = emulator.get(STORAGE).json();
    assert_eq!(
        (&typed["expires_in"], &typed["expires_on"]),
        (&json!(3600), &json!("11/24/2026 10:00:00 +00:00"))
    );
    assert_eq!(typed["access_token"], first);
    assert_eq!(emulator.get(STORAGE).json()["access_token"], "");
    assert_eq!(emulator.token(BYPASS), first);
    let short = emulator.get(STORAGE).json();
    assert_eq!(short["expires_in"], "90");
    assert_eq!(emulator.token(STORAGE), short["access_token"]);
}

#[test]
fn a_malformed_request_uses_up_no_fault() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\nstatus=503");
    assert_eq!(emulator.send("GET", STORAGE, "", "").status, 400);
    assert_eq!(emulator.get(STORAGE).status, 503);
}

#[test]
fn a_script_may_come_from_a_file_and_a_bad_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("script.toml");
    std::fs::write(&file, "[[fault]]\nstatus=410").unwrap();
    let emulator = Emulator::start(&["--script", file.to_str().unwrap()]);
    let bad = emulator.send("PUT", "/emulator/script", "", "[[fault]]\nstatuz=404");
    assert_eq!(bad.status, 400);
    assert!(
        bad.json()["error"].as_str().unwrap().contains("unknown field `statuz`"),
        "{bad:?}"
    );
    assert_eq!(emulator.get(STORAGE).status, 410);
    std::fs::write(&file, "[[fault]]\ntimes=3").unwrap();
    let output = run(&["serve", "--script", file.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("script.toml: fault 1: has no effect"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn requests_and_peaks_are_told() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ndelay='600s'\ntimes=0");
    let waiting: Vec<TcpStream> = (0..3).map(|_| emulator.ask_and_leave_waiting()).collect();
    wait_until(|| emulator.control("requests")["count"] == 3);
    drop(waiting);
    wait_until(|| emulator.control("requests")["in_flight"] == 0);
    emulator.script("");
    emulator.send(
        "GET",
        &format!("{STORAGE}&object_id=X&x=%2F"),
        "Metadata: true\r\nA: 1\r\na: 2\r\n",
        "",
    );
    emulator.send("GET", "/oauth2/token", "", "");
    let report = emulator.control("requests");
    assert_eq!(report["count"], 5);
    let seen = report["requests"].as_array().unwrap();
    let concurrent: Vec<u64> = seen
        .iter()
        .map(|request| request["concurrent"].as_u64().unwrap())
        .collect();
    assert_eq!(concurrent, [1, 2, 3, 1, 1]);
    assert_eq!(
        (&seen[3]["method"], &seen[3]["path"]),
        (&json!("GET"), &json!("/metadata/identity/oauth2/token"))
    );
    assert!(seen[3]["query"].as_str().unwrap().ends_with("&object_id=X&x=%2F"));
    assert_eq!(
        (&seen[3]["resource"], &seen[3]["identity"]),
        (&json!("https://storage.azure.com/"), &json!("object_id:x"))
    );
    assert_eq!(
        (&seen[3]["headers"]["metadata"], &seen[3]["headers"]["a"]),
        (&json!("true"), &json!("1, 2"))
    );
    assert_eq!(
        (&seen[4]["resource"], &seen[4]["identity"]),
        (&Value::Null, &json!("default"))
    );
    assert!(seen[3]["at_ms"].as_u64().unwrap() >= seen[2]["at_ms"].as_u64().unwrap());
    let peak = emulator.control("peak");
    assert_eq!(peak["max_concurrent"], 3);
    assert!((1..=5).contains(&peak["max_in_one_second"].as_u64().unwrap()), "{peak}");
    assert_eq!(emulator.send("DELETE", "/emulator/requests", "", "").status, 204);
    assert_eq!(
        emulator.control("requests"),
        json!({"count": 0, "in_flight": 0, "requests": []})
    );
    assert_eq!(
        emulator.control("peak"),
        json!({"max_concurrent": 0, "max_in_one_second": 0})
    );
}

#[test]
fn a_delay_is_waited_out_before_the_token_is_made() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ndelay='1s 500ms'");
    let start = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let body = emulator.get(STORAGE).json();
    assert!(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() >= start + Duration::from_millis(1500));
    let issued = body["expires_on"].as_str().unwrap().parse::<u64>().unwrap() - 86_400;
    assert!(issued > start.as_secs(), "{issued}");
}

#[test]
fn resource_manager_lists_the_keys_of_an_account_to_a_bearer_of_its_token() {
    let emulator = Emulator::start(&["--storage-account", "demostore=a2V5MQ=="]);
    let path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/demostore/listKeys";
    let target = format!("{path}?api-version=2016-12-01");
    let token = emulator.token(&STORAGE.replace("storage.azure.com", "management.azure.com"));
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(emulator.send("POST", &target, &bearer, "").status, 411);
    let empty = "Content-Length: 0\r\n";
    let bearer = format!("{bearer}{empty}");
    let keys = emulator.send("POST", &target, &bearer, "").json();
    assert_eq!(
        keys["keys"][0],
        json!({"keyName": "key1", "permissions": "Full", "value": "a2V5MQ=="})
    );
    assert_eq!(keys["keys"][1]["keyName"], "key2");

    let code = |answer: &Answer| {
        (
            answer.status,
            answer.json()["error"]["code"].as_str().unwrap().to_owned(),
        )
    };
    let post = |target: &str, headers: &str| code(&emulator.send("POST", target, headers, ""));
    assert_eq!(post(path, &bearer), (400, "MissingApiVersionParameter".into()));
    assert_eq!(
        post(&target.replace("demostore", "other"), &bearer),
        (404, "ResourceNotFound".into())
    );
    assert_eq!(
        post(&target.replace("resourceGroups", "resourcegroups"), &bearer),
        (404, "InvalidResourceType".into())
    );
    assert_eq!(
        code(&emulator.send("GET", &target, &bearer, "")),
        (405, "MethodNotAllowed".into())
    );
    let unauthorized = emulator.send("POST", &target, empty, "");
    assert_eq!(code(&unauthorized), (401, "AuthenticationFailed".into()));
    assert!(
        unauthorized
            .headers
            .iter()
            .any(|line| line.starts_with("www-authenticate: bearer "))
    );
    let foreign = format!("Authorization: Bearer {}\r\n{empty}", emulator.token(STORAGE));
    assert_eq!(
        post(&target, &foreign),
        (401, "InvalidAuthenticationTokenAudience".into())
    );
    assert_eq!(
        post(&target, &format!("Authorization: Bearer x\r\n{empty}")),
        (401, "InvalidAuthenticationToken".into())
    );
    emulator.script("[[fault]]\nlifetime='0s'");
    let expired = emulator.token(&STORAGE.replace("storage.azure.com", "management.azure.com"));
    let expired = format!("Authorization: Bearer {expired}\r\n{empty}");
    assert_eq!(post(&target, &expired), (401, "ExpiredAuthenticationToken".into()));
}

#[test]
fn the_canary_is_in_every_token() {
    let emulator = Emulator::start(&["--canary", "CANARY_0123456789"]);
    assert!(emulator.token(STORAGE).contains("CANARY_0123456789"));
    assert!(emulator.token(BYPASS).contains("CANARY_0123456789"));
}

#[test]
fn it_stays_on_loopback_unless_told_otherwise() {
    let output = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("0.0.0.0:0 is not a loopback address"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("--any-address"), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut emulator = Emulator::start(&[]);
        emulator.process.signal(signal);
        assert!(emulator.process.0.wait().unwrap().success(), "{signal}");
    }
}

#[test]
fn the_help_names_the_default_identity() {
    let help = String::from_utf8(run(&["serve", "--help"]).stdout).unwrap();
    for id in [DEFAULT_CLIENT_ID, DEFAULT_OBJECT_ID, DEFAULT_RESOURCE_ID] {
        assert!(
            help.split_whitespace().collect::<String>().contains(id),
            "{id} in {help}"
        );
    }
}

#[test]
fn the_demo_says_how_to_build_a_daemon_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("msi-tokend");
    let output = run(&["demo", "--once", "--daemon", missing.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("cargo build --release --bins"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_demo_shows_the_log_of_a_daemon_that_ends_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("msi-tokend");
    write_program(&broken, "#!/bin/sh\necho it is broken >&2\nexit 78\n");
    let mut demo = Command::new(PROGRAM);
    demo.args(["demo", "--once", "--daemon"])
        .arg(&broken)
        .env("TMPDIR", directory.path());
    let output = demo.output().unwrap();
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("exit status: 78") && stderr(&output).contains("it is broken"),
        "{}",
        stderr(&output)
    );
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["msi-tokend"]);
}

#[test]
fn the_demo_gets_tokens_through_a_real_daemon_and_cleans_up_on_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Command::new(PROGRAM);
    demo.arg("demo")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut demo = Running(demo.spawn().unwrap());
    let mut output = BufReader::new(demo.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let shown: Vec<String> = output.by_ref().take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let shown = shown.join("\n");
    assert!(shown.contains(", 1 request reached the endpoint"), "{shown}");
    assert!(shown.contains(", 0 requests reached the endpoint"), "{shown}");
    assert!(shown.contains(DEFAULT_CLIENT_ID) && !shown.contains("eyJ"), "{shown}");

    let home = std::fs::read_dir(directory.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let socket = home.join("msi-tokend.sock");
    let line = shown.lines().find(|line| line.contains("--unix-socket")).unwrap();
    assert!(line.contains(socket.to_str().unwrap()), "{line}");
    let target = line.split_once("http://localhost").unwrap().1.trim_end_matches('\'');
    let mut stream = UnixStream::connect(&socket).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{METADATA}\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let daemon = Pid::from_raw(getsockopt(&stream, PeerCredentials).unwrap().pid());
    demo.signal(Signal::SIGINT);
    assert!(demo.0.wait().unwrap().success());
    assert_eq!(kill(daemon, None), Err(Errno::ESRCH), "the daemon outlives the demo");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_once_ends_by_itself() {
    assert!(run(&["demo", "--once"]).status.success());
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..DEADLINE.as_millis() / 20 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {DEADLINE:?}");
}

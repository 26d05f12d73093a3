//! Sick endpoints on real sockets: what is cached is served, what is not is told, and nothing is believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{Daemon, Emulator, How, MANAGEMENT, Reply, STORAGE, eventually, exchange, request};
use msi_tokend::clock::{Clock, SystemClock};
use msi_tokend::emulator::{DEFAULT_CLIENT_ID, DEFAULT_OBJECT_ID, DEFAULT_RESOURCE_ID};
use serde_json::Value;

const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01";

/// Two seconds are long on loopback, and a fault that lasts for ever is over soon.
const HASTY: &str =
    "request_timeout = \"2s\"\nmax_concurrent = 50\nmax_per_second = 1000\n[limits]\ncaller_wait = \"1s\"\n";

/// Asks for a new token in place of the cached one.
fn renew(daemon: &Daemon, resource: &str) -> Reply {
    daemon.get(&format!("{IMDS}&resource={resource}&bypass_cache=true"))
}

/// Asks until the answer is the awaited one. On a busy machine the endpoint's may come after a short wait's end; what it was
/// is then known for the next request.
fn awaited(ask: impl Fn() -> Reply, is_awaited: impl Fn(&Reply) -> bool) -> Reply {
    let mut reply = ask();
    eventually("the awaited answer", || {
        is_awaited(&reply) || {
            // Shown if the test fails.
            println!("{reply:?}");
            reply = ask();
            false
        }
    });
    reply
}

/// The answer of the first request that was not given up before the endpoint's answer was there.
fn in_time(ask: impl Fn() -> Reply) -> Reply {
    awaited(ask, |reply| reply.status != 504)
}

/// What `/status` says of a resource.
fn status(daemon: &Daemon, resource: &str) -> Value {
    let status = daemon.get("/status").json();
    let mut tokens = status["tokens"].as_array().unwrap().iter();
    tokens.find(|token| token["resource"] == resource).unwrap().clone()
}

/// Faults, in words of the cause that is told, and the answer to a caller without a token.
const FAULTS: [(&str, &str, u16); 25] = [
    ("status = 500", "HTTP 500", 503),
    (
        "status = 500\nserver = \"Microsoft-IIS/10.0\"",
        "may be restarting",
        503,
    ),
    ("status = 502", "HTTP 502", 503),
    ("status = 503", "HTTP 503", 503),
    ("status = 404", "HTTP 404", 503),
    ("status = 410", "HTTP 410", 503),
    ("status = 204\nno_body = true", "HTTP 204", 503),
    ("reset = true", "the connection broke", 503),
    ("half_body = true", "the connection broke", 503),
    ("huge_body = 270000", "the connection broke", 503),
    ("redirect = \"http://127.0.0.1:1/\"", "redirects are not followed", 503),
    (
        "redirect = \"http://127.0.0.1:1/\"\nstatus = 307",
        "redirects are not followed",
        503,
    ),
    ("delay = \"20s\"", "no answer within 2s", 504),
    ("body = \"<html>\"", "not a token", 503),
    ("no_body = true", "not a token", 503),
    (
        "body = '{\"ExceptionMessage\":\"canary\"}'",
        "access_token is missing",
        503,
    ),
    ("empty_token = true", "unfit for a header", 503),
    ("token_type = \"mtls_pop\"", "token_type is not Bearer", 503),
    ("wrong_resource = \"https://vault.azure.net\"", "another resource", 503),
    ("raw_expires_on = \"1000\"", "in the past", 503),
    ("raw_expires_on = 99999999999", "over 28 h ahead", 503),
    ("raw_expires_on = \"soon\"", "no time", 503),
    ("raw_expires_on = \"\"", "no time", 503),
    ("status = 401", "HTTP 401", 400),
    ("status = 403", "HTTP 403", 400),
];

#[test]
fn no_fault_takes_a_cached_token_from_anybody_and_who_has_none_is_told_why() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, HASTY);
    for (n, (fault, cause, code)) in FAULTS.into_iter().enumerate() {
        let (cached, cold) = (format!("https://cached/{n}"), format!("https://cold/{n}"));
        emulator.script("");
        let token = in_time(|| daemon.token(&cached)).access_token();
        emulator.script(&format!("[[fault]]\ntimes = 0\n{fault}\n"));

        assert_eq!(renew(&daemon, &cached).access_token(), token, "{fault}");
        eventually(&format!("the failure is known: {fault}"), || {
            let error = &status(&daemon, &cached)["last_error"];
            error.as_str().is_some_and(|error| error.contains(cause))
        });
        let known = status(&daemon, &cached);
        assert!(known["expires_in"].as_u64().unwrap() > 80_000, "{fault}: {known}");
        assert_eq!(daemon.token(&cached).access_token(), token, "{fault}");

        let told = awaited(
            || daemon.token(&cold),
            |told| told.status == code && (code != 503 || told.body.contains(cause)),
        );
        let retry: Option<u64> = told.header("retry-after").map(|seconds| seconds.parse().unwrap());
        match code {
            400 => assert_eq!(retry, None, "{fault}: {told:?}"),
            _ => assert!(
                retry.is_some_and(|seconds| (1..=10).contains(&seconds)),
                "{fault}: {told:?}"
            ),
        }
    }
    assert!(!daemon.log().contains("canary"), "text of a body that is no token");
}

#[test]
fn a_token_whose_claims_are_anothers_is_refused_and_a_good_one_served_meanwhile() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, HASTY);
    for (selector, id, claim) in [
        ("client_id", DEFAULT_CLIENT_ID, "appid"),
        ("object_id", DEFAULT_OBJECT_ID, "oid"),
        ("msi_res_id", DEFAULT_RESOURCE_ID, "xms_mirid"),
    ] {
        let ask = |resource: &str, more: &str| {
            let target = format!("/oauth2/token?resource={resource}&{selector}={id}{more}");
            daemon.send("GET", &target, &["Metadata: true"], "")
        };
        let claims_to_be =
            |id: &str| emulator.script(&format!("[[fault]]\ntimes = 0\nclaims = {{ {claim} = \"{id}\" }}\n"));
        emulator.script("");
        let token = in_time(|| ask(STORAGE, "")).access_token();
        claims_to_be("another");
        assert_eq!(ask(STORAGE, "&bypass_cache=true").access_token(), token, "{claim}");
        awaited(
            || ask(MANAGEMENT, ""),
            |told| told.status == 503 && told.json()["cause"] == "wrong_identity",
        );
        claims_to_be(&id.to_ascii_uppercase());
        assert_eq!(in_time(|| ask("https://vault.azure.net", "")).status, 200, "{claim}");
    }
}

#[test]
fn a_refusal_is_passed_on_in_the_endpoints_words_and_remembered() {
    let emulator = Emulator::start(&[]);
    emulator.identities("");
    let daemon = Daemon::start(&emulator, "");
    let told = daemon.token(STORAGE);
    assert_eq!((told.status, &told.json()["error"]), (400, &"invalid_request".into()));
    assert_eq!(told.json()["error_description"], "Identity not found");
    for _ in 0..20 {
        assert_eq!(daemon.token(STORAGE).status, 400);
    }
    assert_eq!(emulator.count(), 1);
}

/// An agent on the VM or the host answers in the endpoint's place: people need to see what it says.
#[test]
fn a_refusal_without_json_is_told_to_the_caller_and_in_the_log() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    for (n, (fault, told)) in [
        (
            "status = 403\nbody = \"Blocked by the guest agent: policy 12\"",
            "HTTP 403 Forbidden without JSON (",
        ),
        (
            "status = 403\nbody = \"Blocked by the guest agent: policy 12\"",
            "bytes): Blocked by the guest agent: policy 12",
        ),
        (
            "status = 400\nbody = \"<html><title>Proxy Error</title></html>\"",
            "<html><title>Proxy Error</title></html>",
        ),
        (
            "status = 405\nbody = \"<?xml version='1.0'?><Error>No</Error>\"",
            "<Error>No</Error>",
        ),
        ("status = 403\nno_body = true", "HTTP 403 Forbidden with an empty body"),
        (
            "status = 400\nbody = \"token eyJhbGciOiJub25lIn0.canary.x is bad\"",
            "token [masked] is bad",
        ),
        (
            "status = 400\nbody = \"access_token=canary\"",
            "there may be a token in it",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        emulator.script(&format!("[[fault]]\n{fault}\n"));
        let reply = daemon.token(&format!("https://cold/{n}"));
        let body = reply.json();
        assert_eq!(
            (reply.status, &body["error"]),
            (400, &"invalid_request".into()),
            "{fault}"
        );
        assert!(
            body["error_description"].as_str().unwrap().contains(told),
            "{fault}: {body}"
        );
        assert_eq!(
            (&body["class"], &body["upstream_error"]),
            (&"refused".into(), &Value::Null),
            "{fault}"
        );
        eventually("it is in the log", || daemon.log().contains(told));
    }
    assert!(!daemon.log().contains("canary"));
}

#[test]
fn ids_for_support_and_the_words_of_a_5xx_reach_the_caller_and_the_log() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let (trace, correlation) = (
        "ab4c0f62-9bd9-4e37-9a0f-21a3c7c31500",
        "f4d5e11c-7f4f-4ec1-8d1e-1f2d6f5f7a01",
    );
    let long = "AADSTS50001 ".repeat(60);
    for (n, (status, body, expected)) in [
        (
            400,
            format!(r#"{{"error":"e","error_description":"{long}Trace ID: {trace} Correlation ID: {correlation}"}}"#),
            400,
        ),
        (
            400,
            format!(
                r#"{{"error":"e","error_description":"{long}","trace_id":"{trace}","correlation_id":"{correlation}"}}"#
            ),
            400,
        ),
        (
            500,
            format!(
                r#"{{"error":{{"code":"e","message":"m"}},"trace_id":"{trace}","correlation_id":"{correlation}"}}"#
            ),
            503,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        emulator.script(&format!("[[fault]]\nstatus = {status}\nbody = '{body}'\n"));
        let reply = daemon.token(&format!("https://cold/{n}"));
        assert_eq!(reply.status, expected, "{reply:?}");
        for id in [trace, correlation] {
            assert!(reply.body.contains(id), "{id}: {reply:?}");
            eventually("it is in the log", || {
                daemon.log().lines().filter(|line| line.contains(id)).count() > n
            });
        }
    }
}

/// A token with many groups in it.
#[test]
fn a_large_token_is_served_and_what_is_larger_than_any_is_not() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    for (kib, is_served) in [(22, true), (55, true), (100, true), (255, true), (256, false)] {
        let token = "t".repeat(kib * 1024);
        let expires_on = SystemClock.now().wall.as_secs() + 80_000;
        let body = format!(r#"{{"access_token":"{token}","expires_on":"{expires_on}"}}"#);
        emulator.script(&format!("[[fault]]\nbody = '{body}'\n"));
        let reply = daemon.token(&format!("https://large/{kib}"));
        if is_served {
            assert_eq!(reply.access_token(), token, "{kib} KiB");
        } else {
            assert_eq!(
                (reply.status, &reply.json()["cause"]),
                (503, &"too_large".into()),
                "{kib} KiB"
            );
        }
    }
}

#[test]
fn a_429_silences_the_daemon_for_all_keys_and_is_told_as_one() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let cached = daemon.token("https://cached/").access_token();
    emulator.script("[[fault]]\nstatus = 429\nretry_after = \"5\"\n");
    for n in 0..20 {
        let told = daemon.token(&format!("https://cold/{n}"));
        assert_eq!(told.status, 429, "{told:?}");
        let seconds: u64 = told.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&seconds), "{told:?}");
    }
    assert_eq!(emulator.count(), 2, "the cached one, and the one that was told so");
    assert_eq!(daemon.token("https://cached/").access_token(), cached);
    eventually("the endpoint is asked again when the time is over", || {
        daemon.token("https://cold/7").status == 200
    });
    let log = daemon.log();
    assert_eq!(
        log.matches("nothing for a while and serves the cached tokens").count(),
        1,
        "{log}"
    );
    eventually("the end of it is told", || daemon.log().contains("throttles no more"));
    let requests = emulator.requests();
    let at = |n: usize| requests["requests"][n]["at_ms"].as_u64().unwrap();
    assert!(at(2) - at(1) >= 5000, "{} ms", at(2) - at(1));
}

#[test]
fn a_default_identity_that_becomes_ambiguous_is_served_on_and_said_once() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let token = daemon.token(STORAGE).access_token();
    let identity = |id: u8| {
        format!(
            "[[identity]]\nclient_id = \"0000000{id}-0000-0000-0000-000000000000\"\nobject_id = \"o{id}\"\nresource_id = \"/r{id}\"\n"
        )
    };
    emulator.identities(&format!("{}{}", identity(1), identity(2)));
    assert_eq!(renew(&daemon, STORAGE).access_token(), token);
    eventually("the refusal is told", || {
        daemon.log().contains("Multiple user assigned identities")
    });
    let told = daemon.token("https://other/");
    assert_eq!(told.status, 400, "{told:?}");
    assert!(told.body.contains("Multiple user assigned identities"), "{told:?}");
    assert_eq!(daemon.token(STORAGE).access_token(), token);
    // One of them goes again: the default is another identity than before.
    emulator.identities(&identity(2));
    eventually("the new default identity's token is there", || {
        daemon.token(STORAGE).access_token() != token
    });
    let log = daemon.log();
    assert_eq!(log.matches("default identity is another one now").count(), 1, "{log}");
    assert!(log.contains("new=00000002-0000-0000-0000-000000000000"), "{log}");
    assert_eq!(log.matches("could not be refreshed").count(), 1, "{log}");
}

#[test]
fn proxy_variables_lead_nowhere() {
    let emulator = Emulator::start(&[]);
    let how = How {
        shell: Some(
            "export http_proxy=http://127.0.0.1:1 HTTP_PROXY=http://127.0.0.1:1 all_proxy=http://127.0.0.1:1 \
             ALL_PROXY=http://127.0.0.1:1 https_proxy=http://127.0.0.1:1 no_proxy= NO_PROXY=",
        ),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "", how);
    daemon.token(STORAGE).access_token();
    let headers = &emulator.requests()["requests"][0]["headers"];
    assert_eq!(headers["host"], emulator.address.as_str());
    for name in ["via", "x-forwarded-for", "forwarded", "proxy-authorization", "cookie"] {
        assert!(headers.get(name).is_none(), "{headers}");
    }
}

#[test]
fn a_redirect_is_not_followed_even_to_somebody_who_would_answer() {
    let emulator = Emulator::start(&[]);
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let to = trap.local_addr().unwrap();
    emulator.script(&format!("[[fault]]\ntimes = 0\nredirect = \"http://{to}/\"\n"));
    let daemon = Daemon::start(&emulator, "");
    assert_eq!(daemon.token(STORAGE).status, 503);
    eventually("it was tried again", || emulator.count() >= 3);
    assert!(trap.accept().is_err(), "nobody came");
}

/// A server that does `with` to each connection, after it has read the request.
struct Sick {
    address: String,
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Sick {
    fn start(with: fn(&mut TcpStream, &AtomicBool, &AtomicU64) -> std::io::Result<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sick = Self {
            address: listener.local_addr().unwrap().to_string(),
            over: Arc::default(),
            sent: Arc::default(),
        };
        let (over, sent) = (Arc::clone(&sick.over), Arc::clone(&sick.sent));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut head = [0; 1024];
                    // That the daemon hangs up is what is waited for.
                    _ = stream.read(&mut head).and_then(|_| with(&mut stream, &over, &sent));
                });
            }
        });
        sick
    }

    fn daemon(&self) -> Daemon {
        Daemon::with_config(&format!(
            "[upstream]\nendpoint = \"http://{}/p\"\n{HASTY}",
            self.address
        ))
    }
}

impl Drop for Sick {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_endless_body_is_cut_off_after_256_kib() {
    let sick = Sick::start(|stream, over, sent| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        while !over.load(Ordering::Relaxed) {
            stream.write_all(b"400\r\n")?;
            stream.write_all(&[b' '; 0x400])?;
            stream.write_all(b"\r\n")?;
            sent.fetch_add(0x400, Ordering::Relaxed);
        }
        Ok(())
    });
    let daemon = sick.daemon();
    let before = resident_kib(&daemon);
    let told = in_time(|| daemon.token(STORAGE));
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.body.contains("the connection broke"), "{told:?}");
    let (sent, grown) = (
        sick.sent.load(Ordering::Relaxed),
        resident_kib(&daemon).saturating_sub(before),
    );
    assert!(sent < 32 << 20, "{sent} bytes went into sockets' buffers at most");
    assert!(grown < 4096, "{grown} KiB more");
}

#[test]
fn an_endless_head_is_cut_off() {
    let sick = Sick::start(|stream, over, sent| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        while !over.load(Ordering::Relaxed) {
            stream.write_all(&[b'x'; 0x400])?;
            sent.fetch_add(0x400, Ordering::Relaxed);
        }
        Ok(())
    });
    let daemon = sick.daemon();
    let before = resident_kib(&daemon);
    let told = in_time(|| daemon.token(STORAGE));
    assert_eq!(told.status, 503, "{told:?}");
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
}

#[test]
fn an_answer_that_comes_by_the_byte_is_given_up_in_time() {
    let sick = Sick::start(|stream, over, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")?;
        while !over.load(Ordering::Relaxed) {
            stream.write_all(b" ")?;
            thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    });
    let daemon = sick.daemon();
    // The caller's own wait is over before that.
    assert_eq!(daemon.token(STORAGE).status, 504);
    eventually("it is given up", || daemon.log().contains("no answer within 2s"));
}

#[test]
fn what_does_not_speak_http_is_a_fault_and_not_quoted() {
    let sick = Sick::start(|stream, _, _| stream.write_all(b"SSH-2.0-canary\r\n"));
    let daemon = sick.daemon();
    let told = in_time(|| daemon.token(STORAGE));
    assert_eq!(told.status, 503, "{told:?}");
    assert!(
        !told.body.contains("canary") && !daemon.log().contains("canary"),
        "{told:?}"
    );
}

#[test]
fn a_connection_that_nobody_accepts_is_given_up_in_time() {
    // The queue is full: the kernel answers no further SYN.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting: Vec<TcpStream> = (0..8)
        .filter_map(|_| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)).ok())
        .collect();
    let daemon = Daemon::with_config(&format!(
        "[upstream]\nendpoint = \"http://{address}/p\"\nconnect_timeout = \"500ms\"\n[limits]\ncaller_wait = \"60s\"\n"
    ));
    let told = daemon.token(STORAGE);
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.body.contains("no connection within 500ms"), "{told:?}");
    drop(waiting);
}

#[test]
fn the_daemon_does_not_ask_itself() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let itself = "[upstream]\nendpoint = \"http://localhost:40343/metadata/identity/oauth2/token\"\n\
        [listen]\nsdk = \"127.0.0.1:40343\"\n";
    daemon.reload(itself);
    daemon.logs("the daemon would ask itself");
    assert_eq!(daemon.token(STORAGE).status, 200);
}

#[test]
fn the_vms_limits_are_kept_under_a_flood() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 0\ndelay = \"20ms\"\n");
    let daemon = Daemon::start(
        &emulator,
        "max_concurrent = 3\nmax_per_second = 8\n[limits]\ncaller_wait = \"60s\"\n",
    );
    thread::scope(|scope| {
        for n in 0..40 {
            let daemon = &daemon;
            scope.spawn(move || daemon.token(&format!("https://flood/{n}")).access_token());
        }
    });
    assert_eq!(emulator.count(), 40);
    let peak = emulator.peak();
    assert!(peak["max_concurrent"].as_u64().unwrap() <= 3, "{peak}");
    assert!(peak["max_in_one_second"].as_u64().unwrap() <= 8, "{peak}");
}

#[test]
fn a_caller_that_hangs_up_takes_nothing_with_it() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ndelay = \"1s\"\n");
    let daemon = Daemon::start(&emulator, "");
    let mut leader = daemon.connect();
    let text = request("GET", &format!("{IMDS}&resource={STORAGE}"), &["Metadata: true"], "");
    leader.write_all(text.as_bytes()).unwrap();
    eventually("the endpoint is asked", || emulator.count() == 1);
    drop(leader);
    let follower = exchange(daemon.connect(), &text);
    assert_eq!(follower.status, 200, "{follower:?}");
    assert_eq!(emulator.count(), 1);
}

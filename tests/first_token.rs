//! The main job on real sockets: endpoint, daemon, client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::thread;

use common::{Daemon, Emulator, MANAGEMENT, STORAGE, TOKEND, directory, eventually, exchange, request, write};
use nix::sys::signal::Signal;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

/// What the daemon's requests were for.
fn resources(emulator: &Emulator) -> Vec<String> {
    let requests = emulator.requests();
    requests["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["resource"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_second_request_does_not_reach_the_endpoint_and_both_shapes_serve_the_same_token() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let first = daemon.token(STORAGE);
    let body = first.json();
    assert_eq!(first.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert!(
        body.as_object().unwrap().values().all(serde_json::Value::is_string),
        "{body}"
    );
    assert_eq!(body["resource"], STORAGE);
    assert!(body.get("refresh_in").is_none() && body.get("refresh_token").is_none());

    let extension = daemon.get(&format!("/oauth2/token?resource={STORAGE}")).json();
    assert_eq!(extension["access_token"], body["access_token"]);
    assert_eq!(
        (&extension["refresh_token"], &extension["resource"]),
        (&"".into(), &STORAGE.into())
    );
    let form = ["Metadata: true", "Content-Type: application/x-www-form-urlencoded"];
    let posted = daemon.send(
        "POST",
        "/oauth2/token",
        &form,
        "resource=https%3A%2F%2Fstorage.azure.com%2F",
    );
    assert_eq!(posted.access_token(), body["access_token"]);
    let chunked = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nMetadata: True\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n\
        9\r\nresource=\r\n1a\r\nhttps://storage.azure.com/\r\n0\r\n\r\n";
    assert_eq!(exchange(daemon.connect(), chunked).access_token(), body["access_token"]);
    let app_service = daemon.send(
        "GET",
        &format!("/msi/token?resource={STORAGE}"),
        &["X-IDENTITY-HEADER: any"],
        "",
    );
    assert_eq!(app_service.access_token(), body["access_token"]);
    assert_eq!(emulator.count(), 1);
}

#[test]
fn a_raw_and_an_encoded_resource_are_one_key_and_the_last_slash_makes_two() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    for resource in [
        "https://vault.azure.net",
        "https%3A%2F%2Fvault.azure.net",
        "https://vault.azure.net/",
        "https%3a%2f%2fvault.azure.net%2f",
    ] {
        assert_eq!(daemon.token(resource).status, 200, "{resource}");
    }
    assert_eq!(
        resources(&emulator),
        ["https://vault.azure.net", "https://vault.azure.net/"]
    );
}

#[test]
fn identities_are_compared_without_case_and_kept_apart_by_kind() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let id = "73444643-8088-4d70-9532-c3a0fdc190fa";
    let get = |selector: &str| daemon.token(&format!("{STORAGE}&{selector}"));
    assert_eq!(
        get(&format!("client_id={id}")).access_token(),
        get(&format!("client_id={}", id.to_uppercase())).access_token()
    );
    assert_eq!(emulator.count(), 1);
    daemon.token(STORAGE).access_token();
    assert_eq!(emulator.count(), 2, "no selector is a key of its own");
    let unknown = get("client_id=00000000-0000-0000-0000-000000000000");
    assert_eq!(
        (unknown.status, &unknown.json()["error"]),
        (400, &"invalid_request".into()),
        "{unknown:?}"
    );
    assert!(
        unknown.json()["error_description"]
            .as_str()
            .unwrap()
            .contains("Identity not found"),
        "{unknown:?}"
    );
}

/// The names of resource groups have letters of any script.
#[test]
fn a_resource_id_in_any_script_is_one_key_is_passed_on_encoded_and_named_everywhere() {
    let emulator = Emulator::start(&[]);
    let group =
        |name: &str| format!("/subscriptions/0b1f6471/resourcegroups/{name}/providers/x/userAssignedIdentities/a");
    let names = ["FORMACI\u{d3}N", "Gr\u{f6}\u{df}e-1", "\u{958b}\u{767a}\u{ff11}"];
    for name in names {
        let id = group(name);
        // The stand-in keeps tokens by client id, and their claims with them.
        emulator.identities(&format!(
            "[[identity]]\nclient_id = \"{name}\"\nobject_id = \"o\"\nresource_id = \"{id}\""
        ));
        let daemon = Daemon::start(
            &emulator,
            &format!("[[allow]]\ngroups = [0]\nresource_ids = [\"{id}\"]"),
        );
        let before = emulator.count();
        let encoded = percent_encode(id.as_bytes(), NON_ALPHANUMERIC).to_string();
        for written in [&id, &encoded, &id.to_ascii_lowercase()] {
            let reply = daemon.token(&format!("{STORAGE}&msi_res_id={written}"));
            assert_eq!(reply.status, 200, "{written}: {reply:?}");
        }
        assert_eq!(emulator.count(), before + 1);
        let identity = format!("resource_id:{}", id.to_ascii_lowercase());
        let last = emulator.requests()["requests"].as_array().unwrap().last().unwrap()["identity"].clone();
        assert_eq!(last, *identity);
        assert_eq!(daemon.get("/status").json()["tokens"][0]["identity"], *identity);
        assert!(
            daemon
                .get("/metrics")
                .body
                .contains(&format!("identity=\"{identity}\"")),
            "{name}"
        );
        daemon.logs(&format!("identity={identity}"));
    }
    let daemon = Daemon::start(&emulator, "");
    for odd in ["%E2%80%8B", "%C2%A0", "%C2%85", "%E2%80%A8", "%E2%80%A9", "%EF%BB%BF"] {
        let reply = daemon.token(&format!("{STORAGE}&msi_res_id=/rg/a{odd}b"));
        assert_eq!(reply.status, 400, "{odd}: {reply:?}");
        assert!(reply.body.contains("neither printable ASCII nor a letter"), "{reply:?}");
    }
}

#[test]
fn an_empty_selector_counts_as_absent() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let token = daemon.token(STORAGE).access_token();
    for selectors in ["client_id=", "msi_res_id=&object_id=", "mi_res_id"] {
        let reply = daemon.token(&format!("{STORAGE}&{selectors}"));
        assert_eq!(reply.access_token(), token, "{selectors}");
    }
    let twice = daemon.token(&format!("{STORAGE}&client_id=&client_id="));
    assert!(
        twice.status == 400 && twice.body.contains("more than once"),
        "{twice:?}"
    );
    assert_eq!(emulator.count(), 1);
}

#[test]
fn three_hundred_callers_of_one_cold_key_cause_one_request() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 1\ndelay = \"500ms\"\n");
    let daemon = Daemon::start(&emulator, "[limits]\nmax_connections_per_uid = 400\n");
    let tokens: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..300)
            .map(|_| scope.spawn(|| daemon.token(STORAGE).access_token()))
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(emulator.count(), 1);
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .count();
    assert_eq!(threads, 3, "one serves, one writes the log, one reads the accounts");
}

#[test]
fn a_hundred_callers_of_a_dead_upstream_cause_a_handful_and_are_told_when_to_come_back() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 0\nstatus = 503\n");
    let daemon = Daemon::start(&emulator, "");
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let reply = daemon.token(STORAGE);
                assert_eq!(reply.status, 503, "{reply:?}");
                let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=10).contains(&seconds), "{reply:?}");
            });
        }
    });
    assert!(emulator.count() <= 5, "{}", emulator.count());
}

#[test]
fn callers_are_held_while_the_endpoint_restarts() {
    let mut emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\ncaller_wait = \"60s\"\n");
    emulator.stop();
    thread::scope(|scope| {
        let held = scope.spawn(|| daemon.token(STORAGE));
        eventually("the daemon has knocked in vain", || {
            daemon.log().contains("connection refused")
        });
        emulator.restart();
        assert_eq!(held.join().unwrap().status, 200);
    });
}

#[test]
fn a_dead_upstream_is_told_at_the_end_of_the_callers_wait() {
    let mut emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\ncaller_wait = \"1s\"\n");
    emulator.stop();
    let reply = daemon.token(STORAGE);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(
        reply.body.contains("connection refused") && reply.header("retry-after").is_some(),
        "{reply:?}"
    );
    emulator.restart();
    emulator.script("[[fault]]\ntimes = 0\ndelay = \"30s\"\n");
    let reply = daemon.token(MANAGEMENT);
    assert_eq!(reply.status, 504, "{reply:?}");
}

#[test]
fn a_cached_token_is_served_without_upstream_until_it_expires_and_never_after() {
    let mut emulator = Emulator::start(&["--lifetime", "12s"]);
    let daemon = Daemon::start(&emulator, "[limits]\ncaller_wait = \"1s\"\n");
    let token = daemon.token(STORAGE).access_token();
    emulator.stop();
    let mut served = 0;
    let mut last_left = u64::MAX;
    eventually("the token expires", || {
        let reply = daemon.token(STORAGE);
        if reply.status == 200 {
            assert_eq!(reply.access_token(), token);
            let body = reply.json();
            let number = |name: &str| body[name].as_str().unwrap().parse::<u64>().unwrap();
            let left = number("expires_in");
            assert!(left >= 1 && left <= last_left, "{left} after {last_left}");
            assert!(left <= 12);
            last_left = left;
            served += 1;
            return false;
        }
        assert_eq!(reply.status, 503, "{reply:?}");
        true
    });
    assert!(served > 10, "{served}");
    assert!(last_left <= 2, "given up {last_left} s too early");
}

#[test]
fn what_is_wrong_with_a_request_is_said_without_asking_the_upstream() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let imds = "/metadata/identity/oauth2/token";
    for (method, target, headers, status, text) in [
        (
            "GET",
            format!("{imds}?api-version=2018-02-01&resource=a"),
            "Metadata: false",
            400,
            "Metadata: true",
        ),
        (
            "GET",
            format!("{imds}?resource=a"),
            "Metadata: true",
            400,
            "newest-versions",
        ),
        (
            "GET",
            format!("{imds}?api-version=2018-02-01"),
            "Metadata: true",
            400,
            "resource",
        ),
        ("POST", imds.to_owned(), "Metadata: true", 405, "GET"),
        ("DELETE", "/oauth2/token".to_owned(), "Metadata: true", 405, "GET, POST"),
        (
            "GET",
            "/oauth2/token?resource=a&scope=b".to_owned(),
            "Metadata: true",
            400,
            "scope",
        ),
        (
            "GET",
            "http://localhost/oauth2/token?resource=a".to_owned(),
            "Metadata: true",
            400,
            "path",
        ),
        (
            "GET",
            "/msi/token?resource=a".to_owned(),
            "Metadata: false",
            400,
            "X-IDENTITY-HEADER",
        ),
        (
            "GET",
            "/metadata/identity/getplatformmetadata".to_owned(),
            "Metadata: true",
            403,
            "not_served",
        ),
        ("GET", "/metadata".to_owned(), "Metadata: true", 403, "not_served"),
        ("GET", "/instance".to_owned(), "Metadata: true", 404, "no such route"),
    ] {
        let reply = daemon.send(method, &target, &[headers], "");
        assert_eq!(reply.status, status, "{method} {target}: {reply:?}");
        assert!(reply.body.contains(text), "{method} {target}: {reply:?}");
        assert!(
            reply.json()["error"].is_string() && reply.json()["error_description"].is_string(),
            "{reply:?}"
        );
    }
    let forwarded = daemon.send(
        "GET",
        "/oauth2/token?resource=a",
        &["Metadata: true", "X-Forwarded-For: 1.2.3.4"],
        "",
    );
    assert_eq!(forwarded.status, 400);
    assert_eq!(emulator.count(), 0);
}

#[test]
fn live_ready_and_status_tell_what_is() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 1\nstatus = 500\n");
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    assert_eq!(daemon.get("/live").status, 200);
    eventually("the warm token is there", || daemon.get("/ready").status == 200);
    let status = daemon.get("/status").json();
    let token = &status["tokens"][0];
    assert_eq!(
        (&token["resource"], &token["identity"], &token["warm"]),
        (&STORAGE.into(), &"default".into(), &true.into())
    );
    assert_eq!(status["format"], 1);
    assert!(
        status["endpoint"].as_str().unwrap().contains(&emulator.address),
        "{status}"
    );
    assert_eq!(status["caller"]["rules"], 0);
    assert!(token["expires_on"].as_u64().unwrap() > status["now"].as_u64().unwrap());
    assert!(!status.to_string().contains("eyJ"), "a token in /status");
    assert_eq!(emulator.count(), 2);
}

#[test]
fn ready_is_judged_by_warm_tokens_and_tells_of_those_in_use_as_well() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    eventually("the warm token is there", || daemon.get("/ready").status == 200);
    emulator.script("[[fault]]\ntimes = 0\nstatus = 500\n");
    assert_eq!(daemon.token(MANAGEMENT).status, 503);
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 200, "nobody said that it must be there: {ready:?}");
    let tokens = ready.json()["tokens"].clone();
    let members = |index: usize| {
        let token = &tokens[index];
        let failures = token["failures"].as_u64().unwrap();
        (
            token["resource"].as_str().unwrap().to_owned(),
            token["warm"] == true,
            token["ready"] == true,
            failures > 0,
        )
    };
    assert_eq!(members(0), (MANAGEMENT.to_owned(), false, false, true));
    assert_eq!(members(1), (STORAGE.to_owned(), true, true, false));
    assert!(tokens[1]["expires_in"].as_u64().unwrap() > 60, "{tokens}");
}

#[test]
fn a_warm_token_that_cannot_be_had_makes_the_daemon_live_and_not_ready() {
    let mut emulator = Emulator::start(&[]);
    emulator.stop();
    let daemon = Daemon::start(&emulator, &format!("[[warm]]\nresource = \"{STORAGE}\"\n"));
    eventually("the reason is told", || {
        let ready = daemon.get("/ready");
        assert_eq!(ready.status, 503);
        ready.json()["tokens"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("connection refused")
    });
    assert_eq!(daemon.get("/live").status, 200);
    emulator.restart();
    eventually("it heals by itself", || daemon.get("/ready").status == 200);
}

#[test]
fn a_token_is_refreshed_ahead_under_a_running_client() {
    let emulator = Emulator::start(&["--lifetime", "20s"]);
    let daemon = Daemon::start(&emulator, "");
    let first = daemon.token(STORAGE).access_token();
    eventually("a new token comes before the old one is over", || {
        let body = daemon.token(STORAGE).json();
        assert!(
            body["expires_in"].as_str().unwrap().parse::<u64>().unwrap() > 2,
            "{body}"
        );
        body["access_token"] != first
    });
}

#[test]
fn forced_renewals_are_one_in_thirty_seconds_and_ask_past_the_endpoints_cache() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let first = daemon.token(STORAGE).access_token();
    let second = daemon.token(&format!("{STORAGE}&bypass_cache=true")).access_token();
    assert_ne!(first, second);
    assert_eq!(
        daemon.token(&format!("{STORAGE}&bypass_cache=true")).access_token(),
        second
    );
    assert_eq!(daemon.token(STORAGE).access_token(), second);
    let requests = emulator.requests();
    assert_eq!(requests["count"], 2);
    let query = requests["requests"][1]["query"].as_str().unwrap();
    assert!(
        query.contains("bypass_cache=true") && query.contains("api-version=2018-10-01"),
        "{query}"
    );
}

#[test]
fn a_stop_lets_running_requests_end_and_takes_the_socket_away() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 1\ndelay = \"2s\"\n");
    let mut daemon = Daemon::start(&emulator, "");
    let socket = daemon.socket();
    let mut waiting = daemon.connect();
    let running = thread::spawn({
        let stream = daemon.connect();
        move || {
            exchange(
                stream,
                &request(
                    "GET",
                    &format!("/oauth2/token?resource={STORAGE}"),
                    &["Metadata: true"],
                    "",
                ),
            )
        }
    });
    eventually("the request is under way", || emulator.count() == 1);
    daemon.signal(Signal::SIGTERM);
    // A connection that was made in time is served too.
    waiting.write_all(request("GET", "/live", &[], "").as_bytes()).unwrap();
    let mut late = String::new();
    waiting.read_to_string(&mut late).unwrap();
    assert!(
        late.starts_with("HTTP/1.1 200") && late.to_ascii_lowercase().contains("connection: close"),
        "{late:?}"
    );
    assert_eq!(running.join().unwrap().status, 200);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_stop_waits_for_no_connection_that_asks_nothing() {
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, "");
    let _silent = daemon.connect();
    let mut kept = daemon.connect();
    for _ in 0..2 {
        let request = request("GET", "/live", &[], "").replace("Connection: close\r\n", "");
        kept.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = kept.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!daemon.log().contains("cut off"), "{}", daemon.log());
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 0\ndelay = \"1h\"\n");
    let mut daemon = Daemon::start(&emulator, "[limits]\ncaller_wait = \"10m\"\n");
    let _held = {
        let mut stream = daemon.connect();
        let target = format!("/oauth2/token?resource={STORAGE}");
        stream
            .write_all(request("GET", &target, &["Metadata: true"], "").as_bytes())
            .unwrap();
        stream
    };
    eventually("the request is under way", || emulator.count() == 1);
    daemon.signal(Signal::SIGTERM);
    eventually("it drains", || daemon.log().contains("stopping"));
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(daemon.log().contains("second signal"));
}

#[test]
fn its_memory_is_locked_where_the_limit_allows_and_otherwise_that_is_said() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let is_locked = locked.trim() != "0 kB";
    assert_ne!(
        is_locked,
        daemon.log().contains("can be swapped out"),
        "{locked}: {}",
        daemon.log()
    );
    assert!(is_locked || !nix::unistd::geteuid().is_root(), "root has no limit");
}

#[test]
fn start_up_errors_have_an_exit_code_and_say_what_to_do() {
    let run = |arguments: &[&str]| {
        let output = Command::new(TOKEND).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["--no-such-option"]).0, Some(64));
    assert_eq!(run(&["--version"]).0, Some(0));
    let (code, text) = run(&["--config", "/no/such/file.toml"]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("/no/such/file.toml"), "{text}");

    let directory = directory();
    let config = directory.path().join("config.toml");
    let path = config.to_str().unwrap();
    write(
        &config,
        "[upstream]\nendpoint = \"http://127.0.0.1:9/x\"\n[cache]\nmax_tokens = 0\nmax_token = 5\n",
    );
    let (code, text) = run(&["--check", "--config", path]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains(":4:") && text.contains(":5:") && text.contains("max_tokens"),
        "{text}"
    );

    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    write(
        &config,
        &format!(
            "[upstream]\nendpoint = \"http://127.0.0.1:9/x\"\n[listen]\nsocket = {:?}\n",
            daemon.socket()
        ),
    );
    let (code, text) = run(&["--config", path]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("already serving") && text.lines().count() == 1, "{text}");
    assert_eq!(daemon.get("/live").status, 200, "the live one is left alone");

    // A directory of root's, and a daemon of another user's.
    let program = directory.path().join("msi-tokend");
    // Copied by another process: one that this process has open for writing while a test beside it forks is "busy".
    assert!(Command::new("cp").arg(TOKEND).arg(&program).status().unwrap().success());
    write(
        &config,
        &format!(
            "[upstream]\nendpoint = \"http://127.0.0.1:9/x\"\n[listen]\nsocket = {:?}\n",
            directory.path().join("s")
        ),
    );
    let output = Command::new("setpriv")
        .args(["--reuid=47001", "--regid=47001", "--clear-groups"])
        .arg(&program)
        .args(["--config", path])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{text}");
    // Without root's limits, that its memory is not locked is told besides.
    let errors: Vec<&str> = text.lines().filter(|line| !line.contains(" info ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("listen.socket"), "{text}");
}

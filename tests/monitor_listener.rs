//! The loopback listener for monitoring agents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Daemon, Emulator, Reply, STORAGE, eventually, exchange, request};
use users::{ALICE, BOB, are_to_be_had, as_user};

/// Where the daemon says that it listens.
fn address(daemon: &Daemon) -> String {
    let what = "serving monitoring agents";
    eventually("the daemon says where", || daemon.log().contains(what));
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(what)).unwrap();
    line.split_once("address=").unwrap().1.to_owned()
}

fn get(address: &str, path: &str) -> Reply {
    exchange(TcpStream::connect(address).unwrap(), &request("GET", path, &[], ""))
}

#[test]
fn it_has_three_routes_that_say_what_the_socket_says() {
    let emulator = Emulator::start(&[]);
    let config = format!("[listen]\nmonitor = \"127.0.0.1:0\"\n[[warm]]\nresource = \"{STORAGE}\"\n");
    let daemon = Daemon::start(&emulator, &config);
    let address = address(&daemon);
    eventually("the warm token is there", || get(&address, "/ready").status == 200);
    assert_eq!(get(&address, "/live").status, 200);
    assert_eq!(get(&address, "/ready").json()["tokens"][0]["resource"], STORAGE);
    let metrics = get(&address, "/metrics");
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(
        metrics.body.contains("msi_tokend_cached_tokens 1\n"),
        "{}",
        metrics.body
    );

    let token = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={STORAGE}");
    for (status, path) in [
        (403, &*token),
        (404, "/oauth2/token?resource=https://a"),
        (404, "/msi/token?resource=https://a"),
        (404, "/status"),
        (404, "/reload"),
        (404, "/"),
    ] {
        let text = request("GET", path, &["Metadata: true", "X-IDENTITY-HEADER: x"], "");
        let reply = exchange(TcpStream::connect(&address).unwrap(), &text);
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
    }
    let page = request("GET", "/metrics", &["Origin: http://localhost"], "");
    assert_eq!(exchange(TcpStream::connect(&address).unwrap(), &page).status, 403);
    let rebound = request("GET", "/metrics", &[], "").replace("localhost", "evil.example");
    assert_eq!(exchange(TcpStream::connect(&address).unwrap(), &rebound).status, 403);
    assert_eq!(emulator.count(), 1);
}

#[test]
fn monitoring_gets_in_when_callers_have_taken_all_connections() {
    let emulator = Emulator::start(&[]);
    let config = "[listen]\nmonitor = \"127.0.0.1:0\"\n[limits]\nmax_connections = 3\n";
    let daemon = Daemon::start(&emulator, config);
    let address = address(&daemon);
    let crowd: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    eventually("the house is full", || {
        get(&address, "/ready").json()["problems"][0]
            .as_str()
            .is_some_and(|problem| problem.contains("all 3 connections are taken"))
    });
    assert!(get(&address, "/metrics").body.contains("msi_tokend_connections 3\n"));
    drop(crowd);
    eventually("it is well again", || get(&address, "/ready").json()["state"] == "ok");
}

/// Each takes all that it may have.
#[test]
fn two_users_do_not_shut_monitoring_out() {
    if !are_to_be_had("two_users_do_not_shut_monitoring_out") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        "[listen]\nmonitor = \"127.0.0.1:0\"\n[limits]\nheader_timeout = \"10m\"\n",
    );
    let address = address(&daemon);
    let live = |stream: &mut TcpStream| {
        let asked = stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = [0; 12];
        asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
    };
    let crowd = [ALICE, BOB].map(|uid| {
        as_user(uid, 7000, &[], || {
            let mut held: Vec<_> = (0..8).map(|_| TcpStream::connect(&address).unwrap()).collect();
            let served = held.iter_mut().map(live).filter(|served| *served).count();
            (held, served)
        })
    });
    let served: usize = crowd.iter().map(|(_, served)| served).sum();
    assert!(served >= 14, "all but those that are kept for root: {served}");
    for round in 0..10 {
        let agent = as_user(ALICE + 5, 7000, &[], || get(&address, "/metrics").status);
        assert_eq!((agent, get(&address, "/live").status), (200, 200), "round {round}");
    }
    drop(crowd);
}

#[test]
fn a_reload_that_moves_it_is_refused() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let config = std::fs::read_to_string(daemon.config_path()).unwrap();
    daemon.reload(&format!("{config}\n[listen]\nmonitor = \"127.0.0.1:0\"\n"));
    daemon.logs("restart needed");
}

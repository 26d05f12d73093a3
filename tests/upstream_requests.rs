//! What the daemon sends to each kind of endpoint, byte for byte, and the Azure Arc agent's challenge on real files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use common::{Daemon, Emulator, STORAGE, eventually};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const CHALLENGES: &str = "/var/opt/azcmagent/tokens";
const CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";

/// Answers one connection after the other with `replies` and gives back what was sent to it.
fn recorder(replies: Vec<String>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        replies
            .iter()
            .map(|reply| {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_head(&mut stream);
                stream.write_all(reply.as_bytes()).unwrap();
                request
            })
            .collect()
    });
    (address, thread)
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn reply(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 2\r\n\r\n{{}}")
}

/// A daemon of this kind before a recorder, asked once; the requests that it made.
fn sent(kind: &str, target: &str, replies: Vec<String>) -> (String, Vec<String>) {
    let (address, recorded) = recorder(replies);
    let daemon = Daemon::with_config(&format!(
        "[upstream]\nkind = \"{kind}\"\nendpoint = \"http://{address}/a/path\"\n"
    ));
    daemon.get(target);
    (address, recorded.join().unwrap())
}

/// Gives this thread, and what it starts from now on, a `/var/opt` of its own. False where only root could.
fn own_var_opt() -> bool {
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        eprintln!("skipped: a mount namespace, for the agent's directory, needs root");
        return false;
    }
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/var/opt", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir_all(CHALLENGES).unwrap();
    true
}

#[test]
fn each_kind_is_sent_exactly_this() {
    let headers = |address: &str| {
        format!(
            "host: {address}\r\nmetadata: true\r\naccept: application/json\r\nuser-agent: msi-tokend/{}\r\nconnection: close\r\n",
            env!("CARGO_PKG_VERSION")
        )
    };
    let target = format!("/oauth2/token?resource={STORAGE}&client_id=ABC&xms_cc=cp1");
    for (kind, query) in [
        (
            "imds",
            "api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=abc&xms_cc=cp1",
        ),
        (
            "vm-extension",
            "resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=abc&xms_cc=cp1",
        ),
        (
            "arc",
            "api-version=2020-06-01&resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=abc&xms_cc=cp1",
        ),
    ] {
        let (address, requests) = sent(kind, &target, vec![reply("400 Bad Request", "")]);
        assert_eq!(
            requests,
            [format!("GET /a/path?{query} HTTP/1.1\r\n{}\r\n", headers(&address))],
            "{kind}"
        );
    }
    if own_var_opt() {
        fs::write(format!("{CHALLENGES}/1.key"), "a2V5").unwrap();
        let challenge = reply(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Basic realm={CHALLENGES}/1.key\r\n"),
        );
        // A second challenge is not answered.
        let replies = vec![challenge.clone(), challenge];
        let (address, requests) = sent("arc", &format!("/oauth2/token?resource={STORAGE}"), replies);
        let line = "GET /a/path?api-version=2020-06-01&resource=https%3A%2F%2Fstorage.azure.com%2F HTTP/1.1\r\n";
        assert_eq!(requests[0], format!("{line}{}\r\n", headers(&address)));
        assert_eq!(
            requests[1],
            format!("{line}{}authorization: Basic a2V5\r\n\r\n", headers(&address))
        );
    }
}

#[test]
fn an_arc_agent_hands_its_token_to_who_reads_its_file_and_nothing_of_it_is_told() {
    if !own_var_opt() {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::with_config(&format!(
        "[upstream]\nkind = \"arc\"\nendpoint = \"http://{}/arc/metadata/identity/oauth2/token\"\n[log]\nlevel = \"debug\"\n",
        emulator.address
    ));
    daemon.token(STORAGE).access_token();
    daemon.token(&format!("{STORAGE}&client_id={CLIENT_ID}")).access_token();
    assert_eq!(emulator.count(), 4, "two requests each, and no more");
    assert_eq!(
        fs::read_dir(CHALLENGES).unwrap().count(),
        0,
        "each challenge was answered"
    );

    fs::write("/var/opt/elsewhere.key", "c2VjcmV0").unwrap();
    emulator.script("[[fault]]\ntimes = 1\nrealm = \"/var/opt/elsewhere.key\"\n");
    let refused = daemon.token("https://vault.azure.net");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("not in the agent's directory"), "{refused:?}");
    let leaks = |text: &str| text.contains("elsewhere") || text.contains("azcmagent") || text.contains("c2VjcmV0");
    assert!(!leaks(&refused.body) && !leaks(&daemon.get("/status").body));
    eventually("the failure is logged", || daemon.log().contains("agent's directory"));
    assert!(!leaks(&daemon.log()), "{}", daemon.log());
}

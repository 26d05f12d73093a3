//! `default_client_id` and its siblings: whom a caller gets that names no identity, by the rule that matches it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::process::Command;
use std::thread;

use common::{Daemon, Emulator, MANAGEMENT, Reply, STORAGE, TOKEND, directory, eventually, exchange, request, write};
use nix::unistd::geteuid;
use users::{ALICE, BOB, are_to_be_had, as_user};

/// The VM's own identity, and two that are assigned to it.
const IDENTITIES: &str = r#"
[[identity]]
client_id = "vm"
object_id = "vm-object"
resource_id = "/vm"
system_assigned = true
[[identity]]
client_id = "one"
object_id = "one-object"
resource_id = "/one"
[[identity]]
client_id = "two"
object_id = "two-object"
resource_id = "/two"
"#;

fn emulator() -> Emulator {
    let emulator = Emulator::start(&[]);
    emulator.identities(IDENTITIES);
    emulator
}

/// Status and `client_id` of an answer to this user.
fn ask(daemon: &Daemon, uid: u32, target: &str) -> (u16, String) {
    let reply = as_user(uid, uid, &[], || daemon.get(target));
    told(&reply)
}

fn told(reply: &Reply) -> (u16, String) {
    let client_id = reply.json()["client_id"].as_str().unwrap_or_default().to_owned();
    (reply.status, client_id)
}

fn target(resource: &str, more: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{more}")
}

fn got(client_id: &str) -> (u16, String) {
    (200, client_id.to_owned())
}

const DENIED: (u16, String) = (403, String::new());

#[test]
fn who_names_no_identity_gets_the_rules_own_and_that_one_alone_where_no_other_is_listed() {
    if !are_to_be_had("who_names_no_identity_gets_the_rules_own") {
        return;
    }
    let emulator = emulator();
    let daemon = Daemon::start(
        &emulator,
        &format!(
            "[[allow]]\nusers = [\"{ALICE}\"]\ndefault_client_id = \"ONE\"\n\
             [[allow]]\nusers = [\"{BOB}\"]\ndefault_resource_id = \"/one\"\nclient_ids = [\"two\"]\n"
        ),
    );
    assert_eq!(ask(&daemon, ALICE, &target(STORAGE, "")), got("one"));
    assert_eq!(ask(&daemon, ALICE, &target(STORAGE, "&client_id=one")), got("one"));
    assert_eq!(ask(&daemon, ALICE, &target(STORAGE, "&client_id=two")), DENIED);
    assert_eq!(ask(&daemon, ALICE, &target(STORAGE, "&object_id=one-object")), DENIED);
    assert_eq!(emulator.count(), 1, "named or not it is one token");
    assert_eq!(ask(&daemon, BOB, &target(STORAGE, "")), got("one"));
    assert_eq!(ask(&daemon, BOB, &target(STORAGE, "&msi_res_id=/one")), got("one"));
    assert_eq!(ask(&daemon, BOB, &target(STORAGE, "&client_id=two")), got("two"));
    assert_eq!(ask(&daemon, BOB, &target(STORAGE, "&client_id=one")), DENIED);
}

#[test]
fn every_route_and_the_loopback_listener_give_it() {
    let emulator = emulator();
    let uid = geteuid();
    let daemon = Daemon::start(
        &emulator,
        &format!(
            "[listen]\nsdk = \"127.0.0.1:0\"\n[[allow]]\nusers = [\"{uid}\"]\ndefault_object_id = \"one-object\"\n"
        ),
    );
    let routes = [
        target(STORAGE, ""),
        format!("/oauth2/token?resource={STORAGE}"),
        format!("/msi/token?api-version=2019-08-01&resource={STORAGE}"),
    ];
    assert_eq!(daemon.get("/live").status, 200, "sdk.env is there by then");
    let environment = std::fs::read_to_string(daemon.directory().join("sdk.env")).unwrap();
    let value = |name: &str| {
        let line = environment.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().to_owned()
    };
    let address = value("IDENTITY_ENDPOINT=http://");
    let (address, _) = address.split_once('/').unwrap();
    let secret = format!("X-IDENTITY-HEADER: {}", value("IDENTITY_HEADER="));
    for route in &routes {
        assert_eq!(
            told(&daemon.send("GET", route, &["Metadata: true", &secret], "")),
            got("one"),
            "{route}"
        );
        let head = [&*secret, "Metadata: true", "Connection: close"].join("\r\n");
        let text = format!("GET {route} HTTP/1.1\r\nHost: {address}\r\n{head}\r\n\r\n");
        let reply = exchange(std::net::TcpStream::connect(address).unwrap(), &text);
        assert_eq!(told(&reply), got("one"), "{route} over TCP");
    }
    let form = request(
        "POST",
        "/oauth2/token",
        &["Metadata: true"],
        &format!("resource={STORAGE}"),
    );
    assert_eq!(told(&exchange(daemon.connect(), &form)), got("one"));
    assert_eq!(emulator.count(), 1);
}

#[test]
fn the_first_rule_that_matches_and_has_one_decides_and_resources_count() {
    if !are_to_be_had("the_first_rule_that_matches_and_has_one_decides") {
        return;
    }
    let emulator = emulator();
    let daemon = Daemon::start(
        &emulator,
        &format!(
            "[[allow]]\nusers = [\"{ALICE}\"]\nclient_ids = [\"two\"]\n\
             [[allow]]\nusers = [\"{BOB}\"]\ndefault_client_id = \"two\"\n\
             [[allow]]\nusers = [\"{ALICE}\", \"root\"]\nresources = [\"{STORAGE}\"]\ndefault_client_id = \"one\"\n\
             [[allow]]\nusers = [\"{ALICE}\"]\ndefault_client_id = \"two\"\n"
        ),
    );
    assert_eq!(ask(&daemon, ALICE, &target(STORAGE, "")), got("one"));
    assert_eq!(ask(&daemon, ALICE, &target(MANAGEMENT, "")), got("two"));
    assert_eq!(ask(&daemon, BOB, &target(STORAGE, "")), got("two"));
    // Root may have any, and gets the rule's where one names it.
    assert_eq!(ask(&daemon, 0, &target(STORAGE, "")), got("one"));
    assert_eq!(ask(&daemon, 0, &target(MANAGEMENT, "")), got("vm"));
    assert_eq!(ask(&daemon, 0, &target(STORAGE, "&client_id=two")), got("two"));
}

#[test]
fn cache_audit_status_and_renewal_are_of_that_identity() {
    let emulator = emulator();
    let uid = geteuid();
    let rule = format!("[[allow]]\nusers = [\"{uid}\"]\ndefault_client_id = \"one\"\n");
    let daemon = Daemon::start(&emulator, &rule);
    assert_eq!(told(&daemon.get(&target(STORAGE, ""))), got("one"));
    eventually("a record", || daemon.log().contains("verdict=allowed"));
    let log = daemon.log();
    let record = log.lines().find(|line| line.contains("verdict=allowed")).unwrap();
    assert!(record.contains("identity=client_id:one"), "{record}");
    let tokens = daemon.get("/status").json()["tokens"].clone();
    assert_eq!(
        (tokens.as_array().unwrap().len(), &tokens[0]["identity"]),
        (1, &"client_id:one".into())
    );
    // Asked for anew without a name, it is the named one that is replaced.
    let before = daemon.get(&target(STORAGE, "&client_id=one")).access_token();
    let renewed = daemon.get(&target(STORAGE, "&bypass_cache=true")).access_token();
    assert_ne!(before, renewed);
    assert_eq!(daemon.get(&target(STORAGE, "&client_id=one")).access_token(), renewed);
    assert_eq!(emulator.count(), 2);
}

#[test]
fn a_reload_does_not_change_whom_a_waiting_caller_waits_for() {
    let emulator = emulator();
    let uid = geteuid();
    let rule = |default: &str| {
        format!("[[allow]]\nusers = [\"{uid}\"]\ndefault_client_id = \"{default}\"\nclient_ids = [\"one\", \"two\"]\n")
    };
    let upstream = common::upstream(&emulator);
    let daemon = Daemon::start(&emulator, &rule("one"));
    emulator.script("[[fault]]\nmatch = { identity = \"one\" }\nstatus = 404\ntimes = 2\n");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| told(&daemon.get(&target(STORAGE, ""))));
        eventually("it is asked for", || emulator.count() > 0);
        daemon.reload(&format!("{upstream}{}", rule("two")));
        assert!(!waiting.is_finished(), "it still waits");
        assert_eq!(told(&daemon.get(&target(STORAGE, ""))), got("two"), "who asks now");
        assert_eq!(waiting.join().unwrap(), got("one"));
    });
}

#[test]
fn a_reload_does_not_give_a_default_to_who_waits_for_the_vms() {
    if !are_to_be_had("a_reload_does_not_give_a_default_to_who_waits_for_the_vms") {
        return;
    }
    let any = format!("[[allow]]\nusers = [\"{ALICE}\"]\n");
    let other = format!("{any}default_client_id = \"two\"\n");
    // The former rule stays beside the one with a default, or goes.
    for (after, told) in [(format!("{any}{other}"), got("vm")), (other, DENIED)] {
        let emulator = emulator();
        let upstream = common::upstream(&emulator);
        let daemon = Daemon::start(&emulator, &any);
        emulator.script("[[fault]]\nmatch = { identity = \"default\" }\nstatus = 404\ntimes = 2\n");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&daemon, ALICE, &target(STORAGE, "")));
            eventually("it is asked for", || emulator.count() > 0);
            daemon.reload(&format!("{upstream}{after}"));
            assert!(!waiting.is_finished(), "it still waits");
            assert_eq!(waiting.join().unwrap(), told);
        });
        eventually("a record", || daemon.log().contains("verdict="));
        let log = daemon.log();
        let record = log.lines().find(|line| line.contains("verdict=")).unwrap();
        assert!(record.contains("identity=default"), "{record}");
    }
}

#[test]
fn check_warns_where_one_caller_is_given_two() {
    let directory = directory();
    let path = directory.path().join("config.toml");
    let check = |rules: &str| {
        write(&path, rules);
        let done = Command::new(TOKEND)
            .args(["--check", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{err}");
        let of_defaults = err.lines().filter(|line| line.contains("default identity"));
        of_defaults.collect::<Vec<_>>().join("\n")
    };
    let rule = |who: &str, default: &str| format!("[[allow]]\n{who}\ndefault_client_id = \"{default}\"\n");
    for (one, two) in [
        ("users = [\"7001\"]", "users = [\"7001\", \"7002\"]"),
        ("users = [\"7001\"]", "users = [\"7001\"]\nunits = [\"a.service\"]"),
        (
            "units = [\"a.service\"]",
            "units = [\"a.service\"]\nresources = [\"https://a/\"]",
        ),
        ("groups = [\"7001\"]", "groups = [\"7001\"]\nunits = [\"a.service\"]"),
        // By the account.
        ("users = [\"root\"]", "groups = [\"root\"]"),
    ] {
        let warned = check(&(rule(one, "x") + &rule(two, "y")));
        assert!(
            warned.starts_with("msi-tokend: warning: ") && warned.contains(&format!("{}:4: ", path.display())),
            "{one}: {warned}"
        );
        assert_eq!(
            check(&(rule(one, "x") + &rule(two, "x"))),
            "",
            "the same one: {one} and {two}"
        );
    }
    for (one, two) in [
        ("users = [\"7001\"]", "users = [\"7002\"]"),
        (
            "users = [\"7001\"]\nresources = [\"https://a/\"]",
            "users = [\"7001\"]\nresources = [\"https://b/\"]",
        ),
        (
            "users = [\"7001\"]\nunits = [\"a.service\"]",
            "users = [\"7001\"]\nunits = [\"b.service\"]",
        ),
        (
            "users = [\"7001\"]\nunits = [\"a.service\"]",
            "users = [\"7002\"]\nunits = [\"a.service\"]",
        ),
        ("users = [\"7001\"]", "groups = [\"root\"]"),
        // Which user the unit runs as, no file says.
        ("users = [\"7001\"]", "units = [\"a.service\"]"),
    ] {
        assert_eq!(check(&(rule(one, "x") + &rule(two, "y"))), "", "{one} and {two}");
    }
}

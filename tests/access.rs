//! Who may have which token, with real users, groups and processes, as the kernel sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/cgroups.rs"]
mod cgroups;
mod common;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cgroups::Cgroup;
use common::{Daemon, Emulator, How, MANAGEMENT, STORAGE, exchange, request, upstream};
use msi_tokend::access::{Caller, Machine, Socket, loopback};
use msi_tokend::clock::SystemClock;
use tempfile::TempDir;
use users::{ALICE, BOB, are_to_be_had, as_user};

const NOBODY: u32 = 65534;

fn target(resource: &str) -> String {
    format!("/oauth2/token?resource={resource}")
}

/// The status of one token request over a connection that stays open.
fn ask(stream: &mut UnixStream, resource: &str) -> u16 {
    let target = target(resource);
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let (mut line, mut status, mut length) = (String::new(), 0, 0);
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the connection was closed");
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some(rest) = line.strip_prefix("content-length: ") {
            length = rest.trim().parse().unwrap();
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    status
}

/// What a caller with this uid, gid and groups gets.
fn status(daemon: &Daemon, uid: u32, gid: u32, groups: &[u32]) -> u16 {
    as_user(uid, gid, groups, || daemon.get(&target(STORAGE)).status)
}

#[test]
fn users_and_groups_are_the_kernels() {
    if !are_to_be_had("users_and_groups_are_the_kernels") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        &format!("[[allow]]\nusers = [\"{ALICE}\"]\n[[allow]]\ngroups = [\"7001\", \"7002\"]"),
    );
    assert_eq!(status(&daemon, ALICE, 7000, &[]), 200, "by uid");
    assert_eq!(status(&daemon, BOB, 7000, &[]), 403);
    assert_eq!(status(&daemon, BOB, 7001, &[]), 200, "by the primary group");
    assert_eq!(
        status(&daemon, BOB, 7000, &[7003, 7002]),
        200,
        "by a supplementary group"
    );
    assert_eq!(
        status(&daemon, BOB, 7000, &[ALICE]),
        403,
        "a group with a user's number"
    );
    let many: Vec<u32> = (10_000..10_200).collect();
    assert_eq!(status(&daemon, BOB, 7000, &many), 403);
    assert_eq!(
        status(&daemon, BOB, 7000, &[&many[..], &[7001]].concat()),
        200,
        "of more groups than usual"
    );
    assert_eq!(status(&daemon, 0, 0, &[]), 200, "root");
}

#[test]
fn a_rule_has_a_uid_in_digits_or_as_an_integer_and_no_other_text_is_one() {
    if !are_to_be_had("a_rule_has_a_uid_in_digits_or_as_an_integer_and_no_other_text_is_one") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        &format!("[[allow]]\nusers = [\"+{ALICE}\"]\n[[allow]]\ngroups = [\"+7001\", \"7_001\", \"0x1b59\"]"),
    );
    assert_eq!(status(&daemon, ALICE, 7001, &[]), 403);
    daemon.logs(&format!("allow.users names \"+{ALICE}\""));
    daemon.reload(&format!(
        "{}[[allow]]\nusers = [{ALICE}]\n[[allow]]\ngroups = [0x1b59]",
        upstream(&emulator)
    ));
    assert_eq!(status(&daemon, ALICE, 7000, &[]), 200);
    assert_eq!(status(&daemon, BOB, 7001, &[]), 200);
    assert_eq!(status(&daemon, BOB, 7000, &[]), 403);
}

#[test]
fn every_part_of_a_rule_must_match_and_no_other_key_is_opened_by_it() {
    if !are_to_be_had("every_part_of_a_rule_must_match_and_no_other_key_is_opened_by_it") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        &format!(
            "[[allow]]\nusers = [\"{ALICE}\"]\ngroups = [\"7001\"]\nresources = [\"{STORAGE}\"]\ndefault_identity = true"
        ),
    );
    assert_eq!(status(&daemon, ALICE, 7001, &[]), 200);
    assert_eq!(status(&daemon, ALICE, 7000, &[]), 403);
    assert_eq!(status(&daemon, BOB, 7001, &[]), 403);
    let requests = emulator.count();
    for other in [MANAGEMENT, "https://storage.azure.com//", "https://STORAGE.azure.com/"] {
        assert_eq!(
            as_user(ALICE, 7001, &[], || daemon.get(&target(other)).status),
            403,
            "{other}"
        );
    }
    let named = format!("{}&client_id=73444643-8088-4d70-9532-c3a0fdc190fa", target(STORAGE));
    assert_eq!(as_user(ALICE, 7001, &[], || daemon.get(&named).status), 403);
    assert_eq!(emulator.count(), requests, "a refusal asks nobody");
}

/// A rule is about an audience, and SDKs differ in the last slash.
#[test]
fn a_rule_allows_a_resource_with_and_without_its_last_slash_and_both_are_asked_for_as_they_are() {
    if !are_to_be_had("a_rule_allows_a_resource_with_and_without_its_last_slash_and_both_are_asked_for_as_they_are") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let rules = format!(
        "[[allow]]\nusers = [{ALICE}]\nresources = [\"{STORAGE}\", \"https://vault.azure.net\", \"api://a/b\"]"
    );
    let daemon = Daemon::start(&emulator, &rules);
    let get = |resource: &str| as_user(ALICE, 7000, &[], || daemon.get(&target(resource)));
    let allowed = [
        STORAGE,
        "https://storage.azure.com",
        "https://vault.azure.net/",
        "https://vault.azure.net",
        "api://a/b/",
    ];
    for resource in allowed {
        let reply = get(resource);
        assert_eq!(reply.status, 200, "{resource}: {reply:?}");
        assert_eq!(reply.json()["resource"], resource, "as asked");
    }
    let requests = emulator.requests();
    let asked: Vec<_> = requests["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| &request["resource"])
        .collect();
    assert_eq!(asked, allowed, "byte for byte, a key each");
    for resource in [
        "https://storage.azure.com//",
        "https://Vault.azure.net",
        "api://a/",
        "api://a/b/c",
        "/",
    ] {
        assert_eq!(get(resource).status, 403, "{resource}");
    }
    assert_eq!(emulator.count(), 5);
}

#[test]
fn a_refusal_has_its_routes_shape_helps_and_gives_nothing_away() {
    if !are_to_be_had("a_refusal_has_its_routes_shape_helps_and_gives_nothing_away") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(
        &emulator,
        &format!("[[allow]]\nusers = [\"{ALICE}\"]\ngroups = [\"7001\"]"),
    );
    as_user(ALICE, 7001, &[], || assert_eq!(daemon.token(STORAGE).status, 200));
    let app_service = |daemon: &Daemon| {
        daemon.send(
            "GET",
            &format!("/msi/token?resource={STORAGE}"),
            &["X-IDENTITY-HEADER: x"],
            "",
        )
    };
    let refusals = as_user(BOB, 7000, &[], || {
        [
            daemon.token(STORAGE),
            daemon.get(&target(STORAGE)),
            app_service(&daemon),
        ]
    });
    for refusal in &refusals {
        let body = refusal.json();
        assert_eq!(
            (refusal.status, &body["error"]),
            (403, &"access_denied".into()),
            "{refusal:?}"
        );
        assert!(refusal.header("retry-after").is_none());
        let text = body["error_description"].as_str().unwrap();
        assert!(
            text.contains(&format!("uid {BOB}")) && text.contains("msi-token explain"),
            "{text}"
        );
        for secret in [&ALICE.to_string(), "7001", "unreachable", "config.toml:", "ey"] {
            assert!(!refusal.body.contains(secret), "{secret}: {text}");
        }
    }
    let body = refusals[2].json();
    assert_eq!(
        (&body["statusCode"], &body["message"]),
        (&403.into(), &body["error_description"])
    );
    // What others have cached is nobody else's.
    let known = as_user(BOB, 7000, &[], || daemon.get("/status").json());
    assert_eq!(known["tokens"], serde_json::json!([]));
}

#[test]
fn a_reload_counts_from_the_next_request_on_also_on_an_open_connection() {
    if !are_to_be_had("a_reload_counts_from_the_next_request_on_also_on_an_open_connection") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let by_user = format!("{}[[allow]]\nusers = [\"{ALICE}\"]", upstream(&emulator));
    let by_group = format!("{}[[allow]]\ngroups = [\"7001\"]", upstream(&emulator));
    let daemon = Daemon::with_config(&by_user);
    let mut alice = as_user(ALICE, 7000, &[], || daemon.connect());
    let mut bob = as_user(BOB, 7000, &[7001], || daemon.connect());
    assert_eq!((ask(&mut alice, STORAGE), ask(&mut bob, STORAGE)), (200, 403));
    daemon.reload(&by_group);
    assert_eq!(
        (ask(&mut alice, STORAGE), ask(&mut bob, STORAGE)),
        (403, 200),
        "groups that were never asked for before"
    );
    daemon.reload(&upstream(&emulator));
    assert_eq!(
        (ask(&mut alice, STORAGE), ask(&mut bob, STORAGE)),
        (403, 403),
        "a token that is cached is no right to it"
    );
    daemon.reload(&by_user);
    assert_eq!((ask(&mut alice, STORAGE), ask(&mut bob, STORAGE)), (200, 403));
}

/// Each way for the user to ask for the token of [`STORAGE`], on either listener: a connection, and the request in two pieces, the
/// second of which is empty but for a form.
fn ways(daemon: &Daemon, user: u32) -> Vec<(Box<dyn Stream>, String, &'static str)> {
    let variables = fs::read_to_string(daemon.directory().join("sdk.env")).unwrap();
    let variable = |name: &str| {
        let line = variables.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {variables}")).to_owned()
    };
    let address = variable("IDENTITY_ENDPOINT=http://");
    let address = address.split('/').next().unwrap();
    let secret = variable("IDENTITY_HEADER=");
    let imds = format!("GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={STORAGE}");
    let vm_extension = format!("GET {}", target(STORAGE));
    let app_service = format!("GET /msi/token?api-version=2019-08-01&resource={STORAGE}");
    let form = "resource=https://storage.azure.com/";
    let mut ways: Vec<(Box<dyn Stream>, String, &'static str)> = Vec::new();
    for sdk in [false, true] {
        for (target, form) in [
            (&imds, ""),
            (&vm_extension, ""),
            (&app_service, ""),
            (&"POST /oauth2/token".to_owned(), form),
        ] {
            let stream: Box<dyn Stream> = as_user(user, 7000, &[], || -> Box<dyn Stream> {
                if sdk {
                    Box::new(TcpStream::connect(address).unwrap())
                } else {
                    Box::new(daemon.connect())
                }
            });
            let head = format!(
                "{target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nMetadata: true\r\n\
                 X-IDENTITY-HEADER: {secret}\r\n"
            );
            let length = if form.is_empty() {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", form.len())
            };
            ways.push((stream, format!("{head}{length}\r\n"), form));
        }
    }
    ways
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// The status of each answer, and the requests' first lines.
fn statuses(ways: Vec<(Box<dyn Stream>, String, &'static str)>) -> Vec<(String, u16)> {
    let status = |(stream, head, _): (Box<dyn Stream>, String, _)| {
        let reply = exchange(stream, "");
        let told = reply.json()["error"].as_str().map(str::to_owned);
        assert_eq!(
            told.as_deref() == Some("access_denied"),
            reply.status == 403,
            "{reply:?}"
        );
        (head.lines().next().unwrap().to_owned(), reply.status)
    };
    ways.into_iter().map(status).collect()
}

/// All that came in before is read: each of these takes a connection and a request of its own.
fn catch_up(daemon: &Daemon) {
    (0..3).for_each(|_| assert_eq!(daemon.get("/live").status, 200));
}

fn for_users(emulator: &Emulator, users: &[u32]) -> String {
    let users: Vec<_> = users.iter().map(|user| format!("\"{user}\"")).collect();
    let users = users.join(", ");
    format!(
        "{}[listen]\nsdk = \"127.0.0.1:0\"\n[[allow]]\nusers = [{users}]\n",
        upstream(emulator)
    )
}

#[test]
fn a_caller_that_waits_while_its_rule_goes_gets_nothing() {
    if !are_to_be_had("a_caller_that_waits_while_its_rule_goes_gets_nothing") {
        return;
    }
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\ntimes = 0\nstatus = 410\n");
    let daemon = Daemon::with_config(&for_users(&emulator, &[ALICE, BOB]));
    catch_up(&daemon);
    let waiting = [ALICE, BOB].map(|user| {
        let mut ways = ways(&daemon, user);
        for (stream, head, form) in &mut ways {
            write!(stream, "{head}{form}").unwrap();
        }
        ways
    });
    catch_up(&daemon);
    common::eventually("the endpoint is asked in vain", || emulator.count() > 0);
    daemon.reload(&for_users(&emulator, &[BOB]));
    emulator.script("");
    let [alice, bob] = waiting.map(statuses);
    assert!(alice.iter().all(|(_, status)| *status == 403), "{alice:?}");
    assert!(bob.iter().all(|(_, status)| *status == 200), "{bob:?}");
    common::eventually("the refusal is recorded", || {
        let log = daemon.log();
        let of_alice = || log.lines().filter(|line| line.contains(&format!("uid={ALICE}")));
        of_alice().any(|line| line.contains("verdict=denied"))
            && !of_alice().any(|line| line.contains("verdict=allowed"))
    });
}

#[test]
fn a_form_that_comes_after_its_rule_has_gone_brings_nothing() {
    if !are_to_be_had("a_form_that_comes_after_its_rule_has_gone_brings_nothing") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::with_config(&for_users(&emulator, &[ALICE, BOB]));
    assert_eq!(daemon.token(STORAGE).status, 200);
    let split = [ALICE, BOB].map(|user| {
        let mut posts = ways(&daemon, user);
        posts.retain(|(_, _, form)| !form.is_empty());
        for (stream, head, form) in &mut posts {
            write!(stream, "{head}{}", &form[..9]).unwrap();
        }
        posts
    });
    catch_up(&daemon);
    daemon.reload(&for_users(&emulator, &[BOB]));
    let [alice, bob] = split.map(|mut posts| {
        for (stream, _, form) in &mut posts {
            write!(stream, "{}", &form[9..]).unwrap();
        }
        statuses(posts)
    });
    assert_eq!((alice.len(), bob.len()), (2, 2));
    assert!(alice.iter().all(|(_, status)| *status == 403), "{alice:?}");
    assert!(bob.iter().all(|(_, status)| *status == 200), "{bob:?}");
}

#[test]
fn a_connection_that_was_handed_on_stays_whose_it_was() {
    if !are_to_be_had("a_connection_that_was_handed_on_stays_whose_it_was") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("[[allow]]\nusers = [\"{ALICE}\"]"));
    let (mut alices, mut bobs) = (
        as_user(ALICE, 7000, &[], || daemon.connect()),
        as_user(BOB, 7000, &[], || daemon.connect()),
    );
    assert_eq!(ask(&mut bobs, STORAGE), 403, "although root writes to it");
    assert_eq!(as_user(BOB, 7000, &[], || ask(&mut alices, STORAGE)), 200);
}

#[test]
fn without_rules_only_root_and_the_daemons_own_user_get_tokens() {
    if !are_to_be_had("without_rules_only_root_and_the_daemons_own_user_get_tokens") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start_how(
        &emulator,
        "",
        How {
            uid: Some(ALICE),
            ..How::default()
        },
    );
    assert_eq!(status(&daemon, 0, 0, &[]), 200);
    assert_eq!(status(&daemon, ALICE, 7000, &[]), 200);
    assert_eq!(status(&daemon, BOB, ALICE, &[ALICE]), 403);
}

#[test]
fn root_needs_a_rule_where_the_configuration_says_so() {
    if !are_to_be_had("root_needs_a_rule_where_the_configuration_says_so") {
        return;
    }
    let emulator = Emulator::start(&[]);
    // A daemon that runs as root does not take root for itself then.
    for uid in [Some(ALICE), None] {
        let how = How { uid, ..How::default() };
        let daemon = Daemon::start_how(&emulator, "", how);
        let mut kept = daemon.connect();
        assert_eq!(ask(&mut kept, STORAGE), 200);
        let by_rules = format!("{}[access]\nroot = \"rules\"\n", upstream(&emulator));
        daemon.reload(&by_rules);
        assert_eq!(
            (ask(&mut kept, STORAGE), status(&daemon, 0, 0, &[])),
            (403, 403),
            "{uid:?}"
        );
        let refusal = daemon.get(&target(STORAGE)).json()["error_description"].to_string();
        assert!(refusal.contains("Root needs a rule here"), "{refusal}");
        if uid.is_some() {
            assert_eq!(status(&daemon, ALICE, 7000, &[]), 200, "the daemon's own user");
        }
        // It still administers the daemon.
        let document = daemon.get("/status").json();
        assert_eq!(document["caller"]["privileged"], false, "{document}");
        assert_eq!(document["tokens"][0]["resource"], STORAGE, "{document}");
        let told = daemon.log().matches("reload").count();
        let reloaded = daemon.send("POST", "/reload", &[], "");
        assert_eq!(reloaded.status, 200, "{reloaded:?}");
        // Or the next reload would take this record for its own.
        common::eventually("the log tells of it", || daemon.log().matches("reload").count() > told);
        daemon.reload(&format!(
            "{by_rules}[[allow]]\nusers = [\"root\"]\nresources = [\"{STORAGE}\"]\n"
        ));
        assert_eq!(
            (ask(&mut kept, STORAGE), ask(&mut kept, MANAGEMENT)),
            (200, 403),
            "{uid:?}"
        );
    }
}

#[test]
fn a_user_whom_the_kernel_cannot_name_must_be_named_by_a_rule() {
    if !are_to_be_had("a_user_whom_the_kernel_cannot_name_must_be_named_by_a_rule") {
        return;
    }
    let emulator = Emulator::start(&[]);
    // Run as nobody, the daemon must not take every stranger for itself.
    let as_nobody = How {
        uid: Some(NOBODY),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "[[allow]]\ngroups = [\"7001\"]", as_nobody);
    assert_eq!(status(&daemon, NOBODY, NOBODY, &[]), 403);
    assert_eq!(status(&daemon, NOBODY, 7001, &[]), 403);
    assert_eq!(status(&daemon, ALICE, 7001, &[]), 200);
    drop(daemon);
    let daemon = Daemon::start(&emulator, "[[allow]]\nusers = [\"65534\"]");
    assert_eq!(status(&daemon, NOBODY, NOBODY, &[]), 200);
}

#[test]
fn refusals_and_grants_are_in_the_log_once_with_who_what_and_why() {
    if !are_to_be_had("refusals_and_grants_are_in_the_log_once_with_who_what_and_why") {
        return;
    }
    let emulator = Emulator::start(&["--canary", "CANARY-in-the-audit"]);
    let rule = format!("[[allow]]\nusers = [\"{ALICE}\"]");
    let mut daemon = Daemon::start(&emulator, &rule);
    let token = as_user(ALICE, 7000, &[], || (daemon.token(STORAGE), daemon.token(STORAGE)))
        .0
        .access_token();
    let pid = std::process::id();
    as_user(BOB, 7009, &[], || {
        (0..3).for_each(|_| assert_eq!(daemon.token(STORAGE).status, 403));
    });
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();

    let granted = lines("verdict=allowed");
    assert_eq!(granted.len(), 1, "{log}");
    let uti = msi_tokend::emulator::claims(&token).unwrap()["uti"]
        .as_str()
        .unwrap()
        .to_owned();
    // "[upstream]" and the endpoint come first.
    let place = format!("rule={}:3", daemon.config_path().display());
    for part in [
        &format!("uid={ALICE} gid=7000 pid={pid}"),
        &format!("resource={STORAGE} identity=default"),
        &place,
        &format!("uti={uti}"),
    ] {
        assert!(granted[0].contains(part), "{part}: {}", granted[0]);
    }
    let denied = lines("verdict=denied");
    assert_eq!(denied.len(), 2, "{log}");
    assert!(
        denied[0].contains(&format!("uid={BOB} gid=7009 pid={pid}")) && !denied[0].contains("uti="),
        "{}",
        denied[0]
    );
    assert!(denied[1].contains("repeats=2"), "{}", denied[1]);
    assert!(!log.contains(&token) && !log.contains("CANARY"), "{log}");
}

#[test]
fn the_audit_can_be_switched_off_by_a_reload() {
    let emulator = Emulator::start(&[]);
    let config = |audit: bool| format!("{}[log]\naudit = {audit}", upstream(&emulator));
    let daemon = Daemon::with_config(&config(false));
    assert_eq!(daemon.token(STORAGE).status, 200);
    assert!(!daemon.log().contains("verdict="), "{}", daemon.log());
    daemon.reload(&config(true));
    assert_eq!(daemon.token(STORAGE).status, 200);
    common::eventually("the record is written", || daemon.log().contains("verdict=allowed"));
}

// Callers in processes of their own: this test program again.

const ROLE: &str = "MSI_TOKEND_TEST_SOCKET";

/// A process that connects when told to, and then asks for a token when told to.
struct Process(Child);

impl Process {
    fn start(socket: &std::path::Path, uid: u32) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, socket);
        if nix::unistd::geteuid().is_root() {
            command.uid(uid).gid(uid);
        }
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Lets it ask; the status that it got.
    fn status(mut self) -> u16 {
        self.go();
        self.go();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let status = text.split("status=").nth(1).unwrap_or_else(|| panic!("{text}"));
        status[..3].parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The other process; passes at once in this one.
#[test]
fn other_process() {
    let Some(socket) = std::env::var_os(ROLE) else { return };
    let mut lines = std::io::stdin().lines();
    lines.next().unwrap().unwrap();
    let stream = UnixStream::connect(socket).unwrap();
    lines.next().unwrap().unwrap();
    let reply = exchange(stream, &request("GET", &target(STORAGE), &["Metadata: true"], ""));
    println!("status={}", reply.status);
}

#[test]
fn an_unprivileged_daemon_knows_units_by_their_cgroups() {
    let name = "an_unprivileged_daemon_knows_units_by_their_cgroups";
    let slice = format!("msitokendtest{}.slice", std::process::id());
    let cgroups = [
        "backup.service",
        "backup.service/inner",
        "nested.slice/worker@7.service",
        "_memory.service",
        "user@1000.service/backup.service",
    ]
    .map(|path| Cgroup::make(&format!("{slice}/{path}")));
    if !are_to_be_had(name) {
        return;
    }
    let [Some(unit), Some(inner), Some(nested), Some(escaped), Some(look_alike)] = cgroups else {
        return eprintln!("SKIPPED {name}: no cgroup2 tree that can be written to");
    };
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start_how(
        &emulator,
        "[[allow]]\nunits = [\"backup.service\", \"worker@7.service\", \"memory.service\"]",
        How {
            uid: Some(BOB),
            ..How::default()
        },
    );
    let status_in = |cgroup: Option<&Cgroup>| {
        let process = Process::start(&daemon.socket(), ALICE);
        if let Some(cgroup) = cgroup {
            cgroup.take(process.pid());
        }
        process.status()
    };
    assert_eq!(status_in(Some(&unit)), 200);
    assert_eq!(status_in(Some(&inner)), 200, "a unit's own cgroups are the unit");
    assert_eq!(status_in(Some(&nested)), 200);
    assert_eq!(status_in(Some(&escaped)), 200);
    assert_eq!(status_in(Some(&look_alike)), 403, "a user's unit of the same name");
    assert_eq!(status_in(None), 403, "no unit");
    common::eventually("both are recorded", || {
        daemon.log().contains("unit=backup.service") && daemon.log().contains("unit=user@1000.service")
    });
}

#[tokio::test]
async fn a_peer_that_is_gone_has_no_unit_and_still_had_its_groups() {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.path().join("s");
    let machine = Machine::new(std::sync::Arc::new(SystemClock));
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let cgroup = Cgroup::make(&format!("msitokendtest-gone{}.service", std::process::id()));
    for (gone, reaped) in [(false, false), (true, false), (true, true)] {
        let mut process = Process::start(&path, ALICE);
        let mut expected = None;
        if let Some(cgroup) = &cgroup {
            cgroup.take(process.pid());
            expected = cgroup.0.file_name().and_then(|name| name.to_str());
        }
        process.go();
        let caller = Caller::of_unix(&Socket::new(listener.accept().unwrap().0, None), &machine).unwrap();
        let (pid, gid) = (process.pid(), caller.gid.unwrap());
        assert_eq!(caller.pid, Some(pid));
        if gone {
            expected = None;
            process.0.kill().unwrap();
            // With all its threads; until it is reaped, its pid and cgroup are still to be seen.
            let process = format!("/proc/{pid}");
            common::eventually("it has ended", || {
                fs::read_dir(format!("{process}/task")).unwrap().count() == 1
                    && fs::read_to_string(format!("{process}/stat")).unwrap().contains(") Z ")
            });
        }
        if reaped {
            process.0.wait().unwrap();
        }
        if cgroup.is_some() || gone {
            assert_eq!(caller.unit(), expected, "gone: {gone}, reaped: {reaped}");
        }
        assert!(caller.is_in_any(&[gid]));
    }
}

#[test]
fn a_proc_that_hides_processes_is_told_and_opens_nothing() {
    let name = "a_proc_that_hides_processes_is_told_and_opens_nothing";
    if !are_to_be_had(name) {
        return;
    }
    let mount = ["--mount", "mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"];
    if !Command::new("unshare")
        .args(mount)
        .status()
        .is_ok_and(|status| status.success())
    {
        return eprintln!("SKIPPED {name}: no mount namespace with a /proc of its own");
    }
    let emulator = Emulator::start(&[]);
    let hidden = How {
        uid: Some(BOB),
        shell: Some(
            r#"exec unshare --mount sh -c 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"' "$0" "$@""#,
        ),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "[[allow]]\nunits = [\"a.service\"]", hidden);
    common::eventually("the reason is told", || daemon.log().contains("hidepid"));
    assert_eq!(status(&daemon, ALICE, 7000, &[]), 403);
}

#[test]
fn forty_users_with_fifty_connections_each_are_told_apart() {
    const USERS: u32 = 40;
    const CONNECTIONS: u32 = 50;
    if !are_to_be_had("forty_users_with_fifty_connections_each_are_told_apart") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        for uid in ALICE..ALICE + USERS {
            scope.spawn(move || {
                as_user(uid, uid, &[], || {
                    // Those of a user come and go while the others' are asked about; each says whose it is.
                    for _ in 0..CONNECTIONS {
                        let mut stream = TcpStream::connect(address).unwrap();
                        stream.write_all(&uid.to_ne_bytes()).unwrap();
                        _ = stream.read(&mut [0]);
                    }
                });
            });
        }
        for _ in 0..USERS * CONNECTIONS {
            let (mut stream, client) = listener.accept().unwrap();
            let owner = loopback::owner(client, address).unwrap();
            let mut says = [0; 4];
            stream.read_exact(&mut says).unwrap();
            assert_eq!(owner.uid, u32::from_ne_bytes(says));
        }
    });
}

//! Clients that are slow, many or greedy, on real sockets: they are cut off, told, or kept waiting, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/users.rs"]
mod users;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Daemon, Emulator, How, STORAGE, eventually, exchange, request, upstream};
use msi_tokend::clock::{Clock, SystemClock};
use users::{ALICE, BOB, are_to_be_had, as_user};

const HEAD: &str = "GET /oauth2/token?resource=https://storage.azure.com/ HTTP/1.1\r\nHost: x\r\n";
const FORM: &str = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nContent-Length: 40\r\n\r\n";
const CHUNKS: &str = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nTransfer-Encoding: chunked\r\n\r\n";
const LIVE: &str = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";

/// The rest of what comes over a connection, until the daemon closes it.
fn rest(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("still open: {error}"),
    }
    String::from_utf8(bytes).unwrap()
}

fn connections(daemon: &Daemon) -> u64 {
    let text = daemon.get("/metrics").body;
    let line = text
        .lines()
        .find(|line| line.starts_with("msi_tokend_connections "))
        .unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// One whole request over a connection that stays open; waits for the answer's first bytes.
fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut buffer = [0; 8192];
    let count = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// A connection that the daemon has let in; what came before it may still be on its way out.
fn seated(daemon: &Daemon) -> UnixStream {
    let mut seated = None;
    eventually("there is a place", || {
        let mut stream = daemon.connect();
        if ask(&mut stream, LIVE).contains(" 200 ") {
            seated = Some(stream);
        }
        seated.is_some()
    });
    seated.unwrap()
}

#[test]
fn silence_at_any_place_of_a_request_ends_the_connection() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\nheader_timeout = \"500ms\"");
    for (place, sent, answer) in [
        ("at once", "", ""),
        ("in the request line", "GET /oauth2/tok", ""),
        ("in a header", HEAD, ""),
        ("before the last line", &format!("{HEAD}Metadata: true\r\n"), ""),
        ("before the form", FORM, "400"),
        ("in the form", &format!("{FORM}resource=htt"), "400"),
        ("in a chunk", &format!("{CHUNKS}10\r\nresource"), "400"),
        ("between chunks", &format!("{CHUNKS}9\r\nresource=\r\n"), "400"),
        ("after a request", LIVE, "200"),
    ] {
        let mut stream = daemon.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let text = rest(&mut stream);
        assert_eq!(text.split(' ').nth(1).unwrap_or_default(), answer, "{place}: {text:?}");
    }
    assert_eq!(emulator.count(), 0);
}

/// A head or a form has its time as a whole: a byte now and then does not stretch it.
#[test]
fn a_trickle_ends_as_silence_does() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\nheader_timeout = \"500ms\"");
    for start in [HEAD, &format!("{CHUNKS}1000\r\n")] {
        let mut stream = daemon.connect();
        stream.write_all(start.as_bytes()).unwrap();
        let sent = (0..6000).take_while(|_| {
            thread::sleep(Duration::from_millis(10));
            stream.write_all(b"a").is_ok()
        });
        assert!(sent.count() < 6000, "{start}");
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\nheader_timeout = \"500ms\"");
    assert_eq!(daemon.token(STORAGE).status, 200);
    let mut stream = daemon.connect();
    stream.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
    let requests = format!("{HEAD}Metadata: true\r\n\r\n").repeat(100);
    // Answers fill the socket, then requests do, and then nothing moves any more until the daemon closes.
    let error = loop {
        if let Err(error) = stream.write_all(requests.as_bytes()) {
            break error;
        }
    };
    assert!(
        matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
        "{error}"
    );
    eventually("its place is free", || connections(&daemon) == 1);
    assert_eq!(daemon.token(STORAGE).status, 200);
}

#[test]
fn a_uid_at_its_bound_is_told_so_and_nobody_else_notices() {
    let emulator = Emulator::start(&[]);
    let rule = format!(
        "[limits]\nheader_timeout = \"10m\"\nmax_connections_per_uid = 3\n[[allow]]\nusers = [\"{ALICE}\", \"{BOB}\"]"
    );
    let daemon = Daemon::start(&emulator, &rule);
    let root = nix::unistd::geteuid().as_raw();
    let mut held = vec![seated(&daemon), seated(&daemon), seated(&daemon)];
    let refused = daemon.token(STORAGE);
    assert_eq!(
        (
            refused.status,
            refused.header("retry-after"),
            refused.header("connection")
        ),
        (429, Some("1"), Some("close"))
    );
    assert!(
        refused.json()["error_description"]
            .as_str()
            .unwrap()
            .contains(&format!("uid {root}"))
    );
    let app_service = daemon.send("GET", "/msi/token", &[], "");
    assert_eq!(app_service.json()["statusCode"], 429, "in the shape of the route");

    if are_to_be_had("a_uid_at_its_bound_is_told_so_and_nobody_else_notices, in part") {
        let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(daemon.connect());
                        tries.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let others = [ALICE, BOB].map(|uid| {
                as_user(uid, 7000, &[], || {
                    (0..20).map(|_| daemon.token(STORAGE).status).collect::<Vec<_>>()
                })
            });
            stop.store(true, Ordering::Relaxed);
            assert!(others.iter().flatten().all(|status| *status == 200), "{others:?}");
        });
        assert!(tries.into_inner() > 20, "there was a crowd");
    }

    // A crowd that connects and says nothing is not kept.
    let mut crowd: Vec<UnixStream> = (0..100).map(|_| daemon.connect()).collect();
    for stream in &mut crowd {
        assert_eq!(rest(stream), "");
    }
    drop(held.pop());
    eventually("there is room again", || daemon.token(STORAGE).status == 200);
    assert!(
        ask(&mut held[0], LIVE).contains(" 200 "),
        "who was there before is served on"
    );
}

/// Each hangs up unannounced, and comes back before the daemon needs to have noticed.
#[test]
fn who_hangs_up_has_his_place_again_at_once() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\nmax_connections_per_uid = 2");
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                for _ in 0..500 {
                    let mut stream = daemon.connect();
                    let answer = ask(&mut stream, LIVE);
                    assert!(answer.contains(" 200 "), "{answer}");
                    // To drop it is not enough: a process that another test is just starting has the descriptor as well.
                    stream.shutdown(Shutdown::Both).unwrap();
                }
            });
        }
    });
}

/// A stranger has all that are for everybody; others still get in, and the stranger pays with what was idle for longest.
#[test]
fn when_all_connections_are_taken_the_heaviest_user_pays() {
    if !are_to_be_had("when_all_connections_are_taken_the_heaviest_user_pays") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let config = format!(
        "[limits]\nmax_connections = 16\nmax_connections_per_uid = 16\nheader_timeout = \"10m\"\n[[allow]]\nusers = [{BOB}]"
    );
    let daemon = Daemon::start(&emulator, &config);
    let seats = |uid, count| {
        as_user(uid, 7000, &[], || {
            (0..count).map(|_| seated(&daemon)).collect::<Vec<_>>()
        })
    };
    let mut crowd = seats(ALICE, 14);
    let refused = as_user(ALICE, 7000, &[], || daemon.get("/live"));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(refused.body.contains("limits.max_connections "), "{}", refused.body);
    assert!(ask(&mut crowd[0], LIVE).contains(" 200 "), "it was idle for longest");
    let mut bobs = seats(BOB, 4);
    for gone in [1, 2] {
        assert_eq!(
            rest(&mut crowd[gone]),
            "",
            "two were kept for him, and two are the stranger's"
        );
    }
    assert!(ask(&mut crowd[3], LIVE).contains(" 200 "));
    let other_stranger = as_user(ALICE + 5, 7000, &[], || daemon.get("/live").status);
    assert_eq!(other_stranger, 200);
    assert_eq!(rest(&mut crowd[4]), "");
    assert_eq!(daemon.token(STORAGE).status, 200, "root");
    for stream in &mut bobs {
        assert!(ask(stream, LIVE).contains(" 200 "), "nobody took one of his");
    }
    let full = "msi_tokend_connections_rejected_total{reason=\"full\"} 1\n";
    assert!(daemon.get("/metrics").body.contains(full));
}

#[test]
fn a_caller_that_waits_makes_room_where_nothing_is_idle_and_is_told() {
    if !are_to_be_had("a_caller_that_waits_makes_room_where_nothing_is_idle_and_is_told") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let config = format!("[limits]\nmax_connections = 4\ncaller_wait = \"10m\"\n[[allow]]\nusers = [{ALICE}, {BOB}]");
    let daemon = Daemon::start(&emulator, &config);
    emulator.script("[[fault]]\ntimes = 0\nstatus = 410\n");
    let target = format!("/oauth2/token?resource={STORAGE}");
    let asks = request("GET", &target, &["Metadata: true"], "");
    let mut waiting = as_user(ALICE, 7000, &[], || {
        (0..4).map(|_| daemon.connect()).collect::<Vec<_>>()
    });
    for stream in &mut waiting {
        stream.write_all(asks.as_bytes()).unwrap();
    }
    eventually("all four are taken", || {
        as_user(ALICE, 7000, &[], || daemon.get("/live").status) == 429
    });
    assert_eq!(as_user(BOB, 7000, &[], || daemon.get("/live").status), 200);
    let told = exchange(waiting.remove(0), "");
    assert_eq!((told.status, told.header("connection")), (429, Some("close")));
    assert_eq!(told.json()["class"], "full");
    for stream in &mut waiting {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(
            stream.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "they wait on"
        );
    }
}

#[test]
fn callers_that_are_held_count() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "[limits]\nmax_connections_per_uid = 2\ncaller_wait = \"1s\"");
    emulator.script("[[fault]]\ntimes = 0\nstatus = 410\n");
    let ask = request(
        "GET",
        &format!("/oauth2/token?resource={STORAGE}"),
        &["Metadata: true"],
        "",
    );
    let mut held = [seated(&daemon), seated(&daemon)];
    for stream in &mut held {
        stream.write_all(ask.as_bytes()).unwrap();
    }
    eventually("the third is refused", || daemon.get("/live").status == 429);
    for stream in held {
        let answer = exchange(stream, "");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    eventually("they have left", || daemon.get("/live").status == 200);
}

#[test]
fn keys_are_bounded_by_uid_and_another_has_his_own() {
    let emulator = Emulator::start(&[]);
    let rule = format!("[cache]\nmax_tokens_per_uid = 2\n[[allow]]\nusers = [\"{ALICE}\"]");
    let daemon = Daemon::start(&emulator, &rule);
    emulator.script("[[fault]]\ntimes = 2\ndelay = \"30s\"\n");
    let target = |number: u32| format!("/oauth2/token?resource=https://{number}.azure.com/");
    let mut held = [daemon.connect(), daemon.connect()];
    for (number, stream) in (0..).zip(&mut held) {
        stream
            .write_all(request("GET", &target(number), &["Metadata: true"], "").as_bytes())
            .unwrap();
    }
    eventually("both are asked for", || emulator.count() == 2);
    let refused = daemon.get(&target(2));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("10")));
    assert!(refused.body.contains("max_tokens_per_uid"), "{}", refused.body);
    if are_to_be_had("keys_are_bounded_by_uid_and_another_has_his_own, in part") {
        assert_eq!(as_user(ALICE, 7000, &[], || daemon.get(&target(3)).status), 200);
    }
}

/// The user who asked first for a key asks for more keys than it may have, while the endpoint is away and another lives by
/// that key.
#[test]
fn nobody_throws_out_a_token_that_another_uses() {
    let name = "nobody_throws_out_a_token_that_another_uses";
    if !are_to_be_had(name) {
        return;
    }
    let mut emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, &format!("[[allow]]\nusers = [\"{ALICE}\", \"{BOB}\"]"));
    let token = |uid| as_user(uid, 7000, &[], || daemon.token(STORAGE));
    assert_eq!((token(ALICE).status, token(BOB).status), (200, 200));
    emulator.stop();
    let nonsense = |number: u32| {
        let target = format!("/oauth2/token?resource=https://nonsense{number}/");
        request("GET", &target, &["Metadata: true"], "")
    };
    let mut held = as_user(ALICE, 7000, &[], || {
        (0..64).map(|_| daemon.connect()).collect::<Vec<_>>()
    });
    for (number, stream) in (0..).zip(&mut held) {
        stream.write_all(nonsense(number).as_bytes()).unwrap();
    }
    eventually("all are taken in", || {
        daemon.get("/status").body.matches("nonsense").count() == 64
    });
    let one_more = as_user(ALICE, 7000, &[], || exchange(daemon.connect(), &nonsense(64)));
    assert_eq!((one_more.status, one_more.header("retry-after")), (429, Some("10")));
    assert_eq!((token(BOB).status, token(ALICE).status), (200, 200));
}

#[test]
fn a_token_beyond_the_bytes_is_not_kept_and_its_caller_is_told() {
    if !are_to_be_had("a_token_beyond_the_bytes_is_not_kept_and_its_caller_is_told") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let config =
        format!("max_per_second = 1000\n[cache]\nmax_bytes = \"1MB\"\n[[allow]]\nusers = [\"{ALICE}\", \"{BOB}\"]");
    let daemon = Daemon::start(&emulator, &config);
    let expires_on = (SystemClock.now().wall + Duration::from_hours(24)).as_secs();
    let large = "x".repeat(60_000);
    emulator.script(&format!(
        "[[fault]]\ntimes = 0\nbody = '{{\"access_token\":\"{large}\",\"expires_on\":\"{expires_on}\"}}'"
    ));
    let get = |uid, number: u32| {
        let target = format!("/oauth2/token?resource=https://{number}.azure.com/");
        as_user(uid, 7000, &[], || daemon.get(&target))
    };
    let alices = || (0..16).map(|number| get(ALICE, number).status).collect::<Vec<_>>();
    assert_eq!(alices(), [200; 16]);
    for _ in 0..3 {
        let refused = get(BOB, 16);
        assert_eq!(
            (refused.status, refused.json()["error"].as_str()),
            (429, Some("too_many_requests"))
        );
        assert!(refused.body.contains("cache.max_bytes"), "{}", refused.body);
        let seconds: u8 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&seconds));
    }
    let asked = emulator.count();
    assert_eq!(alices(), [200; 16]);
    assert_eq!(emulator.count(), asked, "none of hers has gone");
    let full = r#"msi_tokend_requests_total{route="/oauth2/token",outcome="full"} 3"#;
    eventually("it is counted", || daemon.get("/metrics").body.contains(full));
}

/// At the bound and one beyond it.
#[test]
fn endless_keys_take_no_more_room_than_the_bound() {
    let emulator = Emulator::start(&[]);
    let config = "max_per_second = 100000\nmax_concurrent = 100\n[cache]\nmax_tokens_per_uid = 5";
    let daemon = Daemon::start(&emulator, config);
    for number in 0..6 {
        let reply = daemon.get(&format!("/oauth2/token?resource=https://{number}.azure.com/"));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let cached = daemon.get("/status").json()["tokens"].as_array().unwrap().len();
        assert_eq!(cached, usize::min(number + 1, 5));
    }
}

#[test]
fn with_few_descriptors_fewer_callers_are_let_in_and_the_upstream_is_still_asked() {
    let emulator = Emulator::start(&[]);
    let few = How {
        shell: Some("ulimit -n 144"),
        ..How::default()
    };
    let daemon = Daemon::start_how(&emulator, "", few);
    eventually("it says so", || daemon.log().contains("descriptors for 12"));
    let mut callers: Vec<UnixStream> = (0..50).map(|_| daemon.connect()).collect();
    // The connections of one user, all open: a new token can still be had by who has one of them.
    assert!(ask(&mut callers[0], &format!("{HEAD}Metadata: true\r\n\r\n")).contains(" 200 "));
    assert!(ask(&mut callers[9], LIVE).contains(" 200 "));
    // Two of those who came together have the last places. Nobody has more than this user, so the others are not let in.
    let served = callers[10..].iter_mut().filter(|stream| {
        _ = (&**stream).write_all(LIVE.as_bytes());
        let mut buffer = [0; 12];
        (&**stream).read_exact(&mut buffer).is_ok() && buffer.ends_with(b"200")
    });
    assert_eq!(served.count(), 2);
    callers.truncate(10);
    assert!(ask(&mut seated(&daemon), LIVE).contains(" 200 "));
    assert!(
        !daemon.log().contains("no connection can be accepted"),
        "{}",
        daemon.log()
    );
}

#[test]
fn out_of_descriptors_the_daemon_waits_without_spinning_and_comes_back() {
    let name = "out_of_descriptors_the_daemon_waits_without_spinning_and_comes_back";
    if !are_to_be_had(name) {
        return;
    }
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    assert_eq!(daemon.token(STORAGE).status, 200);
    let process = format!("/proc/{}", daemon.pid());
    eventually("only its own descriptors are open", || connections(&daemon) == 1);
    let limit = |limit: usize| {
        let changed = Command::new("prlimit")
            .args(["--pid", &daemon.pid().to_string(), &format!("--nofile={limit}:")])
            .status();
        assert!(changed.unwrap().success());
    };
    limit(std::fs::read_dir(format!("{process}/fd")).unwrap().count() - 1);
    // One may find a place: what was open for a moment only when the limit was set.
    let mut callers = Vec::new();
    eventually("it has noticed", || {
        let mut caller = daemon.connect();
        caller.write_all(LIVE.as_bytes()).unwrap();
        callers.push(caller);
        daemon.log().contains("no connection can be accepted")
    });
    let ticks = || {
        let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap();
        let after_name: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        after_name[11].parse::<u64>().unwrap() + after_name[12].parse::<u64>().unwrap()
    };
    // A loop that spins takes a hundred ticks of this second, or what the machine gives it.
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    assert!(ticks() - before < 10, "{} ticks", ticks() - before);
    limit(1024);
    for caller in &mut callers {
        let mut buffer = [0; 12];
        caller.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"HTTP/1.1 200");
    }
    assert_eq!(
        daemon.log().matches("no connection can be accepted").count(),
        1,
        "{}",
        daemon.log()
    );
}

/// Three users to the kernel and one to the daemon: who may run as many uids has no more than who has one.
#[test]
fn subordinate_uids_count_as_their_owner() {
    const FIRST: u32 = 1_919_000;
    let name = "subordinate_uids_count_as_their_owner";
    if !are_to_be_had(name) {
        return;
    }
    if !Path::new("/etc/subuid").exists() {
        return eprintln!("SKIPPED {name}: there is no /etc/subuid to put another one over");
    }
    let directory = common::directory();
    let subuid = directory.path().join("subuid");
    common::write(&subuid, &format!("{BOB}:{FIRST}:65536\n"));
    let how = How {
        shell: Some(r#"exec unshare --mount sh -c 'mount --bind "$SUBUID" /etc/subuid && exec "$0" "$@"' "$0" "$@""#),
        environment: vec![("SUBUID", subuid.display().to_string())],
        ..How::default()
    };
    let emulator = Emulator::start(&[]);
    let config = format!(
        "[limits]\nmax_connections_per_uid = 3\nheader_timeout = \"10m\"\n[cache]\nmax_tokens_per_uid = 3\n[[allow]]\n\
         users = [{ALICE}, {BOB}, {FIRST}, {}, {}]",
        FIRST + 1,
        FIRST + 65_535
    );
    let daemon = Daemon::start_how(&emulator, &config, how);
    let target = |number: u32| format!("/oauth2/token?resource=https://{number}.azure.com/");
    let asks = |uid, number| as_user(uid, 7000, &[], || daemon.get(&target(number)).status);
    for (number, uid) in (0..).zip([BOB, FIRST, FIRST + 1, FIRST + 65_535]) {
        assert_eq!(asks(uid, number), 200, "{uid}");
    }
    let cached = || daemon.get("/status").json()["tokens"].as_array().unwrap().len();
    assert_eq!(cached(), 3, "keys");
    let held = [BOB, FIRST, FIRST + 1].map(|uid| as_user(uid, 7000, &[], || seated(&daemon)));
    assert_eq!(asks(FIRST + 65_535, 3), 429, "connections");
    assert_eq!(asks(ALICE, 4), 200, "of another");
    // The same file, since this one is what the daemon has in its place.
    std::fs::write(&subuid, "").unwrap();
    eventually("the change is known", || asks(FIRST + 65_535, 3) == 200);
    drop(held);
}

#[test]
fn a_bound_that_a_reload_lowers_throws_nobody_out() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let mut held = [seated(&daemon), seated(&daemon)];
    daemon.reload(&format!("{}[limits]\nmax_connections_per_uid = 1", upstream(&emulator)));
    assert_eq!(daemon.get("/live").status, 429);
    for stream in &mut held {
        assert!(ask(stream, LIVE).contains(" 200 "));
    }
}

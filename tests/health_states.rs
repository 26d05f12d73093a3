//! Each state of the daemon is reached by breaking something and left by itself once that is mended; and all who tell of
//! it agree: `/live`, `/ready`, `msi-token health`, the line of `systemctl status`, the log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Daemon, Emulator, How, MANAGEMENT, STORAGE, TOKEN, directory, eventually, request};
use msi_tokend::access::{Machine, Rules};
use msi_tokend::broker::{Entry, KeySnapshot, Policy};
use msi_tokend::clock::{Clock, Now, SystemClock};
use msi_tokend::config::{Config, RootAccess};
use msi_tokend::engine::Engine;
use msi_tokend::key::{Identity, Key, Resource};
use msi_tokend::listen;
use msi_tokend::observe::health::{Health, State};
use msi_tokend::observe::metrics::Metrics;
use msi_tokend::observe::report::Reporter;
use msi_tokend::observe::status::ConfigurationStatus;
use msi_tokend::server::{self, Bounds, ListenerKind, Server, Settings};
use msi_tokend::upstream::Upstream;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

const OK: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;

/// A daemon, and what it tells its service manager.
struct Watched {
    daemon: Daemon,
    told: Arc<Mutex<Told>>,
    _directory: TempDir,
}

#[derive(Default)]
struct Told {
    /// What `systemctl status` shows.
    line: String,
    /// How often the watchdog was fed.
    feeds: u64,
}

impl Watched {
    /// With `STORAGE` kept warm. `more` is added to the configuration and begins with a table.
    fn start(emulator: &Emulator, more: &str) -> Self {
        let directory = directory();
        let socket = directory.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        let told = Arc::new(Mutex::new(Told::default()));
        std::thread::spawn({
            let told = Arc::clone(&told);
            move || listen(&manager, &told)
        });
        let how = How {
            // The watchdog's limit sets how often the daemon looks at itself.
            environment: vec![
                ("NOTIFY_SOCKET", socket.to_str().unwrap().to_owned()),
                ("WATCHDOG_USEC", "200000".to_owned()),
            ],
            ..How::default()
        };
        let config = format!("[[warm]]\nresource = \"{STORAGE}\"\n{more}");
        Self {
            daemon: Daemon::start_how(emulator, &config, how),
            told,
            _directory: directory,
        }
    }

    fn status_line(&self) -> String {
        self.told.lock().line.clone()
    }

    /// The exit code and the line of the plugin.
    fn plugin(&self) -> (u8, String) {
        let output = Command::new(TOKEN)
            .args(["health", "--socket"])
            .arg(self.daemon.socket())
            .output()
            .unwrap();
        let code = output.status.code().unwrap().try_into().unwrap();
        (code, String::from_utf8(output.stdout).unwrap())
    }

    /// Waits until all agree on the state; `why` is told by each that has words for it.
    fn await_state(&self, state: &str, plugin: u8, why: &str) {
        let shown = state.replace('_', " ");
        let prefix = if state == "ok" {
            "serving ".to_owned()
        } else {
            format!("{shown}: serving ")
        };
        let mut seen = String::new();
        eventually_or(&mut seen, |seen| {
            let ready = self.daemon.get("/ready");
            let json = ready.json();
            let line = self.status_line();
            let (code, said) = self.plugin();
            let log = self.daemon.log();
            let logged = log
                .lines()
                .rfind(|line| line.contains("outcome=") && line.contains("serving "));
            let last = logged.unwrap_or_default().to_owned();
            *seen = format!("want {state}, {plugin}, {why}: {json}\n{line}\n{code} {said}{last}");
            let good = !["not_ready", "waiting"].contains(&state);
            json["state"] == state
                && json["ready"] == good
                && json["degraded"] == (state != "ok")
                && ready.status == if good { 200 } else { 503 }
                && self.daemon.get("/live").status == 200
                && (line.starts_with(&prefix) && line.contains(why))
                && (code == plugin && said.contains(why))
                // Where nothing was wrong yet, nothing is said.
                && (last.contains(&format!("outcome={shown}")) || last.contains(&format!("outcome=\"{shown}\""))
                    || (state == "ok" && last.is_empty()))
        });
    }

    /// Asks the endpoint for the warm token again, which need not succeed.
    fn refresh(&self) {
        self.daemon.token(&format!("{STORAGE}&bypass_cache=true"));
    }
}

/// Reads on whatever happens, as a full queue would hold up the daemon.
fn listen(manager: &UnixDatagram, told: &Mutex<Told>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut told = told.lock();
        for line in message.lines() {
            if let Some(line) = line.strip_prefix("STATUS=") {
                line.clone_into(&mut told.line);
            }
            told.feeds += u64::from(line == "WATCHDOG=1");
        }
    }
}

fn eventually_or(seen: &mut String, mut condition: impl FnMut(&mut String) -> bool) {
    let end = SystemClock.now().boot + Duration::from_secs(60);
    while !condition(seen) {
        assert!(SystemClock.now().boot < end, "waited in vain: {seen}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_dead_endpoint_is_not_ready_without_the_token_and_degraded_with_it() {
    let mut emulator = Emulator::start(&[]);
    emulator.stop();
    let watched = Watched::start(&emulator, "");
    watched.await_state("not_ready", CRITICAL, "connection refused");
    emulator.restart();
    watched.await_state("ok", OK, "");
    emulator.stop();
    watched.refresh();
    watched.await_state("degraded", WARNING, "connection refused");
    emulator.restart();
    watched.await_state("ok", OK, "");
}

#[test]
#[ignore = "waits until a token of 15 s has expired; tests/run --all runs it"]
fn a_token_that_runs_out_goes_from_degraded_to_not_ready_and_comes_back() {
    let mut emulator = Emulator::start(&["--lifetime", "15s"]);
    let watched = Watched::start(&emulator, "");
    eventually("the token is there", || watched.daemon.get("/ready").status == 200);
    emulator.stop();
    let degraded = watched.daemon.get("/ready").json();
    assert_eq!(degraded["state"], "degraded", "under five minutes: {degraded}");
    watched.await_state("not_ready", CRITICAL, "connection refused");
    emulator.restart();
    eventually("it comes back", || watched.daemon.get("/ready").status == 200);
}

#[test]
fn a_throttled_daemon_is_degraded_until_the_endpoint_answers_again() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "");
    watched.await_state("ok", OK, "");
    emulator.script("[[fault]]\nstatus = 429\nretry_after = \"4\"\n");
    watched.refresh();
    watched.await_state("degraded", WARNING, "the endpoint throttles this VM");
    watched.await_state("ok", OK, "");
}

#[test]
fn an_identity_that_is_taken_away_degrades_and_its_return_heals() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "");
    watched.await_state("ok", OK, "");
    emulator.identities("");
    watched.refresh();
    watched.await_state("degraded", WARNING, "Identity not found");
    assert_eq!(watched.daemon.token(STORAGE).status, 200, "served while it lives");
    emulator.identities(
        "[[identity]]\nclient_id = \"73444643-8088-4d70-9532-c3a0fdc190fa\"\n\
         object_id = \"a2b0c5d1-6f3e-4c1b-9a77-2f1d0e8c4b35\"\nresource_id = \"/subscriptions/s/identity\"\n",
    );
    watched.await_state("ok", OK, "");
}

#[test]
fn a_token_in_use_that_cannot_be_had_degrades_until_nobody_asks_for_it() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "");
    watched.await_state("ok", OK, "");
    emulator.script("[[fault]]\nmatch = { resource = \"management\" }\ntimes = 2\nstatus = 500\n");
    assert_eq!(watched.daemon.token(MANAGEMENT).status, 503);
    watched.await_state("degraded", WARNING, "HTTP 500");
    watched.await_state("ok", OK, "");
}

/// A connection that stays.
struct Kept(UnixStream);

impl Kept {
    fn open(daemon: &Daemon) -> Self {
        let mut kept = Self(daemon.connect());
        kept.get("/live");
        kept
    }

    fn get(&mut self, path: &str) -> Value {
        let text = request("GET", path, &[], "").replace("Connection: close\r\n", "");
        self.0.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "closed");
            answer.extend_from_slice(&buffer[..length]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && let Ok(json) = serde_json::from_str(body)
            {
                return json;
            }
        }
    }
}

#[test]
fn a_daemon_without_descriptors_says_so_to_whoever_still_reaches_it() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "");
    watched.await_state("ok", OK, "");
    let mut kept = Kept::open(&watched.daemon);
    let pid = watched.daemon.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=40:"]).status();
    assert!(limited.unwrap().success());
    let crowd: Vec<_> = (0..60).map(|_| watched.daemon.connect()).collect();
    eventually("it says so", || kept.get("/ready")["state"] == "degraded");
    assert!(
        kept.get("/ready")["problems"][0]
            .as_str()
            .unwrap()
            .contains("LimitNOFILE")
    );
    eventually("systemd hears it", || watched.status_line().contains("LimitNOFILE"));
    let feeds = watched.told.lock().feeds;
    eventually("the watchdog is fed on", || watched.told.lock().feeds > feeds + 2);
    let (code, line) = watched.plugin();
    assert_eq!(code, CRITICAL, "who cannot get in sees no answer: {line}");
    // It passes also where nobody knocks any more.
    drop(crowd);
    eventually("it passes", || kept.get("/ready")["state"] == "ok");
    watched.await_state("ok", OK, "");
}

#[test]
fn a_house_that_is_full_says_so_to_whoever_is_in() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "[limits]\nmax_connections = 2\n");
    watched.await_state("ok", OK, "");
    let mut kept = Kept::open(&watched.daemon);
    let other = Kept::open(&watched.daemon);
    assert_eq!(kept.get("/ready")["state"], "degraded");
    eventually("systemd hears it", || {
        watched.status_line().contains("all 2 connections are taken")
    });
    drop(other);
    eventually("it passes", || kept.get("/ready")["state"] == "ok");
}

#[test]
fn a_daemon_that_stands_still_is_found_out_and_is_well_when_it_goes_on() {
    let emulator = Emulator::start(&[]);
    let watched = Watched::start(&emulator, "");
    watched.await_state("ok", OK, "");
    watched.daemon.signal(Signal::SIGSTOP);
    let before = SystemClock.now().boot;
    let (code, line) = watched.plugin();
    let took = SystemClock.now().boot.saturating_sub(before);
    watched.daemon.signal(Signal::SIGCONT);
    assert_eq!(code, CRITICAL, "{line}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    watched.await_state("ok", OK, "");
}

/// Clocks that a test sets ahead or back.
#[derive(Default)]
struct Shifted {
    /// Seconds.
    wall: Mutex<i64>,
    boot: Mutex<u64>,
}

impl Clock for Shifted {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        let wall = now.wall.as_secs().checked_add_signed(*self.wall.lock()).unwrap();
        Now {
            wall: Duration::new(wall, now.wall.subsec_nanos()),
            boot: now.boot + Duration::from_secs(*self.boot.lock()),
        }
    }
}

/// There is room for so many.
const KEYS: usize = 1000;

/// The daemon's parts in this process, but for what drives them.
struct Parts {
    clock: Arc<Shifted>,
    engine: Arc<Engine>,
    server: Arc<Server>,
}

impl Parts {
    fn new(emulator: &Emulator) -> Self {
        let mut config = Config::default();
        config.upstream.endpoint = format!("http://{}/metadata/identity/oauth2/token", emulator.address)
            .parse()
            .unwrap();
        let clock = Arc::new(Shifted::default());
        let policy = Policy {
            max_tokens: KEYS,
            max_bytes: 8_000_000,
            max_tokens_per_uid: KEYS,
            idle_drop: Duration::from_hours(24),
            caller_wait: Duration::from_secs(20),
            max_concurrent: 4,
            max_per_second: 10,
            warm: vec![Key::new(Resource::new(STORAGE).unwrap(), Identity::Default)],
        };
        let metrics = Arc::new(Metrics::new(
            prometheus_client::metrics::counter::Counter::default(),
            Duration::ZERO,
        ));
        let reporter = Arc::new(Reporter::new(Arc::clone(&metrics)));
        let engine = Engine::new(policy, Upstream::new(&config.upstream), clock.clone(), reporter);
        let reloads = tokio::sync::mpsc::channel(1).0;
        let server = Server::new(
            Arc::clone(&engine),
            metrics,
            Arc::default(),
            settings(String::new()),
            Machine::new(Arc::new(SystemClock)),
            None,
            reloads,
        );
        Self { clock, engine, server }
    }

    async fn await_state(&self, state: State) -> Health {
        for _ in 0..3000 {
            let health = self.server.health().await;
            if health.state == state {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain for {state:?}: {:?}", self.server.health().await);
    }
}

/// Those of a configuration with this hash, under which root may have all.
fn settings(hash: String) -> Settings {
    Settings {
        units_unknown: None,
        rules: Rules::resolve(&[], RootAccess::Any, 0).0,
        bounds: Bounds { total: 10, per_uid: 10 },
        header_timeout: Duration::from_secs(30),
        audit: false,
        configuration: ConfigurationStatus { hash, loaded_at: 0 },
        lock: Config::default().lock,
        connect_timeout: Duration::from_secs(2),
    }
}

/// By the clock that loops pause by.
async fn eleven_seconds_later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_loop_that_stands_still_is_stuck_and_live_when_it_comes_round_again() {
    let (emulator, directory) = (Emulator::start(&[]), directory());
    let parts = Parts::new(&emulator);
    let bound = listen::bind_unix(&directory.path().join("s"), 0o666, None).unwrap();
    let accepting = tokio::spawn(server::accept(Arc::clone(&parts.server), bound, ListenerKind::Unix));
    let broker = tokio::spawn(Arc::clone(&parts.engine).run());
    parts.await_state(State::Ok).await;

    broker.abort();
    eleven_seconds_later().await;
    let health = parts.await_state(State::Stuck).await;
    assert!(
        !health.live && health.problems[0].contains("stands still"),
        "{health:?}"
    );
    let _broker = tokio::spawn(Arc::clone(&parts.engine).run());
    parts.await_state(State::Ok).await;

    accepting.abort();
    eleven_seconds_later().await;
    assert!(!parts.await_state(State::Stuck).await.live);
}

#[tokio::test]
async fn a_clock_that_is_stepped_ahead_is_told_as_the_cause_and_its_return_heals() {
    let emulator = Emulator::start(&[]);
    let parts = Parts::new(&emulator);
    let _broker = tokio::spawn(Arc::clone(&parts.engine).run());
    let directory = directory();
    let bound = listen::bind_unix(&directory.path().join("s"), 0o666, None).unwrap();
    let _accepting = tokio::spawn(server::accept(Arc::clone(&parts.server), bound, ListenerKind::Unix));
    parts.await_state(State::Ok).await;

    *parts.clock.wall.lock() += 2 * 86_400;
    let health = parts.await_state(State::NotReady).await;
    assert!(health.line().contains("clock"), "{health:?}");
    *parts.clock.wall.lock() -= 2 * 86_400;
    parts.await_state(State::Ok).await;

    *parts.clock.wall.lock() -= 2 * 86_400;
    parts.await_state(State::Ok).await;
    let mut lives = Vec::new();
    let look = |entry: Entry| lives.push(entry.left.as_secs());
    parts.engine.each_entry(parts.engine.now(), look).await;
    assert!(lives.len() == 1 && lives[0] <= 86_400, "no longer life: {lives:?}");
}

#[tokio::test]
async fn a_machine_that_slept_longer_than_its_tokens_live_asks_before_it_is_ready() {
    let emulator = Emulator::start(&["--lifetime", "1h"]);
    let parts = Parts::new(&emulator);
    let broker = tokio::spawn(Arc::clone(&parts.engine).run());
    let directory = directory();
    let bound = listen::bind_unix(&directory.path().join("s"), 0o666, None).unwrap();
    let _accepting = tokio::spawn(server::accept(Arc::clone(&parts.server), bound, ListenerKind::Unix));
    parts.await_state(State::Ok).await;
    broker.abort();
    *parts.clock.boot.lock() += 7200;
    assert!(
        parts.server.health().await.live,
        "the machine slept, and no loop stands still"
    );
    assert!(
        !parts.server.health().await.ready,
        "the token is over by the clock that counts sleep"
    );
    let _broker = tokio::spawn(Arc::clone(&parts.engine).run());
    parts.await_state(State::Ok).await;
}

#[tokio::test]
async fn a_reload_while_a_document_is_made_counts_for_it() {
    let (emulator, directory) = (Emulator::start(&[]), directory());
    let parts = Parts::new(&emulator);
    let path = directory.path().join("s");
    let bound = listen::bind_unix(&path, 0o666, None).unwrap();
    let _accepting = tokio::spawn(server::accept(Arc::clone(&parts.server), bound, ListenerKind::Unix));
    let carried = |number: u64| KeySnapshot {
        key: Key::new(Resource::new(&format!("https://{number}/")).unwrap(), Identity::Default),
        owner: 0,
        other: None,
        last_asked: parts.engine.now().boot,
        next_try: Duration::ZERO,
        token: None,
        trouble: None,
    };
    parts.engine.restore((0..KEYS as u64 - 1).map(carried).collect());
    let mut stream = UnixStream::connect(path).unwrap();
    let asked = request("GET", "/status", &["Connection: close"], "");
    stream.write_all(asked.as_bytes()).unwrap();
    // The document takes many turns, and in each there is another configuration.
    for reload in 0..1000 {
        parts.server.reconfigure(settings(reload.to_string()));
        tokio::task::yield_now().await;
    }
    let reply = tokio::task::spawn_blocking(move || {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    });
    let reply = reply.await.unwrap();
    let status: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(status["configuration"]["hash"], "999");
    assert_eq!(status["tokens"].as_array().unwrap().len(), KEYS);
}

#[test]
fn a_service_manager_that_does_not_read_keeps_nobody_from_a_token() {
    let directory = directory();
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    others.connect(&socket).unwrap();
    while others.send(b"WATCHDOG=1").is_ok() {}
    let how = How {
        environment: vec![
            ("NOTIFY_SOCKET", socket.to_str().unwrap().to_owned()),
            ("WATCHDOG_USEC", "200000".to_owned()),
        ],
        ..How::default()
    };
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start_how(&emulator, "", how);
    daemon.token(STORAGE).access_token();
    eventually("it says so", || {
        let log = daemon.log();
        log.contains("systemd cannot be told the daemon's state")
            && log.contains("the cache cannot be given to systemd")
    });
    daemon.token(STORAGE).access_token();

    // What it could not say is said as soon as it can be, and at the end once more.
    read_until(&manager, &["READY=1", "FDSTORE=1", "STATUS=serving"]);
    while others.send(b"WATCHDOG=1").is_ok() {}
    daemon.signal(Signal::SIGTERM);
    eventually("it stops", || daemon.log().contains("stopping"));
    read_until(&manager, &["FDSTORE=1"]);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Reads as systemd does, until each of these was told.
fn read_until(manager: &UnixDatagram, told: &[&str]) {
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut missing = told.to_vec();
    let mut buffer = [0; 4096];
    while !missing.is_empty() {
        let length = manager
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{missing:?} {error}"));
        let message = std::str::from_utf8(&buffer[..length]).unwrap();
        missing.retain(|part| !message.contains(part));
    }
}

//! How long `msi-token get` waits, and what it says when that was in vain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/msi_token.rs"]
mod msi_token;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use common::{Daemon, Emulator, STORAGE, eventually};
use msi_token::{Guard, assert_failed, at, msi_token, run};
use nix::sys::signal::Signal;

const CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";
const SLOW: &str = "[[fault]]\ntimes = 0\ndelay = \"60s\"\n";

#[test]
fn wait_outlasts_a_daemon_that_starts_late_and_an_endpoint_that_recovers() {
    let emulator = Emulator::start(&[]);
    let mut daemon = Daemon::start(&emulator, "");
    daemon.stop();
    emulator.script("[[fault]]\nstatus = 503\ntimes = 2\n");
    let mut waiting = at(&daemon.socket(), &["get", "--resource", STORAGE, "--wait", "10m"]);
    let mut waiting = Guard(waiting.stdout(Stdio::piped()).spawn().unwrap());
    assert!(waiting.0.try_wait().unwrap().is_none());
    daemon.start_again();
    let mut line = String::new();
    BufReader::new(waiting.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(waiting.0.wait().unwrap().code(), Some(0));
    assert_eq!(line.trim_end(), daemon.token(STORAGE).access_token());
    assert_eq!(emulator.count(), 3);
}

#[test]
fn wait_ends_in_time_and_tells_the_last_reason() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    emulator.script("[[fault]]\ntimes = 0\nstatus = 429\nretry_after = \"60\"\n");
    let ran = msi_token(&daemon, &["get", "--resource", STORAGE, "--wait", "3s"]);
    assert_failed(&ran, 75, &["gave up after 1 try", "--wait 3s"]);
    let ran = run(&mut at(
        Path::new("/nonexistent/s"),
        &["get", "--resource", STORAGE, "--wait", "1s"],
    ));
    assert_failed(&ran, 69, &["gave up after", "--wait 1s", "there is no socket"]);
}

#[test]
fn a_stopped_daemon_does_not_hold_a_waiting_client_for_ever() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    daemon.signal(Signal::SIGSTOP);
    let ran = msi_token(&daemon, &["get", "--resource", STORAGE, "--wait", "1s"]);
    daemon.signal(Signal::SIGCONT);
    assert_failed(&ran, 69, &["no answer within", "hangs"]);
}

#[test]
fn at_the_end_of_its_wait_a_caller_that_is_held_hears_what_the_endpoint_last_did() {
    let mut emulator = Emulator::start(&[]);
    emulator.stop();
    let refused = [
        "gave up after 1 try",
        "identity endpoint: connection refused",
        "firewall",
    ];
    let daemon = Daemon::start(&emulator, "");
    for command in [
        &["get", STORAGE, "--wait", "1s"][..],
        &["refresh", STORAGE, "--wait", "1500ms"],
        &["get", STORAGE, "--client-id", CLIENT_ID, "--wait", "1s"],
    ] {
        let ran = msi_token(&daemon, command);
        assert_failed(&ran, 75, &refused);
        assert!(!ran.err.contains("restart msi-tokend"), "{ran:?}");
    }
    let daemon = Daemon::start(&emulator, "[limits]\ncaller_wait = \"1s\"\n");
    let ran = msi_token(&daemon, &["get", STORAGE, "--wait", "4s"]);
    assert_failed(&ran, 75, &[" tries, as --wait 4s", "connection refused"]);
    let rule = format!("[[allow]]\nusers = [\"root\"]\ndefault_client_id = \"{CLIENT_ID}\"\n");
    let daemon = Daemon::start(&emulator, &rule);
    assert_failed(&msi_token(&daemon, &["get", STORAGE, "--wait", "1s"]), 75, &refused);
}

#[test]
fn at_the_end_of_its_wait_a_caller_hears_that_the_endpoint_is_slow_unless_it_failed_before() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    emulator.script(SLOW);
    let silent = [STORAGE, "identity endpoint has not answered yet", "firewall"];
    assert_failed(&msi_token(&daemon, &["get", STORAGE, "--wait", "1s"]), 75, &silent);
    emulator.script(&format!("[[fault]]\nstatus = 500\n{SLOW}"));
    let mut daemon = Daemon::start(&emulator, "");
    let failed = ["gave up after 2 tries", "HTTP 500"];
    assert_failed(&msi_token(&daemon, &["get", STORAGE, "--wait", "5s"]), 75, &failed);
    // The next daemon does not know what the one before it was told.
    emulator.script(&format!("[[fault]]\nstatus = 503\n{SLOW}"));
    daemon.stop();
    daemon.start_again();
    let before = emulator.count();
    let mut waiting = at(&daemon.socket(), &["get", STORAGE, "--wait", "8s"]);
    let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the endpoint has failed", || emulator.count() > before);
    daemon.stop();
    daemon.start_again();
    let output = waiting.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(75) && err.contains("HTTP 503"), "{err}");
}

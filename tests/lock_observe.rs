//! What the lock saw while it observed, and the way from there to enforcing. Every test is in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/locked.rs"]
mod locked;
#[path = "common/msi_token.rs"]
mod msi_token;
#[path = "common/namespace.rs"]
mod namespace;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{MANAGEMENT, STORAGE, TOKEN, directory, eventually, write};
use locked::{ENFORCE, Locked, ask, imds, stand_in, token};
use msi_token::{Ran, at, run};
use namespace::in_namespace;
use serde_json::Value;
use users::{ALICE, BOB, as_user};

const STATE: &str = "/run/msi-tokend-lock/mode";

/// A daemon that observes, with the lock loaded as its unit does it.
fn observing() -> Locked {
    fs::create_dir_all(Path::new(STATE).parent().unwrap()).unwrap();
    let directory = directory();
    let config = directory.path().join("config.toml");
    write(&config, "");
    namespace::run(
        TOKEN,
        &["lock", "load", "--user", "0", "--config", config.to_str().unwrap()],
    );
    let locked = Locked::open_as(None, "");
    eventually("the daemon sees it", || {
        locked.daemon.get("/ready").json()["lock"]["state"] == "locked"
    });
    locked
}

/// The client, with a systemctl that reloads the lock as systemd would.
fn client(locked: &Locked, arguments: &[&str]) -> Ran {
    let directory = directory();
    let config = locked.daemon.config_path().display().to_string();
    let systemctl = directory.path().join("systemctl");
    let load = format!("\"{TOKEN}\" lock load --user 0 --config \"{config}\"");
    write(
        &systemctl,
        &format!("#!/bin/sh\n[ \"$*\" = 'reload msi-tokend-lock.service' ] && exec {load} > /dev/null\nexit 1\n"),
    );
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    run(at(&locked.daemon.socket(), arguments).env("PATH", path))
}

fn enforce(locked: &Locked, arguments: &[&str]) -> Ran {
    let config = locked.daemon.config_path().display().to_string();
    client(locked, &[&["lock", "enforce", "--config", &config], arguments].concat())
}

fn status(locked: &Locked) -> Value {
    locked.daemon.get("/status").json()["lock"].clone()
}

#[test]
fn what_enforcing_would_refuse_is_recorded_and_remembered_and_nothing_else() {
    in_namespace("would_break", || {
        let _emulator = stand_in();
        let locked = observing();
        let platform = "/metadata/identity/getplatformmetadata?cred-api-version=2.0";
        let metadata = &["Metadata: true"][..];
        for (target, headers, status) in [
            (&*imds(STORAGE), metadata, 200),
            ("/metadata/instance/compute?api-version=2021-02-01", metadata, 200),
            (platform, metadata, 200),
            (platform, &[], 400),
            (&format!("{}&odd=1", imds(STORAGE)), metadata, 200),
            (&format!("{}&odd=1", imds(STORAGE)), &[], 400),
            ("/metadata/instance/%61", metadata, 404),
            (&imds(STORAGE), &["Metadata: true", "X-Forwarded-For: x"], 403),
            ("/metadata/identity/oauth2/token?resource=x", metadata, 400),
        ] {
            for _ in 0..2 {
                assert_eq!(
                    ask(ALICE, "GET", target, headers).status,
                    status,
                    "{target} {headers:?}"
                );
            }
        }
        for _ in 0..3 {
            assert_eq!(token(BOB, MANAGEMENT).status, 200);
        }
        let breaks = || status(&locked)["breaks"].as_array().unwrap().clone();
        eventually("three kinds of requests", || breaks().len() == 3);
        let reasons: Vec<_> = breaks().iter().map(|broken| broken["reason"].to_string()).collect();
        for part in ["Unknown parameter", "letters, digits", "a token could be had from"] {
            assert!(
                reasons.iter().any(|reason| reason.contains(part)),
                "{part}: {reasons:?}"
            );
        }
        let log = locked.daemon.log();
        assert_eq!(log.matches("outcome=would_break").count(), 3, "{log}");
        assert!(log.contains("path=/metadata/instance/%61"), "{log}");
        assert_eq!(log.matches("outcome=would_deny").count(), 1, "{log}");
        let lock = status(&locked);
        let [missing] = lock["missing"].as_array().unwrap().as_slice() else {
            panic!("{lock}")
        };
        assert_eq!(
            (&missing["uid"], &missing["resource"]),
            (&BOB.into(), &MANAGEMENT.into())
        );
        assert_eq!(lock["users"][BOB.to_string()]["tokens"], 3);
        assert_eq!(lock["users"][ALICE.to_string()]["passed_on"], 12);
        // Others' requests are nobody else's business.
        let text = as_user(BOB, BOB, &[], || locked.daemon.get("/status").body);
        assert!(!text.contains("\"lock\""), "{text}");
        // With pass = "none" what is passed on now would not be.
        locked.reload("[lock]\npass = \"none\"\n");
        assert_eq!(
            ask(
                BOB,
                "GET",
                "/metadata/instance/compute?api-version=2021-02-01",
                metadata
            )
            .status,
            200
        );
        eventually("one more", || breaks().len() == 4);
    });
}

#[test]
fn a_lock_that_is_off_is_told_and_not_enforced() {
    in_namespace("lock_off", || {
        let locked = Locked::open_as(None, "");
        let off = client(&locked, &["lock", "status"]);
        assert_eq!(off.code, Some(3), "{off:?}");
        assert!(off.out.contains("not loaded"), "{off:?}");
        let off = enforce(&locked, &["--force"]);
        assert_eq!(off.code, Some(70), "{off:?}");
        assert!(off.err.contains("not loaded"), "{off:?}");
    });
}

#[test]
fn lock_status_says_by_its_exit_code_whether_the_lock_is_there_and_to_root_what_it_saw() {
    in_namespace("lock_status", || {
        let _emulator = stand_in();
        let mut locked = observing();
        assert_eq!(token(BOB, MANAGEMENT).status, 200);
        eventually("it is seen", || status(&locked)["missing"][0]["uid"] == BOB);
        let ready = locked.daemon.get("/ready").json();
        assert_eq!(ready["lock"]["note"], "lock observing: nothing is denied", "{ready}");
        let on = client(&locked, &["lock", "status"]);
        assert_eq!(on.code, Some(0), "{on:?}");
        for part in [
            "works, observing: nothing is denied",
            "before that the daemon started",
            "Enforcing would deny these",
            MANAGEMENT,
            "TOKENS",
        ] {
            assert!(on.out.contains(part), "{part}: {on:?}");
        }
        // What a bridge forwards, and another port.
        as_user(BOB, BOB, &[], || {
            std::net::TcpStream::connect("169.254.169.254:8080").unwrap_err()
        });
        let on = client(&locked, &["lock", "status"]);
        assert!(on.out.contains("To other ports of 169.254.169.254"), "{on:?}");
        locked.daemon.stop();
        let unknown = client(&locked, &["lock", "status"]);
        assert_eq!(unknown.code, Some(1), "{unknown:?}");
        assert!(unknown.out.contains("not known"), "{unknown:?}");
    });
}

#[test]
fn enforcing_waits_for_a_day_of_evidence_and_for_the_rules_that_are_missing() {
    in_namespace("lock_enforce", || {
        let _emulator = stand_in();
        let locked = observing();
        let conf = locked.daemon.directory().join("conf.d");
        fs::create_dir_all(&conf).unwrap();
        assert_eq!(token(BOB, MANAGEMENT).status, 200);
        eventually("it is seen", || status(&locked)["missing"][0]["uid"] == BOB);
        let ours = conf.join("90-lock.toml");
        let refused = enforce(&locked, &[]);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        for part in ["It takes 24 h", "no rule allows these", MANAGEMENT, "--force"] {
            assert!(refused.err.contains(part), "{part}: {refused:?}");
        }
        assert!(!ours.exists());
        // A rule that was written and not loaded yet counts.
        write(
            &conf.join("50-bob.toml"),
            &format!("[[allow]]\nusers = [{BOB}]\nresources = [\"{MANAGEMENT}\"]\n"),
        );
        let refused = enforce(&locked, &[]);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        assert!(!refused.err.contains(MANAGEMENT), "{refused:?}");

        // A later file that decides otherwise: nothing stays.
        let later = conf.join("95-later.toml");
        write(&later, "[lock]\nmode = \"observe\"\n");
        let undecided = enforce(&locked, &["--force"]);
        assert_eq!(undecided.code, Some(78), "{undecided:?}");
        assert!(!ours.exists() && status(&locked)["mode"] == "observe");
        fs::remove_file(later).unwrap();
        // Settings of the administrator's own.
        write(&ours, "[lock]\nmode = \"observe\"\npass = \"none\"\n");
        let others = enforce(&locked, &["--force"]);
        assert_eq!(others.code, Some(78), "{others:?}");
        assert!(fs::read_to_string(&ours).unwrap().contains("pass"));
        fs::remove_file(&ours).unwrap();

        let enforced = enforce(&locked, &["--force"]);
        assert_eq!(enforced.code, Some(0), "{enforced:?}");
        assert!(fs::read_to_string(&ours).unwrap().ends_with(ENFORCE));
        assert_eq!(fs::read_to_string(STATE).unwrap(), "enforce");
        assert_eq!(token(BOB, MANAGEMENT).status, 200);
        assert_eq!(token(BOB, STORAGE).status, 403);
        let on = client(&locked, &["lock", "status"]);
        assert_eq!(on.code, Some(0), "{on:?}");
        assert!(on.out.contains("enforcing"), "{on:?}");
    });
}

//! Rules with units on a kernel before 6.5, which does not tell the process behind a Unix socket: they match on the loopback
//! listener alone, and the client asks there by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/cgroups.rs"]
mod cgroups;
mod common;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/msi_token.rs"]
mod msi_token;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use cgroups::Cgroup;
use common::{Daemon, Emulator, MANAGEMENT, STORAGE, TOKEND, directory, eventually, programs, upstream, write};
use kernel::OldKernel;
use msi_token::{Guard, Ran, assert_failed, at, doctor, run};
use tempfile::TempDir;
use users::{ALICE, BOB, are_to_be_had, as_user};

/// Of asm-generic/socket.h.
const SO_PEERPIDFD: i32 = 77;
const SDK: &str = "[listen]\nsdk = \"127.0.0.1:0\"\n";
const RULE: &str = "[[allow]]\nunits = [\"a.service\"]\nresources = [\"https://storage.azure.com/\"]\n";
const WHY: &str = "rules with units match nobody on the Unix socket: this kernel has no SO_PEERPIDFD";

fn old_kernel(test: &str) -> Option<OldKernel> {
    OldKernel::without("getsockopt", SO_PEERPIDFD, test)
}

/// A command that runs on it.
fn run_on(kernel: &OldKernel, command: &mut Command) -> Ran {
    run(command.env("LD_PRELOAD", kernel.library()))
}

/// The unit that the rule names, and the client, run in it as Alice.
struct Unit {
    cgroup: Cgroup,
    programs: TempDir,
}

impl Unit {
    /// `None` where it cannot be made, which is said.
    fn new(test: &str) -> Option<Self> {
        if !are_to_be_had(test) {
            return None;
        }
        // Each test has a slice of its own.
        let slice = format!("msitokendtest{}{}.slice", test.len(), std::process::id());
        let Some(cgroup) = Cgroup::make(&format!("{slice}/a.service")) else {
            eprintln!("SKIPPED {test}: no cgroup2 tree that can be written to");
            return None;
        };
        let programs = programs();
        Some(Self { cgroup, programs })
    }

    fn command(&self, socket: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let script = format!(
            "echo $$ > \"$0/cgroup.procs\" && exec setpriv --reuid={ALICE} --regid={ALICE} --clear-groups \"$@\" --socket {}",
            socket.display()
        );
        command
            .args(["-c", &script])
            .arg(&self.cgroup.0)
            .arg(self.programs.path().join("msi-token"))
            .args(arguments);
        command
    }

    fn run(&self, daemon: &Daemon, arguments: &[&str]) -> Ran {
        run(&mut self.command(&daemon.socket(), arguments))
    }
}

#[test]
fn a_kernel_that_cannot_name_units_is_told_once_and_opens_nothing() {
    let name = "a_kernel_that_cannot_name_units_is_told_once_and_opens_nothing";
    let Some(kernel) = old_kernel(name) else { return };
    let emulator = Emulator::start(&[]);
    let daemon = kernel.daemon(&emulator, RULE);
    daemon.reload(&format!("{}{RULE}", upstream(&emulator)));
    assert_eq!(daemon.log().matches("SO_PEERPIDFD").count(), 1, "{}", daemon.log());
    if !are_to_be_had(name) {
        return;
    }
    let refused = as_user(ALICE, 7000, &[], || daemon.token(STORAGE));
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["cause"], "unit_unknown", "{}", refused.body);
    for text in [WHY, "systemctl enable --now msi-tokend-sdk.socket"] {
        assert!(refused.body.contains(text), "{}", refused.body);
    }
    let refused = as_user(ALICE, 7000, &[], || daemon.token(MANAGEMENT));
    assert_eq!(refused.status, 403);
    assert_eq!(
        refused.json()["cause"],
        serde_json::Value::Null,
        "no unit may have that"
    );
    assert_eq!(as_user(0, 0, &[], || daemon.token(STORAGE).status), 200);
}

#[test]
fn the_same_command_gets_the_same_token_by_the_loopback_listener() {
    let name = "the_same_command_gets_the_same_token_by_the_loopback_listener";
    let (Some(kernel), Some(unit)) = (old_kernel(name), Unit::new(name)) else {
        return;
    };
    let emulator = Emulator::start(&[]);
    let id = "73444643-8088-4d70-9532-c3a0fdc190fa";
    let rule = format!("{RULE}default_client_id = \"{id}\"\n");
    let off = kernel.daemon(&emulator, &rule);
    let get = ["get", STORAGE];
    let texts = [WHY, "systemctl enable --now msi-tokend-sdk.socket"];
    assert_failed(&unit.run(&off, &get), 77, &texts);

    let on = kernel.daemon(&emulator, &format!("{SDK}{rule}"));
    let ran = unit.run(&on, &get);
    assert!(ran.code == Some(0) && ran.out.trim().split('.').count() == 3, "{ran:?}");
    let ran = unit.run(&on, &["get", STORAGE, "--output", "json", "--wait", "1m"]);
    assert!(ran.out.contains(id), "the rule's own identity: {ran:?}");
    assert_eq!(unit.run(&on, &["refresh", STORAGE]).code, Some(0));
    assert_failed(&unit.run(&on, &["get", MANAGEMENT]), 77, &["No rule allows"]);
    let ran = unit.run(&on, &["doctor", "--resource", STORAGE]);
    for text in ["no rule without units is for you", "you get a token for", WHY] {
        assert!(ran.out.contains(text), "{ran:?}");
    }
    // Outside of the unit the listener says no as well.
    let client = unit.programs.path().join("msi-token");
    let elsewhere = as_user(BOB, 7000, &[], || {
        run(Command::new(&client).args(get).arg("--socket").arg(on.socket()))
    });
    assert_failed(&elsewhere, 77, &["No rule allows"]);
}

#[test]
fn files_are_kept_by_the_loopback_listener() {
    let name = "files_are_kept_by_the_loopback_listener";
    let (Some(kernel), Some(unit)) = (old_kernel(name), Unit::new(name)) else {
        return;
    };
    let emulator = Emulator::start(&[]);
    let daemon = kernel.daemon(&emulator, &format!("{SDK}{RULE}"));
    let directory = directory();
    let settings = directory.path().join("keep.toml");
    write(
        &settings,
        &format!("[[file]]\nname = \"t\"\nresource = \"{STORAGE}\"\n"),
    );
    let files = directory.path().join("files");
    fs::create_dir(&files).unwrap();
    std::os::unix::fs::chown(&files, Some(ALICE), Some(ALICE)).unwrap();
    let paths = [&files, &settings].map(|path| path.to_str().unwrap());
    let mut command = unit.command(&daemon.socket(), &["keep", "--directory", paths[0], paths[1]]);
    let _keeper = Guard(command.stdin(Stdio::null()).spawn().unwrap());
    eventually("the file is there", || files.join("t").exists());
}

#[test]
fn whoever_asks_why_is_told_of_the_kernel_and_the_way_out() {
    let name = "whoever_asks_why_is_told_of_the_kernel_and_the_way_out";
    let Some(kernel) = old_kernel(name) else { return };
    let emulator = Emulator::start(&[]);
    let off = kernel.daemon(&emulator, RULE);
    let ran = doctor(&off.socket(), &[]);
    assert!(
        ran.code == Some(78) && ran.out.contains(&format!("WRONG  {WHY}")),
        "{ran:?}"
    );
    assert!(
        ran.out.contains("systemctl enable --now msi-tokend-sdk.socket"),
        "{ran:?}"
    );
    let on = kernel.daemon(&emulator, &format!("{SDK}{RULE}"));
    let ran = doctor(&on.socket(), &[]);
    assert!(ran.out.contains(&format!("note   {WHY}")), "{ran:?}");
    let without = kernel.daemon(&emulator, "[[allow]]\nusers = [\"root\"]\n");
    let ran = doctor(&without.socket(), &[]);
    assert!(!ran.out.contains("SO_PEERPIDFD"), "no rule asks for a unit: {ran:?}");

    let config = on.config_path();
    let check = |strict: &[&str]| {
        let mut command = Command::new(TOKEND);
        run_on(
            &kernel,
            command.arg("--check").args(strict).arg("--config").arg(&config),
        )
    };
    for strict in [&[][..], &["--strict"]] {
        let ran = check(strict);
        assert!(ran.err.contains(&format!("note: {WHY}")), "{ran:?}");
        assert!(!ran.err.contains(&format!("warning: {WHY}")), "{ran:?}");
    }

    let explain = |listener: &str| {
        let file = config.to_str().unwrap();
        let (user, unit) = (ALICE.to_string(), "a.service");
        let arguments = [
            "explain",
            STORAGE,
            "--config",
            file,
            "--uid",
            &user,
            "--unit",
            unit,
            "--listener",
            listener,
        ];
        run_on(&kernel, &mut at(&on.socket(), &arguments))
    };
    let ran = explain("socket");
    assert_eq!(ran.code, Some(77), "{ran:?}");
    for text in [WHY, "--listener sdk", "the caller's is not known there"] {
        assert!(ran.out.contains(text), "{ran:?}");
    }
    let ran = explain("sdk");
    assert_eq!(
        (ran.code, ran.out.contains("SO_PEERPIDFD")),
        (Some(0), false),
        "{ran:?}"
    );
}

/// In a container with the daemon's socket and a network of its own, somebody else may listen at the daemon's address.
#[test]
fn an_answer_at_the_listeners_address_counts_only_from_whom_the_client_trusts() {
    let name = "an_answer_at_the_listeners_address_counts_only_from_whom_the_client_trusts";
    if !are_to_be_had(name) {
        return;
    }
    let directory = directory();
    let path = directory.path().join("s");
    let socket = UnixListener::bind(&path).unwrap();
    let sdk = TcpListener::bind("127.0.0.1:0").unwrap();
    let status = serde_json::json!({
        "format": 1, "version": "0", "now": 1, "endpoint": "http://127.0.0.1:1/", "sdk": sdk.local_addr().unwrap().to_string(),
        "caller": { "uid": 0, "privileged": false, "rules": 0 }, "tokens": [],
    });
    let refusal = r#"{"error":"access_denied","error_description":"No.","class":"denied","cause":"unit_unknown"}"#;
    let status = status.to_string();
    thread::spawn(move || {
        for stream in socket.incoming() {
            answer(stream.unwrap(), |asked| {
                if asked.starts_with("GET /status") {
                    ("200 OK", &status)
                } else {
                    ("403 Forbidden", refusal)
                }
            });
        }
    });
    let token = r#"{"access_token":"a.b.c","expires_on":"4102444800","expires_in":"1000"}"#;
    for (uid, code) in [(BOB, 70), (0, 0)] {
        let ran = thread::scope(|scope| {
            scope.spawn(|| as_user(uid, uid, &[], || answer(sdk.accept().unwrap().0, |_| ("200 OK", token))));
            run(&mut at(&path, &["get", STORAGE, "--output", "json"]))
        });
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert_eq!(
            ran.err.contains(&format!("its server runs as uid {BOB}")),
            uid == BOB,
            "{ran:?}"
        );
    }
}

/// Reads one request and answers it; the other end closes.
fn answer<'a>(mut stream: impl Read + Write, how: impl Fn(&str) -> (&'a str, &'a str)) {
    let mut bytes = [0; 4096];
    let length = stream.read(&mut bytes).unwrap();
    let (status, body) = how(std::str::from_utf8(&bytes[..length]).unwrap());
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    _ = stream.read(&mut bytes);
}

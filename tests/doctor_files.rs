//! What `msi-token doctor` says of the configuration files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/msi_token.rs"]
mod msi_token;
#[path = "common/users.rs"]
mod users;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::{Daemon, Emulator, directory, upstream, write};
use msi_token::{Ran, doctor, run};

fn judged(socket: &Path, config: &Path) -> Ran {
    doctor(socket, &["--config", config.to_str().unwrap()])
}

fn diagnosis(daemon: &Daemon) -> Ran {
    judged(&daemon.socket(), &daemon.config_path())
}

#[track_caller]
fn assert_says(ran: &Ran, code: i32, texts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    for text in texts {
        assert!(ran.out.contains(text), "{text:?} is not in {}", ran.out);
    }
}

#[test]
fn doctor_says_whether_the_daemon_goes_by_the_files_as_they_are_now() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let (main, dropin) = (daemon.config_path(), daemon.directory().join("conf.d/50-more.toml"));
    let text = fs::read_to_string(&main).unwrap();
    let reload = || daemon.reload(&fs::read_to_string(&main).unwrap());
    let changes: [&dyn Fn(); 4] = [
        &|| write(&main, &format!("{text}# a comment\n")),
        &|| write(&dropin, "[[allow]]\nusers = [\"root\"]\n"),
        &|| fs::rename(&dropin, dropin.with_file_name("60-more.toml")).unwrap(),
        &|| fs::remove_file(dropin.with_file_name("60-more.toml")).unwrap(),
    ];
    for change in changes {
        assert_says(
            &diagnosis(&daemon),
            0,
            &["ok     ", "config.toml and its conf.d are in effect, loaded at 20"],
        );
        change();
        assert_says(
            &diagnosis(&daemon),
            78,
            &["WRONG  ", "has changed since the daemon loaded it", "systemctl reload"],
        );
        reload();
    }
    assert_says(&diagnosis(&daemon), 0, &["are in effect"]);
    write(
        &dropin,
        "[[allow]]\nusers = [\"root\"]\nresources = [\"*\", \"https://vault.azure.net/.default\"]\n",
    );
    reload();
    let doubts = ["are in effect", "note   ", "50-more.toml:3: ", "rarely meant"];
    assert_says(&diagnosis(&daemon), 0, &doubts);
    fs::remove_file(&dropin).unwrap();
    reload();
    let ran = doctor(&daemon.socket(), &[]);
    assert!(
        ran.code == Some(0) && !ran.out.contains("conf.d"),
        "another daemon than the service: {ran:?}"
    );
}

#[test]
fn doctor_tells_the_faults_of_files_that_a_running_daemon_has_not_loaded() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    for (bad, faults) in [
        (
            "[cache]\nmax_token = 5\n[limits]\ncaller_wait = 5\n",
            &["config.toml:4: ", "config.toml:6: "][..],
        ),
        ("[cache\n", &["config.toml:3: "]),
        ("[log]\nlevel = \"loud\"\n", &["config.toml:4: "]),
    ] {
        write(&daemon.config_path(), &format!("{}{bad}", upstream(&emulator)));
        let ran = diagnosis(&daemon);
        assert_says(
            &ran,
            78,
            &["answers on", "its next start would fail", "systemctl reload"],
        );
        assert_says(&ran, 78, faults);
    }
    fs::remove_file(daemon.config_path()).unwrap();
    assert_says(&diagnosis(&daemon), 78, &["config.toml: does not exist"]);
}

#[test]
fn doctor_of_a_daemon_that_cannot_start_names_the_fault_and_advises_no_restart() {
    let home = directory();
    let (socket, config) = (home.path().join("s"), home.path().join("config.toml"));
    let judge = |socket: &Path| judged(socket, &config);
    write(&config, "[cache]\nmax_token = 5\n");
    let fault = [
        "config.toml:2: ",
        "max_tokens",
        "correct what is said below",
        "systemctl restart",
    ];
    let ran = judge(&socket);
    assert_says(&ran, 69, &fault);
    assert_says(&ran, 69, &["there is no socket"]);
    // systemd listens, and the service behind it does not start.
    let _systemd = UnixListener::bind(&socket).unwrap();
    let ran = judge(&socket);
    assert_says(&ran, 69, &fault);
    assert!(
        ran.out.contains("no answer within 4s") && !ran.out.contains("hangs"),
        "{ran:?}"
    );
    write(&config, "");
    assert_says(
        &judge(&socket),
        69,
        &["config.toml and its conf.d have no fault", "hangs"],
    );
}

#[test]
fn doctor_of_a_user_who_may_not_read_the_files_says_so() {
    if !users::are_to_be_had("doctor_of_a_user_who_may_not_read_the_files_says_so") {
        return;
    }
    let (emulator, programs) = (Emulator::start(&[]), common::programs());
    let daemon = Daemon::start(&emulator, "[[allow]]\nusers = [\"7007\"]\n");
    fs::set_permissions(daemon.config_path(), fs::Permissions::from_mode(0o600)).unwrap();
    let ran = users::as_user(7007, 7007, &[], || {
        let mut command = Command::new(programs.path().join("msi-token"));
        command.arg("doctor").arg("--config").arg(daemon.config_path());
        run(command.arg("--socket").arg(daemon.socket()))
    });
    assert_says(&ran, 78, &["cannot be read by uid 7007"]);
}

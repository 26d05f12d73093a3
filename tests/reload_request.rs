//! `msi-token reload` and `POST /reload`: what became of a reload is told to whoever asked for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{Daemon, Emulator, TOKEN, write};

fn reload(daemon: &Daemon) -> Output {
    Command::new(TOKEN)
        .arg("--socket")
        .arg(daemon.socket())
        .arg("reload")
        .output()
        .unwrap()
}

#[test]
fn a_reload_succeeds_or_says_why_not() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let good = fs::read_to_string(daemon.config_path()).unwrap();
    let warm = format!("{good}\n[[warm]]\nresource = \"https://vault.azure.net\"\n");

    write(&daemon.config_path(), &warm);
    let done = reload(&daemon);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(
        daemon.get("/status").json()["tokens"][0]["resource"],
        "https://vault.azure.net"
    );

    for (bad, cause) in [
        (
            format!("{warm}\n[limits]\nmax_conections = 5\n"),
            "did you mean max_connections?\n",
        ),
        (
            format!("{warm}\n[listen]\nmonitor = \"127.0.0.1:0\"\n"),
            "restart needed",
        ),
    ] {
        write(&daemon.config_path(), &bad);
        let done = reload(&daemon);
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(78), "{said}");
        assert!(said.contains(cause), "{said}");
        daemon.logs(cause.trim_end());
        assert_eq!(
            daemon.get("/status").json()["tokens"][0]["resource"],
            "https://vault.azure.net"
        );
    }
}

#[test]
fn a_reload_is_not_had_by_looking() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let answer = daemon.get("/reload");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("allow"), Some("POST"));
}

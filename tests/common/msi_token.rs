//! Runs of `msi-token`.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::path::Path;
use std::process::{Child, Command};

use super::common::{Daemon, TOKEN};

/// What came of a run of `msi-token`.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The client without a socket of its own.
pub fn client() -> Command {
    let mut command = Command::new(TOKEN);
    command.env_remove("MSI_TOKEND_SOCKET");
    command
}

pub fn at(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = client();
    command.args(arguments).arg("--socket").arg(socket);
    command
}

pub fn msi_token(daemon: &Daemon, arguments: &[&str]) -> Ran {
    run(&mut at(&daemon.socket(), arguments))
}

#[track_caller]
pub fn assert_failed(ran: &Ran, code: i32, texts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.out.is_empty(), "{ran:?}");
    assert!(
        ran.err.starts_with("msi-token: ") && ran.err.lines().count() == 1,
        "{ran:?}"
    );
    for text in texts {
        assert!(ran.err.contains(text), "{text:?} is not in {ran:?}");
    }
}

/// `doctor` without the proxy variables of whoever runs the tests.
pub fn doctor(socket: &Path, arguments: &[&str]) -> Ran {
    let mut command = at(socket, &[&["doctor"], arguments].concat());
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ] {
        command.env_remove(variable);
    }
    run(&mut command)
}

/// Ends a process that a test started.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

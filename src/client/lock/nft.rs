//! nft(8) and systemctl(1), as the lock's commands use them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::client::error::{ClientError, Exit};

/// Loads rules, all or none.
pub fn load(rules: &str) -> Result<(), ClientError> {
    let output = run_nft(&["-f", "-"], rules)?;
    if output.status.success() {
        return Ok(());
    }
    let advice = "This is for root, and the kernel needs nf_tables with nat and redirect: `modprobe nft_redir`.";
    Err(failed("load", &output, advice))
}

/// What `nft list` prints of this.
pub fn list(what: &[&str]) -> Result<String, ClientError> {
    let output = run_nft(&[&["list"], what].concat(), "")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(
        "list",
        &output,
        "This is for root, and the kernel needs nf_tables.",
    ))
}

/// The lock's own table.
pub fn list_table() -> Result<String, ClientError> {
    list(&["table", "ip", "msi_tokend"])
}

fn run_nft(arguments: &[&str], input: &str) -> Result<Output, ClientError> {
    let run = || -> io::Result<Output> {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Where it does not read on, it says why.
            _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    run().map_err(|error| {
        let advice = "Install it: `apt install nftables`.";
        ClientError::new(Exit::Other, format!("cannot run nft: {error}"), advice)
    })
}

fn failed(verb: &str, output: &Output, advice: &'static str) -> ClientError {
    let text = String::from_utf8_lossy(&output.stderr);
    let cause = format!("nft does not {verb} the firewall rules: {}", text.trim());
    ClientError::new(Exit::Other, cause, advice)
}

/// Runs a program of systemd's that has to succeed. What it says is seen.
pub fn systemd(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<(), ClientError> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let status = status.map_err(|error| ClientError::system(&format!("run {program}"), &error))?;
    if status.success() {
        return Ok(());
    }
    let advice = "`systemctl status msi-tokend-lock.service` and its journal tell more; this is for root.";
    Err(ClientError::new(Exit::Other, format!("{program} failed"), advice))
}

/// Whether a unit runs; where systemd cannot be asked, none does.
pub fn is_active(unit: &str) -> bool {
    is(&["is-active", "--quiet", unit])
}

/// Whether a unit did not start, or has broken off.
pub fn is_failed(unit: &str) -> bool {
    is(&["is-failed", "--quiet", unit])
}

fn is(arguments: &[&str]) -> bool {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(arguments);
    let status = systemctl.stdin(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

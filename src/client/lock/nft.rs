//! nft(8) and systemctl(1), as the lock's commands use them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::client::error::{ClientError, Exit};

/// Runs nft with a text on its standard input; what it printed.
pub fn nft(arguments: &[&str], input: &str) -> Result<String, ClientError> {
    let run = || -> io::Result<Output> {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| {
        let advice = "Install it: `apt install nftables`.";
        ClientError::new(Exit::Other, format!("cannot run nft: {error}"), advice)
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(ClientError::new(
        Exit::Other,
        format!("nft does not load the rules: {}", text.trim()),
        "This is for root, and the kernel needs nf_tables with nat and redirect: `modprobe nft_redir`.",
    ))
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

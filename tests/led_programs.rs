//! `msi-token exec` and `sdk-env`: programs that know nothing of the daemon are led to its loopback listener.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/msi_token.rs"]
mod msi_token;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Daemon, Emulator, STORAGE};
use msi_token::{Ran, assert_failed, at, run};

const SDK: &str = "[listen]\nsdk = \"127.0.0.1:0\"\n";

fn exec(daemon: &Daemon, command: &[&str]) -> Command {
    let mut exec = at(&daemon.socket(), &["exec"]);
    exec.arg("--")
        .args(command)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    exec
}

fn variables(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_environment_is_that_of_the_listener_that_is_on() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let printed = run(&mut at(&daemon.socket(), &["sdk-env"]));
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let written = fs::read_to_string(daemon.directory().join("sdk.env")).unwrap();
    assert_eq!(printed.out, written);
    let printed = variables(&printed.out);
    let address = daemon.get("/status").json()["sdk"].as_str().unwrap().to_owned();
    let at = |path: &str| format!("http://{address}{path}");
    let metadata = at("/metadata/identity/oauth2/token");
    for (name, value) in [
        ("IDENTITY_ENDPOINT", &*at("/msi/token")),
        ("IDENTITY_HEADER", "msi-tokend"),
        ("MSI_ENDPOINT", &at("/oauth2/token")),
        ("MSI_SECRET", "msi-tokend"),
        ("AZURE_MSI_ENDPOINT", &metadata),
        ("AZURE_IMDS_ENDPOINT", &metadata),
        ("ARM_MSI_ENDPOINT", &metadata),
        ("NO_PROXY", "127.0.0.1,localhost,169.254.169.254"),
        ("no_proxy", "127.0.0.1,localhost,169.254.169.254"),
    ] {
        assert_eq!(printed[name], value, "{name}");
    }
    assert_eq!(printed.len(), 9);
    let ran = run(&mut exec(&daemon, &["env"]));
    let env = variables(&ran.out);
    for (name, value) in printed {
        assert_eq!(env[name], value, "{name}");
    }
    let asks = "curl --silent --noproxy '' --header \"X-IDENTITY-HEADER: $IDENTITY_HEADER\" \
                \"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=";
    let ran = run(&mut exec(&daemon, &["sh", "-c", &format!("{asks}{STORAGE}\"")]));
    assert!(ran.out.contains("access_token"), "{ran:?}");
}

#[test]
fn exec_becomes_the_program_with_its_arguments_its_standard_input_and_its_exit_code() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let mut child = exec(
        &daemon,
        &[
            "sh",
            "-c",
            "echo $$; ulimit -c; cat; echo \"$@\"; exit 7",
            "sh",
            "--pid",
            "-x",
        ],
    );
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let limit = Command::new("sh").args(["-c", "ulimit -c"]).output().unwrap().stdout;
    let limit = String::from_utf8(limit).unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{pid}\n{limit}--pid -x\n"),
        "the same process, and no limit of the client's"
    );
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn hosts_that_were_excepted_from_the_proxy_stay_so_and_other_variables_stay_as_they_were() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    let mut command = exec(&daemon, &["env"]);
    command
        .env("NO_PROXY", "intranet,localhost")
        .env("no_proxy", ".corp.example")
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("MSI_ENDPOINT", "http://elsewhere/");
    let ran = run(&mut command);
    let env = variables(&ran.out);
    for name in ["NO_PROXY", "no_proxy"] {
        assert_eq!(env[name], "127.0.0.1,localhost,169.254.169.254,intranet,.corp.example");
    }
    assert_eq!(env["HTTP_PROXY"], "http://127.0.0.1:9");
    assert!(env["MSI_ENDPOINT"].starts_with("http://127.0.0.1:"), "{ran:?}");
}

#[test]
fn without_the_listener_nothing_is_run() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    assert!(daemon.get("/status").json()["sdk"].is_null());
    let mark = daemon.directory().join("mark");
    let words = [
        "loopback listener is off",
        "systemctl enable --now msi-tokend-sdk.socket",
    ];
    assert_failed(&run(&mut exec(&daemon, &["touch", mark.to_str().unwrap()])), 78, &words);
    assert_failed(&run(&mut at(&daemon.socket(), &["sdk-env"])), 78, &words);
    assert!(!mark.exists());
    let nowhere = Path::new("/nonexistent/s");
    assert_failed(&run(&mut at(nowhere, &["sdk-env"])), 69, &["no socket"]);
    let usage: Ran = run(&mut at(&daemon.socket(), &["exec"]));
    assert_eq!(usage.code, Some(64), "{usage:?}");
}

#[test]
fn a_program_that_cannot_be_run_is_told_apart_as_env_does() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, SDK);
    assert_failed(
        &run(&mut exec(&daemon, &["no-such-program"])),
        127,
        &["cannot run no-such-program"],
    );
    let directory = daemon.directory().to_str().unwrap().to_owned();
    assert_failed(&run(&mut exec(&daemon, &[&directory])), 126, &["cannot run"]);
}

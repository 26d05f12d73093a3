//! The ways to name a token, the forms in which it comes, and git's protocol for credential helpers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::{Daemon, Emulator, STORAGE, TOKEN};
use serde_json::Value;

const DEVOPS: &str = "499b84ac-1321-427f-aa17-267ca6975798";
const DEVOPS_REPOSITORY: &str = "protocol=https\nhost=dev.azure.com\n";

/// Standard output of a run that succeeds and has nothing to say beside it.
fn out(daemon: &Daemon, arguments: &[&str], input: &str) -> String {
    let output = run(daemon, arguments, input);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(daemon: &Daemon, arguments: &[&str], input: &str) -> Output {
    let mut client = Command::new(TOKEN)
        .args(arguments)
        .arg("--socket")
        .arg(daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    client.wait_with_output().unwrap()
}

#[test]
fn a_resource_is_named_with_or_without_its_option_or_by_an_sdks_scope() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let token = out(&daemon, &["get", STORAGE], "");
    assert_eq!(out(&daemon, &["get", "--resource", STORAGE], ""), token);
    assert_eq!(
        out(&daemon, &["get", "--scope", "https://storage.azure.com//.default"], ""),
        token
    );
    assert_eq!(emulator.count(), 1);
    for none_or_two in [
        &["get"][..],
        &["get", STORAGE, "--resource", STORAGE],
        &["get", STORAGE, "--scope", "a/.default"],
    ] {
        assert_eq!(run(&daemon, none_or_two, "").status.code(), Some(64), "{none_or_two:?}");
    }
}

#[test]
fn each_form_holds_the_token_that_is_cached_or_only_what_it_claims() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let answer = daemon.token(STORAGE).json();
    let form = |form: &str| out(&daemon, &["get", STORAGE, "--output", form], "");
    let json = |name: &str| -> Value { serde_json::from_str(&form(name)).unwrap() };

    let kubernetes = json("kubernetes");
    assert_eq!(kubernetes["kind"], "ExecCredential");
    assert_eq!(kubernetes["status"]["token"], answer["access_token"]);
    let gcp = json("gcp");
    assert_eq!(gcp["id_token"], answer["access_token"]);
    assert_eq!(
        gcp["expiration_time"].to_string(),
        answer["expires_on"].as_str().unwrap()
    );

    let claims = form("claims");
    assert_eq!(json("claims")["claims"]["aud"], STORAGE, "{claims}");
    for part in answer["access_token"].as_str().unwrap().split('.') {
        assert!(!claims.contains(part), "{claims}");
    }
}

#[test]
fn git_gets_a_token_for_azure_devops_with_its_expiry() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let answer = daemon.token(DEVOPS).json();
    let said = out(&daemon, &["git-credential", "get"], DEVOPS_REPOSITORY);
    let expected = format!(
        "username=msi-token\npassword={}\npassword_expiry_utc={}\n",
        answer["access_token"].as_str().unwrap(),
        answer["expires_on"].as_str().unwrap()
    );
    assert_eq!(said, expected);
    let named = out(
        &daemon,
        &["git-credential", "get"],
        &format!("{DEVOPS_REPOSITORY}username=me\n"),
    );
    assert!(named.starts_with("username=me\n"), "{named}");
    assert_eq!(emulator.count(), 1);
}

#[test]
fn git_gets_nothing_for_other_hosts_and_operations_and_nobody_is_asked() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    for input in [
        "protocol=https\nhost=github.com\n",
        "protocol=https\nhost=dev.azure.com.example.org\n",
        "",
    ] {
        assert_eq!(out(&daemon, &["git-credential", "get"], input), "");
    }
    for operation in ["store", "capability"] {
        let input = format!("{DEVOPS_REPOSITORY}username=u\npassword=p\n");
        assert_eq!(out(&daemon, &["git-credential", operation], &input), "");
    }
    let without_tls = run(
        &daemon,
        &["git-credential", "get"],
        "protocol=http\nhost=dev.azure.com\n",
    );
    assert!(
        without_tls.status.success() && without_tls.stdout.is_empty(),
        "{without_tls:?}"
    );
    assert!(
        String::from_utf8_lossy(&without_tls.stderr).contains("over TLS only"),
        "{without_tls:?}"
    );
    assert_eq!(emulator.count(), 0);
}

#[test]
fn a_token_that_git_found_refused_is_fetched_anew_and_another_password_is_not() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    let first = daemon.token(DEVOPS).access_token();
    let erase = |password: &str| {
        out(
            &daemon,
            &["git-credential", "erase"],
            &format!("{DEVOPS_REPOSITORY}password={password}\n"),
        )
    };
    assert_eq!(erase("somebody's own"), "");
    assert_eq!(
        (daemon.token(DEVOPS).access_token(), emulator.count()),
        (first.clone(), 1)
    );
    assert_eq!(erase(&first), "");
    assert_ne!(daemon.token(DEVOPS).access_token(), first);
    assert_eq!(emulator.count(), 2);
}

#[test]
fn git_is_told_why_there_is_no_token() {
    let emulator = Emulator::start(&[]);
    emulator.script("[[fault]]\nstatus = 400\ntimes = 0\n");
    let daemon = Daemon::start(&emulator, "");
    let refused = run(&daemon, &["git-credential", "get"], DEVOPS_REPOSITORY);
    assert_eq!(refused.status.code(), Some(70), "{refused:?}");
    assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{refused:?}");
}

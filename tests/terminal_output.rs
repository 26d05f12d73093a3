//! What `msi-token` and `msi-tokend` print on terminals of different widths, and where no terminal reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "common/msi_token.rs"]
mod msi_token;

use std::process::{Command, Stdio};

use common::{Daemon, Emulator, STORAGE, TOKEN, TOKEND};
use msi_token::{at, msi_token, run};

const CLIENT_ID: &str = "73444643-8088-4d70-9532-c3a0fdc190fa";
const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";
const RULES: &str = "[[allow]]\nusers = [\"root\", \"7001\", \"7002\", \"7003\"]\nresources = [\"https://vault.azure.net\"]\n\
    [[allow]]\ngroups = [\"7070\"]\nunits = [\"nightly-backup.service\", \"weekly-backup.service\"]\n\
    client_ids = [\"73444643-8088-4d70-9532-c3a0fdc190fa\", \"2d6a1a5a-5f0f-4d71-8f2b-6c9d7c1f4a10\"]\n";

/// What a shell command prints on a terminal of so many columns, which `script` makes.
fn on_terminal(columns: u32, command: &str) -> String {
    let output = Command::new("script")
        .args([
            "-qc",
            &format!("stty cols {columns} rows 24; {command} 2>/dev/null"),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("MSI_TOKEND_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A daemon with a token that it has and one that it cannot get.
fn stage() -> (Emulator, Daemon) {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, RULES);
    daemon.token(&format!("{STORAGE}&client_id={CLIENT_ID}"));
    daemon.token(&format!("{STORAGE}&client_id={UNKNOWN}"));
    (emulator, daemon)
}

#[test]
fn no_line_is_longer_than_the_terminal_is_wide_and_without_colour_nothing_is_escaped() {
    let (_emulator, daemon) = stage();
    let (socket, config) = (daemon.socket(), daemon.config_path());
    let token = format!("{TOKEN} --socket {}", socket.display());
    // A path of the temporary directory can be of any length.
    let config = format!("--config {}", config.display());
    let commands = [
        format!("{token} status"),
        format!("{token} doctor"),
        format!("{token} doctor --resource {STORAGE} --client-id {UNKNOWN}"),
        format!("{token} explain {config} --uid 7001 --resource {STORAGE}"),
        format!("{token} explain {config} --uid 0 --resource {STORAGE}"),
        format!("{TOKEN} --help"),
        format!("{TOKEN} get --help"),
        format!("{TOKEN} get -h"),
        format!("{TOKEN} doctor --help"),
        format!("{TOKEND} --help"),
    ];
    for columns in [80, 120, 200] {
        for command in &commands {
            for plain in ["NO_COLOR=1", "TERM=dumb"] {
                let text = on_terminal(columns, &format!("{plain} {command}"));
                assert!(text.lines().count() > 2 && !text.contains('\u{1b}'), "{text:?}");
                for line in text.lines().map(str::trim_end) {
                    let width = line.chars().count();
                    assert!(
                        width <= columns as usize,
                        "{width} of {columns} columns: {line}\n{text}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_failure_is_broken_between_words_on_a_terminal_and_one_line_elsewhere() {
    let (_emulator, daemon) = stage();
    let arguments = ["get", "--resource", STORAGE, "--client-id", UNKNOWN];
    let told = run(&mut at(&daemon.socket(), &arguments)).err;
    assert_eq!(told.lines().count(), 1, "{told}");
    let socket = daemon.socket();
    let shown = on_terminal(
        80,
        &format!("( {TOKEN} --socket {} {} 2>&1 )", socket.display(), arguments.join(" ")),
    );
    assert!(
        shown.lines().count() > 1 && shown.lines().all(|line| line.trim_end().len() <= 80),
        "{shown}"
    );
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>(),
        told.split_whitespace().collect::<Vec<_>>()
    );
}

#[test]
fn the_same_words_are_printed_at_every_width_and_whole_lines_where_no_terminal_reads() {
    let (_emulator, daemon) = stage();
    let socket = daemon.socket();
    let config = daemon.config_path();
    for arguments in [
        &["doctor"][..],
        &[
            "explain",
            "--config",
            config.to_str().unwrap(),
            "--uid",
            "7001",
            "--resource",
            STORAGE,
        ],
    ] {
        let piped = run(&mut at(&socket, arguments)).out;
        assert!(
            !piped.contains('\u{1b}') && piped.lines().any(|line| line.len() > 120),
            "{piped}"
        );
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let piped = words(&piped);
        for columns in [60, 80, 200, 500] {
            let command = format!("{TOKEN} --socket {} {}", socket.display(), arguments.join(" "));
            let shown = words(&on_terminal(columns, &command));
            // Where columns do not fit there is no heading of theirs.
            assert_eq!(
                shown.iter().collect::<Vec<_>>(),
                piped
                    .iter()
                    .filter(|word| columns == 500 || !["RULE", "VERDICT"].contains(&word.as_str()))
                    .collect::<Vec<_>>()
            );
        }
    }
    for nobody_reads in [
        &["--help"][..],
        &["get", "--help"],
        &["health"],
        &["status"],
        &["get", "--bogus"],
    ] {
        let ran = run(&mut at(&socket, nobody_reads));
        assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
    }
}

#[test]
fn status_has_colours_and_its_width_from_the_terminal_only() {
    let emulator = Emulator::start(&[]);
    let daemon = Daemon::start(&emulator, "");
    daemon.token(&format!("{STORAGE}&client_id={CLIENT_ID}"));
    let status = format!("{TOKEN} status --socket {}", daemon.socket().display());
    let piped = msi_token(&daemon, &["status"]).out;
    assert!(piped.contains("EXPIRES") && !piped.contains('\u{1b}'), "{piped}");
    let wide = on_terminal(250, &status);
    assert!(
        wide.contains("EXPIRES") && wide.contains("\u{1b}[32mok\u{1b}[0m"),
        "{wide:?}"
    );
    let narrow = on_terminal(70, &format!("NO_COLOR=1 {status}"));
    assert!(!narrow.contains("EXPIRES") && narrow.contains(CLIENT_ID), "{narrow:?}");
    assert!(
        !narrow.contains('\u{1b}') && narrow.lines().all(|line| line.trim_end().len() <= 70),
        "{narrow:?}"
    );
}

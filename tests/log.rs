//! The log of a whole process, each time in a process of its own: this test program, started again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use msi_tokend::harden::harden;
use msi_tokend::observe::events;
use msi_tokend::observe::log::start;
use tracing::Level;

const ROLE: &str = "MSI_TOKEND_TEST_ROLE";
/// A target of the program itself; from others only warnings are taken.
const OURS: &str = "msi_tokend::test";

/// Runs `role` of [`process`] in a new process and returns what it wrote to stderr.
fn stderr_of(role: &str, as_journal: bool) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stderr");
    let file = File::create(&path).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process", "--nocapture"]).env(ROLE, role);
    command.env_remove("JOURNAL_STREAM");
    if as_journal {
        let metadata = file.metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    }
    command.stderr(file).output().unwrap();
    fs::read_to_string(path).unwrap()
}

/// The other process; passes at once in this one.
#[test]
fn process() {
    match std::env::var(ROLE).as_deref() {
        Ok("levels") => {
            let log = start(Level::INFO, "test").unwrap();
            tracing::debug!(target: OURS, "hidden");
            tracing::info!(target: OURS, uid = 7, evil = "a\nerror forged", "shown");
            log.set_level(Level::DEBUG);
            tracing::debug!(target: OURS, message_id = events::REFRESH_FAILING, "shown now");
            log.set_level(Level::ERROR);
            tracing::warn!(target: OURS, "hidden again");
            log.set_level(Level::WARN);
            log::info!(target: "hyper", "chatter of a library");
            log::warn!(target: "hyper", "warning of a library");
            assert!(log.flush(Duration::from_secs(60)));
            assert_eq!(log.dropped().get(), 0);
        }
        Ok("panic") => {
            start(Level::ERROR, "test").unwrap();
            panic!("the-secret");
        }
        Ok("harden") => {
            harden().unwrap();
            let core = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
            let dumpable = nix::sys::prctl::get_dumpable().unwrap();
            eprintln!("{core:?} {dumpable}");
        }
        _ => {}
    }
}

#[test]
fn stderr_gets_one_line_a_record_with_the_time_in_front() {
    let written = stderr_of("levels", false);
    let lines: Vec<_> = written.lines().map(|line| line.split_once("Z ").unwrap()).collect();
    assert!(lines[0].0.starts_with("20"), "{written}");
    let texts: Vec<_> = lines.iter().map(|(_, text)| *text).collect();
    assert_eq!(
        texts,
        [
            r#"info shown uid=7 evil="a\\nerror forged""#,
            "debug shown now",
            "warn warning of a library",
        ]
    );
}

/// systemd adds the time, and takes the level from the number.
#[test]
fn stderr_that_is_the_journals_gets_priorities() {
    if Path::new("/run/systemd/journal/socket").exists() {
        return; // there the records go to the real journal
    }
    let written = stderr_of("levels", true);
    assert!(written.starts_with("<6>shown uid=7"), "{written}");
    assert!(
        written.contains("\n<7>shown now\n<4>warning of a library\n"),
        "{written}"
    );
}

#[test]
fn a_panic_is_told_by_its_place_alone() {
    let written = stderr_of("panic", false);
    assert_eq!(written.lines().count(), 1, "{written}");
    assert!(
        written.contains("error panicked") && written.contains("place=tests/log.rs:"),
        "{written}"
    );
    assert!(!written.contains("the-secret"), "{written}");
}

#[test]
fn a_hardened_process_leaves_no_core() {
    assert_eq!(stderr_of("harden", false), "(0, 0) false\n");
}

/// `journalctl --catalog` explains each event that has an id, and nothing else.
#[test]
fn every_event_is_in_the_catalog() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ids = |file: &str, prefix: &str| -> Vec<String> {
        let text = fs::read_to_string(repository.join(file)).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(prefix));
        let mut ids: Vec<_> = lines.map(|(_, id)| id.trim_end_matches("\";").to_owned()).collect();
        ids.sort();
        ids
    };
    let events = ids("src/observe/events.rs", ": &str = \"");
    assert!(
        events.len() >= 8 && events.iter().all(|id| id.len() == 32),
        "{events:?}"
    );
    assert_eq!(events, ids("systemd/msi-tokend.catalog", "-- "));
}

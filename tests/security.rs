//! Each promise of `SECURITY.md` names tests, and they exist.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of all tables: the promise, and the names in backticks beside it.
fn promises() -> Vec<(String, Vec<String>)> {
    let page = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter(|row| *row != "promise | held by");
    rows.map(|row| {
        let (promise, tests) = row.rsplit_once(" | ").unwrap_or_else(|| panic!("{row}"));
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (promise.to_owned(), names)
    })
    .collect()
}

/// `FILE::NAME` is a function that the test runner of the file's language runs; a `FILE` alone is a suite of its own.
fn exists(test: &str) -> bool {
    let (path, name) = test.split_once("::").unwrap_or((test, ""));
    let path = repository().join(path);
    let Ok(source) = fs::read_to_string(&path) else {
        return false;
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => is_rust_test(&source, name),
        Some("py") => source.contains(&format!("\ndef {name}(machine):")),
        _ => name.is_empty() && is_program(&path),
    }
}

fn is_rust_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines
        .iter()
        .position(|line| line.trim_start_matches("async ").starts_with(&format!("fn {name}(")));
    declared.is_some_and(|at| {
        let attributes = || lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        // One that only plain tests/run leaves out still holds the promise.
        let is_never_run = |line: &&str| line.starts_with("#[ignore") && !line.contains("tests/run --all runs it");
        attributes().any(|line| line.ends_with("test]")) && !attributes().any(is_never_run)
    })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[test]
fn every_promise_names_tests_and_each_of_them_exists() {
    let promises = promises();
    assert!(promises.len() > 20, "the tables were not found: {promises:?}");
    for (promise, tests) in &promises {
        assert!(!tests.is_empty(), "no test holds: {promise}");
        for test in tests {
            assert!(exists(test), "there is no test {test}, which holds: {promise}");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    for missing in [
        "tests/security.rs::no_such_test",
        "tests/security.rs::exists",
        "tests/no_such_file.rs::x",
        "tests/systemd/test_access.py::test_nothing_like_it",
        "tests/common",
        "Cargo.toml",
    ] {
        assert!(!exists(missing), "{missing}");
    }
    assert!(exists("tests/security.rs::a_test_that_is_not_there_is_noticed"));
}

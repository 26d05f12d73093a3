//! The picture in `lib.rs` is true: it names every module, and each imports only from those below it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The stand-in and what fuzzing asserts, which are no part of the daemon.
const APART: [&str; 2] = ["emulator", "fuzz"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules in the table of `lib.rs`, from top to bottom.
fn layers() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.flat_map(|row| {
        let names = row.split_once("] |").unwrap().0;
        names
            .split("[`")
            .map(|name| name.split_once('`').unwrap().0.to_owned())
            .collect::<Vec<_>>()
    })
    .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let inner = directories.iter().flat_map(|directory| rust_files(directory));
    files
        .into_iter()
        .chain(inner)
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The top-level modules that a file names by `root::…`, comments apart.
fn imports(text: &str, root: &str) -> BTreeSet<String> {
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    code.flat_map(|line| line.split(root).skip(1).map(first_name)).collect()
}

fn first_name(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn imports_run_downwards_only() {
    let layers = layers();
    let height = |module: &str| layers.iter().position(|layer| layer == module);
    let mut wrong = Vec::new();
    for path in rust_files(&source()) {
        let inside = path.strip_prefix(source()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let module = first_name(&inside.to_string_lossy());
        if ["bin", "main", "lib"].contains(&module.as_str()) {
            let apart = imports(&text, "msi_tokend::")
                .into_iter()
                .find(|name| APART.contains(&&**name));
            if let Some(apart) = apart.filter(|_| !inside.ends_with("msi-emulator.rs")) {
                wrong.push(format!("{} imports {apart}", inside.display()));
            }
            continue;
        }
        if !APART.contains(&&*module) && height(&module).is_none() {
            wrong.push(format!("{module} is not in the table of lib.rs"));
        }
        for import in imports(&text, "crate::") {
            assert!(
                !import.is_empty(),
                "{}: write a `use` for each module",
                inside.display()
            );
            let downwards = match (height(&module), height(&import)) {
                (Some(ours), Some(theirs)) => theirs > ours,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if import != module && !downwards {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert!(layers.len() > 10, "the table was not found: {layers:?}");
    assert!(wrong.is_empty(), "{wrong:#?}\nfrom top to bottom: {layers:?}");
}

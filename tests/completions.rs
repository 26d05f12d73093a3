//! The shells' completions in `packaging/completions` are those of the command lines. After a change of these:
//! `UPDATE=1 cargo test --test completions`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::aot::{Shell, generate};
use msi_tokend::client;
use msi_tokend::daemon::Arguments;

#[test]
fn the_packaged_completions_are_current() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions");
    let command_lines = [
        ("msi-tokend", Arguments::command()),
        ("msi-token", client::command_line()),
    ];
    for (program, command_line) in command_lines {
        for (shell, ending) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let mut text = Vec::new();
            generate(shell, &mut command_line.clone(), program, &mut text);
            let path = directory.join(format!("{program}.{ending}"));
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let packaged = fs::read(&path).unwrap();
            assert!(
                packaged == text,
                "{} is out of date: UPDATE=1 cargo test --test completions",
                path.display()
            );
        }
    }
}

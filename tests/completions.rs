//! The shells' completions in `packaging/completions` are those of the command lines. After a change of these:
//! `UPDATE=1 cargo test --test completions`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory, ValueHint};
use clap_complete::aot::{Shell, generate};
use msi_tokend::client;
use msi_tokend::daemon::Arguments;

/// For an option that wants a path files are offered, and for another one nothing but what is listed. (Where it is said of an
/// argument that nothing can be offered for it, zsh completes no option in its place.)
fn hinted(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_value_hint() {
        ValueHint::AnyPath => arg.value_hint(ValueHint::FilePath),
        ValueHint::Unknown if arg.get_action().takes_values() && !arg.is_positional() => {
            arg.value_hint(ValueHint::Other)
        }
        _ => arg,
    });
    command.mut_subcommands(hinted)
}

fn completion(shell: Shell, program: &str, command_line: Command) -> String {
    let mut text = Vec::new();
    generate(shell, &mut hinted(command_line), program, &mut text);
    let text = String::from_utf8(text).unwrap();
    // clap_complete 4.6 takes the hyphen in the program's name for the place where a command begins, in half of the
    // script's labels, so that bash finds no command.
    text.replace("msi__subcmd__token", "msi__token")
}

#[test]
fn the_packaged_completions_are_current() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions");
    let command_lines = [
        ("msi-tokend", Arguments::command()),
        ("msi-token", client::command_line()),
    ];
    for (program, command_line) in command_lines {
        for (shell, ending) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let text = completion(shell, program, command_line.clone());
            let path = directory.join(format!("{program}.{ending}"));
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let packaged = fs::read_to_string(&path).unwrap();
            assert!(
                packaged == text,
                "{} is out of date: UPDATE=1 cargo test --test completions",
                path.display()
            );
        }
    }
}

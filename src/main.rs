//! `msi-tokend`: arguments, then [`daemon::run`]; an error becomes an exit code.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use msi_tokend::daemon::{self, Arguments};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to stdout; if even that fails there is nobody to tell.
            _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    let result = if arguments.check {
        daemon::check(&arguments.config).map(|()| ExitCode::SUCCESS)
    } else {
        daemon::run(&arguments.config)
    };
    result.unwrap_or_else(|error| {
        eprintln!("msi-tokend: {error}");
        error.exit_code()
    })
}

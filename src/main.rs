//! `msi-tokend`: hardening, arguments, then [`daemon::run`]; an error becomes an exit code.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use msi_tokend::check;
use msi_tokend::daemon::{self, Arguments, DaemonError};

fn main() -> ExitCode {
    // A process of our own user may be waiting for us to start.
    daemon::harden().and_then(|()| run()).unwrap_or_else(|error| {
        eprintln!("msi-tokend: {error}");
        error.exit_code()
    })
}

fn run() -> Result<ExitCode, DaemonError> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to stdout; if even that fails there is nobody to tell.
            _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return Ok(ExitCode::from(if asked { 0 } else { 64 }));
        }
    };
    if arguments.check {
        check::run(&arguments.config, arguments.strict).map(|()| ExitCode::SUCCESS)
    } else {
        daemon::run(&arguments.config)
    }
}

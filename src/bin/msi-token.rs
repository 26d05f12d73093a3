//! `msi-token`: the client. All of it is [`msi_tokend::client`].

use std::process::ExitCode;

fn main() -> ExitCode {
    msi_tokend::client::main()
}

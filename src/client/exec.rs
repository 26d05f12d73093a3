//! `exec` and `sdk-env`: programs that know nothing of the daemon are led to its loopback listener by their environment.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use super::connection::Daemon;
use super::error::{ClientError, Exit};
use super::{output, status};
use crate::environment;

#[derive(Args)]
pub struct Arguments {
    /// The program, and what it is given.
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Prints the environment for the listener that is on.
pub async fn print(daemon: &Daemon) -> Result<(), ClientError> {
    let text = environment::file(listener(daemon).await?);
    output::line(&[text.trim_end().as_bytes()])
}

/// Becomes the program; comes back only with why not.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> ClientError {
    let address = match listener(daemon).await {
        Ok(address) => address,
        Err(error) => return error,
    };
    let [program, rest @ ..] = &*arguments.command else {
        return ClientError::new(Exit::Usage, "no program is named", "");
    };
    let set = ["NO_PROXY", "no_proxy"].map(|name| std::env::var_os(name).unwrap_or_default());
    let set = set.map(|value| value.to_string_lossy().into_owned());
    let no_proxy = merged(environment::hosts(address), &set);
    let error = Command::new(program)
        .args(rest)
        .envs(environment::variables(address))
        .envs([("NO_PROXY", &no_proxy), ("no_proxy", &no_proxy)])
        .exec();
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NoProgram,
        _ => Exit::CannotRun,
    };
    ClientError::new(exit, format!("cannot run {}: {error}", program.display()), "")
}

async fn listener(daemon: &Daemon) -> Result<SocketAddr, ClientError> {
    status::get(daemon).await?.sdk.ok_or_else(|| {
        ClientError::new(
            Exit::Configuration,
            "the daemon's loopback listener is off",
            "Root can switch it on: `systemctl enable --now msi-tokend-sdk.socket`; without systemd, set listen.sdk.",
        )
    })
}

/// Ours first, then what was there in either spelling: programs read one or the other.
fn merged(ours: impl IntoIterator<Item = String>, set: &[String]) -> String {
    let mut hosts: Vec<String> = ours.into_iter().collect();
    for host in set.iter().flat_map(|value| value.split(',')).map(str::trim) {
        if !host.is_empty() && !hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            hosts.push(host.to_owned());
        }
    }
    hosts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_that_was_excepted_from_the_proxy_is_lost_and_none_comes_twice() {
        for (set, expected) in [
            (["", ""], "127.0.0.1,localhost"),
            (
                ["intranet, LOCALHOST,", "intranet,.corp"],
                "127.0.0.1,localhost,intranet,.corp",
            ),
            (["*", ""], "127.0.0.1,localhost,*"),
        ] {
            let ours = ["127.0.0.1", "localhost"].map(str::to_owned);
            assert_eq!(merged(ours, &set.map(str::to_owned)), expected);
        }
    }
}

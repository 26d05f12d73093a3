//! `lock`: the firewall rules that lead to the daemon what programs send to the metadata service by themselves.

mod enforce;
mod load;
mod neighbours;
mod nft;
mod packet_counts;
mod rules;
mod status;
mod trial;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use self::neighbours::findings;
use super::connection::Daemon;
use super::error::ClientError;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root.
    ///
    /// Where a configuration file has any fault the strictest rules are loaded: only root and the daemon are exempt.
    Load(load::Arguments),
    /// Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3
    /// not loaded.
    ///
    /// As root also who got what by it, which rules are missing, and what no rule can help.
    Status,
    /// Switch the lock on for a while. For root.
    ///
    /// Returns at once; a timer of systemd takes the lock away again, also when the machine hangs on it.
    Try(trial::Arguments),
    /// Have the rules enforced, when it is known whom that denies what. For root.
    ///
    /// Refuses while the lock has observed for less than a day, something of that was missed, or a rule is missing for who
    /// asked. Writes conf.d/90-lock.toml, reloads, and waits until the mode is in effect.
    Enforce(enforce::Arguments),
}

/// Runs the subcommand.
pub async fn run(daemon: &Daemon, arguments: &Arguments) -> Result<ExitCode, ClientError> {
    match &arguments.command {
        Command::Load(arguments) => load::run(arguments)?,
        Command::Status => return status::run(daemon).await,
        Command::Try(arguments) => trial::run(arguments)?,
        Command::Enforce(arguments) => enforce::run(daemon, arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

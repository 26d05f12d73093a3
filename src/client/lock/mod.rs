//! `lock`: the firewall rules that lead to the daemon what programs send to the metadata service by themselves.

mod load;
mod rules;

use clap::{Args, Subcommand};

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
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), ClientError> {
    match &arguments.command {
        Command::Load(arguments) => load::run(arguments),
    }
}

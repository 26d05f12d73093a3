//! `msi-emulator`: a stand-in MSI endpoint for development and tests. Never part of the daemon's package.

use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt as _;
use msi_tokend::emulator::{Canary, Emulator, IdentitySet, Options, Script, StorageAccount, demo};
use signal_hook_tokio::Signals;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A stand-in for an Azure VM's MSI endpoint. Its tokens look real, and Azure accepts none.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Serve),
    Demo(Demo),
}

/// Serve tokens until SIGTERM or SIGINT.
///
/// Prints `listening on ADDRESS` once it accepts. It speaks the instance metadata service's protocol
/// (/metadata/identity/oauth2/token), the 2017 VM extension's (/oauth2/token), the Azure Arc agent's
/// (/arc/metadata/identity/oauth2/token) and Resource Manager's listKeys; tests
/// control it under /emulator/.
///
/// Without --identities the VM has one user-assigned identity: client id 73444643-8088-4d70-9532-c3a0fdc190fa, object
/// id a2b0c5d1-6f3e-4c1b-9a77-2f1d0e8c4b35, resource id
/// /subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourcegroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo-identity
#[derive(Args)]
struct Serve {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Allow an address that is not loopback, as is needed inside a test's own network namespace.
    #[arg(long)]
    any_address: bool,
    /// How long tokens live; the same token is given again for a third of this time.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = msi_tokend::config::duration)]
    lifetime: Duration,
    /// The faults, as TOML: a list of [[fault]] steps, which the documentation of `emulator::script` describes.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The VM's identities, as TOML: [[identity]] with `client_id`, `object_id`, `resource_id`, `system_assigned`.
    #[arg(long, value_name = "FILE")]
    identities: Option<PathBuf>,
    /// Put this text into every token's signature part, to search for leaks.
    #[arg(long, value_name = "TEXT")]
    canary: Option<Canary>,
    /// A storage account whose keys Resource Manager lists; may be repeated.
    #[arg(long = "storage-account", value_name = "NAME=BASE64KEY")]
    storage_accounts: Vec<StorageAccount>,
    /// The directory of the Arc agent's challenges.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/opt/azcmagent/tokens")]
    arc_tokens: PathBuf,
}

/// Show the daemon at work: a stand-in endpoint, a real msi-tokend, and two requests for the same token.
///
/// Both run until Ctrl-C, with a private socket for more requests.
#[derive(Args)]
struct Demo {
    /// Exit after the two requests, non-zero if anything went wrong.
    #[arg(long)]
    once: bool,
    /// The daemon's program; the one beside this executable unless given.
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(arguments) => serve(arguments).await,
        Command::Demo(arguments) => demonstrate(arguments).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("msi-emulator: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Serve) -> Result<(), Box<dyn Error>> {
    let mut signals = termination()?;
    let emulator = Emulator::start(Options {
        listen: arguments.listen,
        any_address: arguments.any_address,
        lifetime: arguments.lifetime,
        identities: arguments.identities.map_or_else(
            || Ok(IdentitySet::default()),
            |path| read(&path, IdentitySet::from_toml),
        )?,
        script: arguments
            .script
            .map_or_else(|| Ok(Script::default()), |path| read(&path, Script::from_toml))?,
        canary: arguments.canary,
        storage_accounts: arguments.storage_accounts,
        arc_tokens: arguments.arc_tokens,
    })
    .await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", emulator.address())?;
    out.flush()?;
    signals.next().await;
    emulator.stop().await;
    Ok(())
}

async fn demonstrate(arguments: Demo) -> Result<(), Box<dyn Error>> {
    let mut signals = termination()?;
    let interrupted = async {
        signals.next().await;
    };
    Ok(demo::run(arguments.once, arguments.daemon, interrupted).await?)
}

fn termination() -> std::io::Result<Signals> {
    Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
}

fn read<T>(path: &Path, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|reason| format!("{}: {reason}", path.display()))
}

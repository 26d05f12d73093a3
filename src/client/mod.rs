//! `msi-token`, the client: asks the daemon over its Unix socket, for scripts, people and monitoring.

mod config_files;
mod connection;
mod described;
mod doctor;
mod error;
mod exec;
mod explain;
mod finding;
mod forms;
mod get;
mod git_credential;
mod health;
mod keep;
mod listing;
mod lock;
mod metrics;
mod output;
mod probe;
mod ready;
mod reload;
mod remedy;
mod selection;
mod status;
mod suggest;
mod surroundings;
mod table;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use self::connection::Daemon;
use self::error::{ClientError, Exit};
use crate::harden::harden;

/// Gets access tokens of the VM's managed identities from msi-tokend, and tells how it is.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The daemon's socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`.
    #[arg(long, value_name = "PATH", global = true, display_order = 100)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a token.
    Get(get::Arguments),
    /// Have a new token fetched, because a service refused the one there is, and print it.
    ///
    /// The daemon fetches each token at most once in 30 seconds; within that time it gives the one it has.
    Refresh(get::Arguments),
    /// Keep tokens in files, for programs that read a token from a file.
    ///
    /// Runs until it is stopped: as the unit msi-token-keep@USER.service, or by itself with --directory.
    Keep(keep::Arguments),
    /// Speak git's protocol for credential helpers, for Azure DevOps over https.
    GitCredential(git_credential::Arguments),
    /// Become another program, with the environment that leads it to the daemon's loopback listener.
    Exec(exec::Arguments),
    /// Print the environment for programs on the daemon's loopback listener, as sdk.env has it.
    SdkEnv,
    /// List what is cached; never a token.
    Status(status::Arguments),
    /// One line for a monitoring system, as its plugin; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    Health(health::Arguments),
    /// Judge the configuration files: which rule allows, or which part of each rule does not match.
    Explain(explain::Arguments),
    /// Print the rules that are missing, by what the lock observed, as the journal has it.
    ///
    /// Everything that asked is in it, also what should not have: read it before it becomes a file of conf.d.
    Suggest(suggest::Arguments),
    /// Find out what is wrong and say what to do.
    ///
    /// Looks at the daemon, its configuration files, its tokens, its endpoint (one request that asks for no token) and this environment. With
    /// --resource it also asks for that token, which the daemon then keeps as for any caller.
    Doctor(doctor::Arguments),
    /// The firewall rules that lead to the daemon what programs send to the metadata service.
    Lock(lock::Arguments),
    /// Write the daemon's metrics to a file for the textfile collector of `node_exporter`.
    Metrics(metrics::Arguments),
    /// Have the daemon read its configuration again. For root and the daemon's own user.
    ///
    /// Exits 78 and says why if it is refused; the former one stays in effect then.
    Reload,
}

/// The command line's definition, for the shells' completions.
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// The whole program: arguments from the command line, exit codes by `sysexits.h`.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // An error of this write is ignored: there is no other place to report it.
            _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ if is_plugin() => health::unknown(),
                _ => Exit::Usage.into(),
            };
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            failure.tell();
            failure.exit.into()
        }
    }
}

fn run(Arguments { socket, command }: Arguments) -> Result<ExitCode, ClientError> {
    // What is asked of the kernel would count for the program, too, and no token comes this way.
    if !matches!(command, Command::Exec(_)) {
        harden().map_err(|errno| ClientError::system("keep others out of this process", &errno.into()))?;
    }
    let daemon = Daemon::at(socket.unwrap_or_else(default_socket));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::system("start the runtime", &error))?;
    runtime.block_on(async {
        match command {
            Command::Get(arguments) => get::run(&daemon, &arguments, get::Mode::Get).await?,
            Command::Refresh(arguments) => get::run(&daemon, &arguments, get::Mode::Refresh).await?,
            Command::Keep(arguments) => keep::run(&daemon, &arguments).await?,
            Command::GitCredential(arguments) => git_credential::run(&daemon, &arguments).await?,
            Command::Exec(arguments) => return Err(exec::run(&daemon, &arguments).await),
            Command::SdkEnv => exec::print(&daemon).await?,
            Command::Status(arguments) => status::run(&daemon, &arguments).await?,
            Command::Health(arguments) => return health::run(&daemon, &arguments).await,
            Command::Explain(arguments) => explain::run(&daemon, &arguments).await?,
            Command::Suggest(arguments) => suggest::run(&arguments)?,
            Command::Doctor(arguments) => doctor::run(&daemon, &arguments).await?,
            Command::Lock(arguments) => return lock::run(&daemon, &arguments).await,
            Command::Metrics(arguments) => metrics::run(&daemon, &arguments).await?,
            Command::Reload => reload::run(&daemon).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn default_socket() -> PathBuf {
    std::env::var_os("MSI_TOKEND_SOCKET")
        .filter(|path| !path.is_empty())
        .map_or_else(|| Daemon::SERVICE_SOCKET.into(), PathBuf::from)
}

/// Whether a wrong command line is one of `health`, which has the exit codes of monitoring plugins.
fn is_plugin() -> bool {
    let matches = Arguments::command().ignore_errors(true).try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("health"))
}

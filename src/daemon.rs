//! The wiring, which reads as a story: configuration, log, socket, broker, ready, signals, drain.

mod settings;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::access::Machine;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Loaded};
use crate::engine::Engine;
use crate::harden::{self, lock_memory};
use crate::listen::{self, ListenError, Listener, Sdk};
use crate::observe::events;
use crate::observe::log::{self, LogHandle};
use crate::observe::metrics::Metrics;
use crate::observe::report::Reporter;
use crate::server::{self, ListenerKind, Server};
use crate::systemd::{self, Activation, ActivationError, FdStore};
use crate::upstream::Upstream;

/// Gets the access tokens of an Azure VM's managed identities, keeps them fresh and serves them over a Unix socket.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The configuration file; conf.d/*.toml beside it is read after it.
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Validate the configuration, print what is in effect and where each value came from, and exit.
    #[arg(long)]
    pub check: bool,
    /// With --check: also fail if there is a warning.
    #[arg(long, requires = "check")]
    pub strict: bool,
}

/// What runs at SIGTERM gets this long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// The last records get this long to reach the journal.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Why the daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is wrong; the text has a line for each violation.
    #[error("{0}")]
    Config(#[from] config::Violations),
    /// There were warnings, and none shall be.
    #[error("there are warnings, and --strict takes them for errors")]
    Doubtful,
    /// There is no socket to serve on.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// systemd passed a socket that is not fit.
    #[error("{0}")]
    Activation(#[from] ActivationError),
    /// The system would not let us set up what we need.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// As the system says it.
        source: io::Error,
    },
    /// A core task ended; alive without it would be worse than gone.
    #[error("internal error: {0} ended by itself; systemd starts the daemon anew")]
    TaskEnded(&'static str),
}

impl DaemonError {
    /// By sysexits.h.
    pub fn exit_code(&self) -> ExitCode {
        use ListenError::{
            CallersUnknown, Live, Loop, NoPermission, NotLockable, Occupied, PortTaken, Refused, Untrusted, Unwritable,
        };
        ExitCode::from(match self {
            Self::Config(_) | Self::Doubtful | Self::Listen(Untrusted(_) | Loop(_) | NotLockable) => 78,
            Self::Listen(Live(_) | PortTaken { .. }) => 69,
            Self::Listen(NoPermission { .. }) => 77,
            Self::Listen(Occupied { .. } | Refused { .. } | Unwritable { .. } | CallersUnknown(_))
            | Self::Activation(_)
            | Self::System { .. } => 71,
            Self::TaskEnded(_) => 70,
        })
    }
}

/// Keeps others out of this process, whatever it is going to do.
///
/// # Errors
/// The kernel refused.
pub fn harden() -> Result<(), DaemonError> {
    harden::harden().map_err(|errno| DaemonError::System {
        what: "keep others out of this process",
        source: errno.into(),
    })
}

/// Runs the daemon until a signal ends it, or an error that is in the log then; its exit code.
///
/// # Errors
/// There is no log yet.
pub fn run(config_path: &Path) -> Result<ExitCode, DaemonError> {
    let Loaded {
        config, hash, doubts, ..
    } = config::load(config_path)?;
    let log = log::start(config.log.level, "msi-tokend").map_err(|source| DaemonError::System {
        what: "start the log's thread",
        source,
    })?;
    if let Err(why) = lock_memory() {
        info!(
            "tokens in memory can be swapped out, because memory is not locked: {why}; set LimitMEMLOCK=infinity, or MemorySwapMax=0"
        );
    }
    settings::warn_of(&doubts);
    settings::warn_of_memory(&config);
    // One thread serves 100,000 requests a second, many times what a VM needs, with the least memory and CPU.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System {
            what: "start the runtime",
            source,
        })?;
    let code = match runtime.block_on(serve(config_path, config, hash, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            error.exit_code()
        }
    };
    log.flush(LOG_FLUSH);
    Ok(code)
}

async fn serve(config_path: &Path, mut config: Config, hash: String, log: &LogHandle) -> Result<(), DaemonError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|source| DaemonError::System {
        what: "listen for signals",
        source,
    })?;
    let passed = Activation::take()?;
    let unix = listen::bind_unix(&config.listen.socket, config.listen.socket_mode, passed.unix)?;
    let sdk = listen::open_sdk(&config, passed.sdk)?;
    let lock = listen::open_lock(&config, passed.lock)?;
    let monitor = bind_monitor(&config)?;
    let metrics = Arc::new(Metrics::new(log.dropped().clone(), SystemClock.now().wall));
    let engine = Engine::new(
        settings::policy(&config),
        Upstream::new(&config.upstream),
        Arc::new(SystemClock),
        Arc::new(Reporter::new(Arc::clone(&metrics))),
    );
    let (reloads, mut asked_to_reload) = mpsc::channel(1);
    let machine = Machine::new(Arc::new(SystemClock));
    let settings = settings::of(&config, hash, &machine);
    if sdk.is_some() || lock.is_some() {
        settings::follow_rules(&machine, &settings.rules).await;
    } else {
        machine.follow(HashSet::new(), HashSet::new()).await;
    }
    let server = Server::new(
        Arc::clone(&engine),
        metrics,
        Arc::clone(log.evidence()),
        settings,
        Arc::clone(&machine),
        sdk.as_ref().map(|sdk| sdk.address),
        reloads,
    );

    let mut fdstore = FdStore::new(passed.tokens);
    if let Some(fdstore) = &mut fdstore {
        fdstore.restore(&engine);
    }
    let mut timer = tokio::spawn(Arc::clone(&engine).run());
    let mut accepting = JoinSet::new();
    accepting.spawn(server::accept(Arc::clone(&server), unix, ListenerKind::Unix));
    info!(endpoint = %config.upstream.endpoint, socket = %config.listen.socket.display(), "serving");
    let sdk = sdk.map(|Sdk { listener, address }| {
        let port = address.port();
        info!(%address, "serving Azure SDKs");
        accepting.spawn(server::accept(
            Arc::clone(&server),
            listener,
            ListenerKind::Sdk { port },
        ));
        address
    });
    let tcp = Tcp {
        sdk,
        lock: lock.is_some(),
        machine: &machine,
    };
    if let Some(listener) = lock {
        info!("serving requests that the lock redirects");
        accepting.spawn(server::accept(Arc::clone(&server), listener, ListenerKind::Lock));
        let lost = config.listen.socket.with_file_name("lock-lost");
        tokio::spawn(server::watch_lock(Arc::clone(&server), lost));
    }
    if let Some((listener, address)) = monitor {
        info!(%address, "serving monitoring agents");
        accepting.spawn(server::accept(Arc::clone(&server), listener, ListenerKind::Monitor));
    }
    tokio::spawn({
        let server = Arc::clone(&server);
        systemd::keep_informed(move || server.health())
    });

    loop {
        tokio::select! {
            () = follow(fdstore.as_mut(), &engine) => {}
            _ = &mut timer => return Err(DaemonError::TaskEnded("the timer")),
            _ = accepting.join_next() => return Err(DaemonError::TaskEnded("the accept loop")),
            signal = signals.next() => match signal {
                // Who sends a signal is not told what became of it.
                Some(SIGHUP) => _ = reload(config_path, &mut config, log, &engine, &server, tcp).await,
                _ => break,
            },
            Some(asked) = asked_to_reload.recv() => {
                // Whoever asked may have hung up meanwhile.
                _ = asked.send(reload(config_path, &mut config, log, &engine, &server, tcp).await);
            }
        }
    }
    systemd::stopping();
    info!("stopping: running requests get up to {} s", DRAIN.as_secs());
    tokio::select! {
        drained = drain(&server, accepting) => if !drained {
            warn!("some requests had not ended in time and were cut off");
        },
        _ = signals.next() => warn!("a second signal: stopping at once"),
    }
    server.close();
    if let Some(fdstore) = &mut fdstore {
        fdstore.close(&engine).await;
    }
    Ok(())
}

fn bind_monitor(config: &Config) -> Result<Option<(Listener, SocketAddr)>, ListenError> {
    let address = config.listen.monitor;
    address
        .map(|address| listen::bind_loopback(address, "listen.monitor"))
        .transpose()
}

async fn follow(fdstore: Option<&mut FdStore>, engine: &Engine) {
    match fdstore {
        Some(fdstore) => fdstore.follow(engine).await,
        None => std::future::pending().await,
    }
}

async fn drain(server: &Server, mut accepting: JoinSet<io::Result<()>>) -> bool {
    server.stop();
    tokio::time::timeout(DRAIN, async {
        while accepting.join_next().await.is_some() {}
        server.drained().await;
    })
    .await
    .is_ok()
}

/// The TCP listeners that give tokens, as far as they are on.
#[derive(Clone, Copy)]
struct Tcp<'a> {
    sdk: Option<SocketAddr>,
    lock: bool,
    machine: &'a Machine,
}

/// All or nothing: a configuration with any fault, or one that moves the sockets, changes nothing. The error has a line
/// for each fault; it is logged here.
async fn reload(
    path: &Path,
    config: &mut Config,
    log: &LogHandle,
    engine: &Arc<Engine>,
    server: &Server,
    tcp: Tcp<'_>,
) -> Result<(), String> {
    let refused = |why: String| {
        for line in why.lines() {
            error!(
                message_id = events::CONFIGURATION_REJECTED,
                outcome = "rejected",
                "reload refused, the running configuration stays: {line}"
            );
        }
        Err(why)
    };
    let Loaded {
        config: loaded,
        hash,
        doubts,
        ..
    } = match config::load(path) {
        Ok(loaded) => loaded,
        Err(problems) => return refused(problems.to_string()),
    };
    if loaded.listen != config.listen {
        return refused("[listen] changed: restart needed".to_owned());
    }
    // No configuration file says where a socket of systemd's listens, so this is checked here and not while it is read.
    if let Some(address) = tcp.sdk
        && config::reaches(&loaded.upstream.endpoint, address)
    {
        return refused(ListenError::Loop(address).to_string());
    }
    if tcp.lock && !loaded.upstream.is_metadata_service() {
        return refused(ListenError::NotLockable.to_string());
    }
    let settings = settings::of(&loaded, hash, tcp.machine);
    if tcp.sdk.is_some() || tcp.lock {
        settings::follow_rules(tcp.machine, &settings.rules).await;
    }
    *config = loaded;
    log.set_level(config.log.level);
    settings::warn_of(&doubts);
    settings::warn_of_memory(config);
    // The rules first: whoever is answered by what changes next is judged by them.
    server.reconfigure(settings);
    engine.reconfigure(settings::policy(config), Upstream::new(&config.upstream));
    info!(
        message_id = events::CONFIGURATION_RELOADED,
        outcome = "ok",
        "configuration reloaded"
    );
    Ok(())
}

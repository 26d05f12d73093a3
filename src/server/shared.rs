//! What every connection shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::ListenerKind;
use super::documents::Documents;
use super::response::FirstPieces;
use super::seats::{Bounds, Seats};
use super::slots::{SLOTS, Slots};
use super::unread::Unread;
use crate::access::{Machine, Rules, UnitsUnknown};
use crate::config::Lock;
use crate::engine::Engine;
use crate::heartbeat::Heartbeat;
use crate::memory_limit::Limit;
use crate::observe::audit::Audit;
use crate::observe::evidence::Evidence;
use crate::observe::health::{Front, Health};
use crate::observe::metrics::Metrics;
use crate::observe::status::ConfigurationStatus;

/// Monitoring agents at once.
pub const MONITORS: Bounds = Bounds { total: 16, per_uid: 8 };

/// Asks for the configuration to be read again; to be answered once it is in effect, or with why it was refused.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// What a reload changes.
#[derive(Debug)]
pub struct Settings {
    /// Who may have what; a connection goes by the new ones from its next request on.
    pub rules: Rules,
    /// Where rules ask for units, and the Unix socket does not tell them.
    pub units_unknown: Option<UnitsUnknown>,
    /// Of connections; lower ones throw nobody out.
    pub bounds: Bounds,
    /// For a request's head, its form, and the reading of its answer.
    pub header_timeout: Duration,
    /// Whether grants and refusals are recorded.
    pub audit: bool,
    /// What is told of the files that all this comes from.
    pub configuration: ConfigurationStatus,
    /// What the lock does.
    pub lock: Lock,
    /// For a connection to the metadata service.
    pub connect_timeout: Duration,
}

/// The state of all listeners together.
pub struct Server {
    pub(super) engine: Arc<Engine>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: RwLock<Arc<Settings>>,
    pub(super) seats: Arc<Seats>,
    /// Apart from the callers', so that monitoring gets in when they have taken all of those.
    pub(super) monitor_seats: Arc<Seats>,
    /// Whom the kernel knows this process as.
    pub(super) own_uid: u32,
    /// Of what is passed on to the metadata service.
    pub(super) slots: Arc<Slots>,
    pub(super) audit: Audit,
    pub(super) evidence: Arc<Evidence>,
    pub(super) documents: Documents,
    pub(super) first_pieces: FirstPieces,
    pub(super) machine: Arc<Machine>,
    /// Where the loopback listener for programs is.
    pub(super) sdk: Option<SocketAddr>,
    pub(super) reloads: mpsc::Sender<ReloadRequest>,
    /// Of each accept loop.
    pub(super) heartbeats: Mutex<Vec<Arc<Heartbeat>>>,
    /// Requests so far.
    requests: AtomicU64,
    pub(super) unread: Unread,
    pub(super) stopping: CancellationToken,
    pub(super) connections: TaskTracker,
}

impl Server {
    /// Serves nobody before [`super::accept`]. Callers' wishes for a reload go to `reloads`.
    pub fn new(
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        evidence: Arc<Evidence>,
        settings: Settings,
        machine: Arc<Machine>,
        sdk: Option<SocketAddr>,
        reloads: mpsc::Sender<ReloadRequest>,
    ) -> Arc<Self> {
        let now = engine.now();
        Arc::new(Self {
            heartbeats: Mutex::default(),
            engine,
            metrics,
            seats: Seats::new(settings.bounds),
            monitor_seats: Seats::new(MONITORS),
            own_uid: nix::unistd::geteuid().as_raw(),
            slots: Slots::new(SLOTS),
            audit: Audit::new(settings.audit, now.boot),
            evidence,
            documents: Documents::default(),
            first_pieces: FirstPieces::default(),
            settings: RwLock::new(Arc::new(settings)),
            machine,
            sdk,
            reloads,
            requests: AtomicU64::new(0),
            unread: Unread::new(Limit::of_process()),
            stopping: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    /// Takes over new settings.
    pub fn reconfigure(&self, settings: Settings) {
        self.seats.set_bounds(settings.bounds);
        self.audit.set(settings.audit);
        self.evidence
            .forget(|missing| self.is_allowed(&settings.rules, missing));
        *self.settings.write() = Arc::new(settings);
        self.look_at_lock();
        self.documents.forget();
    }

    /// Where the callers of a listener sit.
    pub(super) fn seats_at(&self, listener: &ListenerKind) -> &Arc<Seats> {
        match listener {
            ListenerKind::Monitor => &self.monitor_seats,
            ListenerKind::Unix | ListenerKind::Sdk { .. } | ListenerKind::Lock => &self.seats,
        }
    }

    /// How the daemon fares.
    pub fn health(&self) -> impl Future<Output = Health> + use<> {
        let (engine, front) = (Arc::clone(&self.engine), self.front());
        async move { Health::of(&engine, front).await }
    }

    /// How it fares where callers come in.
    pub(super) fn front(&self) -> Front {
        Front {
            live: self.is_live(),
            out_of_descriptors: self.seats.are_short(),
            full_at: self.seats.full_at(),
            lock: *self.metrics.lock.read(),
        }
    }

    /// Accepts nobody any more and lets running requests end.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.connections.close();
        self.seats.close();
        self.monitor_seats.close();
    }

    /// Every connection has ended.
    pub async fn drained(&self) {
        self.connections.wait().await;
    }

    /// Writes down what is still to be told; the last thing before the end.
    pub fn close(&self) {
        self.audit.close();
    }

    /// Whether the daemon's own loops come round.
    pub(super) fn is_live(&self) -> bool {
        self.heartbeats.lock().iter().all(|heartbeat| heartbeat.is_recent()) && self.engine.beats()
    }

    /// Whether [`Server::stop`] was called; `stopping` would say so too, but under a lock.
    pub(super) fn is_stopping(&self) -> bool {
        self.connections.is_closed()
    }

    /// Counts a request; a clock that is cheaper than the system's.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Those in effect at this moment.
    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }
}

//! Callers on the Unix socket and on loopback: a connection, who it is, what it asks, what it gets.

mod accept;
mod admin;
mod answer;
mod bind;
mod bound;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod guarded;
mod intake;
mod passed;
mod problem;
mod recall;
mod route;
mod sdk;
mod sdk_env;
mod secret;
mod service;
mod shape;
mod tally;
mod tcp;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use self::accept::{Bounds, Seats};
pub use self::bind::bind;
use self::bound::Stream;
pub use self::bound::{BindError, Bound};
use self::framing::{Lengths, Reader};
pub use self::gate::Gate;
use self::guarded::Guarded;
pub use self::passed::Passed;
use self::problem::Problem;
use self::recall::Recall;
use self::route::Route;
pub use self::sdk::{Sdk, open as open_sdk};
use self::shape::Shape;
pub use self::tcp::bind as bind_loopback;
use crate::access::{Caller, NOBODY, Rules};
use crate::beat::{self, Beat};
use crate::engine::Engine;
use crate::observe::audit::Audit;
use crate::observe::health::{Front, Health};
use crate::observe::labels::Rejection;
use crate::observe::metrics::Metrics;

/// A request line with every parameter at its longest, all of it percent-encoded, and the usual headers. hyper's own bound
/// is 400 KB for each connection.
const MAX_HEAD: usize = 16 * 1024;
/// One that gets no connection has this long to ask, and to hear why.
const AT_THE_DOOR: Duration = Duration::from_secs(1);
/// On the way out a connection gets this long to bring a request that was already on its way.
const LAST_CALL: Duration = Duration::from_millis(250);

/// Monitoring agents at once.
const MONITORS: Bounds = Bounds { total: 16, per_uid: 8 };

/// Asks for the configuration to be read again; to be answered once it is in effect, or with why it was refused.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// What a reload changes.
#[derive(Debug)]
pub struct Settings {
    /// Who may have what; a connection goes by the new ones from its next request on.
    pub rules: Rules,
    /// Of connections; nobody is thrown out.
    pub bounds: Bounds,
    /// For a request's head, its form, and the reading of its answer.
    pub header_timeout: Duration,
    /// Whether grants and refusals are recorded.
    pub audit: bool,
}

/// What every connection shares.
pub struct Server {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    settings: RwLock<Arc<Settings>>,
    seats: Arc<Seats>,
    /// Apart from the callers', so that monitoring gets in when they have taken all of those.
    monitor_seats: Arc<Seats>,
    audit: Audit,
    reloads: mpsc::Sender<ReloadRequest>,
    /// Of each accept loop's rounds.
    beats: Mutex<Vec<Arc<Beat>>>,
    stopping: CancellationToken,
    connections: TaskTracker,
}

/// What belongs to one connection.
struct Session {
    /// As the kernel had it when the connection was accepted.
    caller: Caller,
    gate: Arc<Gate>,
    lengths: Arc<Lengths>,
    recall: Recall,
}

impl Server {
    /// Serves nobody before [`Server::run`]. Callers' wishes for a reload go to `reloads`.
    pub fn new(
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        settings: Settings,
        reloads: mpsc::Sender<ReloadRequest>,
    ) -> Arc<Self> {
        let now = engine.now();
        Arc::new(Self {
            beats: Mutex::default(),
            engine,
            metrics,
            seats: Seats::new(settings.bounds),
            monitor_seats: Seats::new(MONITORS),
            audit: Audit::new(settings.audit, now.boot),
            settings: RwLock::new(Arc::new(settings)),
            reloads,
            stopping: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    /// Takes over new settings.
    pub fn reconfigure(&self, settings: Settings) {
        self.seats.set_bounds(settings.bounds);
        self.audit.set(settings.audit);
        *self.settings.write() = Arc::new(settings);
    }

    /// Accepts callers at one listener until [`Server::stop`].
    ///
    /// # Errors
    /// The listener is broken; the process is of no use any more.
    pub async fn run(self: Arc<Self>, bound: Bound, gate: Gate) -> io::Result<()> {
        let seats = match gate {
            Gate::Monitor => &self.monitor_seats,
            Gate::Unix | Gate::Sdk { .. } => &self.seats,
        };
        let gate = Arc::new(gate);
        let beat = Arc::new(Beat::default());
        self.beats.lock().push(Arc::clone(&beat));
        loop {
            let now = self.engine.now();
            beat.strike();
            self.audit.tick(now.boot);
            tokio::select! {
                () = self.stopping.cancelled() => break,
                stream = accept::next(&bound.listener, seats) => self.welcome(stream?, &gate, seats),
                () = tokio::time::sleep(beat::PERIOD) => {}
            }
        }
        // systemd keeps the callers in its socket's queue for the next process; those in ours have only us.
        if !bound.is_from_systemd() {
            while let Some(Ok(stream)) = accept::one(&bound.listener).now_or_never() {
                self.welcome(stream, &gate, seats);
            }
        }
        Ok(())
    }

    /// Whether the daemon's own loops come round.
    fn is_live(&self) -> bool {
        self.beats.lock().iter().all(|beat| beat.is_recent()) && self.engine.beats()
    }

    /// How the daemon fares.
    pub fn health(&self) -> Health {
        let front = Front {
            live: self.is_live(),
            out_of_descriptors: self.seats.are_short(),
            full_at: self.seats.full_at(),
        };
        Health::of(&self.engine, front)
    }

    /// Accepts nobody any more and lets running requests end.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.connections.close();
    }

    /// Every connection has ended.
    pub async fn drained(&self) {
        self.connections.wait().await;
    }

    /// Writes down what is still to be told; the last thing before the end.
    pub fn close(&self) {
        self.audit.close();
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    fn welcome(self: &Arc<Self>, stream: Stream, gate: &Arc<Gate>, seats: &Arc<Seats>) {
        let caller = match caller_of(&stream, gate) {
            Ok(caller) => caller,
            Err(error) => {
                self.metrics.rejected.inc(Rejection::UnknownCaller);
                return debug!(%error, "connection refused: the kernel does not say whose it is");
            }
        };
        let Some(seat) = seats.take(caller.uid) else {
            self.metrics.rejected.inc(Rejection::PerUid);
            return self.turn_away(stream, caller.uid, seats);
        };
        let server = Arc::clone(self);
        let session = Session {
            caller,
            gate: Arc::clone(gate),
            lengths: Arc::default(),
            recall: Recall::default(),
        };
        self.connections.spawn(async move {
            server.serve(stream, session).await;
            drop(seat);
        });
    }

    /// Says why there is no seat, where that takes nobody's place. A connection closed before the request was read would
    /// look broken to its caller.
    fn turn_away(&self, stream: Stream, uid: u32, seats: &Seats) {
        debug!(uid, "connection refused: this uid has its share of them");
        let Some(place) = seats.at_the_door() else { return };
        self.connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let problem = Problem::too_many_connections(uid);
                let response = answer::problem(Shape::of(Route::at(request.uri().path())), &problem);
                async move { Ok::<_, Infallible>(response) }
            });
            // Whether it was heard is not our concern.
            _ = tokio::time::timeout(
                AT_THE_DOOR,
                http(AT_THE_DOOR).serve_connection(TokioIo::new(stream), service),
            )
            .await;
            drop(place);
        });
    }

    /// A request takes at most the time-out for its head, again for a form, `caller_wait` for its token, and the
    /// time-out once more until its answer is read.
    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin, session: Session) {
        let header_timeout = self.settings().header_timeout;
        let reader = Reader::new(Arc::clone(&session.lengths));
        let stream = Guarded::new(stream, header_timeout, reader);
        let stream = TokioIo::new(stream);
        let service = service_fn(|request| self.answer(&session, request));
        let connection = http(header_timeout).serve_connection(stream, service);
        tokio::pin!(connection);
        let end = tokio::select! {
            biased;
            end = connection.as_mut() => end,
            () = self.stopping.cancelled() => {
                if let Ok(end) = tokio::time::timeout(LAST_CALL, connection.as_mut()).await {
                    end
                } else {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        if let Err(error) = end {
            debug!(uid = session.caller.uid, %error, "connection ended early");
        }
    }

    /// Whether [`Server::stop`] was called; `stopping` would say so too, but under a lock.
    fn is_stopping(&self) -> bool {
        self.connections.is_closed()
    }
}

/// HTTP as it is spoken here. Without its timer hyper would leave the time-out off.
fn http(header_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD);
    builder
}

/// Who is at the other end, as the kernel has it.
fn caller_of(stream: &Stream, gate: &Gate) -> io::Result<Caller> {
    match stream {
        Either::Left(unix) => Ok(Caller::of_unix(unix)?),
        Either::Right(tcp) => {
            // An answer goes out whole, so there is nothing to wait for to fill a packet with.
            tcp.set_nodelay(true)?;
            match Caller::of_loopback(tcp.peer_addr()?, tcp.local_addr()?) {
                // What is told there is told to anybody: the uid is only wanted for its share of the connections.
                Err(_) if matches!(gate, Gate::Monitor) => Ok(Caller::described(NOBODY, Vec::new(), None)),
                caller => caller.map_err(io::Error::other),
            }
        }
    }
}

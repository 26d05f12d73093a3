//! The accept loop, which knows its errors.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use nix::errno::Errno;
use tokio::time::MissedTickBehavior;
use tokio_util::either::Either;
use tracing::{debug, error};

use super::admission::ListenerKind;
use super::connection;
use super::seats::Seats;
use super::shared::Server;
use crate::heartbeat::{self, Heartbeat};
use crate::listen::{Acceptor, Listener, Stream};

/// Callers that are accepted before others have their turn: those in a crowd cost fewer looks at timers each, and
/// those who were served before them are let go meanwhile.
const BATCH: usize = 32;
/// After running out of descriptors or memory, accept pauses for this long.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

/// Accepts callers at one listener until [`Server::stop`].
///
/// # Errors
/// The listener is broken; the process is of no use any more.
pub async fn accept(server: Arc<Server>, mut listener: Listener, kind: ListenerKind) -> io::Result<()> {
    let seats = server.seats_at(&kind);
    let kind = Arc::new(kind);
    let heartbeat = Arc::new(Heartbeat::default());
    server.heartbeats.lock().push(Arc::clone(&heartbeat));
    let mut beat = tokio::time::interval(heartbeat::PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped = pin!(server.stopping.cancelled());
    'batch: loop {
        tokio::select! {
            biased;
            () = stopped.as_mut() => break,
            _ = beat.tick() => {
                heartbeat.strike();
                server.audit.tick(server.engine.now().boot);
                continue;
            }
            stream = next(listener.acceptor(), seats) => connection::open(&server, stream?, &kind),
        }
        for _ in 1..BATCH {
            let Some(stream) = next(listener.acceptor(), seats).now_or_never() else {
                continue 'batch;
            };
            connection::open(&server, stream?, &kind);
        }
        tokio::task::yield_now().await;
    }
    // systemd keeps its socket, and the callers in its queue, for the next process. The queue of a socket that the daemon
    // bound itself ends with the process, so the callers in it are served now.
    if !listener.is_from_systemd() {
        while let Some(Ok(stream)) = one(listener.acceptor()).now_or_never() {
            connection::open(&server, stream, &kind);
        }
    }
    Ok(())
}

/// The next connection, whatever went wrong with the ones before it.
async fn next(acceptor: &mut Acceptor, seats: &Seats) -> io::Result<Stream> {
    loop {
        seats.free().await;
        match one(acceptor).await {
            Ok(stream) => {
                seats.note_shortage(false);
                return Ok(stream);
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPERM | Errno::EPROTO) => {
                    debug!(%error, "a caller hung up before its connection was accepted");
                }
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    if seats.note_shortage(true) {
                        error!(%error, "no connection can be accepted until others close: raise LimitNOFILE or lower limits.max_connections");
                    }
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                _ => return Err(error),
            },
        }
    }
}

/// The next connection that the kernel has.
async fn one(acceptor: &mut Acceptor) -> io::Result<Stream> {
    Ok(match acceptor {
        Either::Left(unix) => Either::Left(unix.accept().await?),
        Either::Right(tcp) => Either::Right(tcp.accept().await?.0),
    })
}

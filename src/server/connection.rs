//! One connection: whose it is, whether there is a seat for it, and HTTP over it until it ends.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::either::Either;
use tracing::debug;

use super::admission::ListenerKind;
use super::guest::Guest;
use super::handle::handle;
use super::last_request::LastRequest;
use super::problem::Problem;
use super::protocol::Protocol;
use super::request::Route;
use super::response;
use super::session::Session;
use super::shared::Server;
use super::write_timeout::WriteTimeout;
use crate::access::{Caller, Machine, NOBODY, Socket};
use crate::listen::{self, Stream};
use crate::observe::labels::Rejection;

/// A request line with every parameter at its longest, all of it percent-encoded, and the usual headers. hyper's own bound
/// is 400 KB for each connection.
pub const MAX_HEAD: usize = 16 * 1024;
/// A connection that is refused has this long to send its request and to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// When the daemon stops, or another needs its seat, a connection has this long to bring a request that its caller has sent
/// already.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_millis(250);

/// Serves a connection in a task of its own, if the kernel says whose it is and its uid has a seat left.
pub fn open(server: &Arc<Server>, stream: Stream, listener: &Arc<ListenerKind>) {
    if let Either::Right(tcp) = &stream
        && server.unread.is_short()
        && let Err(error) = tcp.set_zero_linger()
    {
        return debug!(%error, "connection refused: memory is short, and what it leaves unread would stay");
    }
    let caller = match caller_of(&stream, listener, &server.machine) {
        Ok(caller) => caller,
        Err(error) => {
            server.metrics.rejected.inc(Rejection::UnknownCaller);
            return debug!(%error, "connection refused: the kernel does not say whose it is");
        }
    };
    let uid = caller.uid;
    let guest = Arc::new(Guest::new(caller, server.next_request()));
    let seat = server.seats_at(listener).take_free(&guest);
    let session = Session {
        guest,
        listener: Arc::clone(listener),
        last_request: LastRequest::default(),
        answered: AtomicBool::new(false),
    };
    let shared = Arc::clone(server);
    server.connections.spawn(async move {
        let seat = if let Some(seat) = seat {
            Ok(seat)
        } else {
            // Its caller may have hung up another one before, which has had no turn since.
            tokio::task::yield_now().await;
            let settings = shared.settings();
            let seats = shared.seats_at(&session.listener);
            seats.take(&session.guest, |caller| settings.rules.keep_a_seat_for(caller))
        };
        let seat = match seat {
            Ok(seat) => seat,
            // Boxed, since its room would count for every connection.
            Err(reason) => return Box::pin(turn_away(&shared, stream, reason, &session)).await,
        };
        let unix = match &stream {
            Either::Left(socket) => Some(socket.clone()),
            Either::Right(_) => None,
        };
        let serving = pin!(serve(&shared, stream, session));
        if let Some(socket) = unix {
            let driven = socket.drive(serving).await;
            driven.unwrap_or_else(|error| cannot_wait(uid, &error));
            if shared.unread.must_be_read() {
                Box::pin(keep_until_read(&shared, &socket, seat.guest())).await;
            }
        } else {
            serving.await;
            shared.unread.must_be_read();
        }
        drop(seat);
    });
}

/// Keeps the seat of a connection that is over until its caller has read what was sent, or another needs the seat.
async fn keep_until_read(server: &Server, socket: &Socket, guest: &Guest) {
    tokio::select! {
        read = socket.until_read() => read.unwrap_or_else(|error| cannot_wait(guest.caller.uid, &error)),
        () = guest.room_is_wanted() => {}
        () = server.stopping.cancelled() => {}
    }
}

fn cannot_wait(uid: u32, error: &io::Error) {
    debug!(uid, %error, "connection closed: its request is not there yet, and the kernel lets nobody wait for it");
}

/// Answers the first request with a 429 and closes. A connection closed before its request was read would look broken to
/// the caller.
async fn turn_away(server: &Server, stream: Stream, reason: Rejection, session: &Session) {
    let uid = session.guest.caller.uid;
    server.metrics.rejected.inc(reason);
    debug!(
        uid,
        reason = reason.name(),
        "connection refused: there is no seat for it"
    );
    // Of who has all its seats it is not known whether it would read.
    if server.unread.is_short() {
        return;
    }
    let Some(_place) = server.seats_at(&session.listener).refusal_place() else {
        return;
    };
    if let Either::Left(socket) = &stream
        && let Err(error) = socket.register()
    {
        return cannot_wait(uid, &error);
    }
    let service = service_fn(|request: Request<Incoming>| {
        let problem = match reason {
            Rejection::Full => Problem::all_connections_taken(uid),
            Rejection::PerUid | Rejection::UnknownCaller => Problem::too_many_connections(uid),
        };
        let response = response::problem(Protocol::of(Route::at(request.uri().path())), &problem);
        async move { Ok::<_, Infallible>(response) }
    });
    let answered = http(REFUSAL_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    // A caller that hangs up first needs no answer.
    _ = tokio::time::timeout(REFUSAL_TIMEOUT, answered).await;
}

/// Answers requests until the connection or the daemon ends. A request takes at most the time-out for its head, again
/// for a form, `caller_wait` for its token, and the time-out once more until its answer is read.
pub(super) async fn serve(server: &Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin, session: Session) {
    let header_timeout = server.settings.read().header_timeout;
    let stream = TokioIo::new(WriteTimeout::new(stream, header_timeout));
    let service = service_fn(|request| handle(server, &session, request));
    let mut connection = pin!(http(header_timeout).serve_connection(stream, service));
    let end = tokio::select! {
        biased;
        end = poll_fn(|cx| {
            session.begin_turn();
            connection.as_mut().poll(cx)
        }) => end,
        () = session.guest.is_ended() => {
            let goes_on = server.stopping.is_cancelled();
            if !goes_on && !session.guest.makes_room() {
                return debug!(uid = session.guest.caller.uid, "connection cut off: it did not read a document that must make room for newer ones");
            }
            let is_over = async {
                tokio::select! {
                    () = tokio::time::sleep(LAST_REQUEST_TIMEOUT) => {}
                    () = session.guest.is_cut_off() => {}
                }
            };
            tokio::select! {
                biased;
                end = connection.as_mut() => end,
                () = is_over => {
                    if !goes_on {
                        return debug!(uid = session.guest.caller.uid, "connection closed: it made room for another user's");
                    }
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = end {
        debug!(uid = session.guest.caller.uid, %error, "connection ended early");
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
fn caller_of(stream: &Stream, listener: &ListenerKind, machine: &Arc<Machine>) -> io::Result<Caller> {
    match stream {
        Either::Left(unix) => Ok(Caller::of_unix(unix, machine)?),
        Either::Right(tcp) => {
            // An answer goes out whole, so there is nothing to wait for to fill a packet with.
            tcp.set_nodelay(true)?;
            let dialled = match listener {
                ListenerKind::Lock => listen::dialled(tcp)?,
                _ => tcp.local_addr()?,
            };
            match Caller::of_tcp(tcp.peer_addr()?, dialled, machine) {
                // The monitor listener answers everybody; the uid only counts its connections.
                Err(_) if matches!(listener, ListenerKind::Monitor) => Ok(Caller::described(NOBODY, Vec::new(), None)),
                caller => caller.map_err(io::Error::other),
            }
        }
    }
}

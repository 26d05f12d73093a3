//! What comes in at the lock's listener and is no token request: passed on to the metadata service, both bodies as they
//! come. The request is built anew from a checked method, path and query and the headers that are known to mean something
//! there, so that nothing can be smuggled past the rules in it. While the lock observes there is nothing to smuggle past: what
//! it would refuse is passed on, too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep, timeout};

use super::admission::is_for_the_service;
use super::problem::Problem;
use super::request::Route;
use super::response::{self, ResponseBody};
use super::session::Session;
use super::shared::Server;
use super::slots::TakenSlot;
use crate::config::{LockMode, Pass};
use crate::failure::{Cause, Class, Failure};
use crate::http;
use crate::listen::METADATA_SERVICE;
use crate::observe::labels::PassedThrough;

/// What a slot's connection to the metadata service may have in the kernel, each way.
pub const KERNEL_BUFFER: u32 = 8192;
/// What is read of an answer at once; its head must fit.
pub const READ_BUFFER: usize = 16 * 1024;
/// The daemon asks for this path to find out whether the lock leads its own request to itself. The metadata service has
/// nothing there.
pub const PROBE: &str = "/metadata/msi-lock-probe";

/// From the request to the head of the answer. The first call for scheduled events after a boot may take two minutes
/// (`docs/protocol.md`, "Limits", row "Scheduled events").
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);
/// For the body of an answer. They have some kilobytes; the largest, an attested document, has ten.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Headers of a request that mean something to the metadata service, in order of their names. `origin` is there only while the
/// lock observes.
const KNOWN_HEADERS: [&str; 9] = [
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "metadata",
    "origin",
    "user-agent",
    "x-ms-client-request-id",
    "x-ms-version",
];
/// Headers of an answer that are about the connection to the metadata service alone.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Which identities the VM has, and not a token.
const IDENTITY_INFO: &str = "/metadata/identity/info";

/// Whether a request that the lock refuses goes on to the metadata service all the same, because the lock observes. What the
/// service takes is recorded. Not passed on is what could be taken for more than one request, and what the service itself
/// refuses: what a proxy led here, and a token request without proof.
pub fn is_let_through(
    server: &Server,
    session: &Session,
    route: Option<Route>,
    request: &Request<impl Body>,
    refusal: &Problem,
) -> bool {
    if server.settings.read().lock.mode != LockMode::Observe {
        return false;
    }
    let headers = request.headers();
    let is_taken = is_for_the_service(headers);
    if is_taken && refusal.is_ours() {
        let path = request.uri().path();
        server
            .audit
            .would_break(&session.guest.caller, path, &refusal.description);
    }
    let is_judged = is_taken || route == Some(Route::Metadata) && !headers.contains_key("x-forwarded-for");
    is_judged && !refusal.close
}

/// Gives the metadata service's answer, as it comes.
pub async fn pass(
    server: &Server,
    session: &Session,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let counted = |outcome| server.metrics.passed_through.inc(outcome);
    let settings = server.settings();
    let Some(slot) = server.slots.take(session.guest.caller.counts_as) else {
        counted(PassedThrough::Full);
        return Err(Problem::too_many_passed_through(session.guest.caller.uid));
    };
    let request = rebuilt(request, settings.header_timeout);
    let answer = request_answer(request, settings.connect_timeout).await;
    let answer = answer.map(|answer| relayed(answer, slot));
    counted(if answer.is_ok() {
        PassedThrough::Ok
    } else {
        PassedThrough::Failed
    });
    answer
}

/// Whether the request may be passed on.
pub fn check(request: &Request<impl Body>, pass: Pass) -> Result<(), Problem> {
    let method = request.method();
    check_path(request.uri().path(), pass)?;
    if ![Method::GET, Method::HEAD, Method::POST].contains(method) {
        return Err(Problem::method_not_allowed("GET, HEAD, POST"));
    }
    if method != Method::POST && !request.body().is_end_stream() {
        return Err(Problem::invalid_request("Only a POST request has a body here.").closing());
    }
    let query = request.uri().query().unwrap_or_default();
    if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::invalid_request("The query must be printable ASCII."));
    }
    Ok(())
}

/// Only what can be read in one way, and nothing that a token could be had from: what is not passed on is a 403 below
/// `/metadata/`, which no SDK repeats (`docs/protocol.md`, "What SDKs do", row "Key-bound tokens").
fn check_path(path: &str, pass: Pass) -> Result<(), Problem> {
    let lower = path.to_ascii_lowercase();
    if lower.contains("identity") || lower.contains("token") {
        if path != IDENTITY_INFO {
            return Err(Problem::not_passed_on(
                "msi-tokend passes no request on that a token could be had from: tokens are served at \
                 /metadata/identity/oauth2/token.",
            ));
        }
    } else if let Some(rest) = lower.strip_prefix("/metadata/") {
        if !is_plain(rest) {
            return Err(Problem::not_passed_on(
                "msi-tokend passes on paths of letters, digits, dots, underscores and hyphens.",
            ));
        }
    } else {
        return Err(Route::none_at(path));
    }
    if pass == Pass::None {
        return Err(Problem::not_passed_on(
            "On this VM nothing but tokens is to be had from the metadata service (lock.pass is \"none\").",
        ));
    }
    Ok(())
}

/// Segments that mean themselves, with or without a slash at the end.
fn is_plain(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').all(|segment| {
        !segment.is_empty()
            && segment != "."
            && !segment.contains("..")
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })
}

type Passed = Either<Empty<Bytes>, Timed<Incoming>>;

/// The request as the metadata service gets it.
fn rebuilt(request: Request<Incoming>, body_timeout: Duration) -> Request<Passed> {
    let (head, body) = request.into_parts();
    let body = if body.is_end_stream() && head.method != Method::POST {
        Either::Left(Empty::new())
    } else {
        Either::Right(Timed::new(body, body_timeout, None))
    };
    let mut rebuilt = Request::new(body);
    *rebuilt.method_mut() = head.method;
    // Of a URI that came as a path only path and query are sent.
    *rebuilt.uri_mut() = head.uri;
    let headers = rebuilt.headers_mut();
    // Checked, but while the lock observes.
    if let Some(host) = head.headers.get(HOST) {
        headers.insert(HOST, host.clone());
    }
    let named = named_by_connection(&head.headers);
    for (name, value) in &head.headers {
        if KNOWN_HEADERS.contains(&name.as_str()) && !named.contains(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    rebuilt
}

/// The headers that are about one connection only, as `Connection` says (RFC 9110 7.6.1).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

type Answer = Response<http::Coming<TcpStream, Passed>>;

async fn request_answer(request: Request<Passed>, connect_timeout: Duration) -> Result<Answer, Problem> {
    let failed =
        |status, cause, text: String| Err(Problem::not_relayed(status, &Failure::new(Class::Faulty, cause, text)));
    let stream = match timeout(connect_timeout, connect()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return failed(
                StatusCode::SERVICE_UNAVAILABLE,
                Cause::Connect,
                format!("no connection: {error}"),
            );
        }
        Err(_) => {
            return failed(
                StatusCode::GATEWAY_TIMEOUT,
                Cause::Timeout,
                "no connection in time".to_owned(),
            );
        }
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BUFFER);
    match timeout(ANSWER_TIMEOUT, http::begin(builder, stream, request)).await {
        // Nobody here asked for another protocol.
        Ok(Ok(answer)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => failed(
            StatusCode::BAD_GATEWAY,
            Cause::Status,
            "it wants to change the protocol".to_owned(),
        ),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => failed(
            StatusCode::BAD_GATEWAY,
            Cause::Reset,
            format!("the connection broke before the answer was whole: {error}"),
        ),
        Err(_) => failed(
            StatusCode::GATEWAY_TIMEOUT,
            Cause::Timeout,
            "no answer in time".to_owned(),
        ),
    }
}

/// The kernel would hold megabytes for a connection that is read slowly.
async fn connect() -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.connect(METADATA_SERVICE.into()).await
}

/// The answer as the caller gets it: the metadata service's own, but for what is about the connection to that.
fn relayed(answer: Answer, slot: TakenSlot) -> Response<ResponseBody> {
    let (head, body) = answer.into_parts();
    let body = Timed::new(body, BODY_TIMEOUT, Some(slot));
    let mut relayed = response::passed_through(head.status, body.boxed_unsync());
    let named = named_by_connection(&head.headers);
    for (name, value) in &head.headers {
        if !OF_THE_CONNECTION.contains(name) && !named.contains(name) {
            relayed.headers_mut().append(name, value.clone());
        }
    }
    relayed
}

/// A body that must be over within a time.
struct Timed<B> {
    body: B,
    end: Pin<Box<Sleep>>,
    /// Free when the body is gone.
    _slot: Option<TakenSlot>,
}

impl<B> Timed<B> {
    fn new(body: B, time: Duration, slot: Option<TakenSlot>) -> Self {
        Self {
            body,
            end: Box::pin(sleep(time)),
            _slot: slot,
        }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Timed<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.end.as_mut().poll(cx).is_ready() {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the body did not end in time");
            return Poll::Ready(Some(Err(late)));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

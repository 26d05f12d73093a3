//! Callers on the Unix socket: a connection, who it is, what it asks, what it gets.

mod accept;
mod admin;
mod answer;
mod bind;
mod problem;
mod route;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use self::accept::{Bounds, Seats};
use self::answer::Reply;
pub use self::bind::{BindError, Bound, bind};
use self::problem::Problem;
use self::route::{Route, Shape, TokenRequest};
use crate::access::{Caller, Rules};
use crate::beat::{self, Beat};
use crate::broker::Ask;
use crate::engine::Engine;

/// A form names a resource and an identity; it needs no more.
const MAX_FORM: usize = 4096;
/// On the way out a connection gets this long to bring a request that was already on its way.
const LAST_CALL: Duration = Duration::from_millis(250);

/// What every connection shares.
pub struct Server {
    engine: Arc<Engine>,
    rules: RwLock<Arc<Rules>>,
    seats: Arc<Seats>,
    header_timeout: RwLock<Duration>,
    /// Of the accept loop's rounds.
    beat: Beat,
    stopping: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves nobody before [`Server::run`].
    pub fn new(engine: Arc<Engine>, rules: Rules, bounds: Bounds, header_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            beat: Beat::new(engine.now()),
            engine,
            rules: RwLock::new(Arc::new(rules)),
            seats: Seats::new(bounds),
            header_timeout: RwLock::new(header_timeout),
            stopping: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    /// Takes over new rules and limits: the former from each connection's next request on, the latter for new ones.
    pub fn reconfigure(&self, rules: Rules, bounds: Bounds, header_timeout: Duration) {
        *self.rules.write() = Arc::new(rules);
        self.seats.set_bounds(bounds);
        *self.header_timeout.write() = header_timeout;
    }

    /// Accepts callers until [`Server::stop`].
    ///
    /// # Errors
    /// The listener is broken; the process is of no use any more.
    pub async fn run(self: Arc<Self>, bound: Bound) -> io::Result<()> {
        loop {
            self.beat.strike(self.engine.now());
            tokio::select! {
                () = self.stopping.cancelled() => break,
                stream = accept::next(&bound.listener, &self.seats) => self.welcome(stream?),
                () = tokio::time::sleep(beat::PERIOD) => {}
            }
        }
        // systemd keeps the callers in its socket's queue for the next process; those in ours have only us.
        if !bound.is_passed() {
            while let Some(Ok((stream, _))) = bound.listener.accept().now_or_never() {
                self.welcome(stream);
            }
        }
        Ok(())
    }

    /// Whether the daemon's own loops come round.
    pub fn is_live(&self) -> bool {
        self.beat.is_recent(self.engine.now()) && self.engine.beats()
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

    fn welcome(self: &Arc<Self>, stream: UnixStream) {
        let caller = match Caller::of_unix(&stream) {
            Ok(caller) => caller,
            Err(error) => return debug!(%error, "connection refused: the kernel does not say whose it is"),
        };
        let Some(seat) = self.seats.take(caller.uid) else {
            return debug!(uid = caller.uid, "connection refused: this uid has its share of them");
        };
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            server.serve(stream, caller).await;
            drop(seat);
        });
    }

    async fn serve(self: Arc<Self>, stream: UnixStream, caller: Caller) {
        let header_timeout = *self.header_timeout.read();
        let service = service_fn(|request| {
            let (server, caller) = (&self, &caller);
            async move { Ok::<_, Infallible>(server.answer(caller, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let end = tokio::select! {
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
            debug!(uid = caller.uid, %error, "connection ended early");
        }
    }

    async fn answer(self: &Arc<Self>, caller: &Caller, request: Request<Incoming>) -> Response<Reply> {
        let route = Route::at(request.uri().path());
        let shape = match route {
            Some(Route::Token(shape)) => shape,
            _ => Shape::Imds,
        };
        let result = match well_formed(&request).and_then(|()| route.ok_or_else(Problem::no_such_route)) {
            Err(problem) => Err(problem),
            Ok(Route::Token(shape)) => self.token(shape, caller, request).await,
            Ok(route) if request.method() == Method::GET => Ok(match route {
                Route::Live => admin::live(self.is_live()),
                Route::Ready => admin::ready(&self.engine),
                Route::Status | Route::Token(_) => admin::status(&self.engine, caller, &self.rules.read().clone()),
            }),
            Ok(_) => Err(Problem::method_not_allowed("GET")),
        };
        let mut response = result.unwrap_or_else(|problem| answer::problem(shape, &problem));
        if self.stopping.is_cancelled() {
            answer::close(&mut response);
        }
        response
    }

    async fn token(
        self: &Arc<Self>,
        shape: Shape,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Response<Reply>, Problem> {
        let is_post = request.method() == Method::POST;
        match shape {
            _ if request.method() == Method::GET => {}
            Shape::VmExtension if is_post => {}
            Shape::VmExtension => return Err(Problem::method_not_allowed("GET, POST")),
            Shape::Imds | Shape::AppService => return Err(Problem::method_not_allowed("GET")),
        }
        check_secret(shape, request.headers())?;
        let patience = *self.header_timeout.read();
        let (head, body) = request.into_parts();
        let form = if is_post {
            Some(read_form(&head.headers, body, patience).await?)
        } else {
            None
        };
        let asked = TokenRequest::parse(shape, head.uri.query(), form.as_deref())?;
        let rules = Arc::clone(&self.rules.read());
        if rules.judge(caller, &asked.key).is_none() {
            return Err(Problem::forbidden(caller.uid, &asked.key));
        }
        let ask = Ask {
            key: &asked.key,
            uid: caller.uid,
            renewal: asked.renewal,
        };
        match self.engine.token(ask).await {
            Ok(served) => Ok(answer::token(shape, &served)),
            Err(unserved) => Err(Problem::unserved(&asked.key, &unserved)),
        }
    }
}

/// What no honest client of a local socket sends, before anything else is looked at.
fn well_formed(request: &Request<Incoming>) -> Result<(), Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    if uri.scheme().is_some() || uri.authority().is_some() {
        return Err(Problem::invalid_request("The request target must be a path, not a whole URL.").closing());
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Problem::invalid_request("More than one Host header.").closing());
    }
    if headers.contains_key("x-forwarded-for") {
        return Err(Problem::invalid_request(
            "X-Forwarded-For: requests must not come through a proxy.",
        ));
    }
    if request.method() == Method::GET && !request.body().is_end_stream() {
        return Err(Problem::invalid_request("A GET request has no body here.").closing());
    }
    Ok(())
}

/// The header that a browser or a forwarded request would lack.
fn check_secret(shape: Shape, headers: &HeaderMap) -> Result<(), Problem> {
    match shape {
        // On the Unix socket the kernel says who calls, so any value serves.
        Shape::AppService if headers.contains_key("x-identity-header") => Ok(()),
        Shape::AppService => Err(Problem::missing_header("X-IDENTITY-HEADER")),
        Shape::Imds | Shape::VmExtension => {
            let mut values = headers.get_all("metadata").iter();
            let good = values
                .next()
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
            if good && values.next().is_none() {
                Ok(())
            } else {
                Err(Problem::missing_header("Metadata: true"))
            }
        }
    }
}

/// The whole form, also when it comes in chunks.
async fn read_form(headers: &HeaderMap, body: Incoming, patience: Duration) -> Result<String, Problem> {
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(Ok(""), |kind| kind.to_str())
        .unwrap_or("?");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.is_empty() && !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let text = "The body of a POST must be a form: Content-Type: application/x-www-form-urlencoded.";
        return Err(Problem::invalid_request(text).closing());
    }
    let whole = tokio::time::timeout(patience, Limited::new(body, MAX_FORM).collect());
    let bytes = whole
        .await
        .map_err(|_| Problem::invalid_request("The rest of the form has not come in time.").closing())?
        .map_err(|_| {
            Problem::invalid_request(format!("The form is broken or longer than {MAX_FORM} bytes.")).closing()
        })?
        .to_bytes();
    String::from_utf8(bytes.into()).map_err(|_| Problem::invalid_request("The form is not UTF-8."))
}

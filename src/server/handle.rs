//! One request, from its bytes to its answer: admitted, understood, judged by the rules, put to the engine, answered.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;

use super::admin;
use super::admission::{ListenerKind, admit};
use super::documents::{Moment, Subject};
use super::form::read_form;
use super::last_request::Allowed;
use super::passthrough;
use super::problem::Problem;
use super::protocol::Protocol;
use super::request::{Route, TokenRequest};
use super::request_metrics::RequestMetrics;
use super::response::{self, ResponseBody};
use super::session::Session;
use super::shared::{Server, Settings};
use crate::access::Caller;
use crate::broker::{Answer, Ask};
use crate::config::LockMode;
use crate::engine::Asked;
use crate::observe::labels::{Denial, Outcome, PassedThrough};

/// An answer that is there at once, or comes later.
pub type Handling<'s> = Either<Ready<Handled>, Pin<Box<dyn Future<Output = Handled> + Send + 's>>>;
type Handled = Result<Response<ResponseBody>, Infallible>;

/// How a request ended.
type Ended = Result<(Response<ResponseBody>, Outcome), Problem>;

/// How far a request gets at once.
enum Progress<'s> {
    Ended(Ended),
    Waits(Later<'s>),
}

/// How a request ends later, and how long it waited for its token by then.
type Later<'s> = Pin<Box<dyn Future<Output = (Ended, Duration)> + Send + 's>>;

/// From one request to its answer. hyper answers many requests that came together before it lets another connection have
/// its turn; here each waits for a turn of its own.
pub fn handle<'s>(server: &'s Server, session: &'s Session, request: Request<Incoming>) -> Handling<'s> {
    session.guest.use_at(server.next_request());
    if session.takes_answer() {
        return answer(server, session, request);
    }
    Either::Right(Box::pin(async move {
        tokio::task::yield_now().await;
        session.takes_answer();
        answer(server, session, request).await
    }))
}

/// What need not wait is done before this returns: while anything of a request lives, hyper cannot use its buffer again and
/// makes another, which costs 4 % of a hit.
fn answer<'s>(server: &'s Server, session: &'s Session, request: Request<Incoming>) -> Handling<'s> {
    let route = session.listener.route(request.uri().path());
    let protocol = Protocol::of(route);
    let mut metrics = RequestMetrics::start(&server.metrics, route);
    let progress = begin(server, session, route, request);
    match progress.unwrap_or_else(|problem| Progress::Ended(Err(problem))) {
        Progress::Ended(ended) => {
            note_for_lock(server, session, &ended);
            Either::Left(ready(Ok(finish(server, session, protocol, ended, metrics))))
        }
        Progress::Waits(rest) => Either::Right(Box::pin(async move {
            let (ended, waited) = rest.await;
            metrics.waited(waited);
            note_for_lock(server, session, &ended);
            Ok(finish(server, session, protocol, ended, metrics))
        })),
    }
}

/// What the administrator is told of the lock's callers.
fn note_for_lock(server: &Server, session: &Session, ended: &Ended) {
    if !matches!(*session.listener, ListenerKind::Lock) {
        return;
    }
    let uid = session.guest.caller.uid;
    match ended {
        Ok((_, Outcome::Hit | Outcome::Miss)) => server.evidence.count(uid, |tally| &mut tally.tokens),
        Ok(_) => server.evidence.count(uid, |tally| &mut tally.passed_on),
        Err(problem) if problem.status == StatusCode::FORBIDDEN => {
            server.evidence.count(uid, |tally| &mut tally.refused);
        }
        Err(_) => {}
    }
}

fn begin<'s>(
    server: &'s Server,
    session: &'s Session,
    route: Option<Route>,
    request: Request<Incoming>,
) -> Result<Progress<'s>, Problem> {
    if let ListenerKind::Lock = *session.listener {
        return begin_on_lock(server, session, route, request);
    }
    match admit(&session.listener, route, &request)? {
        Route::Token(protocol) if request.method() == Method::POST => Ok(Progress::Waits(Box::pin(post_token(
            server, session, protocol, request,
        )))),
        Route::Token(protocol) => get_token(server, session, protocol, &request),
        Route::Reload => Ok(Progress::Waits(Box::pin(async {
            (reload(server, &session.guest.caller).await, Duration::ZERO)
        }))),
        Route::Live => Ok(Progress::Ended(Ok(counted(admin::live(server.is_live()))))),
        document => Ok(Progress::Waits(Box::pin(async move {
            let _turn = server.documents.turn().await;
            let ended = Ok(counted(self::document(server, document, session).await));
            (ended, Duration::ZERO)
        }))),
    }
}

/// Tokens come from the cache, and everything else from the metadata service.
fn begin_on_lock<'s>(
    server: &'s Server,
    session: &'s Session,
    route: Option<Route>,
    request: Request<Incoming>,
) -> Result<Progress<'s>, Problem> {
    check_loop(server, session, &request)?;
    let begun = admit(&session.listener, route, &request).and_then(|route| match route {
        // Its one method here is GET.
        Route::Token(protocol) => get_token(server, session, protocol, &request).map(Some),
        _ => passthrough::check(&request, server.settings.read().lock.pass).map(|()| None),
    });
    match begun {
        Ok(Some(begun)) => return Ok(begun),
        Ok(None) => {}
        Err(refusal) if passthrough::is_let_through(server, session, route, &request, &refusal) => {}
        Err(refusal) => {
            if route == Some(Route::Metadata) {
                server.metrics.passed_through.inc(PassedThrough::Refused);
            }
            return Err(refusal);
        }
    }
    Ok(Progress::Waits(Box::pin(async {
        let passed = passthrough::pass(server, session, request).await;
        (passed.map(|response| (response, Outcome::Ok)), Duration::ZERO)
    })))
}

/// The daemon's own requests are not led here, but for the one that finds out whether the lock is there.
fn check_loop(server: &Server, session: &Session, request: &Request<Incoming>) -> Result<(), Problem> {
    if session.guest.caller.uid != server.own_uid {
        Ok(())
    } else if request.uri().path() == passthrough::PROBE {
        Err(Problem::loop_detected())
    } else {
        let text = "The daemon's own user is not served here: its requests go to the metadata service itself.";
        Err(Problem::untrusted(Denial::Loop, text))
    }
}

fn finish(
    server: &Server,
    session: &Session,
    protocol: Protocol,
    ended: Ended,
    mut metrics: RequestMetrics<'_>,
) -> Response<ResponseBody> {
    let mut response = match ended {
        Ok((response, outcome)) => {
            metrics.end(outcome);
            response
        }
        Err(problem) => {
            metrics.fail(&problem);
            response::problem(protocol, &problem)
        }
    };
    if server.is_stopping() || session.guest.makes_room() {
        response::close(&mut response);
    }
    response
}

/// A client that keeps its connection mostly asks what it asked before, which is understood and judged already.
fn get_token<'s>(
    server: &'s Server,
    session: &'s Session,
    protocol: Protocol,
    request: &Request<Incoming>,
) -> Result<Progress<'s>, Problem> {
    let uri = request.uri();
    let known = session.last_request.find(protocol, uri, &server.settings.read());
    let allowed = if let Some(allowed) = known {
        allowed
    } else {
        let asked = TokenRequest::parse(protocol, uri.query(), None)?;
        let allowed = authorize(server, session, asked)?;
        session.last_request.keep(protocol, uri, &allowed);
        allowed
    };
    Ok(ask(server, session, protocol, allowed))
}

async fn post_token(
    server: &Server,
    session: &Session,
    protocol: Protocol,
    mut request: Request<Incoming>,
) -> (Ended, Duration) {
    let patience = server.settings().header_timeout;
    let allowed = async {
        let form = read_form(&mut request, patience).await?;
        let asked = TokenRequest::parse(protocol, request.uri().query(), Some(&form))?;
        authorize(server, session, asked)
    };
    match allowed.await {
        Err(problem) => (Err(problem), Duration::ZERO),
        Ok(allowed) => match ask(server, session, protocol, allowed) {
            Progress::Ended(ended) => (ended, Duration::ZERO),
            Progress::Waits(rest) => rest.await,
        },
    }
}

/// Before anything is looked up. From here on a request that named no identity names the one that a rule gives it.
fn authorize(server: &Server, session: &Session, mut asked: TokenRequest) -> Result<Arc<Allowed>, Problem> {
    let by = server.settings();
    if let Some((identity, _)) = by.rules.default_for(&session.guest.caller, &asked.key) {
        asked.key.identity = identity.clone();
    }
    judge(server, session, asked, by)
}

/// By the rules in force at this moment. The lock denies nobody anything while it observes.
fn judge(server: &Server, session: &Session, asked: TokenRequest, by: Arc<Settings>) -> Result<Arc<Allowed>, Problem> {
    let caller = &session.guest.caller;
    let observed = matches!(*session.listener, ListenerKind::Lock) && by.lock.mode == LockMode::Observe;
    let grant = by.rules.judge(caller, &asked.key);
    if grant.is_none() && !observed {
        server.audit.denied(caller, &asked.key);
        let unknown = by.units_unknown.as_ref().filter(|_| {
            matches!(*session.listener, ListenerKind::Unix) && by.rules.might_allow_by_unit(caller, &asked.key)
        });
        return Err(match unknown {
            Some(unknown) => Problem::unit_unknown(caller, &asked.key, unknown, server.sdk),
            None => Problem::forbidden(caller, &asked.key),
        });
    }
    Ok(Arc::new(Allowed { asked, grant, by }))
}

/// What counts are the rules at the moment of the answer, and a reload may have come while the caller waited for it. It does
/// not change which identity the caller waits for.
fn authorize_again(server: &Server, session: &Session, allowed: Arc<Allowed>) -> Result<Arc<Allowed>, Problem> {
    let by = server.settings();
    if Arc::ptr_eq(&allowed.by, &by) {
        Ok(allowed)
    } else {
        judge(server, session, allowed.asked.clone(), by)
    }
}

fn ask<'s>(server: &'s Server, session: &'s Session, protocol: Protocol, allowed: Arc<Allowed>) -> Progress<'s> {
    let guest = &session.guest;
    let caller = &guest.caller;
    let ask = Ask {
        key: &allowed.asked.key,
        uid: caller.counts_as,
        renewal: allowed.asked.renewal,
    };
    match server.engine.ask(ask) {
        Asked::Answered(answer) => {
            let response = respond(server, caller, protocol, &allowed, answer);
            Progress::Ended(response.map(|response| (response, Outcome::Hit)))
        }
        Asked::Waits(waiting) => Progress::Waits(Box::pin(async move {
            guest.set_waits(true);
            let waited = tokio::select! {
                biased;
                answer = waiting.answer() => Some(answer),
                () = guest.room_is_wanted() => None,
            };
            guest.set_waits(false);
            let Some((answer, waited)) = waited else {
                return (Err(Problem::all_connections_taken(caller.uid)), Duration::ZERO);
            };
            let response = authorize_again(server, session, allowed)
                .and_then(|allowed| respond(server, caller, protocol, &allowed, answer));
            (response.map(|response| (response, Outcome::Miss)), waited)
        })),
    }
}

fn respond(
    server: &Server,
    caller: &Caller,
    protocol: Protocol,
    allowed: &Allowed,
    answer: Answer,
) -> Result<Response<ResponseBody>, Problem> {
    let Allowed { asked, grant, .. } = allowed;
    let answer = answer.map_err(|reason| Problem::unserved(&asked.key, &reason))?;
    if let Some(grant) = grant {
        server.audit.allowed(caller, &asked.key, grant, &answer.token);
    } else {
        server.metrics.would_deny.fetch_add(1, Ordering::Relaxed);
        server.audit.observed(caller, &asked.key, &answer.token);
    }
    Ok(response::token(protocol, &answer, &server.first_pieces))
}

/// What is asked by people and monitoring agents. Whoever administers the daemon sees what he has just done; all others
/// share what was rendered within the second.
async fn document(server: &Server, route: Route, session: &Session) -> Response<ResponseBody> {
    let caller = &session.guest.caller;
    loop {
        let settings = server.settings();
        let subject = match route {
            Route::Ready => Subject::Ready,
            Route::Metrics => Subject::Metrics,
            Route::Status | Route::Live | Route::Reload | Route::Metadata | Route::Token(_) => Subject::Status {
                uid: caller.uid,
                rules: settings.rules.numbers_for(caller),
            },
        };
        let now = Moment {
            boot: server.engine.now().boot,
            changes: server.engine.changes(),
        };
        if !settings.rules.is_administrator(caller.uid)
            && let Some(document) = server.documents.get(&subject, now)
        {
            return response::document(&document, &session.guest);
        }
        let document = match subject {
            Subject::Ready => admin::ready(&server.engine, server.front()).await,
            Subject::Metrics => admin::metrics(&server.metrics, &server.engine, server.seats.taken()).await,
            Subject::Status { .. } => {
                let lock = server.lock_status(&settings, caller);
                admin::status(&server.engine, &settings, server.sdk, caller, lock).await
            }
        };
        // Others had their turn meanwhile, a reload among them, and what counts are the rules at the moment of the answer.
        if Arc::ptr_eq(&settings, &server.settings.read()) {
            let made = Moment {
                boot: server.engine.now().boot,
                ..now
            };
            let document = server.documents.put(subject, made, document);
            return response::document(&document, &session.guest);
        }
    }
}

fn counted(response: Response<ResponseBody>) -> (Response<ResponseBody>, Outcome) {
    let good = response.status().is_success();
    (response, if good { Outcome::Ok } else { Outcome::Unavailable })
}

async fn reload(server: &Server, caller: &Caller) -> Ended {
    if !server.settings.read().rules.is_administrator(caller.uid) {
        return Err(Problem::not_root(caller.uid));
    }
    let (request, done) = oneshot::channel();
    server.reloads.send(request).await.map_err(|_| Problem::stopping())?;
    match done.await {
        Ok(Ok(())) => Ok((admin::reloaded(), Outcome::Ok)),
        Ok(Err(why)) => Err(Problem::configuration_refused(&why)),
        Err(_) => Err(Problem::stopping()),
    }
}

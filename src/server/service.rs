//! One request: which route, whether it may be asked so, what it gets.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::sync::oneshot;

use super::answer::{self, Rendered, Reply};
use super::intake::{read_form, well_framed};
use super::problem::Problem;
use super::recall::{Allowed, Last};
use super::route::{Route, TokenRequest};
use super::shape::Shape;
use super::tally::Tally;
use super::{Server, Session, Settings, admin};
use crate::access::Caller;
use crate::broker::{Answer, Ask};
use crate::engine::Asked;
use crate::observe::labels::Outcome;
use crate::observe::scrape;

/// An answer that is there at once, or comes later.
pub type Answering<'s> = Either<Ready<Answered>, Pin<Box<dyn Future<Output = Answered> + Send + 's>>>;
type Answered = Result<Response<Reply>, Infallible>;

/// How far a request gets at once.
enum Step<'s> {
    Ended(Ended),
    Waits(Later<'s>),
}

/// How a request ends later, and how long it waited for its token by then.
type Later<'s> = Pin<Box<dyn Future<Output = (Ended, Duration)> + Send + 's>>;

/// How a request ended.
type Ended = Result<(Response<Reply>, Outcome), Problem>;

impl Server {
    /// From one request to its answer. What need not wait is done before this returns: while anything of a request
    /// lives, hyper cannot use its buffer again and makes another, which costs 4 % of a hit.
    pub(super) fn answer<'s>(self: &'s Arc<Self>, session: &'s Session, request: Request<Incoming>) -> Answering<'s> {
        let route = session.gate.route(request.uri().path());
        let shape = Shape::of(route);
        let mut tally = Tally::start(self, route);
        match self.begin(session, route, request) {
            Step::Ended(ended) => Either::Left(ready(Ok(self.end(shape, ended, tally)))),
            Step::Waits(rest) => Either::Right(Box::pin(async move {
                let (ended, waited) = rest.await;
                tally.waited(waited);
                Ok(self.end(shape, ended, tally))
            })),
        }
    }

    fn begin<'s>(
        self: &'s Arc<Self>,
        session: &'s Session,
        route: Option<Route>,
        request: Request<Incoming>,
    ) -> Step<'s> {
        let Session {
            caller, gate, lengths, ..
        } = session;
        let admitted = well_framed(&request, lengths)
            .and_then(|()| gate.admit(request.headers()))
            .and_then(|()| route.ok_or_else(Problem::no_such_route));
        let is_get = request.method() == Method::GET;
        match admitted {
            Err(problem) => Step::Ended(Err(problem)),
            Ok(Route::Token(shape)) => self
                .token(shape, session, request)
                .unwrap_or_else(|problem| Step::Ended(Err(problem))),
            Ok(Route::Reload) if request.method() == Method::POST => {
                Step::Waits(Box::pin(async { (self.reload(caller).await, Duration::ZERO) }))
            }
            Ok(Route::Reload) => Step::Ended(Err(Problem::method_not_allowed("POST"))),
            Ok(route) if is_get => Step::Ended(Ok(self.document(route, caller))),
            Ok(_) => Step::Ended(Err(Problem::method_not_allowed("GET"))),
        }
    }

    fn end(&self, shape: Shape, ended: Ended, mut tally: Tally<'_>) -> Response<Reply> {
        let mut response = match ended {
            Ok((response, outcome)) => {
                tally.end(outcome);
                response
            }
            Err(problem) => {
                tally.fail(&problem);
                answer::problem(shape, &problem)
            }
        };
        if self.is_stopping() {
            answer::close(&mut response);
        }
        response
    }

    /// What is asked by people and monitoring agents.
    fn document(&self, route: Route, caller: &Caller) -> (Response<Reply>, Outcome) {
        let response = match route {
            Route::Live => admin::live(self.is_live()),
            Route::Ready => admin::ready(&self.health()),
            Route::Metrics => answer::metrics(scrape::text(&self.metrics, &self.engine, self.seats.taken())),
            Route::Status | Route::Reload | Route::Token(_) => {
                admin::status(&self.engine, caller, &self.settings().rules)
            }
        };
        let good = response.status().is_success();
        (response, if good { Outcome::Ok } else { Outcome::Unavailable })
    }

    fn token<'s>(
        self: &'s Arc<Self>,
        shape: Shape,
        session: &'s Session,
        request: Request<Incoming>,
    ) -> Result<Step<'s>, Problem> {
        let Session {
            caller, gate, recall, ..
        } = session;
        let is_post = request.method() == Method::POST;
        match shape {
            _ if request.method() == Method::GET => {}
            Shape::VmExtension if is_post => {}
            Shape::VmExtension => return Err(Problem::method_not_allowed("GET, POST")),
            Shape::Imds | Shape::AppService => return Err(Problem::method_not_allowed("GET")),
        }
        gate.check_proof(shape, request.headers())?;
        if is_post {
            return Ok(Step::Waits(Box::pin(async move {
                match self.token_by_form(shape, caller, request).await {
                    Ok(Step::Waits(rest)) => rest.await,
                    Ok(Step::Ended(ended)) => (ended, Duration::ZERO),
                    Err(problem) => (Err(problem), Duration::ZERO),
                }
            })));
        }
        let mut last = if let Some(last) = recall.find(shape, request.uri(), &self.settings.read()) {
            last
        } else {
            let settings = self.settings();
            let asked = TokenRequest::parse(shape, request.uri().query(), None)?;
            let allowed = self.judge(caller, asked, &settings)?;
            recall.keep(shape, request.uri(), settings, allowed)
        };
        let Last { allowed, rendered, .. } = &mut *last;
        Ok(self.give(shape, caller, allowed, rendered))
    }

    async fn token_by_form<'s>(
        self: &'s Arc<Self>,
        shape: Shape,
        caller: &'s Caller,
        mut request: Request<Incoming>,
    ) -> Result<Step<'s>, Problem> {
        let settings = self.settings();
        let form = read_form(&mut request, settings.header_timeout).await?;
        let asked = TokenRequest::parse(shape, request.uri().query(), Some(&form))?;
        let allowed = self.judge(caller, asked, &settings)?;
        Ok(self.give(shape, caller, &allowed, &mut Rendered::default()))
    }

    fn give<'s>(
        self: &'s Arc<Self>,
        shape: Shape,
        caller: &'s Caller,
        allowed: &Arc<Allowed>,
        rendered: &mut Rendered,
    ) -> Step<'s> {
        let ask = Ask {
            key: &allowed.asked.key,
            uid: caller.uid,
            renewal: allowed.asked.renewal,
        };
        match self.engine.ask(ask) {
            Asked::Answered(answer) => {
                let given = self.given(shape, caller, allowed, answer, rendered);
                Step::Ended(given.map(|response| (response, Outcome::Hit)))
            }
            Asked::Waits(waiting) => {
                let allowed = Arc::clone(allowed);
                Step::Waits(Box::pin(async move {
                    let (answer, waited) = waiting.answer().await;
                    let given = self.given(shape, caller, &allowed, answer, &mut Rendered::default());
                    (given.map(|response| (response, Outcome::Miss)), waited)
                }))
            }
        }
    }

    fn given(
        &self,
        shape: Shape,
        caller: &Caller,
        allowed: &Allowed,
        answer: Answer,
        rendered: &mut Rendered,
    ) -> Result<Response<Reply>, Problem> {
        let Allowed { asked, grant } = allowed;
        let served = answer.map_err(|unserved| Problem::unserved(&asked.key, &unserved))?;
        self.audit.allowed(caller, &asked.key, grant, &served.token);
        Ok(answer::token(shape, &served, rendered))
    }

    /// Before anything is looked up.
    fn judge(&self, caller: &Caller, asked: TokenRequest, settings: &Settings) -> Result<Arc<Allowed>, Problem> {
        let Some(grant) = settings.rules.judge(caller, &asked.key) else {
            self.audit.denied(caller, &asked.key);
            return Err(Problem::forbidden(caller, &asked.key));
        };
        Ok(Arc::new(Allowed { asked, grant }))
    }

    async fn reload(&self, caller: &Caller) -> Ended {
        if !self.settings.read().rules.is_privileged(caller.uid) {
            return Err(Problem::not_root(caller.uid));
        }
        let (request, done) = oneshot::channel();
        self.reloads.send(request).await.map_err(|_| Problem::stopping())?;
        match done.await {
            Ok(Ok(())) => Ok((admin::reloaded(), Outcome::Ok)),
            Ok(Err(why)) => Err(Problem::configuration_refused(&why)),
            Err(_) => Err(Problem::stopping()),
        }
    }
}

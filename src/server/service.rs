//! One request: which route, whether it may be asked so, what it gets.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::sync::oneshot;

use super::answer::{self, Reply};
use super::intake::{read_form, well_framed};
use super::problem::Problem;
use super::recall::Allowed;
use super::route::{Route, TokenRequest};
use super::shape::Shape;
use super::tally::Tally;
use super::{Server, Session, Settings, admin};
use crate::access::Caller;
use crate::broker::Ask;
use crate::engine::Answered;
use crate::observe::audit::Recorded;
use crate::observe::labels::Outcome;
use crate::observe::scrape;

impl Server {
    /// From one request to its answer.
    pub(super) async fn answer(self: &Arc<Self>, session: &Session, mut request: Request<Incoming>) -> Response<Reply> {
        let Session {
            caller, gate, lengths, ..
        } = session;
        let route = gate.route(request.uri().path());
        let mut tally = Tally::start(self, route);
        let shape = Shape::of(route);
        let admitted = well_framed(&request, lengths)
            .and_then(|()| gate.admit(request.headers()))
            .and_then(|()| route.ok_or_else(Problem::no_such_route));
        let result = match admitted {
            Err(problem) => Err(problem),
            Ok(Route::Token(shape)) => self.token(shape, session, &mut request, &mut tally).await,
            Ok(Route::Reload) => self
                .reload(caller, request.method())
                .await
                .map(|done| (done, Outcome::Ok)),
            Ok(route) if request.method() == Method::GET => Ok(self.document(route, caller)),
            Ok(_) => Err(Problem::method_not_allowed("GET")),
        };
        let mut response = match result {
            Ok((response, outcome)) => {
                tally.end(outcome);
                response
            }
            Err(problem) => {
                tally.fail(&problem);
                answer::problem(shape, &problem)
            }
        };
        if self.stopping.is_cancelled() {
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

    async fn token(
        self: &Arc<Self>,
        shape: Shape,
        session: &Session,
        request: &mut Request<Incoming>,
        tally: &mut Tally<'_>,
    ) -> Result<(Response<Reply>, Outcome), Problem> {
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
        let settings = self.settings();
        let allowed = if is_post {
            let form = read_form(request, settings.header_timeout).await?;
            let asked = TokenRequest::parse(shape, request.uri().query(), Some(&form))?;
            self.judge(caller, asked, &settings)?
        } else if let Some(allowed) = recall.find(shape, request.uri(), &settings) {
            allowed
        } else {
            let asked = TokenRequest::parse(shape, request.uri().query(), None)?;
            let allowed = self.judge(caller, asked, &settings)?;
            recall.keep(shape, request.uri(), settings, Arc::clone(&allowed));
            allowed
        };
        let Allowed { asked, grant, recorded } = &*allowed;
        let ask = Ask {
            key: &asked.key,
            uid: caller.uid,
            renewal: asked.renewal,
        };
        let Answered { answer, waited } = self.engine.token(ask).await;
        tally.waited(waited.unwrap_or_default());
        match answer {
            Ok(served) => {
                self.audit.allowed(caller, &asked.key, grant, &served.token, recorded);
                let outcome = if waited.is_none() { Outcome::Hit } else { Outcome::Miss };
                Ok((answer::token(shape, &served), outcome))
            }
            Err(unserved) => Err(Problem::unserved(&asked.key, &unserved)),
        }
    }

    /// Before anything is looked up.
    fn judge(&self, caller: &Caller, asked: TokenRequest, settings: &Settings) -> Result<Arc<Allowed>, Problem> {
        let Some(grant) = settings.rules.judge(caller, &asked.key) else {
            self.audit.denied(caller, &asked.key);
            return Err(Problem::forbidden(caller, &asked.key));
        };
        Ok(Arc::new(Allowed {
            asked,
            grant,
            recorded: Recorded::default(),
        }))
    }

    async fn reload(&self, caller: &Caller, method: &Method) -> Result<Response<Reply>, Problem> {
        if *method != Method::POST {
            return Err(Problem::method_not_allowed("POST"));
        }
        if !self.settings.read().rules.is_privileged(caller.uid) {
            return Err(Problem::not_root(caller.uid));
        }
        let (request, done) = oneshot::channel();
        self.reloads.send(request).await.map_err(|_| Problem::stopping())?;
        match done.await {
            Ok(Ok(())) => Ok(admin::reloaded()),
            Ok(Err(why)) => Err(Problem::configuration_refused(&why)),
            Err(_) => Err(Problem::stopping()),
        }
    }
}

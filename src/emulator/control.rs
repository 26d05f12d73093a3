//! `/emulator/…`: the routes by which a test reads what came and sets what to answer.

use super::identity::IdentitySet;
use super::reply::Reply;
use super::script::Script;
use super::state::EmulatorState;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;

/// The control routes begin with this.
pub(super) const PREFIX: &str = "/emulator/";

/// Answers a control request; `body` is the TOML of a `PUT`.
pub(super) fn answer(state: &EmulatorState, head: &Parts, body: &str) -> Reply {
    let mut inner = state.inner.lock();
    let path = head.uri.path();
    let route = path.strip_prefix(PREFIX).unwrap_or(path);
    let done = match (route, &head.method) {
        ("requests", &Method::GET) => return Reply::json(StatusCode::OK, &inner.traffic.report()),
        ("peak", &Method::GET) => return Reply::json(StatusCode::OK, &inner.traffic.peak()),
        ("requests", &Method::DELETE) => {
            inner.traffic.reset();
            Ok(())
        }
        ("script", &Method::PUT) => Script::from_toml(body).map(|script| inner.script = script),
        ("identities", &Method::PUT) => IdentitySet::from_toml(body).map(|identities| inner.identities = identities),
        ("requests" | "peak" | "script" | "identities", method) => {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not for {path}"));
        }
        _ => return refuse(StatusCode::NOT_FOUND, &format!("there is no {path}")),
    };
    match done {
        Ok(()) => Reply::text(StatusCode::NO_CONTENT, ""),
        Err(reason) => refuse(StatusCode::BAD_REQUEST, &reason),
    }
}

fn refuse(status: StatusCode, reason: &str) -> Reply {
    Reply::json(status, &json!({"error": reason}))
}

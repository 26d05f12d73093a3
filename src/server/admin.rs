//! `/live`, `/ready`, `/status` and `/metrics`: what people and monitoring agents ask.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use super::documents::Document;
use super::response::{self, JSON, ResponseBody};
use super::shared::Settings;
use crate::access::Caller;
use crate::engine::Engine;
use crate::observe::health::{AzureState, Front, Health};
use crate::observe::metrics::Metrics;
use crate::observe::status::LockStatus;
use crate::observe::{scrape, status};

/// 200 while the daemon's own loops beat; says nothing of the upstream.
pub fn live(live: bool) -> Response<ResponseBody> {
    let status = if live {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    response::json(
        status,
        bytes(&json!({ "live": live, "ApplicationHealthState": AzureState::from(live) })),
    )
}

/// 200 when every warm token can be served now, else 503, with the reason per token.
pub async fn ready(engine: &Engine, front: Front) -> Document {
    let (ready, text) = Health::document(engine, front).await.unwrap_or_default();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Document::new(status, JSON, text)
}

/// What is cached: all of it for root and the daemon's own uid, for others the keys that they may have.
pub async fn status(
    engine: &Engine,
    settings: &Settings,
    sdk: Option<SocketAddr>,
    caller: &Caller,
    lock: Option<LockStatus>,
) -> Document {
    let Settings {
        configuration,
        rules,
        units_unknown,
        ..
    } = settings;
    let text = status::document(engine, configuration, sdk, caller, rules, units_unknown.clone(), lock).await;
    Document::new(StatusCode::OK, JSON, text.unwrap_or_default())
}

/// What is counted; `connections` are those open at this moment.
pub async fn metrics(metrics: &Arc<Metrics>, engine: &Engine, connections: usize) -> Document {
    let text = scrape::text(metrics, engine, connections).await;
    Document::new(StatusCode::OK, scrape::CONTENT_TYPE, text.into_bytes())
}

/// The configuration on disk is the one in effect.
pub fn reloaded() -> Response<ResponseBody> {
    response::json(StatusCode::OK, bytes(&json!({ "reloaded": true })))
}

fn bytes(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

//! The token endpoint of the 2017 VM extension, which the tutorial uses (`docs/protocol.md`, "Endpoints", row "VM
//! extension").
//!
//! Its replies differ from the metadata service's in three ways: `resource` has lost its last slash, `refresh_token` is an
//! empty string, and `client_id` and `ext_expires_in` are missing.

use super::issue::IssuedToken;
use super::reply::{Reply, error};
use super::request::{AskedToken, Query, header};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};

pub(super) const PATH: &str = "/oauth2/token";

/// The endpoint's demands on a request: a GET with a query, or a POST with a form.
pub(super) fn read(head: &Parts, parameters: &Query) -> Result<AskedToken, Reply> {
    if head.method != Method::GET && head.method != Method::POST {
        return Err(error(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Only GET and POST are supported here",
        ));
    }
    if header(&head.headers, "metadata") != Some("true") {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "bad_request_102",
            "Required metadata header not specified",
        ));
    }
    parameters
        .token_request()
        .map_err(|reason| error(StatusCode::BAD_REQUEST, "invalid_request", &reason))
}

/// The token reply: all strings.
pub(super) fn success(grant: &IssuedToken) -> Map<String, Value> {
    let fields = [
        ("access_token", grant.access_token.clone()),
        ("refresh_token", String::new()),
        ("expires_in", grant.expires_in.to_string()),
        ("expires_on", grant.expires_on.to_string()),
        ("not_before", grant.not_before.to_string()),
        (
            "resource",
            grant.resource.strip_suffix('/').unwrap_or(&grant.resource).to_owned(),
        ),
        ("token_type", "Bearer".to_owned()),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect()
}

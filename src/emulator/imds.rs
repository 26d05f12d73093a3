//! The instance metadata service's token endpoint (`docs/protocol.md`, "Endpoints", row "instance metadata service").

use super::identity::IdentitySelector;
use super::issue::IssuedToken;
use super::reply::{Reply, error};
use super::request::{AskedToken, Query, header};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

pub(super) const PATH: &str = "/metadata/identity/oauth2/token";
/// The `Server` header of the real service.
pub(super) const SERVER_NAME: &str = "IMDS/150.870.65.512";

/// The first api-version with `bypass_cache`.
const BYPASS_SINCE: &str = "2018-10-01";

/// The api-versions that have the token endpoint, oldest first.
/// <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service#supported-api-versions>
const API_VERSIONS: [&str; 29] = [
    "2018-02-01",
    "2018-04-02",
    "2018-10-01",
    "2019-02-01",
    "2019-03-11",
    "2019-04-30",
    "2019-06-01",
    "2019-06-04",
    "2019-08-01",
    "2019-08-15",
    "2019-11-01",
    "2020-06-01",
    "2020-07-15",
    "2020-09-01",
    "2020-10-01",
    "2020-12-01",
    "2021-01-01",
    "2021-02-01",
    "2021-03-01",
    "2021-05-01",
    "2021-10-01",
    "2021-11-01",
    "2021-11-15",
    "2021-12-13",
    "2023-07-01",
    "2023-11-15",
    "2024-03-15",
    "2024-07-17",
    "2025-04-07",
];

/// The endpoint's demands on a token request.
pub(super) fn read(head: &Parts, parameters: &Query) -> Result<AskedToken, Reply> {
    check_method(head)?;
    check_headers(head)?;
    let version = api_version(parameters)?;
    let bypass_cache = match parameters.get("bypass_cache") {
        None => false,
        Some("true") if version >= BYPASS_SINCE => true,
        Some("true") => return Err(refuse("bypass_cache needs api-version 2018-10-01 or later")),
        Some(_) => return Err(refuse("bypass_cache can only be true")),
    };
    let request = parameters.token_request().map_err(|reason| refuse(&reason))?;
    Ok(AskedToken {
        bypass_cache,
        ..request
    })
}

pub(super) fn check_method(head: &Parts) -> Result<(), Reply> {
    let refused = || {
        error(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Only GET is supported here",
        )
    };
    (head.method == Method::GET).then_some(()).ok_or_else(refused)
}

/// The demands on a request at every path under `/metadata/`.
pub(super) fn check_headers(head: &Parts) -> Result<(), Reply> {
    if header(&head.headers, "metadata") != Some("true") {
        return Err(refuse("Required metadata header not specified"));
    }
    if head.headers.contains_key("x-forwarded-for") {
        return Err(refuse("A request with an X-Forwarded-For header is not supported"));
    }
    Ok(())
}

pub(super) fn api_version(parameters: &Query) -> Result<&str, Reply> {
    let version = parameters.get("api-version");
    version
        .filter(|version| API_VERSIONS.contains(version))
        .ok_or_else(bad_api_version)
}

pub(super) fn refuse(reason: &str) -> Reply {
    error(StatusCode::BAD_REQUEST, "invalid_request", reason)
}

/// The token reply: all values are strings, and the id in the request is repeated.
pub(super) fn success(grant: &IssuedToken, request: &AskedToken) -> Map<String, Value> {
    let fields = [
        ("access_token", grant.access_token.clone()),
        ("client_id", grant.client_id.clone()),
        ("expires_in", grant.expires_in.to_string()),
        ("expires_on", grant.expires_on.to_string()),
        ("ext_expires_in", grant.expires_in.to_string()),
        ("not_before", grant.not_before.to_string()),
        ("resource", grant.resource.clone()),
        ("token_type", "Bearer".to_owned()),
    ];
    let echo = match &request.selector {
        IdentitySelector::ObjectId(id) => Some(("object_id", id.clone())),
        IdentitySelector::ResourceId(id) => Some(("msi_res_id", id.clone())),
        IdentitySelector::Default | IdentitySelector::ClientId(_) => None,
    };
    fields
        .into_iter()
        .chain(echo)
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect()
}

fn bad_api_version() -> Reply {
    let newest: Vec<&str> = API_VERSIONS.into_iter().rev().take(3).collect();
    let text = "Bad request. api-version is invalid or was not specified in the request. \
                For more information refer to aka.ms/azureimds";
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({"error": text, "newest-versions": newest}),
    )
}

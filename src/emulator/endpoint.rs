//! Handles a token request: reads it, records it, applies the script's fault and answers.
//!
//! Each kind of endpoint is a file (`imds`, `vm_extension`, `arc`) with its path, its demands on a request and the form of
//! its replies. This file has what all kinds share.

use super::identity::{IdentitySelector, ManagedIdentity, NoIdentity};
use super::issue::{IssuedToken, TENANT_ID, Wanted};
use super::reply::{Reply, Reset, Sending, error};
use super::request::{AskedToken, Query};
use super::script::ScriptedFault;
use super::state::EmulatorState;
use super::traffic::Seen;
use super::wall_clock::unix_now;
use super::{arc, imds, vm_extension};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER, SERVER};
use hyper::http::request::Parts;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The kinds of MSI endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointKind {
    Imds,
    VmExtension,
    Arc,
}

impl EndpointKind {
    pub const ALL: [Self; 3] = [Self::Imds, Self::VmExtension, Self::Arc];

    /// The kind at this path, with or without a slash at its end.
    pub fn at(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Imds => imds::PATH,
            Self::VmExtension => vm_extension::PATH,
            Self::Arc => arc::PATH,
        }
    }

    fn read(self, head: &Parts, parameters: &Query) -> Result<AskedToken, Reply> {
        match self {
            Self::Imds => imds::read(head, parameters),
            Self::VmExtension => vm_extension::read(head, parameters),
            Self::Arc => arc::read(head, parameters),
        }
    }

    fn success(self, grant: &IssuedToken, request: &AskedToken) -> Map<String, Value> {
        match self {
            Self::Imds => imds::success(grant, request),
            Self::VmExtension => vm_extension::success(grant),
            Self::Arc => arc::success(grant, request),
        }
    }

    fn server(self) -> Option<&'static str> {
        match self {
            Self::Imds => Some(imds::SERVER_NAME),
            Self::VmExtension | Self::Arc => None,
        }
    }

    /// The challenge, for the kind that has one.
    fn challenge(self, state: &EmulatorState, head: &Parts, fault: &ScriptedFault) -> Option<Reply> {
        match self {
            Self::Arc => state.inner.lock().challenges.challenge(head, fault.realm.as_deref()),
            Self::Imds | Self::VmExtension => None,
        }
    }
}

/// Answers a token request; `form` is its body.
pub(super) async fn answer(
    kind: EndpointKind,
    state: &EmulatorState,
    head: &Parts,
    form: &str,
) -> Result<Reply, Reset> {
    let parameters = parameters(head, form);
    let _in_flight = InFlight::begin(state, seen(head, parameters.as_ref().ok()));
    let request = parameters.map_err(|reason| error(StatusCode::BAD_REQUEST, "invalid_request", &reason));
    let request = request.and_then(|parameters| kind.read(head, &parameters));
    let fault = match &request {
        Ok(request) => state.inner.lock().script.next(&request.resource, &request.selector),
        Err(_) => None,
    };
    let fault = fault.as_deref().cloned().unwrap_or_default();
    if let Some(delay) = fault.delay {
        tokio::time::sleep(delay).await;
    }
    if fault.reset {
        return Err(Reset);
    }
    let reply = match request {
        Ok(request) => canned(&fault)
            .or_else(|| kind.challenge(state, head, &fault))
            .unwrap_or_else(|| token(kind, state, &request, &fault)),
        Err(refusal) => refusal,
    };
    Ok(spoil(with_server(reply, kind.server()), &fault))
}

fn parameters(head: &Parts, form: &str) -> Result<Query, String> {
    if head.method == hyper::Method::POST && !form.is_empty() {
        return Query::from_form(form);
    }
    Query::from_query(head.uri.query().unwrap_or_default())
}

fn token(kind: EndpointKind, state: &EmulatorState, request: &AskedToken, fault: &ScriptedFault) -> Reply {
    if !is_known_resource(&request.resource) {
        return unknown_resource(&request.resource);
    }
    let grant = match grant(state, request, fault) {
        Ok(grant) => grant,
        Err(none) => return error(StatusCode::BAD_REQUEST, "invalid_request", &none.to_string()),
    };
    let mut body = kind.success(&grant, request);
    if fault.empty_token {
        body.insert("access_token".to_owned(), json!(""));
    }
    if let Some(token_type) = &fault.token_type {
        body.insert("token_type".to_owned(), json!(token_type));
    }
    if fault.numbers {
        for value in body.values_mut() {
            if let Some(number) = value.as_str().and_then(|text| text.parse::<i64>().ok()) {
                *value = number.into();
            }
        }
    }
    if let Some(expires_on) = &fault.raw_expires_on {
        body.insert("expires_on".to_owned(), expires_on.clone());
    }
    let status = fault
        .status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::OK);
    Reply::json(status, &body)
}

fn grant(state: &EmulatorState, request: &AskedToken, fault: &ScriptedFault) -> Result<IssuedToken, NoIdentity> {
    let now = unix_now();
    let inner = &mut *state.inner.lock();
    let identity = inner.identities.choose(&request.selector)?;
    if fault.wrong_resource.is_some() || fault.wrong_client_id.is_some() || fault.claims.is_some() {
        let client_id = fault
            .wrong_client_id
            .clone()
            .unwrap_or_else(|| identity.client_id.clone());
        let foreign = ManagedIdentity {
            client_id,
            ..identity.clone()
        };
        let resource = fault.wrong_resource.as_deref().unwrap_or(&request.resource);
        let claims = fault.claims.as_ref();
        return Ok(inner.issuer.one_off(now, resource, &foreign, claims, fault.lifetime));
    }
    let wanted = if fault.same_token {
        Wanted::Earlier
    } else if request.bypass_cache || fault.lifetime.is_some() {
        Wanted::New
    } else {
        Wanted::Usual
    };
    let key = (request.resource.as_str(), identity, request.xms_cc.as_deref());
    Ok(inner.issuer.grant(now, key, wanted, fault.lifetime))
}

/// Whether the resource exists: any `https` or `api` URI, unless its host ends in `.invalid`, and any application's GUID.
fn is_known_resource(resource: &str) -> bool {
    let is_guid = resource.len() == 36 && resource.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let uri = resource
        .strip_prefix("https://")
        .or_else(|| resource.strip_prefix("api://"));
    let host = uri.and_then(|rest| rest.split(['/', '?', '#', ':']).next());
    is_guid || host.is_some_and(|host| !host.is_empty() && !host.to_ascii_lowercase().ends_with(".invalid"))
}

fn unknown_resource(resource: &str) -> Reply {
    let description = format!(
        "AADSTS500011: The resource principal named {resource} was not found in the tenant named {TENANT_ID}. This can \
         happen if the application has not been installed by the administrator of the tenant or consented to by any \
         user in the tenant. You might have sent your authentication request to the wrong tenant."
    );
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({"error": "invalid_resource", "error_description": description, "error_codes": [500_011]}),
    )
}

/// The answer of a fault without a token.
fn canned(fault: &ScriptedFault) -> Option<Reply> {
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
    if let Some(location) = fault
        .redirect
        .as_ref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        return Some(Reply::text(status.unwrap_or(StatusCode::FOUND), "").with(LOCATION, location));
    }
    if fault.no_body {
        return Some(Reply::text(status.unwrap_or(StatusCode::OK), ""));
    }
    if let Some(body) = &fault.body {
        let json = Reply::json(status.unwrap_or(StatusCode::OK), &Value::Null);
        return Some(Reply {
            body: body.clone().into_bytes(),
            ..json
        });
    }
    let status = status.filter(|status| !status.is_success())?;
    let (code, description) = match status.as_u16() {
        400 => ("invalid_request", "Identity not found"),
        403 => ("forbidden", "Access to this endpoint is forbidden"),
        404 => ("not_found", "The requested resource does not exist"),
        410 => ("gone", "The endpoint is being updated"),
        429 => ("too_many_requests", "Too many requests"),
        503 => ("service_unavailable", "The service is temporarily unavailable"),
        500..=599 => ("server_error", "An internal error has occurred"),
        _ => ("unknown", "The request failed"),
    };
    Some(error(status, code, description))
}

pub(super) fn with_server(reply: Reply, server: Option<&'static str>) -> Reply {
    match server {
        Some(name) => reply.with(SERVER, HeaderValue::from_static(name)),
        None => reply,
    }
}

/// Applies what a fault changes in an answer.
fn spoil(mut reply: Reply, fault: &ScriptedFault) -> Reply {
    if let Some(value) = fault
        .retry_after
        .as_ref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        reply = reply.with(RETRY_AFTER, value);
    }
    if let Some(server) = &fault.server {
        reply.headers.retain(|(name, _)| name != SERVER);
        if let Some(value) = HeaderValue::from_str(server).ok().filter(|value| !value.is_empty()) {
            reply = reply.with(SERVER, value);
        }
    }
    reply.sending = match (fault.half_body, fault.stall_body, fault.huge_body) {
        (true, _, _) => Sending::Half,
        (false, true, _) => Sending::Stalled,
        (false, false, Some(bytes)) => Sending::PaddedTo(bytes),
        (false, false, None) => Sending::Whole,
    };
    reply
}

/// The record of a request.
pub(super) fn seen(head: &Parts, parameters: Option<&Query>) -> Seen {
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    Seen {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        method: head.method.to_string(),
        headers,
        resource: parameters
            .and_then(|parameters| parameters.get("resource"))
            .map(str::to_owned),
        identity: parameters
            .and_then(|parameters| parameters.selector().ok())
            .as_ref()
            .map(IdentitySelector::to_string),
        at_ms: 0,
        concurrent: 0,
    }
}

/// Counts a request as being answered until this is dropped, also when the caller hangs up.
pub(super) struct InFlight<'a>(&'a EmulatorState);

impl<'a> InFlight<'a> {
    pub fn begin(state: &'a EmulatorState, seen: Seen) -> Self {
        state.inner.lock().traffic.begin(seen, tokio::time::Instant::now());
        Self(state)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().traffic.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_end_in_a_slash_and_is_otherwise_exact() {
        assert_eq!(
            EndpointKind::at("/metadata/identity/oauth2/token"),
            Some(EndpointKind::Imds)
        );
        assert_eq!(
            EndpointKind::at("/metadata/identity/oauth2/token/"),
            Some(EndpointKind::Imds)
        );
        assert_eq!(EndpointKind::at("/oauth2/token"), Some(EndpointKind::VmExtension));
        assert_eq!(EndpointKind::at("/Metadata/identity/oauth2/token"), None);
        assert_eq!(EndpointKind::at("/"), None);
    }

    #[test]
    fn resources_are_uris_or_guids_that_exist() {
        for known in [
            "https://storage.azure.com/",
            "https://a.b:443/x",
            "api://x",
            "73444643-8088-4d70-9532-c3a0fdc190fa",
        ] {
            assert!(is_known_resource(known), "{known}");
        }
        for unknown in [
            "https://a.INVALID/",
            "https://a.invalid:443",
            "https://",
            "storage",
            "http://a",
            "",
        ] {
            assert!(!is_known_resource(unknown), "{unknown}");
        }
    }

    #[test]
    fn a_canned_answer_is_made_only_by_the_effects_that_need_no_token() {
        let token_faults = ScriptedFault {
            status: Some(201),
            retry_after: Some("7".into()),
            ..ScriptedFault::default()
        };
        assert!(canned(&token_faults).is_none());
        let reply = canned(&ScriptedFault {
            status: Some(429),
            ..ScriptedFault::default()
        })
        .unwrap();
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(String::from_utf8(reply.body).unwrap().contains("too_many_requests"));
        let reply = canned(&ScriptedFault {
            status: Some(502),
            body: Some("<html>".into()),
            ..ScriptedFault::default()
        })
        .unwrap();
        assert_eq!(
            (reply.status.as_u16(), reply.body.as_slice()),
            (502, b"<html>".as_slice())
        );
        let reply = canned(&ScriptedFault {
            redirect: Some("http://x/".into()),
            ..ScriptedFault::default()
        })
        .unwrap();
        assert_eq!(reply.status, StatusCode::FOUND);
    }
}

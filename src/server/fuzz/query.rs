//! What holds of the parser of queries and forms.

use std::str;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::broker::Renewal;
use crate::key::{Identity, Key, MAX_IDENTITY, MAX_RESOURCE};
use crate::server::problem::Problem;
use crate::server::protocol::Protocol;
use crate::server::request::{Route, TokenRequest};

/// A query, and if there is a second line, a form. Whether they are a request for a token on any route.
///
/// # Panics
/// Something does not hold.
pub fn query(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let mut is_request = false;
    let (query, form) = match text.split_once('\n') {
        Some((query, form)) => (query, Some(form)),
        None => (text, None),
    };
    let path = Route::at(query);
    assert_eq!(
        path,
        Route::at(&format!("//{}/", query.to_ascii_uppercase())),
        "paths match without case"
    );
    for protocol in [Protocol::Imds, Protocol::VmExtension, Protocol::AppService] {
        match TokenRequest::parse(protocol, Some(query), form) {
            Ok(request) => {
                is_request = true;
                assert_is_bounded(&request.key);
                let canonical = written(&request);
                let again = TokenRequest::parse(protocol, Some(&canonical), None).unwrap();
                assert_eq!(again, request, "{canonical}");
                assert_eq!(
                    TokenRequest::parse(protocol, None, Some(&canonical)).unwrap(),
                    request,
                    "{canonical}"
                );
            }
            Err(problem) => assert_is_told_well(protocol, &problem),
        }
    }
    is_request
}

fn assert_is_bounded(key: &Key) {
    let is_within = |text: &str, max| (1..=max).contains(&text.len());
    let is_graphic = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let resource = key.resource.as_str();
    assert!(is_within(resource, MAX_RESOURCE) && is_graphic(resource));
    for text in [&key.capabilities, &key.authority].into_iter().flatten() {
        assert!(is_within(text, MAX_IDENTITY) && is_graphic(text));
    }
    let (id, is_of_its_kind) = match &key.identity {
        Identity::Default => return,
        Identity::ClientId(id) | Identity::ObjectId(id) => (id, is_graphic(id)),
        // The names in it may have letters and digits of any script.
        Identity::ResourceId(id) => (
            id,
            id.chars()
                .all(|c| c.is_ascii_graphic() || !c.is_ascii() && c.is_alphanumeric()),
        ),
    };
    assert!(is_within(id, MAX_IDENTITY) && is_of_its_kind && !id.bytes().any(|b| b.is_ascii_uppercase()));
}

/// The request in the one form that can be read in one way only.
fn written(request: &TokenRequest) -> String {
    let Key {
        resource,
        identity,
        capabilities,
        authority,
    } = &request.key;
    let selector = match identity {
        Identity::Default => None,
        Identity::ClientId(id) => Some(("client_id", encoded(id))),
        Identity::ObjectId(id) => Some(("object_id", encoded(id))),
        Identity::ResourceId(id) => Some(("msi_res_id", encoded(id))),
    };
    let renewal = match request.renewal {
        Renewal::No => None,
        Renewal::Bypass => Some(("bypass_cache", "true".to_owned())),
        Renewal::Replace(hash) => {
            let digits = hash.iter().map(|byte| format!("{byte:02x}"));
            Some(("token_sha256_to_refresh", digits.collect::<Vec<_>>().concat()))
        }
    };
    let capabilities = capabilities.as_deref().map(|value| ("xms_cc", encoded(value)));
    let authority = authority.as_deref().map(|value| ("authority", encoded(value)));
    let resource = ("resource", encoded(resource.as_str()));
    let version = ("api-version", "2018-02-01".to_owned());
    let pairs = [
        Some(version),
        Some(resource),
        selector,
        renewal,
        capabilities,
        authority,
    ];
    let pairs = pairs
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn assert_is_told_well(protocol: Protocol, problem: &Problem) {
    assert_eq!(problem.status, 400);
    assert!(problem.description.len() < 400, "{}", problem.description);
    assert!(
        problem.description.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
        "{:?}",
        problem.description
    );
    let body: Value = serde_json::from_slice(&problem.body(protocol)).unwrap();
    assert_eq!(body["error_description"], *problem.description);
}

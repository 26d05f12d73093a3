//! As much of Azure Resource Manager as the tutorial needs: `listKeys` of storage accounts.
//!
//! `POST /subscriptions/{id}/resourceGroups/{name}/providers/Microsoft.Storage/storageAccounts/{name}/listKeys`,
//! with `api-version` and a bearer token for Resource Manager. The path is case-sensitive, as the tutorial warns.

use super::issue::TENANT_ID;
use super::jwt;
use super::reply::Reply;
use super::request::Query;
use super::state::EmulatorState;
use super::storage_account::StorageAccount;
use super::wall_clock::unix_now;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

/// The audiences that Resource Manager accepts, each also without its slash.
const AUDIENCES: [&str; 2] = ["https://management.azure.com/", "https://management.core.windows.net/"];

/// Whether this path belongs to Resource Manager, in upper or lower case.
pub(super) fn is_here(path: &str) -> bool {
    path.get(..15)
        .is_some_and(|start| start.eq_ignore_ascii_case("/subscriptions/"))
}

/// Answers a request. First the web server refuses a POST without a length, which is why the tutorial's `curl` has
/// `-d ""`. Then the token is checked, and then the path.
pub(super) fn answer(state: &EmulatorState, head: &Parts) -> Reply {
    let has_body =
        |headers: &HeaderMap| headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if head.method == Method::POST && !has_body(&head.headers) {
        return length_required();
    }
    if let Err(refusal) = authenticate(head, unix_now()) {
        return refusal;
    }
    let parameters = Query::from_query(head.uri.query().unwrap_or_default()).unwrap_or_default();
    if parameters.get("api-version").is_none_or(str::is_empty) {
        let text = "The api-version query parameter (?api-version=) is required for all requests.";
        return error(StatusCode::BAD_REQUEST, "MissingApiVersionParameter", text);
    }
    let Some(account) = account_of(head.uri.path()) else {
        let text = format!(
            "The resource type could not be found for the path '{}'.",
            head.uri.path()
        );
        return error(StatusCode::NOT_FOUND, "InvalidResourceType", &text);
    };
    if head.method != Method::POST {
        let text = format!("The requested resource does not support http method '{}'.", head.method);
        return error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &text);
    }
    let Some(known) = state.storage_accounts.iter().find(|known| known.name == account) else {
        let text = format!("The Resource 'Microsoft.Storage/storageAccounts/{account}' was not found.");
        return error(StatusCode::NOT_FOUND, "ResourceNotFound", &text);
    };
    keys(known)
}

fn authenticate(head: &Parts, now: i64) -> Result<(), Reply> {
    let bearer = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer
        .and_then(|value| value.split_once(' '))
        .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else {
        let text = "Authentication failed. The 'Authorization' header is missing.";
        return Err(unauthorized("AuthenticationFailed", text));
    };
    let claims =
        jwt::claims(token).ok_or_else(|| unauthorized("InvalidAuthenticationToken", "The access token is invalid."))?;
    check_claims(&claims, now).map_err(|(code, text)| unauthorized(code, &text))
}

fn check_claims(claims: &Map<String, Value>, now: i64) -> Result<(), (&'static str, String)> {
    let audience = claims.get("aud").and_then(Value::as_str).unwrap_or_default();
    if !AUDIENCES
        .iter()
        .any(|known| known.trim_end_matches('/') == audience.strip_suffix('/').unwrap_or(audience))
    {
        let text = format!(
            "The access token has been obtained for wrong audience or resource '{audience}'. It should exactly match \
             with one of the allowed audiences '{}'.",
            AUDIENCES.join("','")
        );
        return Err(("InvalidAuthenticationTokenAudience", text));
    }
    let time = |name| claims.get(name).and_then(Value::as_i64);
    match (time("nbf"), time("exp")) {
        (Some(nbf), Some(exp)) if nbf <= now && now < exp => Ok(()),
        (Some(nbf), Some(exp)) => Err((
            "ExpiredAuthenticationToken",
            format!("The access token is valid from {nbf} until {exp}, and now it is {now} (Unix seconds)."),
        )),
        _ => Err((
            "InvalidAuthenticationToken",
            "The access token has no nbf or no exp.".to_owned(),
        )),
    }
}

/// The account's name in a `listKeys` path. The case of the path's fixed parts counts.
fn account_of(path: &str) -> Option<&str> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    match segments.as_slice() {
        [
            "subscriptions",
            subscription,
            "resourceGroups",
            group,
            "providers",
            "Microsoft.Storage",
            "storageAccounts",
            account,
            "listKeys",
        ] if !subscription.is_empty() && !group.is_empty() => Some(account),
        _ => None,
    }
}

fn keys(account: &StorageAccount) -> Reply {
    let second = STANDARD.encode(account.name.repeat(64).bytes().take(64).collect::<Vec<_>>());
    let key = |name: &str, value: &str| json!({"keyName": name, "permissions": "Full", "value": value});
    Reply::json(
        StatusCode::OK,
        &json!({"keys": [key("key1", &account.key), key("key2", &second)]}),
    )
}

fn length_required() -> Reply {
    let page = "<HTML><HEAD><TITLE>Length Required</TITLE></HEAD>\r\n<BODY><h2>Length Required</h2>\r\n\
                <hr><p>HTTP Error 411. The request must be chunked or have a content length.</p>\r\n</BODY></HTML>\r\n";
    Reply::text(StatusCode::LENGTH_REQUIRED, page)
        .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=us-ascii"))
}

fn unauthorized(code: &str, text: &str) -> Reply {
    let challenge = format!(
        "Bearer authorization_uri=\"https://login.windows.net/{TENANT_ID}\", error=\"invalid_token\", error_description=\"{text}\""
    );
    let reply = error(StatusCode::UNAUTHORIZED, code, text);
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => reply.with(WWW_AUTHENTICATE, challenge),
        Err(_) => reply,
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": message}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct/listKeys";

    #[test]
    fn a_path_is_case_sensitive() {
        assert_eq!(account_of(PATH), Some("acct"));
        for (right, wrong) in [
            ("resourceGroups", "resourcegroups"),
            ("storageAccounts", "storageaccounts"),
            ("listKeys", "listkeys"),
            ("Microsoft.Storage", "microsoft.storage"),
            ("/s/", "//"),
        ] {
            assert_eq!(account_of(&PATH.replace(right, wrong)), None, "{wrong}");
        }
        assert!(is_here("/Subscriptions/s/") && !is_here("/oauth2/token") && !is_here("/"));
    }

    #[test]
    fn a_token_is_judged_by_audience_and_times() {
        let code = |aud: &str, nbf: i64, exp: i64| {
            check_claims(json!({"aud": aud, "nbf": nbf, "exp": exp}).as_object().unwrap(), 100)
                .map_err(|(code, _)| code)
        };
        assert_eq!(code("https://management.azure.com/", 0, 200), Ok(()));
        assert_eq!(code("https://management.core.windows.net", 100, 101), Ok(()));
        assert_eq!(
            code("https://management.azure.com//", 0, 200),
            Err("InvalidAuthenticationTokenAudience")
        );
        assert_eq!(
            code("https://storage.azure.com/", 0, 200),
            Err("InvalidAuthenticationTokenAudience")
        );
        assert_eq!(
            code("https://management.azure.com/", 0, 100),
            Err("ExpiredAuthenticationToken")
        );
        assert_eq!(
            code("https://management.azure.com/", 101, 200),
            Err("ExpiredAuthenticationToken")
        );
    }

    #[test]
    fn an_account_is_a_name_and_a_base64_key() {
        assert!("acct1=a2V5PQ==".parse::<StorageAccount>().is_ok());
        for bad in ["acct1", "A=a2V5", "ab=a2V5", "acct1=***"] {
            assert!(bad.parse::<StorageAccount>().is_err(), "{bad}");
        }
    }
}

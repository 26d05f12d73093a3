//! What must hold for any answer of an endpoint.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an assertion here is a finding"
)]

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::HeaderValue;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::{exchange, http_status, reply};
use crate::clock::Now;
use crate::failure::{Class, Failure};
use crate::http::Response;
use crate::key::{Identity, Key, Resource};
use crate::token::Token;

const NOW: Now = Now {
    wall: Duration::from_secs(1_560_000_000),
    boot: Duration::from_secs(1000),
};
/// The token in most of the stored inputs.
const SECRET: &str = "e30.e30.c2ln";
const LONGEST_LIFE: Duration = Duration::from_hours(28);

/// `input` is what the endpoint sends before it closes the connection. Returns whether it is a token's answer.
///
/// # Panics
/// Something does not hold.
pub fn reply(input: &[u8]) -> bool {
    let mut is_token = false;
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
    }
    match RUNTIME.with(|runtime| runtime.block_on(converse(input))) {
        Ok(answer) => {
            let resource = Resource::new("https://storage.azure.com/").unwrap();
            let id = "73444643-8088-4d70-9532-c3a0fdc190fa";
            for (identity, must_echo) in [
                (Identity::Default, false),
                (Identity::client_id(id).unwrap(), false),
                (Identity::client_id(id).unwrap(), true),
                (Identity::resource_id("/s/x").unwrap(), true),
            ] {
                let key = Key::new(resource.clone(), identity);
                let judged = http_status::check(&answer, Some("IMDS/"), NOW)
                    .and_then(|()| reply::token(&answer.body, &key, must_echo, NOW));
                match judged {
                    Ok(token) => {
                        is_token = true;
                        assert_is_sound(&token, &key, must_echo);
                    }
                    Err(failure) => assert_is_told_well(&failure),
                }
            }
        }
        Err(failure) => {
            assert_eq!(failure.class, Class::Faulty);
            assert_is_told_well(&failure);
        }
    }
    is_token
}

async fn converse(input: &[u8]) -> Result<Response, Failure> {
    let (mut endpoint, stream) = tokio::io::duplex(1 << 20);
    let request = Request::get("/metadata/identity/oauth2/token")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = async {
        // hyper does not accept an answer that comes before the request is sent.
        endpoint.read_u8().await.unwrap();
        // An error means that hyper has read enough and closed the connection.
        _ = endpoint.write_all(input).await;
        drop(endpoint);
    };
    tokio::join!(exchange::converse(stream, request), answer).0
}

fn assert_is_sound(token: &Token, key: &Key, must_echo: bool) {
    let life = token.expires_on().checked_sub(NOW.wall).unwrap();
    assert!(!life.is_zero() && life < LONGEST_LIFE, "{life:?}");
    assert!(
        token.client_id().is_none_or(|id| Identity::client_id(id).is_ok()),
        "{token:?}"
    );
    if let (Identity::ClientId(asked), true) = (&key.identity, must_echo) {
        assert!(token.client_id().unwrap().eq_ignore_ascii_case(asked));
    }
    let object: Value = serde_json::from_slice(token.object()).unwrap();
    assert!(object.as_object().unwrap().values().all(Value::is_string), "{object}");
    let secret = object["access_token"].as_str().unwrap();
    assert!(!secret.is_empty() && HeaderValue::from_str(&format!("Bearer {secret}")).is_ok());
    assert!(secret.bytes().all(|b| b.is_ascii_graphic()));
    assert_eq!(object["resource"], key.resource.as_str());
    assert_eq!(object["token_type"], "Bearer");
    assert_eq!(object["expires_on"], token.expires_on().as_secs().to_string());
    assert_eq!(&token.object()[1..], token.members());
}

/// The text can be shown in a log and to callers, and only a refusal quotes the endpoint.
fn assert_is_told_well(failure: &Failure) {
    // The size of one value of a log record.
    assert!(is_printable(&failure.text) && failure.text.len() <= 1024, "{failure:?}");
    assert!(!format!("{failure:?}").contains("eyJ"), "{failure:?}");
    match &failure.class {
        Class::Refused(refusal) => {
            assert!(
                is_printable(refusal.error.as_deref().unwrap_or_default()) && is_printable(&refusal.error_description),
                "{failure:?}"
            );
        }
        Class::Restarting | Class::Throttled(_) | Class::Faulty => {
            assert!(!failure.text.contains(SECRET), "{failure:?}");
        }
        Class::Full => panic!("the endpoint knows nothing of the cache"),
    }
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

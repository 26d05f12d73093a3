//! Turns the body of a 200 into a token, or into a failure. The whole reply is checked before it replaces a good token. A
//! failure quotes no text of the body.

use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::failure::{Cause, Class, Failure};
use crate::key::{Identity, Key, Resource};
use crate::token::{Parts, Token, claims};

/// Tokens of managed identities live for 24 hours, so a longer life than this is an error.
const LONGEST_LIFE: Duration = Duration::from_hours(28);

/// The members that are checked. Endpoints send them in different types (`docs/protocol.md`, "Answers").
#[derive(Deserialize)]
struct ReplyJson {
    access_token: Option<Zeroizing<String>>,
    token_type: Option<Value>,
    expires_on: Option<Value>,
    not_before: Option<Value>,
    resource: Option<Value>,
    client_id: Option<Value>,
    object_id: Option<Value>,
    msi_res_id: Option<Value>,
    /// App Service's name for `msi_res_id`.
    mi_res_id: Option<Value>,
}

/// The claims that name a token's identity (`docs/protocol.md`, "Answers", row "Claims").
#[derive(Default, Deserialize)]
struct IdentityClaims {
    /// In tokens of version 1.0.
    appid: Option<Value>,
    /// In tokens of version 2.0.
    azp: Option<Value>,
    oid: Option<Value>,
    xms_mirid: Option<Value>,
}

/// Judges a reply to the request for `key`; with `must_echo` a selector must come back in it.
pub fn token(body: &[u8], key: &Key, must_echo: bool, now: Now) -> Result<Token, Failure> {
    check(body, key, must_echo, now).map_err(|(cause, why)| {
        let text = format!("HTTP 200 that is not a token: {why}");
        Failure::new(Class::Faulty, cause, text).answered(200)
    })
}

/// What is wrong with a reply: a code, and a text for people.
type Flaw = (Cause, &'static str);

fn check(body: &[u8], key: &Key, must_echo: bool, now: Now) -> Result<Token, Flaw> {
    let no_token = |why| (Cause::NotAToken, why);
    let body: ReplyJson = serde_json::from_slice(body).map_err(|_| no_token("no JSON object of the right form"))?;
    let access_token = body.access_token.ok_or(no_token("access_token is missing"))?;
    if !body.token_type.as_ref().is_none_or(|kind| says(kind, "Bearer")) {
        return Err(no_token("token_type is not Bearer"));
    }
    if !body
        .resource
        .as_ref()
        .is_none_or(|echo| is_echo_of(echo, &key.resource))
    {
        return Err((Cause::WrongResource, "it is for another resource"));
    }
    let selected = match &key.identity {
        Identity::Default => None,
        Identity::ClientId(id) => Some((&body.client_id, id)),
        Identity::ObjectId(id) => Some((&body.object_id, id)),
        Identity::ResourceId(id) if body.msi_res_id.is_none() => Some((&body.mi_res_id, id)),
        Identity::ResourceId(id) => Some((&body.msi_res_id, id)),
    };
    match selected {
        Some((Some(echo), asked)) if !says(echo, asked) => {
            return Err((Cause::WrongIdentity, "it is for another identity"));
        }
        Some((None, _)) if must_echo => {
            let why = "it does not say that it is for the identity asked for";
            return Err((Cause::WrongIdentity, why));
        }
        _ => {}
    }
    if selected.is_some() && names_another(access_token.as_bytes(), &key.identity) {
        return Err((Cause::WrongIdentity, "its claims are those of another identity"));
    }
    let expires_on = body
        .expires_on
        .as_ref()
        .and_then(unix_time)
        .ok_or(no_token("expires_on is missing or no time"))?;
    if expires_on <= now.wall {
        let why = "expires_on is in the past (or this machine's clock is ahead)";
        return Err((Cause::Expired, why));
    }
    if expires_on.saturating_sub(now.wall) >= LONGEST_LIFE {
        let why = "expires_on is over 28 h ahead (or this machine's clock is behind)";
        return Err(no_token(why));
    }
    let parts = Parts {
        access_token,
        client_id: body.client_id.as_ref().and_then(Value::as_str).and_then(plain),
        expires_on,
        not_before: body.not_before.as_ref().and_then(unix_time).unwrap_or(now.wall),
    };
    Token::new(&key.resource, &parts).map_err(|_| no_token("access_token is empty or unfit for a header"))
}

/// Whether the token is a JWT with a claim that contradicts the selector. Resources decide what is in their tokens, so a
/// claim that is missing, or no string, says nothing.
fn names_another(access_token: &[u8], identity: &Identity) -> bool {
    let claims: IdentityClaims = claims(access_token).unwrap_or_default();
    let (claim, asked) = match identity {
        Identity::Default => return false,
        Identity::ClientId(id) => (claims.appid.or(claims.azp), id),
        Identity::ObjectId(id) => (claims.oid, id),
        Identity::ResourceId(id) => (claims.xms_mirid, id),
    };
    claim.is_some_and(|claim| claim.is_string() && !says(&claim, asked))
}

/// An id as such ids are; anything else says nothing.
fn plain(id: &str) -> Option<String> {
    Identity::client_id(id).ok().map(|_| id.to_owned())
}

/// Whether the value is this text, in upper or lower case.
fn says(value: &Value, expected: &str) -> bool {
    value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(expected))
}

/// Whether the reply's resource is the one asked for. The 2017 endpoint removes the last slash and Entra changes case; any
/// other difference means another resource.
fn is_echo_of(echo: &Value, asked: &Resource) -> bool {
    let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    echo.as_str().is_some_and(|echo| bare(echo) == bare(asked.as_str()))
}

/// Seconds since 1970 as a number or a string, also with a fraction; or one of the two date forms.
fn unix_time(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => number.as_f64().and_then(seconds),
        Value::String(text) => text.trim().parse().ok().and_then(seconds).or_else(|| date(text)),
        _ => None,
    }
}

/// Whole seconds, rounded down, so that a token never lives longer than its own `expires_on`.
fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number.floor()).ok()
}

/// `06/20/2019 02:57:58 +00:00`, `1/16/2020 5:24:12 AM +00:00`, or RFC 3339. The first two are rewritten as the third, so
/// that one parser checks the calendar.
fn date(text: &str) -> Option<Duration> {
    let rfc3339 = match text.split_whitespace().collect::<Vec<_>>()[..] {
        [date, time, "+00:00"] => american(date, time, None)?,
        [date, time, half @ ("AM" | "PM"), "+00:00"] => american(date, time, Some(half))?,
        [text] => text.replace("+00:00", "Z"),
        _ => return None,
    };
    humantime::parse_rfc3339(&rfc3339).ok()?.duration_since(UNIX_EPOCH).ok()
}

fn american(date: &str, time: &str, half: Option<&str>) -> Option<String> {
    let numbers =
        |text: &str, separator| -> Option<Vec<u32>> { text.split(separator).map(|n| n.parse().ok()).collect() };
    let (&[month, day, year], &[hour, minute, second]) = (&numbers(date, '/')?[..], &numbers(time, ':')?[..]) else {
        return None;
    };
    let hour = match half {
        None => hour,
        Some(half) if (1..=12).contains(&hour) => hour % 12 + if half == "PM" { 12 } else { 0 },
        Some(_) => return None,
    };
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Now = Now {
        wall: Duration::from_mins(26_000_000),
        boot: Duration::from_secs(50),
    };

    fn key(identity: Identity) -> Key {
        Key::new(Resource::new("https://Storage.azure.com/").unwrap(), identity)
    }

    /// The good reply with some members changed (`null`: left out).
    fn reply(changes: &Value) -> Value {
        let mut body = json!({
            "access_token": "e30.e30.c2ln", "client_id": "ABC", "expires_in": "3599", "expires_on": "1560003600",
            "ext_expires_in": "3599", "not_before": "1559999700", "resource": "https://Storage.azure.com/",
            "token_type": "Bearer",
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        body
    }

    fn checked(changes: &Value, identity: Identity) -> Result<Token, &'static str> {
        check(reply(changes).to_string().as_bytes(), &key(identity), false, NOW).map_err(|(_, why)| why)
    }

    #[test]
    fn expires_on_is_understood_in_every_form_found_in_the_wild() {
        for (form, seconds) in [
            (json!("1560003600"), 1_560_003_600),
            (json!(1_560_003_600), 1_560_003_600),
            (json!(1_560_003_600.9), 1_560_003_600),
            (json!("1560003600.5"), 1_560_003_600),
            (json!("06/08/2019 14:00:00 +00:00"), 1_560_002_400),
            (json!("6/8/2019 2:00:00 PM +00:00"), 1_560_002_400),
            (json!("6/9/2019 12:00:01 AM +00:00"), 1_560_038_401),
            (json!("2019-06-08T14:00:00Z"), 1_560_002_400),
            (json!("2019-06-08T14:00:00+00:00"), 1_560_002_400),
            (json!("2019-06-08T14:00:00.9Z"), 1_560_002_400),
            (json!(" 1560003600 "), 1_560_003_600),
        ] {
            let token = checked(&json!({"expires_on": form}), Identity::Default).unwrap();
            assert_eq!(token.expires_on().as_secs(), seconds, "{form}");
        }
        for form in [
            json!(""),
            json!("soon"),
            json!(null),
            json!([]),
            json!(-1),
            json!("NaN"),
            json!("1e400"),
            json!("13/40/2019 14:00:00 +00:00"),
            json!("6/8/2019 14:00:00 PM +00:00"),
            json!("06/08/2019 14:00:00 +02:00"),
        ] {
            assert!(
                checked(&json!({"expires_on": form}), Identity::Default).is_err(),
                "{form}"
            );
        }
    }

    #[test]
    fn a_life_that_cannot_be_is_refused() {
        for (seconds, good) in [
            (1_560_000_000_u64, false),
            (1_560_000_001, true),
            (1_560_000_000 + 28 * 3600 - 1, true),
            (1_560_000_000 + 28 * 3600, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(
                checked(&json!({"expires_on": seconds}), Identity::Default).is_ok(),
                good,
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_foreign_or_empty_token_is_refused() {
        for (changes, good) in [
            (json!({}), true),
            (json!({"token_type": null, "resource": null, "client_id": null}), true),
            (json!({"token_type": "bearer"}), true),
            (json!({"token_type": "mtls_pop"}), false),
            (json!({"resource": "https://storage.azure.com"}), true),
            (json!({"resource": "https://storage.azure.com//"}), false),
            (json!({"resource": "https://vault.azure.net/"}), false),
            (json!({"access_token": ""}), false),
            (json!({"access_token": "a\nb"}), false),
            (json!({"access_token": 5}), false),
            (json!({"access_token": null}), false),
        ] {
            assert_eq!(checked(&changes, Identity::Default).is_ok(), good, "{changes}");
        }
        for (echo, kept) in [
            (json!("ABC"), Some("ABC")),
            (json!(""), None),
            (json!("a b"), None),
            (json!("x".repeat(513)), None),
            (json!(7), None),
        ] {
            let token = checked(&json!({"client_id": echo}), Identity::Default).unwrap();
            assert_eq!(token.client_id(), kept, "{echo}");
        }
        for body in ["", "[]", "null", "<html>", r#"{"ExceptionMessage":"x"}"#] {
            assert!(
                check(body.as_bytes(), &key(Identity::Default), false, NOW).is_err(),
                "{body}"
            );
        }
    }

    #[test]
    fn an_echoed_id_is_compared_with_a_selector_of_its_own_kind_only() {
        assert!(checked(&json!({}), Identity::client_id("abc").unwrap()).is_ok());
        assert!(checked(&json!({}), Identity::client_id("other").unwrap()).is_err());
        assert!(checked(&json!({}), Identity::object_id("other").unwrap()).is_ok());
        assert!(checked(&json!({"object_id": "o"}), Identity::object_id("other").unwrap()).is_err());
        assert!(checked(&json!({"mi_res_id": "/S/X"}), Identity::resource_id("/s/x").unwrap()).is_ok());
        assert!(checked(&json!({"msi_res_id": "/S/Y"}), Identity::resource_id("/s/x").unwrap()).is_err());
    }

    #[test]
    fn claims_of_another_identity_are_refused_where_they_are_there() {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let jwt = |claims: &str| json!({"client_id": null, "access_token": format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))});
        let mine = r#"{"appid":"MINE","oid":"MINE","xms_mirid":"MINE","azp":"other"}"#;
        let other = r#"{"appid":"other","oid":"other","xms_mirid":"other"}"#;
        let of_kind: [(fn(&str) -> _, _, _); 3] = [
            (Identity::client_id, r#"{"appid":"other"}"#, r#"{"azp":"other"}"#),
            (Identity::object_id, r#"{"oid":"other"}"#, r#"{"oid":""}"#),
            (
                Identity::resource_id,
                r#"{"xms_mirid":"other"}"#,
                r#"{"xms_mirid":"mine/"}"#,
            ),
        ];
        for (selector, foreign, also_foreign) in of_kind {
            let checked = |claims: &str| checked(&jwt(claims), selector("mine").unwrap());
            for claims in [foreign, also_foreign, other] {
                assert_eq!(
                    checked(claims).unwrap_err(),
                    "its claims are those of another identity",
                    "{claims}"
                );
            }
            for claims in [
                mine,
                "{}",
                "[]",
                "no JSON",
                r#"{"appid":7,"azp":null,"oid":["other"],"xms_mirid":{}}"#,
            ] {
                assert!(checked(claims).is_ok(), "{claims}");
            }
            assert!(
                super::tests::checked(
                    &json!({"client_id": null, "access_token": "opaque"}),
                    selector("mine").unwrap()
                )
                .is_ok()
            );
        }
        // Another kind of selector's claim says nothing, and no selector asks for none.
        assert!(checked(&jwt(r#"{"oid":"other"}"#), Identity::client_id("mine").unwrap()).is_ok());
        assert!(checked(&jwt(other), Identity::Default).is_ok());
    }

    #[test]
    fn an_endpoint_that_may_ignore_selectors_must_echo_them() {
        let checked =
            |changes: Value, identity| check(reply(&changes).to_string().as_bytes(), &key(identity), true, NOW);
        assert!(checked(json!({}), Identity::client_id("abc").unwrap()).is_ok());
        assert!(checked(json!({"client_id": null}), Identity::client_id("abc").unwrap()).is_err());
        assert!(checked(json!({}), Identity::resource_id("/s/x").unwrap()).is_err());
        assert!(checked(json!({"client_id": null}), Identity::Default).is_ok());
    }
}

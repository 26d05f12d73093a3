//! The forms in which a token is handed on: what other programs read from standard output or from a file.
//!
//! Each is made in a buffer of its final size that is wiped: one that grows would leave copies of the token behind.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// What a form is written into.
pub type Text = Zeroizing<Vec<u8>>;

/// More than any form adds to a token, names of hosts and users included.
const ROOM: usize = 4096;
/// The last second that RFC 3339 can write.
const END_OF_9999: u64 = 253_402_300_799;

/// A token as the daemon answers it. The token's characters need no escape in JSON, so it is never copied.
#[derive(Deserialize)]
pub struct Issued<'a> {
    access_token: &'a str,
    /// Seconds since 1970.
    #[serde(deserialize_with = "seconds")]
    pub expires_on: u64,
    /// Seconds for which it is good, by the daemon's clocks.
    #[serde(deserialize_with = "seconds")]
    pub expires_in: u64,
    #[serde(deserialize_with = "seconds")]
    not_before: u64,
    resource: &'a str,
    client_id: Option<&'a str>,
}

impl<'a> Issued<'a> {
    /// Of the daemon's answer; `None` where it is not one.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The token itself.
    pub fn token(&self) -> &'a str {
        self.access_token
    }

    /// The bare token.
    pub fn bare(&self) -> Text {
        self.text(&[self.access_token.as_bytes()])
    }

    /// An HTTP header.
    pub fn header(&self) -> Text {
        self.text(&[b"Authorization: Bearer ", self.access_token.as_bytes()])
    }

    /// What kubectl reads from an exec plugin: an `ExecCredential`,
    /// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>.
    pub fn kubernetes(&self) -> Text {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ExecCredential<'a> {
            api_version: &'static str,
            kind: &'static str,
            status: Status<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Status<'a> {
            expiration_timestamp: String,
            token: &'a str,
        }
        self.json(&ExecCredential {
            api_version: "client.authentication.k8s.io/v1",
            kind: "ExecCredential",
            status: Status {
                expiration_timestamp: instant(self.expires_on),
                token: self.access_token,
            },
        })
    }

    /// What Google's libraries read from an executable, <https://google.aip.dev/auth/4117>.
    pub fn gcp(&self) -> Text {
        #[derive(Serialize)]
        struct Response<'a> {
            version: u8,
            success: bool,
            token_type: &'static str,
            id_token: &'a str,
            expiration_time: u64,
        }
        self.json(&Response {
            version: 1,
            success: true,
            token_type: "urn:ietf:params:oauth:token-type:jwt",
            id_token: self.access_token,
            expiration_time: self.expires_on,
        })
    }

    /// What the token says, for people: its times and its claims, without the token and its signature.
    pub fn claims(&self) -> Text {
        #[derive(Serialize)]
        struct Said<'a> {
            resource: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_id: Option<&'a str>,
            not_before: String,
            expires_on: String,
            expires_in: String,
            /// Null where the token is no JWT.
            claims: Option<Map<String, Value>>,
        }
        let json = serde_json::to_string_pretty(&Said {
            resource: self.resource,
            client_id: self.client_id,
            not_before: instant(self.not_before),
            expires_on: instant(self.expires_on),
            expires_in: humantime::format_duration(Duration::from_secs(self.expires_in)).to_string(),
            claims: self.payload(),
        });
        // JSON leaves DEL and the controls beyond ASCII as they are; a terminal obeys some.
        let json = json.unwrap_or_default();
        let escaped = json.chars().map(|c| match c {
            '\n' => c.to_string(),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        });
        escaped.collect::<String>().into_bytes().into()
    }

    /// The claims of a token that is a JWT (RFC 7519).
    fn payload(&self) -> Option<Map<String, Value>> {
        let mut parts = self.access_token.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&payload).ok()
    }

    fn text(&self, parts: &[&[u8]]) -> Text {
        let mut text = Zeroizing::new(Vec::with_capacity(self.access_token.len() + ROOM));
        for part in parts {
            text.extend_from_slice(part);
        }
        text
    }

    fn json(&self, value: &impl Serialize) -> Text {
        let mut text = self.text(&[]);
        // Structs of strings and numbers, into memory: neither can fail.
        _ = serde_json::to_writer(text.by_ref(), value);
        text
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= END_OF_9999);
    // The text that came may be anything, and is not repeated.
    seconds.ok_or_else(|| serde::de::Error::custom("is not a number of seconds"))
}

/// RFC 3339, in UTC.
pub fn instant(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(END_OF_9999));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method's path is of one lifetime only"
)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(token: &str) -> String {
        json!({
            "access_token": token, "client_id": "abc", "expires_in": "3600", "expires_on": "1764010000",
            "ext_expires_in": "3600", "not_before": "1763923600", "resource": "https://r/", "token_type": "Bearer",
        })
        .to_string()
    }

    fn text(form: impl Fn(&Issued<'_>) -> Text, token: &str) -> String {
        let answer = answer(token);
        let issued = Issued::read(answer.as_bytes()).unwrap();
        let text = form(&issued);
        assert!(text.capacity() <= token.len() + ROOM, "it grew, and left a copy behind");
        String::from_utf8(text.to_vec()).unwrap()
    }

    #[test]
    fn each_form_is_what_its_readers_want() {
        assert_eq!(text(|i| i.bare(), "e30.e30.c2ln"), "e30.e30.c2ln");
        assert_eq!(
            text(|i| i.header(), "e30.e30.c2ln"),
            "Authorization: Bearer e30.e30.c2ln"
        );
        let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
        assert_eq!(
            json(text(|i| i.kubernetes(), "e30.e30.c2ln")),
            json!({
                "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                "status": { "expirationTimestamp": "2025-11-24T18:46:40Z", "token": "e30.e30.c2ln" },
            })
        );
        assert_eq!(
            json(text(|i| i.gcp(), "e30.e30.c2ln")),
            json!({
                "version": 1, "success": true, "token_type": "urn:ietf:params:oauth:token-type:jwt",
                "id_token": "e30.e30.c2ln", "expiration_time": 1_764_010_000,
            })
        );
    }

    #[test]
    fn the_claims_are_told_and_the_token_is_not() {
        let payload = URL_SAFE_NO_PAD.encode("{\"oid\":\"o\",\"name\":\"a\u{9b}2J\"}");
        let token = format!("e30.{payload}.c2lnbmF0dXJl");
        let answer = answer(&token);
        let claims =
            |answer: &str| String::from_utf8(Issued::read(answer.as_bytes()).unwrap().claims().to_vec()).unwrap();
        let text = claims(&answer);
        assert!(
            !text.contains("c2lnbmF0dXJl") && !text.contains(&payload) && !text.contains('\u{9b}'),
            "{text}"
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["claims"], json!({"oid": "o", "name": "a\u{9b}2J"}));
        assert_eq!(value["expires_on"], "2025-11-24T18:46:40Z");
        assert_eq!(value["expires_in"], "1h");
        let value: Value = serde_json::from_str(&claims(&self::answer("opaque"))).unwrap();
        assert_eq!(value["claims"], Value::Null);
    }

    #[test]
    fn what_is_no_answer_of_the_daemon_is_no_token() {
        let good = answer("t");
        for (from, to) in [
            ("\"1764010000\"", "1764010000"),
            ("1764010000", "253402300800"),
            ("access_token", "token"),
        ] {
            assert!(Issued::read(good.replace(from, to).as_bytes()).is_none(), "{to}");
        }
        assert!(Issued::read(b"<html>").is_none());
    }
}

//! The forms in which other programs read a token, from standard output or from a file.
//!
//! Each is built in a buffer that has room from the start and is wiped afterwards: a buffer that grows leaves copies of
//! the token in memory.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::config::keep::Login;

/// The buffer that holds a form.
pub type Text = Zeroizing<Vec<u8>>;

/// More bytes than any form adds to a token, including names of hosts and users.
const ROOM: usize = 4096;
/// The version of an exec plugin's answer that kubectl reads since 1.22. Older ones read the next.
pub const EXEC_V1: &str = "client.authentication.k8s.io/v1";
const EXEC_V1BETA1: &str = "client.authentication.k8s.io/v1beta1";
/// The last second that RFC 3339 can write.
const END_OF_9999: u64 = 253_402_300_799;

/// The daemon's answer with a token. A token's characters need no escape in JSON, so the token is borrowed, not copied.
#[derive(Deserialize)]
pub struct Issued<'a> {
    access_token: &'a str,
    /// Seconds since 1970.
    #[serde(deserialize_with = "seconds")]
    pub expires_on: u64,
    /// Seconds until the token expires, by the daemon's clocks.
    #[serde(deserialize_with = "seconds")]
    pub expires_in: u64,
    #[serde(deserialize_with = "seconds")]
    not_before: u64,
    resource: &'a str,
    client_id: Option<&'a str>,
}

impl<'a> Issued<'a> {
    /// Reads the daemon's answer; `None` if it has another form.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

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

    /// The daemon's answer without `expires_in`, which would be wrong a second later.
    pub fn document(&self) -> Text {
        #[derive(Serialize)]
        struct TokenJson<'a> {
            access_token: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_id: Option<&'a str>,
            expires_on: String,
            not_before: String,
            resource: &'a str,
            token_type: &'static str,
        }
        self.json(&TokenJson {
            access_token: self.access_token,
            client_id: self.client_id,
            expires_on: self.expires_on.to_string(),
            not_before: self.not_before.to_string(),
            resource: self.resource,
            token_type: "Bearer",
        })
    }

    /// An `ExecCredential` of this version, which kubectl reads from an exec plugin:
    /// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>.
    pub fn kubernetes(&self, api_version: &'static str) -> Text {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ExecCredential<'a> {
            api_version: &'static str,
            kind: &'static str,
            status: ExecCredentialStatus<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ExecCredentialStatus<'a> {
            expiration_timestamp: String,
            token: &'a str,
        }
        self.json(&ExecCredential {
            api_version,
            kind: "ExecCredential",
            status: ExecCredentialStatus {
                expiration_timestamp: instant(self.expires_on),
                token: self.access_token,
            },
        })
    }

    /// The answer that Google's libraries read from an executable: <https://google.aip.dev/auth/4117>.
    pub fn gcp(&self) -> Text {
        #[derive(Serialize)]
        struct ExecutableResponse<'a> {
            version: u8,
            success: bool,
            token_type: &'static str,
            id_token: &'a str,
            expiration_time: u64,
        }
        self.json(&ExecutableResponse {
            version: 1,
            success: true,
            token_type: "urn:ietf:params:oauth:token-type:jwt",
            id_token: self.access_token,
            expiration_time: self.expires_on,
        })
    }

    /// The token's times and claims, for people; without the token and its signature.
    pub fn claims(&self) -> Text {
        #[derive(Serialize)]
        struct ClaimsJson<'a> {
            resource: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_id: Option<&'a str>,
            not_before: String,
            expires_on: String,
            expires_in: String,
            /// Null if the token is no JWT.
            claims: Option<Map<String, Value>>,
        }
        let json = serde_json::to_string_pretty(&ClaimsJson {
            resource: self.resource,
            client_id: self.client_id,
            not_before: instant(self.not_before),
            expires_on: instant(self.expires_on),
            expires_in: humantime::format_duration(Duration::from_secs(self.expires_in)).to_string(),
            claims: self.payload(),
        });
        // JSON does not escape DEL and the control characters beyond ASCII, and a terminal acts on some of them.
        let json = json.unwrap_or_default();
        let escaped = json.chars().map(|c| match c {
            '\n' => c.to_string(),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        });
        escaped.collect::<String>().into_bytes().into()
    }

    /// A line `NAME=TOKEN`, as shells and systemd's `EnvironmentFile=` read it.
    pub fn variable(&self, name: &str) -> Text {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if self.access_token.bytes().all(plain) {
            return self.text(&[name.as_bytes(), b"=", self.access_token.as_bytes()]);
        }
        let mut text = self.text(&[name.as_bytes(), b"='"]);
        escape(&mut text, self.access_token, |byte| match byte {
            b'\'' => Some(b"'\\''"),
            _ => None,
        });
        text.push(b'\'');
        text
    }

    /// A line of libpq's password file.
    pub fn pgpass(&self, login: &Login) -> Text {
        let port = login.port.map(|port| port.to_string());
        let special = |byte| match byte {
            b':' => Some(b"\\:".as_slice()),
            b'\\' => Some(b"\\\\".as_slice()),
            _ => None,
        };
        let mut text = self.text(&[]);
        for field in [&login.host, &port, &login.database, &login.user] {
            escape(&mut text, field.as_deref().unwrap_or("*"), special);
            text.push(b':');
        }
        escape(&mut text, self.access_token, special);
        text
    }

    /// The claims, if the token is a JWT (RFC 7519).
    fn payload(&self) -> Option<Map<String, Value>> {
        let mut parts = self.access_token.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&payload).ok()
    }

    fn text(&self, parts: &[&[u8]]) -> Text {
        // An escaped character takes up to four bytes.
        let mut text = Zeroizing::new(Vec::with_capacity(4 * self.access_token.len() + ROOM));
        for part in parts {
            text.extend_from_slice(part);
        }
        text
    }

    fn json(&self, value: &impl Serialize) -> Text {
        let mut text = self.text(&[]);
        // Writing a struct of strings and numbers into memory cannot fail.
        _ = serde_json::to_writer(text.by_ref(), value);
        text
    }
}

/// The version that kubectl asks for in `KUBERNETES_EXEC_INFO`; it accepts no other.
pub fn exec_version(info: Option<&str>) -> &'static str {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "apiVersion")]
        api_version: String,
    }
    let asked: Option<Info> = info.and_then(|info| serde_json::from_str(info).ok());
    match asked {
        Some(Info { api_version }) if api_version == EXEC_V1BETA1 => EXEC_V1BETA1,
        _ => EXEC_V1,
    }
}

fn escape(text: &mut Text, value: &str, special: impl Fn(u8) -> Option<&'static [u8]>) {
    for byte in value.bytes() {
        match special(byte) {
            Some(escaped) => text.extend_from_slice(escaped),
            None => text.push(byte),
        }
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= END_OF_9999);
    // The error does not repeat the text, which could be a secret.
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
        assert!(
            text.capacity() <= 4 * token.len() + ROOM,
            "it grew, and left a copy behind"
        );
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
            json(text(|i| i.document(), "e30.e30.c2ln")),
            json!({
                "access_token": "e30.e30.c2ln", "client_id": "abc", "expires_on": "1764010000",
                "not_before": "1763923600", "resource": "https://r/", "token_type": "Bearer",
            })
        );
        assert_eq!(
            json(text(|i| i.kubernetes(EXEC_V1), "e30.e30.c2ln")),
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
    fn kubectl_gets_the_version_that_it_asks_for() {
        let info = |version: &str| {
            format!(r#"{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/{version}"}}"#)
        };
        assert_eq!(exec_version(Some(&info("v1beta1"))), EXEC_V1BETA1);
        for other in [Some(&*info("v1")), Some(&info("v1alpha1")), Some("{"), None] {
            assert_eq!(exec_version(other), EXEC_V1);
        }
    }

    #[test]
    fn a_variable_is_quoted_where_a_shell_would_take_it_for_more_than_text() {
        assert_eq!(text(|i| i.variable("P"), "aZ0-._~+/="), "P=aZ0-._~+/=");
        assert_eq!(text(|i| i.variable("P"), "a$b`c`;'d"), r"P='a$b`c`;'\''d'");
    }

    #[test]
    fn what_separates_the_fields_of_a_password_file_is_escaped_in_them() {
        let login = Login {
            host: Some("::1".to_owned()),
            port: Some(5432),
            database: None,
            user: Some(r"a\b".to_owned()),
        };
        assert_eq!(
            text(|i| i.pgpass(&login), "e30.a:b.c2ln"),
            r"\:\:1:5432:*:a\\b:e30.a\:b.c2ln"
        );
        assert_eq!(text(|i| i.pgpass(&Login::default()), "t"), "*:*:*:*:t");
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

//! An access token, stored in the form in which it is served.
//!
//! A [`Token`] cannot be printed: it has no `Display`, and its `Debug` shows no secret. Its bytes are wiped when it is
//! dropped (copies of the kernel and the allocator cannot be reached). It is stored once, inside the JSON that ends every
//! answer, so serving it makes no copy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::key::Resource;

/// The text before the secret in [`Token::object`].
const BEFORE_SECRET: &str = r#"{"access_token":""#;
/// The longest `uti` that is shown. Entra's have 22 characters.
const MAX_UTI: usize = 64;

/// The parts of a token in the upstream's reply.
pub struct Parts {
    /// The secret itself.
    pub access_token: Zeroizing<String>,
    /// The application (client) id of the identity, if the reply names it.
    pub client_id: Option<String>,
    /// End of validity, since 1970.
    pub expires_on: Duration,
    /// Begin of validity, since 1970.
    pub not_before: Duration,
}

/// A secret that no HTTP header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access_token is empty or holds bytes that are not safe in a header")]
pub struct UnsafeToken;

/// A bearer token for one resource.
pub struct Token {
    /// A JSON object with all members of the answer except `expires_in` and its like, which change every second.
    object: Bytes,
    secret_len: usize,
    client_id: Option<Box<str>>,
    expires_on: Duration,
}

/// The members in the order of `docs/protocol.md`, "Answers", row "Order and types". The secret comes first, so that its
/// place is known.
#[derive(Serialize)]
struct AnswerMembers<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    expires_on: String,
    not_before: String,
    resource: &'a Resource,
    token_type: &'static str,
}

impl Token {
    /// Checks and stores the secret. It must be printable ASCII without space, quote and backslash, so that it can stand
    /// unchanged in a header and in a JSON string. `resource` is repeated as the caller wrote it.
    pub fn new(resource: &Resource, parts: &Parts) -> Result<Self, UnsafeToken> {
        let secret = parts.access_token.as_str();
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
            return Err(UnsafeToken);
        }
        let members = AnswerMembers {
            access_token: secret,
            client_id: parts.client_id.as_deref(),
            expires_on: parts.expires_on.as_secs().to_string(),
            not_before: parts.not_before.as_secs().to_string(),
            resource,
            token_type: "Bearer",
        };
        // The buffer has its final size from the start: one that grows leaves copies of the secret in memory.
        let mut object = Zeroizing::new(Vec::with_capacity(secret.len() + resource.as_str().len() + 512));
        serde_json::to_writer(&mut *object, &members).map_err(|_| UnsafeToken)?;
        Ok(Self {
            object: Bytes::from_owner(object),
            secret_len: secret.len(),
            client_id: parts.client_id.as_deref().map(Into::into),
            expires_on: parts.expires_on,
        })
    }

    /// The token as it is cached: in memory of just its size, taken when all that its fetch held is free again. Where it is
    /// read from the reply it would lie among that, and what is free between two tokens would be too small for the next fetch.
    pub fn kept(self) -> Arc<Self> {
        let object: Zeroizing<Box<[u8]>> = Zeroizing::new(self.object().into());
        Arc::new(Self {
            object: Bytes::from_owner(object),
            ..self
        })
    }

    /// The end of every answer that carries this token: `"access_token":"…", … }`.
    pub fn members(&self) -> Bytes {
        self.object.slice(1..)
    }

    /// The token as a JSON object in the form of an upstream's reply, with the secret.
    pub fn object(&self) -> &[u8] {
        &self.object
    }

    /// How many bytes the token takes.
    pub fn size(&self) -> usize {
        self.object.len() + self.client_id.as_ref().map_or(0, |id| id.len())
    }

    /// End of validity by the wall clock, since 1970.
    pub fn expires_on(&self) -> Duration {
        self.expires_on
    }

    /// The client id in the upstream's reply. It tells which identity is the default.
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// Whether `hash` is the SHA-256 of the secret; `token_sha256_to_refresh` names a refused token by it.
    pub fn has_sha256(&self, hash: &[u8; 32]) -> bool {
        Sha256::digest(self.secret()).as_slice() == hash
    }

    /// Whether both have the same secret.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.secret() == other.secret()
    }

    /// The `uti` claim, by which sign-in logs name this token; it is no secret. `None` if the token is no JWT, or its
    /// `uti` has another form.
    pub fn uti(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Claims {
            uti: String,
        }
        let Claims { uti } = claims(self.secret())?;
        (uti.len() <= MAX_UTI && uti.bytes().all(|byte| byte.is_ascii_graphic())).then_some(uti)
    }

    fn secret(&self) -> &[u8] {
        self.object
            .get(BEFORE_SECRET.len()..BEFORE_SECRET.len() + self.secret_len)
            .unwrap_or_default()
    }
}

/// What the payload of a JWT says; `None` for anything else.
pub fn claims<T: DeserializeOwned>(secret: &[u8]) -> Option<T> {
    let payload = secret.split(|byte| *byte == b'.').nth(1)?;
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    serde_json::from_slice(&payload).ok()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on.as_secs())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on.as_secs())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: &str) -> Result<Token, UnsafeToken> {
        let parts = Parts {
            access_token: Zeroizing::new(secret.to_owned()),
            client_id: Some("abc".to_owned()),
            expires_on: Duration::from_secs(2_000_000_000),
            not_before: Duration::from_secs(1_900_000_000),
        };
        Token::new(&Resource::new("https://storage.azure.com/").unwrap(), &parts)
    }

    #[test]
    fn the_tail_of_the_answer_holds_every_lasting_member() {
        let json = [b"{", token("e30.e30.c2ln").unwrap().kept().members().as_ref()].concat();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "access_token": "e30.e30.c2ln", "client_id": "abc", "expires_on": "2000000000",
                "not_before": "1900000000", "resource": "https://storage.azure.com/", "token_type": "Bearer",
            })
        );
    }

    #[test]
    fn the_secret_is_found_for_comparison_and_nowhere_else() {
        let (one, two) = (token("one").unwrap(), token("two").unwrap());
        assert!(one.is_same_as(&token("one").unwrap()) && !one.is_same_as(&two));
        let hash: [u8; 32] = Sha256::digest(b"one").into();
        assert!(one.has_sha256(&hash) && !two.has_sha256(&hash));
        assert!(!format!("{one:?}").contains("one"));
    }

    #[test]
    fn the_uti_is_read_from_the_claims_and_nothing_odd_is_taken_for_it() {
        let with = |claims: &str| {
            let secret = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
            token(&secret).unwrap().uti()
        };
        assert_eq!(with(r#"{"aud":"x","uti":"abc-_1"}"#).as_deref(), Some("abc-_1"));
        assert_eq!(with(&format!(r#"{{"uti":"{}"}}"#, "u".repeat(65))), None);
        for claims in [r#"{"uti":"a b"}"#, r#"{"uti":7}"#, r#"{"aud":"x"}"#, "[]", ""] {
            assert_eq!(with(claims), None, "{claims}");
        }
        assert!(token("opaque").unwrap().uti().is_none() && token("a.!.c").unwrap().uti().is_none());
    }

    #[test]
    fn a_secret_that_no_header_carries_is_refused() {
        for odd in ["", "a b", "a\r\nX: y", "a\"b", "a\\b", "\u{e9}", "a\0"] {
            assert_eq!(token(odd).unwrap_err(), UnsafeToken, "{odd:?}");
        }
    }
}

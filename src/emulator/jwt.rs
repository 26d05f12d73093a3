//! Makes tokens in the form of a JWT: three base64url parts. They are not signed, and no signature is checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Bytes of an RS256 signature under a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// A text that every token carries in its signature part, so that a test can search files, logs and memory for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary(String);

/// The claims of a token with three parts.
pub fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// A token with these claims, a plausible header, and random bytes for a signature.
pub(super) fn build(claims: &Map<String, Value>, canary: Option<&Canary>) -> String {
    let header = json!({"typ": "JWT", "alg": "RS256", "x5t": KEY_ID, "kid": KEY_ID});
    let mut signature = random_base64url(SIGNATURE_BYTES);
    if let Some(Canary(text)) = canary {
        signature.replace_range(..text.len(), text);
    }
    let encode = |json: String| URL_SAFE_NO_PAD.encode(json);
    format!(
        "{}.{}.{signature}",
        encode(header.to_string()),
        encode(Value::Object(claims.clone()).to_string())
    )
}

/// Random bytes, in base64url.
pub(super) fn random_base64url(bytes: usize) -> String {
    URL_SAFE_NO_PAD.encode((0..bytes).map(|_| fastrand::u8(..)).collect::<Vec<_>>())
}

const KEY_ID: &str = "L1KfKFI_jnXbwWc22xZxw1sUHH0";

impl std::str::FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (8..=128).contains(&text.len());
        if fits
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            Ok(Self(text.to_owned()))
        } else {
            Err("8 to 128 of the letters that a token has: A-Z a-z 0-9 - _".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(token: &str) -> Vec<Vec<u8>> {
        token
            .split('.')
            .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap())
            .collect()
    }

    #[test]
    fn a_token_is_three_parts_with_a_signature_of_the_right_length() {
        let token = build(&json!({"aud": "x"}).as_object().unwrap().clone(), None);
        let parts = parts(&token);
        assert_eq!(parts.len(), 3);
        let header: Value = serde_json::from_slice(&parts[0]).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&json!("RS256"), &json!("JWT")));
        assert_eq!(parts[2].len(), SIGNATURE_BYTES);
        assert_eq!(claims(&token).unwrap()["aud"], "x");
    }

    #[test]
    fn the_canary_stands_in_the_signature_and_leaves_it_well_formed() {
        let canary: Canary = "CANARY-in-the-mine_0".parse().unwrap();
        let token = build(&Map::new(), Some(&canary));
        assert!(token.rsplit('.').next().unwrap().contains("CANARY-in-the-mine_0"));
        assert_eq!(parts(&token)[2].len(), SIGNATURE_BYTES);
        for bad in ["short", "has a space", "quote\"quote", &"x".repeat(129)] {
            assert!(bad.parse::<Canary>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        for text in ["", "a.b", "a.b.c", "a.e30.c.d", "a.W10.c"] {
            assert_eq!(claims(text), None, "{text}");
        }
        assert_eq!(claims("a.e30.c"), Some(Map::new()));
    }
}

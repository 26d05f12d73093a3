//! What a client shows to prove that it was given the environment of `sdk.env`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// In bytes, before encoding.
const SIZE: usize = 32;

/// 256 random bits, in base64url so that neither a header nor an environment file needs quoting.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one, from the kernel.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; SIZE]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// One made before; `None` for what [`Secret::random`] does not make.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        (bytes.len() == SIZE).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// Compares in a time that does not depend on where the two differ.
    pub fn matches(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }

    /// For `sdk.env` alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_itself_alone_and_cannot_be_printed() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let text = one.expose().to_owned();
        assert!(Secret::parse(&text).unwrap().matches(text.as_bytes()));
        assert!(!one.matches(other.expose().as_bytes()));
        assert!(
            !one.matches(&text.as_bytes()[1..]) && !one.matches(b"") && !one.matches(format!("{text}x").as_bytes())
        );
        assert!(!format!("{one:?}").contains(&text));
    }

    #[test]
    fn what_we_do_not_make_is_no_secret() {
        for text in [
            "",
            "x",
            &"A".repeat(42),
            &"A".repeat(44),
            &format!("{}=", "A".repeat(43)),
            &"/".repeat(43),
        ] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}

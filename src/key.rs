//! The [`Key`] of a cached token: its resource, its identity and the caller's capabilities.
//!
//! A key consists of typed parts and not of a joined string, so two different requests never have the same key. The
//! length and the characters of a [`Resource`] and an [`Identity`] are checked when they are made.

use std::fmt;
use std::hash::Hash;

use serde::{Deserialize, Serialize, Serializer};

/// The longest `resource`, in bytes.
pub const MAX_RESOURCE: usize = 1024;
/// The longest identity selector, in bytes.
pub const MAX_IDENTITY: usize = 512;

/// A resource or selector that cannot be part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// An empty value.
    #[error("is empty")]
    Empty,
    /// Longer than the bound for its kind.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// An identity in none of the forms that [`Identity`] is displayed in.
    #[error("is not an identity")]
    NoIdentity,
    /// A control character, a space, or anything beyond ASCII.
    #[error("holds a byte that is not printable ASCII, or a space")]
    NotPrintable,
    /// In a resource id, a character that no name in Azure has: a control or formatting character, a space, a symbol beyond
    /// ASCII.
    #[error("holds a character that is neither printable ASCII nor a letter or a digit")]
    NoLetter,
}

/// The audience asked for, byte for byte as the caller wrote it: Microsoft Entra compares exactly, so neither case nor
/// the last slash may change (`docs/protocol.md`, "Requests", row "Resource").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Resource(Box<str>);

/// Which of the VM's identities the token is for. Selectors are stored in lower case, since GUIDs and ARM ids compare
/// without case. Selectors of different kinds are different keys, even if they name the same identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Identity {
    /// No selector: the VM's default identity, which the endpoint chooses and which may change (`docs/protocol.md`,
    /// "Requests", row "Default identity").
    Default,
    /// `client_id`
    ClientId(Box<str>),
    /// `object_id`, also written `principal_id`
    ObjectId(Box<str>),
    /// `msi_res_id`, also written `mi_res_id`: the identity's ARM resource id.
    ResourceId(Box<str>),
}

/// The identity of a cached token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The resource.
    pub resource: Resource,
    /// The identity.
    pub identity: Identity,
    /// Client capabilities (`xms_cc`). They go to the endpoint and change the token.
    pub capabilities: Option<Box<str>>,
    /// Who issues the token (`authority`), passed on likewise.
    pub authority: Option<Box<str>>,
}

impl Resource {
    /// Takes 1 to [`MAX_RESOURCE`] bytes of printable ASCII without space.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        check(text, MAX_RESOURCE).map(|()| Self(text.into()))
    }

    /// The text as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both name one audience. They may differ by one slash at the end: the services' documents have it, and some
    /// SDKs remove it (`docs/protocol.md`, "Requests", row "Resource").
    pub fn is_same_audience(&self, other: &Self) -> bool {
        self.audience() == other.audience()
    }

    /// What two of one audience have in common.
    pub fn audience(&self) -> &str {
        self.0.strip_suffix('/').unwrap_or(&self.0)
    }
}

impl Identity {
    /// A `client_id`, 1 to [`MAX_IDENTITY`] bytes of printable ASCII without space.
    pub fn client_id(text: &str) -> Result<Self, InvalidKey> {
        check(text, MAX_IDENTITY)?;
        Ok(Self::ClientId(folded(text)))
    }

    /// An `object_id`; bounds as for [`Identity::client_id`].
    pub fn object_id(text: &str) -> Result<Self, InvalidKey> {
        check(text, MAX_IDENTITY)?;
        Ok(Self::ObjectId(folded(text)))
    }

    /// An ARM resource id, 1 to [`MAX_IDENTITY`] bytes of printable ASCII without space and of Unicode letters and digits,
    /// which the name of a resource group may have (`docs/protocol.md`, "Requests", row "Resource id").
    pub fn resource_id(text: &str) -> Result<Self, InvalidKey> {
        check_length(text, MAX_IDENTITY)?;
        let is_fit = |c: char| c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric());
        if text.chars().all(is_fit) {
            Ok(Self::ResourceId(folded(text)))
        } else {
            Err(InvalidKey::NoLetter)
        }
    }
}

impl Key {
    /// A key without client capabilities and authority, which is what nearly every caller and every warm token asks for.
    pub fn new(resource: Resource, identity: Identity) -> Self {
        Self {
            resource,
            identity,
            capabilities: None,
            authority: None,
        }
    }

    /// The same key with the value of `xms_cc`; bounds as for an identity.
    pub fn with_capabilities(self, text: &str) -> Result<Self, InvalidKey> {
        check(text, MAX_IDENTITY)?;
        Ok(Self {
            capabilities: Some(text.into()),
            ..self
        })
    }

    /// The same key with the value of `authority`; bounds as for an identity.
    pub fn with_authority(self, text: &str) -> Result<Self, InvalidKey> {
        check(text, MAX_IDENTITY)?;
        Ok(Self {
            authority: Some(text.into()),
            ..self
        })
    }
}

fn check(text: &str, max: usize) -> Result<(), InvalidKey> {
    check_length(text, max)?;
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(InvalidKey::NotPrintable)
    }
}

fn check_length(text: &str, max: usize) -> Result<(), InvalidKey> {
    match text.len() {
        0 => Err(InvalidKey::Empty),
        length if length > max => Err(InvalidKey::TooLong(max)),
        _ => Ok(()),
    }
}

fn folded(text: &str) -> Box<str> {
    text.to_ascii_lowercase().into()
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `default`, `client_id:…`, `object_id:…` or `resource_id:…`: the form in logs, metrics and `/status`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::ClientId(id) => write!(f, "client_id:{id}"),
            Self::ObjectId(id) => write!(f, "object_id:{id}"),
            Self::ResourceId(id) => write!(f, "resource_id:{id}"),
        }
    }
}

/// For sentences in logs and errors: "<resource> for <identity>".
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, identity, .. } = self;
        match identity {
            Identity::Default => write!(f, "{resource} for the VM's default identity"),
            _ => write!(f, "{resource} for {identity}"),
        }
    }
}

impl TryFrom<String> for Resource {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        Self::new(&text)
    }
}

/// Reads the form of its display.
impl TryFrom<String> for Identity {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        match text.split_once(':') {
            None if text == "default" => Ok(Self::Default),
            Some(("client_id", id)) => Self::client_id(id),
            Some(("object_id", id)) => Self::object_id(id),
            Some(("resource_id", id)) => Self::resource_id(id),
            _ => Err(InvalidKey::NoIdentity),
        }
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_keeps_its_bytes_and_a_selector_loses_its_case() {
        assert_eq!(
            Resource::new("https://Vault.Azure.Net/").unwrap().as_str(),
            "https://Vault.Azure.Net/"
        );
        assert_ne!(
            Resource::new("https://a/").unwrap(),
            Resource::new("https://a").unwrap()
        );
        assert_eq!(Identity::client_id("ABC").unwrap(), Identity::client_id("abc").unwrap());
        assert_ne!(Identity::client_id("abc").unwrap(), Identity::object_id("abc").unwrap());
        assert_eq!(
            Identity::resource_id("/Sub/X").unwrap().to_string(),
            "resource_id:/sub/x"
        );
    }

    #[test]
    fn bounds_hold_at_bound_and_bound_plus_one() {
        assert_eq!(Resource::new(""), Err(InvalidKey::Empty));
        assert!(Resource::new(&"r".repeat(MAX_RESOURCE)).is_ok());
        assert_eq!(
            Resource::new(&"r".repeat(MAX_RESOURCE + 1)),
            Err(InvalidKey::TooLong(MAX_RESOURCE))
        );
        assert!(Identity::client_id(&"i".repeat(MAX_IDENTITY)).is_ok());
        assert_eq!(
            Identity::client_id(&"i".repeat(MAX_IDENTITY + 1)),
            Err(InvalidKey::TooLong(MAX_IDENTITY))
        );
        for odd in ["a b", "a\nb", "a\0", "\u{430}", "a\u{7f}"] {
            assert_eq!(Resource::new(odd), Err(InvalidKey::NotPrintable), "{odd:?}");
            assert_eq!(Identity::client_id(odd), Err(InvalidKey::NotPrintable), "{odd:?}");
        }
    }

    #[test]
    fn a_resource_id_may_be_written_in_any_script_and_only_ascii_loses_its_case() {
        for (written, folded) in [
            ("/RG/FORMACI\u{d3}N", "/rg/formaci\u{d3}n"),
            ("/rg/Gr\u{f6}\u{df}e", "/rg/gr\u{f6}\u{df}e"),
            (
                "/rg/\u{6771}\u{4eac}-\u{661}\u{662}",
                "/rg/\u{6771}\u{4eac}-\u{661}\u{662}",
            ),
            ("/rg/\u{417}\u{430}\u{43f}_(1).x", "/rg/\u{417}\u{430}\u{43f}_(1).x"),
        ] {
            let id = Identity::resource_id(written).unwrap();
            assert_eq!(id.to_string(), format!("resource_id:{folded}"));
            assert_eq!(
                Identity::try_from(id.to_string()),
                Ok(id),
                "the carried cache reads it back"
            );
        }
        assert_ne!(Identity::resource_id("\u{d3}"), Identity::resource_id("\u{f3}"));
        let longest = "\u{d3}".repeat(MAX_IDENTITY / 2);
        assert!(Identity::resource_id(&longest).is_ok());
        assert_eq!(
            Identity::resource_id(&format!("{longest}a")),
            Err(InvalidKey::TooLong(MAX_IDENTITY))
        );
        // Cc, Cf, Zs, Zl, Zp, and what is no letter either.
        for odd in [
            "\u{7f}",
            "\u{85}",
            "\n",
            "\u{ad}",
            "\u{200b}",
            "\u{202e}",
            "\u{feff}",
            " ",
            "\u{a0}",
            "\u{3000}",
            "\u{2028}",
            "\u{2029}",
            "\u{2713}",
            "\u{1f600}",
        ] {
            assert_eq!(
                Identity::resource_id(&format!("/rg/a{odd}b")),
                Err(InvalidKey::NoLetter),
                "{odd:?}"
            );
        }
    }

    #[test]
    fn one_slash_at_the_end_makes_no_other_audience() {
        let is_same = |a: &str, b: &str| {
            let (a, b) = (Resource::new(a).unwrap(), Resource::new(b).unwrap());
            assert_eq!(a.is_same_audience(&b), b.is_same_audience(&a));
            a.is_same_audience(&b)
        };
        for (a, b) in [("https://a/", "https://a"), ("api://x/y/", "api://x/y"), ("a", "a")] {
            assert!(is_same(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("https://a//", "https://a"),
            ("https://A/", "https://a"),
            ("https://a/b", "https://a"),
            ("https://a//", "https://a/"),
            ("/", "//"),
        ] {
            assert!(!is_same(a, b), "{a} {b}");
        }
    }
}

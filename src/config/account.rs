//! A user or group as an administrator names it.

use std::fmt;

use super::numbers::{digits, is_digits};

/// The name or the numeric id of a user or group. Which of the two a text is, is decided here alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A uid or gid.
    Id(u32),
    /// To be looked up.
    Name(String),
}

impl Account {
    /// Digits alone are an id, anything else is a name, also `+4646`; `None` for digits that are beyond all ids.
    pub fn named(text: &str) -> Option<Self> {
        if is_digits(text) {
            digits(text).filter(|id| Self::is_id(*id)).map(Self::Id)
        } else {
            Some(Self::Name(text.to_owned()))
        }
    }

    /// The last number is no account's: chown(2) reads it as "nobody in particular".
    pub(super) fn is_id(number: u32) -> bool {
        number < u32::MAX
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

//! A user or group as an administrator names it.

use std::fmt;

use super::numbers::{digits, is_digits};

/// The name or the numeric id of a user or group. Only this file decides which of the two a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A uid or gid.
    Id(u32),
    /// A name, not looked up yet.
    Name(String),
}

impl Account {
    /// A text of digits is an id, any other a name, also `+4646`. `None` for digits beyond the largest id.
    pub fn named(text: &str) -> Option<Self> {
        if is_digits(text) {
            digits(text).filter(|id| Self::is_id(*id)).map(Self::Id)
        } else {
            Some(Self::Name(text.to_owned()))
        }
    }

    /// The largest number is no id: to chown(2) it means "leave the owner as it is".
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

//! The forms of values that are names: of users, groups, units, resources and identities. Whether a user or group exists
//! is not checked here, since that can change while the file stays the same.

use super::Account;
use super::doubts;
use super::read::{Form, Node, ReadFault};
use super::values::{quoted, text, whole_number};
use crate::key::{Identity, InvalidKey, Resource};

/// The name or the numeric id of a user or group.
pub(super) struct UserOrGroup;

/// The full name of a systemd unit that processes can belong to.
pub(super) struct Unit;

/// An audience, byte for byte.
pub(super) struct Audience;

/// One kind of identity selector.
pub(super) struct Selector(pub(super) fn(&str) -> Result<Identity, InvalidKey>);

/// Whether a text has the length and the characters of a unit's name.
pub fn is_unit_name(text: &str) -> bool {
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    (1..=255).contains(&text.len()) && text.bytes().all(is_fit)
}

impl Form<Account> for UserOrGroup {
    fn read(&self, node: &Node<'_>) -> Result<Account, Vec<ReadFault>> {
        if node.get_ref().is_integer() {
            let id = whole_number(node).filter(|id| Account::is_id(*id));
            return id
                .map(Account::Id)
                .ok_or_else(|| ReadFault::bad(node, "is not a numeric id, which goes from 0 to 4294967294"));
        }
        let Some(text) = node.get_ref().as_str() else {
            return Err(ReadFault::wrong_type(node, "a name or a numeric id"));
        };
        if text.is_empty() || text.len() > 256 || text.trim() != text {
            Err(ReadFault::bad(
                node,
                "must be a name of 1 to 256 bytes without space around it",
            ))
        } else if text.chars().any(|c| c.is_control() || matches!(c, ':' | '/' | '*')) {
            Err(ReadFault::with_remedy(
                node,
                format!("cannot be the name of an account: {text:?}"),
                "write the name or the numeric id of one account; there are no patterns",
            ))
        } else {
            Account::named(text).ok_or_else(|| ReadFault::bad(node, format!("is beyond the numeric ids: {text}")))
        }
    }

    /// Ids have quotes, too, because version 0.1.0 reads them only so.
    fn show(&self, value: &Account) -> Option<String> {
        Some(quoted(&value.to_string()))
    }

    fn example(&self) -> String {
        "\"backup\"".into()
    }
}

impl Form<String> for Unit {
    fn read(&self, node: &Node<'_>) -> Result<String, Vec<ReadFault>> {
        let text = text(node)?;
        if !is_unit_name(text) {
            return Err(ReadFault::with_remedy(
                node,
                format!("cannot be the name of a unit: {text:?}"),
                "write one unit's full name; there are no patterns",
            ));
        }
        match text.rsplit_once('.') {
            Some((name, "service" | "scope" | "socket" | "mount" | "swap")) if name.ends_with('@') => {
                Err(ReadFault::with_remedy(
                    node,
                    format!("is a template, which no process belongs to: {text}"),
                    format!("write an instance of it, {}", text.replacen('@', "@INSTANCE", 1)),
                ))
            }
            Some((name, "service" | "scope" | "socket" | "mount" | "swap")) if !name.is_empty() => Ok(text.to_owned()),
            Some((_, "slice")) => Err(ReadFault::with_remedy(
                node,
                format!("is a slice, which only holds units: {text}"),
                "name the units in it",
            )),
            Some((name, kind @ ("timer" | "path" | "target" | "device" | "automount"))) => Err(ReadFault::with_remedy(
                node,
                format!("is a {kind}, which no process belongs to: {text}"),
                format!("name what it starts, such as {name}.service"),
            )),
            _ => Err(ReadFault::with_remedy(
                node,
                format!("is not the full name of a unit: {text}"),
                format!("write {text}.service if that is meant"),
            )),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }

    fn example(&self) -> String {
        "\"nightly-backup.service\"".into()
    }
}

impl Form<Resource> for Audience {
    fn read(&self, node: &Node<'_>) -> Result<Resource, Vec<ReadFault>> {
        Resource::new(text(node)?).map_err(|error| ReadFault::bad(node, error.to_string()))
    }

    fn doubts(&self, _key: &str, node: &Node<'_>, value: &Resource) -> Vec<ReadFault> {
        let doubt = doubts::of_resource(value.as_str());
        doubt.map(|doubt| ReadFault::doubt(node, doubt)).into_iter().collect()
    }

    fn show(&self, value: &Resource) -> Option<String> {
        Some(quoted(value.as_str()))
    }

    fn example(&self) -> String {
        "\"https://storage.azure.com/\"".into()
    }
}

impl Form<Identity> for Selector {
    fn read(&self, node: &Node<'_>) -> Result<Identity, Vec<ReadFault>> {
        (self.0)(text(node)?).map_err(|error| ReadFault::bad(node, error.to_string()))
    }

    fn doubts(&self, key: &str, node: &Node<'_>, value: &Identity) -> Vec<ReadFault> {
        let doubt = text(node).ok().and_then(|text| doubts::of_identity(key, text, value));
        doubt.map(|doubt| ReadFault::doubt(node, doubt)).into_iter().collect()
    }

    fn show(&self, value: &Identity) -> Option<String> {
        match value {
            Identity::Default => None,
            Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => Some(quoted(id)),
        }
    }

    fn example(&self) -> String {
        "\"73444643-8088-4d70-9532-c3a0fdc190fa\"".into()
    }
}

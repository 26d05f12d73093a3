//! The rule that would allow what was refused, as TOML to paste. It is written by a serializer: what a caller asks for may
//! hold any printable character, and what is pasted must mean that and nothing else.

use serde::Serialize;

use super::rule::NOBODY;
use crate::config::{Account, is_unit_name};
use crate::key::{Identity, Key, Resource};

#[derive(Serialize)]
struct File<'a> {
    allow: [Table<'a>; 1],
}

/// Whom a rule is for: the one that would be the narrowest for who asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A service, by its unit.
    Unit(String),
    /// A user, by the name of the account or by the uid.
    User(String),
}

#[derive(Default, Serialize)]
struct Table<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<[&'a str; 1]>,
    resources: Option<&'a [&'a Resource]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ids: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ids: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_ids: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_identity: Option<bool>,
}

impl Who {
    /// A service by its unit, everybody else by the user, with the account's name where it has one. None for uid 65534: a
    /// rule for it would allow every user whom the kernel cannot name.
    pub fn of(uid: u32, account: Option<&str>, unit: Option<&str>) -> Option<Self> {
        match unit.filter(|unit| is_service_of_its_own(unit)) {
            Some(unit) => Some(Self::Unit(unit.to_owned())),
            None if uid == NOBODY => None,
            None => Some(Self::User(user(uid, account))),
        }
    }
}

/// A comment and below it an `[[allow]]` for a service by its unit, else for the user, whose account's name is given where it
/// has one. For uid 65534 the comment says why there is none.
pub fn proposed_rule(uid: u32, account: Option<&str>, unit: Option<&str>, key: &Key) -> String {
    rule_for(uid, account, unit, key).map_or_else(
        || {
            format!(
                "# No rule is proposed for uid {uid}, which stands for every user that the kernel cannot name: run the program as \
                 a user or in a service of its own."
            )
        },
        |rule| {
            format!(
                "# This rule would allow it, as /etc/msi-tokend/conf.d/NAME.toml:\n{}",
                rule.trim_end()
            )
        },
    )
}

fn rule_for(uid: u32, account: Option<&str>, unit: Option<&str>, key: &Key) -> Option<String> {
    rule(&Who::of(uid, account, unit)?, &[&key.resource], &key.identity)
}

/// An `[[allow]]` for resources of one identity.
pub fn rule(who: &Who, resources: &[&Resource], identity: &Identity) -> Option<String> {
    let mut table = Table {
        resources: Some(resources),
        ..Table::default()
    };
    match who {
        Who::Unit(unit) => table.units = Some([unit]),
        Who::User(user) => table.users = Some([user]),
    }
    match identity {
        Identity::Default => table.default_identity = Some(true),
        Identity::ClientId(id) => table.client_ids = Some([id]),
        Identity::ObjectId(id) => table.object_ids = Some([id]),
        Identity::ResourceId(id) => table.resource_ids = Some([id]),
    }
    toml::to_string(&File { allow: [table] }).ok()
}

/// Units that start programs for any user: a rule for one would be for everybody's jobs.
const STARTERS: [&str; 5] = [
    "anacron.service",
    "atd.service",
    "cron.service",
    "cronie.service",
    "crond.service",
];

/// In `user@UID.service` is whatever the user starts.
fn is_service_of_its_own(unit: &str) -> bool {
    unit.ends_with(".service") && !unit.starts_with("user@") && !STARTERS.contains(&unit) && is_unit_name(unit)
}

/// The account's name if a rule reads it as that name.
fn user(uid: u32, account: Option<&str>) -> String {
    let is_plain = |name: &&str| {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'$' | b'@');
        !name.is_empty() && name.bytes().all(is_name) && matches!(Account::named(name), Some(Account::Name(_)))
    };
    account.filter(is_plain).map_or_else(|| uid.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(resource: &str, identity: Identity) -> Key {
        Key::new(Resource::new(resource).unwrap(), identity)
    }

    #[test]
    fn a_service_is_named_by_its_unit_and_everybody_else_by_the_account() {
        let key = key("https://a", Identity::Default);
        let who = |uid, account, unit| {
            let rule = rule_for(uid, account, unit, &key)?;
            assert!(rule.starts_with("[[allow]]\n"), "{rule}");
            assert!(
                rule.ends_with("resources = [\"https://a\"]\ndefault_identity = true\n"),
                "{rule}"
            );
            rule.lines().nth(1).map(str::to_owned)
        };
        for (account, unit, line) in [
            (Some("www-data"), Some("nginx.service"), "units = [\"nginx.service\"]"),
            (None, Some("app@1.service"), "units = [\"app@1.service\"]"),
            (Some("www-data"), None, "users = [\"www-data\"]"),
            (None, None, "users = [\"33\"]"),
            (Some("ann"), Some("session-3.scope"), "users = [\"ann\"]"),
            (Some("ann"), Some("user@33.service"), "users = [\"ann\"]"),
            (Some("ann"), Some("cron.service"), "users = [\"ann\"]"),
            (None, Some("atd.service"), "users = [\"33\"]"),
            (None, Some("docker-0123.scope"), "users = [\"33\"]"),
            (None, Some("a.service (deleted)"), "users = [\"33\"]"),
            // Names that a rule reads as something else, or not at all.
            (Some("4646"), None, "users = [\"33\"]"),
            (Some("a*"), None, "users = [\"33\"]"),
            (Some(""), None, "users = [\"33\"]"),
        ] {
            assert_eq!(who(33, account, unit).as_deref(), Some(line), "{account:?} {unit:?}");
        }
        for unit in [None, Some("docker-0123.scope")] {
            assert_eq!(who(NOBODY, Some("nobody"), unit), None);
            let text = proposed_rule(NOBODY, Some("nobody"), unit, &key);
            assert!(
                text.starts_with("# No rule is proposed for uid 65534") && !text.contains('\n'),
                "{text}"
            );
        }
        assert_eq!(
            who(NOBODY, Some("nobody"), Some("a.service")).as_deref(),
            Some("units = [\"a.service\"]")
        );
    }

    #[test]
    fn what_was_asked_for_stays_one_string_whatever_it_holds() {
        for resource in [
            "https://a/\"]}[[allow]]",
            "a\"]#",
            "\\\",users=[\"root\"],x=\"",
            "'''\"\"\"",
            "{}[]=,",
        ] {
            let key = key(resource, Identity::client_id(resource).unwrap());
            let rule = rule_for(33, None, None, &key).unwrap();
            let read: toml::Table = rule.parse().unwrap();
            let [toml::Value::Table(table)] = read["allow"].as_array().unwrap().as_slice() else {
                panic!("{rule}")
            };
            assert_eq!(table["resources"].as_array().unwrap()[0].as_str(), Some(resource));
            assert_eq!(
                table["client_ids"].as_array().unwrap()[0].as_str(),
                Some(&*resource.to_lowercase())
            );
            assert_eq!((read.len(), table.len()), (1, 3), "{rule}");
        }
    }
}

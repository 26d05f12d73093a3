//! One rule: whom it is for, which tokens it allows, and what of it does not match.

use std::fmt;
use std::path::Path;

use nix::unistd::{Group, User};

use super::caller::Caller;
use super::unit_files;
use crate::config::{Account, Allow, Origin, Violation};
use crate::key::{Identity, Key, Resource};

/// The kernel's uid for a user that has no uid in this user namespace (`docs/protocol.md`, "The kernel and systemd", row
/// "Overflow uid").
pub const NOBODY: u32 = 65534;

/// One `[[allow]]` rule.
#[derive(Debug)]
pub struct Rule {
    /// Sorted, as the groups are.
    pub(super) users: Option<Vec<u32>>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) units: Option<Vec<String>>,
    pub(super) resources: Option<Vec<Resource>>,
    pub(super) identities: Option<Vec<Identity>>,
    /// The identity for callers that name none.
    pub(super) default: Option<Identity>,
    /// The rule's place in the configuration.
    pub origin: Origin,
}

/// A kind of condition. A rule matches if all its conditions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `users`
    Users,
    /// `groups`
    Groups,
    /// `units`
    Units,
    /// `resources`
    Resources,
    /// `client_ids`, `object_ids`, `resource_ids`, `default_identity`
    Identities,
}

impl Rule {
    pub(super) fn resolve(allow: &Allow, doubts: &mut Vec<Violation>) -> Self {
        for unit in allow.units.iter().flatten() {
            let doubt = unit_files::doubt(Path::new("/"), unit);
            doubts.extend(doubt.map(|(what, remedy)| Violation::doubt(&allow.origin, "allow.units", what, remedy)));
        }
        let mut ids = |kind, accounts: &Option<Vec<Account>>, id_of: fn(&Account) -> Option<u32>| {
            accounts.as_ref().map(|accounts| {
                let found = accounts.iter().filter_map(|account| {
                    let id = id_of(account);
                    if id.is_none() {
                        let what = format!("names \"{account}\", and there is no such {kind} on this machine");
                        let remedy = format!("create the {kind}, or correct the name");
                        doubts.push(Violation::doubt(&allow.origin, format!("allow.{kind}s"), what, remedy));
                    }
                    id
                });
                let mut found: Vec<_> = found.collect();
                found.sort_unstable();
                found
            })
        };
        Self {
            users: ids("user", &allow.users, uid_of),
            groups: ids("group", &allow.groups, gid_of),
            units: allow.units.clone(),
            resources: allow.resources.clone(),
            identities: allow.identities.clone(),
            default: allow.default.clone(),
            origin: allow.origin.clone(),
        }
    }

    pub(super) fn matches(&self, caller: &Caller, key: &Key) -> bool {
        self.mismatches(caller, key).next().is_none()
    }

    pub(super) fn is_for(&self, caller: &Caller) -> bool {
        self.is_for_user(caller) && self.is_for_groups(caller) && self.is_for_unit(caller)
    }

    /// An unmapped uid may be any user's, so it matches only if a rule names it.
    fn is_for_user(&self, caller: &Caller) -> bool {
        self.users
            .as_ref()
            .map_or(caller.uid != NOBODY, |users| users.binary_search(&caller.uid).is_ok())
    }

    fn is_for_groups(&self, caller: &Caller) -> bool {
        self.groups.as_deref().is_none_or(|groups| caller.is_in_any(groups))
    }

    fn is_for_unit(&self, caller: &Caller) -> bool {
        self.units.as_ref().is_none_or(|units| {
            caller
                .unit()
                .is_some_and(|unit| units.iter().any(|named| named == unit))
        })
    }

    #[inline]
    pub(super) fn mismatches(&self, caller: &Caller, key: &Key) -> impl Iterator<Item = Part> {
        // The unit comes last, because finding it reads /proc.
        const PARTS: [Part; 5] = [
            Part::Users,
            Part::Groups,
            Part::Resources,
            Part::Identities,
            Part::Units,
        ];
        PARTS
            .into_iter()
            .filter(move |part| !self.part_matches(*part, caller, key))
    }

    #[inline]
    fn part_matches(&self, part: Part, caller: &Caller, key: &Key) -> bool {
        match part {
            Part::Users => self.is_for_user(caller),
            Part::Groups => self.is_for_groups(caller),
            Part::Units => self.is_for_unit(caller),
            Part::Resources => any(self.resources.as_deref(), |resource| {
                resource.is_same_audience(&key.resource)
            }),
            Part::Identities => any(self.identities.as_deref(), |identity| *identity == key.identity),
        }
    }
}

/// The account's uid on this machine.
pub fn uid_of(user: &Account) -> Option<u32> {
    match user {
        Account::Id(uid) => Some(*uid),
        Account::Name(name) => Some(User::from_name(name).ok()??.uid.as_raw()),
    }
}

/// The group's gid on this machine.
pub fn gid_of(group: &Account) -> Option<u32> {
    match group {
        Account::Id(gid) => Some(*gid),
        Account::Name(name) => Some(Group::from_name(name).ok()??.gid.as_raw()),
    }
}

/// A list that is not given matches everything; a given one matches if any entry does.
fn any<T>(list: Option<&[T]>, matches: impl Fn(&T) -> bool) -> bool {
    list.is_none_or(|list| list.iter().any(matches))
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Users => "users",
            Self::Groups => "groups",
            Self::Units => "units",
            Self::Resources => "resources",
            Self::Identities => "identities",
        })
    }
}

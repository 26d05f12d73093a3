//! Which tokens a caller may have. The same code judges a request and answers `msi-token explain`; it does no I/O.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Group, User};

use super::caller::Caller;
use super::unit_files;
use crate::config::{Account, Allow, Origin, RootAccess, Violation};
use crate::key::{Identity, Key, Resource};

/// The kernel's uid for a user that has no uid in this user namespace (`docs/protocol.md`, "The kernel and systemd", row
/// "Overflow uid").
pub const NOBODY: u32 = 65534;

/// The rules in force, with ids in the place of names.
#[derive(Debug)]
pub struct Rules {
    pub(super) allow: Vec<Arc<Rule>>,
    root: RootAccess,
    own_uid: u32,
}

/// One `[[allow]]` rule.
#[derive(Debug)]
pub struct Rule {
    pub(super) users: Option<Vec<u32>>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) units: Option<Vec<String>>,
    pub(super) resources: Option<Vec<Resource>>,
    identities: Option<Vec<Identity>>,
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

/// Why a caller may have a token.
#[derive(Clone, Debug)]
pub enum Grant {
    /// Root, where it needs no rule, or the daemon's own uid.
    Privileged,
    /// This rule allows it.
    Rule(Arc<Rule>),
}

impl Rules {
    /// Looks the names up. Those that match nobody, such as users who do not exist, are given back, to be warned of.
    pub fn resolve(allow: &[Allow], root: RootAccess, own_uid: u32) -> (Self, Vec<Violation>) {
        let mut doubts = Vec::new();
        let resolved = allow
            .iter()
            .map(|allow| Arc::new(Rule::resolve(allow, &mut doubts)))
            .collect();
        let rules = Self {
            allow: resolved,
            root,
            own_uid,
        };
        (rules, doubts)
    }

    /// Why the caller may have the token; `None` if it may not.
    pub fn judge(&self, caller: &Caller, key: &Key) -> Option<Grant> {
        if self.is_privileged(caller.uid) {
            return Some(Grant::Privileged);
        }
        self.allow
            .iter()
            .find(|rule| rule.matches(caller, key))
            .map(|rule| Grant::Rule(Arc::clone(rule)))
    }

    /// The default identity for a request, and its place in the configuration: that of the first matching rule that has one,
    /// also for privileged callers. `None` if the request names an identity, or no such rule matches.
    pub fn default_for(&self, caller: &Caller, key: &Key) -> Option<(&Identity, &Origin)> {
        if key.identity != Identity::Default {
            return None;
        }
        self.allow.iter().find_map(|rule| {
            let identity = rule.default.as_ref()?;
            let matches = rule.mismatches(caller, key).all(|part| part == Part::Identities);
            matches.then_some((identity, &rule.origin))
        })
    }

    /// Whether it may have every token, rules or not: root, unless it needs a rule, and the daemon's own uid. A daemon that
    /// runs as root needs no token by itself, and one that runs as nobody has no uid of its own: that one is everybody's
    /// whom the kernel cannot name.
    pub fn is_privileged(&self, uid: u32) -> bool {
        match uid {
            0 => self.root == RootAccess::Any,
            NOBODY => false,
            _ => uid == self.own_uid,
        }
    }

    /// Root and the daemon's own uid may look at everything and have the configuration loaded anew, also where root needs
    /// a rule for a token.
    pub fn is_administrator(&self, uid: u32) -> bool {
        uid == 0 || self.is_privileged(uid)
    }

    /// Each rule with its conditions that do not match. A rule without such a condition allows the request.
    pub fn explain(&self, caller: &Caller, key: &Key) -> Vec<(&Rule, Vec<Part>)> {
        self.allow
            .iter()
            .map(|rule| (&**rule, rule.mismatches(caller, key).collect()))
            .collect()
    }

    /// The indexes of the rules that match this caller for some token.
    pub fn numbers_for(&self, caller: &Caller) -> Vec<usize> {
        let rules = self.allow.iter().enumerate();
        rules
            .filter(|(_, rule)| rule.is_for(caller))
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether a seat is kept for the caller where connections are full: for root, for the daemon's user, and for whomever a
    /// rule is for.
    pub fn keep_a_seat_for(&self, caller: &Caller) -> bool {
        self.is_administrator(caller.uid) || self.allow.iter().any(|rule| rule.is_for(caller))
    }

    /// Whether a rule with units might allow it to a caller whose unit is not known, or give that caller an identity.
    pub fn might_allow_by_unit(&self, caller: &Caller, key: &Key) -> bool {
        self.allow.iter().any(|rule| {
            let gives_identity = rule.default.is_some() && key.identity == Identity::Default;
            rule.units.is_some()
                && rule
                    .mismatches(caller, key)
                    .all(|part| part == Part::Units || part == Part::Identities && gives_identity)
        })
    }

    /// Whether any rule asks for the caller's unit.
    pub fn need_units(&self) -> bool {
        self.allow.iter().any(|rule| rule.units.is_some())
    }

    /// The units that rules ask for.
    pub fn named_units(&self) -> HashSet<Box<str>> {
        let units = self.allow.iter().filter_map(|rule| rule.units.as_ref()).flatten();
        units.map(|unit| unit.as_str().into()).collect()
    }

    /// The groups that rules ask for.
    pub fn named_groups(&self) -> HashSet<u32> {
        let groups = self.allow.iter().filter_map(|rule| rule.groups.as_ref()).flatten();
        groups.copied().collect()
    }
}

impl Rule {
    fn resolve(allow: &Allow, doubts: &mut Vec<Violation>) -> Self {
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
                found.collect()
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

    fn matches(&self, caller: &Caller, key: &Key) -> bool {
        self.mismatches(caller, key).next().is_none()
    }

    fn is_for(&self, caller: &Caller) -> bool {
        self.is_for_user(caller) && self.is_for_groups(caller) && self.is_for_unit(caller)
    }

    /// An unmapped uid may be any user's, so it matches only if a rule names it.
    fn is_for_user(&self, caller: &Caller) -> bool {
        self.users
            .as_ref()
            .map_or(caller.uid != NOBODY, |users| users.contains(&caller.uid))
    }

    fn is_for_groups(&self, caller: &Caller) -> bool {
        any(self.groups.as_deref(), |gid| caller.is_in_group(*gid))
    }

    fn is_for_unit(&self, caller: &Caller) -> bool {
        any(self.units.as_deref(), |unit| caller.unit() == Some(unit))
    }

    fn mismatches(&self, caller: &Caller, key: &Key) -> impl Iterator<Item = Part> {
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

/// "privileged", or the rule's place in the configuration.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privileged => f.write_str("privileged"),
            Self::Rule(rule) => rule.origin.fmt(f),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn allow() -> Allow {
        let origin = Origin {
            file: Path::new("config.toml").into(),
            line: 1,
        };
        Allow {
            users: None,
            groups: None,
            units: None,
            resources: None,
            identities: None,
            default: None,
            origin,
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn accounts(names: &[&str]) -> Vec<Account> {
        names.iter().map(|name| Account::named(name).unwrap()).collect()
    }

    fn rules(allow: &[Allow]) -> Rules {
        Rules::resolve(allow, RootAccess::Any, 999).0
    }

    fn key(resource: &str, identity: Identity) -> Key {
        Key::new(Resource::new(resource).unwrap(), identity)
    }

    #[test]
    fn without_a_rule_only_root_and_the_daemon_itself_get_a_token() {
        let (rules, key) = (rules(&[]), key("https://a/", Identity::Default));
        for (uid, allowed) in [(0, true), (999, true), (1000, false), (NOBODY, false)] {
            assert_eq!(
                rules.judge(&Caller::described(uid, vec![0], None), &key).is_some(),
                allowed,
                "{uid}"
            );
        }
    }

    #[test]
    fn a_daemon_that_runs_as_nobody_gives_nobody_more() {
        let rules = Rules::resolve(&[], RootAccess::Any, NOBODY).0;
        let nobody = Caller::described(NOBODY, vec![], None);
        assert!(rules.judge(&nobody, &key("https://a/", Identity::Default)).is_none());
    }

    #[test]
    fn root_needs_a_rule_where_that_is_wanted_also_if_the_daemon_runs_as_root() {
        let key = key("https://a/", Identity::Default);
        let root = Caller::described(0, vec![0], None);
        let for_root = Allow {
            users: Some(vec![Account::Id(0)]),
            ..allow()
        };
        for own_uid in [0, 999] {
            let without = Rules::resolve(&[], RootAccess::Rules, own_uid).0;
            assert!(without.judge(&root, &key).is_none(), "{own_uid}");
            assert!(without.is_administrator(0), "{own_uid}");
            let with = Rules::resolve(std::slice::from_ref(&for_root), RootAccess::Rules, own_uid).0;
            assert!(matches!(with.judge(&root, &key), Some(Grant::Rule(_))), "{own_uid}");
        }
        let itself = Caller::described(999, vec![], None);
        let rules = Rules::resolve(&[], RootAccess::Rules, 999).0;
        assert!(rules.judge(&itself, &key).is_some() && !rules.is_administrator(1000));
    }

    #[test]
    fn any_entry_matches_within_a_list_and_all_lists_must() {
        let rules = rules(&[Allow {
            users: Some(accounts(&["7", "8"])),
            groups: Some(accounts(&["70", "80"])),
            units: Some(strings(&["a.service"])),
            resources: Some(vec![Resource::new("https://a/").unwrap()]),
            identities: Some(vec![Identity::Default, Identity::client_id("C").unwrap()]),
            ..allow()
        }]);
        let judge = |uid, gid, unit: &str, resource, identity| {
            let caller = Caller::described(uid, vec![1, gid], Some(unit.to_owned()));
            rules.judge(&caller, &key(resource, identity)).is_some()
        };
        assert!(judge(7, 70, "a.service", "https://a/", Identity::Default));
        assert!(judge(
            8,
            80,
            "a.service",
            "https://a/",
            Identity::client_id("c").unwrap()
        ));
        assert!(!judge(9, 70, "a.service", "https://a/", Identity::Default));
        assert!(!judge(7, 71, "a.service", "https://a/", Identity::Default));
        assert!(!judge(7, 70, "b.service", "https://a/", Identity::Default));
        assert!(judge(7, 70, "a.service", "https://a", Identity::Default));
        assert!(!judge(7, 70, "a.service", "https://a//", Identity::Default));
        assert!(!judge(7, 70, "a.service", "https://A/", Identity::Default));
        assert!(!judge(
            7,
            70,
            "a.service",
            "https://a/",
            Identity::object_id("c").unwrap()
        ));
    }

    #[test]
    fn an_unmapped_uid_must_be_named_and_an_unknown_name_is_nobody() {
        let key = key("https://a/", Identity::Default);
        let by_group = rules(&[Allow {
            groups: Some(accounts(&["5"])),
            ..allow()
        }]);
        let named = rules(&[Allow {
            users: Some(accounts(&["65534"])),
            ..allow()
        }]);
        let nobody = Caller::described(NOBODY, vec![5], None);
        assert!(by_group.judge(&nobody, &key).is_none() && named.judge(&nobody, &key).is_some());
        let (rules, unknown) = Rules::resolve(
            &[Allow {
                users: Some(accounts(&["no-such-user", "root"])),
                ..allow()
            }],
            RootAccess::Any,
            999,
        );
        assert_eq!(unknown.len(), 1);
        assert!(rules.judge(&Caller::described(1000, vec![], None), &key).is_none());
    }

    #[test]
    fn a_caller_has_the_rules_that_are_for_it_whatever_the_token() {
        let rules = rules(&[
            Allow {
                users: Some(accounts(&["7"])),
                resources: Some(vec![Resource::new("https://a/").unwrap()]),
                ..allow()
            },
            Allow {
                users: Some(accounts(&["7"])),
                groups: Some(accounts(&["70"])),
                ..allow()
            },
        ]);
        let count = |uid, gids| rules.numbers_for(&Caller::described(uid, gids, None)).len();
        assert_eq!((count(7, vec![70]), count(7, vec![]), count(8, vec![70])), (2, 1, 0));
    }

    #[test]
    fn a_rule_explains_every_part_that_does_not_match() {
        let rules = rules(&[Allow {
            users: Some(accounts(&["7"])),
            groups: Some(accounts(&["70"])),
            ..allow()
        }]);
        let key = key("https://a/", Identity::Default);
        let parts = |uid, gids| rules.explain(&Caller::described(uid, gids, None), &key)[0].1.clone();
        assert_eq!(parts(8, vec![]), [Part::Users, Part::Groups]);
        assert_eq!(parts(7, vec![]), [Part::Groups]);
        assert_eq!(parts(7, vec![70]), []);
    }
}

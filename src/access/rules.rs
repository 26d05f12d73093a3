//! Which tokens a caller may have. The same code judges a request and answers `msi-token explain`; it does no I/O.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::caller::Caller;
use super::index::Index;
use super::rule::{NOBODY, Part, Rule};
use crate::config::{Allow, Origin, RootAccess, Violation};
use crate::key::{Identity, Key};

/// The rules in force, with ids in the place of names.
#[derive(Debug)]
pub struct Rules {
    pub(super) allow: Vec<Arc<Rule>>,
    index: Index,
    /// Of the rules that have a default identity, whatever identities they allow; `None` without such a rule.
    index_of_defaults: Option<Index>,
    root: RootAccess,
    own_uid: u32,
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
        let allow: Vec<_> = allow
            .iter()
            .map(|allow| Arc::new(Rule::resolve(allow, &mut doubts)))
            .collect();
        let numbered = allow.iter().map(|rule| &**rule).enumerate();
        let mut with_default = numbered.clone().filter(|(_, rule)| rule.default.is_some()).peekable();
        let rules = Self {
            index: Index::new(numbered, |rule| rule.identities.as_deref()),
            index_of_defaults: with_default
                .peek()
                .is_some()
                .then(|| Index::new(with_default, |_| None)),
            allow,
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
        self.of(self.index.for_caller(caller, Some(key)))
            .find(|(_, rule)| rule.matches(caller, key))
            .map(|(_, rule)| Grant::Rule(Arc::clone(rule)))
    }

    /// The default identity for a request, and its place in the configuration: that of the first matching rule that has one,
    /// also for privileged callers. `None` if the request names an identity, or no such rule matches.
    pub fn default_for(&self, caller: &Caller, key: &Key) -> Option<(&Identity, &Origin)> {
        if key.identity != Identity::Default {
            return None;
        }
        let index = self.index_of_defaults.as_ref()?;
        self.of(index.for_caller(caller, Some(key))).find_map(|(_, rule)| {
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
        self.for_caller(caller).collect()
    }

    /// Whether a seat is kept for the caller where connections are full: for root, for the daemon's user, and for whomever a
    /// rule is for.
    pub fn keep_a_seat_for(&self, caller: &Caller) -> bool {
        self.is_administrator(caller.uid) || self.for_caller(caller).next().is_some()
    }

    fn for_caller<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = usize> {
        let rules = self.of(self.index.for_caller(caller, None));
        rules.filter(|(_, rule)| rule.is_for(caller)).map(|(number, _)| number)
    }

    fn of(&self, numbers: impl Iterator<Item = usize>) -> impl Iterator<Item = (usize, &Arc<Rule>)> {
        numbers.filter_map(|number| Some((number, self.allow.get(number)?)))
    }

    /// Whether a rule with units might allow it to a caller whose unit is not known, or give that caller an identity.
    pub fn might_allow_by_unit(&self, caller: &Caller, key: &Key) -> bool {
        let indexes = self.index_of_defaults.iter().chain([&self.index]);
        let numbers = indexes.filter_map(|index| index.first_for_units(Some(key)));
        let mut rules = self.of(numbers.chain(self.index.for_caller(caller, Some(key))));
        rules.any(|(_, rule)| {
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

/// "privileged", or the rule's place in the configuration.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privileged => f.write_str("privileged"),
            Self::Rule(rule) => rule.origin.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Account;
    use crate::key::Resource;

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

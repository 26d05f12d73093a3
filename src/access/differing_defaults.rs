//! Finds rules that give one caller different default identities. This is allowed, but rarely intended.

use std::collections::HashSet;
use std::fmt;

use super::accounts::{Members, members_of};
use super::rule::Rule;
use super::rules::Rules;
use crate::config::Origin;
use crate::key::Resource;

/// Two rules that can match the same request and have different default identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferingDefaults {
    /// The rule that decides.
    pub first: Origin,
    /// The rule that has no effect on such a request.
    pub second: Origin,
}

impl Rules {
    /// Every such pair, by the rules and the account databases. Which user a unit runs as is not known.
    pub fn differing_defaults(&self) -> Vec<DifferingDefaults> {
        let rules: Vec<_> = self.allow.iter().filter(|rule| rule.default.is_some()).collect();
        let groups = rules.iter().filter_map(|rule| rule.groups.as_ref()).flatten();
        let members = members_of(&groups.copied().collect());
        let pairs = rules.iter().enumerate().flat_map(|(at, second)| {
            let before = rules.iter().take(at);
            let firsts = before.filter(|first| first.default != second.default && meet(first, second, &members));
            firsts.map(|first| DifferingDefaults {
                first: first.origin.clone(),
                second: second.origin.clone(),
            })
        });
        pairs.collect()
    }
}

/// Whether one caller can match both rules with one resource.
fn meet(one: &Rule, two: &Rule, members: &Members) -> bool {
    let groups = share(one.groups.as_deref(), two.groups.as_deref(), u32::eq);
    let units = share(one.units.as_deref(), two.units.as_deref(), String::eq);
    let accounts = match (accounts(one, members), accounts(two, members)) {
        // A process can be in a group in which its account is not.
        (Some(ones), Some(twos)) => Some(groups == Some(true) || !ones.is_disjoint(&twos)),
        _ => None,
    };
    let conditions = [
        share(one.users.as_deref(), two.users.as_deref(), u32::eq),
        share(
            one.resources.as_deref(),
            two.resources.as_deref(),
            Resource::is_same_audience,
        ),
        units,
        accounts,
    ];
    !conditions.contains(&Some(false)) && (units == Some(true) || accounts == Some(true))
}

/// Whether the lists have an entry in common; `None` if one is not given.
fn share<T>(one: Option<&[T]>, two: Option<&[T]>, same: impl Fn(&T, &T) -> bool) -> Option<bool> {
    let (one, two) = (one?, two?);
    Some(one.iter().any(|a| two.iter().any(|b| same(a, b))))
}

/// The accounts that a rule names, by users and groups; `None` if it names neither.
fn accounts(rule: &Rule, members: &Members) -> Option<HashSet<u32>> {
    let users: Option<HashSet<u32>> = rule.users.as_ref().map(|users| users.iter().copied().collect());
    let in_groups: Option<HashSet<u32>> = rule.groups.as_ref().map(|groups| {
        let uids = groups.iter().filter_map(|group| members.get(group));
        uids.flatten().copied().collect()
    });
    match (users, in_groups) {
        (Some(users), Some(in_groups)) => Some(users.intersection(&in_groups).copied().collect()),
        (users, in_groups) => users.or(in_groups),
    }
}

impl fmt::Display for DifferingDefaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second } = self;
        write!(
            f,
            "{second}: allow has another default identity than the rule at {first}, which decides for callers that match \
             both: give both rules the same one, or let no caller match both"
        )
    }
}

//! Which rules could be for a caller, so that nobody else's are looked at, however many there are.
//!
//! A rule is filed under each of its users; one without users under each of its groups; one with units alone under each of
//! its units. What of a caller costs system calls is asked for as late as if all rules were gone through: its further groups
//! where a rule for groups may be next, its unit where one for units may be next that allows the token.

use std::hash::BuildHasher;
use std::vec;

use foldhash::quality::RandomState;

use super::caller::{Caller, in_both};
use super::rule::{NOBODY, Rule};
use crate::key::{Identity, Key, Resource};

/// Finds the rules that could be for a caller, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Index {
    users: Vec<Filed>,
    groups: Vec<Filed>,
    /// The groups, each once.
    gids: Vec<u32>,
    /// The rules that are filed under groups, each once.
    group_rules: Vec<Filed>,
    units: Vec<Filed>,
    /// What rules that are filed under units allow, each with the first such rule.
    tokens: Vec<Filed>,
    first_for_units: Option<usize>,
    hasher: RandomState,
}

/// An id or a hash, and the number of a rule that is filed under it; sorted. Two that have the same hash only have a rule more
/// looked at.
type Filed = (u64, usize);

/// The numbers of the rules that could be for a caller, in their order.
pub(super) struct Candidates<'a> {
    index: &'a Index,
    caller: &'a Caller,
    for_user: &'a [Filed],
    /// For the effective group.
    for_group: &'a [Filed],
    /// For further groups, once these were asked for.
    for_groups: vec::IntoIter<Filed>,
    /// Once it was asked for.
    for_unit: &'a [Filed],
    /// Those for any group, until further groups were asked for.
    group_rules: &'a [Filed],
    /// The first that the unit matters to; [`NONE`] once it was asked for.
    unit_from: usize,
    /// Before it, all are for the user.
    others_from: usize,
    /// All before it are passed.
    from: usize,
}

/// The number of no rule.
const NONE: usize = usize::MAX;

impl Index {
    /// Of rules with their numbers, in their order. `identities` are those that a rule allows; `None` is any.
    pub fn new<'a>(
        rules: impl Iterator<Item = (usize, &'a Rule)>,
        identities: fn(&Rule) -> Option<&[Identity]>,
    ) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules {
            if let Some(users) = &rule.users {
                index.users.extend(users.iter().map(|uid| (u64::from(*uid), number)));
            } else if let Some(groups) = &rule.groups {
                index.groups.extend(groups.iter().map(|gid| (u64::from(*gid), number)));
                index.group_rules.extend(groups.first().map(|_| (0, number)));
                index.gids.extend(groups);
            } else if let Some(units) = &rule.units {
                let hasher = &index.hasher;
                index
                    .units
                    .extend(units.iter().map(|unit| (hasher.hash_one(unit.as_str()), number)));
                for resource in each_or_any(rule.resources.as_deref()) {
                    let audience = resource.map(Resource::audience);
                    let tokens = each_or_any(identities(rule)).map(|identity| hasher.hash_one((audience, identity)));
                    index.tokens.extend(tokens.map(|token| (token, number)));
                }
            }
        }
        for filed in [&mut index.users, &mut index.groups, &mut index.units, &mut index.tokens] {
            filed.sort_unstable();
            filed.dedup();
            filed.shrink_to_fit();
        }
        index.tokens.dedup_by_key(|(token, _)| *token);
        index.gids.sort_unstable();
        index.gids.dedup();
        index.first_for_units = index.units.iter().map(|(_, number)| *number).min();
        index
    }

    /// Those that could allow the caller this token, or any.
    pub fn for_caller<'a>(&'a self, caller: &'a Caller, key: Option<&Key>) -> Candidates<'a> {
        let mut candidates = Candidates {
            index: self,
            caller,
            for_user: under(&self.users, caller.uid.into()),
            for_group: &[],
            for_groups: vec::IntoIter::default(),
            for_unit: &[],
            group_rules: &[],
            unit_from: NONE,
            others_from: NONE,
            from: 0,
        };
        // An unmapped uid must be named.
        if caller.uid != NOBODY {
            candidates.for_group = caller.gid.map_or(&[], |gid| under(&self.groups, gid.into()));
            candidates.group_rules = &self.group_rules;
            candidates.unit_from = self.first_for_units(key).unwrap_or(NONE);
            candidates.others_from = first(candidates.group_rules).min(candidates.unit_from);
        }
        candidates
    }

    /// The first rule that is filed under units and allows the token, or any.
    pub fn first_for_units(&self, key: Option<&Key>) -> Option<usize> {
        let first = self.first_for_units?;
        let Some(key) = key else { return Some(first) };
        let (audience, identity) = (Some(key.resource.audience()), Some(&key.identity));
        let tokens = [(None, None), (None, identity), (audience, None), (audience, identity)];
        let filed = tokens.map(|token| under(&self.tokens, self.hasher.hash_one(token)).first());
        filed.into_iter().flatten().map(|(_, number)| *number).min()
    }
}

impl Candidates<'_> {
    /// The next one as far as the caller is known.
    fn next_known(&mut self) -> usize {
        let passed = |filed: &Filed| filed.1 < self.from;
        let Self {
            for_user,
            for_group,
            group_rules,
            for_unit,
            ..
        } = self;
        for list in [for_user, for_group, group_rules, for_unit] {
            while let [filed, rest @ ..] = list
                && passed(filed)
            {
                *list = rest;
            }
        }
        while self.for_groups.as_slice().first().is_some_and(passed) {
            self.for_groups.next();
        }
        let lists = [self.for_user, self.for_group, self.for_groups.as_slice(), self.for_unit];
        lists.into_iter().map(first).min().unwrap_or(NONE)
    }

    fn ask_for_groups(&mut self) {
        self.group_rules = &[];
        let groups = self.caller.groups();
        let filed = in_both(&self.index.gids, &groups).flat_map(|gid| under(&self.index.groups, gid.into()));
        let mut filed: Vec<_> = filed.copied().collect();
        filed.sort_unstable_by_key(|(_, number)| *number);
        self.for_groups = filed.into_iter();
    }

    fn ask_for_unit(&mut self) {
        // Rules for units before this one do not allow the token.
        self.from = self.unit_from;
        self.unit_from = NONE;
        if let Some(unit) = self.caller.unit() {
            self.for_unit = under(&self.index.units, self.index.hasher.hash_one(unit));
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let [(_, number), rest @ ..] = self.for_user
            && *number < self.others_from
        {
            self.for_user = rest;
            return Some(*number);
        }
        loop {
            let next = self.next_known();
            if first(self.group_rules) < next.min(self.unit_from) {
                self.ask_for_groups();
            } else if self.unit_from < next {
                self.ask_for_unit();
            } else if next == NONE {
                return None;
            } else {
                self.from = next + 1;
                return Some(next);
            }
        }
    }
}

/// Each entry; of a list that is not given, one that stands for any.
fn each_or_any<T>(list: Option<&[T]>) -> impl Iterator<Item = Option<&T>> {
    let any = list.is_none().then_some(None);
    list.into_iter().flatten().map(Some).chain(any)
}

fn under(filed: &[Filed], what: u64) -> &[Filed] {
    let begin = filed.partition_point(|filed| filed.0 < what);
    let filed = filed.get(begin..).unwrap_or_default();
    let end = filed.partition_point(|filed| filed.0 == what);
    filed.get(..end).unwrap_or_default()
}

fn first(filed: &[Filed]) -> usize {
    filed.first().map_or(NONE, |(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use proptest::test_runner::{Config, TestRunner};

    use super::super::rule::Part;
    use super::super::rules::{Grant, Rules};
    use super::*;
    use crate::config::{Account, Allow, Origin, RootAccess};

    const OWN_UID: u32 = 990;
    const UNITS: [&str; 3] = ["a.service", "b.service", "c.service"];

    /// The numbers of the rules that are the answer.
    type Question = fn(&Rules, &Caller, &Key) -> Vec<usize>;

    /// What is asked of rules, and the answer of who goes through all of them.
    const QUESTIONS: [(&str, Question, Question); 5] = [
        (
            "judge",
            |rules, caller, key| match rules.judge(caller, key) {
                Some(Grant::Rule(rule)) => vec![rule.origin.line],
                Some(Grant::Privileged) | None => vec![],
            },
            |rules, caller, key| first(rules, |rule| rule.matches(caller, key)),
        ),
        (
            "default_for",
            |rules, caller, key| {
                let default = rules.default_for(caller, key);
                default.into_iter().map(|(_, origin)| origin.line).collect()
            },
            |rules, caller, key| {
                first(rules, |rule| {
                    rule.default.is_some()
                        && key.identity == Identity::Default
                        && rule.mismatches(caller, key).all(|part| part == Part::Identities)
                })
            },
        ),
        (
            "numbers_for",
            |rules, caller, _| rules.numbers_for(caller),
            |rules, caller, _| {
                let numbers = 0..rules.allow.len();
                numbers.filter(|number| rules.allow[*number].is_for(caller)).collect()
            },
        ),
        (
            "keep_a_seat_for",
            |rules, caller, _| vec![usize::from(rules.keep_a_seat_for(caller))],
            |rules, caller, _| {
                let is_kept = caller.uid == 0 || rules.allow.iter().any(|rule| rule.is_for(caller));
                vec![usize::from(is_kept)]
            },
        ),
        (
            "might_allow_by_unit",
            // Asked of who was refused.
            |rules, caller, key| {
                let might = rules.judge(caller, key).is_none() && rules.might_allow_by_unit(caller, key);
                vec![usize::from(might)]
            },
            |rules, caller, key| {
                let is_refused = !rules.allow.iter().any(|rule| rule.matches(caller, key));
                let might = is_refused
                    && rules.allow.iter().any(|rule| {
                        let gives_identity = rule.default.is_some() && key.identity == Identity::Default;
                        let may_differ = |part| part == Part::Units || part == Part::Identities && gives_identity;
                        rule.units.is_some() && rule.mismatches(caller, key).all(may_differ)
                    });
                vec![usize::from(might)]
            },
        ),
    ];

    fn first(rules: &Rules, is_it: impl Fn(&Rule) -> bool) -> Vec<usize> {
        let number = rules.allow.iter().position(|rule| is_it(rule));
        number.into_iter().collect()
    }

    fn ids(of_these: &[u32]) -> impl Strategy<Value = Option<Vec<Account>>> + use<> {
        of(vec(select(of_these.to_vec()), 1..3).prop_map(|ids| ids.into_iter().map(Account::Id).collect()))
    }

    fn identity() -> impl Strategy<Value = Identity> {
        select(vec![
            Identity::Default,
            Identity::client_id("1").unwrap(),
            Identity::client_id("2").unwrap(),
        ])
    }

    fn resource() -> impl Strategy<Value = Resource> {
        select(vec!["https://a/", "https://a", "https://b"]).prop_map(|text| Resource::new(text).unwrap())
    }

    fn allow() -> impl Strategy<Value = Allow> {
        let units =
            of(subsequence(UNITS.to_vec(), 1..=2).prop_map(|units| units.into_iter().map(str::to_owned).collect()));
        let who = (ids(&[7, 8, NOBODY, 0]), ids(&[50, 51, 0, NOBODY]), units).prop_filter(
            "says who",
            |(users, groups, units): &(_, _, Option<Vec<String>>)| {
                users.is_some() || groups.is_some() || units.is_some()
            },
        );
        let default = of(identity()).prop_map(|default| default.filter(|identity| *identity != Identity::Default));
        let what = (of(vec(resource(), 1..3)), of(vec(identity(), 1..3)), default);
        (who, what).prop_map(|((users, groups, units), (resources, identities, default))| Allow {
            resources,
            identities,
            default,
            ..allow_for(users, groups, units)
        })
    }

    fn allow_for(users: Option<Vec<Account>>, groups: Option<Vec<Account>>, units: Option<Vec<String>>) -> Allow {
        Allow {
            users,
            groups,
            units,
            resources: None,
            identities: None,
            default: None,
            origin: Origin {
                file: Path::new("config.toml").into(),
                line: 0,
            },
        }
    }

    /// Rules whose lines are their numbers.
    fn rules(allow: impl IntoIterator<Item = Allow>) -> Rules {
        let numbered = allow.into_iter().enumerate().map(|(number, mut allow)| {
            allow.origin.line = number;
            allow
        });
        Rules::resolve(&numbered.collect::<Vec<_>>(), RootAccess::Rules, OWN_UID).0
    }

    #[test]
    fn the_answers_are_those_of_who_goes_through_all_rules_and_no_caller_is_asked_more() {
        let asked = QUESTIONS.map(|_| [Cell::new(0), Cell::new(0)]);
        let who = (select(vec![7, 9, NOBODY, 0]), of(select(vec![50, 52])));
        let known = (subsequence(vec![50, 51, 52, NOBODY], 0..=3), of(select(UNITS.to_vec())));
        let input = (vec(allow(), 0..8), who, known, (resource(), identity()));
        let config = Config {
            cases: 1000,
            failure_persistence: None,
            ..Config::default()
        };
        let outcome =
            TestRunner::new(config).run(&input, |(allow, (uid, gid), (groups, unit), (resource, identity))| {
                let (rules, key) = (rules(allow), Key::new(resource, identity));
                for ((name, answer, long_way), asked) in QUESTIONS.iter().zip(&asked) {
                    let ask = |question: &Question| {
                        let mut caller = Caller::described(uid, groups.clone(), unit.map(str::to_owned));
                        caller.gid = gid;
                        (question(&rules, &caller, &key), caller.asked())
                    };
                    let (found, (groups, unit)) = ask(answer);
                    let (expected, (groups_are_needed, unit_is_needed)) = ask(long_way);
                    prop_assert_eq!(found, expected, "{}", name);
                    prop_assert!(groups_are_needed || !groups, "{}: its groups", name);
                    prop_assert_eq!(unit, unit_is_needed, "{}: its unit", name);
                    let [no, yes] = asked;
                    let count = if unit { yes } else { no };
                    count.set(count.get() + 1);
                }
                Ok(())
            });
        outcome.unwrap_or_else(|error| panic!("{error}"));
        let counts = asked.iter().flatten().map(Cell::get);
        assert!(
            counts.clone().all(|count| count > 10),
            "vacuous: {:?}",
            counts.collect::<Vec<_>>()
        );
    }

    #[test]
    fn of_a_thousand_rules_those_are_looked_at_that_could_be_for_the_caller() {
        type ForOne = fn(u32) -> Allow;
        let kinds: [(ForOne, &[usize]); 3] = [
            (|id| allow_for(Some(vec![Account::Id(id)]), None, None), &[700]),
            (|id| allow_for(None, Some(vec![Account::Id(id)]), None), &[600, 800]),
            (|id| allow_for(None, None, Some(vec![format!("{id}.service")])), &[500]),
        ];
        let caller = Caller::described(700, vec![800, 600, 1000], Some("500.service".to_owned()));
        for (allow, looked_at) in kinds {
            let rules = rules((0..1000).map(allow));
            let numbered = rules.allow.iter().map(|rule| &**rule).enumerate();
            let index = Index::new(numbered, |_| None);
            assert_eq!(index.for_caller(&caller, None).collect::<Vec<_>>(), looked_at);
        }
    }
}

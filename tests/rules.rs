//! The rules against a second judge: random files, callers and keys. The other judge is written from
//! `docs/configuration.md`, "Warm tokens and rules", knows nothing of the first, and goes the long way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;

use msi_tokend::access::{Caller, Grant, Rules};
use msi_tokend::config;
use msi_tokend::key::{Identity, Key, Resource};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};

const OWN_UID: u32 = 990;
const NOBODY: u32 = 65534;

/// One `[[allow]]` as an administrator writes it.
#[derive(Clone, Debug, Default)]
struct Written {
    users: Option<Vec<&'static str>>,
    groups: Option<Vec<&'static str>>,
    units: Option<Vec<&'static str>>,
    resources: Option<Vec<&'static str>>,
    client_ids: Option<Vec<&'static str>>,
    object_ids: Option<Vec<&'static str>>,
    resource_ids: Option<Vec<&'static str>>,
    default_identity: Option<bool>,
    /// `default_client_id` or a sibling of it: the kind of selector and its value.
    default: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Asking {
    uid: u32,
    groups: Vec<u32>,
    unit: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Asked {
    resource: &'static str,
    /// "default", or the kind of selector and its value.
    identity: (&'static str, &'static str),
}

// Few values, so that rules, callers and keys meet often; with look-alikes of each.
const USERS: &[&str] = &["1000", "1001", "65534", "0", "990", "no-such-user-here"];
const ROOT: &[&str] = &["any", "rules"];
const GROUPS: &[&str] = &["50", "51", "65534", "no-such-group-here"];
const UNITS: &[&str] = &["a.service", "a@1.service", "user@1000.service", "a.scope"];
const RESOURCES: &[&str] = &[
    "https://a/",
    "https://a",
    "https://a//",
    "https://A/",
    "https://b/",
    "a",
    "/",
];
const IDS: &[&str] = &["id-1", "ID-1", "id-2", "/sub/x"];

fn list(of_these: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    of(subsequence(of_these, 1..=2))
}

fn written() -> impl Strategy<Value = Written> {
    let who = (list(USERS), list(GROUPS), list(UNITS)).prop_filter("says who", |(users, groups, units)| {
        users.is_some() || groups.is_some() || units.is_some()
    });
    let ids = (list(IDS), list(IDS), list(IDS), of(any::<bool>())).prop_filter("says which", |(c, o, r, default)| {
        *default != Some(false) || c.is_some() || o.is_some() || r.is_some()
    });
    let default = of((select(vec!["client_id", "object_id", "resource_id"]), select(IDS)));
    (who, list(RESOURCES), of(ids), default).prop_map(|((users, groups, units), resources, ids, default)| {
        let (client_ids, object_ids, resource_ids, default_identity) = ids.unwrap_or_default();
        Written {
            users,
            groups,
            units,
            resources,
            client_ids,
            object_ids,
            resource_ids,
            // The two do not go together.
            default_identity: default_identity.filter(|_| default.is_none()),
            default,
        }
    })
}

fn asking() -> impl Strategy<Value = Asking> {
    let uid = select(vec![1000, 1000, 1001, 1002, NOBODY, 0, OWN_UID]);
    let groups = subsequence(vec![50, 51, 52, NOBODY], 0..=3);
    (uid, groups, of(select(UNITS))).prop_map(|(uid, groups, unit)| Asking { uid, groups, unit })
}

fn asked() -> impl Strategy<Value = Asked> {
    let kinds = select(vec!["default", "default", "client_id", "object_id", "resource_id"]);
    (select(RESOURCES), kinds, select(IDS)).prop_map(|(resource, kind, id)| Asked {
        resource,
        identity: (kind, if kind == "default" { "" } else { id }),
    })
}

/// The second judge. Who allows: "privileged", or the number of the first rule that does.
fn naive(rules: &[Written], root: &str, who: &Asking, what: &Asked) -> Option<String> {
    if who.uid == OWN_UID || (who.uid == 0 && root == "any") {
        return Some("privileged".to_owned());
    }
    let first = rules.iter().position(|rule| matches(rule, who, what))?;
    Some(format!("rule {first}"))
}

fn matches(rule: &Written, who: &Asking, what: &Asked) -> bool {
    let mut fits = true;
    match &rule.users {
        Some(users) => fits &= users.contains(&who.uid.to_string().as_str()),
        None => fits &= who.uid != NOBODY,
    }
    if let Some(groups) = &rule.groups {
        let mut in_one = false;
        for gid in &who.groups {
            in_one |= groups.contains(&gid.to_string().as_str());
        }
        fits &= in_one;
    }
    if let Some(units) = &rule.units {
        fits &= match who.unit {
            Some(unit) => units.contains(&unit),
            None => false,
        };
    }
    if let Some(resources) = &rule.resources {
        // A slash is put behind what has none, so that one more or less is the same.
        let with_slash = |text: &str| {
            if text.ends_with('/') {
                text.to_owned()
            } else {
                format!("{text}/")
            }
        };
        fits &= resources
            .iter()
            .any(|resource| with_slash(resource) == with_slash(what.resource));
    }
    let lists = [
        ("client_id", &rule.client_ids),
        ("object_id", &rule.object_ids),
        ("resource_id", &rule.resource_ids),
    ];
    let any_given =
        rule.default_identity.is_some() || rule.default.is_some() || lists.iter().any(|(_, list)| list.is_some());
    if any_given {
        let (kind, id) = what.identity;
        let listed = lists.iter().any(|(name, list)| {
            *name == kind
                && list
                    .iter()
                    .flatten()
                    .any(|entry| entry.to_lowercase() == id.to_lowercase())
        });
        let is_default = rule
            .default
            .is_some_and(|(of, entry)| of == kind && entry.to_lowercase() == id.to_lowercase());
        fits &= listed || is_default || (kind == "default" && rule.default_identity == Some(true));
    }
    fits
}

/// Whom the second judge gives to a request that names no identity: `kind:id` and the number of the rule.
fn naive_default(rules: &[Written], who: &Asking, what: &Asked) -> Option<(String, usize)> {
    if what.identity.0 != "default" {
        return None;
    }
    for (number, rule) in rules.iter().enumerate() {
        if let Some((kind, id)) = rule.default {
            let of_its_own = Asked {
                resource: what.resource,
                identity: (kind, id),
            };
            // Also for those who may have any token.
            if matches(rule, who, &of_its_own) {
                return Some((format!("{kind}:{}", id.to_lowercase()), number));
            }
        }
    }
    None
}

fn toml(rules: &[Written]) -> String {
    let mut text = String::new();
    for rule in rules {
        text.push_str("[[allow]]\n");
        for (name, list) in [
            ("users", &rule.users),
            ("groups", &rule.groups),
            ("units", &rule.units),
            ("resources", &rule.resources),
            ("client_ids", &rule.client_ids),
            ("object_ids", &rule.object_ids),
            ("resource_ids", &rule.resource_ids),
        ] {
            if let Some(list) = list {
                writeln!(text, "{name} = {list:?}").unwrap();
            }
        }
        if let Some(default) = rule.default_identity {
            writeln!(text, "default_identity = {default}").unwrap();
        }
        if let Some((kind, id)) = rule.default {
            writeln!(text, "default_{kind} = {id:?}").unwrap();
        }
    }
    text
}

fn resolved(directory: &Path, written: &[Written], root: &str) -> Rules {
    let path = directory.join("config.toml");
    let text = format!("{}[access]\nroot = {root:?}\n", toml(written));
    std::fs::write(&path, &text).unwrap();
    let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    Rules::resolve(&config.config.allow, config.config.access.root, OWN_UID).0
}

fn caller(who: &Asking) -> Caller {
    Caller::described(who.uid, who.groups.clone(), who.unit.map(str::to_owned))
}

fn key(what: &Asked) -> Key {
    let (kind, id) = what.identity;
    let identity = match kind {
        "client_id" => Identity::client_id(id).unwrap(),
        "object_id" => Identity::object_id(id).unwrap(),
        "resource_id" => Identity::resource_id(id).unwrap(),
        _ => Identity::Default,
    };
    Key::new(Resource::new(what.resource).unwrap(), identity)
}

/// The number of the rule that begins at this line.
fn number(written: &[Written], line: usize) -> usize {
    let text = toml(written);
    let starts = text.lines().enumerate().filter(|(_, line)| *line == "[[allow]]");
    starts.map(|(at, _)| at + 1).position(|start| start == line).unwrap()
}

/// Names the granting rule as the second judge does: by its number, told by the line of its `[[allow]]`.
fn verdict(rules: &Rules, written: &[Written], who: &Asking, what: &Asked) -> Option<String> {
    rules.judge(&caller(who), &key(what)).map(|grant| match grant {
        Grant::Privileged => "privileged".to_owned(),
        Grant::Rule(rule) => format!("rule {}", number(written, rule.origin.line)),
    })
}

fn default_of(rules: &Rules, written: &[Written], who: &Asking, what: &Asked) -> Option<(String, usize)> {
    let (caller, key) = (caller(who), key(what));
    let (identity, origin) = rules.default_for(&caller, &key)?;
    Some((identity.to_string(), number(written, origin.line)))
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: 600,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn two_judges_agree_on_every_verdict_and_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (allowed, refused, privileged, defaults) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let input = (vec(written(), 0..4), select(ROOT), vec((asking(), asked()), 1..24));
    let outcome = runner().run(&input, |(written, root, requests)| {
        let rules = resolved(directory.path(), &written, root);
        for (who, what) in &requests {
            let expected = naive(&written, root, who, what);
            let counter = match expected.as_deref() {
                None => &refused,
                Some("privileged") => &privileged,
                Some(_) => &allowed,
            };
            counter.set(counter.get() + 1);
            let found = verdict(&rules, &written, who, what);
            prop_assert_eq!(found, expected, "{:?} {:?}", who, what);
            let default = default_of(&rules, &written, who, what);
            defaults.set(defaults.get() + u32::from(default.is_some()));
            if let Some((identity, _)) = rules.default_for(&caller(who), &key(what)) {
                let given = Key::new(key(what).resource, identity.clone());
                prop_assert!(rules.judge(&caller(who), &given).is_some(), "it counts as listed");
            }
            prop_assert_eq!(default, naive_default(&written, who, what), "{:?} {:?}", who, what);
            // The explanation says the same: a rule with nothing against it is one that allows.
            let explained = rules.explain(&caller(who), &key(what));
            let first = explained.iter().position(|(_, against)| against.is_empty());
            let expected = naive(&written, root, who, what);
            if expected.as_deref() != Some("privileged") {
                prop_assert_eq!(first.map(|number| format!("rule {number}")), expected);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let counts = [&allowed, &refused, &privileged, &defaults].map(Cell::get);
    assert!(counts.iter().all(|count| *count > 100), "vacuous: {counts:?}");
}

#[test]
fn a_rule_more_never_takes_a_token_away_and_a_condition_more_never_gives_one() {
    let directory = tempfile::tempdir().unwrap();
    let input = (vec(written(), 1..4), written(), select(ROOT), asking(), asked());
    let outcome = runner().run(&input, |(mut written, other, root, who, what)| {
        let judge = |written: &[Written]| {
            let rules = resolved(directory.path(), written, root);
            rules.judge(&caller(&who), &key(&what)).is_some()
        };
        let before = judge(&written);
        // The first rule, with one kind of condition taken over from another rule where it had none.
        let mut narrower = written.clone();
        let rule = &mut narrower[0];
        // Naming users is the one condition that can let somebody in: uid 65534 must be named.
        if who.uid != NOBODY {
            rule.users = rule.users.take().or(other.users.clone());
        }
        rule.groups = rule.groups.take().or(other.groups.clone());
        rule.units = rule.units.take().or(other.units.clone());
        rule.resources = rule.resources.take().or(other.resources.clone());
        prop_assert!(before || !judge(&narrower), "narrower: {:?}", narrower);
        written.push(other);
        prop_assert!(!before || judge(&written), "longer: {:?}", written);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

//! `suggest`: the rules that would have let through what the lock, enforcing, would have refused. They are made from the audit
//! records in the journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use nix::unistd::{Uid, User};
use serde_json::{Map, Value};

use super::error::{ClientError, Exit};
use super::output;
use crate::access::{NOBODY, Who, rule};
use crate::config::duration;
use crate::key::{Identity, Resource};

/// Whose records count. Any program can write records; journald itself notes which unit one came from.
const UNIT: &str = "msi-tokend.service";
/// A record of the journal has some two kilobytes.
const MAX_LINE: u64 = 64 * 1024;
/// Tokens of one user. Who asks for more than these looks for what there is.
const MAX_PER_USER: usize = 64;

#[derive(Args)]
pub struct Arguments {
    /// How far back the journal is read.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration, conflicts_with = "file")]
    since: Duration,
    /// Also for what was refused, on any listener. That may be as it should be.
    #[arg(long)]
    refused: bool,
    /// Records as `journalctl -o json` prints them, - for standard input; without it this machine's journal is read.
    file: Option<PathBuf>,
}

/// A request as a record has it.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    uid: u32,
    unit: Option<String>,
    resource: Resource,
    identity: Identity,
    /// Of a record that only counts how often a request came again, how often.
    again: Option<u64>,
}

/// What one user, or one of its units, asked for, and how often.
type Tokens = BTreeMap<(Identity, Resource), u64>;

/// What was asked for, by uid and unit.
#[derive(Default)]
struct Found {
    by_caller: BTreeMap<(u32, Option<String>), Tokens>,
    /// Tokens of each user.
    of_user: BTreeMap<u32, usize>,
    /// Requests for more tokens than are listed.
    beyond: BTreeMap<u32, u64>,
}

/// A rule to come.
#[derive(Default)]
struct Wanted {
    tokens: Tokens,
    remarks: Vec<&'static str>,
}

/// Prints the rules.
pub fn run(arguments: &Arguments) -> Result<(), ClientError> {
    let found = match arguments.file.as_deref() {
        Some(path) => {
            let read = |error| ClientError::system(&format!("read {}", path.display()), &error);
            if path == Path::new("-") {
                Found::among(io::stdin().lock(), arguments.refused).map_err(read)?
            } else {
                let file = File::open(path).map_err(read)?;
                Found::among(BufReader::new(file), arguments.refused).map_err(read)?
            }
        }
        None => in_journal(arguments)?,
    };
    // The accounts of another machine are not known here.
    let account = |uid| {
        let here = arguments.file.is_none();
        here.then(|| User::from_uid(Uid::from_raw(uid)).ok().flatten())?
            .map(|user| user.name)
    };
    output::line(&[found.rules(account).trim_end().as_bytes()])
}

fn in_journal(arguments: &Arguments) -> Result<Found, ClientError> {
    let mut command = Command::new("journalctl");
    command.args(["--output=json", "--all", "--no-pager"]);
    command.arg(format!("--since=-{}s", arguments.since.as_secs()));
    command.args([&format!("_SYSTEMD_UNIT={UNIT}"), "OUTCOME=would_deny"]);
    if arguments.refused {
        command.arg("OUTCOME=denied");
    }
    let failed = |error| ClientError::system("read the journal with journalctl", &error);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let found = match child.stdout.take() {
        Some(text) => Found::among(BufReader::new(text), arguments.refused).map_err(failed)?,
        None => Found::default(),
    };
    if child.wait().map_err(failed)?.success() {
        return Ok(found);
    }
    let advice = "Read it as root, or as a member of the group systemd-journal.";
    Err(ClientError::new(Exit::Other, "journalctl failed", advice))
}

impl Asked {
    /// `None` for what is no record of the daemon's, or of no missing rule.
    fn read(line: &[u8], refused: bool) -> Option<Self> {
        let record: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let field = |name| record.get(name).and_then(Value::as_str);
        let outcome = field("OUTCOME")?;
        let counts = outcome == "would_deny" || refused && outcome == "denied";
        if field("_SYSTEMD_UNIT") != Some(UNIT) || !counts {
            return None;
        }
        Some(Self {
            uid: field("UID")?.parse().ok()?,
            unit: field("UNIT").map(str::to_owned),
            resource: field("RESOURCE")?.to_owned().try_into().ok()?,
            identity: field("IDENTITY")?.to_owned().try_into().ok()?,
            again: field("REPEATS").and_then(|count| count.parse().ok()),
        })
    }
}

impl Found {
    /// In lines of JSON.
    fn among(mut text: impl BufRead, refused: bool) -> io::Result<Self> {
        let mut found = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if text.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(found);
            }
            if let Some(asked) = Asked::read(&line, refused) {
                found.add(asked);
            }
        }
    }

    fn add(&mut self, asked: Asked) {
        let Asked { uid, unit, .. } = asked;
        let token = (asked.identity, asked.resource);
        if let Some(again) = asked.again {
            // Its unit may be gone by then, and with it the name: it is counted where the first one was, and makes no rule.
            let mut of_user = self
                .by_caller
                .range_mut((uid, None)..=(uid, Some(char::MAX.to_string())));
            let is_its = |of: &Option<String>| unit.is_none() || *of == unit;
            if let Some(count) = of_user.find_map(|((_, of), tokens)| tokens.get_mut(&token).filter(|_| is_its(of))) {
                *count = count.saturating_add(again);
            }
            return;
        }
        let tokens = self.by_caller.entry((uid, unit)).or_default();
        if let Some(count) = tokens.get_mut(&token) {
            *count = count.saturating_add(1);
            return;
        }
        let listed = self.of_user.entry(uid).or_default();
        if *listed < MAX_PER_USER {
            *listed += 1;
            tokens.insert(token, 1);
        } else {
            *self.beyond.entry(uid).or_default() += 1;
        }
    }

    /// As a file of conf.d. In comments are fixed words and numbers alone.
    fn rules(&self, account: impl Fn(u32) -> Option<String>) -> String {
        let mut wanted: BTreeMap<Who, Wanted> = BTreeMap::new();
        let mut nobodys = 0_u64;
        for ((uid, unit), tokens) in &self.by_caller {
            let Some(who) = Who::of(*uid, account(*uid).as_deref(), unit.as_deref()) else {
                nobodys = nobodys.saturating_add(tokens.values().sum());
                continue;
            };
            let remark = remark(&who, unit.as_deref());
            let rule = wanted.entry(who).or_default();
            for (token, count) in tokens {
                *rule.tokens.entry(token.clone()).or_default() += count;
            }
            rule.remarks
                .extend(remark.filter(|remark| !rule.remarks.contains(remark)));
        }
        let head = if wanted.is_empty() {
            "# There is no record of a request that a rule is missing for."
        } else {
            "# Everything that asked is here, also what should not have: take out what you do not want."
        };
        let mut blocks = vec![format!("{head}\n")];
        for (who, wanted) in &wanted {
            blocks.extend(wanted.rules(who));
        }
        if nobodys > 0 {
            blocks.push(format!(
                "# No rule for {nobodys} requests of uid {NOBODY}: it stands for every user whom the kernel cannot name.\n"
            ));
        }
        blocks.extend(self.beyond.iter().map(|(uid, count)| {
            format!("# Left out: {count} requests of uid {uid} for more than {MAX_PER_USER} tokens.\n")
        }));
        blocks.join("\n")
    }
}

impl Wanted {
    /// One for each identity.
    fn rules(&self, who: &Who) -> Vec<String> {
        let mut by_identity: BTreeMap<&Identity, (Vec<&Resource>, u64)> = BTreeMap::new();
        for ((identity, resource), count) in &self.tokens {
            let (resources, sum) = by_identity.entry(identity).or_default();
            resources.push(resource);
            *sum = sum.saturating_add(*count);
        }
        let rule = |(identity, (resources, sum)): (&Identity, (Vec<&Resource>, u64))| {
            let mut lines = vec![format!("# Requests: {sum}.")];
            lines.extend(self.remarks.iter().map(|remark| format!("# {remark}")));
            lines.push(rule(who, &resources, identity)?);
            Some(lines.join("\n"))
        };
        by_identity.into_iter().filter_map(rule).collect()
    }
}

/// Where the rule is for more than what asked.
fn remark(who: &Who, unit: Option<&str>) -> Option<&'static str> {
    if let Who::Unit(_) = who {
        return None;
    }
    match unit {
        None => Some("For all that this user runs: it asked outside of any unit."),
        Some(unit) if unit.starts_with("user@") || unit.starts_with("session-") => {
            Some("For all that this user runs: it asked from the user's own session or services.")
        }
        Some(unit) if unit.ends_with(".service") => {
            Some("For all that this user runs: it asked from a unit that starts programs of all users.")
        }
        // Engines make scopes, or groups of other names.
        Some(_) => {
            Some("For everything with this uid, in every container and outside: it asked from a container or a scope.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &[(&str, &str)]) -> String {
        let mut all = Map::new();
        let usual = [
            ("_SYSTEMD_UNIT", UNIT),
            ("OUTCOME", "would_deny"),
            ("UID", "33"),
            ("RESOURCE", "https://a/"),
            ("IDENTITY", "default"),
        ];
        for (name, value) in usual.iter().chain(fields) {
            all.insert((*name).to_owned(), (*value).into());
        }
        serde_json::to_string(&all).unwrap() + "\n"
    }

    fn suggested(records: &[String], refused: bool) -> String {
        let found = Found::among(records.concat().as_bytes(), refused).unwrap();
        found.rules(|uid| (uid == 33).then(|| "www-data".to_owned()))
    }

    fn tables(text: &str) -> Vec<toml::Value> {
        let read: toml::Table = text.parse().unwrap();
        read.get("allow")
            .map_or_else(Vec::new, |allow| allow.as_array().unwrap().clone())
    }

    #[test]
    fn a_service_gets_a_rule_by_its_unit_and_a_user_by_its_name_with_what_they_asked_for() {
        let text = suggested(
            &[
                record(&[("UNIT", "a.service")]),
                record(&[("UNIT", "a.service"), ("UID", "34"), ("RESOURCE", "https://b/")]),
                record(&[("UNIT", "a.service"), ("IDENTITY", "client_id:x")]),
                record(&[("UNIT", "user@33.service")]),
                record(&[("UNIT", "docker-12.scope"), ("UID", "1000")]),
                // How often it came again: its unit is known, or is gone.
                record(&[("UNIT", "a.service"), ("REPEATS", "5")]),
                record(&[("UID", "34"), ("RESOURCE", "https://b/"), ("REPEATS", "7")]),
            ],
            false,
        );
        let rules = tables(&text);
        let who = |rule: &toml::Value| {
            rule.get("units").or(rule.get("users")).unwrap()[0]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let names: Vec<_> = rules.iter().map(who).collect();
        assert_eq!(names, ["a.service", "a.service", "1000", "www-data"], "{text}");
        assert_eq!(rules[0]["resources"].as_array().unwrap().len(), 2, "{text}");
        assert_eq!(rules[0]["default_identity"].as_bool(), Some(true));
        assert_eq!(rules[1]["client_ids"][0].as_str(), Some("x"));
        assert!(text.contains("# Requests: 14.\n[[allow]]\nunits"), "{text}");
        assert!(
            text.contains("in every container and outside: it asked from a container or a scope.\n[[allow]]\nusers")
        );
        assert!(text.contains("from the user's own session or services.\n[[allow]]\nusers"));
    }

    #[test]
    fn only_the_daemons_own_records_count_and_refusals_only_where_they_are_wanted() {
        let others = [
            record(&[("_SYSTEMD_UNIT", "evil.service")]),
            record(&[("OUTCOME", "ok")]),
            record(&[("OUTCOME", "would_break")]),
            record(&[("UID", "x")]),
            record(&[("RESOURCE", "two words")]),
            record(&[("REPEATS", "5")]),
            "[]\nnull\n{\n\n".to_owned(),
            format!("{{\"x\":\"{}\"}}\n", "x".repeat(200_000)),
        ];
        let none = suggested(&others, false);
        assert!(tables(&none).is_empty() && none.contains("no record"), "{none}");
        let refusal = [record(&[("OUTCOME", "denied")])];
        assert_eq!(
            [false, true].map(|refused| tables(&suggested(&refusal, refused)).len()),
            [0, 1]
        );
    }

    #[test]
    fn one_user_fills_no_page_and_whom_the_kernel_cannot_name_gets_no_rule() {
        let mut records: Vec<_> = (0..100)
            .map(|number| record(&[("RESOURCE", &format!("https://{number}/"))]))
            .collect();
        records.push(record(&[("UID", "65534")]));
        records.push(record(&[("UID", "34")]));
        let text = suggested(&records, false);
        let rules = tables(&text);
        assert_eq!(rules.len(), 2, "{text}");
        assert_eq!(rules[1]["resources"].as_array().unwrap().len(), MAX_PER_USER);
        assert!(
            text.contains("# Left out: 36 requests of uid 33 for more than 64 tokens."),
            "{text}"
        );
        assert!(text.contains("# No rule for 1 requests of uid 65534"), "{text}");
    }

    #[test]
    fn what_callers_chose_is_in_no_comment() {
        let evil = "https://a/\"]#[[allow]]";
        let text = suggested(&[record(&[("RESOURCE", evil), ("UNIT", "x\n[[allow]].scope")])], false);
        let comments: String = text.lines().filter(|line| line.starts_with('#')).collect();
        assert!(!comments.contains("[["), "{text}");
        assert_eq!(tables(&text)[0]["resources"][0].as_str(), Some(evil));
    }
}

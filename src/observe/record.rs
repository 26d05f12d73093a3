//! One record of the log, taken out of a `tracing` event: every text bounded, and free of anything that a terminal or
//! a log reader could take for more than text.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_log::NormalizeEvent;

use crate::access::proposed_rule;
use crate::key::{Identity, Key, Resource};

/// Longest message and longest value of a field, in bytes.
const MAX_VALUE: usize = 1024;
/// What a record takes at most: a message and the five longest fields of an audit record.
pub(super) const MAX_RECORD: usize = 6 * MAX_VALUE;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) message: String,
    /// In the order of the event.
    pub(super) fields: Vec<(&'static str, String)>,
    /// The rule that would allow what was refused, or why none is proposed; at the end of the text.
    rule: Option<String>,
}

impl Record {
    pub(super) fn new(level: Level, target: &str, message: impl fmt::Display) -> Self {
        Self {
            level,
            target: target.to_owned(),
            message: bounded(format_args!("{message}")),
            fields: Vec::new(),
            rule: None,
        }
    }

    /// `None` for an event that is not worth a record: chatter of the libraries.
    pub(super) fn of(event: &Event<'_>) -> Option<Self> {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        if !ours && *metadata.level() > Level::WARN {
            return None;
        }
        let mut record = Self::new(*metadata.level(), metadata.target(), "");
        event.record(&mut record);
        Some(record)
    }

    /// Puts the unit in the place of the cgroup's id, which stays where `find` finds none.
    pub(super) fn name_unit(&mut self, find: impl FnOnce(u64) -> Option<String>) {
        let Some(cgroup) = self.fields.iter_mut().find(|(name, _)| *name == "cgroup") else {
            return;
        };
        if let Some(unit) = cgroup.1.parse().ok().and_then(find) {
            *cgroup = ("unit", bounded(format_args!("{unit}")));
        }
    }

    /// Where no rule allows what was asked for, adds the one that would. The name of the account is for this alone.
    pub(super) fn add_rule(&mut self) {
        let at = self.fields.iter().position(|(name, _)| *name == "account");
        let account = at.map(|at| self.fields.remove(at).1);
        if self.field("rule") == Some("none") {
            self.rule = self.rule_that_allows(account.as_deref());
        }
    }

    fn rule_that_allows(&self, account: Option<&str>) -> Option<String> {
        let uid = self.field("uid")?.parse().ok()?;
        let resource = Resource::try_from(self.field("resource")?.to_owned()).ok()?;
        let identity = Identity::try_from(self.field("identity")?.to_owned()).ok()?;
        let key = Key::new(resource, identity);
        Some(proposed_rule(uid, account, self.field("unit"), &key))
    }

    pub(super) fn field(&self, wanted: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// The message and its fields for people: `message key=value key="a value"`. The id of the message is for machines.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "message_id") {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(name);
            text.push('=');
            if value.is_empty() || value.contains([' ', '"', '=']) {
                text.push('"');
                text.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
                text.push('"');
            } else {
                text.push_str(value);
            }
        }
        if let Some(rule) = &self.rule {
            text.push('\n');
            text.push_str(rule);
        }
        text
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = bounded(format_args!("{value:?}"));
        match field.name() {
            "message" => self.message = value,
            // What `log` says of itself; the target is known already.
            name if name.starts_with("log.") => {}
            name => self.fields.push((name, value)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Formats no more than is kept.
fn bounded(value: fmt::Arguments<'_>) -> String {
    let mut out = Bounded(String::new());
    if out.write_fmt(value).is_err() {
        out.0.push('…');
    }
    // It may wait for long, with many others.
    out.0.shrink_to_fit();
    out.0
}

/// Escapes what is not printable and fails beyond [`MAX_VALUE`] bytes.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let before = self.0.len();
            match c {
                '"' | '\'' | '\\' => self.0.push(c),
                _ => self.0.extend(c.escape_debug()),
            }
            if self.0.len() > MAX_VALUE {
                self.0.truncate(before);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::layer::{Context, SubscriberExt};
    use tracing_subscriber::{Layer, Registry};

    use super::{Event, Record};

    struct Keep(Arc<Mutex<Vec<Record>>>);

    impl Layer<Registry> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
            self.0.lock().extend(Record::of(event));
        }
    }

    /// The records that `f` makes.
    pub(in super::super) fn records(f: impl FnOnce()) -> Vec<Record> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, f);
        std::mem::take(&mut kept.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::records;
    use super::*;

    #[test]
    fn message_and_fields_are_taken_in_order() {
        let error = std::io::Error::other("no route");
        let records = records(|| {
            tracing::warn!(
                message_id = "abc",
                resource = %"https://r/",
                uid = 1000,
                warm = true,
                error = &error as &dyn std::error::Error,
                "refresh {}",
                "failing"
            );
        });
        let [record] = records.as_slice() else {
            panic!("{records:?}")
        };
        assert_eq!(record.level, Level::WARN);
        assert_eq!(record.message, "refresh failing");
        assert_eq!(
            record.fields,
            [
                ("message_id", "abc".to_owned()),
                ("resource", "https://r/".to_owned()),
                ("uid", "1000".to_owned()),
                ("warm", "true".to_owned()),
                ("error", "no route".to_owned()),
            ]
        );
        assert_eq!(
            record.text(),
            "refresh failing resource=https://r/ uid=1000 warm=true error=\"no route\""
        );
    }

    #[test]
    fn a_refusal_ends_in_the_rule_that_would_allow_it_and_has_no_other_fields_than_before() {
        let refused = |rule: &str, resource: &str| {
            let mut record = records(|| {
                tracing::warn!(
                    uid = 33,
                    unit = "a.service",
                    resource,
                    identity = "client_id:x",
                    rule,
                    account = "www-data",
                    "no"
                );
            });
            record[0].add_rule();
            assert_eq!(
                record[0].fields.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
                ["uid", "unit", "resource", "identity", "rule"]
            );
            record[0].text()
        };
        let longest = "r".repeat(crate::key::MAX_RESOURCE);
        for resource in ["https://a/", longest.as_str(), "\"]\\'"] {
            let text = refused("none", resource);
            let (_, rule) = text.split_once("NAME.toml:\n").expect("a rule");
            let rule: toml::Table = rule.parse().unwrap();
            let rule = &rule["allow"][0];
            assert_eq!(
                (rule["units"][0].as_str(), rule["resources"][0].as_str()),
                (Some("a.service"), Some(resource))
            );
        }
        assert!(!refused("config.toml:7", "https://a/").contains('\n'));
        assert!(!refused("none", "not\na resource").contains('\n'));
    }

    #[test]
    fn the_unit_takes_the_place_of_its_cgroups_id_which_stays_where_there_is_none() {
        let text = |unit: Option<&str>| {
            let mut record = records(|| tracing::warn!(uid = 33, cgroup = 7, rule = "none", "no"));
            record[0].name_unit(|id| unit.filter(|_| id == 7).map(str::to_owned));
            record[0].text()
        };
        assert_eq!(text(Some("a.service")), "no uid=33 unit=a.service rule=none");
        assert_eq!(text(None), "no uid=33 cgroup=7 rule=none");
    }

    #[test]
    fn nothing_unprintable_gets_through_and_values_cannot_pose_as_fields() {
        let records = records(|| {
            tracing::info!(
                evil = "a\nerror forged=\"1\" \u{1b}[2J\u{202e}\0",
                empty = "",
                path = r"C:\x 'é' \",
                odd = r"\",
                "x\r\ny"
            );
        });
        assert_eq!(
            records[0].text(),
            r#"x\r\ny evil="a\\nerror forged=\"1\" \\u{1b}[2J\\u{202e}\\0" empty="" path="C:\\x 'é' \\" odd=\"#
        );
    }

    #[test]
    fn a_long_value_is_cut_and_says_so() {
        let records = records(|| {
            tracing::info!(
                fits = "f".repeat(MAX_VALUE),
                long = "é".repeat(MAX_VALUE),
                "{}",
                "m".repeat(MAX_VALUE + 1)
            );
        });
        assert_eq!(records[0].fields[0].1, "f".repeat(MAX_VALUE));
        assert_eq!(records[0].fields[1].1, format!("{}…", "é".repeat(MAX_VALUE / 2)));
        assert_eq!(records[0].message, format!("{}…", "m".repeat(MAX_VALUE)));
    }

    #[test]
    fn of_the_libraries_only_warnings_are_taken() {
        let records = records(|| {
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::warn!(target: "hyper::proto", "trouble");
            tracing::debug!("ours");
        });
        let messages: Vec<_> = records.iter().map(|record| record.message.as_str()).collect();
        assert_eq!(messages, ["trouble", "ours"]);
    }
}

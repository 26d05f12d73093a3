//! What the lock saw while it observed: who would be denied what if it enforced, and for how long nothing of that was missed.
//! `msi-token lock enforce` goes by it, so it does not come from the journal, which may be bounded, volatile or forged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::lock::{LockHealth, Standing};
use super::record::Record;
use crate::config::LockMode;
use crate::key::{Identity, MAX_IDENTITY, MAX_RESOURCE, Resource};

/// So long it must have observed, without a gap, before it is known who asks: jobs run once a day.
pub const ENOUGH: Duration = Duration::from_hours(24);
/// Missing rules, and requests that would break, that are remembered.
const MAX_REMEMBERED: usize = 256;
/// What these take at most.
pub const MAX_BYTES: usize = MAX_REMEMBERED * (MAX_RESOURCE + MAX_IDENTITY + 512) + MAX_USERS * 64;
/// Users of whom it is counted what they were given and refused.
const MAX_USERS: usize = 256;

/// A token that no rule allows who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MissingRule {
    /// Who asked.
    pub uid: u32,
    /// Its systemd unit, where it is known.
    pub unit: Option<String>,
    /// For which token.
    pub resource: Resource,
    /// Of which identity.
    pub identity: Identity,
}

/// A kind of request that is refused where the metadata service itself answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Break {
    /// Who asked.
    pub uid: u32,
    /// Its systemd unit, where it is known.
    pub unit: Option<String>,
    /// Why it is refused.
    pub reason: String,
}

/// What one user got by the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tokens.
    pub tokens: u64,
    /// Requests for anything else that were passed on.
    pub passed_on: u64,
    /// Requests that were refused (403).
    pub refused: u64,
}

/// Why what was observed is not known from before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// The daemon started.
    #[default]
    Start,
    /// The lock enforced, was off, or its rules were gone.
    NotThere,
    /// `log.audit` was off.
    AuditOff,
    /// There were more records than are written or remembered.
    TooMany,
    /// One of another version.
    #[serde(other)]
    Other,
}

/// All that was seen since the daemon's start.
#[derive(Debug, Default)]
pub struct Evidence(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    missing: BTreeSet<MissingRule>,
    breaks: BTreeSet<Break>,
    /// What there was no room for.
    beyond: u64,
    users: HashMap<u32, Tally>,
    observation: Observation,
}

/// For how long it has observed.
#[derive(Clone, Copy, Debug, Default)]
struct Observation {
    /// On the boot-time clock.
    since: Option<Duration>,
    gap: Gap,
    missed: u64,
}

/// What there is at one moment.
#[derive(Debug)]
pub struct Findings {
    /// For how long nothing was missed; `None` where it does not observe.
    pub observed: Option<Duration>,
    /// What was before that.
    pub gap: Gap,
    /// Also those that a rule was made for since.
    pub missing: Vec<MissingRule>,
    /// Requests that would break.
    pub breaks: Vec<Break>,
    /// By uid.
    pub users: BTreeMap<u32, Tally>,
}

impl Evidence {
    /// Takes a record of the audit into account, whose unit is named already.
    pub(super) fn note(&self, record: &Record) {
        let uid = record.field("uid").and_then(|uid| uid.parse().ok());
        let (Some(outcome), Some(uid), None) = (record.field("outcome"), uid, record.field("repeats")) else {
            return;
        };
        let unit = record.field("unit").map(str::to_owned);
        let text = |name| record.field(name).map(str::to_owned);
        let seen = &mut *self.0.lock();
        let is_full = seen.missing.len() + seen.breaks.len() >= MAX_REMEMBERED;
        if outcome == "would_deny"
            && let Some(Ok(resource)) = text("resource").map(Resource::try_from)
            && let Some(Ok(identity)) = text("identity").map(Identity::try_from)
        {
            let missing = MissingRule {
                uid,
                unit,
                resource,
                identity,
            };
            seen.beyond += u64::from(is_full && !seen.missing.contains(&missing));
            if !is_full {
                seen.missing.insert(missing);
            }
        } else if outcome == "would_break" {
            let reason = text("reason").unwrap_or_default();
            let broken = Break { uid, unit, reason };
            seen.beyond += u64::from(is_full && !seen.breaks.contains(&broken));
            if !is_full {
                seen.breaks.insert(broken);
            }
        }
    }

    /// Counts for a user, as long as there is room for users.
    pub fn count(&self, uid: u32, counter: impl FnOnce(&mut Tally) -> &mut u64) {
        let users = &mut self.0.lock().users;
        if users.len() < MAX_USERS || users.contains_key(&uid) {
            *counter(users.entry(uid).or_default()) += 1;
        }
    }

    /// Takes into account how it is now. `lost` is how many records were not written since the start.
    pub fn look(&self, now: Duration, lock: Option<LockHealth>, audit: bool, lost: u64) {
        let seen = &mut *self.0.lock();
        let missed = lost + seen.beyond;
        seen.observation.look(now, lock, audit, missed);
    }

    /// What there is.
    pub fn findings(&self, now: Duration) -> Findings {
        let seen = self.0.lock();
        Findings {
            observed: seen.observation.since.map(|since| now.saturating_sub(since)),
            gap: seen.observation.gap,
            missing: seen.missing.iter().cloned().collect(),
            breaks: seen.breaks.iter().cloned().collect(),
            users: seen.users.iter().map(|(uid, tally)| (*uid, *tally)).collect(),
        }
    }

    /// Where there is no more room, forgets what a rule allows by now.
    pub fn forget(&self, is_allowed: impl Fn(&MissingRule) -> bool) {
        let seen = &mut *self.0.lock();
        if seen.missing.len() + seen.breaks.len() >= MAX_REMEMBERED {
            seen.missing.retain(|missing| !is_allowed(missing));
        }
    }
}

impl Observation {
    fn look(&mut self, now: Duration, lock: Option<LockHealth>, audit: bool, missed: u64) {
        // A lock that cannot be seen may be there, and once it was.
        let is_there = lock.is_some_and(|lock| match lock.state {
            Standing::Locked => lock.mode == LockMode::Observe,
            Standing::Unknown => lock.mode == LockMode::Observe && self.since.is_some(),
            Standing::Untried | Standing::Lost => false,
        });
        let gap = if !audit {
            Some(Gap::AuditOff)
        } else if !is_there {
            // At the start it was not looked at yet.
            (self.since.is_some() || lock.is_none_or(|lock| lock.state != Standing::Untried)).then_some(Gap::NotThere)
        } else if missed != self.missed {
            Some(Gap::TooMany)
        } else {
            None
        };
        self.missed = missed;
        self.gap = gap.unwrap_or(self.gap);
        self.since = match gap {
            _ if !audit || !is_there => None,
            Some(_) => Some(now),
            None => Some(self.since.unwrap_or(now)),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn record(fields: &[(&'static str, &str)]) -> Record {
        let mut record = Record::new(Level::WARN, "test", "");
        record.fields = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        record
    }

    fn would_deny(uid: u32, resource: &str) -> Record {
        record(&[
            ("outcome", "would_deny"),
            ("uid", &uid.to_string()),
            ("unit", "a.service"),
            ("resource", resource),
            ("identity", "default"),
        ])
    }

    #[test]
    fn a_missing_rule_is_remembered_once_and_what_there_is_no_room_for_is_counted() {
        let evidence = Evidence::default();
        for _ in 0..3 {
            evidence.note(&would_deny(7, "https://a/"));
        }
        evidence.note(&record(&[("outcome", "would_deny"), ("uid", "7"), ("repeats", "9")]));
        evidence.note(&record(&[("outcome", "denied"), ("uid", "7")]));
        evidence.note(&record(&[("outcome", "would_break"), ("uid", "8"), ("reason", "why")]));
        let found = evidence.findings(HOUR);
        assert_eq!((found.missing.len(), found.breaks.len()), (1, 1));
        assert_eq!(found.missing[0].unit.as_deref(), Some("a.service"));
        for number in 0..1000 {
            evidence.note(&would_deny(7, &format!("https://{number}/")));
        }
        assert_eq!(evidence.findings(HOUR).missing.len(), MAX_REMEMBERED - 1);
        assert_eq!(evidence.0.lock().beyond, 1000 - (MAX_REMEMBERED as u64 - 2));
        evidence.forget(|missing| missing.resource.as_str() != "https://a/");
        assert_eq!(evidence.findings(HOUR).missing.len(), 1);
        evidence.forget(|_| true);
        assert_eq!(evidence.findings(HOUR).missing.len(), 1, "there is room");
    }

    #[test]
    fn it_has_observed_since_the_last_gap_whatever_that_was() {
        let lock = |state| {
            Some(LockHealth {
                state,
                mode: LockMode::Observe,
            })
        };
        let enforcing = Some(LockHealth {
            state: Standing::Locked,
            mode: LockMode::Enforce,
        });
        let locked = lock(Standing::Locked);
        for (state, audit, lost, gap, observed) in [
            (locked, true, 0, Gap::Start, Some(10)),
            (lock(Standing::Unknown), true, 0, Gap::Start, Some(10)),
            (locked, true, 1, Gap::TooMany, Some(4)),
            (locked, false, 0, Gap::AuditOff, Some(3)),
            (lock(Standing::Lost), true, 0, Gap::NotThere, Some(3)),
            (enforcing, true, 0, Gap::NotThere, Some(3)),
            (None, true, 0, Gap::NotThere, Some(3)),
        ] {
            let evidence = Evidence::default();
            // Before the first look at it.
            evidence.look(Duration::ZERO, lock(Standing::Untried), true, 0);
            assert_eq!(evidence.findings(HOUR).observed, None);
            for hour in 0..=10 {
                let (state, audit, lost) = match hour {
                    6 => (state, audit, lost),
                    7.. => (locked, true, lost),
                    _ => (locked, true, 0),
                };
                evidence.look(HOUR * hour, state, audit, lost);
            }
            let found = evidence.findings(HOUR * 10);
            assert_eq!(
                (found.gap, found.observed),
                (gap, observed.map(|hours| HOUR * hours)),
                "{state:?}"
            );
        }
        let evidence = Evidence::default();
        evidence.look(HOUR, lock(Standing::Unknown), true, 0);
        assert_eq!(evidence.findings(HOUR).observed, None, "it was never seen");
    }

    #[test]
    fn what_each_user_gets_is_counted_for_so_many_users() {
        let evidence = Evidence::default();
        for uid in 0..1000 {
            evidence.count(uid, |tally| &mut tally.tokens);
        }
        evidence.count(7, |tally| &mut tally.refused);
        let users = evidence.findings(HOUR).users;
        assert_eq!(users.len(), MAX_USERS);
        assert_eq!((users[&7].tokens, users[&7].passed_on, users[&7].refused), (1, 0, 1));
    }
}

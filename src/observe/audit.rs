//! Who was given or refused which token: one record for each uid, key and hour. A record names the token by its `uti`
//! claim alone. Where the caller's unit is not known yet the record has the id of its cgroup; the log's thread puts the unit
//! in its place.
//!
//! A refusal costs a caller nothing, so the memory of them is bounded for each uid and in all, and what is beyond is
//! counted: nobody can fill the journal, or hide another's refusal behind his own. Of grants nothing may go unrecorded:
//! when too many are remembered they are forgotten, and recorded again. To get there takes as many different tokens
//! within the hour as are remembered.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::events;
use crate::access::{Caller, Grant};
use crate::key::Key;
use crate::token::Token;

const HOUR: Duration = Duration::from_hours(1);
/// Grants that are remembered, at some ten bytes each.
const GRANTS: usize = 4096;
/// Refusals that are remembered, in all and of one uid. All that were repeated are told at the end of the hour, and
/// must then fit the log's queue.
const REFUSALS: usize = 512;
const REFUSALS_PER_UID: usize = 32;

/// Writes the records.
pub struct Audit {
    on: AtomicBool,
    /// Each grant passes here, so this is a hasher that is faster than the standard one. It is seeded at random and
    /// nobody sees what it makes, so no two requests can be chosen to look like one.
    hasher: RandomState,
    hour: Mutex<Hour>,
}

/// What was recorded since the hour began.
#[derive(Default)]
struct Hour {
    ends: Duration,
    /// Hashes of uid and key.
    granted: HashSet<u64, RandomState>,
    refused: HashMap<u64, Repeats>,
    by_uid: HashMap<u32, Uid>,
    /// Refusals of uids that there was no more room for.
    others: u64,
}

/// A refusal that was recorded, and how often it came again.
struct Repeats {
    uid: u32,
    key: Key,
    count: u64,
}

#[derive(Default)]
struct Uid {
    keys: usize,
    /// Refusals of keys that there was no more room for.
    others: u64,
}

impl Audit {
    /// `now` is the boot-time clock's.
    pub fn new(on: bool, now: Duration) -> Self {
        Self {
            on: AtomicBool::new(on),
            hasher: RandomState::default(),
            hour: Mutex::new(Hour::beginning(now)),
        }
    }

    /// Whether records are written from now on.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// The caller has been given the token.
    pub fn allowed(&self, caller: &Caller, key: &Key, grant: &Grant, token: &Token) {
        if !self.on.load(Ordering::Relaxed) || !self.is_new_grant(caller.uid, key) {
            return;
        }
        let (unit, cgroup) = caller.unit_or_cgroup();
        info!(
            verdict = "allowed",
            outcome = "ok",
            uid = caller.uid,
            gid = caller.gid,
            pid = caller.pid,
            unit,
            cgroup,
            resource = %key.resource,
            identity = %key.identity,
            rule = %grant,
            uti = token.uti(),
            "token given"
        );
    }

    /// The caller has been given the token although no rule allows it, because the lock observes.
    pub fn observed(&self, caller: &Caller, key: &Key, token: &Token) {
        if !self.on.load(Ordering::Relaxed) || !self.is_new_grant(caller.uid, key) {
            return;
        }
        let (unit, cgroup) = caller.unit_or_cgroup();
        warn!(
            verdict = "observed",
            outcome = "would_deny",
            uid = caller.uid,
            gid = caller.gid,
            pid = caller.pid,
            unit,
            cgroup,
            resource = %key.resource,
            identity = %key.identity,
            rule = "none",
            uti = token.uti(),
            "token given that no rule allows: the lock would refuse it if it enforced the rules"
        );
    }

    /// No rule allows the caller the key.
    pub fn denied(&self, caller: &Caller, key: &Key) {
        if !self.on.load(Ordering::Relaxed) || !self.is_new_refusal(caller.uid, key) {
            return;
        }
        let (unit, cgroup) = caller.unit_or_cgroup();
        warn!(
            message_id = events::ACCESS_DENIED,
            verdict = "denied",
            outcome = "denied",
            uid = caller.uid,
            gid = caller.gid,
            pid = caller.pid,
            unit,
            cgroup,
            resource = %key.resource,
            identity = %key.identity,
            rule = "none",
            "token refused: no rule allows it; repeats within the hour are counted"
        );
    }

    /// Time has passed: ends the hour when it is over.
    pub fn tick(&self, now: Duration) {
        let mut hour = self.hour.lock();
        if now >= hour.ends {
            let over = std::mem::replace(&mut *hour, Hour::beginning(now));
            drop(hour);
            over.tell_repeats();
        }
    }

    /// The daemon ends, and the hour with it.
    pub fn close(&self) {
        std::mem::take(&mut *self.hour.lock()).tell_repeats();
    }

    fn is_new_grant(&self, uid: u32, key: &Key) -> bool {
        let hash = self.hasher.hash_one((uid, key));
        let granted = &mut self.hour.lock().granted;
        if granted.contains(&hash) {
            return false;
        }
        if granted.len() >= GRANTS {
            granted.clear();
        }
        granted.insert(hash)
    }

    fn is_new_refusal(&self, uid: u32, key: &Key) -> bool {
        let hash = self.hasher.hash_one((uid, key));
        let hour = &mut *self.hour.lock();
        if let Some(repeats) = hour.refused.get_mut(&hash) {
            repeats.count += 1;
            return false;
        }
        let is_full = hour.refused.len() >= REFUSALS;
        if is_full && !hour.by_uid.contains_key(&uid) {
            hour.others += 1;
            return false;
        }
        let of_uid = hour.by_uid.entry(uid).or_default();
        if is_full || of_uid.keys >= REFUSALS_PER_UID {
            of_uid.others += 1;
            return false;
        }
        of_uid.keys += 1;
        let key = key.clone();
        hour.refused.insert(hash, Repeats { uid, key, count: 0 });
        true
    }
}

impl Hour {
    fn beginning(now: Duration) -> Self {
        Self {
            ends: now + HOUR,
            ..Self::default()
        }
    }

    fn tell_repeats(self) {
        for Repeats { uid, key, count } in self.refused.into_values().filter(|refused| refused.count > 0) {
            warn!(
                message_id = events::ACCESS_DENIED,
                verdict = "denied",
                outcome = "denied",
                uid,
                resource = %key.resource,
                identity = %key.identity,
                repeats = count,
                "token refused again since the last record of it"
            );
        }
        for (uid, of_uid) in self.by_uid.into_iter().filter(|(_, of_uid)| of_uid.others > 0) {
            warn!(
                verdict = "denied",
                outcome = "denied",
                uid,
                repeats = of_uid.others,
                "tokens refused that are too many to be listed"
            );
        }
        if self.others > 0 {
            warn!(
                verdict = "denied",
                outcome = "denied",
                repeats = self.others,
                "tokens refused to users that are too many to be listed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::{Context, SubscriberExt};
    use tracing_subscriber::{Layer, Registry};
    use zeroize::Zeroizing;

    use super::super::record::Record;
    use super::*;
    use crate::key::{Identity, Resource};
    use crate::token::Parts;

    struct Keep(Arc<Mutex<Vec<Record>>>);

    impl Layer<Registry> for Keep {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, Registry>) {
            self.0.lock().extend(Record::of(event));
        }
    }

    /// What is recorded, a line each.
    fn records(f: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, f);
        std::mem::take(&mut *kept.lock()).iter().map(Record::text).collect()
    }

    fn key(number: usize) -> Key {
        let resource = Resource::new(&format!("https://{number}/")).unwrap();
        Key::new(resource, Identity::Default)
    }

    fn caller(uid: u32) -> Caller {
        Caller::described(uid, vec![], Some("a.service".to_owned()))
    }

    fn token() -> Token {
        let parts = Parts {
            // The claims are {"uti":"abc"}.
            access_token: Zeroizing::new("e30.eyJ1dGkiOiJhYmMifQ.c2ln".to_owned()),
            client_id: None,
            expires_on: Duration::ZERO,
            not_before: Duration::ZERO,
        };
        Token::new(&Resource::new("https://0/").unwrap(), &parts).unwrap()
    }

    fn audit() -> Audit {
        Audit::new(true, Duration::ZERO)
    }

    #[test]
    fn a_grant_is_recorded_once_for_each_uid_key_and_hour_and_names_the_token_by_its_uti() {
        let audit = audit();
        let ask = |uid, number| {
            audit.allowed(&caller(uid), &key(number), &Grant::Privileged, &token());
        };
        let first = records(|| {
            for _ in 0..3 {
                ask(7, 0);
            }
        });
        assert_eq!(
            first,
            [
                "token given verdict=allowed outcome=ok uid=7 unit=a.service resource=https://0/ identity=default \
              rule=privileged uti=abc"
            ]
        );
        assert_eq!(records(|| ask(8, 0)).len(), 1, "another uid");
        assert_eq!(records(|| ask(7, 1)).len(), 1, "another key");
        assert_eq!(
            records(|| audit.tick(HOUR.saturating_sub(Duration::from_secs(1)))).len(),
            0
        );
        assert_eq!(records(|| ask(7, 0)).len(), 0);
        audit.tick(HOUR);
        assert_eq!(records(|| ask(7, 0)).len(), 1, "another hour");
    }

    #[test]
    fn what_is_known_to_be_recorded_is_recorded_again_in_the_next_hour() {
        let audit = audit();
        let ask = || audit.allowed(&caller(7), &key(0), &Grant::Privileged, &token());
        for hour in 1..4 {
            assert_eq!(records(ask).len(), 1);
            assert_eq!(records(ask).len(), 0);
            audit.tick(hour * HOUR);
        }
        audit.set(false);
        assert_eq!(records(ask).len(), 0);
        audit.set(true);
        assert_eq!(records(ask).len(), 1, "what was not recorded is not taken for it");
    }

    #[test]
    fn repeated_refusals_are_counted_and_told_at_the_end_of_the_hour() {
        let audit = audit();
        let first = records(|| {
            for _ in 0..4 {
                audit.denied(&caller(7), &key(0));
            }
            audit.denied(&caller(7), &key(1));
        });
        assert_eq!(first.len(), 2, "{first:?}");
        assert!(first[0].contains("verdict=denied outcome=denied uid=7 unit=a.service resource=https://0/"));
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("uid=7 resource=https://0/") && told[0].contains("repeats=3"));
        assert_eq!(records(|| audit.tick(2 * HOUR)).len(), 0, "told once");
        records(|| (0..2).for_each(|_| audit.denied(&caller(7), &key(0))));
        assert_eq!(records(|| audit.close()).len(), 1, "the daemon's end is the hour's");
    }

    #[test]
    fn one_uid_cannot_fill_the_journal_nor_hide_another() {
        let audit = audit();
        let flood = records(|| (0..10_000).for_each(|number| audit.denied(&caller(7), &key(number))));
        assert_eq!(flood.len(), REFUSALS_PER_UID);
        assert_eq!(records(|| audit.denied(&caller(8), &key(0))).len(), 1);
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("uid=7") && told[0].contains(&format!("repeats={}", 10_000 - REFUSALS_PER_UID)));
    }

    #[test]
    fn many_uids_together_cannot_either() {
        let audit = audit();
        let ask = |uid, number| audit.denied(&caller(uid), &key(number));
        let flood = records(|| (0..5_000).for_each(|uid| ask(uid, 0)));
        assert_eq!(flood.len(), REFUSALS, "at the bound");
        assert_eq!(records(|| ask(0, 1)).len(), 0, "and one more");
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().any(|record| record.contains("uid=0 repeats=1")));
        assert!(
            told.iter()
                .any(|record| record.contains(&format!("repeats={}", 5_000 - REFUSALS)))
        );
    }

    #[test]
    fn no_grant_goes_unrecorded_however_many_there_are() {
        let audit = audit();
        let ask = |number| {
            audit.allowed(&caller(7), &key(number), &Grant::Privileged, &token());
        };
        assert_eq!(records(|| (0..=GRANTS).for_each(ask)).len(), GRANTS + 1);
        assert!(audit.hour.lock().granted.len() <= GRANTS);
    }

    #[test]
    fn switched_off_it_is_silent() {
        let audit = Audit::new(false, Duration::ZERO);
        let ask = || {
            audit.allowed(&caller(7), &key(0), &Grant::Privileged, &token());
            audit.denied(&caller(7), &key(0));
        };
        assert_eq!(records(ask).len(), 0);
        audit.set(true);
        assert_eq!(records(ask).len(), 2, "what was not recorded is not taken for it");
    }
}

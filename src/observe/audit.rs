//! Who was given or refused which token: one record for each uid, key and hour, and for each unit where the lock observes. A
//! record names the token by its `uti` claim alone. Where the caller's unit is not known yet the record has the id of its
//! cgroup; the log's thread puts the unit in its place.
//!
//! Asking costs a caller nothing, so what is recorded of one user within an hour is bounded ([`Hour`]); the rest is counted.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::audit_hour::{Hour, Kind, Place};
use super::events;
use crate::access::{Caller, Grant};
use crate::key::Key;
use crate::token::Token;

/// Writes the records.
pub struct Audit {
    on: AtomicBool,
    /// Each grant passes here, so this is a hasher that is faster than the standard one. It is seeded at random and
    /// nobody sees what it makes, so no two requests can be chosen to look like one.
    hasher: RandomState,
    hour: Mutex<Hour>,
    /// What the lock observed that has no record of its own.
    unseen: AtomicU64,
}

/// A record of what became of a caller's request for a key: what comes first, who and what, and the rest.
macro_rules! record {
    ($level:ident, [$($first:tt)*], $caller:expr, $key:expr, $($rest:tt)*) => {{
        let (unit, cgroup) = $caller.unit_or_cgroup();
        $level!(
            $($first)*,
            uid = $caller.uid,
            gid = $caller.gid,
            pid = $caller.pid,
            unit,
            cgroup,
            resource = %$key.resource,
            identity = %$key.identity,
            $($rest)*
        );
    }};
}

impl Audit {
    /// `now` is the boot-time clock's.
    pub fn new(on: bool, now: Duration) -> Self {
        Self {
            on: AtomicBool::new(on),
            hasher: RandomState::default(),
            hour: Mutex::new(Hour::beginning(now)),
            unseen: AtomicU64::new(0),
        }
    }

    /// Whether records are written from now on.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// The caller has been given the token.
    pub fn allowed(&self, caller: &Caller, key: &Key, grant: &Grant, token: &Token) {
        if !self.on.load(Ordering::Relaxed) || !self.is_new_grant(caller, key) {
            return;
        }
        record!(
            info, [verdict = "allowed", outcome = "ok"], caller, key,
            rule = %grant,
            uti = token.uti(),
            "token given to {}",
            caller.user()
        );
    }

    /// The caller has been given the token although no rule allows it, because the lock observes.
    pub fn observed(&self, caller: &Caller, key: &Key, token: &Token) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        find_unit(caller);
        if !self.is_new_refusal(Kind::Observed, caller, key) {
            return;
        }
        let user = caller.user();
        record!(
            warn,
            [verdict = "observed", outcome = "would_deny"],
            caller,
            key,
            rule = "none",
            uti = token.uti(),
            account = user.account(),
            "token given to {user} that no rule allows: the lock would refuse it if it enforced the rules"
        );
    }

    /// The lock would answer with a refusal, if it enforced, what the metadata service itself takes.
    pub fn would_break(&self, caller: &Caller, path: &str, reason: &str) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        find_unit(caller);
        let (unit, cgroup) = caller.unit_or_cgroup();
        let hash = self.hasher.hash_one((caller.uid, unit, cgroup, reason));
        if !self.is_new(Kind::Observed, hash, caller) {
            return;
        }
        warn!(
            verdict = "observed",
            outcome = "would_break",
            uid = caller.uid,
            unit,
            cgroup,
            path,
            reason,
            "a request of {} that the lock would refuse if it enforced the rules",
            caller.user()
        );
    }

    /// How often what the lock observed got no record, since there were too many.
    pub fn unseen(&self) -> u64 {
        self.unseen.load(Ordering::Relaxed)
    }

    /// No rule allows the caller the key.
    pub fn denied(&self, caller: &Caller, key: &Key) {
        if !self.on.load(Ordering::Relaxed) || !self.is_new_refusal(Kind::Denied, caller, key) {
            return;
        }
        let user = caller.user();
        record!(
            warn,
            [
                message_id = events::ACCESS_DENIED,
                verdict = "denied",
                outcome = "denied"
            ],
            caller,
            key,
            rule = "none",
            account = user.account(),
            "token refused to {user}: no rule allows it; repeats within the hour are counted"
        );
    }

    /// Time has passed: ends the hour when it is over.
    pub fn tick(&self, now: Duration) {
        let mut hour = self.hour.lock();
        if hour.is_over(now) {
            let over = std::mem::replace(&mut *hour, Hour::beginning(now));
            drop(hour);
            over.tell_repeats();
        }
    }

    /// The daemon ends, and the hour with it.
    pub fn close(&self) {
        std::mem::take(&mut *self.hour.lock()).tell_repeats();
    }

    fn is_new_grant(&self, caller: &Caller, key: &Key) -> bool {
        let hash = self.hasher.hash_one((caller.uid, key));
        self.is_new(Kind::Granted, hash, caller)
    }

    /// Whether a record is to be written, which is no refusal's.
    fn is_new(&self, kind: Kind, hash: u64, caller: &Caller) -> bool {
        let place = self.hour.lock().grant(kind, hash, caller);
        self.is_recorded(kind, place)
    }

    fn is_new_refusal(&self, kind: Kind, caller: &Caller, key: &Key) -> bool {
        // Rules to come may be for the unit.
        let unit = (kind == Kind::Observed).then(|| caller.unit_or_cgroup());
        let hash = self.hasher.hash_one((caller.uid, unit, key));
        let place = self.hour.lock().refusal(kind, hash, caller, key);
        self.is_recorded(kind, place)
    }

    fn is_recorded(&self, kind: Kind, place: Place) -> bool {
        if (kind, place) == (Kind::Observed, Place::Counted) {
            self.unseen.fetch_add(1, Ordering::Relaxed);
        }
        place == Place::Recorded
    }
}

/// Rules are made of these records, by unit, and a short program and its group are gone when the log's thread looks. A search
/// is bounded for each user and what it finds is remembered.
fn find_unit(caller: &Caller) {
    _ = caller.unit();
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use zeroize::Zeroizing;

    use super::super::audit_hour::{GRANTS, HOUR, REFUSALS, TOLD, USERS, User};
    use super::super::record::{Record, testing};
    use super::*;
    use crate::key::{Identity, Resource};
    use crate::token::Parts;

    /// What is recorded, a line each.
    fn records(f: impl FnOnce()) -> Vec<String> {
        testing::records(f).iter().map(Record::text).collect()
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
                "token given to uid 7 verdict=allowed outcome=ok uid=7 unit=a.service resource=https://0/ identity=default \
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
    fn what_the_lock_observes_is_recorded_by_unit_and_what_goes_unrecorded_is_counted() {
        let audit = audit();
        let of = |unit: &str| Caller::described(7, vec![], Some(unit.to_owned()));
        let ask = |unit, number| audit.observed(&of(unit), &key(number), &token());
        let first = records(|| {
            for unit in ["a.service", "b.service", "a.service", "a.service"] {
                ask(unit, 0);
            }
            (0..3).for_each(|_| audit.would_break(&of("a.service"), "/metadata/x", "why not"));
            audit.denied(&of("a.service"), &key(0));
        });
        assert_eq!(first.len(), 4, "{first:?}");
        assert!(first[0].contains("verdict=observed outcome=would_deny uid=7 unit=a.service resource=https://0/"));
        assert!(first[2].contains("outcome=would_break uid=7 unit=a.service path=/metadata/x reason=\"why not\""));
        assert_eq!(audit.unseen(), 0);
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("outcome=would_deny uid=7 unit=a.service resource=https://0/"),
            "{told:?}"
        );
        assert!(told[0].contains("repeats=2"), "{told:?}");

        let flood = records(|| (0..1000).for_each(|number| ask("a.service", number)));
        assert_eq!((flood.len(), audit.unseen()), (200, 800));
        records(|| audit.would_break(&of("a.service"), "/metadata/x", "why not"));
        assert_eq!(audit.unseen(), 801);
        let told = records(|| audit.tick(2 * HOUR));
        assert!(told[0].contains("outcome=would_deny uid=7 repeats=801"), "{told:?}");
    }

    #[test]
    fn one_uid_cannot_fill_the_journal_nor_hide_another() {
        let audit = audit();
        let flood = records(|| (0..10_000).for_each(|number| audit.denied(&caller(7), &key(number))));
        assert_eq!(flood.len(), 200);
        assert_eq!(records(|| audit.denied(&caller(8), &key(0))).len(), 1);
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("uid=7") && told[0].contains("repeats=9800"));
    }

    #[test]
    fn grants_and_refusals_of_one_uid_have_one_bound_and_what_is_beyond_is_counted() {
        let audit = audit();
        let grant = |uid, number| audit.allowed(&caller(uid), &key(number), &Grant::Privileged, &token());
        assert_eq!(records(|| (0..1000).for_each(|number| grant(7, number))).len(), 200);
        assert_eq!(records(|| grant(7, 0)).len(), 0, "it is recorded already");
        assert_eq!(records(|| grant(8, 0)).len(), 1, "another's");
        let refused = records(|| (0..3).for_each(|number| audit.denied(&caller(7), &key(number))));
        assert_eq!(refused.len(), 1, "a first refusal is never lost");
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("refused") && told[0].contains("uid=7 repeats=2"),
            "{told:?}"
        );
        assert!(
            told[1].contains("given") && told[1].contains("uid=7 repeats=800"),
            "{told:?}"
        );
    }

    #[test]
    fn uids_of_one_owner_have_its_bound_together_and_are_told_apart() {
        let audit = audit();
        let of_range = |uid| {
            let mut caller = caller(uid);
            caller.counts_as = 7;
            caller
        };
        let flood = records(|| (0..1000).for_each(|uid| audit.denied(&of_range(uid), &key(0))));
        assert_eq!(flood.len(), 200);
        assert!(flood[100].contains("uid=100 "), "{}", flood[100]);
        assert_eq!(records(|| audit.denied(&caller(5000), &key(0))).len(), 1);
    }

    /// Where no more refusals can be remembered, the heaviest user's make room.
    #[test]
    fn the_first_refusal_of_a_uid_is_recorded_after_any_flood() {
        let audit = audit();
        let ask = |uid, number| audit.denied(&caller(uid), &key(number));
        let heavy = records(|| (0..10).for_each(|uid| (0..300).for_each(|number| ask(uid, number))));
        let remembered = |uids: Range<u32>| {
            let hour = audit.hour.lock();
            hour.refused
                .values()
                .filter(|repeats| uids.contains(&repeats.user))
                .count()
        };
        assert_eq!(remembered(0..10), REFUSALS);
        let flood = records(|| (1000..1600).for_each(|uid| ask(uid, 0)));
        assert_eq!(flood.len(), 600, "each is a first one");
        assert_eq!(records(|| (0..5).for_each(|_| ask(1599, 0))).len(), 0, "and no more");
        assert!(remembered(0..10) <= 10, "the heaviest made room");
        assert!(remembered(0..1600) <= REFUSALS);
        let told = records(|| audit.tick(HOUR));
        let repeats = |record: &String| record.rsplit_once("repeats=").unwrap().1.parse::<usize>().unwrap();
        let counted: usize = told.iter().map(repeats).sum();
        assert_eq!(heavy.len() + flood.len() + counted, 3000 + 600 + 5, "nothing is lost");
        assert!(told.len() <= TOLD + 2, "{}", told.len());
    }

    #[test]
    fn no_grant_within_the_bound_goes_unrecorded_however_many_there_are() {
        let audit = audit();
        let ask = |number: usize| {
            let uid = u32::try_from(number / 100).unwrap();
            audit.allowed(&caller(uid), &key(number), &Grant::Privileged, &token());
        };
        assert_eq!(records(|| (0..=GRANTS).for_each(ask)).len(), GRANTS + 1);
        assert!(audit.hour.lock().granted.len() <= GRANTS);
    }

    #[test]
    fn users_beyond_all_bounds_are_counted_together() {
        let audit = audit();
        let uids = 0..u32::try_from(USERS).unwrap();
        audit.hour.lock().users.extend(uids.map(|uid| (uid, User::default())));
        let one_more = caller(u32::MAX);
        assert_eq!(records(|| audit.denied(&one_more, &key(0))).len(), 0);
        assert_eq!(records(|| audit.denied(&caller(0), &key(0))).len(), 1);
        let told = records(|| audit.tick(HOUR));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!told[0].contains("uid=") && told[0].contains("repeats=1"), "{told:?}");
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

//! Who was given or refused which token: one record for each uid, key and hour, and for each unit where the lock observes. A
//! record names the token by its `uti` claim alone. Where the caller's unit is not known yet the record has the id of its
//! cgroup; the log's thread puts the unit in its place.
//!
//! Asking costs a caller nothing, so what is recorded of one user within an hour is bounded, and what is remembered for that
//! in all; the rest is counted. Nobody can fill the journal, nor hide another's refusal behind his own: the first refusal of
//! a user is always recorded, and where there is no room to count the repeats of one more, the heaviest user's are counted
//! together ([`crate::fairness`]).

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::events;
use crate::access::{Caller, Grant, NamedUser};
use crate::fairness;
use crate::key::Key;
use crate::token::Token;

const HOUR: Duration = Duration::from_hours(1);
/// Records of one user's grants and refusals.
const RECORDS_PER_USER: u8 = 200;
/// Grants that are remembered, at some ten bytes each. When there are more they are forgotten, and recorded again.
const GRANTS: usize = 4096;
/// Refusals whose repeats are counted one by one.
const REFUSALS: usize = 512;
/// Users that are remembered, at some 30 bytes each.
const USERS: usize = 28_672;
/// Users of whom it is told how much was not recorded. With all refusals that were repeated this must fit the log's queue.
const TOLD: usize = 128;

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

/// What was recorded since the hour began.
#[derive(Default)]
struct Hour {
    ends: Duration,
    /// Hashes of uid and key.
    granted: HashSet<u64, RandomState>,
    refused: HashMap<u64, Repeats>,
    /// Users who have some of these.
    refusers: usize,
    users: HashMap<u32, User>,
    /// Of users that there was no more room for.
    others: Unrecorded,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Granted,
    Denied,
    /// It was granted because the lock observes.
    Observed,
}

/// A refusal that was recorded, or what would be one, and how often it came again.
struct Repeats {
    kind: Kind,
    /// As which the caller counts.
    user: u32,
    uid: u32,
    name: NamedUser,
    unit: Option<Box<str>>,
    cgroup: Option<u64>,
    key: Key,
    count: u32,
}

/// One user's part of the hour.
#[derive(Default)]
struct User {
    records: u8,
    /// How many of [`Hour::refused`].
    refused: usize,
    /// A refusal was recorded.
    was_refused: bool,
    unrecorded: Unrecorded,
}

#[derive(Clone, Copy, Default)]
struct Unrecorded {
    granted: u32,
    refused: u32,
    observed: u32,
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

    fn is_new_grant(&self, caller: &Caller, key: &Key) -> bool {
        let hash = self.hasher.hash_one((caller.uid, key));
        self.is_new(Kind::Granted, hash, caller)
    }

    /// Whether a record within the hour's bound is to be written, which is no refusal's.
    fn is_new(&self, kind: Kind, hash: u64, caller: &Caller) -> bool {
        let hour = &mut *self.hour.lock();
        if hour.granted.contains(&hash) {
            return false;
        }
        let Some(user) = hour.user(caller.counts_as) else {
            self.count(kind, &mut hour.others);
            return false;
        };
        if user.records >= RECORDS_PER_USER {
            self.count(kind, &mut user.unrecorded);
            return false;
        }
        user.records += 1;
        if hour.granted.len() >= GRANTS {
            hour.granted.clear();
        }
        hour.granted.insert(hash)
    }

    fn is_new_refusal(&self, kind: Kind, caller: &Caller, key: &Key) -> bool {
        // Rules to come may be for the unit.
        let unit = (kind == Kind::Observed).then(|| caller.unit_or_cgroup());
        let hash = self.hasher.hash_one((caller.uid, unit, key));
        let hour = &mut *self.hour.lock();
        if let Some(repeats) = hour.refused.get_mut(&hash) {
            count(&mut repeats.count);
            return false;
        }
        let Some(user) = hour.user(caller.counts_as) else {
            self.count(kind, &mut hour.others);
            return false;
        };
        let is_first = !user.was_refused;
        let is_within_bound = user.records < RECORDS_PER_USER;
        let is_remembered = (is_first || is_within_bound) && hour.remember(kind, hash, caller, key);
        let is_recorded = is_first || is_remembered;
        if let Some(user) = hour.user(caller.counts_as) {
            if is_recorded {
                user.records = user.records.saturating_add(1);
                user.was_refused = true;
            } else {
                self.count(kind, &mut user.unrecorded);
            }
        }
        is_recorded
    }

    fn count(&self, kind: Kind, unrecorded: &mut Unrecorded) {
        if kind == Kind::Observed {
            self.unseen.fetch_add(1, Ordering::Relaxed);
        }
        unrecorded.count(kind, 1);
    }
}

impl Hour {
    fn beginning(now: Duration) -> Self {
        Self {
            ends: now + HOUR,
            ..Self::default()
        }
    }

    /// `None` where there is no more room for users.
    fn user(&mut self, uid: u32) -> Option<&mut User> {
        let is_known = self.users.contains_key(&uid);
        (is_known || self.users.len() < USERS).then(|| self.users.entry(uid).or_default())
    }

    /// Has the repeats of this refusal counted, if need be in place of one of the heaviest user's.
    fn remember(&mut self, kind: Kind, hash: u64, caller: &Caller, key: &Key) -> bool {
        if self.refused.len() >= REFUSALS && !self.make_room_for(caller.counts_as) {
            return false;
        }
        if let Some(user) = self.users.get_mut(&caller.counts_as) {
            user.refused += 1;
            self.refusers += usize::from(user.refused == 1);
        }
        let (unit, cgroup) = caller.unit_or_cgroup();
        let repeats = Repeats {
            kind,
            user: caller.counts_as,
            uid: caller.uid,
            name: caller.user(),
            unit: unit.map(Box::from),
            cgroup,
            key: key.clone(),
            count: 0,
        };
        self.refused.insert(hash, repeats);
        true
    }

    /// A look through all is worth it only for who has less than the average: then somebody has at least two more. A flood
    /// of refusals costs none.
    fn make_room_for(&mut self, uid: u32) -> bool {
        let mine = self.users.get(&uid).map_or(0, |user| user.refused);
        let users = self.refusers + usize::from(mine == 0);
        if mine >= REFUSALS / users.max(1) {
            return false;
        }
        let weight = |uid: u32| (uid, self.users.get(&uid).map_or(0, |user| user.refused));
        let of_all = self.refused.values().map(|repeats| weight(repeats.user));
        let heaviest = fairness::heavier_than(mine + 1, of_all).first().copied();
        let of_heaviest = self.refused.iter().find(|(_, repeats)| heaviest == Some(repeats.user));
        let Some(hash) = of_heaviest.map(|(hash, _)| *hash) else {
            return false;
        };
        if let Some(gone) = self.refused.remove(&hash)
            && let Some(user) = self.users.get_mut(&gone.user)
        {
            user.refused -= 1;
            self.refusers -= usize::from(user.refused == 0);
            user.unrecorded.count(gone.kind, gone.count);
        }
        true
    }

    fn tell_repeats(self) {
        for repeats in self.refused.into_values().filter(|refused| refused.count > 0) {
            repeats.tell();
        }
        let mut others = self.others;
        let weights = self.users.iter().map(|(uid, user)| (*uid, user.unrecorded.sum()));
        for (place, uid) in fairness::heavier_than(0, weights).into_iter().enumerate() {
            let Some(User { unrecorded, .. }) = self.users.get(&uid) else {
                continue;
            };
            if place < TOLD {
                unrecorded.tell(Some(uid));
            } else {
                others.add(*unrecorded);
            }
        }
        others.tell(None);
    }
}

impl Repeats {
    fn tell(self) {
        let Self {
            uid, name, key, count, ..
        } = self;
        if self.kind == Kind::Observed {
            warn!(
                verdict = "observed",
                outcome = "would_deny",
                uid,
                unit = self.unit.as_deref(),
                cgroup = self.cgroup,
                resource = %key.resource,
                identity = %key.identity,
                repeats = count,
                "token given to {name} again since the last record of it, though no rule allows it"
            );
        } else {
            warn!(
                message_id = events::ACCESS_DENIED,
                verdict = "denied",
                outcome = "denied",
                uid,
                resource = %key.resource,
                identity = %key.identity,
                repeats = count,
                "token refused to {name} again since the last record of it"
            );
        }
    }
}

impl Unrecorded {
    fn sum(self) -> usize {
        self.granted.saturating_add(self.refused).saturating_add(self.observed) as usize
    }

    fn count(&mut self, kind: Kind, count: u32) {
        let counter = match kind {
            Kind::Granted => &mut self.granted,
            Kind::Denied => &mut self.refused,
            Kind::Observed => &mut self.observed,
        };
        *counter = counter.saturating_add(count);
    }

    fn add(&mut self, other: Self) {
        self.count(Kind::Granted, other.granted);
        self.count(Kind::Denied, other.refused);
        self.count(Kind::Observed, other.observed);
    }

    /// Of this user, or of all who are not told by themselves.
    fn tell(self, uid: Option<u32>) {
        let Self {
            granted,
            refused,
            observed,
        } = self;
        if refused > 0 {
            warn!(
                verdict = "denied",
                outcome = "denied",
                uid,
                repeats = refused,
                "more tokens were refused; they are too many to be listed"
            );
        }
        if observed > 0 {
            warn!(
                verdict = "observed",
                outcome = "would_deny",
                uid,
                repeats = observed,
                "more requests were granted that the lock would refuse if it enforced the rules; they are too many to be listed"
            );
        }
        if granted > 0 {
            info!(
                verdict = "allowed",
                outcome = "ok",
                uid,
                repeats = granted,
                "more tokens were given; they are too many to be listed"
            );
        }
    }
}

/// Rules are made of these records, by unit, and a short program and its group are gone when the log's thread looks. A search
/// is bounded for each user and what it finds is remembered.
fn find_unit(caller: &Caller) {
    _ = caller.unit();
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use zeroize::Zeroizing;

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

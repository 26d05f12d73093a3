//! What the audit remembers of an hour, so that each thing is recorded once and the rest is counted. All of it is bounded:
//! nobody can fill the journal, nor hide another's refusal behind his own. The first refusal of a user is always recorded, and
//! where there is no room to count the repeats of one more, the heaviest user's are counted together ([`crate::fairness`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use foldhash::quality::RandomState;
use tracing::{info, warn};

use super::events;
use crate::access::{Caller, NamedUser};
use crate::fairness;
use crate::key::Key;

pub(super) const HOUR: Duration = Duration::from_hours(1);
/// Records of one user's grants and refusals.
const RECORDS_PER_USER: u8 = 200;
/// Grants that are remembered, at some ten bytes each. When there are more they are forgotten, and recorded again.
pub(super) const GRANTS: usize = 4096;
/// Refusals whose repeats are counted one by one.
pub(super) const REFUSALS: usize = 512;
/// Users that are remembered, at some 30 bytes each.
pub(super) const USERS: usize = 28_672;
/// Users of whom it is told how much was not recorded. With all refusals that were repeated this must fit the log's queue.
pub(super) const TOLD: usize = 128;

/// What was recorded since the hour began.
#[derive(Default)]
pub(super) struct Hour {
    ends: Duration,
    /// Hashes of uid and key.
    pub(super) granted: HashSet<u64, RandomState>,
    pub(super) refused: HashMap<u64, Repeats>,
    /// Users who have some of these.
    refusers: usize,
    pub(super) users: HashMap<u32, User>,
    /// Of users that there was no more room for.
    others: Unrecorded,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Granted,
    Denied,
    /// It was granted because the lock observes.
    Observed,
}

/// What becomes of it in the journal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It gets a record of its own.
    Recorded,
    /// It has one already, within the hour.
    Known,
    /// It is one of too many.
    Counted,
}

/// A refusal that was recorded, or what would be one, and how often it came again.
pub(super) struct Repeats {
    kind: Kind,
    /// As which the caller counts.
    pub(super) user: u32,
    uid: u32,
    name: NamedUser,
    unit: Option<Box<str>>,
    cgroup: Option<u64>,
    key: Key,
    count: u32,
}

/// One user's part of the hour.
#[derive(Default)]
pub(super) struct User {
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

impl Hour {
    pub(super) fn beginning(now: Duration) -> Self {
        Self {
            ends: now + HOUR,
            ..Self::default()
        }
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.ends
    }

    /// Something that is no refusal, known by its hash.
    pub(super) fn grant(&mut self, kind: Kind, hash: u64, caller: &Caller) -> Place {
        if self.granted.contains(&hash) {
            return Place::Known;
        }
        let Some(user) = self.user(caller.counts_as) else {
            self.others.count(kind, 1);
            return Place::Counted;
        };
        if user.records >= RECORDS_PER_USER {
            user.unrecorded.count(kind, 1);
            return Place::Counted;
        }
        user.records += 1;
        if self.granted.len() >= GRANTS {
            self.granted.clear();
        }
        self.granted.insert(hash);
        Place::Recorded
    }

    /// A refusal, or what would be one.
    pub(super) fn refusal(&mut self, kind: Kind, hash: u64, caller: &Caller, key: &Key) -> Place {
        if let Some(repeats) = self.refused.get_mut(&hash) {
            repeats.count = repeats.count.saturating_add(1);
            return Place::Known;
        }
        let Some(user) = self.user(caller.counts_as) else {
            self.others.count(kind, 1);
            return Place::Counted;
        };
        let is_first = !user.was_refused;
        let is_within_bound = user.records < RECORDS_PER_USER;
        let is_remembered = (is_first || is_within_bound) && self.remember(kind, hash, caller, key);
        let is_recorded = is_first || is_remembered;
        if let Some(user) = self.user(caller.counts_as) {
            if is_recorded {
                user.records = user.records.saturating_add(1);
                user.was_refused = true;
            } else {
                user.unrecorded.count(kind, 1);
            }
        }
        if is_recorded { Place::Recorded } else { Place::Counted }
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

    pub(super) fn tell_repeats(self) {
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

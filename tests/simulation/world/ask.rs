//! A caller asks, and what it may expect.

use std::time::Duration;

use msi_tokend::broker::{Ask, Bound, Decision, Renewal, Unserved};
use sha2::{Digest, Sha256};

use super::model::{Turn, Waiting, secret};
use super::{HALF_A_MINUTE, LANES, LOW, LOW_WAIT, World};
use crate::op::Want;
use crate::promise::{Kept, broken, promise};

/// How things stood when the caller asked.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Before {
    key: usize,
    uid: u32,
    /// What was left of the token.
    left: Duration,
    /// A new token was asked for.
    forced: bool,
    fetching: bool,
    running: bool,
    last_start: Option<Duration>,
    last_forced: Option<Duration>,
    /// Keys in line that share the caller's lane.
    ahead: usize,
    /// It was one other uid's, and counts for the caller from now on.
    taken_over: bool,
}

impl World {
    pub(super) fn ask(&mut self, uid: u32, key: usize, want: Want) -> Kept {
        self.tally.asks += 1;
        let hash = |token: usize| Sha256::digest(secret(token)).into();
        let cached = self.models[key].lease.map(|lease| lease.token);
        let renewal = match want {
            Want::Any => Renewal::No,
            Want::Bypass => Renewal::Bypass,
            Want::ReplaceThis => Renewal::Replace(hash(cached.unwrap_or(usize::MAX))),
            Want::ReplaceOther => Renewal::Replace(hash(usize::MAX)),
        };
        let model = &self.models[key];
        let interested = self
            .queued()
            .filter(|other| *other != key && self.is_interested(uid, *other));
        let before = Before {
            key,
            uid,
            left: self.left(key),
            forced: want == Want::Bypass || (want == Want::ReplaceThis && cached.is_some()),
            fetching: model.fetching,
            running: model.running,
            last_start: model.last_start,
            last_forced: model.last_forced.max(model.force_asked),
            ahead: interested.count(),
            taken_over: model.exists
                && !model.warm
                && model.users.len() == 1
                && model.owner != uid
                && self.owned(uid).count() < self.policy.max_tokens_per_uid,
        };
        self.newcomer = (!model.exists).then_some(uid);
        self.entering = (!model.exists).then_some(key);
        let asked = Ask {
            key: &self.keys[key].clone(),
            uid,
            renewal,
        };
        let mut effects = Vec::new();
        let decision = self.broker.ask(self.now, asked, &mut effects);
        self.note_ask(&before, &decision)?;
        self.apply(effects)?;
        (self.newcomer, self.entering) = (None, None);
        self.look()?;
        promise!(
            !before.taken_over || self.models[key].owner == uid,
            "a key that others asked for since is theirs",
            "{key} of {}, asked for by {uid}",
            self.models[key].owner
        );
        match &decision {
            Decision::Wait(_) => self.judge_wait(&before),
            Decision::Now(Ok(served)) => {
                self.check_served(key, served)?;
                self.judge_hit(&before)
            }
            Decision::Now(Err(unserved)) => {
                self.tally.told += 1;
                self.judge_refusal(&before, unserved)
            }
        }
    }

    fn note_ask(&mut self, before: &Before, decision: &Decision) -> Kept {
        let now = self.now.boot;
        let &Before {
            key, uid, left, forced, ..
        } = before;
        let patience = now + self.policy.caller_wait;
        let model = &mut self.models[key];
        if !model.exists {
            model.owner = uid;
            model.exists = !matches!(decision, Decision::Now(Err(Unserved::Full(_))));
            promise!(left.is_zero(), "what can be served is served", "{key} was forgotten");
        }
        model.last_asked = now;
        model.asked_by.insert(uid);
        if model.exists {
            model.users.insert(uid);
        }
        if let Decision::Wait(id) = decision {
            if forced {
                model.force_asked = Some(now);
            }
            let deadline = if left.is_zero() || forced {
                patience
            } else {
                now + LOW_WAIT
            };
            let waiting = Waiting {
                key,
                uid,
                deadline,
                patience,
            };
            self.waiting.insert(*id, waiting);
        }
        Ok(())
    }

    fn judge_wait(&mut self, before: &Before) -> Kept {
        let &Before { key, left, forced, .. } = before;
        promise!(
            left.is_zero() || forced || left < LOW,
            "hits never wait",
            "{key} has {left:?} left"
        );
        let model = &mut self.models[key];
        if model.fetching && !model.running {
            let most = (before.ahead as u64 + 1) * LANES as u64;
            model.turns.push(Turn {
                uid: before.uid,
                before: self.tally.fetches,
                most,
            });
        }
        promise!(
            model.fetching || model.failing.is_some(),
            "waiters always wake",
            "{key}: nothing is under way"
        );
        Ok(())
    }

    fn judge_hit(&self, before: &Before) -> Kept {
        let now = self.now.boot;
        let quiet = self.models[before.key].failing.is_none() && now >= self.may_be_silent_until && !before.fetching;
        let lately = |at: Option<Duration>| at.is_some_and(|at| now < at + HALF_A_MINUTE);
        promise!(
            !before.forced || !quiet || lately(before.last_forced),
            "a new token is asked for when a caller wants it",
            "{}",
            before.key
        );
        promise!(
            before.forced || before.left >= LOW || !quiet || lately(before.last_start),
            "a token that is nearly over is renewed",
            "{} has {:?} left, last try {:?}, now {now:?}",
            before.key,
            before.left,
            before.last_start
        );
        Ok(())
    }

    fn judge_refusal(&self, before: &Before, unserved: &Unserved) -> Kept {
        let (key, now) = (before.key, self.now.boot);
        match unserved {
            Unserved::Failed(failure, _) => {
                let cause = &failure.text;
                let failing = self.models[key].failing.as_ref();
                let holds = failing.is_some_and(|(_, until)| now < *until) || now < self.may_be_silent_until;
                promise!(before.left.is_zero(), "what can be served is served", "{key}: {cause}");
                promise!(holds, "nobody is told of a failure that is over", "{key}: {cause}");
                promise!(!before.running, "callers share a running fetch", "{key}");
            }
            Unserved::TimedOut(_) => {
                return Err(broken("nobody is told to have waited who has not", || key.to_string()));
            }
            Unserved::Full(bound) => {
                let mut counted: Vec<usize> = match bound {
                    Bound::Total => self.existing().collect(),
                    Bound::PerUid => self.owned(before.uid).collect(),
                };
                let most = match bound {
                    Bound::Total => self.policy.max_tokens,
                    Bound::PerUid => self.policy.max_tokens_per_uid,
                };
                promise!(counted.len() >= most, "no room only at the bound", "{bound:?}");
                counted.retain(|other| self.may_go_for(Some(before.uid), *other));
                promise!(
                    counted.is_empty(),
                    "no room only where nothing can go",
                    "{bound:?}, {counted:?}"
                );
            }
        }
        Ok(())
    }
}

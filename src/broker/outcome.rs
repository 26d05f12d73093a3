//! What the end of a fetch changes: for its key, for those who wait for it, and for everybody where it is a 429.

use std::sync::Arc;
use std::time::Duration;

use super::core::Broker;
use super::event::{Effect, Fetch, Note, Unserved};
use super::governor::Throttle;
use super::lifetime::{Lease, refresh_in};
use super::slot::Failing;
use crate::clock::Now;
use crate::failure::{Cause, Class, Failure};
use crate::key::{Identity, Key};
use crate::token::Token;

/// Why a good token was not kept.
const NO_ROOM: &str = "the cache has no room for the token: cache.max_bytes is reached";

impl Broker {
    /// The fetch has ended, with a token or a failure.
    pub fn reply(&mut self, now: Now, fetch: &Fetch, outcome: Result<Token, Failure>, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        self.governor.finished(&fetch.key);
        let Some(mut slot) = self.store.edit(&fetch.key) else {
            return;
        };
        slot.flight = None;
        let started = slot.last_try.unwrap_or(now.boot);
        drop(slot);
        let lease = outcome.map(|token| Lease::new(token.kept(), now)).and_then(|lease| {
            let over = lease.left(now).is_zero();
            let faulty = || {
                Failure::new(
                    Class::Faulty,
                    Cause::Expired,
                    "the token had already expired when it came",
                )
            };
            if over { Err(faulty()) } else { Ok(lease) }
        });
        match lease {
            // The failure of an upstream that was replaced meanwhile. The present one has not been asked yet.
            Err(_) if fetch.upstream != self.upstream => {
                if let Some(mut slot) = self.store.edit(&fetch.key) {
                    slot.next_try = now.boot;
                }
                self.settle(now, &fetch.key, self.throttled(now), effects);
                self.slot_is_due(now, &fetch.key, effects);
            }
            Err(failure) if matches!(failure.class, Class::Throttled(_)) => {
                let rounds = self.governor.rounds_before(started);
                let failure = Arc::new(failure);
                self.failed(now, &fetch.key, &failure, rounds, effects);
                self.silence(now, started, &fetch.key, failure, effects);
            }
            lease => {
                let rounds = self.governor.answered(started);
                if rounds > 0 {
                    effects.push(Effect::Note(Note::Unthrottled { rounds }));
                }
                match lease {
                    Ok(lease) => self.renewed(now, fetch, lease, effects),
                    Err(failure) => self.failed(now, &fetch.key, &Arc::new(failure), 0, effects),
                }
            }
        }
        self.start_fetches(now, effects);
    }

    fn renewed(&mut self, now: Now, fetch: &Fetch, lease: Lease, effects: &mut Vec<Effect>) {
        let Some(slot) = self.store.get(&fetch.key) else {
            return;
        };
        let mut same = false;
        let mut new = lease;
        let mut another = None;
        if let Some(old) = &slot.lease {
            same = old.token.is_same_as(&new.token);
            let changed = is_another(old.token.client_id(), new.token.client_id());
            if changed && fetch.key.identity == Identity::Default {
                another = Some(Note::IdentityChanged {
                    key: fetch.key.clone(),
                    old: old.token.client_id().map(Into::into),
                    new: new.token.client_id().map(Into::into),
                });
            }
            // The endpoint caches in several places: one of them may give an older token than we have. A refresh that
            // nobody forced must not shorten what can be served.
            if !same && !changed && !fetch.bypass && old.left(now) > new.left(now) {
                (same, new) = (true, old.clone());
            }
        }
        let size = new.token.size();
        if !self.store.make_room(&fetch.key, size, &self.policy, now, effects) {
            let failure = Failure::new(Class::Full, Cause::Other, NO_ROOM);
            return self.failed(now, &fetch.key, &Arc::new(failure), 0, effects);
        }
        let Some(mut slot) = self.store.edit(&fetch.key) else {
            return;
        };
        effects.extend(another.map(Effect::Note));
        let left = new.left(now);
        let expires_on = new.token.expires_on();
        let next_in = refresh_in(left, same, self.rng.f64());
        slot.lease = Some(new);
        slot.lapse_told = false;
        slot.next_try = now.boot.saturating_add(next_in);
        let trouble = slot.trouble.take();
        drop(slot);
        effects.push(Effect::Note(Note::Refreshed {
            key: fetch.key.clone(),
            left,
            expires_on,
            next_in,
            same,
            failures: trouble.as_ref().map_or(0, |trouble| trouble.failures),
            after: trouble.filter(|trouble| !trouble.told.is_empty()).map(|t| t.failure),
        }));
        self.settle(now, &fetch.key, None, effects);
    }

    /// `rounds` is how many rounds of 429s came before this failure, where it is a 429 itself.
    fn failed(&mut self, now: Now, key: &Arc<Key>, failure: &Arc<Failure>, rounds: u32, effects: &mut Vec<Effect>) {
        let Some(mut slot) = self.store.edit(key) else { return };
        let mut trouble = slot
            .trouble
            .take()
            .unwrap_or_else(|| Box::new(Failing::new(failure.clone())));
        let wait = trouble.streak.failed(&failure.class, now.boot, rounds, self.rng.f64());
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.hold_callers = wait.hold_callers;
        trouble.failure = failure.clone();
        let first = trouble.is_first_of(&failure.class);
        slot.next_try = now.boot.saturating_add(wait.for_);
        effects.push(Effect::Note(Note::Failed {
            key: key.clone(),
            failure: failure.clone(),
            failures: trouble.failures,
            first,
            left: slot.left(now),
            expires_on: slot.lease.as_ref().map(|lease| lease.token.expires_on()),
            next_in: wait.for_,
        }));
        slot.trouble = Some(trouble);
        slot.note_lapse(now, effects);
        drop(slot);
        let told = if wait.hold_callers {
            self.throttled(now)
        } else {
            Some(Unserved::Failed(failure.clone(), wait.for_))
        };
        self.settle(now, key, told, effects);
    }

    /// The upstream answered 429: no fetch starts before the next try of that key. Callers that wait for a fetch that will
    /// not start now get the failure as well.
    fn silence(&mut self, now: Now, started: Duration, key: &Key, failure: Arc<Failure>, effects: &mut Vec<Effect>) {
        let Some(until) = self.store.get(key).map(|slot| slot.next_try) else {
            return;
        };
        let rounds = self.governor.rounds_before(started) + 1;
        if self.governor.is_news(started) {
            effects.push(Effect::Note(Note::Throttled {
                failure: failure.clone(),
                rounds,
                next_in: until.saturating_sub(now.boot),
            }));
        }
        for key in self.governor.silence(now.boot, started, Throttle { until, failure }) {
            if let Some(mut slot) = self.store.edit(&key) {
                // A fetch that a caller forced was not due, and another may be forced soon, since this one never started.
                if slot.flight.take().is_some_and(|flight| flight.bypass) {
                    slot.forced_at = None;
                }
                if slot.next_try <= now.boot {
                    slot.next_try = until;
                }
            }
        }
        for key in self.waiters.keys() {
            if self.store.get(&key).is_some_and(|slot| slot.flight.is_none()) {
                self.settle(now, &key, self.throttled(now), effects);
            }
        }
    }

    /// A fetch of the key ended, or will not start. Its callers get the token, or else `told`; without either they wait on.
    fn settle(&mut self, now: Now, key: &Key, told: Option<Unserved>, effects: &mut Vec<Effect>) {
        let Some(mut slot) = self.store.edit(key) else { return };
        let Some(answer) = slot.served(now).map(Ok).or(told.map(Err)) else {
            return;
        };
        for id in std::mem::take(&mut slot.waiters) {
            self.waiters.remove(id);
            effects.push(Effect::Answer(id, answer.clone()));
        }
    }

    /// What callers are told while the upstream's throttle is in force.
    fn throttled(&self, now: Now) -> Option<Unserved> {
        let throttle = self.governor.throttled(now.boot)?;
        let next_in = throttle.until.saturating_sub(now.boot);
        Some(Unserved::Failed(throttle.failure.clone(), next_in))
    }
}

/// Whether two replies name two identities; ids compare without case, and not every reply has one.
fn is_another(old: Option<&str>, new: Option<&str>) -> bool {
    old.zip(new).is_some_and(|(old, new)| !old.eq_ignore_ascii_case(new))
}

//! DECIDES, and does nothing else: no I/O, no clock, no task. What happens comes in as a call with the time of it; what
//! is to be done goes out as [`Effect`]s.
//!
//! The promises kept here: never an expired token; one request to the upstream per key, whatever the number of callers;
//! never more requests than the governor allows; a token that can be served is served, whatever the upstream says;
//! every caller gets an answer by its deadline.

mod backoff;
mod carried;
mod event;
mod governor;
mod lifetime;
mod slot;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub use self::carried::Carried;
pub use self::event::{
    Answer, Ask, Bound, Decision, Effect, Entry, Fetch, Note, Policy, Renewal, Served, Unserved, WaiterId,
};
use self::governor::{Governor, Lane, Throttle};
use self::lifetime::{Lease, refresh_in};
pub use self::slot::Trouble;
use self::slot::{Flight, Slot, Step, Want};
use crate::clock::Now;
use crate::failure::{Class, Failure};
use crate::key::{Identity, Key};
use crate::token::Token;

/// Clocks that part by more than this between two events were stepped; NTP's slewing stays far below.
const STEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Waiter {
    key: Arc<Key>,
    deadline: Duration,
}

/// Every key of the VM, and who waits for it.
#[derive(Debug)]
pub struct Broker {
    policy: Policy,
    slots: HashMap<Arc<Key>, Slot>,
    waiters: HashMap<WaiterId, Waiter>,
    /// When to look at which slot.
    due: BTreeSet<(Duration, Arc<Key>)>,
    /// When which caller's wait runs out.
    deadlines: BTreeSet<(Duration, WaiterId)>,
    governor: Governor,
    last_id: u64,
    rng: fastrand::Rng,
    last_seen: Now,
}

impl Broker {
    /// A broker whose warm tokens are due at the first [`Broker::tick`]. `seed` drives nothing but jitter.
    pub fn new(policy: Policy, seed: u64, now: Now) -> Self {
        let mut broker = Self {
            governor: Governor::new(policy.max_concurrent, policy.max_per_second),
            policy,
            slots: HashMap::new(),
            waiters: HashMap::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            last_id: 0,
            rng: fastrand::Rng::with_seed(seed),
            last_seen: now,
        };
        broker.keep_warm(now.boot);
        broker
    }

    /// A caller asks. Its right to the key was judged before.
    pub fn ask(&mut self, now: Now, ask: Ask<'_>, effects: &mut Vec<Effect>) -> Decision {
        self.observe_clocks(now, effects);
        let slot = match self.slots.get_mut(ask.key) {
            Some(slot) => slot,
            None => match self.admit(ask, effects) {
                Ok(key) => self
                    .slots
                    .entry(key.clone())
                    .or_insert(Slot::new(key, ask.uid, false, now.boot)),
                Err(bound) => return Decision::Now(Err(Unserved::Full(bound))),
            },
        };
        let want = match ask.renewal {
            Renewal::No => Want::Current,
            Renewal::Bypass => Want::Fresh,
            Renewal::Replace(hash) => match &slot.lease {
                Some(lease) if lease.token.has_sha256(&hash) => Want::Fresh,
                _ => Want::Current,
            },
        };
        let planned = slot.next_try;
        let step = slot.ask(now, want, &self.governor, self.policy.caller_wait);
        match step {
            Step::Serve => {
                slot.hits += 1;
                let moved = (slot.next_try != planned).then(|| slot.key.clone());
                let answer = served(slot, now).ok_or(Unserved::TimedOut);
                if let Some(key) = moved {
                    self.reschedule(&key);
                }
                Decision::Now(answer)
            }
            Step::Fail(failure, until) => {
                let key = slot.key.clone();
                self.reschedule(&key);
                Decision::Now(Err(Unserved::Failed(failure, until.saturating_sub(now.boot))))
            }
            Step::Join(until) => {
                let key = slot.key.clone();
                let id = self.wait(key.clone(), until);
                self.reschedule(&key);
                Decision::Wait(id)
            }
            Step::Start { until, bypass } => {
                let key = slot.key.clone();
                let id = self.wait(key.clone(), until);
                self.enqueue(&key, Lane::Caller(ask.uid), bypass, now.boot);
                self.start_fetches(now.boot, effects);
                Decision::Wait(id)
            }
        }
    }

    /// The upstream's answer to the [`Fetch`] with this id, or what came in its place.
    pub fn reply(&mut self, now: Now, fetch: &Fetch, outcome: Result<Token, Failure>, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        self.governor.finished();
        let Some(slot) = self.slots.get_mut(&fetch.key) else {
            return;
        };
        slot.flight = None;
        let outcome = outcome.map(|token| Lease::new(Arc::new(token), now)).and_then(|lease| {
            let over = lease.left(now).is_zero();
            if over {
                Err(Failure::new(Class::Faulty, "the token given was over on arrival"))
            } else {
                Ok(lease)
            }
        });
        if !matches!(
            &outcome,
            Err(Failure {
                class: Class::Throttled(_),
                ..
            })
        ) {
            self.governor.not_throttled();
        }
        match outcome {
            Ok(lease) => self.renewed(now, fetch, lease, effects),
            Err(failure) => self.failed(now, &fetch.key, failure, effects),
        }
        self.reschedule(&fetch.key);
        self.start_fetches(now.boot, effects);
    }

    /// Time has passed. Call it at [`Broker::next_wake`] or at any other time.
    pub fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now.boot
        {
            self.wait_is_over(now, id, effects);
        }
        while let Some((due, key)) = self.due.first().cloned()
            && due <= now.boot
        {
            self.due.pop_first();
            self.slot_is_due(now, &key, effects);
        }
        self.start_fetches(now.boot, effects);
    }

    /// When [`Broker::tick`] has something to do, on the boot-time clock.
    pub fn next_wake(&self, now: Now) -> Option<Duration> {
        let due = self.due.first().map(|(due, _)| *due);
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        [due, deadline, self.governor.may_start_at(now.boot)]
            .into_iter()
            .flatten()
            .min()
    }

    /// A caller hung up. The fetch it waited for goes on.
    pub fn forget(&mut self, id: WaiterId) {
        if let Some(waiter) = self.waiters.remove(&id) {
            self.deadlines.remove(&(waiter.deadline, id));
            if let Some(slot) = self.slots.get_mut(&waiter.key) {
                slot.waiters.remove(&id);
            }
        }
    }

    /// The configuration changed. Nothing that can be served is lost, except what no longer fits.
    pub fn reconfigure(&mut self, now: Now, policy: Policy, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        self.governor.set_bounds(policy.max_concurrent, policy.max_per_second);
        self.policy = policy;
        let warm: HashSet<&Key> = self.policy.warm.iter().collect();
        for slot in self
            .slots
            .values_mut()
            .filter(|slot| slot.warm && !warm.contains(&*slot.key))
        {
            slot.warm = false;
            slot.last_asked = now.boot;
        }
        self.keep_warm(now.boot);
        while self.slots.len() > self.policy.max_tokens && self.evict(|_| true, effects) {}
        let keys: Vec<Arc<Key>> = self.slots.keys().cloned().collect();
        for key in &keys {
            self.reschedule(key);
        }
        self.tick(now, effects);
    }

    /// What is cached, for people.
    pub fn entries(&self, now: Now) -> impl Iterator<Item = Entry> {
        self.slots.values().map(move |slot| Entry {
            key: slot.key.clone(),
            warm: slot.warm,
            expires_on: slot.lease.as_ref().map(|lease| lease.token.expires_on()),
            left: slot.left(now),
            next_in: slot.next_try.saturating_sub(now.boot),
            fetching: slot.flight.is_some(),
            last_failure: slot.trouble.as_ref().map(|trouble| trouble.failure.clone()),
            failures: slot.trouble.as_ref().map_or(0, |trouble| trouble.failures),
            asked_ago: now.boot.saturating_sub(slot.last_asked),
            hits: slot.hits,
        })
    }

    fn keep_warm(&mut self, now: Duration) {
        for key in self.policy.warm.clone() {
            let key = Arc::new(key);
            self.slots
                .entry(key.clone())
                .or_insert_with(|| Slot::new(key.clone(), 0, true, now))
                .warm = true;
            self.reschedule(&key);
        }
    }

    /// Makes room for one more key of this uid.
    fn admit(&mut self, ask: Ask<'_>, effects: &mut Vec<Effect>) -> Result<Arc<Key>, Bound> {
        let owned = |slot: &Slot| slot.owner == ask.uid && !slot.warm;
        if self.slots.values().filter(|slot| owned(slot)).count() >= self.policy.max_tokens_per_uid
            && !self.evict(owned, effects)
        {
            return Err(Bound::PerUid);
        }
        if self.slots.len() >= self.policy.max_tokens && !self.evict(|_| true, effects) {
            return Err(Bound::Total);
        }
        Ok(Arc::new(ask.key.clone()))
    }

    /// Drops the least recently used of the slots that `may` go; false if there is none.
    fn evict(&mut self, may: impl Fn(&Slot) -> bool, effects: &mut Vec<Effect>) -> bool {
        let candidates = self.slots.values().filter(|slot| slot.is_evictable() && may(slot));
        let Some(key) = candidates
            .min_by_key(|slot| slot.last_asked)
            .map(|slot| slot.key.clone())
        else {
            return false;
        };
        self.remove(&key);
        effects.push(Effect::Note(Note::Evicted(key)));
        true
    }

    fn remove(&mut self, key: &Arc<Key>) {
        if let Some(slot) = self.slots.remove(key)
            && let Some(due) = slot.due
        {
            self.due.remove(&(due, slot.key));
        }
    }

    fn wait(&mut self, key: Arc<Key>, deadline: Duration) -> WaiterId {
        self.last_id += 1;
        let id = self.last_id;
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.waiters.insert(id);
        }
        self.deadlines.insert((deadline, id));
        self.waiters.insert(id, Waiter { key, deadline });
        id
    }

    fn wait_is_over(&mut self, now: Now, id: WaiterId, effects: &mut Vec<Effect>) {
        let key = self.waiters.get(&id).map(|waiter| waiter.key.clone());
        self.forget(id);
        let Some(slot) = key.and_then(|key| self.slots.get(&key)) else {
            return;
        };
        let answer = served(slot, now).ok_or_else(|| match (&slot.trouble, self.governor.throttled(now.boot)) {
            (_, Some(throttle)) => Unserved::Failed(throttle.failure.clone(), throttle.until.saturating_sub(now.boot)),
            (Some(trouble), None) => Unserved::Failed(trouble.failure.clone(), slot.next_try.saturating_sub(now.boot)),
            (None, None) => Unserved::TimedOut,
        });
        effects.push(Effect::Answer(id, answer));
    }

    fn slot_is_due(&mut self, now: Now, key: &Arc<Key>, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.due = None;
        if slot.is_idle(now, self.policy.idle_drop) {
            self.remove(key);
            effects.push(Effect::Note(Note::Dropped(key.clone())));
            return;
        }
        if let Some(throttle) = self.governor.throttled(now.boot) {
            slot.next_try = slot.next_try.max(throttle.until);
        }
        if slot.flight.is_none() && slot.next_try <= now.boot {
            let lane = slot.lane();
            self.enqueue(key, lane, false, now.boot);
        } else {
            self.reschedule(key);
        }
    }

    fn enqueue(&mut self, key: &Arc<Key>, lane: Lane, bypass: bool, now: Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.flight = Some(Flight { since: now, bypass });
        let expiry = slot.lease.as_ref().map_or(Duration::ZERO, Lease::expires_boot);
        self.governor.enqueue(key.clone(), lane, expiry);
        self.reschedule(key);
    }

    fn start_fetches(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(key) = self.governor.start_next(now) {
            let Some(slot) = self.slots.get_mut(&key) else {
                self.governor.finished();
                continue;
            };
            slot.last_try = Some(now);
            let bypass = slot.flight.is_some_and(|flight| flight.bypass);
            effects.push(Effect::Fetch(Fetch { key, bypass }));
        }
    }

    fn renewed(&mut self, now: Now, fetch: &Fetch, lease: Lease, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&fetch.key) else {
            return;
        };
        let old = slot.lease.take();
        let mut same = false;
        let mut new = lease;
        if let Some(old) = old {
            same = old.token.is_same_as(&new.token);
            let changed = old.token.client_id() != new.token.client_id();
            if changed && fetch.key.identity == Identity::Default {
                effects.push(Effect::Note(Note::IdentityChanged {
                    key: fetch.key.clone(),
                    old: old.token.client_id().map(Into::into),
                    new: new.token.client_id().map(Into::into),
                }));
            }
            // The endpoint caches in several places: one of them may give an older token than we have. A refresh that
            // nobody forced must not shorten what can be served.
            if !same && !changed && !fetch.bypass && old.left(now) > new.left(now) {
                (same, new) = (true, old);
            }
        }
        let left = new.left(now);
        let next_in = refresh_in(left, same, self.rng.f64());
        slot.lease = Some(new);
        slot.next_try = now.boot.saturating_add(next_in);
        let failures = slot.trouble.take().map_or(0, |trouble| trouble.failures);
        effects.push(Effect::Note(Note::Refreshed {
            key: fetch.key.clone(),
            left,
            next_in,
            same,
            failures,
        }));
        self.settle(now, &fetch.key, effects);
    }

    fn failed(&mut self, now: Now, key: &Arc<Key>, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let failure = Arc::new(failure);
        let mut trouble = slot.trouble.take().unwrap_or_else(|| Trouble::new(failure.clone()));
        let wait = trouble
            .streak
            .failed(&failure.class, now.boot, self.governor.throttles(), self.rng.f64());
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.hold_callers = wait.hold_callers;
        trouble.failure = failure.clone();
        slot.next_try = now.boot.saturating_add(wait.for_);
        let until = slot.next_try;
        effects.push(Effect::Note(Note::Failed {
            key: key.clone(),
            failure: failure.clone(),
            failures: trouble.failures,
            left: slot.left(now),
            next_in: wait.for_,
        }));
        slot.trouble = Some(trouble);
        self.settle(now, key, effects);
        if matches!(failure.class, Class::Throttled(_)) {
            for key in self.governor.silence(Throttle { until, failure }) {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.flight = None;
                    slot.next_try = until;
                }
                self.settle(now, &key, effects);
                self.reschedule(&key);
            }
        }
    }

    /// A fetch of the key ended, or will not start: its callers are served, told, or held on.
    fn settle(&mut self, now: Now, key: &Arc<Key>, effects: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let answer = match (served(slot, now), self.governor.throttled(now.boot), &slot.trouble) {
            (Some(served), ..) => Ok(served),
            (None, None, Some(trouble)) if trouble.hold_callers => return,
            (None, None, Some(trouble)) => Err(Unserved::Failed(
                trouble.failure.clone(),
                slot.next_try.saturating_sub(now.boot),
            )),
            (None, Some(throttle), _) => Err(Unserved::Failed(
                throttle.failure.clone(),
                throttle.until.saturating_sub(now.boot),
            )),
            (None, None, None) => return,
        };
        for id in std::mem::take(&mut slot.waiters) {
            if let Some(waiter) = self.waiters.remove(&id) {
                self.deadlines.remove(&(waiter.deadline, id));
            }
            effects.push(Effect::Answer(id, answer.clone()));
        }
    }

    fn reschedule(&mut self, key: &Arc<Key>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let due = slot.next_due(self.policy.idle_drop);
        if due != slot.due {
            if let Some(old) = slot.due {
                self.due.remove(&(old, key.clone()));
            }
            if let Some(new) = due {
                self.due.insert((new, key.clone()));
            }
            slot.due = due;
        }
    }

    /// Plans refreshes anew when a clock was stepped: a token may have less life left than its plan assumed.
    fn observe_clocks(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let last = std::mem::replace(&mut self.last_seen, now);
        let expected = last.wall.saturating_add(now.boot.saturating_sub(last.boot));
        let by = now.wall.abs_diff(expected);
        if by <= STEP {
            return;
        }
        effects.push(Effect::Note(Note::ClockStepped {
            by,
            forward: now.wall > expected,
        }));
        let keys: Vec<Arc<Key>> = self.slots.keys().cloned().collect();
        for key in &keys {
            if let Some(slot) = self.slots.get_mut(key)
                && slot.lease.is_some()
                && slot.trouble.is_none()
            {
                let next_in = refresh_in(slot.left(now), false, self.rng.f64());
                slot.next_try = slot.next_try.min(now.boot.saturating_add(next_in));
            }
            self.reschedule(key);
        }
    }
}

fn served(slot: &Slot, now: Now) -> Option<Served> {
    let lease = slot.lease.as_ref()?;
    let left = lease.left(now);
    (!left.is_zero()).then(|| Served {
        token: lease.token.clone(),
        left,
    })
}

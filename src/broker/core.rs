//! The events of a broker: a caller asks, time has passed, a caller hangs up, the configuration changes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Ask, Decision, Effect, Entry, Fetch, Note, Policy, Renewal, Unserved, WaiterId};
use super::governor::Governor;
use super::lanes::Lane;
use super::lifetime::{Lease, refresh_in};
use super::slot::{Flight, Plan, Want};
use super::store::Store;
use super::waiters::{Waiter, Waiters};
use crate::clock::Now;
use crate::failure::Failure;
use crate::key::Key;

/// Clocks that part by more than this between two events were stepped; NTP's slewing stays far below.
const STEP: Duration = Duration::from_secs(1);

/// Every key of the VM, and who waits for it.
#[derive(Debug)]
pub struct Broker {
    pub(super) policy: Policy,
    pub(super) store: Store,
    pub(super) waiters: Waiters,
    pub(super) governor: Governor,
    pub(super) rng: fastrand::Rng,
    last_seen: Now,
    /// How often the upstream was changed.
    pub(super) upstream: u64,
}

impl Broker {
    /// A broker whose warm tokens are due at the first [`Broker::tick`]. `seed` drives nothing but jitter.
    pub fn new(policy: Policy, seed: u64, now: Now) -> Self {
        let mut broker = Self {
            governor: Governor::new(policy.max_concurrent, policy.max_per_second),
            policy,
            store: Store::default(),
            waiters: Waiters::default(),
            rng: fastrand::Rng::with_seed(seed),
            last_seen: now,
            upstream: 0,
        };
        broker.keep_warm(now.boot);
        broker
    }

    /// A caller asks. Its right to the key was judged before.
    pub fn ask(&mut self, now: Now, ask: Ask<'_>, effects: &mut Vec<Effect>) -> Decision {
        self.observe_clocks(now, effects);
        if let Some(decision) = self.ask_slot(now, &ask, effects) {
            return decision;
        }
        if let Err(bound) = self.store.admit(ask.key, ask.uid, &self.policy, now, effects) {
            return Decision::Now(Err(Unserved::Full(bound)));
        }
        let decision = self.ask_slot(now, &ask, effects);
        decision.unwrap_or(Decision::Now(Err(Unserved::TimedOut(None))))
    }

    /// `None` where the key has no slot.
    fn ask_slot(&mut self, now: Now, ask: &Ask<'_>, effects: &mut Vec<Effect>) -> Option<Decision> {
        let mut slot = self.store.edit(ask.key)?;
        slot.note_asker(ask.uid, &self.policy);
        let want = match ask.renewal {
            Renewal::No => Want::Current,
            Renewal::Bypass => Want::Fresh,
            Renewal::Replace(hash) => match &slot.lease {
                Some(lease) if lease.token.has_sha256(&hash) => Want::Fresh,
                _ => Want::Current,
            },
        };
        Some(match slot.ask(now, want, &self.governor, self.policy.caller_wait) {
            Plan::Serve => {
                slot.hits += 1;
                Decision::Now(slot.served(now).ok_or(Unserved::TimedOut(None)))
            }
            Plan::Fail(failure, until) => Decision::Now(Err(Unserved::Failed(failure, until.saturating_sub(now.boot)))),
            Plan::Join(until) => {
                let key = slot.key.clone();
                drop(slot);
                if self.governor.is_in_line(&key) {
                    self.enqueue(&key, Lane::Caller(ask.uid));
                }
                Decision::Wait(self.wait(now, &key, ask.uid, until))
            }
            Plan::Start { until, bypass } => {
                let key = slot.key.clone();
                slot.flight = Some(Flight {
                    since: now.boot,
                    bypass,
                });
                drop(slot);
                let id = self.wait(now, &key, ask.uid, until);
                self.line_up(&key);
                self.start_fetches(now, effects);
                Decision::Wait(id)
            }
        })
    }

    /// Time has passed. Call it at [`Broker::next_wake`] or at any other time.
    pub fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        while let Some((id, waiter)) = self.waiters.pop_over(now.boot) {
            self.wait_is_over(now, id, waiter, effects);
        }
        while let Some(key) = self.store.pop_due(now.boot) {
            self.slot_is_due(now, &key, effects);
        }
        self.start_fetches(now, effects);
    }

    /// When [`Broker::tick`] has something to do, on the boot-time clock.
    pub fn next_wake(&self, now: Now) -> Option<Duration> {
        [
            self.store.first_due(),
            self.waiters.first_deadline(),
            self.governor.may_start_at(now.boot),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A caller hung up. The fetch it waited for goes on.
    pub fn forget(&mut self, id: WaiterId) {
        if let Some(waiter) = self.waiters.remove(id)
            && let Some(mut slot) = self.store.edit(&waiter.key)
        {
            slot.waiters.remove(&id);
        }
    }

    /// The configuration changed. Nothing that can be served is lost, except what no longer fits.
    pub fn reconfigure(&mut self, now: Now, policy: Policy, effects: &mut Vec<Effect>) {
        self.observe_clocks(now, effects);
        self.governor.set_bounds(policy.max_concurrent, policy.max_per_second);
        self.policy = policy;
        self.keep_warm(now.boot);
        self.store.trim(&self.policy, now, effects);
        self.tick(now, effects);
    }

    /// Another upstream is asked from now on. It is asked at once for keys that failed at the former one, and soon for keys
    /// that the former one's 429 delayed. Tokens that can be served are served as before.
    pub fn upstream_changed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.upstream += 1;
        self.governor.forget_throttles();
        for key in self.store.keys() {
            if let Some(mut slot) = self.store.edit(&key) {
                let failed = slot.trouble.take().is_some();
                let latest = if failed { Duration::ZERO } else { slot.left(now) / 2 };
                slot.try_within(now, latest);
            }
        }
        self.tick(now, effects);
    }

    /// The 429 in force, if any: nothing is asked until its end.
    pub fn throttle(&self, now: Now) -> Option<Arc<Failure>> {
        let throttle = self.governor.throttled(now.boot)?;
        Some(throttle.failure.clone())
    }

    /// All keys, by numbers that stay theirs.
    pub fn numbers(&self) -> Range<u64> {
        self.store.numbers()
    }

    /// At most so many of the keys with these numbers, and the numbers of the others.
    pub fn slice(&self, numbers: Range<u64>, most: usize) -> (Vec<Arc<Key>>, Range<u64>) {
        self.store.slice(numbers, most)
    }

    /// What is cached of those of `keys` that are still known, for people.
    pub fn entries(&self, keys: &[Arc<Key>], now: Now) -> Vec<Entry> {
        let slots = keys.iter().filter_map(|key| self.store.get(key));
        let entries = slots.map(|slot| Entry {
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
        });
        entries.collect()
    }

    fn keep_warm(&mut self, now: Duration) {
        self.store.keep_warm(&self.policy.warm, self.policy.idle_drop, now);
        // One that is in line for its callers has no need of their share any more.
        let slots = self.policy.warm.iter().filter_map(|key| self.store.get(key));
        let in_line = slots.filter(|slot| self.governor.is_in_line(&slot.key));
        for key in in_line.map(|slot| slot.key.clone()).collect::<Vec<_>>() {
            self.enqueue(&key, Lane::Refresh);
        }
    }

    fn wait(&mut self, now: Now, key: &Arc<Key>, uid: u32, deadline: Duration) -> WaiterId {
        let id = self.waiters.add(Waiter {
            key: key.clone(),
            uid,
            deadline,
            patience: now.boot.saturating_add(self.policy.caller_wait),
        });
        if let Some(mut slot) = self.store.edit(key) {
            slot.waiters.insert(id);
        }
        id
    }

    fn wait_is_over(&mut self, now: Now, id: WaiterId, waiter: Waiter, effects: &mut Vec<Effect>) {
        let Some(mut slot) = self.store.edit(&waiter.key) else {
            return;
        };
        let answer = match slot.served(now) {
            Some(served) => Ok(served),
            // It waited a moment for a token to replace one that had little left, and that one has expired meanwhile.
            None if now.boot < waiter.patience => {
                let deadline = waiter.patience;
                return self.waiters.put(id, Waiter { deadline, ..waiter });
            }
            None => Err(Unserved::TimedOut(
                slot.trouble.as_ref().map(|trouble| trouble.failure.clone()),
            )),
        };
        slot.waiters.remove(&id);
        effects.push(Effect::Answer(id, answer));
    }

    pub(super) fn slot_is_due(&mut self, now: Now, key: &Arc<Key>, effects: &mut Vec<Effect>) {
        let Some(mut slot) = self.store.edit(key) else { return };
        slot.note_lapse(now, effects);
        if slot.is_idle(now, self.policy.idle_drop) {
            drop(slot);
            self.store.remove(key);
            effects.push(Effect::Note(Note::Dropped(key.clone())));
            return;
        }
        if let Some(throttle) = self.governor.throttled(now.boot) {
            slot.next_try = slot.next_try.max(throttle.until);
        }
        if slot.flight.is_some() || slot.next_try > now.boot {
            return;
        }
        slot.flight = Some(Flight {
            since: now.boot,
            bypass: false,
        });
        drop(slot);
        self.line_up(key);
    }

    /// Puts a key in the lanes of all who wait for it, among them those who were held until its next try.
    fn line_up(&mut self, key: &Arc<Key>) {
        let Some(slot) = self.store.get(key) else { return };
        let lanes = if slot.waiters.is_empty() {
            vec![slot.lane()]
        } else {
            let waiters = slot.waiters.iter().filter_map(|id| self.waiters.get(*id));
            waiters.map(|waiter| Lane::Caller(waiter.uid)).collect()
        };
        for lane in lanes {
            self.enqueue(key, lane);
        }
    }

    fn enqueue(&mut self, key: &Arc<Key>, lane: Lane) {
        let Some(slot) = self.store.get(key) else { return };
        let expiry = slot.lease.as_ref().map_or(Duration::ZERO, Lease::expires_boot);
        self.governor.enqueue(key, lane, expiry);
    }

    pub(super) fn start_fetches(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((key, lane)) = self.governor.start_next(now.boot) {
            let Some(mut slot) = self.store.edit(&key) else {
                self.governor.finished(&key);
                continue;
            };
            slot.last_try = Some(now.boot);
            let bypass = slot.flight.is_some_and(|flight| flight.bypass);
            if bypass && !slot.left(now).is_zero() {
                slot.forced_at = Some(now.boot);
            }
            drop(slot);
            let upstream = self.upstream;
            let uid = match lane {
                Lane::Refresh => None,
                Lane::Caller(uid) => Some(uid),
            };
            effects.push(Effect::Fetch(Fetch {
                key,
                bypass,
                uid,
                upstream,
            }));
        }
    }

    /// Plans refreshes anew when a clock was stepped: a token may have less life left than its plan assumed.
    pub(super) fn observe_clocks(&mut self, now: Now, effects: &mut Vec<Effect>) {
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
        for key in self.store.keys() {
            if let Some(mut slot) = self.store.edit(&key) {
                slot.note_lapse(now, effects);
                if slot.lease.is_some() && slot.trouble.is_none() {
                    let next_in = refresh_in(slot.left(now), false, self.rng.f64());
                    slot.try_within(now, next_in);
                }
            }
        }
    }
}
